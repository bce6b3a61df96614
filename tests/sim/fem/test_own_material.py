"""The documented examples of a user's own material and own reward work as printed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fem_bodies import block, engine, states
from law_runner import directional_error
from torch import Tensor

DOCUMENT = Path(__file__).parents[3] / "docs" / "own_material.md"


def _run_example(word: str, **scope: Any) -> dict[str, Any]:
    """Runs the one example of the document in which a word stands; returns its names."""
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    (code,) = [example for example in examples if word in example]
    exec(code, scope)
    return scope


def test_the_documented_material_has_exact_gradients() -> None:
    """Its code runs as it stands, is stress-free at rest, stiffens, and differentiates to 1e-6."""
    scope = _run_example("fung", model=block(eta=np.zeros(12)), replace=replace)
    sim = engine(scope["model"])
    x, v, muscle = states(sim.model, 3, 1.0)

    def total(x: Tensor, v: Tensor, muscle: Tensor) -> Tensor:
        x, v = sim.step(x, v, muscle)
        x, v = sim.step(x, v, muscle)
        return x.square().sum() + 0.1 * v.square().sum()

    assert directional_error(total, (x, v, muscle), 1e-7) < 1e-6


def test_the_documented_reward_is_what_it_says_with_its_gradient() -> None:
    """Its code gives every environment its forward speed less its effort, and differentiates."""
    q, v, action = (torch.randn(20, size, requires_grad=True) for size in (15, 14, 8))
    reward = _run_example("Formula", q=q, v=v, action=action)["reward"]
    torch.testing.assert_close(reward, v[:, 0] - 0.01 * action.square().sum(dim=1))
    (bar,) = torch.autograd.grad(reward.sum(), action)
    torch.testing.assert_close(bar, -0.02 * action)
