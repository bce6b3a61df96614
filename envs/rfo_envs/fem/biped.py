"""A torso on two soft legs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rfo.sim.fem import FemModel, ImplicitFemEngine
from rfo_envs.fem.locomotion import Flesh, SoftLocomotion, locomotion_spec

__all__ = ["BonedBiped", "SoftBiped"]

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


class BonedBiped(SoftBiped):
    """The same with bones: whatever is no muscle is a thousand times as stiff.

    The explicit integrator is unstable with 150 substeps and stable with 200; the implicit one takes two.
    """

    spec = locomotion_spec("soft-biped-boned", muscles=8, landmarks=LANDMARKS)
    integrator = ImplicitFemEngine
    substeps = 2

    def make_body(self) -> FemModel:
        """The soft body, passive tetrahedra stiffened."""
        soft = super().make_body()
        bone = np.where(soft.muscle_of < 0, 1000.0, 1.0)
        return replace(soft, mu=bone * soft.mu, lam=bone * soft.lam)
