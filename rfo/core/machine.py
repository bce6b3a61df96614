"""Finds out whether a device and a number of cores can be used, before anything is built on them."""

from __future__ import annotations

import torch

from rfo.core.errors import UsageError

__all__ = ["require_machine"]


def require_machine(device: str | torch.device, threads: int | None = None) -> None:
    """Checks what a person chose to run on.

    Args:
        device: Torch device.
        threads: Cores the engine may use; None for all.

    Raises:
        UsageError: The device is unknown or not there, or there are no cores to use.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1")
    name = str(device)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known to torch; try cpu or cuda") from error
    try:
        # Only a value that comes back shows that a device computes: "cuda:7" is a good name on every machine.
        torch.zeros(1, device=chosen).item()
    except (AssertionError, RuntimeError) as error:  # NotImplementedError included; torch raises all three
        raise UsageError(f"device {name!r} is not there: torch cannot use it on this machine; try cpu") from error
