"""What the serve arguments and variables of the store come to, once everything reserved is taken out.

The engine runs as `vllm serve <arguments> --host H --port P --download-dir D` with its key in `VLLM_API_KEY`. vLLM has
many spellings that would win over these although they stand before them, move or replace the API server, or turn
authentication off. They are dropped with a warning; the rest is passed on as it is.

How vLLM 0.32 reads its command line, in this order (`vllm/utils/argparse_utils.py`, `FlexibleArgumentParser`):

1. the first `--model X` or `--model=X` is moved to the front;
2. an argument that is exactly `--config` splices in the contents of a YAML file;
3. in the name of a `--flag`, `_` becomes `-`; `-OX` becomes `--optimization-level X`, whatever `X` is;
4. `-flag.a.b=v` and `-flag.a.b v`, where the value may look like anything, are merged into one JSON text for each flag
   and put **behind all other arguments**: they win over our fixed flags;
5. argparse, where any unambiguous beginning of a `--flag` stands for it.

Flags that run code in the server (`--middleware`, `--worker-cls`, `--trust-remote-code`, plugins) and variables that do
(`LD_PRELOAD`, `PYTHONPATH`, `VLLM_PLUGINS`) are the user's own business: whoever writes the store may run code anyway.
So are flags that change what is served, logged or how processes are laid out behind the one API port.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vllm_fsm.core.snapshot import Finding, Message


@dataclass(frozen=True, slots=True)
class Effective:
    """What is passed on to the engine, beside its fixed flags and variables."""

    arguments: tuple[str, ...]
    """What follows `vllm serve`; empty when nothing is wanted."""
    environment: tuple[tuple[str, str], ...]
    """Sorted by name, each name once."""
    model: str | None
    """The model's name as it is written: a hub id or a path."""
    warnings: tuple[Message, ...]
    """`ReservedArgument(argument)`, `ReservedVariable(name)` and `DuplicateVariable(name)`; never a value."""
    problem: Finding | None
    """`BadArguments(detail)`: no engine may be started with these. The detail is a clause without a full stop."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A flag that is not passed on."""

    values: int | None
    """How many values follow it on vLLM's command line (`nargs`); None: one or more."""
    why: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A reserved flag among the serve arguments."""

    name: str
    """As messages say it."""
    places: tuple[int, ...]
    """Of the flag and of its values among the arguments, from 0."""


_RANKS = "further API servers on the next ports, unseen by the probes"
_TLS = "the API would speak HTTPS: every probe and every client of the plain HTTP interface would fail"
_LAYOUT = "vLLM would start engines without an API server"

RESERVED_ARGUMENTS: Final[dict[str, Reserved]] = {
    "--host": Reserved(1, "fixed: where the API listens"),
    "--port": Reserved(1, "fixed: where the API listens"),
    "--download-dir": Reserved(1, "fixed: the model cache"),
    "--api-key": Reserved(None, "fixed: the key comes from credentials.json and stays out of the process list"),
    "--uds": Reserved(1, "the API would listen on a socket file and never on the port"),
    "--headless": Reserved(0, _LAYOUT),
    "--grpc": Reserved(0, "the port would speak gRPC instead of HTTP"),
    "--grpc-port": Reserved(1, "belongs to a front end that is not used here; vLLM refuses it without"),
    "--root-path": Reserved(1, "authentication looks at the path behind it: it can be turned off this way"),
    "--config": Reserved(1, "a file that can hold any of these flags, and that nobody watches"),
    "--ssl-keyfile": Reserved(1, _TLS),
    "--ssl-certfile": Reserved(1, _TLS),
    "--ssl-ca-certs": Reserved(1, _TLS),
    "--ssl-cert-reqs": Reserved(1, _TLS),
    "--ssl-ciphers": Reserved(1, _TLS),
    "--enable-ssl-refresh": Reserved(0, _TLS),
    "--no-enable-ssl-refresh": Reserved(0, _TLS),
    "--data-parallel-multi-port-external-lb": Reserved(0, _RANKS),
    "-dpm": Reserved(0, _RANKS),
    "--omni": Reserved(0, "hands the whole command line to another program (vllm_omni)"),
    "--help": Reserved(0, "prints help and ends with exit code 0"),
    "-h": Reserved(0, "prints help and ends with exit code 0"),
    "--version": Reserved(0, "is no flag of `vllm serve`: it would end with a usage error"),
    "--": Reserved(0, "makes everything behind it positional, the fixed flags too"),
}
"""The reserved flags with all their long and short names.

A beginning of a long name is taken for it: in vLLM 0.32 none of these beginnings is another flag or stands for just
one other flag (compared with the real parser in `tests/engine`)."""

COUNTS_OF_API_SERVERS: Final = ("--api-server-count", "-asc", "--data-parallel-size", "-dp")
"""Reserved with a value below 1, which means `--headless` (`vllm/entrypoints/cli/serve.py`); else passed on."""

RESERVED_VARIABLES: Final[dict[str, str]] = {
    "VLLM_API_KEY": "fixed: the key comes from credentials.json",
    "HF_HUB_CACHE": "fixed: the model cache",
    "HUGGINGFACE_HUB_CACHE": "the older name of HF_HUB_CACHE",
    "TMPDIR": "fixed: each start has a short directory of its own, removed afterwards with what vLLM leaves in it",
    "VLLM_USE_RUST_FRONTEND": "another API server, whose readiness and authentication are not known here",
    "VLLM_RUST_FRONTEND_PATH": "another API server, whose readiness and authentication are not known here",
    "VLLM_SERVER_DEV_MODE": "opens endpoints that ask for no key and run code, print settings or pause the engine",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "keeps a server alive that cannot answer any more",
}
"""Variables that are not passed on, beside all whose names begin with `VLLM_FSM_` (the controller's own settings).

Passed on, though they look alike: `HF_HOME`, `XDG_CACHE_HOME` and `TRANSFORMERS_CACHE` (`HF_HUB_CACHE` wins over all
three, and the first also says where a token file lies), `VLLM_PORT` and `VLLM_HOST_IP` (sockets between vLLM's own
processes), `VLLM_ALLOW_RUNTIME_LORA_UPDATING` (its endpoints lie below `/v1` and ask for the key)."""

OWN_VARIABLES: Final = "VLLM_FSM_"

SERVED_MODEL_NAME: Final = "--served-model-name"

MOST: Final = 1000
"""Serve arguments; no real command line comes near, and it bounds the time spent here."""

PASSES: Final = 10
"""How often what is left is searched again for reserved flags."""

LONGEST: Final = 128 * 1024 - 1
"""Bytes of one argument, or of `NAME=value`, that Linux passes to a program (`MAX_ARG_STRLEN` less the final NUL)."""

_BEGIN_OTHERS: Final = frozenset({"--model", "--tokenizer"})
"""Flags that are the beginning of others: written out, they mean themselves."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NEGATIVE = re.compile(r"-\d+")


@dataclass(frozen=True, slots=True)
class _Flag:
    """An argument that begins with `-`, read as vLLM reads it."""

    name: str
    """Without value and JSON path, dashes for underscores."""
    dotted: bool
    """It has a JSON path: `--flag.a.b`."""
    value: str | None
    """What follows `=`, None without."""

    @classmethod
    def read(cls, argument: str) -> _Flag:
        head, equals, value = argument.partition("=")
        name, dot, _ = head.partition(".")
        if name.startswith("--"):
            name = "--" + name[2:].replace("_", "-")
        return cls(name, bool(dot), value if equals else None)

    def may_mean(self, flag: str) -> bool:
        """Whether argparse may take this for `flag`: equal to it or the beginning of it."""
        return self.name == flag or (len(self.name) > 2 and flag.startswith(self.name))


def effective(serve_args: Sequence[str], serve_env: Sequence[tuple[str, str]]) -> Effective:
    """Return what is passed on of `serve_args` and `serve_env`, the model they name, warnings and the first problem.

    Nothing wanted (no serve arguments) is no problem: `model` is None then. Values occur in no message.
    """
    if len(serve_args) > MOST:
        detail = f"there are {len(serve_args)} of them; at most {MOST} are passed on"
        return Effective((), (), None, (), _problem(detail))
    unusable = [_unpassable(text, f"argument {number}") for number, text in enumerate(serve_args, 1)]
    arguments, dropped, problem = _search(serve_args)
    model: str | None = None
    if serve_args and problem is None:
        model, problem = _model(serve_args[0], arguments)
    environment, noted, unfit = _environment(serve_env)
    details = [detail for detail in (*unusable, problem, unfit) if detail is not None]
    names = dict.fromkeys(found.name for found in dropped)
    return Effective(
        arguments=tuple(arguments),
        environment=environment,
        model=model,
        warnings=(*(Message.of("ReservedArgument", argument=name) for name in names), *noted),
        problem=_problem(details[0]) if details else None,
    )


def served_names(arguments: Sequence[str], model: str) -> tuple[str, ...]:
    """Return the names under which `/v1/models` lists the model.

    They are the values of the last `--served-model-name` in any of its spellings, else `model` as it is written
    (`vllm/entrypoints/launchers/api_server/app_state.py`). `arguments` are effective ones.
    """
    names = flag_values(arguments, SERVED_MODEL_NAME) or ()
    return tuple(name for name in names if name not in ("", "None")) or (model,)


def names_served_model(arguments: Sequence[str]) -> bool:
    """Whether effective `arguments` say under which name the model is served."""
    return flag_values(arguments, SERVED_MODEL_NAME) is not None


def flag_values(arguments: Sequence[str], flag: str) -> list[str] | None:
    """Return the values that the last `flag` in any of its spellings is given; None where it does not occur.

    `flag` may have a JSON path: `--speculative-config.model` finds what is given under that name. `arguments` are
    effective ones.
    """
    wanted, _, path = flag.partition(".")
    found: list[str] | None = None
    swallowed = -1
    if not path:
        arguments = _without_json_paths(arguments)
    for at, argument in enumerate(arguments):
        if at == swallowed or not argument.startswith("-"):
            continue
        read = _Flag.read(argument)
        if read.dotted and read.value is None:
            swallowed = at + 1
        if argument.partition("=")[0].partition(".")[2] != path:
            continue
        if read.name != wanted and (read.name in _BEGIN_OTHERS or not read.may_mean(wanted)):
            continue
        if read.value is not None:
            found = [read.value]
        else:
            found = list(arguments[at + 1 : at + 2]) if read.dotted else _values(arguments, at + 1)
    return found


def reserved(serve_args: Sequence[str]) -> tuple[Dropped, ...]:
    """Return the reserved flags among `serve_args`, which `effective` leaves out, with their places."""
    return tuple(_search(serve_args)[1]) if len(serve_args) <= MOST else ()


def usable_name(name: str) -> bool:
    """Whether a variable for the engine may have this name."""
    return _VARIABLE_NAME.fullmatch(name) is not None


def reserved_name(name: str) -> bool:
    """Whether a variable of this name is the service's own."""
    return name in RESERVED_VARIABLES or name.startswith(OWN_VARIABLES)


def unpassable_value(name: str, value: str) -> str | None:
    """Say why `value` cannot be passed to a program as the variable `name`; a clause, None when it can."""
    return _unpassable(f"{name}={value}", f"the value of environment variable {name}")


def _search(serve_args: Sequence[str]) -> tuple[list[str], list[Dropped], str | None]:
    """Return the arguments without reserved flags, these, and what is wrong with the rest."""
    places = list(range(len(serve_args)))
    dropped: list[Dropped] = []
    problem: str | None = None
    for _ in range(PASSES):
        # What stood around a dropped flag is side by side now: `-dp --help 0` has become `-dp 0`. So look again.
        kept, found, wrong = _drop([serve_args[place] for place in places])
        dropped += [Dropped(name, tuple(places[at] for at in spots)) for name, spots in found]
        places = [places[at] for at in kept]
        problem = problem or wrong
        if not found:
            break
    else:
        problem = problem or "they hold too many reserved flags within one another"
    return [serve_args[place] for place in places], dropped, problem


def _drop(arguments: Sequence[str]) -> tuple[list[int], list[tuple[str, range]], str | None]:
    """Return the places of what is kept, the names and places of what is not, and what is wrong with the former."""
    kept: list[int] = []
    dropped: list[tuple[str, range]] = []
    problem: str | None = None
    at = 0
    while at < len(arguments):
        start, argument = at, arguments[at]
        at += 1
        if not argument.startswith("-") or argument == "-":
            kept.append(start)
            continue
        flag = _Flag.read(argument)
        following = _values(arguments, at)
        found = _reserved(argument, flag, following)
        if found is None:
            kept.append(start)
            if flag.dotted:
                problem = problem or _json_problem(flag, following)
            continue
        name, values = found
        if flag.value is None:
            at += min(len(following), 1 if flag.dotted else len(following) if values is None else values)
        dropped.append((name, range(start, at)))
    return kept, dropped, problem


def _reserved(argument: str, flag: _Flag, following: Sequence[str]) -> tuple[str, int | None] | None:
    """Return the name to report and the number of values to drop, None if the flag is not reserved."""
    if argument.startswith("-O"):
        level = argument[3:] if argument[2:3] == "=" else argument[2:]
        return ("-O", 0) if level.startswith("-") else None
    exact = RESERVED_ARGUMENTS.get(flag.name)
    if exact is not None:
        return flag.name, exact.values
    if not flag.name.startswith("--"):
        # `-hX` is `-h` and then `-X` to argparse.
        if flag.name.startswith("-h"):
            return "-h", 0
    else:
        meant = [name for name in RESERVED_ARGUMENTS if flag.may_mean(name)]
        if meant:
            counts = [RESERVED_ARGUMENTS[name].values for name in meant]
            known = [count for count in counts if count is not None]
            # A beginning that fits several flags is no secret, and says best what was dropped.
            return meant[0] if len(meant) == 1 else flag.name, max(known) if len(known) == len(counts) else None
    if any(flag.may_mean(name) for name in COUNTS_OF_API_SERVERS):
        value = flag.value if flag.value is not None else next(iter(following), "")
        if _below_one(value):
            return flag.name, 1
    return None


def _below_one(value: str) -> bool:
    try:
        return int(value) < 1
    except ValueError:
        return False


def _values(arguments: Sequence[str], at: int) -> list[str]:
    """Return what stands at `at` and behind as far as argparse takes it for values of one flag."""
    values: list[str] = []
    for argument in arguments[at:]:
        if argument.startswith("-") and argument != "-" and not _NEGATIVE.fullmatch(argument):
            break
        values.append(argument)
    return values


def _without_json_paths(arguments: Sequence[str]) -> list[str]:
    """Return what argparse sees of effective arguments: what was around a dotted flag stands side by side then."""
    plain: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag = _Flag.read(argument)
        if not argument.startswith("-") or not flag.dotted:
            plain.append(argument)
        elif flag.value is None:
            next(rest, None)
    return plain


def _flags(arguments: Sequence[str]) -> Iterator[tuple[int, _Flag]]:
    """Yield the plain (not dotted) flags among effective arguments with their places."""
    for at, argument in enumerate(arguments):
        if argument.startswith("-"):
            flag = _Flag.read(argument)
            if not flag.dotted:
                yield at, flag


def _json_problem(flag: _Flag, following: Sequence[str]) -> str | None:
    """Say what is wrong with a dotted flag that is passed on.

    Without a value it would swallow the next flag, and in the end one of the fixed ones.
    """
    if flag.value is None and not following:
        return f"{flag.name} with a JSON path has no value; write it as {flag.name}.PATH=VALUE"
    for name in ("--model", SERVED_MODEL_NAME):
        if flag.may_mean(name):
            return f"{name} takes a name, not a JSON path"
    return None


def _model(first: str, arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the model's name, and what is wrong with how it is given.

    `first` is what the user wrote first: what comes first once a reserved flag is gone may be anything, a key too.
    """
    named = list(arguments[:1]) if arguments and not arguments[0].startswith("-") else []
    for at, flag in _flags(arguments):
        # Any beginning of --model fits other flags too and is refused by argparse.
        if flag.name == "--model":
            value = flag.value if flag.value is not None else next(iter(arguments[at + 1 : at + 2]), "")
            if not value or value.startswith("-"):
                return None, "--model has no value; put the model's name first instead"
            named.append(value)
    by_flag = any(flag.name == "--model" for _, flag in _flags(arguments))
    if not named or not named[0].strip() or (first.startswith("-") and not by_flag):
        return None, "they name no model; put the model's name first"
    if len(named) > 1:
        return None, "they name more than one model; put one name first and leave out --model"
    return named[0], None


def _environment(
    serve_env: Sequence[tuple[str, str]],
) -> tuple[tuple[tuple[str, str], ...], list[Message], str | None]:
    """Return the variables to pass on, what to warn of, and what is wrong with the rest."""
    kept: dict[str, str] = {}
    warnings: dict[Message, None] = {}
    problem: str | None = None
    for number, (name, value) in enumerate(serve_env, 1):
        # A token pasted in the place of a name must not be repeated: only the number is told.
        if not usable_name(name):
            problem = problem or (
                f"environment variable {number} has an unusable name; "
                "use letters, digits and underscores, with no digit first"
            )
        elif reserved_name(name):
            warnings[Message.of("ReservedVariable", name=name)] = None
        else:
            problem = problem or unpassable_value(name, value)
            if name in kept:
                warnings[Message.of("DuplicateVariable", name=name)] = None
            kept[name] = value
    return tuple(sorted(kept.items())), list(warnings), problem


def _unpassable(text: str, what: str) -> str | None:
    """Say why `text` cannot be passed to a program."""
    if "\0" in text:
        return f"{what} contains a NUL character, which cannot be passed to a program"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{what} contains half of a surrogate pair, which cannot be passed to a program"
    return None if size <= LONGEST else f"{what} is {size} bytes long; a program can be passed {LONGEST}"


def _problem(detail: str) -> Finding:
    return Finding.of("BadArguments", permanent=True, detail=detail)
