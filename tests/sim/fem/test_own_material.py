"""The documented example of a user's own material works as printed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fem_bodies import block, engine, states
from law_runner import directional_error
from torch import Tensor

DOCUMENT = Path(__file__).parents[3] / "docs" / "own_material.md"


def test_the_documented_material_has_exact_gradients() -> None:
    """Its code runs as it stands, is stress-free at rest, stiffens, and differentiates to 1e-6."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    scope: dict[str, Any] = {"model": block(eta=np.zeros(12)), "replace": replace}
    exec(code, scope)
    sim = engine(scope["model"])
    x, v, muscle = states(sim.model, 3, 1.0)

    def total(x: Tensor, v: Tensor, muscle: Tensor) -> Tensor:
        x, v = sim.step(x, v, muscle)
        x, v = sim.step(x, v, muscle)
        return x.square().sum() + 0.1 * v.square().sum()

    assert directional_error(total, (x, v, muscle), 1e-7) < 1e-6
