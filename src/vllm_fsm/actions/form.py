"""The actions as machine forms: what they ask for, take and give. `docs/actions.md` has the schemas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm.actions import entry
from vllm_fsm.actions.problems import Problem, Rejected, rejected
from vllm_fsm.complaints import shown
from vllm_fsm.core.snapshot import Message
from vllm_fsm.messages import document
from vllm_fsm.messages import text as sentence

if TYPE_CHECKING:
    from vllm_fsm.actions.credentials import Access
    from vllm_fsm.actions.models import Removed
    from vllm_fsm.actions.selection import Chosen
    from vllm_fsm.actions.site import Site
    from vllm_fsm.cache import CachedModel
    from vllm_fsm.presets import Offer

Document = dict[str, Any]

CUSTOM_LABEL: Final = "Custom arguments"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that can be done."""

    id: str
    name: str
    description: str
    form: Callable[[Site], Document]
    """Gives what it asks for, with what it would be now."""
    run: Callable[[Site, bytes], Document]
    """Takes the input as JSON and gives the result. Raises Rejected."""

    def document(self) -> Document:
        """Return what `action list` says of it."""
        return {"id": self.id, "name": self.name, "description": self.description}


def named(id_: str) -> Action:
    """Return the action of this id, or of an alias. Raises Rejected."""
    found = {action.id: action for action in ACTIONS}.get(ALIASES.get(id_, id_))
    if found is None:
        raise rejected("action", "ActionUnknown", name=shown(id_), known=", ".join(action.id for action in ACTIONS))
    return found


def succeeded(result: Document) -> Document:
    """Return the answer of an action that was done."""
    return {"ok": True, "result": result}


def failed(refusal: Rejected) -> Document:
    """Return the answer of an action that was refused."""
    return {"ok": False, "errors": [problem.document() for problem in refusal.problems]}


# --- Set Model ---------------------------------------------------------------------------------------------------


def _set_model_form(site: Site) -> Document:
    from vllm_fsm.actions import selection
    from vllm_fsm.presets import CUSTOM, default

    offers, problems = selection.offered(site, site.detect())
    last = selection.last_choice(site)
    choices = [_offer(offer) for offer in offers]
    choices.append(_choice(CUSTOM, CUSTOM_LABEL))
    fix = selection.fixed(site)
    if fix is not None:
        label = selection.fix_label(fix)
        shown_to_all = selection.Prepared(fix.arguments, fix.environment).shown()
        offer = _choice(selection.fix_id(fix), sentence(label))
        choices.insert(0, offer | {"title": document(label), "args": list(shown_to_all)})
    known = last.selection if last.selection in [choice["id"] for choice in choices] else None
    variables = [{"name": name, "value": value} for name, value in last.variables]
    return {
        "fields": [
            _field(selection.SELECTION, "choice", default(offers), known, choices),
            _field(selection.ARGUMENTS, "text", "", last.arguments),
            _field(selection.ENVIRONMENT, "variables", [], variables),
            _field(selection.HUB_TOKEN, "secret", None, last.token),
        ],
        "notes": [problem.document() for problem in problems],
    }


def _offer(offer: Offer) -> Document:
    note = None if offer.note is None else Problem(offer.note, "selection").document()
    choice = _choice(offer.preset.id, offer.preset.display_name, offer.reason)
    return choice | {"context": offer.context, "devices": offer.devices, "note": note}


def _set_model(site: Site, text: bytes) -> Document:
    from vllm_fsm.actions import selection
    from vllm_fsm.presets import CUSTOM
    from vllm_fsm.redaction import MASK

    given = entry.parse(text, entry.SetModel)
    token = given.hf_token if "hf_token" in given.model_fields_set else MASK
    choice = selection.Choice(
        selection=given.selection,
        arguments=given.custom_args or "",
        # The form shows its fields whatever is selected: those of custom arguments mean nothing to a preset.
        variables=tuple((variable.name, variable.value) for variable in given.custom_env or ())
        if given.selection == CUSTOM
        else (),
        token=token,
        # A list that was shown and came back is all there is to be.
        keep=given.selection != CUSTOM or given.custom_env is None,
    )
    return chosen(selection.choose(site, choice))


def chosen(done: Chosen) -> Document:
    """Return what is said of a choice: arguments without secrets, variables by name."""
    prepared = done.prepared
    return {
        "changed": done.changed,
        "retried": done.retried,
        "dryRun": done.dry,
        "serveArgs": list(prepared.shown()),
        "serveEnv": [name for name, _ in prepared.environment],
        "notes": [note.document() for note in prepared.notes],
        "aside": done.aside,
    }


# --- the key -----------------------------------------------------------------------------------------------------


def _no_fields(_site: Site) -> Document:
    return {"fields": [], "notes": []}


def _get(site: Site, text: bytes) -> Document:
    from vllm_fsm.actions import credentials

    entry.parse(text, entry.Nothing)
    return access(credentials.get(site))


def _rotate(site: Site, text: bytes) -> Document:
    from vllm_fsm.actions import credentials

    entry.parse(text, entry.Nothing)
    return access(credentials.rotate(site))


def access(found: Access) -> Document:
    """Return what a client needs; the one place where a key is meant to be read."""
    return {
        "values": [
            {"id": "apiKey", "value": found.key.reveal(), "masked": True, "copyable": True},
            {"id": "baseUrl", "value": found.url, "masked": False, "copyable": True},
        ],
        "aside": found.aside,
    }


# --- Delete Model Cache ------------------------------------------------------------------------------------------


def _delete_form(site: Site) -> Document:
    from vllm_fsm.actions import models

    try:
        listing = models.listed(site)
    except Rejected as refusal:
        return {"fields": _delete_fields([]), "notes": [problem.document() for problem in refusal.problems]}
    return {"fields": _delete_fields(listing.models), "notes": []}


def _delete_fields(cached: Sequence[CachedModel]) -> list[Document]:
    from vllm_fsm.health import gb

    choices = []
    for model in cached:
        state = None if model.state is None else model.state.value
        label = f"{model.name}, {gb(model.size)} GB{'' if state is None else f', {state}'}"
        reason = Message.of("ModelLinked") if model.linked else None
        choices.append(_choice(model.name, label, reason) | {"size": model.size, "state": state})
    return [_field("model", "choice", None, None, choices), _field("force", "switch", False, False)]


def _delete(site: Site, text: bytes) -> Document:
    from vllm_fsm.actions import models

    given = entry.parse(text, entry.DeleteModelCache)
    return removed(models.delete(site, given.model, force=bool(given.force)))


def removed(done: Removed) -> Document:
    """Return what is said of a deletion; sizes in bytes."""
    return {
        "freed": done.deleted.freed,
        "freeBefore": done.deleted.free_before,
        "freeAfter": done.deleted.free_after,
        "retried": done.retried,
        "notes": [] if done.problem is None else [Problem(done.problem).document()],
    }


# --- fields ------------------------------------------------------------------------------------------------------


def _field(id_: str, type_: str, default: Any, value: Any, choices: Sequence[Document] | None = None) -> Document:
    return {"id": id_, "type": type_, "default": default, "value": value, "choices": choices}


def _choice(id_: str, label: str, reason: Message | None = None) -> Document:
    return {
        "id": id_,
        "label": label,
        "disabledReason": None if reason is None else sentence(reason),
        "disabledCode": None if reason is None else reason.id,
        "disabledParams": None if reason is None else dict(reason.params),
    }


ACTIONS: Final = (
    Action("set-model", "Set Model", "Choose the model to serve.", _set_model_form, _set_model),
    Action("get-api-credentials", "Get API Key", "Show the API key and the address it is used with.", _no_fields, _get),
    Action("rotate-api-key", "Rotate API Key", "Replace the API key; clients need the new one.", _no_fields, _rotate),
    Action(
        "delete-model-cache",
        "Delete Model Cache",
        "Delete a cached model for good; the selection stays.",
        _delete_form,
        _delete,
    ),
)
ALIASES: Final = {"get-api-key": "get-api-credentials"}
