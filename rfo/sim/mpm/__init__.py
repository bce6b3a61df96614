"""The material point method: matter that flows, yields and is worked by tools."""

from rfo.sim.mpm.engine import MpmEngine, MpmState
from rfo.sim.mpm.material import Material, Response, corotated, neo_hookean, plasticine, sand, water
from rfo.sim.mpm.model import Ground, MpmModel, lattice
from rfo.sim.mpm.shapes import Shape, box, box_shell, capsule, sphere

__all__ = [
    "Ground",
    "Material",
    "MpmEngine",
    "MpmModel",
    "MpmState",
    "Response",
    "Shape",
    "box",
    "box_shell",
    "capsule",
    "corotated",
    "lattice",
    "neo_hookean",
    "plasticine",
    "sand",
    "sphere",
    "water",
]
