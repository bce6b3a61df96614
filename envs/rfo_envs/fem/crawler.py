"""A flat worm that crawls by waves of contraction."""

from __future__ import annotations

from rfo.sim.fem import FemContact
from rfo_envs.fem.locomotion import Flesh, SoftLocomotion, locomotion_spec

__all__ = ["SoftCrawler"]

SIDES = (("right", 0.0), ("left", 0.3))
LANDMARKS = {
    f"{side}_{end}": (x, 0.0, z) for end, x in {"tail": 0.0, "waist": 0.5, "head": 1.0}.items() for side, z in SIDES
}


class SoftCrawler(SoftLocomotion):
    """Crawl forward: 132 vertices, 300 tetrahedra, 60 kg, four segments with upper, lower, left and right muscles."""

    spec = locomotion_spec("soft-crawler", muscles=16, landmarks=LANDMARKS)
    body = "soft_crawler"
    landmarks = LANDMARKS
    # All of it is muscle: with more strength it leaps. It lies on the ground, where always some vertex just touches:
    # the spring sets in gently, or the gradient meets a kink.
    flesh = Flesh(strength=1.5e4, contact=FemContact(stiffness=8000.0, damping=1.0, friction=0.9, ramp=0.002))
