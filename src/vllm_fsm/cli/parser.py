"""The flags of every command, with their `VLLM_FSM_…` variables as defaults.

`vllm-fsm health` is asked every few seconds: what it does not need is imported where it is used.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from vllm_fsm import __version__, places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

EPILOG = "The flags of `run`, and --build, can also be set as variables: --run-dir is VLLM_FSM_RUN_DIR. Flags win."
CREDENTIALS = f"Exit codes: 0 done, 1 there is no key, or it could not be stored, 2 wrong usage. {EPILOG}"
EPILOGS = {
    "run": (
        "Exit codes: 0 asked to stop, 2 wrong usage, 3 another controller holds a directory, 70 a bug of ours. "
        f"{EPILOG}"
    ),
    "delete-model-cache": f"Exit codes: 0 deleted, 2 refused, or not all of it could be removed. {EPILOG}",
    "hardware": f"Exit codes: 0 everything answered, 1 something did not. {EPILOG}",
    "set-model": (
        "Exit codes: 0 done, or nothing to be done; 1 it could not be stored, or nothing was chosen; 2 refused, with "
        f"the reason. {EPILOG}"
    ),
    "get-api-credentials": CREDENTIALS,
    "get-api-key": CREDENTIALS,
    "rotate-api-key": CREDENTIALS,
    "action": f"Exit codes: 0 done, 2 refused, with the reasons as JSON. {EPILOG}",
    "presets": f"Exit codes: 0 the hardware is known, 1 it did not answer, 2 wrong usage. {EPILOG}",
}


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; when `asked` names a command, the others are without flags."""
    top = argparse.ArgumentParser(
        prog="vllm-fsm",
        description="Keep one vLLM server in the state that store.json and credentials.json ask for.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=f"vllm-fsm {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (help_, flags) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.", epilog=EPILOGS.get(name, EPILOG)
        )
        command.set_defaults(command=_main(name))
        if asked == name or asked not in COMMANDS:
            flags(command)
    return top


def _main(name: str) -> Callable[[argparse.Namespace], Any]:
    module = MODULES.get(name, name.replace("-", "_"))
    return lambda arguments: import_module(f"vllm_fsm.cli.{module}").main(arguments)


def _run(run: argparse.ArgumentParser) -> None:
    from vllm_fsm.config import duration, switch

    _directories(run, "data", "public", "run_dir", "state_dir")
    _engine(run)
    _address(run)
    _setting(run, "startup_timeout", duration, "longest start before Failed; the engine may still come up")
    _setting(run, "stop_timeout", duration, "time between SIGTERM and SIGKILL")
    _setting(run, "stall_timeout", duration, "longest silence of a download before it is begun again")
    _setting(
        run,
        "silence_timeout",
        duration,
        "how long a starting engine may print, compute and read nothing; three times as long while it compiles",
    )
    _setting(
        run,
        "fallback",
        str,
        "what to do when a new choice cannot be served: say so, or serve what was ready last again",
        choices=["off", "last-good"],
    )
    _setting(
        run,
        "swap",
        str,
        "when a running model gives way to one that must be downloaded",
        choices=["after-download", "immediate"],
    )
    _setting(run, "restart_first", duration, "delay of the second restart in a row; it doubles")
    _setting(run, "restart_longest", duration, "longest such delay")
    _setting(run, "restart_intensity", _count, "failures in a row before it rests")
    _setting(run, "restart_window", duration, "time in which failures count as being in a row")
    _setting(run, "slow_retry", duration, "time between two tries of what rests")
    _setting(run, "restart_reset", duration, "an engine that was ready for so long starts with a clean record")
    _setting(run, "memory_wait", duration, "longest wait for GPU memory before a start")
    _setting(
        run,
        "log_format",
        str,
        "auto: console on a terminal, else json",
        choices=["auto", "json", "console"],
    )
    _setting(
        run,
        "guard",
        str,
        "where vLLM asks for the key; api: below /v1, /v2, /inference and /cohere; all: everywhere but at /health",
        choices=["api", "all"],
    )
    _setting(
        run,
        "warm",
        str,
        "keep a process that has imported vLLM, for a faster next start; auto: where memory allows it, on CPU builds",
        choices=["auto", "on", "off"],
    )
    _setting(run, "xet", switch, "fetch over Xet where the hub offers it (never tried: no such hub)", const="on")


def _status(status: argparse.ArgumentParser) -> None:
    _directories(status, "run_dir")
    _json(status)


def _health(health: argparse.ArgumentParser) -> None:
    # A string: importing pathlib would take a tenth of the command's time.
    _flag(health, "run_dir", _absolute, *DIRECTORIES["run_dir"])
    _json(health)


def _history(history: argparse.ArgumentParser) -> None:
    _directories(history, "data", "state_dir")
    history.add_argument("-n", "--lines", type=_count, default=20, help="how many (default: %(default)s)")
    _json(history)


def _logs(logs: argparse.ArgumentParser) -> None:
    _directories(logs, "data", "state_dir")
    logs.add_argument(
        "--attempt",
        type=_count,
        metavar="N",
        help="number of the start, as health and history have it (default: the latest)",
    )
    logs.add_argument("--follow", "-f", action="store_true", help="go on with what is printed from now on")
    _json(logs)


def _retry(retry: argparse.ArgumentParser) -> None:
    _directories(retry, "run_dir")
    _json(retry)


def _presets(presets: argparse.ArgumentParser) -> None:
    from vllm_fsm.presets import CPU, TIERS

    _directories(presets, "data")
    _build(presets)
    presets.add_argument("--all", action="store_true", help="list those that do not fit too, with the reason")
    machine = presets.add_argument_group("another machine", "What would fit on hardware that is described here?")
    machine.add_argument("--tier", choices=[*TIERS, CPU], help="kind of hardware")
    machine.add_argument("--memory", type=_positive, metavar="GIB", help="memory of one GPU in GiB")
    machine.add_argument("--devices", type=_positive, help="how many equal GPUs (default: 1)")
    machine.add_argument("--no-fp8", action="store_true", help="AMD GPUs that do not calculate in FP8")
    _json(presets)


def _set_model(set_model: argparse.ArgumentParser) -> None:
    _directories(set_model, "data", "run_dir")
    _engine(set_model)
    _build(set_model)
    set_model.add_argument(
        "preset",
        metavar="PRESET",
        nargs="?",
        help="one that `vllm-fsm presets` lists; with nothing to choose, a terminal is asked",
    )
    set_model.add_argument(
        "--custom", metavar="ARGUMENTS", help="what follows `vllm serve`, as one string that is split as a shell does"
    )
    set_model.add_argument(
        "--fix",
        action="store_true",
        help="the same model with the one change that its failure asks for, as `vllm-fsm status` names it",
    )
    set_model.add_argument("--none", action="store_true", help="select nothing")
    set_model.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="variable for the engine; may be repeated"
    )
    set_model.add_argument(
        "--unset",
        metavar="NAME",
        action="append",
        default=[],
        help="forget a variable for access or network (HF_TOKEN, HF_ENDPOINT, …_PROXY), which stays otherwise",
    )
    set_model.add_argument(
        "--hf-token-file", metavar="FILE", help="HuggingFace token from a file, or from standard input (-)"
    )
    set_model.add_argument("--dry-run", action="store_true", help="check the choice and write nothing")
    _json(set_model)


def _credentials(credentials: argparse.ArgumentParser) -> None:
    _directories(credentials, "public", "run_dir")
    _address(credentials)
    credentials.add_argument(
        "--address", metavar="URL", help="how clients reach the service (default: this machine, by --host and --port)"
    )
    credentials.add_argument("--show", action="store_true", help="print the key in full on a terminal too")
    _json(credentials)


def _action(action: argparse.ArgumentParser) -> None:
    verbs = action.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", help="print which actions there are", description="Print which actions there are.")
    for verb, help_ in (("form", "print what an action asks for"), ("run", "run an action")):
        description = f"{help_[0].upper()}{help_[1:]}."
        one = verbs.add_parser(verb, help=help_, description=description, epilog=EPILOGS["action"])
        one.add_argument("id", metavar="ID", help="of the action, as `vllm-fsm action list` prints it")
        if verb == "run":
            one.add_argument("--input", metavar="JSON", default="{}", help="the fields, - for standard input")
        _directories(one, "data", "public", "run_dir")
        _engine(one)
        _build(one)
        _address(one)


def _cache(cache: argparse.ArgumentParser) -> None:
    _directories(cache, "data", "run_dir")
    _json(cache)


def _delete_model_cache(delete: argparse.ArgumentParser) -> None:
    delete.add_argument("model", metavar="MODEL", help="as `vllm-fsm cache` lists it: org/name")
    delete.add_argument("--force", action="store_true", help="also when it is selected, served or being downloaded")
    _directories(delete, "data", "run_dir")
    _json(delete)


def _states(states: argparse.ArgumentParser) -> None:
    from pathlib import Path

    states.add_argument(
        "--check",
        nargs="?",
        const=Path("states.md"),
        type=Path,
        metavar="FILE",
        help="compare FILE (default: %(const)s) with it instead; exit 1 if it differs",
    )


def _hardware(hardware: argparse.ArgumentParser) -> None:
    _build(hardware)
    hardware.add_argument(
        "--probes", action="store_true", help="print what the machine said, as JSON, and decide nothing"
    )
    _json(hardware)


def _completion(completion: argparse.ArgumentParser) -> None:
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])


COMMANDS = {
    "run": ("supervise the engine in the foreground", _run),
    "status": ("say what is wanted, what runs, why not yet, and what to do", _status),
    "health": ("print the health line; exit 0 only when the API is ready", _health),
    "set-model": ("choose what is served", _set_model),
    "get-api-credentials": ("print the API key and the address it is used with", _credentials),
    "get-api-key": ("the same as get-api-credentials", _credentials),
    "rotate-api-key": ("replace the API key", _credentials),
    "action": ("the actions for programs: list them, open their forms, run them", _action),
    "history": ("list the latest transitions", _history),
    "logs": ("print what an engine printed; the last three starts are kept", _logs),
    "retry": ("ask the running controller to try again now", _retry),
    "presets": ("list the models that fit this machine, with their context lengths", _presets),
    "cache": ("list the cached models with their sizes, and the free space", _cache),
    "delete-model-cache": ("delete one cached model for good; the selection stays", _delete_model_cache),
    "states": ("print the state machines as states.md", _states),
    "hardware": ("say which accelerators and memory there are, what is used, and why", _hardware),
    "completion": ("print a completion script for your shell", _completion),
}
MODULES = {"get-api-key": "get_api_credentials"}
"""Where a command is that is not in a module of its name."""
DIRECTORIES = {
    "data": (places.DATA, "directory of store.json and the model cache"),
    "public": (places.PUBLIC, "directory of credentials.json"),
    "run_dir": (places.RUN_DIR, "directory of health.json, the lock and temporary files"),
    "state_dir": (None, f"directory of history and engine output (default: {places.STATE} below the data directory)"),
}


def _directories(to: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        _flag(to, name, _path, *DIRECTORIES[name])


def _engine(to: argparse.ArgumentParser) -> None:
    from vllm_fsm.config import command

    _setting(to, "engine", command, "engine command, split as a shell splits it")


def _address(to: argparse.ArgumentParser) -> None:
    from vllm_fsm.config import port

    _setting(to, "host", str, "address that the engine listens on")
    _setting(to, "port", port, "port that the engine listens on")


def _build(to: argparse.ArgumentParser) -> None:
    choices = ["cuda", "rocm", "cpu"]
    _flag(to, "build", str, None, "build of vLLM that serves (default: what the devices suggest)", choices=choices)


def _path(text: str) -> Path:
    from pathlib import Path

    return Path(text).absolute()


def _absolute(text: str) -> str:
    return os.path.join(os.getcwd(), text)


def _json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="print JSON")


def _setting(
    to: argparse.ArgumentParser,
    name: str,
    type_: Callable[[str], Any],
    help_: str,
    choices: list[str] | None = None,
    const: str | None = None,
) -> None:
    """Add the flag of a field of `Config`, whose default it has."""
    from vllm_fsm.config import Config, written

    _flag(to, name, type_, written(getattr(Config(), name)), help_, choices, const)


def _flag(
    to: argparse.ArgumentParser,
    name: str,
    type_: Callable[[str], Any],
    default: str | None,
    help_: str,
    choices: list[str] | None = None,
    const: str | None = None,
) -> None:
    """Add `--name`. A string default goes through `type_`, so the variable is judged as the flag is.

    `const`: what the flag means without a value.
    """
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
        nargs="?" if const else None,
        const=const,
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
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000000")
    return int(text)
