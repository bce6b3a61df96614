"""What a person chose to run on is looked at before anything is built."""

from __future__ import annotations

import pytest
import torch

from rfo.core.errors import UsageError
from rfo.core.machine import require_machine


def test_what_is_there_is_accepted() -> None:
    """The CPU is always there, by name or as a device."""
    require_machine("cpu")
    require_machine(torch.device("cpu"), threads=1)


@pytest.mark.parametrize(
    ("device", "threads", "words"),
    [
        ("gpu9", None, "device 'gpu9' is not known to torch; try cpu or cuda"),
        ("cuda:99", None, "device 'cuda:99' is not there"),
        ("meta", None, "device 'meta' is not there"),
        ("cpu", 0, "threads is 0; it must be at least 1"),
    ],
)
def test_what_is_not_there_is_refused_in_words(device: str, threads: int | None, words: str) -> None:
    """Unknown devices, devices that are not there or hold no values, and no cores at all are bad input."""
    with pytest.raises(UsageError, match=words):
        require_machine(device, threads)
