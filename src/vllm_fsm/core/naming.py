"""The rule that names the public state. The table must agree with it after every step; simulations assert that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_fsm.core.states import Download, Service

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Snapshot


def name(snapshot: Snapshot) -> Service:
    """Name what a user of the API has, the first that holds."""
    if snapshot.proven:
        return Service.READY
    if snapshot.target is None:
        return Service.NO_MODEL
    if snapshot.download in (Download.RUNNING, Download.WAITING):
        return Service.DOWNLOADING
    if snapshot.failed:
        return Service.FAILED
    return Service.LOADING
