"""A five-armed star from a surface mesh: more than 5,000 tetrahedra."""

from __future__ import annotations

import numpy as np

from rfo.sim.fem import FemContact
from rfo_envs.fem.locomotion import Flesh, SoftLocomotion, locomotion_spec

__all__ = ["SoftStarfish"]

LANDMARKS = {
    f"{part}_{i}": (reach * float(np.cos(angle)), height, reach * float(np.sin(angle)))
    for part, reach, height in (("tip", 0.75, 0.1), ("elbow", 0.45, 0.0))
    for i, angle in enumerate(2.0 * np.pi / 5.0 * np.arange(5))
}


class SoftStarfish(SoftLocomotion):
    """Crawl on five arms, one of which points forward; each has an upper and a lower muscle along it.

    The body is assets/meshes/starfish.ply, filled by `rfo.sim.fem.mesh.body_from_surface`.
    """

    spec = locomotion_spec("soft-starfish", muscles=10, landmarks=LANDMARKS)
    body = "soft_starfish"
    landmarks = LANDMARKS
    activation_rate = 0.15  # with faster muscles its long arms flutter, seven beats a second
    # Hundreds of vertices share the weight: each spring is soft, and sets in gently. Whole arms are muscle: little
    # strength moves them, and more turns tetrahedra inside out.
    flesh = Flesh(strength=1.5e4, contact=FemContact(stiffness=4000.0, damping=1.0, friction=0.9, ramp=0.002))
