"""The CUDA half of every FEM kernel compiles for data-centre GPUs, on a machine without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import warp as wp

from rfo.sim.fem.contact import Box, Capsule, HeightField, Sphere
from rfo.sim.fem.implicit import Rounds, implicit_kernels
from rfo.sim.fem.implicit_laws import assembly, body_residual, vertex_residual
from rfo.sim.fem.laws import CONTACT_PARAMETERS, TET_PARAMETERS, tetrahedron_law, vertex_law
from rfo.sim.fem.material import corotated, st_venant_kirchhoff, stable_neo_hookean
from rfo.sim.fem.self_contact import Patches, SelfContact, SelfContactKernels
from rfo.sim.kernel import Kernel, Law, lanes_for

TETS = [
    tetrahedron_law(stable_neo_hookean, "fiber", "objective"),
    tetrahedron_law(st_venant_kirchhoff, "volumetric", "viscous"),
    tetrahedron_law(corotated, "fiber", "objective", TET_PARAMETERS),
]
OBSTACLES = (Sphere(0.1), Capsule(0.1, 0.2), Box((0.1, 0.2, 0.3)))
FIELD = HeightField(np.zeros((5, 5)), 0.1)
VERTICES = [vertex_law(), vertex_law(FIELD, OBSTACLES, 0.001, CONTACT_PARAMETERS)]
LAWS = [
    *TETS,
    *(law.adjoint(["x", "v", "muscle"]) for law in TETS[:2]),
    TETS[2].adjoint(["x", "v", "muscle", *TET_PARAMETERS], TET_PARAMETERS),
    *VERTICES,
    VERTICES[0].adjoint(["x", "v", "f"]),
    VERTICES[1].adjoint(["x", "v", "f", "obstacles", *CONTACT_PARAMETERS]),
]
IMPLICIT = {
    **implicit_kernels(
        body_residual(TETS[2]),
        vertex_residual(FIELD, OBSTACLES, 0.001, CONTACT_PARAMETERS),
        TET_PARAMETERS,
        ["obstacles", *CONTACT_PARAMETERS],
    ),
    "neo-hookean": assembly(body_residual(TETS[0]), "renew"),
    "volumetric": assembly(body_residual(TETS[1]), "renew"),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiles_for_sm_80_and_sm_90(law: Law, dtype: str, tmp_path: Path) -> None:
    """NVRTC turns the same statements into PTX for both generations."""
    kernel = Kernel(law, dtype, lanes_for(dtype, cuda=True), cuda=True)
    wp.compile_aot_module(kernel.warp_module(), arch=[80, 90], module_dir=tmp_path, use_ptx=True)
    assert {path.suffixes[-2] for path in tmp_path.glob("*.ptx")} == {".sm80", ".sm90"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_self_contact_compiles_for_sm_80_and_sm_90(dtype: str, tmp_path: Path) -> None:
    """So do the kernels that walk pairs of patches, which are written by hand."""
    vertices, tets = np.eye(4, 3), np.arange(4)[None]
    faces = np.array([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]])
    patches = Patches.of(vertices, tets, faces, SelfContact(stiffness=1.0))
    for i, module in enumerate(SelfContactKernels(patches, dtype, lanes_for(dtype, cuda=True), True).warp_modules()):
        folder = tmp_path / str(i)
        wp.compile_aot_module(module, arch=[80, 90], module_dir=folder, use_ptx=True)
        assert {path.suffixes[-2] for path in folder.glob("*.ptx")} == {".sm80", ".sm90"}


@pytest.mark.parametrize("law", IMPLICIT.values(), ids=IMPLICIT)
def test_the_implicit_engine_compiles(law: Law, tmp_path: Path) -> None:
    """Residual, matrix, bookkeeping and adjoint of an implicit substep, from the same laws."""
    kernel = Kernel(law, "float32", lanes_for("float32", cuda=True), cuda=True)
    wp.compile_aot_module(kernel.warp_module(), arch=[80, 90], module_dir=tmp_path, use_ptx=True)
    assert {path.suffixes[-2] for path in tmp_path.glob("*.ptx")} == {".sm80", ".sm90"}


def test_the_rounds_of_newton_compile(tmp_path: Path) -> None:
    """What ends Newton's loop on the device."""
    for i, module in enumerate(Rounds("float32", 32).warp_modules()):
        wp.compile_aot_module(module, arch=[80, 90], module_dir=tmp_path / str(i), use_ptx=True)
