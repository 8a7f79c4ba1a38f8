"""Acts of a chaos on downloads: the hub's faults, and what befalls the child that fetches and what it has fetched."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.chaos_acts import (
    MOMENT,
    PAUSE,
    Act,
    clear,
    edit,
    full_volume,
    hang_up,
    kill_controller,
    rotate_key,
    settled,
    steal_port_of_the_next,
)
from support.chaos_hub import TOKEN, WEIGHTS, WEIGHTS_FILE, WRONG_TOKEN
from support.obstacle import Obstacle
from support.wait import wait_for

if TYPE_CHECKING:
    from support.chaos import Chaos

OF_WEIGHTS = rf"GET .*/{WEIGHTS_FILE}$"
OF_LISTS = "GET /api/models/"
HALF = WEIGHTS // 2
RETRY_AFTER = 1
"""Seconds that the hub asks to wait."""
BAD_LINES: tuple[tuple[Mapping[str, Any], ...], ...] = (
    ({"match": OF_WEIGHTS, "action": "drop", "after_bytes": HALF, "times": 1},),
    ({"match": OF_WEIGHTS, "action": "stall", "after_bytes": HALF, "seconds": 1.0, "times": 1},),
    ({"match": OF_WEIGHTS, "action": "corrupt", "after_bytes": HALF, "times": 1},),
    ({"match": OF_LISTS, "action": "delay", "seconds": 0.5, "times": 2},),
    ({"match": OF_LISTS, "action": "status", "status": 500, "times": 2},),
    (
        {"match": OF_WEIGHTS, "action": "drop", "after_bytes": HALF, "times": 1},
        {"match": OF_WEIGHTS, "action": "ignore-range"},
    ),
)
"""Faults that the download gets over by itself while they are there."""
PASSING: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"status": 429, "headers": {"Retry-After": str(RETRY_AFTER)}}, "HubRateLimited"),
    ({"status": 500}, "HubError"),
    ({"status": 503, "headers": {"Retry-After": str(RETRY_AFTER)}}, "HubError"),
)
"""Answers after which it is tried again, and their reasons."""
UNSAFE = '[{"type": "file", "path": "../../../escaped", "size": 1, "oid": "' + "a" * 40 + '"}]'
ODD: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"match": OF_LISTS, "status": 404, "body": "<html>"}, "NotAHub"),
    ({"match": OF_LISTS, "status": 403, "body": "{}"}, "HubForbids"),
    ({"match": "GET .*/tree/", "status": 200, "body": UNSAFE}, "UnsafeRepository"),
)
"""Answers after which it is not tried again."""
CLOSED: tuple[tuple[Mapping[str, Any], str, str], ...] = (
    ({"gated": True}, "", "GatedRepo"),
    ({"gated": True}, TOKEN, "GatedRepoDenied"),
    ({"private": True}, "", "ModelNotFoundOrPrivate"),
    ({"private": True}, TOKEN, "ModelNotFound"),
    ({"disabled": True}, "", "RepoDisabled"),
    ({}, WRONG_TOKEN, "TokenRefused"),
)
"""Options of a model, the token with which it is asked for, and why it cannot be had."""
FULL = ("DiskFull", "VolumeTooSmall", "VolumeFull")


# --- a model comes -----------------------------------------------------------------------------------------------


def new_model(chaos: Chaos) -> str:
    """Publish one that no cache has, on a hub without faults; of the others, only what is in use stays in the cache."""
    chaos.hub.relent()
    instead = chaos.obstacle.instead if chaos.obstacle is not None else None
    in_use = {choice[0][0] for choice in (chaos.wanted, instead) if choice is not None}
    for folder in chaos.models.glob("models--org--*"):
        if folder.name.removeprefix("models--").replace("--", "/") not in in_use:
            shutil.rmtree(folder, ignore_errors=True)
    return chaos.hub.publish(in_use)


def download(chaos: Chaos) -> None:
    """Choose a model that is not in the cache."""
    chaos.serve(model=new_model(chaos))


def download_over_a_bad_line(chaos: Chaos) -> None:
    model = new_model(chaos)
    chaos.hub.faults(*chaos.random.choice(BAD_LINES))
    chaos.serve(model=model)
    wait_for(lambda: chaos.hub.harmed(model), chaos.settle, "a fault of the hub")


def stall_download(chaos: Chaos) -> None:
    """No byte comes any more: the attempt is given up, and the next one goes on."""
    model = new_model(chaos)
    chaos.hub.faults({"match": OF_WEIGHTS, "action": "stall", "after_bytes": HALF, "times": 1})
    chaos.serve(model=model)
    wait_for(lambda: chaos.controller.health()["reason"] == "DownloadStalled", chaos.settle, "DownloadStalled")


def begin(chaos: Chaos) -> str:
    """Choose a model over a slow line; return it when its weights are on their way."""
    model = new_model(chaos)
    chaos.hub.slow()
    chaos.serve(model=model)
    wait_for(lambda: chaos.hub.sends_weights(model), chaos.settle, "weights on their way")
    return model


# --- it cannot be had --------------------------------------------------------------------------------------------


def hinder(
    chaos: Chaos, model: str, reason: str, *, passing: bool, token: str = "", also: tuple[str, ...] = ()
) -> None:
    """Choose what cannot be had, after something that was ready or after nothing, and see that all says so."""
    before = chaos.wanted
    lost = False
    if before is not None and not chaos.engine and chaos.random.random() < 0.25:
        lost = steal_port_of_the_next(chaos)
        if lost:
            wait_for(lambda: chaos.controller.health()["reason"] == "PortTaken", chaos.settle, "PortTaken")
        else:
            chaos.settles()
    chaos.serve(model=model, also=also, rude={"HF_TOKEN": token} if token else None)
    if lost:
        # What failed is given up for what is chosen now.
        wait_for(lambda: _chosen(chaos) == model, chaos.settle, "the choice is taken")
        chaos.free_port()
    fallback = lost and chaos.fallback and not passing
    instead = before if fallback or not lost else None
    chaos.obstacle = Obstacle(frozenset({reason}), instead, passing, fallback)
    chaos.settles()


def _chosen(chaos: Chaos) -> str | None:
    return (chaos.controller.health().get("target") or {}).get("model")


def download_from_a_hub_that_fails(chaos: Chaos) -> None:
    """Every answer is an error that may pass; no request comes sooner than the hub asks."""
    settled(chaos)
    model = new_model(chaos)
    answer, reason = chaos.random.choice(PASSING)
    chaos.hub.faults({"match": OF_LISTS, "action": "status", **answer})
    hinder(chaos, model, reason, passing=True)
    if "headers" in answer:
        wait_for(lambda: len(chaos.hub.asked_for(model)) > 1, chaos.settle, "another attempt")
        asked = [request["t"] for request in chaos.hub.asked_for(model)]
        apart = min(later - earlier for earlier, later in pairwise(asked))
        chaos.must(apart >= RETRY_AFTER, f"the hub was asked again after {apart:.2f} s")


def download_from_a_hub_that_is_down(chaos: Chaos) -> None:
    settled(chaos)
    model = new_model(chaos)
    chaos.hub.stop()
    hinder(chaos, model, "HubUnreachable", passing=True)


def download_what_is_refused(chaos: Chaos) -> None:
    """A model that is closed or does not exist, or a hub that is none."""
    settled(chaos)
    model = new_model(chaos)
    case = chaos.random.choice((*CLOSED, *ODD, "none", "revision"))
    match case:
        case "none":
            shutil.rmtree(chaos.hub.root / model)
            hinder(chaos, model, "ModelNotFoundOrPrivate", passing=False)
        case "revision":
            hinder(chaos, model, "RevisionNotFound", passing=False, also=("--revision", "v9"))
        case (options, token, reason):
            chaos.hub.close(model, **options)
            hinder(chaos, model, reason, passing=False, token=token)
        case (answer, reason):
            chaos.hub.faults({"action": "status", **answer})
            hinder(chaos, model, reason, passing=False)
    as_it_was_asked = case != "revision" and WRONG_TOKEN not in case
    if as_it_was_asked and chaos.random.random() < 0.3:
        chaos.hub.relent()
        chaos.hub.change(model)
        hang_up(chaos)
        chaos.obstacle = None


# --- what befalls it ---------------------------------------------------------------------------------------------


def kill_fetcher(chaos: Chaos) -> bool:
    begin(chaos)
    return strike_fetcher(chaos, signal.SIGKILL)


def stop_fetcher_for_a_moment(chaos: Chaos) -> bool:
    begin(chaos)
    if not strike_fetcher(chaos, signal.SIGSTOP):
        return False
    time.sleep(MOMENT)
    strike_fetcher(chaos, signal.SIGCONT)
    return True


def strike_fetcher(chaos: Chaos, number: int) -> bool:
    """Send a signal to the child that fetches; return whether there was one."""
    return any(chaos.strike(pid, number) for pid in chaos.fetchers())


def kill_controller_while_it_downloads(chaos: Chaos) -> None:
    begin(chaos)
    kill_controller(chaos)


def edit_while_it_downloads(chaos: Chaos) -> None:
    begin(chaos)
    chaos.random.choice((download, edit, clear))(chaos)


def rotate_key_while_it_downloads(chaos: Chaos) -> None:
    begin(chaos)
    rotate_key(chaos)


def delete_what_is_downloaded(chaos: Chaos) -> None:
    shutil.rmtree(folder(chaos, begin(chaos)), ignore_errors=True)


def change_model_while_it_downloads(chaos: Chaos) -> None:
    """The branch moves on, and the commit that is fetched is gone."""
    chaos.hub.change(begin(chaos))
    if chaos.random.random() < 0.5:
        strike_fetcher(chaos, signal.SIGKILL)


def take_hub_away_for_a_moment(chaos: Chaos) -> None:
    begin(chaos)
    chaos.hub.stop()
    time.sleep(chaos.random.choice((*PAUSE, 1.0)))
    chaos.hub.start()


def fill_volume_while_it_downloads(chaos: Chaos) -> None:
    before = settled(chaos)
    begin(chaos)
    with full_volume(chaos):
        chaos.obstacle = Obstacle(frozenset(FULL), before)
        chaos.settles()


# --- it is there -------------------------------------------------------------------------------------------------


def ready_from_the_hub(chaos: Chaos) -> str:
    """Serve a model of the hub."""
    chaos.relent()
    if chaos.model is None:
        download(chaos)
    chaos.settles()
    assert chaos.model is not None
    return chaos.model


def serve_what_is_cached_without_the_hub(chaos: Chaos) -> None:
    model = ready_from_the_hub(chaos)
    chaos.hub.stop()
    chaos.serve(model=model, anew=True)
    chaos.settles()


def delete_model(chaos: Chaos) -> None:
    """Delete the cached model that serves, and choose it again."""
    model = ready_from_the_hub(chaos)
    shutil.rmtree(folder(chaos, model))
    chaos.serve(model=model, anew=True)


def folder(chaos: Chaos, model: str) -> Path:
    """Where the cache has the model."""
    return chaos.models / f"models--{model.replace('/', '--')}"


ACTS: tuple[Act, ...] = (
    *(download, download_over_a_bad_line, stall_download),
    *(download_from_a_hub_that_fails, download_from_a_hub_that_is_down, download_what_is_refused),
    *(kill_fetcher, stop_fetcher_for_a_moment, kill_controller_while_it_downloads, edit_while_it_downloads),
    *(rotate_key_while_it_downloads, delete_what_is_downloaded, change_model_while_it_downloads),
    *(take_hub_away_for_a_moment, fill_volume_while_it_downloads),
    *(serve_what_is_cached_without_the_hub, delete_model),
)
REPLACING: tuple[Act, ...] = (kill_controller_while_it_downloads,)
ON_VOLUME: tuple[Act, ...] = (fill_volume_while_it_downloads,)
SETTLED: tuple[Act, ...] = (
    *(download_from_a_hub_that_fails, download_from_a_hub_that_is_down, download_what_is_refused),
    *(fill_volume_while_it_downloads, serve_what_is_cached_without_the_hub, delete_model),
)
"""What begins when all has settled."""
