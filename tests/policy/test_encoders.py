"""Encoders by the rank of the observation's keys."""

from __future__ import annotations

import pytest
import torch

from rfo.core.errors import UsageError
from rfo.policy.encoders import LOW_DIM, ConcatEncoder, flat_shapes, flatten_points, make_encoder


def test_low_dimensional_keys_are_passed_on_unchanged() -> None:
    """Without points the features are the joined keys themselves."""
    encoder = make_encoder({"q": (3,), "qd": (2,)})
    joined = torch.randn(4, 5)
    assert isinstance(encoder, ConcatEncoder)
    assert encoder({LOW_DIM: joined}) is joined


def test_points_do_not_depend_on_their_order() -> None:
    """The mean over points ignores the order, and the sizes are 64 per point key and 128."""
    torch.manual_seed(0)
    encoder = make_encoder({"q": (3,), "cloud": (10, 3)}).double()
    observation = {LOW_DIM: torch.randn(4, 3).double(), "cloud": torch.randn(4, 10, 3).double()}
    features = encoder(observation)
    assert features.shape == (4, encoder.feature_dim) == (4, 192)
    shuffled = observation | {"cloud": observation["cloud"][:, torch.randperm(10)]}
    torch.testing.assert_close(encoder(shuffled), features)


def test_points_alone_need_no_low_dimensional_key() -> None:
    """A task may observe nothing but points."""
    encoder = make_encoder({"cloud": (6, 3)})
    assert encoder({"cloud": torch.randn(2, 6, 3)}).shape == (2, 64)


@pytest.mark.parametrize("shapes", [{}, {"camera": (3, 64, 64)}])
def test_what_cannot_be_read_is_refused_in_words(shapes: dict[str, tuple[int, ...]]) -> None:
    """No keys, or a rank without an encoder, is the user's error."""
    with pytest.raises(UsageError, match="observation"):
        make_encoder(shapes)


def test_flat_points_are_their_mean_and_their_offsets() -> None:
    """Flattened, a point set is its mean and where each point lies from it: a shift moves the mean alone."""
    points = torch.randn(4, 10, 3, dtype=torch.float64)
    flat, shifted = flatten_points(points), flatten_points(points + 2.0)
    torch.testing.assert_close(flat[:, :3], points.mean(dim=1))
    torch.testing.assert_close(flat[:, 3:].view(4, 10, 3) + flat[:, None, :3], points)
    torch.testing.assert_close(shifted - flat, torch.cat([torch.full((4, 3), 2.0), torch.zeros(4, 30)], dim=1).double())
    assert flat_shapes({"q": (2,), "cloud": (10, 3)}) == {"q": (2,), "cloud": (33,)}
