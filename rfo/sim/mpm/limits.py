"""What an MPM step may not do silently."""

from __future__ import annotations

from torch import Tensor

from rfo.sim.mpm.model import MpmModel

__all__ = ["MpmLimitError", "require_limits"]


class MpmLimitError(RuntimeError):
    """A particle left the domain or was deformed further in one substep than its material's law holds.

    Attributes:
        env_index: First environment in which it happened.
    """

    def __init__(self, env_index: int, message: str) -> None:
        self.env_index = env_index
        super().__init__(f"MPM: {message} in environment {env_index}")


def require_limits(flags: Tensor, model: MpmModel) -> None:
    """Raises `MpmLimitError` where a step's flags [N, 3] say so: reach, particles outside, nodes beyond the box."""
    flags = flags.detach()
    limit = model.material.reach_limit
    bad = (flags[:, 0] > limit) | (flags[:, 1:] > 0).any(dim=1)
    if not bool(bad.any()):
        return
    index = int(bad.nonzero()[0])
    reach, outside, beyond = flags[index].tolist()
    if outside:
        raise MpmLimitError(index, "particles left the domain; enlarge it, or take more substeps")
    if beyond:
        raise MpmLimitError(index, "particles spread over more nodes than a box may hold; raise the capacity")
    raise MpmLimitError(index, f"a strain of {reach:.2g} in one substep, {limit:.2g} allowed; take more substeps")
