"""A small soft quadruped with eight muscles that learns to gallop in minutes on two cores."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.scene import Scene
from rfo.core.task import CheckSituation, Observation, State, Task, TaskSpec
from rfo.sim.fem import FemContact, FemEngine
from rfo_envs.fem.body import Probes, load_body, soft_scene

__all__ = ["SoftQuadrupedQuick"]

YOUNG, POISSON = 1.5e5, 0.4  # [Pa], [-]


class SoftQuadrupedQuick(Task):
    """Gallop forward: reward is the centre of mass's speed along x, less effort, tilting and turning.

    The body has 102 vertices, 160 tetrahedra and 32 kg; each leg has a front and a back muscle along its length. An
    action is filtered to first order into an activation, which stops policies from living on vibration.
    """

    spec = TaskSpec(
        id="soft-quadruped-quick",
        engine="warp-fem",
        action_dim=8,
        episode_length=300,
        control_dt=1.0 / 60.0,
        observation_shapes={"body": (74,)},
    )
    substeps = 20
    activation_rate = 0.4  # share of the way to the commanded activation per control step
    clock_hz = 2.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.model = load_body(
            "soft_quadruped_quick",
            mu=YOUNG / (2.0 * (1.0 + POISSON)),
            lam=YOUNG * POISSON / ((1.0 + POISSON) * (1.0 - 2.0 * POISSON)),
            eta=100.0,
            strength=4e4,
            contact=FemContact(stiffness=8000.0, damping=1.0, friction=0.9),
            activation="fiber",
            damping="objective",
        )
        dt = self.spec.control_dt
        self.engine = FemEngine(
            self.model,
            dt=dt / self.substeps,
            substeps=self.substeps,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
        )
        self._rest = torch.as_tensor(self.model.vertices).to(self.device, self.dtype)
        self._probes = self._make_probes()
        self._feet = self._probes.rows(*(f"foot_{i}" for i in range(4)))
        self._corners = self._probes.rows(*(f"corner_{i}" for i in range(4)))

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Stands settled, with a centre of mass velocity of order 0.1 m/s and a random clock."""
        nudge = 0.1 * self._normal(generator, n, 1, 3)
        phase = 2.0 * torch.pi * torch.rand(n, generator=generator, dtype=torch.float64, device=self.device)
        return {
            "x": self._settled.expand(n, -1, -1).clone(),
            "v": nudge.expand(-1, len(self._rest), -1).clone(),
            "muscle": torch.zeros(n, 8, device=self.device, dtype=self.dtype),
            "phase": phase.to(self.dtype),
        }

    def dynamics(self, state: State, action: Tensor) -> State:
        """Filters the action into activations and advances the body."""
        muscle = torch.lerp(state["muscle"], action, self.activation_rate)
        x, v = self.engine.step(state["x"], state["v"], muscle)
        phase = (state["phase"] + 2.0 * torch.pi * self.clock_hz * self.spec.control_dt) % (2.0 * torch.pi)
        return {"x": x, "v": v, "muscle": muscle, "phase": phase}

    def observe(self, state: State) -> Observation:
        """74 figures: height, velocities, body axes, feet and corners about the centre of mass, muscles, clock."""
        x, v = self._probes(state["x"]), self._probes(state["v"])
        com, com_v = x[:, :1], v[:, :1]
        feet, corners = self._feet, self._corners
        axes, axes_v = self._axes(x), self._axes(v)
        parts = [
            5.0 * com[..., 1],
            com_v,
            axes,
            4.0 * (x[:, feet + corners] - com),
            axes_v[:, 0],
            0.5 * (v[:, feet] - com_v),
            10.0 * x[:, feet, 1],
            0.5 * (v[:, corners] - com_v)[..., :2],
            state["muscle"],
            torch.stack([state["phase"].sin(), state["phase"].cos()], dim=1),
        ]
        return {"body": torch.cat([part.flatten(1) for part in parts], dim=1)}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Forward speed [m/s] - 0.05 mean(a²) - 1.2 (1 - up_y)² - 0.4 (1 - forward_x)²."""
        speed = (self.position(next_state) - self.position(state)) / self.spec.control_dt
        axes = self._axes(self._probes(next_state["x"]))
        tilt, turn = 1.0 - axes[:, 0, 1], 1.0 - axes[:, 1, 0]
        return speed - 0.05 * action.square().mean(dim=1) - 1.2 * tilt.square() - 0.4 * turn.square()

    def position(self, state: State) -> Tensor:
        """Centre of mass along x [m]."""
        return state["x"][..., 0] @ self._mass_share

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Vertical part of the body's up axis: 1 upright, 0 on its side."""
        return {"up": self._axes(self._probes(state["x"]))[:, 0, 1]}

    def scene(self, state: State, index: int) -> Scene:
        """The body's surface, lit up by its muscles."""
        return soft_scene(self.model, state, index, state["muscle"])

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """In the air, and on the ground after a slide has begun."""
        state = self.initial_state(generator, n)
        air = {**state, "x": state["x"] + torch.tensor([0.0, 0.5, 0.0]).to(state["x"])}
        sliding = {**state, "v": state["v"] + torch.tensor([0.5, -0.1, 0.0]).to(state["x"])}
        return {
            "air": CheckSituation(air, limit=1e-6, steps=4),
            "contact": CheckSituation(sliding, limit=1e-4, steps=4),
        }

    @cached_property
    def _mass_share(self) -> Tensor:
        return torch.as_tensor(self.model.mass / self.model.mass.sum()).to(self._rest)

    @cached_property
    def _settled(self) -> Tensor:
        """The resting shape under gravity, reached in 1.5 s of simulated time."""
        x, v = self._rest[None], torch.zeros_like(self._rest)[None]
        muscle = x.new_zeros(1, 8)
        with torch.no_grad():
            for _ in range(90):
                x, v = self.engine.step(x, v, muscle)
        return x[0]

    def _normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        # Drawn in float64 whatever the simulation's type, so that both types start alike.
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype)

    def _axes(self, probes: Tensor) -> Tensor:
        """Up, forward and side vectors of the torso over their rest lengths, [N, probe, 3] → [N, 3, 3]."""
        plus, minus = self._probes.rows("top", "front", "left"), self._probes.rows("bottom", "back", "right")
        return (probes[:, plus] - probes[:, minus]) / self._axis_lengths[:, None]

    @cached_property
    def _axis_lengths(self) -> Tensor:
        torso = self._rest[self._rest[:, 1] > 0.15]
        extent = torso.amax(dim=0) - torso.amin(dim=0)
        return extent[[1, 0, 2]]

    def _make_probes(self) -> Probes:
        rest = self.model.vertices
        torso = rest[:, 1] > 0.15
        low, high = rest[torso].min(axis=0), rest[torso].max(axis=0)

        def mean(chosen: Any) -> Any:
            return chosen / chosen.sum()

        sides = {
            "top": (1, high),
            "bottom": (1, low),
            "front": (0, high),
            "back": (0, low),
            "left": (2, high),
            "right": (2, low),
        }
        weights = {"com": self.model.mass / self.model.mass.sum()}
        for name, (axis, end) in sides.items():
            weights[name] = mean(torso & np.isclose(rest[:, axis], end[axis]))
        for i, (front, left) in enumerate([(1, 1), (1, 0), (0, 1), (0, 0)]):
            half = (rest[:, 0] > 0.3) == front
            quarter = half & ((rest[:, 2] > 0.2) == left)
            weights[f"foot_{i}"] = mean(quarter & np.isclose(rest[:, 1], 0.0))
            tip = [(high if front else low)[0], high[1], (high if left else low)[2]]
            weights[f"corner_{i}"] = mean(np.isclose(rest, tip).all(axis=1))
        return Probes(weights, self._rest)
