"""Bytes of tensors are counted when they come and when they go."""

from __future__ import annotations

import torch

from rfo.train.allocations import Allocations


def test_held_and_peak_follow_the_tensors() -> None:
    """A view costs nothing, a freed tensor is given back, and the peak remembers it."""
    with Allocations() as found:
        a = torch.zeros(1000, dtype=torch.float32)
        view = a.view(10, 100)[3:]
        b = a + 1.0
        assert (found.held, found.peak) == (8000, 8000)
        del b
        assert (found.held, found.peak) == (4000, 8000)
        found.reset_peak()
        assert found.peak == 4000
        del a
        assert found.held == 4000
        del view
        assert found.held == 0


def test_a_graph_counts_until_it_is_gone() -> None:
    """What autograd keeps for the backward pass is held as long as the result is."""
    leaf = torch.ones(1000, requires_grad=True)
    with Allocations() as found:
        result = leaf.exp().sum()
        assert found.held == 4000 + 4
        result.backward()
        del result
        assert found.held == 4000  # the gradient
        assert found.peak >= 8000


def test_what_was_there_before_is_not_counted() -> None:
    """An operation in place on an older tensor, and freeing it, change nothing."""
    old = torch.zeros(10)
    with Allocations() as found:
        part = old[2:]
        assert found.held == 40  # first seen through a view: its whole storage
        del part, old
        assert found.held == 0
