"""Which policies keep both of two best actions: five seeds of each learner on a bandit, as one picture.

    python docs/toys/two_modes.py --output docs/images/two_modes.png

The bandit has one step; its reward is highest, and equally high, at the actions +0.6 and -0.6. A policy keeps both
where each is drawn in at least a tenth of its actions and both together in at least eight tenths.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from rfo.core.colors import SERIES
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.train.algorithms import config_class, make_algorithm

BEST, WIDTH = 0.6, 0.08


class Bandit(Task):
    """One step; the reward is highest at the actions +0.6 and -0.6."""

    spec: ClassVar[TaskSpec] = TaskSpec("bandit", "torch", 1, 1, 0.1, {"o": (1,)}, differentiable=False)

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at zero."""
        return {"a": torch.zeros(n, 1, device=self.device, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Remembers the action."""
        return {"a": action}

    def observe(self, state: State) -> Observation:
        """Shows nothing."""
        return {"o": torch.zeros_like(state["a"])}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Two bumps of one height."""
        a = action[:, 0]
        return torch.exp(-((a - BEST) ** 2) / WIDTH) + torch.exp(-((a + BEST) ** 2) / WIDTH)


COMMON: dict[str, Any] = {
    "horizon": 50,
    "batch_size": 64,
    "learning_starts": 400,
    "replay_capacity": 5000,
    "normalizer": "none",
    "critic_hidden": [64, 64],
    "actor_hidden": [64, 64],
}
SOFT: dict[str, Any] = {"interval": 1, "beta1": 0.9, "actor_lr": 1e-3, "alpha": 0.05}
FLOW: dict[str, Any] = {**SOFT, "level_hidden": [32], "target_entropy": -2.0}

LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SAC, Gaussian": ("sac", SOFT),
    "FlowRL": ("flowrl", {"mode": "paper", "flow_steps": 4, "lr": 1e-3, "guidance": 1.0}),
    "SAC Flow, plain": ("sac-flow", {**FLOW, "velocity": "mlp"}),
    "SAC Flow-G": ("sac-flow", {**FLOW, "velocity": "gated"}),
    "SAC Flow-T": ("sac-flow", {**FLOW, "velocity": "decoded", "actor_hidden": [32, 32]}),
}
"""Name in the picture → (algorithm, its settings beside the common ones)."""


def train(algo: str, settings: dict[str, Any], seed: int, steps: int) -> Tensor:
    """Trains for so many environment steps and returns 2,000 drawn actions."""
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in {**COMMON, **settings}.items()}
    known = {field.name for field in dataclasses.fields(config_class(algo))}
    config = config_class(algo)(**{key: value for key, value in values.items() if key in known})
    task = Bandit()
    learner = make_algorithm(algo, config, task.spec, device=task.device, dtype=task.dtype, seed=seed)
    env = VectorEnv(task, 2, seed=seed)
    for _ in range(max(1, steps // (2 * config.horizon))):
        learner.update(env, 0.0)
    generator = torch.Generator().manual_seed(seed)
    return learner.act({"o": torch.zeros(2000, 1)}, deterministic=False, generator=generator)[:, 0]


def shares(action: Tensor) -> tuple[float, float]:
    """Returns which share of the actions is near the lower and near the upper best one."""
    near = [float(((action - side * BEST).abs() < 0.2).double().mean()) for side in (-1.0, 1.0)]
    return near[0], near[1]


def keeps_both(near: tuple[float, float]) -> bool:
    """Whether both best actions are drawn, and hardly any other."""
    return min(near) >= 0.1 and sum(near) >= 0.8


def draw(actions: dict[str, list[Tensor]], path: Path) -> None:
    """Draws one histogram per learner and seed."""
    seeds = max(len(found) for found in actions.values())
    figure, axes = plt.subplots(
        len(actions), seeds, figsize=(1.6 * seeds + 1.4, 1.05 * len(actions) + 0.6), sharex=True, squeeze=False
    )
    for row, (name, found) in zip(axes, actions.items(), strict=True):
        for axis, action in zip(row, found, strict=True):
            kept = keeps_both(shares(action))
            axis.hist(action.numpy(), bins=60, range=(-1, 1), color=SERIES[0] if kept else "#B9C4C9")
            axis.set(yticks=[], xticks=[-BEST, BEST], xlim=(-1, 1))
            axis.spines[["top", "right", "left"]].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for seed, axis in enumerate(axes[0]):
        axis.set_title(f"seed {seed}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains every learner with every seed, prints the shares as JSON lines and draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--steps", type=int, default=1600, help="environment steps (default: 1600)")
    parser.add_argument("--only", nargs="*", default=list(LEARNERS), help="names of learners (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    actions: dict[str, list[Tensor]] = {}
    for name in options.only:
        for seed in range(options.seeds):
            actions.setdefault(name, []).append(train(*LEARNERS[name], seed, options.steps))
            near = shares(actions[name][-1])
            figures = {"learner": name, "seed": seed, "lower": near[0], "upper": near[1], "both": keeps_both(near)}
            print(json.dumps(figures), flush=True)
    draw(actions, options.output)


if __name__ == "__main__":
    main()
