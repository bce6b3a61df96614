"""What of this machine matters to rfo, and what to do where something is missing."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.train.bench import available_cores
from rfo.train.logging import cpu_name

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One fact about the machine.

    Attributes:
        name: What was looked at.
        ok: Whether rfo works with it.
        value: What was found.
        advice: What to do, where it is not ok; otherwise empty.
    """

    name: str
    ok: bool
    value: str
    advice: str = ""


def examine() -> list[Finding]:
    """Looks at everything once."""
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("torch", _torch),
        ("warp", _warp),
        ("devices", _devices),
        ("cores", _cores),
        ("instruction set", _instruction_set),
        ("kernel cache", _kernel_cache),
        ("ffmpeg", _ffmpeg),
        ("environments", _environments),
    ]
    found = []
    for name, look in looks:
        try:
            found.append(look())
        # A doctor reports whatever it meets instead of falling ill itself.
        except Exception as error:
            found.append(Finding(name, False, f"{type(error).__name__}: {error}".splitlines()[0], "reinstall rfo"))
    return found


def _python() -> Finding:
    ok = sys.version_info >= (3, 10)
    return Finding("python", ok, platform.python_version(), "" if ok else "install Python 3.10 or newer")


def _torch() -> Finding:
    import torch

    ok = (2, 9) <= tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 14)
    return Finding("torch", ok, torch.__version__, "" if ok else "pip install 'torch>=2.9,<2.14'")


def _warp() -> Finding:
    import warp

    ok = warp.__version__.startswith("1.19.")
    return Finding("warp", ok, warp.__version__, "" if ok else "pip install 'warp-lang>=1.19,<1.20'")


def _devices() -> Finding:
    import torch

    names = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return Finding("devices", True, ", ".join(names))


def _cores() -> Finding:
    usable, present = available_cores(), os.cpu_count() or 1
    text = f"{usable} of {present}" if usable != present else str(present)
    return Finding("cores", True, f"{text} ({cpu_name()})")


def _instruction_set() -> Finding:
    import torch

    best = torch.backends.cpu.get_cpu_capability()
    slow = best == "DEFAULT" and platform.machine() in ("x86_64", "AMD64")
    advice = "no vector instructions seen; training works, but slowly: use a machine with AVX2" if slow else ""
    return Finding("instruction set", not slow, f"{platform.machine()} {best}", advice)


def _kernel_cache() -> Finding:
    import warp

    folder = Path(os.environ.get("WARP_CACHE_PATH") or warp.config.kernel_cache_dir or _default_cache())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "set WARP_CACHE_PATH to a folder that can be written, or kernels are compiled at every start"
        return Finding("kernel cache", False, f"{folder}: {error.strerror}", advice)
    return Finding("kernel cache", True, f"{folder} can be written")


def _default_cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warp")


def _ffmpeg() -> Finding:
    import imageio_ffmpeg  # type: ignore[import-untyped]

    try:
        return Finding("ffmpeg", True, imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return Finding("ffmpeg", False, "not found", "pip install 'imageio[ffmpeg]', or record to a .gif")


def _environments() -> Finding:
    problems = []
    names = registry.ids()
    for name in names:
        try:
            registry.spec(name)
        except UsageError as error:
            problems.append(str(error))
    if not names:
        return Finding("environments", False, "none registered", "pip install rfo again: its entry points are missing")
    advice = "repair or uninstall the package that registers it" if problems else ""
    return Finding("environments", not problems, "; ".join(problems) or f"{len(names)} registered", advice)
