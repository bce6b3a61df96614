"""Arguments of every command. Commands are imported when they are called, so that `rfo --help` is immediate."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from rfo.core.errors import UsageError

__all__ = ["Parser", "build_parser"]

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises a `UsageError` instead of printing the usage and leaving."""
        raise UsageError(f"{message} (`{self.prog} --help` shows what there is)")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parses the arguments of the process; shows the help where there are none."""
        known = [name for action in self._actions if isinstance(action.choices, dict) for name in action.choices]
        if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
            from rfo.core.registry import did_you_mean  # imports torch, which --help can do without

            hint = did_you_mean(arguments[0], known)
            raise UsageError(f"invalid choice: {arguments[0]!r}{hint} (commands: {', '.join(known)})")
        return self.parse_args(arguments or ["--help"])


def build_parser() -> Parser:
    """Returns the parser of the whole command line."""
    parser = Parser(prog="rfo", description="Train flow policies through differentiable physics.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_envs(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_record(commands)
    _add_export(commands)
    _add_compare(commands)
    _add_collect(commands)
    _add_check(commands)
    _add_bench(commands)
    _add_doctor(commands)
    _add_demo(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from rfo import __version__

        print(f"rfo {__version__}")  # parser.exit would write to standard error
        parser.exit()


Commands = argparse._SubParsersAction  # the public name of what add_subparsers returns does not exist


def _add(commands: Commands[Parser], name: str, module: str, text: str) -> Parser:
    def run(options: argparse.Namespace) -> int:
        code: int = getattr(import_module(f"rfo.cli.{module}"), f"run_{name}")(options)
        return code

    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(command=run)
    return parser


def _add_machine(parser: Parser, *, device: str | None = "cpu") -> None:
    parser.add_argument("--threads", type=int, metavar="T", help="cores the engine may use (default: all)")
    parser.add_argument("--device", default=device, help="torch device (default: cpu)")


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _add_envs(commands: Commands[Parser]) -> None:
    _add_json(_add(commands, "envs", "inspection", "list all environments"))


def _add_train(commands: Commands[Parser]) -> None:
    parser = _add(commands, "train", "training", "train a policy")
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="name of a config, or path of a .yaml file")
    parser.add_argument("--seed", type=int, help="seed (default: the config's)")
    parser.add_argument("--run-dir", metavar="DIR", help="folder to write into (default: a new one under runs/)")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="replace a key of the config"
    )
    _add_machine(parser, device=None)


def _add_eval(commands: Commands[Parser]) -> None:
    parser = _add(commands, "eval", "training", "evaluate a trained policy")
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--episodes", type=int, help="number of episodes (default: the config's)")
    parser.add_argument("--sampled", action="store_true", help="sample actions instead of starting the flow from zero")
    parser.add_argument("--baselines", action="store_true", help="also evaluate zero, random and untrained policies")
    _add_json(parser)
    _add_machine(parser, device=None)


def _add_record(commands: Commands[Parser]) -> None:
    parser = _add(commands, "record", "training", "record a film of a run or of an environment")
    parser.add_argument("subject", metavar="RUN|ENV", help="folder of a run, or an environment")
    parser.add_argument("--policy", choices=("trained", "zero", "random"), help="what acts (default: trained)")
    parser.add_argument("--output", metavar="FILE", help="film to write, .mp4 or .gif")
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated seconds (default: 5)")
    parser.add_argument("--start", type=float, default=0.0, help="simulated seconds before the film (default: 0)")
    parser.add_argument("--fps", type=float, default=30.0, help="pictures per second (default: 30)")
    parser.add_argument("--width", type=int, default=960, help="picture width in pixels (default: 960)")
    parser.add_argument("--height", type=int, default=540, help="picture height in pixels (default: 540)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial state (default: 0)")
    parser.add_argument(
        "--renderer", metavar="NAME", help="draw with a renderer of the task's own: mujoco for articulated bodies"
    )
    parser.add_argument("--strip", metavar="FILE", help="also write frames of its first second onto one sheet, .png")
    _add_machine(parser, device=None)


def _add_export(commands: Commands[Parser]) -> None:
    parser = _add(commands, "export", "export", "save a run's policy alone, with its config and its return")
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--episodes", type=int, help="episodes of the return it records (default: the config's)")
    _add_machine(parser, device=None)


def _add_compare(commands: Commands[Parser]) -> None:
    parser = _add(commands, "compare", "comparison", "train configs over seeds and compare them in one table")
    parser.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG",
        help="names of configs, or paths of .yaml files; NAME:KEY=VALUE is a variant",
    )
    parser.add_argument("--seeds", type=int, nargs="+", required=True, metavar="S", help="seeds of every config")
    parser.add_argument("--output", default="runs/compare", metavar="DIR", help="folder (default: runs/compare)")
    parser.add_argument("--jobs", type=int, metavar="J", help="runs side by side (default: as many as cores allow)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="replace a key of the configs"
    )
    parser.add_argument("--threads", type=int, metavar="T", help="cores each run's engine may use (default: 1)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")


def _add_collect(commands: Commands[Parser]) -> None:
    parser = _add(commands, "collect", "collection", "write a data set of a run's policy, a baseline or a script")
    parser.add_argument("subject", metavar="RUN|ENV", help="folder of a run, or an environment")
    parser.add_argument(
        "--policy",
        metavar="P",
        help="trained, untrained, zero, random, oracle or oracle:NAME (default: trained for a run, else random)",
    )
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--episodes", type=int, help="whole episodes to collect")
    amount.add_argument("--steps", type=int, help="environment steps to collect; the last episodes are cut")
    parser.add_argument("--output", metavar="FILE", help="file to write, .npz, .h5 or .hdf5")
    parser.add_argument("--sampled", action="store_true", help="sample the policy's actions")
    parser.add_argument("--noise", type=float, default=0.0, metavar="S", help="deviation of noise added to actions")
    parser.add_argument("--envs", type=int, default=8, metavar="N", help="environments stepped together (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default: 0)")
    _add_machine(parser, device=None)


def _add_check(commands: Commands[Parser]) -> None:
    parser = _add(commands, "check", "inspection", "check an environment's contract and its gradients")
    parser.add_argument("env", metavar="ID", help="environment")
    _add_json(parser)
    _add_machine(parser)


def _add_bench(commands: Commands[Parser]) -> None:
    parser = _add(commands, "bench", "benchmark", "measure an environment's speed and memory, or an update's time")
    parser.add_argument("env", nargs="?", metavar="ID", help="environment")
    parser.add_argument(
        "--scaling", action="store_true", help="sweep environments, horizon and elements through --envs and --horizon"
    )
    parser.add_argument("--output", default="runs/scaling", metavar="DIR", help="folder of --scaling")
    parser.add_argument("--algo", choices=("flowrl", "sac-flow", "sac"), help="measure an algorithm's gradient update")
    parser.add_argument("--velocity", choices=("mlp", "gated", "decoded"), help="velocity network of --algo")
    parser.add_argument("--size", choices=("released", "small"), default="released", help="sizes of --algo")
    parser.add_argument("--envs", type=int, default=32, metavar="N", help="environments (default: 32)")
    parser.add_argument("--horizon", type=int, default=32, metavar="H", help="steps of a window (default: 32)")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32", help="type")
    stores = "what a control step keeps for its gradient: every substep, or what to run them again from (default: auto)"
    parser.add_argument("--store", choices=("auto", "substep", "control"), default="auto", help=stores)
    _add_json(parser)
    _add_machine(parser)


def _add_doctor(commands: Commands[Parser]) -> None:
    _add_json(_add(commands, "doctor", "inspection", "look at this machine and say what is missing"))


def _add_demo(commands: Commands[Parser]) -> None:
    parser = _add(commands, "demo", "demo", "train, compare with baselines, film and plot: the whole path at once")
    parser.add_argument("--config", default="soft-quadruped-quick", help="config (default: soft-quadruped-quick)")
    parser.add_argument("--seed", type=int, help="seed (default: the config's)")
    parser.add_argument("--run-dir", metavar="DIR", help="folder to write into (default: a new one under runs/)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="replace a key of the config"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated seconds of the film (default: 5)")
    _add_machine(parser, device=None)
