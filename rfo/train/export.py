"""Exported policies: what acting needs of a run, its config, and the return that can be expected of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rfo.core.errors import UsageError
from rfo.train.algorithms import Algorithm
from rfo.train.checkpoint import POLICY_FILE, POLICY_FORMAT, save_atomically
from rfo.train.config import Experiment, save_experiment

__all__ = ["export_policy"]


def export_policy(
    experiment: Experiment, algorithm: Algorithm, folder: Path, *, expected_return: float, episodes: int
) -> None:
    """Writes config.yaml and policy.pt into a new folder, which evaluating, filming and collecting read like a run's.

    Args:
        experiment: What the policy was trained by.
        algorithm: The algorithm that trained it.
        folder: Folder to make.
        expected_return: Mean return of its evaluation, deterministic.
        episodes: Episodes of that evaluation.

    Raises:
        UsageError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    # Threads and device are the machine's that trained it, not its reader's.
    config = dataclasses.replace(
        experiment.config,
        expected_return=round(expected_return, 1),
        eval_episodes=episodes,
        threads=None,
        device="cpu",
    )
    save_experiment(dataclasses.replace(experiment, config=config), folder / "config.yaml")
    save_atomically({"format": POLICY_FORMAT, **algorithm.policy_state_dict()}, folder / POLICY_FILE)
