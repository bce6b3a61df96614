"""Offline data sets: transitions in the order of their episodes, in one documented format, and readers for others'.

The format is a flat collection of arrays, as .npz or as HDF5 (.h5, .hdf5; needs h5py), whose first dimension is the
transition:

==============================  =============  =====================================================================
array                           shape          meaning
==============================  =============  =====================================================================
``observation/<key>``           [T, ...]       what was seen before the step, one array per observation key
``next_observation/<key>``      [T, ...]       what was seen after it, before any reset
``action``                      [T, A]         what was done, in [-1, 1]
``reward``                      [T]            of the step
``terminated``                  [T], bool      the episode failed or finished for good
``truncated``                   [T], bool      the episode was cut: by a time limit, or by the end of a recording
==============================  =============  =====================================================================

Floating-point arrays are float32. The last transition of an episode is terminated or truncated, so that neither a chunk
of actions nor an n-step return crosses from one episode into the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rfo.core.errors import UsageError
from rfo.data.replay import LATENT_BOUND, Replay

__all__ = [
    "Array",
    "OfflineData",
    "fill_replay",
    "load",
    "make_replay",
    "read",
    "read_ogbench",
    "read_robomimic",
    "require_writable",
    "save",
]

Array = npt.NDArray[Any]
ACTION_BOUND = 1.0 + 1e-5


@dataclass(frozen=True)
class OfflineData:
    """Transitions in the order of their episodes; see the module for the arrays.

    Attributes:
        observation: Each [T, ...].
        next_observation: Each [T, ...].
        action: Shape [T, A], in [-1, 1].
        reward: Shape [T].
        terminated: Bool [T].
        truncated: Bool [T].
    """

    observation: Mapping[str, Array]
    next_observation: Mapping[str, Array]
    action: Array
    reward: Array
    terminated: Array
    truncated: Array

    def __post_init__(self) -> None:
        count = len(self.action)
        for name, array in self.arrays().items():
            if len(array) != count:
                raise UsageError(f"data set: {name!r} has {len(array)} rows and 'action' {count}; they must agree")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UsageError(f"data set: {name!r} holds a number that is not finite")
        if count == 0:
            raise UsageError("data set: there are no transitions in it")
        largest = float(np.abs(self.action).max())
        if largest > ACTION_BOUND:
            raise UsageError(f"data set: an action entry is {largest:.3g}; scale actions to [-1, 1]")
        if not (self.terminated[-1] or self.truncated[-1]):
            raise UsageError("data set: the last transition must be terminated or truncated")

    def __len__(self) -> int:
        return len(self.action)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int((self.terminated | self.truncated).sum())

    def arrays(self) -> dict[str, Array]:
        """Returns every array under its name in the format."""
        named = {f"observation/{key}": value for key, value in self.observation.items()}
        named |= {f"next_observation/{key}": value for key, value in self.next_observation.items()}
        flat = {"action": self.action, "reward": self.reward}
        return named | flat | {"terminated": self.terminated, "truncated": self.truncated}


def save(data: OfflineData, path: Path) -> None:
    """Writes a data set, compressed; the suffix chooses the container.

    Raises:
        UsageError: The suffix is unknown, or h5py is missing.
    """
    if path.suffix == ".npz":
        np.savez_compressed(path, **data.arrays())  # type: ignore[arg-type]
        return
    _require_hdf5(path)
    with _h5py().File(path, "w") as file:
        for name, array in data.arrays().items():
            file.create_dataset(name, data=array, compression="gzip")


def require_writable(path: Path) -> None:
    """Checks a file's name before work that ends in writing it.

    Raises:
        UsageError: The suffix is unknown, or h5py is missing.
    """
    if path.suffix != ".npz":
        _require_hdf5(path)
        _h5py()


def load(path: Path) -> OfflineData:
    """Reads a data set that `save` wrote.

    Raises:
        UsageError: There is none, or an array is missing.
    """
    arrays = _read(path)
    try:
        return OfflineData(
            {name.split("/", 1)[1]: _plain(array) for name, array in arrays.items() if name.startswith("observation/")},
            {name.split("/", 1)[1]: _plain(a) for name, a in arrays.items() if name.startswith("next_observation/")},
            *(_plain(arrays[name]) for name in ("action", "reward")),
            *(arrays[name].astype(bool) for name in ("terminated", "truncated")),
        )
    except KeyError as error:
        raise UsageError(f"{path} holds no array {error.args[0]!r}; see rfo.data.offline for the format") from error


def read(path: Path) -> OfflineData:
    """Reads a data set in this format, or in OGBench's or robomimic's, whichever the file holds.

    Raises:
        UsageError: There is none, or it is of no format that is known.
    """
    names = _names(path)
    if {"observations", "terminals"} <= names:
        return read_ogbench(path)
    return read_robomimic(path) if "data" in names else load(path)


def read_ogbench(path: Path, *, key: str = "state", rewards: Array | None = None) -> OfflineData:
    """Reads an OGBench data set: .npz with observations, actions and terminals, one row per state.

    The last state of an episode carries `terminals` 1; its action is not used. OGBench's goal-conditioned sets have no
    rewards; its single-task sets have `rewards` and `masks`, 0 where the task is done.

    Args:
        path: The file.
        key: Observation key to put the observations under.
        rewards: Rewards per row, where the file has none; zero if not given.

    Raises:
        UsageError: The file does not look like one.
    """
    arrays = _read(path)
    for name in ("observations", "actions", "terminals"):
        if name not in arrays:
            raise UsageError(f"{path} holds no {name!r}: it is not an OGBench data set")
    last = arrays["terminals"].astype(bool)
    last[-1] = True
    here = np.flatnonzero(~last)  # every row but an episode's last has a following one
    seen = arrays["observations"]
    reward = arrays.get("rewards") if rewards is None else rewards
    masks = arrays.get("masks")
    terminated = np.zeros(len(here), bool) if masks is None else masks[here] == 0
    truncated = last[here + 1] & ~terminated
    return OfflineData(
        {key: _plain(seen[here])},
        {key: _plain(seen[here + 1])},
        np.clip(_plain(arrays["actions"][here]), -1.0, 1.0),
        np.zeros(len(here), np.float32) if reward is None else _plain(reward[here]),
        terminated,
        truncated,
    )


def read_robomimic(path: Path, *, keys: tuple[str, ...] = (), reward_shift: float = 0.0) -> OfflineData:
    """Reads a robomimic data set: HDF5 with data/demo_i/{obs, next_obs, actions, rewards, dones}.

    Args:
        path: The file.
        keys: Low-dimensional observation keys to read, in this order; every key of rank 2 where empty.
        reward_shift: Added to every reward; -1 in the offline-to-online part of SAC Flow (arXiv 2509.25756).

    Raises:
        UsageError: The file does not look like one, or a key is missing.
    """
    with _h5py().File(path, "r") as file:
        if "data" not in file:
            raise UsageError(f"{path} holds no group 'data': it is not a robomimic data set")
        demos = sorted(file["data"], key=lambda name: int(name.rsplit("_", 1)[1]))
        parts = [_read_demo(file["data"][name], f"{path}: {name}", keys, reward_shift) for name in demos]
    if not parts:
        raise UsageError(f"{path} holds no demonstrations")
    seen, following = ({key: np.concatenate([part[i][key] for part in parts]) for key in parts[0][i]} for i in (0, 1))
    action, reward, terminated, truncated = (np.concatenate([part[i] for part in parts]) for i in range(2, 6))
    return OfflineData(seen, following, action, reward, terminated, truncated)


def fill_replay(replay: Replay, data: OfflineData, *, latent_bound: float = LATENT_BOUND) -> None:
    """Puts a data set into a replay of one environment, in order; latents are the actions' atanh.

    Args:
        replay: With `num_envs` 1.
        data: The data set; where it is longer than the replay, its last transitions stay.
        latent_bound: Largest magnitude of an action before its atanh.

    Raises:
        UsageError: The replay has several environments, between whose rows the episodes would be torn.
    """
    if replay.num_envs != 1:
        raise UsageError(f"a data set is one sequence of episodes; the replay has {replay.num_envs} environments")
    columns = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in data.arrays().items()}
    replay.extend(columns | {"latent": torch.atanh(columns["action"].clamp(-latent_bound, latent_bound))})


def make_replay(
    data: OfflineData,
    shapes: Mapping[str, tuple[int, ...]],
    action_dim: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Replay:
    """Returns a replay that holds a data set and nothing else.

    Raises:
        UsageError: Observations or actions are not those of the task.
    """
    for key, shape in shapes.items():
        if key not in data.observation:
            raise UsageError(f"data set: there is no observation {key!r} (there are {', '.join(data.observation)})")
        if data.observation[key].shape[1:] != tuple(shape):
            raise UsageError(
                f"data set: observation {key!r} has shape {data.observation[key].shape[1:]}, the task's has {shape}"
            )
    if data.action.shape[1:] != (action_dim,):
        raise UsageError(f"data set: actions have shape {data.action.shape[1:]}, the task's have {action_dim} entries")
    replay = Replay(shapes, action_dim, num_envs=1, capacity=len(data), dtype=dtype, device=device)
    fill_replay(replay, data)
    return replay


def _read_demo(demo: Any, where: str, keys: tuple[str, ...], shift: float) -> tuple[Any, ...]:
    for name in ("obs", "next_obs", "actions", "rewards"):
        if name not in demo:
            raise UsageError(f"{where} holds no {name!r}; extract observations with robomimic first")
    chosen = keys or tuple(key for key in sorted(demo["obs"]) if demo["obs"][key].ndim == 2)
    for key in chosen:
        if key not in demo["obs"]:
            raise UsageError(f"{where} holds no observation {key!r} (there are {', '.join(sorted(demo['obs']))})")
    count = len(demo["actions"])
    done = np.asarray(demo["dones"]).astype(bool) if "dones" in demo else np.zeros(count, bool)
    truncated = np.zeros(count, bool)
    truncated[-1] = not done[-1]
    seen, following = ({key: _plain(np.asarray(demo[group][key])) for key in chosen} for group in ("obs", "next_obs"))
    action, reward = _plain(np.asarray(demo["actions"])), _plain(np.asarray(demo["rewards"])) + np.float32(shift)
    return seen, following, action, reward, done, truncated


def _names(path: Path) -> set[str]:
    """Returns the names at the top of a file."""
    if not path.is_file():
        raise UsageError(f"data set {path} does not exist")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return set(file.files)
    _require_hdf5(path)
    with _h5py().File(path, "r") as file:
        return set(file)


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise UsageError(f"data set {path} does not exist")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    _require_hdf5(path)
    found: dict[str, Array] = {}
    with _h5py().File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None)
    return found


def _plain(array: Array) -> Array:
    return np.asarray(array, dtype=np.float32)


def _require_hdf5(path: Path) -> None:
    if path.suffix not in (".h5", ".hdf5"):
        raise UsageError(f"{path}: a data set is an .npz, .h5 or .hdf5 file")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 data sets need h5py: pip install 'rfo[data]'") from error
    return h5py
