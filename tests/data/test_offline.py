"""Offline data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rfo.core.errors import UsageError
from rfo.data.offline import OfflineData, fill_replay, load, read, read_robomimic, save
from rfo.data.replay import Replay


def _data(count: int = 6) -> OfflineData:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(count + 1, 3)).astype(np.float32)
    terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
    terminated[2], truncated[-1] = True, True
    action = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return OfflineData({"o": seen[:-1]}, {"o": seen[1:]}, action, np.ones(count, np.float32), terminated, truncated)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    """Every array comes back as it was, in either container."""
    if suffix == ".h5":
        pytest.importorskip("h5py")
    data = _data()
    save(data, tmp_path / f"set{suffix}")
    again = load(tmp_path / f"set{suffix}")
    assert again.episodes == 2
    assert read(tmp_path / f"set{suffix}").episodes == 2
    for name, array in data.arrays().items():
        assert np.array_equal(array, again.arrays()[name]) and array.dtype == again.arrays()[name].dtype


def test_an_ogbench_set_loses_only_its_last_states(tmp_path: Path) -> None:
    """Two episodes of three states are two transitions each, cut at their ends, not terminated."""
    seen = np.arange(6, dtype=np.float32)[:, None]
    terminals = np.array([0, 0, 1, 0, 0, 1], np.float32)
    path = tmp_path / "cube.npz"
    np.savez(path, observations=seen, actions=0.1 * seen, terminals=terminals)
    data = read(path)
    assert data.observation["state"][:, 0].tolist() == [0, 1, 3, 4]
    assert data.next_observation["state"][:, 0].tolist() == [1, 2, 4, 5]
    assert data.truncated.tolist() == [False, True, False, True] and not data.terminated.any()


def test_robomimic_demonstrations_are_joined_in_order(tmp_path: Path) -> None:
    """Demonstration 10 comes after 2, rewards are shifted, an undone end is a cut."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "lift.hdf5"
    with h5py.File(path, "w") as file:
        for index, done in ((10, True), (2, False)):
            demo = file.create_group(f"data/demo_{index}")
            for group in ("obs", "next_obs"):
                demo[f"{group}/eef"] = np.full((2, 3), float(index))
                demo[f"{group}/image"] = np.zeros((2, 4, 4, 3))
            demo["actions"], demo["rewards"] = np.zeros((2, 7)), np.array([0.0, 1.0])
            demo["dones"] = np.array([0, int(done)])
    data = read_robomimic(path, reward_shift=-1.0)
    assert set(data.observation) == {"eef"}
    assert data.observation["eef"][:, 0].tolist() == [2, 2, 10, 10]
    assert data.reward.tolist() == [-1, 0, -1, 0]
    assert data.truncated.tolist() == [False, True, False, False]
    assert data.terminated.tolist() == [False, False, False, True]
    assert np.array_equal(read(path).reward, data.reward + 1)
    with pytest.raises(UsageError, match="no observation 'gripper'"):
        read_robomimic(path, keys=("gripper",))


def test_a_replay_takes_a_set() -> None:
    """Every transition can be drawn, with its latent, and n steps do not cross episodes."""
    data, replay = _data(), Replay({"o": (3,)}, 2, num_envs=1, capacity=10)
    fill_replay(replay, data)
    batch = replay.sample(64, gamma=0.5, generator=torch.Generator().manual_seed(0), n_step=2)
    torch.testing.assert_close(torch.tanh(batch.latent), batch.action, atol=1e-3, rtol=1e-3)
    assert set(batch.reward.tolist()) <= {1.0, 1.5} and len(replay) == 6


def test_a_broken_set_is_refused_in_words(tmp_path: Path) -> None:
    """Unscaled actions, unequal lengths, a missing array and a missing file are named."""
    data = _data()
    with pytest.raises(UsageError, match=r"scale actions"):
        OfflineData(
            data.observation, data.next_observation, 3 * data.action, data.reward, data.terminated, data.truncated
        )
    with pytest.raises(UsageError, match="must agree"):
        OfflineData(
            data.observation, data.next_observation, data.action, data.reward[1:], data.terminated, data.truncated
        )
    np.savez(tmp_path / "part.npz", action=data.action)
    with pytest.raises(UsageError, match="'reward'"):
        load(tmp_path / "part.npz")
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "none.npz")
