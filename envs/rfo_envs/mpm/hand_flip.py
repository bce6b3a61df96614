"""Fold a slab of plasticine over with the fingers of a hand, full and quick.

Figures after Rewarped's HandFlip (arXiv 2412.12089), on which SAPO's return is 90.0; hand and code are our own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfo.core.colors import BODY, BODY_DARK
from rfo.core.scene import Scene
from rfo.core.task import CheckSituation, Observation, State, Task, TaskSpec
from rfo.sim.mpm import MpmEngine, MpmModel, lattice, plasticine
from rfo.sim.mpm.chain import rotate
from rfo.sim.mpm.tools import smooth_clamp, tool_frames
from rfo_envs.mpm.hand import PALM, Hand, hand_links
from rfo_envs.mpm.matter import matter_of, observed_points, particle_mesh, state_of, tool_mesh

__all__ = ["HandFlip", "HandFlipQuick"]

SLAB = (0.25, 0.05, 0.2)  # [m]
WRIST = (-PALM[0], 0.2, 0.0)  # [m]: the knuckles are at x = 0
SCALE = 5.0  # of positions in observations [1/m]


class HandFlip(Task):
    """Fold a slab in two: reward clip((d0 - d) / d0, -1, 1), d the mean distance of mirrored particles, d0 at rest.

    The slab lies half on the palm and half on the fingers of a hand that lies palm up; each action turns one of 24
    hinges by at most 0.0264 rad per control step.
    """

    spec = TaskSpec(
        id="hand-flip",
        engine="warp-mpm",
        action_dim=24,
        episode_length=300,
        control_dt=2e-3,
        observation_shapes={"joint": (24,), "com": (3,), "points": (250, 3)},
    )
    counts = (25, 5, 20)  # particles along x, y, z
    nodes = 48  # per metre and side
    substeps = 40

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        points = lattice(self.counts, SLAB)
        self.model = MpmModel(
            particle_count=len(points),
            volume=math.prod(SLAB) / len(points),
            density=1.0,
            material=plasticine(young=4000.0, poisson=0.2, yield_stress=130.0),
            spacing=1.0 / self.nodes,
            nodes=(self.nodes,) * 3,
            gravity=-90.0,
            tools=tuple(link.shape for link in hand_links()),
            tool_friction=0.5,
        )
        self.engine = MpmEngine(
            self.model,
            dt=self.spec.control_dt / self.substeps,
            substeps=self.substeps,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
        )
        top = WRIST[1] + 0.5 * PALM[1] + 0.005
        self._rest = torch.as_tensor(points + np.array([0.01, top, 0.0])).to(self.device, self.dtype)
        self.hand = Hand(WRIST, self._rest)
        seen = self.spec.observation_shapes["points"][0]
        self._seen = observed_points(len(points), seen, self.device)
        self._near, self._far = self._pairs()
        self._apart = (self._rest[self._near] - self._rest[self._far]).norm(dim=1).mean()

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """A slab at rest, moved by U(-0.01, 0.01) m along x and z, on the flat hand."""
        draw = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype)
        shift = 0.02 * torch.stack([draw[:, 0] - 0.5, torch.zeros_like(draw[:, 0]), draw[:, 1] - 0.5], dim=1)
        matter = self.engine.at_rest(self._rest + shift[:, None])
        return state_of(matter, joint=self.hand.rest.expand(n, -1).clone())

    def dynamics(self, state: State, action: Tensor) -> State:
        """Turns the hinges and works the slab."""
        chain = self.hand.chain
        width = torch.full_like(chain.low, 0.015)
        joint = smooth_clamp(state["joint"] + 0.0264 * action, chain.low, chain.high, width)
        x, q = self.hand(torch.cat([state["joint"], joint]))
        n = len(action)
        frames = tool_frames((x[:n], q[:n]), (x[n:], q[n:]), self.substeps, self.spec.control_dt / self.substeps)
        return state_of(self.engine.step(matter_of(state), frames), joint=joint)

    def observe(self, state: State) -> Observation:
        """The angles, the centre of mass and some of the particles, positions in units of 0.2 m."""
        x = SCALE * state["x"]
        return {"joint": state["joint"], "com": x.mean(dim=1), "points": x[:, self._seen]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """How far the two halves have come together."""
        closed: Tensor = (self._apart - self.gap(next_state)) / self._apart
        return closed.clamp(-1.0, 1.0)

    def gap(self, state: State) -> Tensor:
        """Mean distance of mirrored particles [m], [N]."""
        x = state["x"]
        return ((x[:, self._near] - x[:, self._far]).square().sum(dim=2) + 1e-12).sqrt().mean(dim=1)

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Mean distance of mirrored particles [m]."""
        return {"gap": self.gap(state)}

    def scene(self, state: State, index: int) -> Scene:
        """Particles as balls, the two halves in two tones, and the hand."""
        matter = state["x"][index].detach().cpu().double().numpy()
        tone = np.tile(BODY, (len(matter), 1))
        tone[self._far.cpu().numpy()] *= np.array([1.0, 0.75, 0.6])
        x, q = self.hand(state["joint"][index : index + 1].detach())
        matrices = rotate(q[0, :, None], torch.eye(3).to(q)).transpose(1, 2).cpu().double().numpy()
        places = x[0].cpu().double().numpy()
        links = [
            tool_mesh(link.shape, place, matrix, BODY_DARK)
            for link, place, matrix in zip(self.hand.links, places, matrices, strict=True)
        ]
        radius = 0.6 * self.model.volume ** (1.0 / 3.0)
        return Scene((particle_mesh(matter, radius, tone), *links), np.array([0.0, 0.2, 0.0]), 0.3)

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """Fingers curling under the slab."""
        state = self.initial_state(generator, n)
        curl = torch.where(self.hand.chain.high > 1.0, 0.6, 0.1).expand(n, -1)
        with torch.no_grad():
            for _ in range(8):
                state = self.dynamics(state, curl)
        return {"contact": CheckSituation(state, limit=1e-3, steps=2)}

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Particles of the half on the palm and their mirror images on the fingers."""
        nx, ny, nz = self.counts
        order: npt.NDArray[np.int64] = np.arange(nx * ny * nz).reshape(nx, nz, ny)
        half = nx // 2
        near, far = order[:half].ravel(), order[::-1][:half].ravel()
        return torch.as_tensor(near.copy()).to(self.device), torch.as_tensor(far.copy()).to(self.device)


class HandFlipQuick(HandFlip):
    """The same with 390 particles on a coarser grid, 64 of them observed."""

    spec = TaskSpec(
        id="hand-flip-quick",
        engine="warp-mpm",
        action_dim=24,
        episode_length=300,
        control_dt=2e-3,
        observation_shapes={"joint": (24,), "com": (3,), "points": (64, 3)},
    )
    counts = (13, 3, 10)
    nodes = 32
    substeps = 25
