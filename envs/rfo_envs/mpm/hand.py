"""A hand of 24 hinges and 16 rounded links, palm up, fingers along x."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rfo.sim.mpm import Shape, box, capsule
from rfo.sim.mpm.chain import Chain, Hinge, multiply, rotate

__all__ = ["Hand", "Link", "hand_hinges", "hand_links"]

PALM = (0.2, 0.05, 0.24)  # [m]
RADIUS = 0.022  # of the fingers [m]
PHALANGES = (0.075, 0.055, 0.05)  # [m]
SPACING = 0.058  # between fingers [m]
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
AFTER_WRIST = 1  # the hinge that carries palm and fingers


@dataclass(frozen=True)
class Link:
    """A rigid link.

    Attributes:
        hinge: The hinge with which it moves.
        centre: Its centre in the hinge's frame [m].
        shape: Its shape; a capsule lies along the x axis of the hinge's frame.
    """

    hinge: int
    centre: tuple[float, float, float]
    shape: Shape


def hand_hinges() -> list[Hinge]:
    """Wrist 2, four fingers of 4, one more in the little finger's root, thumb 5."""
    hinges = [Hinge(-1, (0.0, 0.0, 0.0), Z, -0.5, 0.5), Hinge(0, (0.0, 0.0, 0.0), X, -0.5, 0.5)]
    for finger in range(4):
        place, parent = (PALM[0], 0.0, SPACING * (finger - 1.5)), AFTER_WRIST
        if finger == 0:
            hinges.append(Hinge(AFTER_WRIST, (0.5 * PALM[0], 0.0, 0.0), X, -0.1, 0.5))
            place, parent = (0.5 * PALM[0], 0.0, place[2]), len(hinges) - 1
        hinges.append(Hinge(parent, place, Y, -0.3, 0.3))
        for length in (0.0, *PHALANGES[:2]):
            hinges.append(Hinge(len(hinges) - 1, (length, 0.0, 0.0), Z, -0.2, 1.6))
    hinges.append(Hinge(AFTER_WRIST, (0.05, 0.0, 0.5 * PALM[2] + RADIUS), Y, -1.2, 0.3))
    hinges.append(Hinge(len(hinges) - 1, (0.0, 0.0, 0.0), X, -1.2, 0.3))
    for length in (0.0, *PHALANGES[:2]):
        hinges.append(Hinge(len(hinges) - 1, (length, 0.0, 0.0), Z, -0.2, 1.4))
    return hinges


def hand_links() -> list[Link]:
    """The palm, then the phalanges of the four fingers and of the thumb."""
    links = [Link(AFTER_WRIST, (0.5 * PALM[0], 0.0, 0.0), box(PALM, radius=0.02))]
    first = 3
    for finger in range(5):
        flexion = first + (2 if finger == 4 else 1)
        for k, length in enumerate(PHALANGES):
            links.append(Link(flexion + k, (0.5 * length, 0.0, 0.0), capsule(RADIUS, length)))
        first += 4
    return links


class Hand:
    """Poses of the links from the angles of the hinges.

    Args:
        base: Place of the wrist [m].
        like: Tensor whose dtype and device the hand takes.
    """

    def __init__(self, base: tuple[float, float, float], like: Tensor) -> None:
        self.chain = Chain(hand_hinges(), base, like)
        self.links = hand_links()
        self._hinge = [link.hinge for link in self.links]
        self._centre = like.new_tensor([link.centre for link in self.links])
        # Capsules lie along z of their own frame: a quarter turn about y brings it to x.
        quarter = (math.cos(math.pi / 4.0), 0.0, math.sin(math.pi / 4.0), 0.0)
        turns = [(1.0, 0.0, 0.0, 0.0) if link.shape.figures[0] else quarter for link in self.links]
        self._turn = like.new_tensor(turns)

    def __call__(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [N, link_count, 3] and quaternions [N, link_count, 4] of the links."""
        x, q = self.chain(angles)
        x, q = x[:, self._hinge], q[:, self._hinge]
        return x + rotate(q, self._centre), multiply(q, self._turn.expand_as(q))

    @property
    def rest(self) -> Tensor:
        """Angles of the flat hand [rad]."""
        return torch.zeros_like(self.chain.low)
