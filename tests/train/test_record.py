from __future__ import annotations

import torch

from rfo.core import registry
from rfo.train.evaluate import zero_policy
from rfo.train.record import states


def test_a_film_can_begin_later() -> None:
    """What is shown from a tenth of a second on is what comes then in the film that shows all."""
    task = registry.make("pendulum-swingup")
    shown = {"seconds": 0.5, "fps": 20.0, "seed": 1}
    whole = [state["angle"] for state in states(task, zero_policy(task), **shown)]
    later = [state["angle"] for state in states(task, zero_policy(task), **shown, start=0.1)]
    assert torch.equal(torch.stack(later)[:-2], torch.stack(whole)[2:])
