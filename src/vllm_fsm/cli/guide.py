"""The short guided choice of `vllm-fsm set-model` on a terminal: numbers for what fits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from vllm_fsm.actions import selection
from vllm_fsm.actions.form import CUSTOM_LABEL
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.actions.selection import Choice, Chosen
from vllm_fsm.actions.site import Site
from vllm_fsm.cli import table
from vllm_fsm.cli.refusal import told
from vllm_fsm.fix import Fix
from vllm_fsm.messages import text as sentence
from vllm_fsm.presets import CUSTOM, Offer, default
from vllm_fsm.redaction import plain

NOT_CHOSEN = "Nothing was chosen, and nothing was written."


def choose(here: Site, given: Choice, *, dry: bool) -> Chosen | None:
    """Ask until something is chosen that can be served; `given` has the variables. None at the end of input."""
    offers, problems = selection.offered(here, here.detect())
    for problem in problems:
        print(told(problem), file=sys.stderr)
    last = selection.last_choice(here)
    fitting = [offer for offer in offers if offer.reason is None]
    # A fix keeps the variables that are stored: it is not offered together with others.
    fix = None if given.variables or given.unset else selection.fixed(here)
    ids = [*([] if fix is None else [selection.fix_id(fix)]), *(offer.preset.id for offer in fitting), CUSTOM]
    first = ids[0] if fix is not None else last.selection if last.selection in ids else default(offers)
    shown = lines(fitting, len(offers), last.selection, table.columns(), table.colourful(sys.stdout), fix)
    print("\n".join(shown))
    while True:
        try:
            picked = _number(ids, ids.index(first) + 1)
            arguments = _arguments(last) if picked == CUSTOM else ""
        except EOFError:
            print(f"\n{NOT_CHOSEN}")
            return None
        except KeyboardInterrupt:
            print(f"\n{NOT_CHOSEN}")
            raise
        choice = replace(given, selection=picked, arguments=arguments)
        if picked == CUSTOM and last.selection == CUSTOM and not given.variables:
            choice = replace(choice, variables=last.variables)
        try:
            return selection.choose(here, choice, dry=dry)
        except Rejected as refusal:
            for problem in refusal.problems:
                print(told(problem), file=sys.stderr)


def lines(
    fitting: Sequence[Offer], of: int, last: str, columns: int, colours: bool = False, fix: Fix | None = None
) -> list[str]:
    """Return the choices as lines of at most `columns` characters where words allow it."""
    named = [] if fix is None else [("--fix", sentence(selection.fix_label(fix)))]
    for offer in fitting:
        length = "" if offer.context is None else f", context {offer.context}"
        spread = "" if offer.devices == 1 else f", on {offer.devices} GPUs"
        named.append((offer.preset.id, f"{offer.preset.display_name}{length}{spread}"))
    named.append((CUSTOM, CUSTOM_LABEL))
    rows = [
        (table.colour(f"{number:>2}", table.GREEN, colours), f"{text} ({id_}{', chosen now' if id_ == last else ''})")
        for number, (id_, text) in enumerate(named, 1)
    ]
    indent = len(" 1") + len(table.GAP)
    shown = [line for number, text in rows for line in _row(number, text, columns, indent)]
    if of > len(fitting):
        rest = f'{of - len(fitting)} of {of} presets do not fit: "vllm-fsm presets --all" says why.'
        shown += table.fold(rest, columns)
    return shown


def _row(number: str, text: str, columns: int, indent: int) -> list[str]:
    """Fold a choice; the colour of its number takes no columns."""
    folded = table.fold(text, columns, " " * indent)
    return [number + table.GAP + folded[0][indent:], *folded[1:]]


def _number(ids: Sequence[str], first: int) -> str:
    while True:
        said = _ask(f"Number [{first}]: ").strip()
        if not said:
            return ids[first - 1]
        if said.isascii() and said.isdigit() and 1 <= int(said) <= len(ids):
            return ids[int(said) - 1]
        if said in ids:
            return said
        print(f"Write a number from 1 to {len(ids)}.")


def _arguments(last: Choice) -> str:
    """Ask for the arguments; nothing stands for the last ones."""
    if last.selection != CUSTOM or not last.arguments:
        return _ask("Model and arguments: ")
    print("\n".join(table.rows([("now", plain(last.arguments))], table.columns())))
    said = _ask("Model and arguments [as now]: ")
    return said if said.strip() else last.arguments


def _ask(prompt: str) -> str:
    """Return what is typed; bytes that are no text are asked for again."""
    while True:
        try:
            return input(prompt)
        except UnicodeDecodeError:
            print("That is not UTF-8 text.")
