"""What an articulated body is made of: links, joints, geoms and actuators, as read from MJCF.

Conventions are MuJoCo's: z points up, quaternions are (w, x, y, z), a free joint's velocity is linear in world axes and
angular in the body's own. Bodies without joints are welded to their parents, so every link has at least one joint.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "Actuator",
    "Compliance",
    "Frame",
    "Geom",
    "GroundContact",
    "Joint",
    "JointKind",
    "Link",
    "Parameter",
    "RigidModel",
]

Floats = npt.NDArray[np.float64]
JointKind = Literal["free", "ball", "hinge", "slide"]
GeomKind = Literal["plane", "sphere", "capsule", "box"]

Parameter = Literal["mass", "friction", "gain"]
"""A group of figures that a simulation can take as an input: of links, geoms, actuators."""


@dataclass(frozen=True)
class Joint:
    """One joint of a link.

    Attributes:
        name: Its name.
        kind: Free, ball, hinge or slide.
        q_start: First entry in q; free joints take 7 (position, quaternion), ball joints 4, others 1.
        v_start: First entry in v; free joints take 6, ball joints 3, others 1.
        anchor: Point that hinges and balls turn about, in the link's frame [m], shape [3].
        axis: Unit axis of a hinge or slide in the link's frame, shape [3].
        reference: Value of q in the pose the model was drawn in [rad or m].
        armature: Inertia added to each of its diagonal entries [kg m² or kg].
        damping: [N m s/rad or N s/m].
        stiffness: [N m/rad or N/m].
        spring_reference: Where its spring rests [rad or m].
        limits: Range [rad or m], None without limits.
    """

    name: str
    kind: JointKind
    q_start: int
    v_start: int
    anchor: Floats
    axis: Floats
    reference: float
    armature: float
    damping: float
    stiffness: float
    spring_reference: float
    limits: tuple[float, float] | None

    @property
    def q_count(self) -> int:
        """Entries in q."""
        return {"free": 7, "ball": 4, "hinge": 1, "slide": 1}[self.kind]

    @property
    def v_count(self) -> int:
        """Entries in v."""
        return {"free": 6, "ball": 3, "hinge": 1, "slide": 1}[self.kind]


@dataclass(frozen=True)
class Link:
    """A rigid body that moves against its parent.

    Attributes:
        name: Its body's name.
        parent: Index of the parent link, -1 for the world.
        position: Of its frame in the parent's [m], shape [3].
        rotation: Of its frame in the parent's, shape [3, 3].
        joints: Between parent and link, in order.
        mass: [kg].
        com: Centre of mass in its frame [m], shape [3].
        principal: Principal axes of inertia as columns, in its frame, shape [3, 3].
        inertia: Principal moments about the centre of mass [kg m²], shape [3].
        scale: Multiplies mass and inertia.
    """

    name: str
    parent: int
    position: Floats
    rotation: Floats
    joints: tuple[Joint, ...]
    mass: float
    com: Floats
    principal: Floats
    inertia: Floats
    scale: Any = 1.0


@dataclass(frozen=True)
class Frame:
    """A body of the file: where it sits on a link.

    Attributes:
        link: Index of the link, -1 for the world.
        position: In the link's frame [m], shape [3].
        rotation: In the link's frame, shape [3, 3].
    """

    link: int
    position: Floats
    rotation: Floats


@dataclass(frozen=True)
class Geom:
    """A shape fixed to a link.

    Attributes:
        name: Its name, or one made from its body's.
        kind: Sphere, capsule (along its z axis) or box; a plane only as the ground.
        frame: Where it sits.
        size: Radius; radius and half length; half sizes [m], shape [3].
        friction: Coulomb coefficient.
        grounded: Whether it meets the ground.
        color: sRGB in [0, 1], shape [3].
    """

    name: str
    kind: GeomKind
    frame: Frame
    size: Floats
    friction: float
    grounded: bool
    color: Floats


@dataclass(frozen=True)
class Actuator:
    """A force along one joint: gear (gain u + bias_0 + bias_1 gear q + bias_2 gear v), with u and the force clipped.

    Attributes:
        name: Its name.
        q_index: Entry of its joint in q.
        v_index: Entry of its joint in v.
        gear: Transmission ratio.
        gain: Force per control [N or N m].
        bias: Constant, per position, per velocity, shape [3].
        control_range: Limits of u, None without.
        force_range: Limits of the force before the gear, None without.
    """

    name: str
    q_index: int
    v_index: int
    gear: float
    gain: float
    bias: Floats
    control_range: tuple[float, float] | None
    force_range: tuple[float, float] | None


@dataclass(frozen=True)
class Compliance:
    """A one-sided spring with Hunt-Crossley damping: force = k d (1 - c ḋ)⁺ for a depth d > 0 that changes by -ḋ.

    Attributes:
        stiffness: k [N/m or N m/rad].
        damping: c [s/m or s/rad].
    """

    stiffness: float
    damping: float


@dataclass(frozen=True)
class GroundContact:
    """How geoms meet the ground and each other: a normal force as `Compliance`, and smooth Coulomb friction.

    Attributes:
        normal: The normal force, per contact point.
        viscosity: Largest friction force per slip speed [N s/m]; keeps friction stable under light bodies.
        slip_speed: Slip speed at which friction has reached 70 % of its limit [m/s].
    """

    normal: Compliance
    viscosity: float
    slip_speed: float


@dataclass(frozen=True)
class RigidModel:
    """Articulated bodies over the ground z = 0.

    Attributes:
        name: Its name in the file.
        links: Parents before children.
        geoms: Shapes on links and, for pairs, in the world.
        actuators: In the order of the controls.
        gravity: [m/s²], shape [3].
        contact: How geoms meet the ground and each other.
        limit: How joints meet their limits.
        pairs: Geoms that may touch each other, by index.
        frames: Every body of the file by name, welded ones too.
        q_rest: q in the pose the model was drawn in, shape [q_count].
        timestep: The file's time step [s].
    """

    name: str
    links: tuple[Link, ...]
    geoms: tuple[Geom, ...]
    actuators: tuple[Actuator, ...]
    gravity: Floats
    contact: GroundContact
    limit: Compliance
    pairs: tuple[tuple[int, int], ...]
    frames: dict[str, Frame]
    q_rest: Floats
    timestep: float
    joint: dict[str, Joint] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "joint", {joint.name: joint for joint in self.joints})

    @classmethod
    def from_mjcf(cls, path: str | Path) -> RigidModel:
        """Reads a model.

        Raises:
            UsageError: The file cannot be read, or has elements this engine does not support; all are named.
        """
        from rfo.sim.rigid.mjcf import read_mjcf  # mujoco takes a while to import, and only reading needs it

        return read_mjcf(path)

    @property
    def joints(self) -> tuple[Joint, ...]:
        """All joints, in the order of q and v."""
        return tuple(joint for link in self.links for joint in link.joints)

    @property
    def q_count(self) -> int:
        """Entries in q."""
        return sum(joint.q_count for joint in self.joints)

    @property
    def v_count(self) -> int:
        """Degrees of freedom."""
        return sum(joint.v_count for joint in self.joints)

    @property
    def mass(self) -> float:
        """Mass of all links [kg]."""
        return sum(link.mass for link in self.links)

    def dof_values(self, name: Literal["armature", "damping"]) -> Floats:
        """A figure of the joints for each degree of freedom, shape [v_count]."""
        return np.concatenate([np.full(joint.v_count, getattr(joint, name)) for joint in self.joints])

    def root(self, link: int) -> int:
        """The link at the root of a link's tree; the world, -1, is its own."""
        while link >= 0 and self.links[link].parent >= 0:
            link = self.links[link].parent
        return link

    def parameter_count(self, parameter: Parameter) -> int:
        """Number of figures in a group."""
        return len({"mass": self.links, "friction": self.geoms, "gain": self.actuators}[parameter])

    def scaled(self, *, mass: Any = None, friction: Any = None, gain: Any = None) -> RigidModel:
        """The same model with figures multiplied by factors, which may be expressions.

        Args:
            mass: Of each link's mass and inertia, shape [link_count].
            friction: Of each geom's friction, shape [geom_count].
            gain: Of each actuator's force, shape [actuator_count].
        """
        links, geoms, actuators = self.links, self.geoms, self.actuators
        if mass is not None:
            links = tuple(replace(link, scale=s) for link, s in zip(links, mass, strict=True))
        if friction is not None:
            geoms = tuple(replace(g, friction=s * g.friction) for g, s in zip(geoms, friction, strict=True))
        if gain is not None:
            actuators = tuple(
                replace(a, gain=s * a.gain, bias=np.array([s * b for b in a.bias]))
                for a, s in zip(actuators, gain, strict=True)
            )
        return replace(self, links=links, geoms=geoms, actuators=actuators)

    def with_pairs(self, *pairs: tuple[str, str]) -> RigidModel:
        """The same model in which the named geoms may also touch each other."""
        index = {geom.name: i for i, geom in enumerate(self.geoms)}
        return replace(self, pairs=self.pairs + tuple((index[a], index[b]) for a, b in pairs))
