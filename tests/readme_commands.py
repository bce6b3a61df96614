"""Runs the README's commands: every line of every ```sh block, with small budgets.

A block preceded by the comment `<!-- not run -->` is skipped (cloning, for example). `make demo` and `make test` are
left out, since whoever runs this has just made them or would wait for minutes; training commands get a small budget
through `--set`. All lines of the README run in one temporary folder, in order, so that one can use another's output.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = ("make ", "git ", "cd ", "pip ", "tensorboard ")
SMALL = {
    "rfo train": "--set env_steps=1024 --set eval_interval=0",
    "rfo demo": "--set env_steps=1024 --set eval_interval=0",
    "rfo eval": "--episodes 2",
    "rfo record": "--seconds 0.2 --width 160 --height 90",
    "rfo bench": "--envs 4 --horizon 4",
}


def commands(text: str) -> list[str]:
    """Returns the command lines of a README that are to be run."""
    blocks = re.findall(r"(<!-- not run -->\s*)?```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for skip, block in blocks if not skip for line in block.replace("\\\n", " ").splitlines()]
    found = [line.split(" #")[0].removeprefix("$ ").strip() for line in lines]
    return [line for line in found if line and not line.startswith(("#", *SKIPPED))]


def shortened(command: str) -> str:
    """Returns a command with a small budget; the last value of a repeated option counts."""
    words = shlex.split(command)
    return f"{command} {SMALL.get(' '.join(words[:2]), '')}".strip()


def main() -> int:
    """Runs all commands; returns 1 at the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configs").symlink_to(ROOT / "configs")
        for command in map(shortened, commands((ROOT / "README.md").read_text(encoding="utf-8"))):
            started = time.monotonic()
            done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
            print(
                f"{'ok  ' if done.returncode == 0 else 'FAIL'} {time.monotonic() - started:5.1f} s  {command}",
                flush=True,
            )
            if done.returncode != 0:
                print(done.stdout + done.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
