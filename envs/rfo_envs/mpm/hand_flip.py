"""Fold a slab of plasticine over with the fingers of a hand, full and quick.

Figures after Rewarped's HandFlip (arXiv 2412.12089), on which SAPO's return is 90.0; hand and code are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfo.core.colors import BODY, BODY_DARK
from rfo.core.scene import SceneMesh
from rfo.core.task import CheckSituation, State
from rfo.sim.mpm import lattice, plasticine
from rfo.sim.mpm.chain import rotate
from rfo.sim.mpm.tools import smooth_clamp
from rfo_envs.mpm.hand import PALM, Hand, hand_links
from rfo_envs.mpm.manipulation import Manipulation, manipulation_spec
from rfo_envs.mpm.matter import Floats, state_of, tool_mesh

__all__ = ["HandFlip", "HandFlipQuick"]

WRIST = (-PALM[0], 0.2, 0.0)  # [m]: the knuckles are at x = 0
LOST = (0.12, 0.01)  # height of a slab that is falling out of the hand, and softness of that judgement [m]


class HandFlip(Manipulation):
    """Fold a slab in two: reward clip((d0 - d) / d0, -1, 1), d the mean distance of mirrored particles, d0 at rest.

    Unlike in the published task it counts only as far as the slab is still in the hand: thrown out, it folds as it
    lands, which pays better than folding it. The slab lies half on the palm and half on the fingers of a hand that lies
    palm up; each action turns one of 24 hinges by at most 0.0264 rad per control step.
    """

    spec = manipulation_spec("hand-flip", joints=24, points=250)
    size = (0.25, 0.05, 0.2)
    density = 1.0
    material = plasticine(young=4000.0, poisson=0.2, yield_stress=130.0)
    gravity = -90.0
    tools = tuple(link.shape for link in hand_links())
    counts = (25, 5, 20)
    nodes = 48
    substeps = 40
    view = ((0.0, 0.2, 0.0), 0.3)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        top = WRIST[1] + 0.5 * PALM[1] + 0.005
        self._rest = self._tensor(lattice(self.counts, self.size) + np.array([0.01, top, 0.0]))
        self.hand = Hand(WRIST, self._rest)
        self._near, self._far = self._pairs()
        self._apart = (self._rest[self._near] - self._rest[self._far]).norm(dim=1).mean()

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """A slab at rest, moved by U(-0.01, 0.01) m along x and z, on the flat hand."""
        matter = self._laid(self._uniform(generator, n, 2), 0.02)
        return state_of(matter, joint=self.hand.rest.expand(n, -1).clone())

    def moved(self, joint: Tensor, action: Tensor) -> Tensor:
        """The angles of the hinges, [N, 24]."""
        chain = self.hand.chain
        width = torch.full_like(chain.low, 0.015)
        return smooth_clamp(joint + 0.0264 * action, chain.low, chain.high, width)

    def poses(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Where the links are."""
        return self.hand(joint)

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """How far the two halves have come together in the hand."""
        closed: Tensor = (self._apart - self.gap(next_state)) / self._apart
        return closed.clamp(-1.0, 1.0) * self.held(next_state)

    def held(self, state: State) -> Tensor:
        """Near 1 where the slab's centre is higher than one that falls out of the hand, near 0 where lower, [N]."""
        height, softness = LOST
        return torch.sigmoid((state["x"][:, :, 1].mean(dim=1) - height) / softness)

    def gap(self, state: State) -> Tensor:
        """Mean distance of mirrored particles [m], [N]."""
        x = state["x"]
        return ((x[:, self._near] - x[:, self._far]).square().sum(dim=2) + 1e-12).sqrt().mean(dim=1)

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Mean distance of mirrored particles [m], and whether the slab is in the hand."""
        return {"gap": self.gap(state), "held": self.held(state)}

    def colors(self, x: Floats) -> Floats:
        """The two halves in two tones."""
        tone = np.tile(BODY, (len(x), 1))
        tone[self._far.cpu().numpy()] *= np.array([1.0, 0.75, 0.6])
        return tone

    def props(self, state: Mapping[str, Floats]) -> Sequence[SceneMesh]:
        """The hand."""
        x, q = self.hand(self._tensor(state["joint"])[None])
        matrices = rotate(q[0, :, None], torch.eye(3).to(q)).transpose(1, 2).cpu().double().numpy()
        places = x[0].cpu().double().numpy()
        return [
            tool_mesh(link.shape, place, matrix, BODY_DARK)
            for link, place, matrix in zip(self.hand.links, places, matrices, strict=True)
        ]

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """Fingers curling under the slab."""
        curl = torch.where(self.hand.chain.high > 1.0, 0.6, 0.1)
        return self._worked(self.initial_state(generator, n), curl, steps=8)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Particles of the half on the palm and their mirror images on the fingers."""
        nx, ny, nz = self.counts
        order: npt.NDArray[np.int64] = np.arange(nx * ny * nz).reshape(nx, nz, ny)
        half = nx // 2
        near, far = order[:half].ravel(), order[::-1][:half].ravel()
        return torch.as_tensor(near.copy()).to(self.device), torch.as_tensor(far.copy()).to(self.device)


class HandFlipQuick(HandFlip):
    """The same with 390 particles of a softer dough on a coarser grid, 64 of them observed.

    The published yield stress is thirty times what the slab's weight can bend: fingers turn that slab over as a board.
    This dough bends where they lift it.
    """

    spec = manipulation_spec("hand-flip-quick", joints=24, points=64)
    counts = (13, 3, 10)
    nodes = 32
    substeps = 25
    material = plasticine(young=4000.0, poisson=0.2, yield_stress=20.0)
