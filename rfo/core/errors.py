"""The ways a run can end early that a person must be able to act on."""

from __future__ import annotations

from typing import Any

__all__ = ["EngineLimitError", "SimulationDivergedError", "UsageError"]


class UsageError(Exception):
    """Bad input: an unknown name, an impossible size, a missing file.

    The message is one line that says what is wrong and what to try; the command line prints it and exits with 2.
    """


class EngineLimitError(RuntimeError):
    """An engine was driven to where its equations no longer hold.

    Engines know no task and no episode: the shell raises `SimulationDivergedError` in its place.

    Attributes:
        env_index: First environment of the batch in which it happened.
        problem: What happened.
        advice: What to try.
    """

    def __init__(self, env_index: int, problem: str, advice: str) -> None:
        self.env_index, self.problem, self.advice = env_index, problem, advice
        super().__init__(f"{problem} in environment {env_index}; {advice}")


class SimulationDivergedError(RuntimeError):
    """A simulated quantity stopped being finite, or an engine's equations stopped holding.

    Attributes:
        env_id: Environment's registered name.
        env_index: First environment of the batch in which it happened.
        step: Control step of that environment's episode.
        tensor: Name of the offending tensor, or "state" where an engine refused the step.
        replay: State before the step and the action, enough to run the step again.
    """

    def __init__(
        self,
        env_id: str,
        env_index: int,
        step: int,
        tensor: str,
        replay: dict[str, Any],
        *,
        problem: str = "",
        advice: str = "try more substeps, a smaller learning rate or a shorter horizon",
    ) -> None:
        self.env_id, self.env_index, self.step, self.tensor, self.replay = env_id, env_index, step, tensor, replay
        problem = problem or f"{tensor!r} is not finite"
        super().__init__(f"{env_id}: {problem} in environment {env_index} at control step {step}; {advice}")
