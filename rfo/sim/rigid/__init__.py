"""Articulated rigid bodies in generalized coordinates."""

from rfo.sim.rigid.engine import RigidEngine
from rfo.sim.rigid.model import Compliance, GroundContact, RigidModel

__all__ = ["Compliance", "GroundContact", "RigidEngine", "RigidModel"]
