"""OGBench's cubes, their scripts, and HumanoidBench behind a stand-in."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo_envs.suites.stepped import PhysicsRecord


@pytest.fixture(scope="module")
def cube() -> Any:
    """A cube task in float64."""
    pytest.importorskip("ogbench")
    from rfo_envs.suites.ogbench import CubeDoubleTask2

    return CubeDoubleTask2(dtype=torch.float64)


def _native(physics: np.ndarray) -> Any:
    """Returns the suite's own environment, put into a state."""
    import gymnasium

    native = gymnasium.make("cube-double-singletask-task2-v0", disable_env_checker=True).unwrapped
    native.reset(seed=0)
    data = native.data
    PhysicsRecord(native.model, data, [data.site_xpos, data.site_xmat]).write(physics)
    native.post_step()
    return native


def test_two_interleaved_episodes_are_ogbenchs_own(cube: Any) -> None:
    """Bit for bit from the same state, though one simulator serves both."""
    state = cube.initial_state(torch.Generator().manual_seed(1), 2)
    natives = [_native(row.numpy().view(np.float64)) for row in state["physics"]]
    rng = np.random.default_rng(0)
    for _ in range(8):
        actions = rng.uniform(-1.0, 1.0, (2, 5))
        state = cube.dynamics(state, torch.from_numpy(actions))
        for i, native in enumerate(natives):
            observation, reward, terminated, _, _ = native.step(actions[i])
            assert np.array_equal(state["observation"][i].numpy(), observation)
            assert float(state["reward"][i]) == reward and bool(state["terminated"][i]) == terminated


def test_ogbenchs_resets_follow_the_seed(cube: Any) -> None:
    """The suite draws two actions in `reset` without a seed; here everything comes from it."""
    a, b, c = (cube.initial_state(torch.Generator().manual_seed(seed), 1) for seed in (3, 3, 4))
    assert torch.equal(a["physics"], b["physics"]) and torch.equal(a["observation"], b["observation"])
    assert not torch.equal(a["physics"], c["physics"])


def test_the_script_moves_both_cubes_to_their_goals(cube: Any) -> None:
    """The suite's script, given the task's goals, ends the episode with success before the time limit."""
    env = VectorEnv(cube, 1, seed=0)
    observation, began = env.reset(), torch.ones(1, dtype=torch.bool)
    oracle = cube.make_oracle("goal", 1, seed=0)
    for _ in range(cube.spec.episode_length):
        success = cube.metrics(env.state)["success"]
        transition = env.step(oracle(observation, began))
        observation, began = transition.observation, transition.done
        if bool(began.any()):
            break
    assert bool(transition.terminated[0]) and float(success) == 1.0 and float(transition.reward) == 0.0


def test_a_missing_humanoid_bench_is_said() -> None:
    """The message says where to get it."""
    pytest.importorskip("gymnasium")
    from rfo_envs.suites.humanoidbench import Reach

    if "humanoid_bench" in sys.modules:
        pytest.skip("it is installed")
    with pytest.raises(UsageError, match="not on PyPI: git clone"):
        Reach().initial_state(torch.Generator(), 1)


def test_a_tasks_memory_travels_with_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the suite: the goal drawn at a reset, from numpy's generator, stays with its environment."""
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv

    from rfo_envs.suites import humanoidbench

    class StandIn(ReacherEnv):  # type: ignore[misc]
        task = types.SimpleNamespace(goal=np.zeros(3), stage=0)

        def reset_model(self) -> Any:
            self.task.goal, self.task.stage = np.random.uniform(size=3), 0
            return super().reset_model()

        def step(self, action: Any) -> Any:
            found = super().step(action)
            self.task.stage += 1
            return (*found[:1], float(self.task.goal.sum() + self.task.stage), *found[2:])

    monkeypatch.setitem(sys.modules, "humanoid_bench", types.ModuleType("humanoid_bench"))
    if "stand-in-v0" not in gymnasium.registry:
        gymnasium.register("stand-in-v0", entry_point=lambda **_: StandIn())
    simulator = humanoidbench._HumanoidBench("stand-in-v0", ("goal", "stage"))
    a, b = simulator.reset(1), simulator.reset(2)
    goals = [np.random.RandomState(seed).uniform(size=3).sum() for seed in (1, 2)]
    for steps in (1, 2, 3):
        a, b = simulator.step(a.physics, np.zeros(2)), simulator.step(b.physics, np.zeros(2))
        assert [a.reward, b.reward] == pytest.approx([goals[0] + steps, goals[1] + steps])
