"""The registry: built-in and third-party tasks are found the same way, and a broken package is its own problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rfo.cli import main
from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.core.task import Task

BUILT_IN = ["pendulum-swingup", "soft-quadruped", "soft-quadruped-quick"]

MODULES = {
    "third_good": "from rfo_envs.torch.pendulum import PendulumSwingup\nfrom dataclasses import replace\n"
    "class Mine(PendulumSwingup):\n    spec = replace(PendulumSwingup.spec, id='mine')\n",
    "third_broken": "raise RuntimeError('the licence server\\nis away')\n",
    "third_missing": "import a_package_that_nobody_has\n",
    "third_other": "class NoTask:\n    pass\n"
    "from rfo.core.task import Task\nclass NoSpec(Task):\n    pass\n"
    "from rfo_envs.torch.pendulum import PendulumSwingup\nclass Misnamed(PendulumSwingup):\n    pass\n",
}

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Returns a function that installs a package with given entry points, as pip would leave it."""
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str = "third", **points: str) -> None:
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines]) + "\n")

    return install


def test_built_in_tasks_are_there() -> None:
    """The shipped environments are registered, load, and carry their own names."""
    assert set(BUILT_IN) <= set(registry.ids())
    assert [registry.spec(name).id for name in BUILT_IN] == BUILT_IN


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("pendulm-swingup", "pendulum-swingup"),
        ("soft-quadruped-quik", "soft-quadruped-quick"),
        ("soft_quadruped", "soft-quadruped"),
        ("pendulum", "pendulum-swingup"),
    ],
)
def test_unknown_name_is_answered_with_the_closest(wrong: str, right: str) -> None:
    """A misspelt name is one line with what may have been meant."""
    with pytest.raises(UsageError, match=f"unknown environment {wrong!r}; did you mean {right!r}") as caught:
        registry.make(wrong)
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_gets_no_guess() -> None:
    """No suggestion is better than a wild one."""
    with pytest.raises(UsageError, match=r"unknown environment 'zzz' \(`rfo envs` lists"):
        registry.spec("zzz")


def test_third_party_task_is_a_full_citizen(install: Install) -> None:
    """An installed package's task is listed and built like the shipped ones."""
    install(mine="third_good:Mine")
    assert "mine" in registry.ids()
    task = registry.make("mine", dtype=torch.float64, threads=1)
    assert isinstance(task, Task)
    assert (task.spec.id, task.dtype, task.threads) == ("mine", torch.float64, 1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("third_broken:Task", "cannot be loaded from third_broken:Task: RuntimeError: the licence server"),
        ("third_missing:Task", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("third_absent:Task", "ModuleNotFoundError: No module named 'third_absent'"),
        ("third_good:Absent", "cannot be loaded from third_good:Absent: AttributeError"),
        ("third_other:NoTask", "is not a subclass of rfo.core.task.Task"),
        ("third_other:NoSpec", "has no class attribute `spec`"),
        ("third_other:Misnamed", "calls itself 'pendulum-swingup'"),
    ],
)
def test_broken_entry_point_is_one_line_and_hurts_nobody(
    install: Install, capsys: pytest.CaptureFixture[str], value: str, words: str
) -> None:
    """What cannot be loaded is named, in one line, and every other environment still works."""
    install(broken=value, mine="third_good:Mine")
    with pytest.raises(UsageError, match="environment 'broken'") as caught:
        registry.spec("broken")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert registry.spec("mine").id == "mine"
    assert main(["envs", "--json"]) == 0
    out, err = capsys.readouterr()
    listed = [row["id"] for row in json.loads(out)]
    assert {*BUILT_IN, "mine"} <= set(listed)
    assert "broken" not in listed
    assert len([line for line in err.splitlines() if line.startswith("rfo: environment 'broken'")]) == 1


def test_a_name_registered_twice_is_refused(install: Install) -> None:
    """Two packages with one name are a conflict that names both; seen twice on the path is none."""
    install(mine="third_good:Mine")
    install("twin", mine="third_good:Mine")
    assert registry.spec("mine").id == "mine"
    install("rival", mine="third_other:NoTask")
    with pytest.raises(UsageError, match=r"more than once: .*third_good:Mine"):
        registry.spec("mine")
