from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest
import torch

from rfo.core.errors import UsageError
from rfo.core.task import Renderer
from rfo_envs.rigid import mujoco_renderer
from rfo_envs.rigid.ant import Ant


@pytest.fixture(scope="module")
def ant() -> Ant:
    """One ant."""
    return Ant(threads=1)


def _renderer(task: Ant) -> Renderer:
    try:
        return task.renderer("mujoco", 64, 48)
    except UsageError as error:
        assert "EGL or OSMesa" in str(error)
        pytest.skip("neither EGL nor OSMesa works here")


def test_pictures_show_the_state(ant: Ant) -> None:
    """Frames have the size asked for, differ between states, and are the same for the same state."""
    draw, other = _renderer(ant), _renderer(ant)
    state = ant.initial_state(torch.Generator().manual_seed(0), 2)
    first = draw(state, 0)
    assert first.shape == (48, 64, 3)
    assert first.dtype == np.uint8
    assert first.std() > 5.0
    assert (draw(state, 1) != first).any()
    assert (other(state, 0) == first).all()


def test_without_a_way_to_draw_the_error_says_what_to_install(ant: Ant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither EGL nor OSMesa works, one line says so."""

    def fail(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(mujoco_renderer.subprocess, "run", fail)
    mujoco_renderer._backend.cache_clear()
    try:
        with pytest.raises(UsageError, match="EGL or OSMesa") as caught:
            ant.renderer("mujoco", 64, 48)
    finally:
        mujoco_renderer._backend.cache_clear()
    assert "\n" not in str(caught.value)


def test_other_renderers_are_refused(ant: Ant) -> None:
    """A name nobody knows is an error that says what to do."""
    with pytest.raises(UsageError, match="has no renderer 'povray'"):
        ant.renderer("povray", 64, 48)
