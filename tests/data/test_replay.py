"""The replay's properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.shell import Transition
from rfo.data.replay import Replay, join


def _filled(steps: int, *, envs: int = 2, capacity: int = 20, ends: dict[int, str] | None = None) -> Replay:
    """Fills a replay whose observation is the step, with reward 1 and, at given steps, episode ends."""
    replay = Replay({"o": (1,)}, 1, num_envs=envs, capacity=capacity, dtype=torch.float64)
    for step in range(steps):
        end = (ends or {}).get(step, "")

        def column(value: float) -> Tensor:
            return torch.full((envs, 1), value, dtype=torch.float64)

        mask = [torch.full((envs,), end == kind) for kind in ("terminated", "truncated")]
        reward = torch.ones(envs, dtype=torch.float64)
        transition = Transition({"o": column(0.0)}, reward, mask[0], mask[1], {"o": column(step + 1.0)})
        replay.add({"o": column(float(step))}, column(0.5), column(0.1 * (step % 7)), transition)
    return replay


def _draw(replay: Replay, n_step: int = 1, seed: int = 0, **options: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    recent, share = int(options.get("recent", 0)), options.get("recent_share", 0.0)
    batch = replay.sample(512, gamma=0.9, generator=generator, n_step=n_step, recent=recent, recent_share=share)
    at, after = batch.observation["o"][:, 0], batch.next_observation["o"][:, 0]
    return {"at": at, "after": after, "reward": batch.reward, "discount": batch.discount, "action": batch.action[:, 0]}


def test_the_ring_keeps_the_newest() -> None:
    """After 25 steps of two environments a ring of 20 holds steps 15 to 24, rows that belong together."""
    drawn = _draw(_filled(25))
    assert set(drawn["at"].tolist()) == set(map(float, range(15, 25)))
    torch.testing.assert_close(drawn["after"], drawn["at"] + 1)
    torch.testing.assert_close(drawn["action"], 0.1 * (drawn["at"] % 7))


def test_uniform_draws_are_uniform() -> None:
    """Every stored step comes up about equally often."""
    counts = torch.bincount(_draw(_filled(8))["at"].long(), minlength=8)
    assert int(counts.min()) > 30 and int(counts.max()) < 110


def test_the_recent_share_is_recent() -> None:
    """A quarter of the rows comes from the newest four transitions, two steps."""
    drawn = _draw(_filled(25), recent=4, recent_share=0.25)
    assert set(drawn["at"][-128:].tolist()) == {23.0, 24.0}
    assert len(set(drawn["at"][:-128].tolist())) == 10


def test_a_time_limit_is_bootstrapped_and_a_termination_is_not() -> None:
    """The discount is gamma after a time limit and zero after a termination."""
    drawn = _draw(_filled(8, ends={3: "terminated", 5: "truncated"}))
    for at, discount in zip(drawn["at"].tolist(), drawn["discount"].tolist(), strict=True):
        assert discount == (0.0 if at == 3 else 0.9)


def test_n_steps_end_with_the_episode() -> None:
    """Rewards are summed up to an episode's end, and the discount counts the steps taken."""
    drawn = _draw(_filled(30, ends={22: "terminated", 26: "truncated"}), n_step=3)
    expected = {steps: sum(0.9**i for i in range(steps)) for steps in (1, 2, 3)}
    for at, after, reward, discount in zip(*(drawn[k].tolist() for k in ("at", "after", "reward", "discount"))):  # noqa: B905
        end = 22 if at <= 22 else 26 if at <= 26 else 99
        steps = int(min(3, end - at + 1))
        assert after == at + steps
        assert reward == pytest.approx(expected[steps])
        assert discount == pytest.approx(0.0 if after == 23 else 0.9**steps)
    assert max(drawn["at"]) == 27


def test_a_saved_replay_draws_the_same() -> None:
    """A wrapped ring loaded into a fresh one gives equal draws, before and after further steps."""
    replay, other = _filled(25), _filled(0)
    other.load_state_dict(replay.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(_draw(replay).values(), _draw(other).values(), strict=True))
    assert len(other) == 20
    with pytest.raises(UsageError, match="does not fit"):
        _filled(0, capacity=10).load_state_dict(replay.state_dict())


def test_too_small_is_said() -> None:
    """A ring without room for one step, and a draw before there is one, are refused."""
    with pytest.raises(UsageError, match="no room"):
        _filled(0, capacity=1)
    with pytest.raises(ValueError, match="too few"):
        _draw(_filled(2), n_step=3)


def test_chunks_are_steps_that_follow_one_another() -> None:
    """Across the ring's seam, with the discounted rewards of the chunk; what follows an end counts for nothing."""
    replay = _filled(25, capacity=32, ends={13: "terminated", 18: "truncated"})
    batch = replay.sample(512, gamma=0.9, generator=torch.Generator().manual_seed(0), chunk=3)
    assert batch.executed is not None and batch.action.shape == batch.latent.shape == (512, 3)
    for i in range(512):
        at = int(batch.observation["o"][i, 0])
        end = min((step for step in (13, 18) if step >= at), default=99)
        length = min(3, end - at + 1)
        assert batch.executed[i].tolist() == [j < length for j in range(3)]
        assert batch.action[i, :length].tolist() == pytest.approx([0.1 * ((at + j) % 7) for j in range(length)])
        assert float(batch.reward[i]) == pytest.approx(sum(0.9**j for j in range(length)))
        assert float(batch.discount[i]) == pytest.approx(0.0 if at + length - 1 == 13 else 0.9**length)
        assert float(batch.next_observation["o"][i, 0]) == at + length
    replaced = batch.action[~batch.executed]
    assert len(replaced) > 20 and float(replaced.abs().max()) <= 1.0 and float(replaced.std()) > 0.4


def test_means_are_over_what_was_executed() -> None:
    """Entries after an end weigh nothing in a row's mean."""
    batch = _filled(8, ends={2: "terminated"}).sample(
        64, gamma=0.9, generator=torch.Generator().manual_seed(0), chunk=4
    )
    assert batch.executed is not None
    entries = torch.where(batch.executed, 2.0, torch.inf).nan_to_num(posinf=1e9)
    torch.testing.assert_close(batch.mean_of(entries), torch.full((64,), 2.0))


def test_joined_batches_keep_their_rows() -> None:
    """The first batch's rows come first."""
    draws = [_filled(8).sample(n, gamma=0.9, generator=torch.Generator().manual_seed(n), chunk=2) for n in (3, 5)]
    both = join(*draws)
    for name in ("action", "latent", "reward", "discount", "executed"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(batch, name) for batch in draws]))
    assert torch.equal(both.next_observation["o"][3:], draws[1].next_observation["o"])
