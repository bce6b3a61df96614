"""Soft bodies: tetrahedral finite elements."""

from rfo.sim.fem.engine import FemEngine
from rfo.sim.fem.model import FemContact, FemModel

__all__ = ["FemContact", "FemEngine", "FemModel"]
