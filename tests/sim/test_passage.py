"""Tensors reach the lanes of a recorded schedule, and leave them, whatever their memory looks like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.passage import Passage

CPU = torch.device("cpu")
COMPONENTS, LANES = 5, 16
LAYOUTS: dict[str, Callable[[int], Tensor]] = {
    "row by row": lambda n: torch.randn(n, COMPONENTS),
    "environments innermost": lambda n: torch.randn(COMPONENTS, n).T,
    "a column of a wider tensor": lambda n: torch.randn(n, 3 * COMPONENTS)[:, COMPONENTS : 2 * COMPONENTS],
    "every second environment": lambda n: torch.randn(2 * n, COMPONENTS)[::2],
    "one number everywhere": lambda n: torch.randn(1, 1).expand(n, COMPONENTS),
    "of two dimensions that do not merge": lambda n: torch.randn(n, COMPONENTS, 4)[:, :, :1],
}


def _passage(packs: int) -> tuple[Passage, Buffer]:
    """From one buffer to itself, doing nothing between."""
    buffer = Buffer(packs, COMPONENTS, LANES, torch.float32, CPU)
    return Passage(lambda: None, [buffer], [buffer], warp_device(CPU)), buffer


def _cross(passage: Passage, source: Tensor | None, target: Tensor | None) -> None:
    count = next((len(tensor) for tensor in (source, target) if tensor is not None), 0)
    passage.between(*passage.rows([source], [target]), 0, count).run()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40, 48])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_in_and_out_again(layout: Callable[[int], Tensor], n: int) -> None:
    """Lanes hold their environments, lanes past the last repeat it, and nothing else is written."""
    passage, buffer = _passage(3)
    values = layout(n)
    found = torch.full((n + 1, COMPONENTS), -7.0)
    _cross(passage, values, found[:n])
    lanes = buffer.tensor.transpose(1, 2).reshape(-1, COMPONENTS)
    torch.testing.assert_close(lanes[:n], values.reshape(n, COMPONENTS), rtol=0.0, atol=0.0)
    assert torch.equal(lanes[n:], lanes[n - 1 : n].expand(len(lanes) - n, -1))
    assert torch.equal(found[:n], values.reshape(n, COMPONENTS))
    assert bool((found[n] == -7.0).all())


def test_targets_of_either_order() -> None:
    """Rows and columns are written alike."""
    passage, _ = _passage(2)
    values = torch.randn(20, COMPONENTS)
    by_component = torch.empty(COMPONENTS, 20).T
    _cross(passage, values, by_component)
    assert torch.equal(by_component, values)


def test_nothing_stands_for_zeros_and_for_nobody() -> None:
    """A source that is None is zero, and a target that is None is left out."""
    passage, buffer = _passage(1)
    _cross(passage, torch.randn(4, COMPONENTS), None)
    assert float(buffer.tensor.abs().sum()) > 0.0
    _cross(passage, None, None)
    assert float(buffer.tensor.abs().sum()) == 0.0
