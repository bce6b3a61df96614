"""The CUDA half of the rigid-body kernels compiles for data-centre GPUs, on a machine without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import warp as wp

from rfo.sim.kernel import Kernel, lanes_for
from rfo.sim.rigid import RigidModel
from rfo.sim.rigid.laws import adjoint_law, substep_law

ASSETS = Path(__file__).resolve().parents[3] / "assets" / "mjcf"


@pytest.mark.parametrize("make", [substep_law, adjoint_law])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiles_for_sm_80_and_sm_90(make: type, dtype: str, tmp_path: Path) -> None:
    """NVRTC turns the same statements into PTX for both generations."""
    law = make(RigidModel.from_mjcf(ASSETS / "hopper.xml"), 1e-3)
    kernel = Kernel(law, dtype, lanes_for(dtype, cuda=True), cuda=True)
    wp.compile_aot_module(kernel.warp_module(), arch=[80, 90], module_dir=tmp_path, use_ptx=True)
    assert {path.suffixes[-2] for path in tmp_path.glob("*.ptx")} == {".sm80", ".sm90"}
