"""Runs what the README shows: every line of every ```sh block and every ```python block, with small budgets.

A block preceded by the comment `<!-- not run -->` is skipped (cloning, for example). `make demo` and `make test` are
left out, since whoever runs this has just made them or would wait for minutes; training commands get a small budget
through `--set`. Everything runs in one temporary folder, in the README's order, so that one part can use another's
output. Three minutes must be enough for all of it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 180.0
SKIPPED = ("make ", "git ", "cd ", "pip ", "source ", "tensorboard ")
SMALL = {
    "rfo train": "--set env_steps=1024 --set eval_interval=0 --set eval_episodes=2",
    "rfo demo": "--set env_steps=1024 --set eval_interval=0 --set eval_episodes=2 --set expected_return=null",
    "rfo eval": "--episodes 2",
    "rfo export": "--episodes 2",
    "rfo record": "--seconds 0.2 --width 160 --height 90",
    "rfo bench": "--envs 4 --horizon 4",
}


def steps(text: str) -> list[list[str]]:
    """Returns the programs of a README that are to be run, with their arguments, in its order."""
    found = []
    for skip, language, block in re.findall(r"(<!-- not run -->\s*)?```(\w*)\n(.*?)```", text, flags=re.DOTALL):
        if skip:
            continue
        if language == "python":
            found.append([sys.executable, "-c", block])
        if language == "sh":
            found += [["bash", "-c", command] for command in map(shortened, commands(block))]
    return found


def commands(block: str) -> list[str]:
    """Returns the command lines of a block that are to be run."""
    lines = [line.split(" #")[0].removeprefix("$ ").strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *SKIPPED))]


def shortened(command: str) -> str:
    """Returns a command with a small budget; the last value of a repeated option counts."""
    words = shlex.split(command)
    return f"{command} {SMALL.get(' '.join(words[:2]), '')}".strip()


def main() -> int:
    """Runs everything; returns 1 at the first step that fails or when the time is over."""
    left = SECONDS
    # Pictures are drawn without a display.
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configs").symlink_to(ROOT / "configs")
        for step in steps((ROOT / "README.md").read_text(encoding="utf-8")):
            started = time.monotonic()
            shown = step[-1] if step[0] == "bash" else f"python: {step[-1].splitlines()[-1]}"
            try:
                done = subprocess.run(
                    step, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=left
                )
            except subprocess.TimeoutExpired:
                print(f"LATE  {SECONDS:.0f} s are over in: {shown}")
                return 1
            took = time.monotonic() - started
            left -= took
            print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {took:5.1f} s  {shown}", flush=True)
            if done.returncode != 0:
                print(done.stdout + done.stderr)
                return 1
    print(f"{SECONDS - left:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
