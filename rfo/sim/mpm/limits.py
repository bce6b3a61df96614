"""What an MPM step may not do silently."""

from __future__ import annotations

from torch import Tensor

from rfo.core.errors import EngineLimitError
from rfo.sim.mpm.model import MpmModel

__all__ = ["MpmLimitError", "require_limits"]

SUBSTEPS = "try more substeps, slower tools or a smaller learning rate"


class MpmLimitError(EngineLimitError):
    """A particle left the domain or was strained further than its material's law holds."""


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
        problem = "particles left the domain of the grid or are not finite"
        raise MpmLimitError(index, problem, f"enlarge it, or {SUBSTEPS}")
    if beyond:
        raise MpmLimitError(index, "particles spread over more nodes than a box may hold", "raise the capacity")
    problem = f"twice the elastic strain and what one substep adds reached {reach:.2g}; the law holds to {limit:.2g}"
    raise MpmLimitError(index, problem, f"{SUBSTEPS}, or matter that yields sooner")
