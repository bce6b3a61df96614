"""A torso on two soft legs."""

from __future__ import annotations

from rfo_envs.fem.locomotion import Flesh, SoftLocomotion, locomotion_spec

__all__ = ["SoftBiped"]

LANDMARKS = {
    **{f"toe_{i}": (0.5, 0.0, z) for i, z in enumerate((0.0, 0.2, 0.3, 0.5))},
    **{f"heel_{i}": (0.0, 0.0, z) for i, z in enumerate((0.0, 0.2, 0.3, 0.5))},
    **{f"shoulder_{i}": (x, 0.6, z) for i, (x, z) in enumerate([(0.4, 0.0), (0.4, 0.5), (0.1, 0.0), (0.1, 0.5)])},
}


class SoftBiped(SoftLocomotion):
    """Walk without falling: 370 tetrahedra, 74 kg, front and back muscles in thigh and shank of both legs."""

    spec = locomotion_spec("soft-biped", muscles=8, landmarks=LANDMARKS)
    body = "soft_biped"
    landmarks = LANDMARKS
    flesh = Flesh(young=3e5, strength=8e4)  # it carries more, on less
