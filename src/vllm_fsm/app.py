"""Wires the controller: files and probes in, the core in the middle, the engine and the health file out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from vllm_fsm import health, journal, lock
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.aside import within
from vllm_fsm.adapters.download.downloader import Downloader
from vllm_fsm.adapters.gpu_memory import GpuMemory
from vllm_fsm.adapters.health_file import HEARTBEAT, HealthFile
from vllm_fsm.adapters.health_file import NAME as HEALTH
from vllm_fsm.adapters.log_stream import LogStream
from vllm_fsm.adapters.probes import listeners
from vllm_fsm.adapters.probes.prober import Prober
from vllm_fsm.adapters.process.engine import EngineProcess
from vllm_fsm.adapters.process.warm.off import Times
from vllm_fsm.adapters.readahead.readahead import ReadAhead
from vllm_fsm.adapters.timers import Timers
from vllm_fsm.config import STATE
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.loading import loading
from vllm_fsm.core.next_start import calm, soon
from vllm_fsm.core.snapshot import Snapshot, Target
from vllm_fsm.driver import Driver
from vllm_fsm.garbage import Garbage
from vllm_fsm.history import History
from vllm_fsm.last_words import forbid_core_dumps, redact_tracebacks
from vllm_fsm.lock import DirectoryLock
from vllm_fsm.record import Record
from vllm_fsm.redaction import Redactor
from vllm_fsm.request import NAME as REQUEST
from vllm_fsm.request import Requests
from vllm_fsm.wishes import Wanted, Wishes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from vllm_fsm.adapters.watch import FileWatch
    from vllm_fsm.arguments import Effective
    from vllm_fsm.config import Config

BUG: Final = 70
"""Exit code after a failure of our own."""

AHEAD: Final = 20
"""Turns of the loop in which a start that waits for nothing comes to its execution."""

JUDGED: Final = 2.0
"""Seconds in which arguments are judged, or not at all: that looks at paths they name, whose disk may not answer."""

PROBED: Final = r'INFO: +(?:127\.0\.0\.1|::1|{host}):\d+ - "GET /(?:health|metrics) HTTP/1\.1" 200 OK'
"""uvicorn's access line for a probe that went well: 17,000 a day that say nothing."""


class Unusable(Exception):
    """The run cannot begin as it was configured; the text says what to change."""


async def run(
    config: Config,
    *,
    settings: Mapping[str, Any] | None = None,
    pace: Mapping[str, float] | None = None,
    warm: Mapping[str, float] | None = None,
    read_ahead: bool = True,
) -> int:
    """Supervise the engine until asked to stop; return the exit code.

    `settings`, `pace` and `warm` replace numbers of `Settings`, of the probes' `Pace` and of the `Times` of warm
    parents that have no flag; `read_ahead` says whether weights are.

    Raises:
        Held: another controller holds one of the directories.
        Unusable: a directory cannot be used.
    """
    forbid_core_dumps()
    locks = _lock(config)
    try:
        # What an earlier life of ours said last is not true any more. No file: the controller is starting.
        with contextlib.suppress(OSError):
            (config.run_dir / HEALTH).unlink()
        return await Controller(config, locks, settings or {}, pace or {}, warm or {}, read_ahead).run()
    finally:
        for taken in locks:
            taken.release()


def _lock(config: Config) -> list[DirectoryLock]:
    """Take the run directory, the state directory and the data directory, through our own below it; some may be one."""
    locks: list[DirectoryLock] = []
    seen = set()
    for directory in (config.run_dir, config.state, config.data / STATE):
        try:
            directory.mkdir(lock.MODE, parents=True, exist_ok=True)
            identity = os.stat(directory).st_dev, os.stat(directory).st_ino
            if identity not in seen:
                locks.append(DirectoryLock(directory))
            seen.add(identity)
        except OSError as error:
            if directory not in (config.run_dir, config.state):
                continue  # a read-only data volume, with a state directory elsewhere
            raise Unusable(f"{directory} cannot be used ({error.strerror}): name another directory") from error
    return locks


class Wall:
    """The time of day of a monotonic time; its offset is taken anew when the clock was set or the machine slept."""

    STEP: Final = 2.0

    def __init__(self) -> None:
        self._offset = self._measure()

    def __call__(self, at: float) -> datetime:
        """Return the time of day, UTC."""
        return datetime.fromtimestamp(at + self._offset, UTC)

    def follow(self) -> None:
        """Notice that the clock was set."""
        offset = self._measure()
        if abs(offset - self._offset) > self.STEP:
            self._offset = offset

    @staticmethod
    def _measure() -> float:
        return time.time() - time.monotonic()


class Controller:
    """One run: everything that lives as long as the process."""

    def __init__(
        self,
        config: Config,
        locks: Sequence[DirectoryLock],
        settings: Mapping[str, Any],
        pace: Mapping[str, float],
        warm: Mapping[str, float],
        read_ahead: bool,
    ) -> None:
        self.config = config
        self.locks = locks
        self.clock = time.monotonic
        self.wall = Wall()
        self.redactor = Redactor()
        self.redactor.know_environment(os.environ.items())
        redact_tracebacks(self.redactor)
        console = config.log_format == "console" or (config.log_format == "auto" and sys.stdout.isatty())
        self.lines = LogStream(sys.stdout.fileno())
        self.log = journal.logger(self.lines, self.redactor.scrub_value, self._now, console=console)
        decided_by = replace(config.settings(seed=os.getpid()), **settings)
        self.driver = Driver(Snapshot(settings=decided_by, since=self.clock()), self.clock, self.log)
        post = self.driver.post
        self.wishes = Wishes(config.store, config.credentials, clock=self.clock, log=self.log, judge=self._judge)
        self.requests = Requests(config.run_dir, clock=self.clock, log=self.log)
        memory = GpuMemory()
        self.engine = EngineProcess(
            post=post,
            clock=self.clock,
            log=self.log,
            relay=self._relay,
            command=config.engine,
            host=config.host,
            port=config.port,
            data=config.data,
            run_dir=config.run_dir,
            state_dir=config.state,
            port_holder=lambda: listeners.occupant(config.port, config.host),
            free_memory=memory.free,
            single_gpu=memory.single,
            redact=self.redactor.line,
            guard_all=config.guard == "all",
            warm=config.warm,
            warm_times=Times(**warm),
        )
        self.downloader = Downloader(
            post=post,
            clock=self.clock,
            log=self.log,
            models=config.models,
            silence=config.stall_timeout,
            xet=config.xet,
            redact=self.redactor.line,
            serving=lambda: self.driver.snapshot.active,
        )
        self.read_ahead = ReadAhead(clock=self.clock, log=self.log, models=config.models) if read_ahead else None
        self.prober = Prober(
            post=post,
            clock=self.clock,
            log=self.log,
            host=config.host,
            port=config.port,
            guard_all=config.guard == "all",
            **pace,
        )
        self._probed = re.compile(PROBED.format(host=re.escape(config.host)))
        self.timers = Timers(post, self.clock)
        self.health = HealthFile(config.run_dir, self._health, self.log)
        self.history = History(config.state)
        self.record = Record(config.state)
        self.garbage = Garbage()
        self.engine.warm.changed = self.health.write
        self._unrecorded: int | None = None
        """The start of which a line could not be recorded."""
        self._unwritten = False
        """The history could not be written; said once."""
        self.driver.handlers = {
            fx.StartEngine: self.engine.start,
            fx.TerminateEngine: self.engine.terminate,
            fx.KillSession: self.engine.kill,
            fx.TakePulse: self.engine.take_pulse,
            fx.ConfirmVacancy: self.engine.confirm_vacancy,
            fx.StartProbes: self.prober.start,
            fx.WatchLiveness: self.prober.watch,
            fx.StopProbes: self.prober.stop,
            fx.CheckPort: self.prober.check_port,
            fx.CheckWeights: self.downloader.check,
            fx.StartDownload: self.downloader.start,
            fx.CancelDownload: self.downloader.cancel,
            fx.ArmTimer: self.timers.arm,
            fx.CancelTimer: self.timers.cancel,
        }
        self.driver.observers = [self._journal(), self._expect, self._read_ahead, self._write_health]
        self._wanted = Wanted(None)
        self._again: asyncio.TimerHandle | None = None
        self._watch: FileWatch | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Supervise until asked to stop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self.driver.post(ev.StopRequested(self.clock())))
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self.log("started", version=_version(), pid=os.getpid(), data=str(self.config.data))
        try:
            await self.engine.recover()
            self.look()
            self.driver.settle()  # the first thing to be read is what is wanted, not that nothing was known yet
            self.health.write()
            self._spawn(self._beat)
            self._spawn(self._watch_files)
            code = await self.driver.run()
        except Exception:
            self.log("bug", traceback=traceback.format_exc())
            code = BUG
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            await self.prober.close()
            await self.downloader.close()
            if self.read_ahead is not None:
                await self.read_ahead.close()
            await self.engine.close()
            if self._watch is not None:
                await self._watch.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if code != 0:
                self.health.remove()  # whoever reads the file alone must not believe what it said last
        self.record.close()
        self.log("stopped", code=code)
        self.lines.close()
        return code

    def look(self) -> None:
        """Read the files and tell the core what changed; called at every hint."""
        wanted = self.wishes.look()
        self._learn(wanted.target)
        now = self.clock()
        if wanted.warnings != self._wanted.warnings:
            self.driver.post(ev.WarningsChanged(now, wanted.warnings))
        if wanted.target != self._wanted.target:
            self.driver.post(ev.WantedChanged(now, wanted.target))
        self._wanted = wanted
        request = self.requests.take()
        if request is not None:
            self.log("request", kind=request.kind.value, at=request.at)
            self.driver.post(ev.RetryRequested(now))
        self._look_again(min((at for at in (wanted.again, self.requests.again) if at is not None), default=None))

    def _judge(self, found: Effective) -> Effective | None:
        try:
            return within(JUDGED, _judged, found, self.config.engine)
        except (TimeoutError, RuntimeError) as error:  # none, or no thread to ask in
            self.log("arguments-not-judged", error=str(error))
            return None

    def _look_again(self, at: float | None) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if at is not None:
            self._again = asyncio.get_running_loop().call_later(max(0.0, at - self.clock()), self.look)

    def _hang_up(self) -> None:
        self.look()
        self.driver.post(ev.RetryRequested(self.clock()))

    async def _watch_files(self) -> None:
        # The first engine is executed first: the watcher's import would compete with it for the interpreter.
        for _ in range(AHEAD):
            await asyncio.sleep(0)
        if self._watch is None:
            from vllm_fsm.adapters.watch import FileWatch

            files = (self.config.store, self.config.credentials)
            self._watch = FileWatch(files, self.look, self.log, arrivals=(self.config.run_dir / REQUEST,))
        await self._watch.run()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            for taken in self.locks:
                if not taken.intact:
                    self.log("directory-taken-anew")
                    taken.renew()
            lost, self.lines.lost = self.lines.lost, 0
            if lost:
                self.log("log-lines-lost", count=lost)
            self.health.beat()
            self.garbage.collect()

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep `work` running: what fails in it is logged, and it begins anew."""

        async def keep() -> None:
            while True:
                try:
                    await work()
                    return
                except Exception as error:
                    self.log("task-failed", task=work.__qualname__, error=repr(error))
                    await asyncio.sleep(HEARTBEAT)

        self._tasks.add(asyncio.get_running_loop().create_task(keep()))

    def _loop_failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of the loop raised: the log is the place to say so, redacted."""
        self.log("callback-failed", message=context.get("message"), error=repr(context.get("exception")))

    def _relay(self, line: str) -> None:
        if self._probed.fullmatch(line):
            return
        shown = self.redactor.line(line)
        self.log(journal.ENGINE_LINE, line=shown)
        attempt = self.driver.snapshot.epoch
        try:
            self.record.write(attempt, shown)
        except OSError as error:
            if self._unrecorded != attempt:
                self._unrecorded = attempt
                self.log("output-not-recorded", attempt=attempt, error=str(error))

    def _learn(self, target: Target | None) -> None:
        if target is not None:
            self.redactor.know(target.key)
            self.redactor.know_environment(target.environment)

    def _journal(self) -> Callable[[Snapshot, ev.Event, Snapshot], None]:
        observe = journal.transition(self.log, self.wall)

        def record(before: Snapshot, event: ev.Event, after: Snapshot) -> None:
            entry = observe(before, event, after)
            if entry is not None:
                try:
                    self.history.append(self._scrub({"time": self._now(), **entry}))
                    self._unwritten = False
                except OSError as error:
                    if not self._unwritten:
                        self._unwritten = True
                        self.log("history-not-written", error=str(error))

        return record

    def _expect(self, _before: Snapshot, _event: ev.Event, after: Snapshot) -> None:
        target = None if after.stopping else after.target
        self.engine.expect(target, offline=after.offline, calm=calm(after), soon=soon(after))

    def _read_ahead(self, _before: Snapshot, _event: ev.Event, after: Snapshot) -> None:
        if self.read_ahead is not None:
            self.read_ahead.expect(loading(after))

    def _write_health(self, _before: Snapshot, _event: ev.Event, _after: Snapshot) -> None:
        self.health.write()

    def _health(self) -> dict[str, Any]:
        self.wall.follow()
        document = health.document(self.driver.snapshot, self.wall, procfs.boot_id())
        return self._scrub({**document, "warm": self.engine.warm.report()})

    def _scrub(self, fields: dict[str, Any]) -> dict[str, Any]:
        return cast("dict[str, Any]", self.redactor.scrub_value(fields))

    def _now(self) -> str:
        return health.timestamp(datetime.now(UTC))


def _judged(found: Effective, command: Sequence[str]) -> Effective:
    from vllm_fsm.judgement import judged

    return judged(found, command)


def _version() -> str:
    from vllm_fsm import __version__

    return __version__
