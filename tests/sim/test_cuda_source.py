"""The CUDA half of every FEM kernel compiles for data-centre GPUs, on a machine without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import warp as wp

from rfo.sim.fem.laws import tetrahedron_law, vertex_law
from rfo.sim.fem.material import stable_neo_hookean
from rfo.sim.kernel import Kernel, Law, lanes_for

TET = [
    tetrahedron_law(stable_neo_hookean, activation, damping)  # type: ignore[arg-type]
    for activation, damping in (("fiber", "objective"), ("volumetric", "viscous"))
]
LAWS = [*TET, *(law.adjoint(["x", "v", "muscle"]) for law in TET), vertex_law(), vertex_law().adjoint(["x", "v", "f"])]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiles_for_sm_80_and_sm_90(law: Law, dtype: str, tmp_path: Path) -> None:
    """NVRTC turns the same statements into PTX for both generations."""
    kernel = Kernel(law, dtype, lanes_for(dtype, cuda=True), cuda=True)
    wp.compile_aot_module(kernel.warp_module(), arch=[80, 90], module_dir=tmp_path, use_ptx=True)
    assert {path.suffixes[-2] for path in tmp_path.glob("*.ptx")} == {".sm80", ".sm90"}
