"""The output of one engine start, read as it comes: the earliest cause is kept, in bounded memory."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.core.snapshot import Finding
from vllm_fsm.diagnosis import ending
from vllm_fsm.diagnosis.causes import DIED, VANISHED, WARNED, WRAPPERS, WRAPPING, Cause
from vllm_fsm.diagnosis.ending import End, Site
from vllm_fsm.diagnosis.lines import Line, parse
from vllm_fsm.diagnosis.tracebacks import Reporter, Said

MOST_PROCESSES: Final = 64
"""Writers that are told apart; the one that has been silent longest is forgotten, unless it reported a cause."""
SURVIVED: Final = 20
"""Answers with 200 after an error of a ready engine, behind which it was no cause of its end."""
LONGEST: Final = 2000
"""Characters of an exception that are looked at and kept."""

_USAGE: Final = re.compile(r"(?:vllm(?: [\w-]{1,30})?|[\w.-]{1,60}\.py): error: (.*)")
"""What argparse prints last; vLLM exits with 2 then."""
_FATAL: Final = re.compile(r"Fatal Python error: |terminate called |.{1,200}: Assertion .* failed")
"""Last words of a process that crashed below Python."""
_READY: Final = re.compile(r"INFO: +Application startup complete\.$")
_ANSWERED: Final = re.compile(r'INFO: +\S+ - "[A-Z]+ \S+ HTTP/[\d.]+" 200 OK$')
_STOPPING: Final = "[shutdown] API server: shutdown triggered"
"""Somebody asked the server to stop: what the rest of it says then is how it ends."""
_SHUTDOWN: Final = "[shutdown]"
_LOADED: Final = re.compile(r"Starting to load model |Loading weights took |init engine \(|Model loading took ")
"""What a process says that got on: what it had reported before did not end it."""
_NOISE: Final = re.compile(
    r"\s*(?:$|nanobind: |See https://nanobind|- (?:leaked|\.\.\.) |warnings\.warn\(|.*resource_tracker: |~+\^|\^+$"
    r"|INFO: +(?:Waiting|Application shutdown|Finished|Shutting down))"
)
"""What every run prints after its last word."""


@dataclass(slots=True)
class Candidate:
    """An exception that may be why the engine ended."""

    order: int
    said: Said
    cause: Cause | None
    """None: it is not known what it means."""

    @property
    def rank(self) -> int:
        """How much it says."""
        return -1 if self.cause is None else self.cause.rank


@dataclass(slots=True)
class Writer:
    """A process of the engine, as far as it speaks for itself."""

    reporter: Reporter = field(default_factory=Reporter)
    known: Candidate | None = None
    """The best of the first traceback that is understood."""
    unknown: Candidate | None = None
    """For a process below the server the first exception that is not, else the last."""
    loose: Candidate | None = None
    """What looks like an exception that is understood, and stands alone."""

    def take(self, new: Candidate) -> None:
        """Keep `new` if nothing is known yet, or if it says more than what the same traceback said before."""
        old = self.known
        if old is None:
            self.known = new
        elif new.said.traceback == old.said.traceback and new.rank > old.rank:
            self.known = Candidate(old.order, new.said, new.cause)

    def settle(self) -> None:
        """See whether what stood alone was linked to what followed."""
        if self.loose is not None and not self.loose.said.loose:
            linked, later = self.loose, self.known
            self.known, self.loose = None, None
            self.take(linked)
            if later is not None:
                self.take(later)

    def forget(self) -> None:
        """What was said so far was survived."""
        self.known = self.unknown = self.loose = None


class Diagnosis:
    """Reads one attempt. Pure: it is told everything, and asks for nothing.

    Args:
        site: what is known of the start besides.
        redact: takes secrets out of a line, before anything of it is kept.
    """

    def __init__(self, site: Site | None = None, *, redact: Callable[[str], str] = str) -> None:
        self._site = site or Site()
        self._redact = redact
        self._writers: OrderedDict[str, Writer] = OrderedDict()
        self._count = 0
        self._over = False
        self._answers = 0
        self._doubted = False
        """Some writer has a candidate."""
        self._usage = ""
        self._error = ""
        self._fatal = ""
        self._last = ""
        self._vanished = ""
        self._died: tuple[int, str] | None = None
        self._warned: dict[str, str] = {}

    def feed(self, line: str, source: str = "") -> None:
        """Take the next line. `source` tells streams apart whose lines do not belong together.

        Its length is the caller's to bound; a constant number of lines is kept.
        """
        if self._over:
            return
        self._count += 1
        parsed = parse(line)
        if parsed.level in ("INFO", "DEBUG", "WARNING"):
            self._report(parsed, source)
            return
        text = parsed.text
        if not text or _NOISE.match(text):
            return
        if not parsed.process and not parsed.level and text.startswith("INFO:"):
            self._serve(text)
        self._last = line
        self._speak(parsed, source)

    def stop(self) -> None:
        """The engine was asked to end: what it says from now on counts as nothing."""
        self._over = True

    def finding(self, end: End) -> Finding:
        """Say why the engine ended."""
        return ending.explain(self.heard(), end, self._site)

    @property
    def last(self) -> str:
        """The last line that says something, redacted."""
        return self._redact(parse(self._last).text.strip())

    def heard(self) -> ending.Heard:
        """Return what the output says, without the exit status."""
        for writer in self._writers.values():
            writer.settle()
        known = self._first(writer.known for writer in self._writers.values())
        loose = self._first(writer.loose for writer in self._writers.values())
        unknown = self._unknown()
        return ending.Heard(
            usage=self._usage,
            known=known.said if known else None,
            loose=loose.said if loose else None,
            unknown=unknown.said if unknown else None,
            fatal=self._fatal,
            error=self._error,
            last=self.last,
            vanished=self._vanished,
            died=self._died,
            warned=self._warned,
        )

    # --- lines of loggers --------------------------------------------------------------------------------------------

    def _report(self, line: Line, source: str) -> None:
        """A message that reports no failure: it may say that one was survived, or that the end is wanted."""
        if _STOPPING in line.text:
            self._over = True
            return
        key = source + line.process
        writer = self._writers.get(key)
        if writer is None:
            return
        writer.reporter.read(line)
        if line.process and _SHUTDOWN not in line.text and _LOADED.match(line.text):
            writer.forget()

    def _serve(self, text: str) -> None:
        """Lines of uvicorn: the server is up, or answers."""
        if _READY.match(text):
            self._forgive()
        elif self._doubted and _ANSWERED.match(text):
            self._answers += 1
            if self._answers >= SURVIVED:
                self._forgive()

    def _forgive(self) -> None:
        for writer in self._writers.values():
            writer.forget()
        self._vanished = self._error = self._fatal = ""
        self._died = None
        self._doubted, self._answers = False, 0

    # --- errors, and what no logger wrote ----------------------------------------------------------------------------

    def _speak(self, line: Line, source: str) -> None:
        text = line.text
        if not line.level:
            usage = _USAGE.match(text)
            if usage is not None:
                self._usage = self._redact(text)
            if not self._fatal and _FATAL.match(text):
                self._fatal = self._redact(text.strip())
            died = DIED.match(text)
            if died is not None:
                self._note_died(died, text)
            warned = WARNED.search(text)
            if warned is not None:
                self._warned = warned.groupdict()
        said = self._writer(source + line.process).reporter.read(line)
        if said is not None:
            self._weigh(said, line, source)
        elif line.level:
            self._note_error(text)

    def _note_error(self, text: str) -> None:
        died = DIED.search(text)
        if died is not None:
            self._note_died(died, text)
        elif not self._error and not text.startswith((" ", "\t", "Traceback")):
            self._error = self._redact(text)

    def _note_died(self, died: re.Match[str], text: str) -> None:
        status = int(died[1] or died[2])
        if self._died is None and status < 0:
            self._died = status, self._redact(text.strip())
            self._doubted = True

    def _weigh(self, said: Said, line: Line, source: str) -> None:
        """Keep an exception if it may be the cause."""
        if said.kind in WRAPPING or WRAPPERS.search(said.line):
            if not self._vanished and VANISHED.search(said.line):
                self._vanished = self._redact(said.line)
            died = DIED.search(said.line)
            if died is not None:
                self._note_died(died, said.line)
            return
        said.line = self._redact(said.line)[:LONGEST]
        said.text = self._redact(said.text)[:LONGEST]
        writer = self._writer(source + line.process)
        writer.settle()
        cause = ending.match(said)
        new = Candidate(self._count, said, cause)
        self._doubted = True
        if said.loose:
            if cause is not None and writer.loose is None:
                writer.loose = new
        elif cause is None:
            if not below(line.process) or writer.unknown is None:
                writer.unknown = new
        else:
            writer.take(new)

    # --- writers -----------------------------------------------------------------------------------------------------

    def _writer(self, key: str) -> Writer:
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = Writer()
            if len(self._writers) > MOST_PROCESSES:
                silent = next((k for k, w in self._writers.items() if w.known is None), next(iter(self._writers)))
                del self._writers[silent]
                return self._writers.get(key, writer)
        self._writers.move_to_end(key)
        return writer

    @staticmethod
    def _first(candidates: Iterable[Candidate | None]) -> Candidate | None:
        return min((one for one in candidates if one is not None), key=lambda one: one.order, default=None)

    def _unknown(self) -> Candidate | None:
        """What matters most of what is not understood: the first word from below the server, else its own last."""
        low = self._first(w.unknown for key, w in self._writers.items() if below(key))
        if low is not None:
            return low
        return max(
            (w.unknown for w in self._writers.values() if w.unknown is not None),
            key=lambda one: one.order,
            default=None,
        )


def below(process: str) -> bool:
    """Whether a process of this name works for the server, in any release."""
    return "Worker" in process or "EngineCore" in process
