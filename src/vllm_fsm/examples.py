"""Health lines to show: one snapshot for each thing that a person may read, put through the real `health.report`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from vllm_fsm import health
from vllm_fsm.core.events import DownloadRetryDue, RestartDue
from vllm_fsm.core.render import Example
from vllm_fsm.core.snapshot import Finding, Message, Progress, Secret, Snapshot, Target
from vllm_fsm.core.states import Download, Engine, Service

_ONE: Final = Target(("org/name",), (), Secret(""), "org/name")
_NEXT: Final = Target(("org/next",), (), Secret(""), "org/next")
_GB: Final = 1_000_000_000
_EXITED: Final = Finding.of("EngineExited", status=1, line="RuntimeError: unable to open shared memory object")
_HALF: Final = Progress("org/name", 12_300_000_000, 39_600_000_000, 85e6, 300.0)


def _wall(at: float) -> datetime:
    return datetime(2026, 1, 2, 12, 0, tzinfo=UTC) + timedelta(seconds=at)


def _snapshot(state: Service, **fields: object) -> Snapshot:
    values: dict[str, object] = {"state": state, "target": _ONE, "active": _ONE} | fields
    return Snapshot(**values)  # type: ignore[arg-type]


def snapshots() -> list[Snapshot]:
    """Return one snapshot for each thing that can be said."""
    return [
        _snapshot(Service.NO_MODEL, target=None, active=None),
        _snapshot(Service.DOWNLOADING, active=None, download=Download.RUNNING, progress=_HALF),
        _snapshot(
            Service.DOWNLOADING,
            active=None,
            download=Download.WAITING,
            progress=_HALF,
            fetch_finding=Finding.of("DownloadStalled", repo="org/name", seconds=60),
            timers=((DownloadRetryDue, 8.0),),
        ),
        _snapshot(Service.LOADING, engine=Engine.ALIVE),
        _snapshot(
            Service.LOADING,
            engine=Engine.ALIVE,
            note=Message.of("FetchedByEngine", model="org/name", what="code of another repository"),
        ),
        _snapshot(Service.LOADING, engine=Engine.TERMINATING),
        _snapshot(Service.LOADING, finding=_EXITED, crashes=(0.0, 1.0), timers=((RestartDue, 2.0),)),
        _snapshot(Service.READY, proven=True, engine=Engine.ALIVE),
        _snapshot(
            Service.READY,
            proven=True,
            engine=Engine.ALIVE,
            target=_NEXT,
            download=Download.RUNNING,
            progress=Progress("org/next", 43 * _GB, 100 * _GB, 85e6, 350.0),
        ),
        _snapshot(
            Service.READY,
            proven=True,
            engine=Engine.ALIVE,
            target=_NEXT,
            next_problem=Finding.of("GatedRepo", permanent=True, repo="org/next"),
        ),
        _snapshot(Service.FAILED, failed=True, finding=Finding.of("StartupTimeout", minutes=35)),
        _snapshot(
            Service.FAILED,
            active=None,
            failed=True,
            finding=Finding.of(
                "DiskFull", permanent=True, repo="org/name", needed="39.6", spare="1.1", free="12.3", other="68.1"
            ),
        ),
        _snapshot(
            Service.FAILED,
            active=None,
            failed=True,
            finding=Finding.of("HubUnreachable", host="huggingface.co"),
            fetch_tries=10,
            timers=((RestartDue, 900.0),),
        ),
        _snapshot(
            Service.FAILED,
            failed=True,
            finding=Finding.of("PortTaken", port=8000, holder="nginx (pid 4711)"),
            timers=((RestartDue, 5.0),),
        ),
        _snapshot(Service.FAILED, failed=True, finding=_EXITED, resting=True, timers=((RestartDue, 900.0),)),
        _snapshot(Service.FAILED, failed=True, finding=Finding.of("EngineUnresponsive", restart_seconds=120)),
    ]


def examples() -> list[Example]:
    """Return state, health result and message of each."""
    shown = []
    for snapshot in snapshots():
        report = health.report(snapshot, _wall)
        shown.append((snapshot.state.value, report.result, report.message))
    return shown
