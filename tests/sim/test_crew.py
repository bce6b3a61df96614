"""Threads replay recorded passages side by side, awake or asleep when they are called."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.crew import crew
from rfo.sim.passage import Passage

CPU = torch.device("cpu")


def _copier() -> Passage:
    buffer = Buffer(1, 1, 16, torch.float32, CPU)
    return Passage(lambda: None, [buffer], [buffer], warp_device(CPU))


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["awake", "asleep"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_job_is_done_before_the_call_returns(size: int, pause: float) -> None:
    """Each thread does its own jobs, in their order, on the tensors of this call."""
    passages = [[_copier(), _copier()] for _ in range(size)]
    for turn in range(1 if pause else 300):
        time.sleep(pause)
        values = [torch.full((16, 1), float(10 * place + turn)) for place in range(size)]
        between, found = ([torch.zeros(16, 1) for _ in range(size)] for _ in range(2))
        crossings = [
            [
                first.between(*first.rows([value], [middle]), 0, 16),
                second.between(*second.rows([middle], [last]), 0, 16),
            ]
            for (first, second), value, middle, last in zip(passages, values, between, found, strict=True)
        ]
        crew(size).run([first.job + second.job for first, second in crossings])
        assert all(torch.equal(last, value) for last, value in zip(found, values, strict=True))


def test_fewer_shares_than_threads() -> None:
    """Who has no share is not called."""
    passage, values, found = _copier(), torch.randn(16, 1), torch.zeros(16, 1)
    crossing = passage.between(*passage.rows([values], [found]), 0, 16)
    assert crossing.recorded
    crew(3).run([crossing.job])
    assert torch.equal(found, values)


def test_a_process_ends_with_its_crew_asleep() -> None:
    """Threads that wait in native code do not keep a program from ending, nor break its end."""
    program = "from rfo.sim.crew import crew; import time; crew(2); time.sleep(0.05)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
