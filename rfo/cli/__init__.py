"""The command line: `rfo envs|train|eval|record|export|compare|collect|check|bench|doctor|demo`.

Exit codes: 0 done; 1 a check failed or a run diverged; 2 bad input, told in one line; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rfo.cli.parser import build_parser
from rfo.core.errors import EngineLimitError, SimulationDivergedError, UsageError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Command-line arguments; those of the process if None.

    Returns:
        The exit code.
    """
    try:
        options = build_parser().parse(sys.argv[1:] if arguments is None else list(arguments))
        code: int = options.command(options)
        return code
    except UsageError as error:
        return _fail(error, 2)
    except (SimulationDivergedError, EngineLimitError, FloatingPointError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("rfo: stopped", file=sys.stderr)
        return 130


def _fail(error: Exception, code: int) -> int:
    print(f"rfo: {' '.join(str(error).split())}", file=sys.stderr)
    return code
