"""Set Model: from what somebody chooses to the three fields of the store that hold it.

Nothing is decided here that is decided elsewhere: `presets` says what fits, `words` what the words are,
`argument_check` what vLLM would refuse. Variables for access and network outlive the choice that brought them.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm import flags, request
from vllm_fsm.actions.problems import Problem, Rejected, rejected
from vllm_fsm.argument_check import check
from vllm_fsm.arguments import effective
from vllm_fsm.complaints import Complaint, Part, Severity, nearest, placed, shown
from vllm_fsm.core.snapshot import Message
from vllm_fsm.engine_version import version
from vllm_fsm.files.credentials import is_usable
from vllm_fsm.files.reading import Broken, Good
from vllm_fsm.files.store import MODE, Store, read_store
from vllm_fsm.files.writing import Refused, update
from vllm_fsm.fix import Change, Fix, apply
from vllm_fsm.presets import CUSTOM, Capacity, Offer, fit, load
from vllm_fsm.redaction import MASK, Redactor, sounds_secret
from vllm_fsm.words import Unsplittable, Word, look_through, split

if TYPE_CHECKING:
    from vllm_fsm.actions.site import Site
    from vllm_fsm.hardware.machine import Machine

TOKEN: Final = "HF_TOKEN"  # noqa: S105 - the name of the variable
ACCESS: Final = "HF_TOKEN, HF_ENDPOINT and those that end with _PROXY"
"""The variables that a preset leaves in force, in words."""

SELECTION: Final = "selection"
ARGUMENTS: Final = "customArgs"
ENVIRONMENT: Final = "customEnv"
HUB_TOKEN: Final = "hfToken"  # noqa: S105 - the name of the field
"""The fields of the form; the first three are those of the store's `modelSelection`."""

FIX: Final = "fix:"
"""Begins the id of the choice that mends what is stored; the change stands behind it. No preset's id has a colon."""

FAILED: Final = "Failed"

_ACCESS = re.compile(r"HF_TOKEN|HF_ENDPOINT|\w*_PROXY", re.IGNORECASE | re.ASCII)

Variables = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody wants."""

    selection: str
    """The id of a preset, `custom`, or the `fix_id` of what `fixed` offers."""
    arguments: str = field(default="", repr=False)
    """For `custom`: what follows `vllm serve`, as it would be typed. As `last_choice` shows it, `***` in the place of
    secrets, it is what is stored."""
    variables: Variables = field(default=(), repr=False)
    """For the engine; `***` stands for the value that is stored. With a preset: for access and network only."""
    token: str | None = field(default=MASK, repr=False)
    """For the hub; `***` leaves what is stored, None or empty removes it."""
    keep: bool = True
    """Variables for access and network that are stored stay, unless they are given anew."""
    unset: frozenset[str] = frozenset()
    """Stored variables that do not stay."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be written."""

    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Variables = field(default=(), repr=False)
    selection: Mapping[str, Any] | None = field(default=None, repr=False)
    notes: tuple[Problem, ...] = ()
    """What should be known, and stands in nobody's way."""

    def fields(self) -> dict[str, Any]:
        """Return the fields of the store; None for one that is absent."""
        return {
            "serveArgs": list(self.arguments) or None,
            "serveEnv": _listed(self.environment) or None,
            "modelSelection": self.selection,
        }

    def shown(self) -> tuple[str, ...]:
        """Return the arguments without what looks like a secret."""
        redactor = Redactor()
        redactor.know_environment(self.environment)
        return tuple(redactor.scrub(argument) for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What became of a choice."""

    prepared: Prepared
    changed: bool
    """The store was written; False also when nothing was to be."""
    retried: bool = False
    """It was chosen already and had failed: the controller was asked to try again."""
    aside: str | None = None
    """Where the broken store that stood there is kept."""
    dry: bool = False
    """Nothing was to be done."""


def choose(site: Site, choice: Choice, *, dry: bool = False) -> Chosen:
    """Check a choice and store it, unless it is stored already.

    Raises:
        Rejected: it cannot be served, or not be stored.
    """
    return _store(site, prepare(site, choice), dry)


def clear(site: Site, *, dry: bool = False) -> Chosen:
    """Select nothing; variables for access and network stay. Raises Rejected when that cannot be stored."""
    kept = tuple((name, value) for name, value in _stored(site).environment() if _ACCESS.fullmatch(name))
    return _store(site, Prepared(environment=kept), dry)


def prepare(site: Site, choice: Choice) -> Prepared:
    """Return what a choice comes to; nothing is written. Raises Rejected."""
    stored = _stored(site)
    if choice.selection.startswith(FIX):
        choice = _taken(site, choice)
    if choice.selection == CUSTOM:
        return _custom(site, choice, stored)
    machine = site.detect()
    return _preset(site, choice, stored, machine)


def offered(site: Site, machine: Machine) -> tuple[tuple[Offer, ...], tuple[Problem, ...]]:
    """Return what becomes of each preset on `machine`, and what is wrong with the hardware or the file of presets."""
    presets, wrong = load(site.config.data)
    problems = () if machine.complete else machine.notes
    return fit(presets, Capacity.of(machine), os.path.exists), tuple(
        map(Problem, (*problems, *((wrong,) if wrong else ())))
    )


def fixed(site: Site) -> Fix | None:
    """Return the fix that health offers for what is stored; None when there is none, or when it is for something else.

    Health shows no secrets: what it says is the change only, and the fix is made anew from the store.
    """
    said = site.health()
    offer, target = said.get("fix"), said.get("target")
    if not isinstance(offer, Mapping) or not isinstance(target, Mapping):
        return None
    name, value = offer.get("name"), offer.get("value")
    if not isinstance(name, str) or not isinstance(value, str):
        return None
    store = _stored(site)
    found = effective(store.serve_args or (), store.environment())
    shown_now = list(Prepared(found.arguments, found.environment).shown())
    if (target.get("arguments"), target.get("environment")) != (shown_now, [name for name, _ in found.environment]):
        return None
    return apply(Change(name, value), found.arguments, found.environment, flags.load(version(site.config.engine)))


def fix_id(fix: Fix) -> str:
    """Return the id of the choice that takes `fix`: another change has another one."""
    return f"{FIX}{fix.change.name}={fix.change.value}"


def fix_label(fix: Fix) -> Message:
    """Return the name of that choice."""
    return Message.of("FixChoice", change=str(fix.change))


def last_choice(site: Site) -> Choice:
    """Return what is selected, fit to be shown again: secrets are `***`. Nothing, or nobody can tell: the id is empty.

    A store that was written by hand comes back as custom arguments.
    """
    store = _stored(site)
    environment = store.environment()
    token = MASK if any(name == TOKEN and value for name, value in environment) else None
    name = _selected(store)
    own: Variables = ()
    if name == CUSTOM and store.serve_args:
        own = environment
    elif store.model_selection is not None:
        own = tuple((variable.name, variable.value) for variable in store.model_selection.custom_env or ())
    named = {name for name, _ in own}
    own += tuple((name, value) for name, value in environment if name not in named and _ACCESS.fullmatch(name))
    variables = tuple((name, MASK if secret(name, value) else value) for name, value in own if name != TOKEN)
    return Choice(name, Redactor().scrub(_last_arguments(store)), variables, token)


def _selected(store: Store) -> str:
    """Return the id of what is selected, empty for nothing."""
    selected = store.model_selection
    if selected is not None and selected.selection is not None:
        return selected.selection
    return CUSTOM if store.serve_args else ""


def _last_arguments(store: Store) -> str:
    """Return the custom arguments: as they were typed, unless somebody has edited those that are served since."""
    selected = store.model_selection
    typed = "" if selected is None else selected.custom_args or ""
    if _selected(store) != CUSTOM or not store.serve_args:
        return typed
    try:
        same = [word.text for word in split(typed)] == store.serve_args
    except Unsplittable:
        same = False
    return typed if same else shlex.join(store.serve_args)


def secret(name: str, value: str) -> bool:
    """Whether the value of a variable must not be shown."""
    return sounds_secret(name, value) or Redactor().scrub(value) != value


# --- a preset, and arguments of one's own ------------------------------------------------------------------------


def _preset(site: Site, choice: Choice, stored: Store, machine: Machine) -> Prepared:
    offers, problems = offered(site, machine)
    offer = next((offer for offer in offers if offer.preset.id == choice.selection), None)
    if offer is None:
        meant = nearest(choice.selection, [offer.preset.id for offer in offers])
        name = shown(choice.selection)
        raise (
            rejected(SELECTION, "PresetUnknown", name=name)
            if meant is None
            else rejected(SELECTION, "PresetUnknownMeant", name=name, meant=meant)
        )
    if offer.reason is not None:
        which = Message.of("PresetNotOffered", name=choice.selection)
        raise Rejected([Problem(offer.reason, SELECTION), *problems, Problem(which, SELECTION)])
    given, token, wrong = _given(choice, stored)
    wrong += [
        Problem(Message.of("VariableNotForPreset", number=at + 1, kept=ACCESS), f"{ENVIRONMENT}[{at}].name")
        for at, (name, _) in given.items()
        if not _ACCESS.fullmatch(name)
    ]
    environment = _environment(tuple(given.values()), token, choice, stored, machine.environment)
    found = _check(site, offer.arguments, environment)
    wrong += [Problem(one.message, SELECTION) for one in found if one.severity is Severity.ERROR]
    if wrong:
        raise Rejected(wrong)
    notes = [Problem(one.message, SELECTION) for one in found] + list(problems)
    if offer.note is not None:
        notes.append(Problem(offer.note, SELECTION))
    return Prepared(offer.arguments, environment, {SELECTION: choice.selection}, tuple(notes))


def _taken(site: Site, choice: Choice) -> Choice:
    """Return what a fix is as arguments and variables of one's own; a token that is given with it counts."""
    found = fixed(site)
    if found is None or fix_id(found) != choice.selection:
        raise rejected(SELECTION, "FixGone")
    variables = tuple((name, value) for name, value in found.environment if name != TOKEN)
    return Choice(CUSTOM, shlex.join(found.arguments), variables, choice.token, keep=False)


def _custom(site: Site, choice: Choice, stored: Store) -> Prepared:
    given, token, wrong = _given(choice, stored)
    redactor = Redactor()
    last = _last_arguments(stored)
    typed = last if choice.arguments == redactor.scrub(last) else choice.arguments
    try:
        words = split(typed)
    except Unsplittable as refused:
        raise Rejected([Problem(refused.message, ARGUMENTS, refused.position), *wrong]) from None
    if not words:
        raise Rejected([Problem(Message.of("ArgumentsMissing"), ARGUMENTS, 0), *wrong])
    arguments = tuple(word.text for word in words)
    environment = _environment(tuple(given.values()), token, choice, stored)
    found = placed(_check(site, arguments, environment), words)
    problems = [(one.severity, _problem(one, list(given))) for one in found]
    wrong += [problem for severity, problem in problems if severity is Severity.ERROR]
    wrong += _name(arguments, words)
    wrong += [
        Problem(Message.of("SecretMasked", character=word.start + 1), ARGUMENTS, word.start)
        for word in words
        if MASK in word.text
    ]
    if wrong:
        raise Rejected(dict.fromkeys(wrong))
    own = [(name, value) for name, value in environment if name != TOKEN]
    selection = {SELECTION: CUSTOM, ARGUMENTS: typed} | ({ENVIRONMENT: _listed(own)} if own else {})
    shown_to_all = next((word for word in words if redactor.scrub(word.text) != word.text), None)
    notes = [problem for _, problem in problems]
    if shown_to_all is not None:
        notes.append(Problem(Message.of("SecretInArguments"), ARGUMENTS, shown_to_all.start))
    return Prepared(arguments, environment, selection, tuple(notes))


def _check(site: Site, arguments: Sequence[str], environment: Variables) -> tuple[Complaint, ...]:
    engine = version(site.config.engine)
    return check(arguments, environment, flags.load(engine), engine, exists=os.path.exists)


def _problem(complaint: Complaint, places: Sequence[int]) -> Problem:
    """Say which field of the form a complaint is about; `places` are those of the given variables in it."""
    if complaint.part is Part.ARGUMENTS:
        return Problem(complaint.message, ARGUMENTS, complaint.position)
    at = complaint.index
    if at is None or at >= len(places):
        return Problem(complaint.message, ENVIRONMENT)
    part = "value" if complaint.code == "VariableValueUnusable" else "name"
    return Problem(complaint.message, f"{ENVIRONMENT}[{places[at]}].{part}")


def _name(arguments: Sequence[str], words: Sequence[Word]) -> Iterable[Problem]:
    """Refuse a blank in the name of a model on the hub; a path may have one."""
    model = effective(arguments, ()).model
    if model is None or os.path.exists(model) or not any(letter.isspace() for letter in model):
        return
    at = next((word for word in words if word.text.endswith(model)), words[0])
    yield Problem(Message.of("ModelHasBlanks", model=shown(model)), ARGUMENTS, at.start)


# --- variables ---------------------------------------------------------------------------------------------------


def _given(choice: Choice, stored: Store) -> tuple[dict[int, tuple[str, str]], str | None, list[Problem]]:
    """Return the given variables by their place, the token, and what is wrong with their values."""
    known = dict(stored.environment())
    given: dict[int, tuple[str, str]] = {}
    wrong: list[Problem] = []
    token = choice.token
    for at, (name, value) in enumerate(choice.variables):
        where = f"{ENVIRONMENT}[{at}]"
        if name == TOKEN:
            # It has a field of its own, and a place of its own in the store.
            if token not in (MASK, value) and value != MASK:
                wrong.append(Problem(Message.of("VariableTwice", name=name), f"{where}.name"))
            elif value != MASK:
                token = value
            continue
        if value == MASK and name not in known:
            wrong.append(Problem(Message.of("ValueNotStored", number=at + 1), f"{where}.value"))
            continue
        given[at] = (name, known[name] if value == MASK else value)
        try:
            look_through(given[at][1])
        except Unsplittable as refused:
            wrong.append(Problem(refused.message, f"{where}.value", refused.position))
    if token == MASK:
        token = None if TOKEN in choice.unset else known.get(TOKEN)
    elif token and not is_usable(token):
        wrong.append(Problem(Message.of("TokenUnusable"), HUB_TOKEN))
    return given, token or None, wrong


def _environment(
    given: Variables, token: str | None, choice: Choice, stored: Store, pinned: Variables = ()
) -> Variables:
    """Put together what the engine gets: what is given, what a preset needs, what stays, and the token."""
    named = {name for name, _ in (*given, *pinned)} | choice.unset | {TOKEN}
    kept = {name: value for name, value in stored.environment() if _ACCESS.fullmatch(name)} if choice.keep else {}
    stays = tuple((name, value) for name, value in kept.items() if name not in named)
    return (*given, *pinned, *stays, *(((TOKEN, token),) if token else ()))


# --- the store ---------------------------------------------------------------------------------------------------


def _stored(site: Site) -> Store:
    """Return the store; one that is broken holds nothing."""
    reading = read_store(site.config.store)
    return reading.value if isinstance(reading, Good) else Store()


def _store(site: Site, prepared: Prepared, dry: bool) -> Chosen:
    if dry:
        return Chosen(prepared, changed=False, dry=True)
    try:
        broken = isinstance(read_store(site.config.store), Broken)
        written = update(site.config.store, prepared.fields(), MODE, datetime.now(UTC), keep=broken)
        health = site.health()
        fails = health["state"] == FAILED or bool(health.get("fallback"))
        retried = not written.changed and bool(prepared.arguments) and fails
        if retried:
            request.write_request(site.config.run_dir, request.Kind.RETRY)
    except Refused as refused:
        raise Rejected([Problem(refused.message)]) from None
    return Chosen(prepared, written.changed, retried, written.aside)


def _listed(variables: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in variables]
