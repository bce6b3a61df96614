"""What soft bodies that go somewhere share: filtered muscles, a clock, landmarks, and a reward for speed.

A task is a subclass that names its body and figures; most need nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rfo.core.scene import Scene
from rfo.core.task import CheckSituation, Observation, State, TaskSpec
from rfo.sim.fem import FemContact, FemModel
from rfo_envs.fem.body import Probes, SoftTask, load_body, soft_scene

__all__ = ["Flesh", "SoftLocomotion", "locomotion_spec"]

AXES = ("up", "forward", "side")
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Flesh:
    """What a body is made of.

    Attributes:
        young: Young's modulus [Pa].
        poisson: Poisson's ratio.
        eta: Viscosity [Pa s].
        strength: Active stress at full activation [Pa].
        contact: How the ground responds.
        material: Constitutive law (`rfo.sim.fem.material.MATERIALS`).
    """

    young: float = 1.5e5
    poisson: float = 0.4
    eta: float = 100.0
    strength: float = 4e4
    contact: FemContact = FemContact(stiffness=8000.0, damping=1.0, friction=0.9)  # noqa: RUF009 (frozen)
    material: str = "stable-neo-hookean"

    @property
    def mu(self) -> float:
        """Shear modulus [Pa]."""
        return self.young / (2.0 * (1.0 + self.poisson))

    @property
    def lam(self) -> float:
        """First Lamé parameter [Pa]."""
        return self.young * self.poisson / ((1.0 + self.poisson) * (1.0 - 2.0 * self.poisson))


def locomotion_spec(name: str, *, muscles: int, landmarks: Mapping[str, Point]) -> TaskSpec:
    """The spec of a task with `SoftLocomotion`'s own observation."""
    size = 1 + 3 + 9 + 3 + 7 * len(landmarks) + muscles + 2
    return TaskSpec(
        id=name,
        engine="warp-fem",
        action_dim=muscles,
        episode_length=300,
        control_dt=1.0 / 60.0,
        observation_shapes={"body": (size,)},
    )


class SoftLocomotion(SoftTask):
    """Go forward: reward is the centre of mass's speed along x, less effort, tilting and turning.

    An action is filtered to first order into an activation, which stops policies from living on vibration.
    """

    body: ClassVar[str]
    """Name of the body in assets/bodies/."""
    flesh: ClassVar[Flesh] = Flesh()
    landmarks: ClassVar[Mapping[str, Point]] = {}
    """Points to observe, given by where they are at rest [m]; each becomes the nearest vertex."""
    substeps = 20
    activation_rate: ClassVar[float] = 0.4  # share of the way to the commanded activation per control step
    clock_hz: ClassVar[float] = 2.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probes = self._make_probes()

    def make_body(self) -> FemModel:
        """The body named, of its flesh."""
        flesh = self.flesh
        return load_body(
            self.body,
            mu=flesh.mu,
            lam=flesh.lam,
            eta=flesh.eta,
            strength=flesh.strength,
            contact=flesh.contact,
            activation="fiber",
            damping="objective",
            material=flesh.material,
        )

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Stands settled, with a centre of mass velocity of order 0.1 m/s and a random clock."""
        nudge = 0.1 * self._normal(generator, n, 1, 3)
        phase = 2.0 * torch.pi * torch.rand(n, generator=generator, dtype=torch.float64, device=self.device)
        return {
            "x": self._settled.expand(n, -1, -1).clone(),
            "v": nudge.expand(-1, len(self._rest), -1).clone(),
            "muscle": torch.zeros(n, self.spec.action_dim, device=self.device, dtype=self.dtype),
            "phase": phase.to(self.dtype),
        }

    def dynamics(self, state: State, action: Tensor) -> State:
        """Filters the action into activations and advances the body."""
        muscle = torch.lerp(state["muscle"], action, self.activation_rate)
        x, v = self.engine.step(state["x"], state["v"], muscle)
        phase = (state["phase"] + 2.0 * torch.pi * self.clock_hz * self.spec.control_dt) % (2.0 * torch.pi)
        return {"x": x, "v": v, "muscle": muscle, "phase": phase}

    def observe(self, state: State) -> Observation:
        """Height, velocity, axes, landmarks about the centre of mass and over the ground, muscles, clock."""
        x, v = self._probes(state["x"]), self._probes(state["v"])
        com, com_v = x[:, :1], v[:, :1]
        points = self._probes.rows(*self.landmarks)
        parts = [
            5.0 * com[..., 1],
            com_v,
            self._axes(x),
            self._axes(v)[:, 0],
            4.0 * (x[:, points] - com),
            0.5 * (v[:, points] - com_v),
            10.0 * x[:, points, 1],
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

    def _make_probes(self) -> Probes:
        """The centre of mass, the body's axes (columns of its mean deformation gradient), and the landmarks."""
        rest, mass = self.model.vertices, self.model.mass
        arm = rest - mass @ rest / mass.sum()
        gradient = (mass[:, None] * arm) @ np.linalg.inv(arm.T @ (mass[:, None] * arm))
        weights = {"com": mass / mass.sum(), "up": gradient[:, 1], "forward": gradient[:, 0], "side": gradient[:, 2]}
        for name, point in self.landmarks.items():
            weights[name] = np.eye(len(rest))[np.linalg.norm(rest - point, axis=1).argmin()]
        return Probes(weights, self._rest)

    def _axes(self, probes: Tensor) -> Tensor:
        """Up, forward and side vectors of the body, [N, probe, 3] → [N, 3, 3]."""
        return probes[:, self._probes.rows(*AXES)]

    @cached_property
    def _settled(self) -> Tensor:
        """The resting shape under gravity, reached in 1.5 s of simulated time."""
        x, v = self._rest[None], torch.zeros_like(self._rest)[None]
        muscle = x.new_zeros(1, self.spec.action_dim)
        with torch.no_grad():
            for _ in range(90):
                x, v = self.engine.step(x, v, muscle)
        return x[0]

    def _normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        # Drawn in float64 whatever the simulation's type, so that both types start alike.
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype)
