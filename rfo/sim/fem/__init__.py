"""Soft bodies: tetrahedral finite elements."""

from rfo.sim.fem.contact import Box, Capsule, FemContact, HeightField, Plane, Sphere, Terrain
from rfo.sim.fem.engine import FemEngine
from rfo.sim.fem.implicit import ImplicitFemEngine
from rfo.sim.fem.model import FemModel
from rfo.sim.fem.self_contact import SelfContact

__all__ = [
    "Box",
    "Capsule",
    "FemContact",
    "FemEngine",
    "FemModel",
    "HeightField",
    "ImplicitFemEngine",
    "Plane",
    "SelfContact",
    "Sphere",
    "Terrain",
]
