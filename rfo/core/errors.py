"""The two ways a run can end early that a person must be able to act on."""

from __future__ import annotations

from typing import Any

__all__ = ["SimulationDivergedError", "UsageError"]


class UsageError(Exception):
    """Bad input: an unknown name, an impossible size, a missing file.

    The message is one line that says what is wrong and what to try; the command line prints it and exits with 2.
    """


class SimulationDivergedError(RuntimeError):
    """A simulated quantity stopped being finite.

    Attributes:
        env_id: Environment's registered name.
        env_index: First environment of the batch in which it happened.
        step: Control step of that environment's episode.
        tensor: Name of the offending tensor.
        replay: State before the step and the action, enough to run the step again.
    """

    def __init__(self, env_id: str, env_index: int, step: int, tensor: str, replay: dict[str, Any]) -> None:
        self.env_id, self.env_index, self.step, self.tensor, self.replay = env_id, env_index, step, tensor, replay
        super().__init__(
            f"{env_id}: {tensor!r} is not finite in environment {env_index} at control step {step}; "
            "try more substeps, a smaller learning rate or a shorter horizon"
        )
