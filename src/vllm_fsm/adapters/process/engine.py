"""The engine process: executed, watched, stopped, and seen to be gone with everything that belongs to it.

The parts: `launch` executes it through the `shim`, `marks` record it, the `leash` holds the guardian that ends it
after our own violent end, `output` reads its pipe, `purge` ends all that belongs to it, the `reaper` collects orphans,
`recovery` clears up after an earlier life of ours and after a start that could not be ended in time, `warm` keeps a
process that has imported what the next engine will need.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_fsm import engine_command
from vllm_fsm.adapters.aside import aside
from vllm_fsm.adapters.ports import Clock, Log, Post
from vllm_fsm.adapters.process import launch, ldconfig, marks, oom
from vllm_fsm.adapters.process.attempt import Attempt
from vllm_fsm.adapters.process.leash import Leash
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.memory_return import FreeMemory, MemoryReturn
from vllm_fsm.adapters.process.output import Output
from vllm_fsm.adapters.process.pauses import pauses
from vllm_fsm.adapters.process.purge import Purge
from vllm_fsm.adapters.process.reaper import Reaper
from vllm_fsm.adapters.process.recovery import Leftovers
from vllm_fsm.adapters.process.scratch import Scratch
from vllm_fsm.adapters.process.warm.off import DEFAULT, OFF, NoKeeper, Times
from vllm_fsm.core import effects, events
from vllm_fsm.core.snapshot import Finding, Target
from vllm_fsm.diagnosis import execution

if TYPE_CHECKING:
    from vllm_fsm.adapters.process.warm.keeper import Keeper
    from vllm_fsm.adapters.process.warm.spare import Spare

T = TypeVar("T")

GIB = 1 << 30
SLACK = 1 << 30
"""Bytes of GPU memory that may be missing although nothing of ours is left: others use the GPU too."""
LINGER = 0.2
"""Seconds that the rest of a session has to follow a leader that ended in order: status 0 after SIGTERM.

vLLM 0.32 is gone within 0.1 s then, and its resource tracker removes what only it knows. After any other end the rest
is killed at once: nobody tells it to end, and the next engine waits for it.
"""
COMPLAINT = 10.0
"""Seconds between two lines about processes that do not end: they hang in the kernel, nothing can be done."""
CLOSE_LIMIT = 2.0
"""Seconds in which `close` ends a living engine; the guardian goes on with what is left."""
STOPPED = Finding.of("EngineStartFailed", error="it was stopped before it was executed")


class EngineProcess:
    """Does the effects of the engine's life; everything it learns is posted as an event.

    Args:
        relay: called with every line of the engine's output, bounded but not redacted.
        command: the engine's program and first arguments; `serve …` is appended.
        data: holds the model cache. The working directory stays ours: the store may name files relative to it.
        run_dir: short-lived files of ours: marks and the engine's TMPDIR.
        state_dir: a second place for the marks, one of the two may be lost; what is learnt of the engine's processes.
        free_memory: free GPU memory of all devices in bytes, or None where it cannot be known.
        single_gpu: whether that is one device.
        port_holder: describes who listens on the engine's port, None when nobody does.
        oom_kills: how many processes of our cgroup the kernel has ended for want of memory; None where it tells not.
        redact: takes secrets out of a text; the API key is taken out in any case.
        link_cache: awaited once, before the first start.
        execute_limit: seconds for one exec, see `launch.LIMIT`.
        close_limit: see CLOSE_LIMIT.
        guard_all: the key is asked for everywhere, see `engine_command.argv`.
        warm: whether a process with everything imported is kept for the next start: `off`, `auto`, `on`.
        warm_times: when one is made.
    """

    def __init__(
        self,
        *,
        post: Post,
        clock: Clock,
        log: Log,
        relay: Callable[[str], None],
        command: Sequence[str],
        host: str,
        port: int,
        data: Path,
        run_dir: Path,
        state_dir: Path,
        free_memory: FreeMemory | None = None,
        single_gpu: Callable[[], bool] = lambda: True,
        port_holder: Callable[[], str | None] = lambda: None,
        oom_kills: Callable[[], int | None] = oom.kills,
        redact: Callable[[str], str] = str,
        link_cache: Callable[[Log], Awaitable[None]] | None = ldconfig.refresh,
        execute_limit: float = launch.LIMIT,
        close_limit: float = CLOSE_LIMIT,
        guard_all: bool = False,
        warm: str = OFF,
        warm_times: Times = DEFAULT,
    ) -> None:
        self._post = post
        self._clock = clock
        self._log = log
        self._relay = relay
        self._command = tuple(command)
        self._host, self._port, self._data = host, port, data
        self._mark_folders = tuple(dict.fromkeys((os.path.abspath(run_dir), os.path.abspath(state_dir))))
        self._memory = MemoryReturn(free_memory, clock=clock, log=log)
        self._single_gpu = single_gpu
        self._port_holder = port_holder
        self._oom_kills = oom_kills
        self._redact = redact
        self._link_cache = link_cache
        self._linking: asyncio.Task[None] | None = None
        self._execute_limit = execute_limit
        self._close_limit = close_limit
        self._guard_all = guard_all
        self._scratch = Scratch(run_dir)
        self._leftovers = Leftovers(self._mark_folders, self._scratch, log)
        self._reaper = Reaper(log=log)
        self._leash = Leash(clock=clock, log=log)
        self.warm = self._keeper(warm, warm_times, state_dir)
        self._expected: tuple[Target | None, bool, bool, bool] | None = None
        self._attempt: Attempt | None = None
        self._most_free = 0
        """Bytes of GPU memory that were ever free before a start, less what others may use meanwhile."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def _keeper(self, mode: str, times: Times, state_dir: Path) -> Keeper | NoKeeper:
        if mode == OFF:
            return NoKeeper()
        from vllm_fsm.adapters.process.warm.keeper import Keeper
        from vllm_fsm.adapters.process.warm.memo import Memo

        return Keeper(
            mode,
            clock=self._clock,
            log=self._log,
            command=self._command,
            make=self._bring,
            discard=self._discard,
            lost=self._warm_parent_lost,
            scratch=self._scratch.make,
            memo=Memo(state_dir, self._redact),
            redact=self._redact,
            times=times,
        )

    @property
    def guardian(self) -> int | None:
        """The pid of the process that ends the engine after our own violent end; None between two of them."""
        return self._leash.pid

    # --- effects -----------------------------------------------------------------------------------------------------

    def start(self, effect: effects.StartEngine) -> None:
        """Execute the engine → EngineStarted, later EngineExited; or StartFailed."""
        if self._attempt is not None:
            finding = Finding.of("EngineStartFailed", error="the last engine is not gone")
            self._post(events.StartFailed(self._clock(), effect.epoch, finding))
            return
        self._attempt = Attempt(effect.epoch, effect.target.key.reveal(), self._redact)
        self._do(self._start(self._attempt, effect), effect)

    def terminate(self, effect: effects.TerminateEngine) -> None:
        """Send SIGTERM to the leader, and SIGCONT: a stopped process would not notice the first."""
        attempt = self._current(effect)
        if attempt is None or attempt.process is None or not attempt.executed or attempt.exited.is_set():
            return
        attempt.asked = True
        attempt.stop_hearing()
        try:  # not reaped yet, so the number is still the leader's
            os.kill(attempt.process.pid, signal.SIGTERM)
            os.kill(attempt.process.pid, signal.SIGCONT)
        except OSError as error:
            self._fail(effect, error)

    def kill(self, effect: effects.KillSession) -> None:
        """SIGKILL everything that belongs to the engine, now and until nothing of it is found.

        A start that is not executed yet is given up → StartFailed, at once while there is no process.
        """
        attempt = self._current(effect)
        if attempt is None:
            return
        attempt.doomed = True
        attempt.stop_hearing()
        if attempt.purge is None:
            if attempt.preparing is not None:
                attempt.preparing.cancel()
        elif attempt.killing is None or attempt.killing.done():
            attempt.killing = self._do(self._kill(attempt), effect)

    def take_pulse(self, effect: effects.TakePulse) -> None:
        """See whether the engine did anything since the last look → PulseTaken."""
        attempt = self._current(effect)
        if attempt is None:
            return
        from vllm_fsm.diagnosis.ending import LONGEST

        moved = attempt.moved()
        self._post(events.PulseTaken(self._clock(), attempt.epoch, moved, attempt.diagnosis.last[:LONGEST]))

    def confirm_vacancy(self, effect: effects.ConfirmVacancy) -> None:
        """Wait until the engine is gone with all that belongs to it → EngineVacated, once.

        What does not follow the leader is killed. Asked again with a shorter `memory_wait`, it waits no longer than
        that.
        """
        attempt = self._current(effect)
        if attempt is None:
            self._post(events.EngineVacated(self._clock(), effect.epoch))
        elif attempt.vacating is None or attempt.vacating.done():
            attempt.memory_wait = effect.memory_wait
            attempt.vacating = self._do(self._vacate(attempt), effect)
        else:
            attempt.memory_wait = min(attempt.memory_wait, effect.memory_wait)
            self._memory.shorten(effect.memory_wait)

    def expect(self, target: Target | None, *, offline: bool, calm: bool, soon: bool = False) -> None:
        """Know what the next start will probably be, and whether an engine serves and nothing else goes on.

        `soon`: it follows as soon as the engine that is being ended is gone.
        """
        if self._expected != (target, offline, calm, soon):
            self._expected = (target, offline, calm, soon)
            self.warm.look(None if target is None else self._given(target, offline), calm=calm, soon=soon)

    async def recover(self) -> None:
        """Take up the work: adopt orphans, start the guardian, end what an earlier life of ours left."""
        self._reaper.start()
        self._leash.start()
        await self._leftovers.find()

    async def close(self) -> None:
        """Kill what still lives and let go of everything; nothing is posted any more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        attempt, self._attempt = self._attempt, None
        await asyncio.gather(self.warm.close(), *((self._discard(attempt),) if attempt is not None else ()))
        await self._memory.close()
        self._reaper.stop()
        await self._leash.close()

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _start(self, attempt: Attempt, effect: effects.StartEngine) -> None:
        try:
            problem = await self._execute(attempt, effect)
        except Exception as error:
            problem = Finding.of("EngineStartFailed", error=f"{type(error).__name__}: {error}")
        if problem is not None:
            await self._discard(attempt)
            self._attempt = None
            self._post(events.StartFailed(self._clock(), attempt.epoch, problem))
            return
        assert attempt.process is not None
        attempt.executed = True
        self._post(events.EngineStarted(self._clock(), attempt.epoch, attempt.process.pid))
        await self._follow(attempt)

    async def _execute(self, attempt: Attempt, effect: effects.StartEngine) -> Finding | None:
        """Bring the engine to life; return why it could not be."""
        if attempt.doomed:
            return STOPPED
        target, offline = effect.target, effect.offline
        attempt.preparing = self._keep(self._prepare(attempt, effect))
        await asyncio.wait((attempt.preparing,))
        problem = None if attempt.preparing.cancelled() else attempt.preparing.result()
        if attempt.doomed:
            return STOPPED
        if problem is not None:
            return problem
        if problem := self._port_taken():
            return problem
        command = engine_command.argv(
            target,
            command=self._command,
            host=self._host,
            port=self._port,
            data=self._data,
            offline=offline,
            guard_all=self._guard_all,
        )
        given = self._given(target, offline)
        attempt.started_with(target.model, given("").get("HF_ENDPOINT"), self._port)
        attempt.oom_kills_before = self._oom_kills()
        spare = self.warm.claim(given)
        if spare is not None:
            if await self._become(attempt, spare, command):
                self._was_started(attempt, spare.given, spare)
                return None
            if attempt.doomed:
                return STOPPED
        attempt.tmpdir = self._scratch.make(attempt.epoch)
        environment = given(attempt.tmpdir)
        problem = await self._bring(attempt, command, environment, partial(self._hand_on, attempt))
        if problem is None:
            self._was_started(attempt, environment)
        return problem

    def _port_taken(self) -> Finding | None:
        holder = self._port_holder()
        return None if holder is None else Finding.of("PortTaken", port=self._port, holder=holder)

    def _given(self, target: Target, offline: bool) -> Callable[[str], dict[str, str]]:
        """Return what the environment of a start is, by its TMPDIR."""
        return lambda tmpdir: engine_command.environment(
            os.environ, target, data=self._data, tmpdir=tmpdir, offline=offline, guard_all=self._guard_all
        )

    def _was_started(self, attempt: Attempt, given: Mapping[str, str], spare: Spare | None = None) -> None:
        assert attempt.process is not None
        self.warm.started(attempt.process.pid, given, spare)

    async def _become(self, attempt: Attempt, spare: Spare, command: Sequence[str]) -> bool:
        """Let a warm parent be the engine; False when it is not, and not the attempt's any more."""
        body = spare.body
        attempt.take_over(body)
        assert attempt.output is not None
        said: list[str] = []

        def keep(line: str) -> None:
            said.append(line)
            spare.lines.append(line)

        # What it says is the engine's only if it is the engine.
        attempt.output.pass_to(keep, attempt.secret)
        problem = await self.warm.become(spare, command, attempt.secret)
        if not problem:
            attempt.output.pass_to(partial(self._hand_on, attempt), attempt.secret)
            for line in said:
                self._hand_on(attempt, line)
            return True
        if not attempt.doomed:
            self.warm.failed(problem)
            body.take_over(attempt)
            attempt.oom_kills_before = self._oom_kills()
        self.warm.release(spare)
        return False

    def _warm_parent_lost(self) -> None:
        """A warm parent was killed while it waited; if the kernel did it, that is not counted as an engine's."""
        attempt, now = self._attempt, self._oom_kills()
        if attempt is not None and attempt.oom_kills_before is not None and now is not None:
            attempt.oom_kills_before = min(attempt.oom_kills_before + 1, now)

    async def _bring(
        self,
        attempt: Attempt,
        command: Sequence[str],
        environment: Mapping[str, str],
        relay: Callable[[str], None],
        keep: Sequence[int] = (),
    ) -> Finding | None:
        """Execute `command` in a session of its own; return why it could not be."""
        assert attempt.tmpdir is not None
        try:
            spawned = launch.spawn(command, environment, keep)
        except (OSError, ValueError) as error:
            permanent = isinstance(error, ValueError) or error.errno in execution.HOPELESS
            return Finding.of("EngineStartFailed", permanent=permanent, error=str(error))
        attempt.process = spawned.process
        attempt.output = Output(spawned.output, relay=relay, secret=attempt.secret)
        mark = Mark.of_child(spawned.process.pid, pipe=spawned.pipe, tmpdir=attempt.tmpdir)
        attempt.purge = Purge(mark, watched=True)
        self._record(mark)
        try:
            await launch.execute(spawned, self._execute_limit)
        except launch.Interrupted:
            status = await attempt.reap()
            said = attempt.heard().last
            ended = Finding.of("EngineStartFailed", evidence=said, error=f"its launcher ended with status {status}")
            return STOPPED if attempt.doomed else ended
        except launch.Unanswered:
            late = Finding.of("EngineStartFailed", error=f"not executed within {self._execute_limit:g} s")
            return STOPPED if attempt.doomed else late
        except OSError as error:
            return execution.explain_exec(error, command[0], environment.get("PATH"))
        return None

    async def _prepare(self, attempt: Attempt, effect: effects.StartEngine) -> Finding | None:
        """Do what takes time before there is a process; return why there must be none. May be cancelled."""
        if processes := await self._leftovers.end():
            return Finding.of("LeftoversRemain", processes=processes)
        if problem := self._port_taken():
            return problem
        if self._linking is None:
            self._linking = self._keep(self._link())
        await asyncio.wait((self._linking,))  # it is not cancelled with us: the next start waits for the same one
        self.warm.hasten(self._given(effect.target, effect.offline))
        if effect.memory_needed is not None:
            needed = int(effect.memory_needed * GIB) if self._single_gpu() else 0
            await self._memory.wait(needed or self._most_free, effect.memory_wait)
        await self.warm.hastened()
        attempt.free_before = await self._memory.free()
        self._most_free = max(self._most_free, (attempt.free_before or 0) - SLACK)
        return None

    async def _link(self) -> None:
        if self._link_cache is None:
            return
        try:
            await self._link_cache(self._log)
        except Exception as error:
            self._log("ldconfig-failed", error=repr(error))

    def _record(self, mark: Mark) -> None:
        """Make sure that the engine does not outlive us, before it lives."""
        recorded = 0
        for folder in self._mark_folders:
            try:
                os.makedirs(folder, exist_ok=True)
                marks.write(mark, folder)
                recorded += 1
            except OSError as error:
                self._log("mark-not-written", path=folder, error=str(error))
        if not recorded:
            self._log("engine-not-recorded", session=mark.session)
        self._leash.start()
        self._leash.watch(mark)

    async def _follow(self, attempt: Attempt) -> None:
        """Wait for the leader's end, reap it, and say what it means."""
        status = await attempt.reap()
        try:
            finding = self._explain(attempt, status)
        except Exception as error:
            self._log("exit-not-explained", error=repr(error))
            finding = Finding.of("EngineExited", status=status, line="nothing")
        attempt.status = status
        attempt.exited.set()
        self.warm.ended(asked=attempt.asked)
        self._post(events.EngineExited(self._clock(), attempt.epoch, status, finding))

    def _explain(self, attempt: Attempt, status: int) -> Finding:
        from vllm_fsm.diagnosis.ending import End

        before, after = attempt.oom_kills_before, self._oom_kills()
        rose = max(0, after - before) if before is not None and after is not None else 0
        return attempt.heard().finding(End(status, attempt.asked or attempt.doomed, rose))

    def _hand_on(self, attempt: Attempt, line: str) -> None:
        try:
            told = attempt.hear(line)
        except Exception as error:
            self._log("output-not-understood", error=type(error).__name__)
        else:
            if told is not None:
                self._post(events.PhaseEntered(self._clock(), attempt.epoch, *told))
        try:
            self._relay(line)
        except Exception as error:
            self._log("output-not-relayed", error=type(error).__name__)

    # --- ending ------------------------------------------------------------------------------------------------------

    async def _kill(self, attempt: Attempt) -> None:
        attempt.strike()
        for pause in pauses():
            await asyncio.sleep(pause)
            # After the leader's end it is `_vacate` that goes on.
            if attempt.vacating is not None or not attempt.strike():
                return

    async def _vacate(self, attempt: Attempt) -> None:
        await attempt.exited.wait()
        await self._see_empty(attempt)
        before = attempt.free_before
        await self._memory.wait(None if before is None else before - SLACK, attempt.memory_wait)
        await self._clear(attempt)
        self._attempt = None
        self._post(events.EngineVacated(self._clock(), attempt.epoch))

    async def _see_empty(self, attempt: Attempt) -> None:
        """Wait until nothing that belongs to the engine runs; kill what does not follow its leader."""
        patience = self._clock() + LINGER if attempt.orderly else None
        complaint = self._clock() + COMPLAINT
        for pause in pauses():
            self._sweep(attempt)
            now = self._clock()
            if attempt.doomed or (patience is not None and now >= patience):
                patience = None
            found = attempt.strike() if patience is None else attempt.look()
            if not found:
                break
            if now >= complaint:
                self._log("engine-remains", epoch=attempt.epoch, processes=[repr(process) for process in found])
                complaint = now + COMPLAINT
            await asyncio.sleep(pause)
        self._sweep(attempt)

    def _sweep(self, attempt: Attempt) -> None:
        if attempt.purge is not None:
            self._reaper.sweep(attempt.purge.mark.session, attempt.purge.killed)

    async def _discard(self, attempt: Attempt) -> None:
        """Kill and reap what there is of the attempt, and clear up."""
        attempt.doomed = True
        try:
            if attempt.process is not None:
                async with asyncio.timeout(self._close_limit):
                    attempt.strike()
                    await attempt.reap()
                    await self._see_empty(attempt)
            await self._clear(attempt)
        except Exception as error:  # the time is over, or there is no descriptor left for a look
            session = attempt.process.pid if attempt.process is not None else None
            self._log("engine-remains", epoch=attempt.epoch, session=session, error=repr(error))
            self._leave(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """Leave what does not end to the next start, and after our end to the guardian or the next recovery."""
        if attempt.output is not None:
            attempt.output.close()
        if attempt.purge is not None:
            self._leftovers.add(attempt.purge, partial(self._finish, attempt))

    async def _finish(self, attempt: Attempt) -> bool:
        """Clear up after an attempt that was left, if its leader can be reaped."""
        if attempt.process is not None and attempt.process.poll() is None:
            return False
        self._sweep(attempt)
        await self._clear(attempt)
        return True

    async def _clear(self, attempt: Attempt) -> None:
        """Remove what the engine left outside of its processes."""
        if attempt.output is not None:
            attempt.output.drain()
            attempt.output.close()
        await aside(self._remove_files, attempt)
        if attempt.purge is not None:
            self._leash.forget(attempt.purge.mark)

    def _remove_files(self, attempt: Attempt) -> None:
        if attempt.tmpdir is not None:
            self._scratch.remove(attempt.tmpdir)
        if attempt.purge is None:
            return
        attempt.purge.finish()
        for folder in self._mark_folders:
            if problem := marks.remove(attempt.purge.mark, folder):
                self._log("mark-not-removed", path=folder, error=str(problem))

    # --- all of them -------------------------------------------------------------------------------------------------

    def _current(self, effect: effects.EngineEffect) -> Attempt | None:
        """The attempt that `effect` is about, None if that is over."""
        attempt = self._attempt
        return attempt if attempt is not None and attempt.epoch == effect.epoch else None

    def _do(self, work: Coroutine[None, None, None], effect: effects.EngineEffect) -> asyncio.Task[None]:
        return self._keep(self._guard(work, effect))

    def _keep(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Coroutine[None, None, None], effect: effects.EngineEffect) -> None:
        try:
            await work
        except Exception as error:
            self._fail(effect, error)

    def _fail(self, effect: effects.EngineEffect, error: Exception) -> None:
        name, text = type(effect).__name__, f"{type(error).__name__}: {error}"
        self._log("effect-failed", effect=name, error=text)
        finding = Finding.of("EffectFailed", effect=name, error=text)
        self._post(events.EffectFailed(self._clock(), effect.epoch, effect, finding))
