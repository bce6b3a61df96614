"""Running statistics of observations."""

from __future__ import annotations

import torch

from rfo.policy.encoders import LOW_DIM
from rfo.policy.normalize import RunningNormalizer

SHAPES = {"q": (3,), "cloud": (5, 3), "qd": (2,)}


def _batch(seed: int, *leading: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "q": 1e3 + 2.0 * torch.randn(*leading, 3, generator=generator, dtype=torch.float64),
        "cloud": torch.randn(*leading, 5, 3, generator=generator, dtype=torch.float64),
        "qd": 0.5 * torch.randn(*leading, 2, generator=generator, dtype=torch.float64),
    }


def test_batches_give_the_statistics_of_all_data() -> None:
    """Merging batches of different size equals the mean and deviation of their union."""
    normalizer = RunningNormalizer(SHAPES, dtype=torch.float64)
    batches = [_batch(0, 16, 4), _batch(1, 3, 1), _batch(2, 50)]
    for batch in batches:
        normalizer.update(batch)
    rows = torch.cat([torch.cat([batch["q"], batch["qd"]], dim=-1).reshape(-1, 5) for batch in batches])
    snapshot = normalizer.snapshot()
    torch.testing.assert_close(snapshot.mean, rows.mean(dim=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(1.0 / snapshot.inverse_std, rows.std(dim=0, correction=0), rtol=1e-10, atol=1e-10)


def test_a_snapshot_does_not_move() -> None:
    """Statistics in use stay as they were when the normaliser goes on."""
    normalizer = RunningNormalizer(SHAPES, dtype=torch.float64)
    normalizer.update(_batch(0, 64))
    snapshot = normalizer.snapshot()
    before = snapshot(_batch(3, 8))[LOW_DIM]
    normalizer.update(_batch(1, 64))
    assert torch.equal(snapshot(_batch(3, 8))[LOW_DIM], before)
    assert not torch.equal(normalizer.snapshot()(_batch(3, 8))[LOW_DIM], before)


def test_before_any_data_it_is_the_identity() -> None:
    """The first window is seen as it is, and points always are."""
    observation = _batch(0, 4)
    observation["q"] = observation["q"] - 1e3
    prepared = RunningNormalizer(SHAPES, dtype=torch.float64).snapshot()(observation)
    assert torch.equal(prepared[LOW_DIM], torch.cat([observation["q"], observation["qd"]], dim=-1))
    assert prepared["cloud"] is observation["cloud"]


def test_floor_and_clip_bound_what_hardly_moves() -> None:
    """A constant entry is divided by the floor, and nothing exceeds the clip."""
    normalizer = RunningNormalizer({"q": (1,)}, std_floor=0.5, clip=3.0)
    normalizer.update({"q": torch.ones(10, 1)})
    prepared = normalizer.snapshot()({"q": torch.tensor([[1.0], [1.5], [9.0]])})[LOW_DIM]
    torch.testing.assert_close(prepared, torch.tensor([[0.0], [1.0], [3.0]]))


def test_state_dict_holds_everything() -> None:
    """A loaded normaliser normalises bit for bit as the saved one."""
    first, second = RunningNormalizer(SHAPES), RunningNormalizer(SHAPES)
    first.update(_batch(0, 64))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.snapshot()(_batch(1, 5))[LOW_DIM], first.snapshot()(_batch(1, 5))[LOW_DIM])


def test_flat_point_sets_are_normalised_with_the_rest() -> None:
    """Read flat, point sets join the low-dimensional keys, with statistics for every coordinate."""
    normalizer = RunningNormalizer(SHAPES, points="flat", dtype=torch.float64)
    normalizer.update(_batch(0, 200, 8))
    prepared = normalizer.snapshot()(_batch(0, 200, 8))
    assert set(prepared) == {LOW_DIM} and prepared[LOW_DIM].shape == (200, 8, 3 + 6 * 3 + 2)
    torch.testing.assert_close(prepared[LOW_DIM].std(dim=(0, 1), correction=0), torch.ones(23, dtype=torch.float64))
