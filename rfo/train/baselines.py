"""What a trained policy is compared with: doing nothing, random actions, and the same networks untrained."""

from __future__ import annotations

from rfo.core.task import Task
from rfo.train.algorithms import make_algorithm
from rfo.train.config import Experiment
from rfo.train.evaluate import Evaluation, evaluate, random_policy, trained_policy, zero_policy

__all__ = ["evaluate_baselines"]


def evaluate_baselines(experiment: Experiment, task: Task, *, episodes: int, seed: int) -> dict[str, Evaluation]:
    """Evaluates the zero, the random and the untrained policy on the same initial states."""
    config = experiment.config
    untrained = make_algorithm(
        config.algo, experiment.algorithm, task.spec, device=task.device, dtype=task.dtype, seed=config.seed
    )
    policies = {
        "zero": zero_policy(task),
        "random": random_policy(task, seed),
        "untrained": trained_policy(untrained, deterministic=True, device=task.device, seed=seed),
    }
    return {name: evaluate(task, policy, episodes=episodes, seed=seed) for name, policy in policies.items()}
