"""`rfo export`: a run's policy alone, small enough to be kept and handed on."""

from __future__ import annotations

import argparse
from pathlib import Path

from rfo.core.errors import UsageError

__all__ = ["run_export"]


def run_export(options: argparse.Namespace) -> int:
    """Evaluates a run's policy and writes it with its config, in which the return stands as the expected one."""
    from rfo.cli.training import episode_count, evaluation_line, machine_overrides
    from rfo.train.evaluate import evaluate, trained_policy
    from rfo.train.export import export_policy
    from rfo.train.loop import EVALUATION_SEED, load_run

    output = Path(options.output)
    if output.exists():
        raise UsageError(f"{output} exists already; give --output a new folder")
    experiment, task, algorithm = load_run(Path(options.run), machine_overrides(options))
    episodes, seed = episode_count(options, experiment), experiment.config.seed + EVALUATION_SEED
    policy = trained_policy(algorithm, deterministic=True, device=task.device, seed=seed)
    found = evaluate(task, policy, episodes=episodes, seed=seed)
    export_policy(experiment, algorithm, output, expected_return=found.return_mean, episodes=episodes)
    print(f"{output}: {evaluation_line(found)}")
    return 0
