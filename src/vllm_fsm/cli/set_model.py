"""`vllm-fsm set-model`: choose what is served."""

from __future__ import annotations

import argparse
import shlex
import sys

from vllm_fsm.actions import form, selection
from vllm_fsm.actions.problems import Rejected, rejected
from vllm_fsm.actions.selection import Choice, Chosen
from vllm_fsm.actions.site import Site
from vllm_fsm.cli import USAGE, safe, table
from vllm_fsm.cli.refusal import FAILED, refuse, told
from vllm_fsm.cli.site import site
from vllm_fsm.files.reading import Good, read_bytes
from vllm_fsm.presets import CUSTOM
from vllm_fsm.redaction import MASK, plain

STDIN = "-"
TOKEN_LIMIT = 4096
"""Bytes of a file with a token."""


def main(arguments: argparse.Namespace) -> int:
    """Check and store the choice; return 0 when it is stored, 2 when it is refused, 1 when it cannot be stored."""
    asked = [arguments.preset is not None, arguments.custom is not None, arguments.none, arguments.fix]
    here = site(arguments)
    if sum(asked) > 1:
        return _usage("name one of PRESET, --custom, --fix and --none")
    if arguments.fix and (arguments.env or arguments.unset):
        return _usage("--fix takes no variables: it keeps those that are stored")
    try:
        if arguments.none:
            if arguments.env or arguments.unset or arguments.hf_token_file:
                return _usage("--none takes no variables")
            return _tell(selection.clear(here, dry=arguments.dry_run), here, arguments)
        token = _token(arguments.hf_token_file)
        choice = Choice(
            _selected(here, arguments),
            arguments.custom or "",
            _variables(arguments.env),
            token,
            unset=frozenset(arguments.unset),
        )
        if any(asked):
            return _tell(selection.choose(here, choice, dry=arguments.dry_run), here, arguments)
    except Rejected as refusal:
        return refuse(refusal, as_json=arguments.json)
    if arguments.json or not sys.stdin.isatty() or not sys.stdout.isatty():
        return _usage('name a preset or --custom; "vllm-fsm presets" lists what fits')
    from vllm_fsm.cli import guide

    done = guide.choose(here, choice, dry=arguments.dry_run)
    return FAILED if done is None else _tell(done, here, arguments)


def _selected(here: Site, arguments: argparse.Namespace) -> str:
    """Return the id of what is chosen. Raises Rejected: a fix is, and there is none."""
    if arguments.fix:
        fix = selection.fixed(here)
        if fix is None:
            raise rejected("--fix", "FixGone")
        return selection.fix_id(fix)
    return str(arguments.preset) if arguments.custom is None else CUSTOM


def _usage(problem: str) -> int:
    print(f"vllm-fsm set-model: {problem}", file=sys.stderr)
    return USAGE


def _variables(given: list[str]) -> tuple[tuple[str, str], ...]:
    """Split `NAME=VALUE`."""
    for number, text in enumerate(given, 1):
        if "=" not in text:
            raise rejected(f"--env {number}", "VariableWithoutValue", number=number)
    return tuple((name, value) for name, _, value in (text.partition("=") for text in given))


def _token(path: str | None) -> str | None:
    """Read a token: on a command line everybody who is logged in could."""
    if path is None:
        return MASK
    if path == STDIN:
        content = sys.stdin.buffer.read(TOKEN_LIMIT + 1)
    else:
        reading = read_bytes(path, TOKEN_LIMIT)
        if not isinstance(reading, Good):
            raise rejected("--hf-token-file", "TokenFileUnusable", path=path)
        content = reading.value
    token = content.decode("utf-8", "replace").strip()
    if not token:
        # What a failed program has written must not make us forget the stored one.
        raise rejected("--hf-token-file", "TokenFileEmpty", path="standard input" if path == STDIN else path)
    return token


def _tell(done: Chosen, here: Site, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(safe.as_json(form.succeeded(form.chosen(done))))
        return 0
    for note in done.prepared.notes:
        print(told(note), file=sys.stderr)
    print("\n".join(lines(done, here.running, table.columns(), table.colourful(sys.stdout))))
    return 0


def lines(done: Chosen, running: bool, columns: int, colours: bool = False) -> list[str]:
    """Return what became of a choice as lines of at most `columns` characters where words allow it."""
    prepared = done.prepared
    named = [("serves", plain(shlex.join(prepared.shown())) or "nothing")]
    if prepared.environment:
        named.append(("with", " ".join(f"{name}=…" for name, _ in prepared.environment)))
    if done.aside is not None:
        named.append(("kept", f"the broken file, as {done.aside}"))
    shown = table.rows(named, columns)
    mark = table.GREEN if prepared.arguments else table.RED
    shown[0] = table.colour(shown[0][: len("serves")], mark, colours) + shown[0][len("serves") :]
    return [*shown, *table.fold(_after(done, running), columns)]


def _after(done: Chosen, running: bool) -> str:
    if done.dry:
        return "Nothing was written: this was a dry run."
    if done.retried:
        return "This was chosen already and had failed: the controller was asked to try again."
    if not done.changed:
        return "This was chosen already: nothing was written."
    if running:
        return 'The running service follows; "vllm-fsm status" shows how far it is.'
    return "No controller is running; the next one to start follows it."
