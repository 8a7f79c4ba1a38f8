"""Keeps one warm parent when it is worth its memory, gives it to a start that it fits, throws it away otherwise.

It decides how an engine comes to life, never whether: whatever goes wrong here ends in a plain start and a line in the
log. It is made some time after Ready, never while anything starts, stops or downloads; or in haste, for a start that
is about to be and found none.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

from vllm_fsm.adapters import memory
from vllm_fsm.adapters.aside import aside, within
from vllm_fsm.adapters.ports import Clock, Log
from vllm_fsm.adapters.process import pidfd, pulse
from vllm_fsm.adapters.process.attempt import Attempt
from vllm_fsm.adapters.process.warm import plan
from vllm_fsm.adapters.process.warm.off import AUTO, DEFAULT, Times
from vllm_fsm.adapters.process.warm.parent import VOLATILE
from vllm_fsm.adapters.process.warm.spare import Broken, Spare
from vllm_fsm.core.snapshot import Finding

if TYPE_CHECKING:
    from vllm_fsm.adapters.process.warm.identity import Identity
    from vllm_fsm.adapters.process.warm.memo import Memo

LONGEST: Final = 600.0
"""Seconds that the imports may take; 20 on two idle cores, at the lowest priority much more."""
HASTE: Final = 180.0
"""Seconds that a start waits for one that is made in haste, at most."""
DEAF: Final = 5.0
"""Seconds in which that one must do something."""
LOOK: Final = 30.0
"""Seconds between two looks at memory and files while one stands ready."""
STUDY: Final = 1.0
"""Seconds between two looks at an engine that starts, see `plan`."""
LOOKS: Final = 900
"""An engine that spawned nothing for so long has spawned all."""
LONGEST_REST: Final = 86400.0
"""Seconds, see `Times.rest`."""
TRIED: Final = re.compile(r"0\.32\..*\+.*cpu")
"""The versions that this was tried with, as their metadata write them; `auto` only."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
Given = Callable[[str], Mapping[str, str]]
"""The environment of a start in the TMPDIR that it is called with."""


Make = Callable[
    [Attempt, Sequence[str], Mapping[str, str], Callable[[str], None], Sequence[int]], Awaitable[Finding | None]
]
"""Executes a command in an environment, recorded and leashed as an engine is: for a body with a TMPDIR, whose output
goes to a function, with descriptors that are left open to it. Returns why it was not executed, None if it was."""


class Keeper:
    """At most one warm parent.

    Args:
        mode: `auto` or `on`; where it is `off` there is a `NoKeeper`.
        make: see Make.
        discard: kills what there is of a body and clears up; never fails.
        scratch: makes a TMPDIR.
        memo: what an earlier controller learnt of the engine's processes, and a later one will want to know.
        lost: called when one was killed, and not by us.
        times: when one is made, and how long it may take to answer.
    """

    def __init__(
        self,
        mode: str,
        *,
        clock: Clock,
        log: Log,
        command: Sequence[str],
        make: Make,
        discard: Callable[[Attempt], Awaitable[None]],
        lost: Callable[[], None],
        scratch: Callable[[int], str],
        memo: Memo,
        redact: Callable[[str], str] = str,
        enough: Callable[[float], bool] = memory.enough,
        times: Times = DEFAULT,
    ) -> None:
        self._mode = mode
        self._clock = clock
        self._log = log
        self._command = tuple(command)
        self._make = make
        self._discard = discard
        self._lost = lost
        self._scratch = scratch
        self._memo = memo
        self._recalled = False
        self._redact = redact
        self._enough = enough
        self._times = times
        self.changed: Callable[[], None] = lambda: None
        """Called when `report` says something new."""
        self._closed = False
        self._plan = plan.root()
        self._spare: Spare | None = None
        self._given: Given | None = None
        self._calm = self._soon = False
        self._cost = float(memory.FIRST_COST)
        self._why = ""
        """Why there is none."""
        self._failures = 0
        self._rest_until = 0.0
        self._engine: Spare | None = None
        """What became the engine that starts, or serves; None: it was started plainly, or there is none."""
        self._study: plan.Study | None = None
        self._working: asyncio.Task[None] | None = None
        self._hurrying: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._studying: asyncio.Task[None] | None = None
        self._going: set[Spare] = set()
        """Thrown away, and not gone yet."""
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what is told --------------------------------------------------------------------------------------------

    def look(self, given: Given | None, *, calm: bool, soon: bool) -> None:
        """Know what the next start would be given, and whether all is quiet: an engine serves, nothing else goes on.

        `soon`: the start follows as soon as the engine that is being ended is gone. Its imports need not wait for that,
        where there is memory for both.
        """
        if self._closed:
            return
        self._given = given
        if calm and not self._calm:
            self._served()
        self._calm = calm
        self._check()
        self._soon = soon
        if soon:
            self._end_study()  # what a start shows from here on is its end
            self._hasten_beside()
        if not calm:
            self._rest()
        elif self._working is None or self._working.done():
            self._working = self._do(self._work)

    def hasten(self, given: Given) -> None:
        """Know that a start follows. If none stands ready, make one at once.

        All its processes import at the same time, while a plain start's do so one after the other. Nothing is gained as
        long as the engine's processes are not known.
        """
        if self._closed or self._spare is not None or self._hurrying is not None:
            return
        known = self._recall()
        if known is None and not self._can_hurry():
            return
        try:
            found = self._supported(given)
        except Exception as error:
            self._mishap(error)
            return
        self._recalled = True
        if known is not None and found is not None and found.version == known[0]:
            self._plan = known[1]
        if found is not None and self._can_hurry():
            self._hurrying = self._do(self._hurry, given)

    def started(self, session: int, given: Mapping[str, str], spare: Spare | None) -> None:
        """An engine was executed: `spare` became it, if there was one."""
        if self._closed:
            return
        self._engine = spare
        self._end_study()
        try:
            unsupported = self._mode == AUTO and self._supported(lambda _: given) is None
        except Exception as error:
            self._mishap(error)
            return
        if unsupported:
            self._plan = plan.root()
            return
        self._study = plan.Study(self._plan, session, given, spare.children if spare is not None else ())
        self._studying = self._do(self._watch_start, self._study)

    def ended(self, *, asked: bool) -> None:
        """The engine ended; `asked`: because we wanted it."""
        if self._engine is not None and not self._engine.served and not asked:
            self.failed("its engine ended before it served")
            self._throw_away("broken")
        self._engine = None
        self._end_study()

    # --- what is asked -------------------------------------------------------------------------------------------

    async def hastened(self) -> None:
        """Wait for what is made in haste, as long as it does something."""
        work, ends, before = self._hurrying, self._clock() + HASTE, None
        while work is not None and not work.done():
            await asyncio.wait((work,), timeout=DEAF)
            try:
                now = self._pulse()
            except Exception as error:
                self.failed(_told(error))
                self._throw_away("broken")
                continue
            if now is None:
                continue
            if self._clock() >= ends or (before is not None and not pulse.moved(before, now)):
                self.failed(f"not ready within {HASTE:g} s" if self._clock() >= ends else f"silent for {DEAF:g} s")
                self._throw_away("broken")
            before = now

    def claim(self, given: Given) -> Spare | None:
        """Return the warm parent for a start now, if there is one that fits; it is the caller's from then on."""
        spare = self._take()
        self._rest()
        if spare is None:
            return None
        self.changed()
        try:
            difference = self._difference(spare, given) if spare.ready else "it is not ready yet"
        except Exception as error:
            difference = _told(error)
        if difference:
            self._log("warm-parent-not-used", difference=difference)
            self.release(spare)
            return None
        return spare

    async def become(self, spare: Spare, argv: Sequence[str], secret: str) -> str:
        """Let the claimed parent become the engine, whose key is `secret`; empty when it does.

        Otherwise the answer says why not, and it must be killed.
        """
        try:
            await spare.become(argv, dict.fromkeys(VOLATILE, secret), self._times.patience)
        except (Broken, OSError, TimeoutError) as error:
            return str(error) or f"no answer within {self._times.patience:g} s"
        return ""

    def failed(self, error: str) -> None:
        """A warm parent was of no use, by no fault of ours."""
        self._try_memo(self._memo.forget)
        self._do_without(error)

    def _do_without(self, error: str) -> None:
        self._failures += 1
        self._rest_until = self._clock() + min(self._times.rest * 2 ** min(self._failures - 1, 16), LONGEST_REST)
        self._why = self._redact(error)
        self._log("warm-parent-failed", error=self._why)
        self.changed()

    def _mishap(self, error: Exception) -> None:
        """Something failed in here. A disk that is slow just now is no reason to do without for long."""
        if isinstance(error, TimeoutError):
            self._say_why(str(error))
        else:
            self._do_without(_told(error))

    def release(self, spare: Spare) -> None:
        """Throw away a claimed parent, in the background."""
        self._going.add(spare)
        self._do(self._end, spare)

    def report(self) -> dict[str, Any]:
        """Return what `status` says; memory in bytes."""
        spare = self._spare
        ready = spare if spare is not None and spare.ready else None
        return {
            "state": "none" if spare is None else "preparing" if ready is None else "ready",
            "why": self._why or None if spare is None else None,
            "hasty": self._can_hurry(),
            "memory": ready and ready.memory,
            "cpuSeconds": ready and round(ready.seconds, 1),
            "processes": 1 + _count(ready.children) if ready is not None else 0,
        }

    async def close(self) -> None:
        """End it."""
        self._closed = True
        spare = self._take()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in {*self._going, *([spare] if spare is not None else [])}:
            await self._end(one)

    # --- making and watching -------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """As long as it is calm: make one when there is none and that is right."""
        await asyncio.sleep(self._times.settle)
        while self._given is not None:
            if self._spare is None:
                try:
                    await self._try(self._given)
                except Exception as error:
                    self._mishap(error)
            await asyncio.sleep(LOOK)

    async def _hurry(self, given: Given) -> None:
        try:
            await self._prepare(given, hasty=True)
        except Exception as error:
            self._mishap(error)
        finally:
            self._hurrying = None
        if self._soon:  # one that was thrown away since it would not have fitted
            self._hasten_beside()

    def _hasten_beside(self) -> None:
        """Hasten while the last engine is still there, if there is memory for both."""
        if self._given is not None and (self._mode != AUTO or self._enough(memory.MARGIN * self._cost)):
            self.hasten(self._given)

    def _pulse(self) -> pulse.Sample | None:
        """What is made has used so far, None if there is no process."""
        spare = self._spare
        if spare is None or spare.ready or spare.body.process is None:
            return None
        return pulse.sample(spare.body.process.pid, 0)

    async def _try(self, given: Given) -> None:
        self._say_why(self._objection(given))
        if not self._why:
            await self._prepare(given)

    def _can_hurry(self) -> bool:
        """Whether something is gained by haste, and the last failure was long ago."""
        return self._plan.count() > 1 and self._clock() >= self._rest_until

    def _rest(self) -> None:
        """Make none until it is calm again."""
        if self._working is not None:
            self._working.cancel()
            self._working = None

    async def _watch(self, spare: Spare) -> None:
        """Look after one that stands ready, whatever goes on beside it."""
        while self._spare is spare:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEAF if spare.hasty else LOOK):
                    await spare.body.exited.wait()
            self._check()

    def _check(self) -> None:
        """Throw away what will not be used, or takes memory that others need."""
        try:
            fault = self._fault(self._spare) if self._spare is not None else ""
        except TimeoutError:
            fault = ""  # it is looked at before it is used
        except Exception as error:
            self._do_without(_told(error))
            fault = "broken"
        if fault:
            self._throw_away(fault)

    def _fault(self, spare: Spare) -> str:
        """Why it is to be thrown away; empty when nothing speaks against it."""
        if self._given is None:
            return "unwanted"
        if not (spare.ready or spare.hasty or self._calm):
            return "busy"
        if spare.ready and spare.body.exited.is_set():
            if spare.body.status == -signal.SIGKILL:
                self._lost()
            self.failed(f"it ended: {spare.lines[-1]}" if spare.lines else "it ended")
            return "ended"
        waits = spare.ready or not spare.hasty
        if self._mode == AUTO and waits and not self._enough(0.0):
            return "memory"
        difference = self._difference(spare, self._given)
        return "environment" if "environment" in difference else difference and "files"

    def _objection(self, given: Given) -> str:
        """Why none may be made now; empty when nothing speaks against it."""
        if self._supported(given) is None:
            return "this engine is not supported"
        if self._mode == AUTO:
            if self._clock() < self._rest_until:
                return "the last one failed"
            if not self._enough(memory.MARGIN * self._cost):
                return "not enough free memory"
        return ""

    def _supported(self, given: Given) -> Identity | None:
        found = self._identify(given(""))
        return None if found is None or (self._mode == AUTO and not TRIED.match(found.version)) else found

    async def _prepare(self, given: Given, *, hasty: bool = False) -> None:
        body = Attempt(0, "", self._redact)
        body.tmpdir = self._scratch(0)
        try:
            environment = {name: value for name, value in given(body.tmpdir).items() if name not in VOLATILE}
            found = self._identify(environment)
            spare = Spare(found, body, environment, hasty=hasty) if found is not None else None
        except Exception:
            await self._discard(body)
            raise
        if spare is None:
            await self._discard(body)
            return
        self._spare = spare
        self.changed()
        spare.warming = self._do(self._warm, spare)
        await asyncio.wait((spare.warming,))

    async def _warm(self, spare: Spare) -> None:
        try:
            problem = await self._make(
                spare.body, spare.command(), spare.given, spare.lines.append, (spare.theirs.fileno(),)
            )
            if problem is not None:
                raise Broken(str(dict(problem.message.params).get("error") or problem.reason))
            spare.theirs.close()
            self._do(self._reap, spare.body)
            async with asyncio.timeout(LONGEST):
                said = await spare.warm(self._plan)
        except Exception as error:
            if self._spare is spare:
                self.failed(f"not ready within {LONGEST:g} s" if isinstance(error, TimeoutError) else _told(error))
                self._throw_away("broken")
            return
        self._cost = float(spare.memory or memory.FIRST_COST)
        self._log(
            "warm-parent-ready",
            pid=said.get("pid"),
            processes=1 + _count(spare.children),
            memory=spare.memory,
            cpu_seconds=round(spare.seconds, 1),
            threads=said.get("threads"),
            missing=said.get("missing") or None,
        )
        if self._spare is spare:
            spare.watching = self._do(self._watch, spare)
        self.changed()

    async def _reap(self, body: Attempt) -> None:
        """Notice the end of a parent that only waits; that of an engine is `EngineProcess`'s to notice."""
        process = body.process
        if process is None:
            return
        await pidfd.ended(process.pid)
        if body.process is process:
            body.status = process.wait()
            body.exited.set()

    def _difference(self, spare: Spare, given: Given) -> str:
        now = self._identify(given(spare.body.tmpdir or ""))
        return "vLLM is gone" if now is None else spare.identity.difference(now)

    def _identify(self, environment: Mapping[str, str]) -> Identity | None:
        # Imported when it is needed: `shutil` and `glob` would take their time at every start of the controller.
        from vllm_fsm.adapters.process.warm import identity

        return within(self._times.patience, identity.of, self._command, environment)

    def _take(self) -> Spare | None:
        """Have it no more, and look after it no more."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.watching is not None:
            spare.watching.cancel()
        return spare

    def _throw_away(self, why: str) -> None:
        spare = self._take()
        if spare is None:
            return
        self._log("warm-parent-thrown-away", why=why)
        self.release(spare)
        self.changed()

    async def _end(self, spare: Spare) -> None:
        """See it gone. Its socket is closed when nobody reads it any more."""
        warming = spare.warming
        if warming is not None and not warming.done() and warming is not asyncio.current_task():
            warming.cancel()
            await asyncio.wait((warming,))
        spare.let_go()
        await self._discard(spare.body)
        self._going.discard(spare)

    # --- what is learnt ------------------------------------------------------------------------------------------

    async def _watch_start(self, study: plan.Study) -> None:
        for _ in range(LOOKS):
            for difference in study.look():
                self._log("warm-child-not-used", difference=difference)
                if difference == plan.NO_ANSWER and self._engine is not None and self._engine.hasty:
                    self.failed("a child of it was not used")
            await asyncio.sleep(STUDY)

    def _served(self) -> None:
        """The engine serves."""
        if self._study is not None:
            self._study.look()
            self._study.end()
        self._end_study()
        if self._engine is not None:
            self._engine.served = True
            self._failures = 0
        if self._plan.count() > 1 and not self._failures:
            self._keeping = self._do(self._keep)

    def _recall(self) -> tuple[str, plan.Node] | None:
        """Before the first start: what an earlier controller learnt, and of which version of vLLM."""
        if self._recalled or self._plan.count() > 1:
            return None
        known = self._try_memo(self._memo.recall)
        self._recalled = known is None
        return known

    async def _keep(self) -> None:
        from vllm_fsm import engine_version

        version = await aside(engine_version.version, self._command)
        if version is not None:
            self._try_memo(self._memo.keep, version, self._plan)

    def _try_memo(self, act: Callable[[*Arguments], T], *arguments: *Arguments) -> T | None:
        """Do what can be done without: nothing but a line in the log comes of its failure."""
        try:
            return act(*arguments)
        except Exception as error:
            self._log("warm-plan-not-kept", error=_told(error))
            return None

    def _end_study(self) -> None:
        self._study = None
        if self._studying is not None:
            self._studying.cancel()
            self._studying = None

    def _say_why(self, why: str) -> None:
        if why != self._why:
            self._why = why
            if why:
                self._log("no-warm-parent", why=why)
            self.changed()

    def _do(self, work: Callable[..., Awaitable[None]], *arguments: object) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(work, *arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await work(*arguments)
        except Exception as error:
            self._log("warm-parent-failed", error=repr(error))


def _count(children: Sequence[Any]) -> int:
    return sum(1 + _count(child["children"]) for child in children)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, Broken | OSError | ValueError) and str(error) else repr(error)
