"""The flags of every command, with their `VLLM_FSM_…` variables as defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from vllm_fsm import __version__
from vllm_fsm.config import Config, command, duration, port

EPILOG = "Each flag can also be set as an environment variable: --run-dir is VLLM_FSM_RUN_DIR. Flags win."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="vllm-fsm",
        description="Keep one vLLM server in the state that store.json and credentials.json ask for.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=f"vllm-fsm {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _run(commands)
    _status(commands)
    _health(commands)
    _history(commands)
    _retry(commands)
    _states(commands)
    _completion(commands)
    return top


def _run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        "supervise the engine in the foreground",
        "Exit codes: 0 asked to stop, 2 wrong usage, 3 another controller holds a directory, 70 a bug of ours.",
    )
    _directories(run, "data", "public", "run_dir", "state_dir")
    default = Config()
    _flag(run, "engine", command, " ".join(default.engine), "engine command, split as a shell splits it")
    _flag(run, "host", str, default.host, "address that the engine listens on")
    _flag(run, "port", port, str(default.port), "port that the engine listens on")
    _flag(run, "startup_timeout", duration, "35m", "longest start before Failed; the engine may still come up")
    _flag(run, "stop_timeout", duration, "60s", "time between SIGTERM and SIGKILL")
    _flag(run, "stall_timeout", duration, "60s", "longest silence of a download (no effect while vLLM downloads for itself)")
    _flag(
        run,
        "swap",
        str,
        default.swap,
        "when a running model gives way to one that must be downloaded",
        choices=["after-download", "immediate"],
    )
    _flag(
        run,
        "log_format",
        str,
        default.log_format,
        "auto: console on a terminal, else json",
        choices=["auto", "json", "console"],
    )


def _status(commands: Any) -> None:
    status = _command(commands, "status", "say what is wanted, what runs, why not yet, and what to do")
    _directories(status, "run_dir")
    _json(status)


def _health(commands: Any) -> None:
    health = _command(commands, "health", "print the health line; exit 0 only when the API is ready")
    _directories(health, "run_dir")
    _json(health)


def _history(commands: Any) -> None:
    history = _command(commands, "history", "list the latest transitions")
    _directories(history, "data", "state_dir")
    history.add_argument("-n", "--lines", type=_count, default=20, help="how many (default: 20)")
    _json(history)


def _retry(commands: Any) -> None:
    retry = _command(commands, "retry", "ask the running controller to try again now")
    _directories(retry, "run_dir")
    _json(retry)


def _states(commands: Any) -> None:
    states = _command(commands, "states", "print the state machines as states.md")
    states.add_argument(
        "--check",
        nargs="?",
        const=Path("states.md"),
        type=Path,
        metavar="FILE",
        help="compare FILE (default: states.md) with it instead; exit 1 if it differs",
    )


def _completion(commands: Any) -> None:
    completion = _command(commands, "completion", "print a completion script for your shell")
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def _command(commands: Any, name: str, help_: str, epilog: str = EPILOG) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.", epilog=epilog
    )
    added.set_defaults(command=lambda arguments: import_module(f"vllm_fsm.cli.{name}").main(arguments))
    return added


DIRECTORIES = {
    "data": "directory of store.json and the model cache",
    "public": "directory of credentials.json",
    "run_dir": "directory of health.json, the lock and temporary files",
    "state_dir": "directory of the history (default: .vllm-fsm below the data directory)",
}


def _directories(to: argparse.ArgumentParser, *names: str) -> None:
    default = Config()
    for name in names:
        value = getattr(default, name)
        _flag(to, name, _path, None if value is None else str(value), DIRECTORIES[name])


def _path(text: str) -> Path:
    return Path(text).absolute()


def _json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="print JSON")


def _flag(
    to: argparse.ArgumentParser,
    name: str,
    type_: Callable[[str], Any],
    default: str | None,
    help_: str,
    choices: list[str] | None = None,
) -> None:
    """Add `--name`. A string default goes through `type_`, so the variable is judged as the flag is."""
    variable = os.environ.get(f"VLLM_FSM_{name.upper()}")
    shown = help_ if default is None else f"{help_} (default: {default})"
    if variable is not None and choices and variable not in choices:
        to.error(f"VLLM_FSM_{name.upper()}: {variable!r} is none of {', '.join(choices)}")
    to.add_argument(
        f"--{name.replace('_', '-')}",
        type=_named(type_),
        default=variable if variable is not None else default,
        choices=choices,
        metavar=None if choices else name.upper(),
        help=shown.replace("%", "%%"),
    )


def _named(type_: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return type_(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)
