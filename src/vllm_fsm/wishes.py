"""What the two files ask for: the last good content of each, and what is to be said about the rest.

A file event is a hint to look again, never a fact. `Wishes.look` reads both files, compares, and returns what is
wanted; looking too often does no harm, and content that has not changed is not even parsed. What is no good content
(an in-place write shows an empty file and then half of one, a delete and re-create shows none) counts only when it has
been there for `SETTLE` seconds; the last good content stays in force until then, and with a broken file for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from vllm_fsm.core.snapshot import Finding, Message, Secret, Target
from vllm_fsm.files.credentials import Credentials, begin_anew, parse_credentials, store_new_key
from vllm_fsm.files.reading import Broken, Empty, Good, Missing, Object, Raw, Reading, read_bytes
from vllm_fsm.files.store import Store, parse_store
from vllm_fsm.files.writing import Refused
from vllm_fsm.messages import ENGLISH
from vllm_fsm.messages import text as sentence

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Clock, Log
    from vllm_fsm.arguments import Effective

SETTLE: Final = 0.25
"""Seconds for which a file must be broken, empty or gone before that counts."""

JUDGED_AFTER: Final = 1.0
"""Seconds from the first look until what it found is judged: the rules take 15 ms to load, for which an engine should
not wait that has no other one to replace. What is found later is judged before it counts."""

JUDGED_AGAIN: Final = 60.0
"""Seconds until a judge who gave no answer is asked again."""

ATTEMPTS: Final = 3
"""Readings of a file that others keep creating before our first key; more are left to the next look."""

T = TypeVar("T")
Combine = Callable[[Sequence[str], Sequence[tuple[str, str]]], "Effective"]
Judge = Callable[["Effective"], "Effective | None"]
"""Says what is wrong with it, None where that cannot be known at present."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the files ask for. Two equal ones need no reaction."""

    target: Target | None
    """None: nothing is wanted."""
    warnings: tuple[Message, ...] = ()
    again: float | None = field(default=None, compare=False)
    """Monotonic time at which to look again although nothing may have happened, None for no such time."""


@dataclass(frozen=True, slots=True)
class Settling(Generic[T]):
    """One file over time: what it says, and what it may be about to say."""

    accepted: Reading[T] | None = None
    """The latest reading that counts; None before the first."""
    pending: type[object] | None = None
    """The kind of reading that does not count yet."""
    since: float = 0.0

    def see(self, reading: Reading[T], now: float) -> Settling[T]:
        """Return what is known after `reading` at `now`: good content counts at once, another kind after `SETTLE`."""
        kind = type(reading)
        if kind is Good or kind is type(self.accepted):
            return Settling(reading)
        if kind is not self.pending:
            return replace(self, pending=kind, since=now)
        return Settling(reading) if now >= self.since + SETTLE else self

    @property
    def due(self) -> float | None:
        """When the pending kind counts if it is still there, None if nothing is pending."""
        return None if self.pending is None else self.since + SETTLE


class _File(Generic[T]):
    """One file: its latest bytes with what they meant, and its settling."""

    def __init__(self, path: str, parse: Callable[[str, bytes], Reading[T]]) -> None:
        self.path = path
        self._parse = parse
        self._raw: bytes | None = None
        self._meaning: Reading[T] | None = None
        self.reading: Reading[T] = Missing()
        """The latest, whether it counts or not."""
        self.state: Settling[T] = Settling()

    def look(self, now: float) -> Settling[T]:
        self.reading = self._interpret(read_bytes(self.path))
        self.state = self.state.see(self.reading, now)
        return self.state

    def forget(self) -> None:
        """Begin anew after we have written the file: what stood there before does not count any more."""
        self.state = Settling()

    def _interpret(self, raw: Raw) -> Reading[T]:
        if not isinstance(raw, Good):
            self._raw = self._meaning = None
            return raw
        if self._meaning is None or raw.value != self._raw:
            self._raw, self._meaning = raw.value, self._parse(self.path, raw.value)
        return self._meaning


class Wishes:
    """Holds the last good store and key, makes keys where there is none, and says what both together want.

    `clock` gives monotonic seconds, `wall` the time of day for the names of files kept aside, `log` one line for each
    thing that people should find later. `judge` adds what the engine would refuse, as `vllm_fsm.judgement` does;
    without it nothing is judged. `combine` is `vllm_fsm.arguments.effective` unless a test gives another.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        credentials: str | os.PathLike[str],
        *,
        clock: Clock,
        log: Log,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        judge: Judge | None = None,
        combine: Combine | None = None,
    ) -> None:
        if combine is None:
            from vllm_fsm.arguments import effective

            combine = effective
        self._clock = clock
        self._log = log
        self._wall = wall
        self._combine = combine
        self._judge = judge
        self._store_file: _File[Store] = _File(os.fspath(store), parse_store)
        self._credentials_file: _File[tuple[Credentials, Object]] = _File(os.fspath(credentials), parse_credentials)
        self._store = Store()
        self._first = True
        """Nothing was looked at yet."""
        self._effective: Effective | None = None
        self._judged: Effective | None = None
        """The same with what is wrong with it; None before it was judged."""
        self._judge_from = 0.0
        self._key: Secret | None = None
        self._refusal: Message | None = None
        """Why the key that is asked for could not be stored."""
        self._replaced: Message | None = None
        """A broken credentials file was kept aside; said until the file changes again."""
        self._about_key: list[Message] = []
        """What is to be said about the credentials file, as of the last time that it was not about to change."""
        self._said: tuple[Message, ...] = ()

    def look(self) -> Wanted:
        """Read both files and return what they want now. Never raises for anything that a file can be."""
        now = self._clock()
        self._about_key = self._look_at_credentials(now)
        warnings = [*self._look_at_store(now), *self._about_key]
        effective = self._judge_effective(now)
        target = self._target(effective)
        if effective is not None:
            warnings += effective.warnings
        if self._refusal is not None and (self._key is not None or target is None):
            warnings.append(self._refusal)
        dues = [due for file in (self._store_file, self._credentials_file) if (due := file.state.due) is not None]
        asked = self._judged is None or now < self._judge_from
        if self._judge is not None and self._effective is not None and asked:
            dues.append(self._judge_from)
        self._first = False
        wanted = Wanted(target, tuple(dict.fromkeys(warnings)), min(dues, default=None))
        self._tell(wanted.warnings)
        return wanted

    def _look_at_store(self, now: float) -> list[Message]:
        match self._store_file.look(now).accepted:
            case Good(store):
                self._hold(store, now)
            case Missing():
                self._hold(Store(), now)
            case Broken(message) | Empty(message):
                return [message]
        return []

    def _hold(self, store: Store, now: float) -> None:
        if store is not self._store:
            self._store = store
            self._effective = self._judged = None
            self._judge_from = now + JUDGED_AFTER if self._first else now
        if self._effective is None and store.serve_args:
            self._effective = self._combine(store.serve_args, store.environment())

    def _judge_effective(self, now: float) -> Effective | None:
        """Return what the store comes to, judged if it is time; what failed is judged again, as a file may be there.

        While there is no answer what was found before holds.
        """
        if self._judge is None or self._effective is None:
            return self._effective
        if now >= self._judge_from and (self._judged is None or self._judged.problem is not None):
            judged = self._judge(self._effective)
            if judged is not None:
                self._judged = judged
            else:
                self._judge_from = now + JUDGED_AGAIN
        return self._judged or self._effective

    def _look_at_credentials(self, now: float) -> list[Message]:
        file = self._credentials_file
        for _ in range(ATTEMPTS):
            state = file.look(now)
            accepted = state.accepted
            if self._key is None and accepted is None and isinstance(file.reading, Missing):
                # At a start nothing is lost by not waiting: the first creation is exclusive.
                accepted = file.reading
            elif state.pending is not None:
                # Somebody may be writing: what stood there before is no reason to write now.
                return self._about_key
            match accepted:
                case Good((credentials, content)):
                    if (key := credentials.key()) is not None:
                        self._use(key)
                        break
                    if self._make(Good(content), "the file holds no key"):
                        break
                case Missing() | Empty():
                    if self._make(accepted, "there is no file" if isinstance(accepted, Missing) else "it is empty"):
                        break
                case Broken(message, contents):
                    if self._key is not None:
                        self._refusal = None
                        return [message]
                    if not contents:
                        self._refuse(message)
                    elif not self._begin_anew(message):
                        return [message]
                    break
        return [] if self._replaced is None else [self._replaced]

    def _use(self, key: Secret) -> None:
        if key != self._key:
            # Other content than what we wrote: somebody has seen to the file.
            self._replaced = None
        self._key = key
        self._refusal = None

    def _make(self, reading: Good[Object] | Missing | Empty, why: str) -> bool:
        """Store a new key; False when the file must be read again, as somebody else was faster."""
        path = self._credentials_file.path
        try:
            key = store_new_key(path, reading)
        except Refused as refusal:
            self._refuse(refusal.message)
            return True
        if key is None:
            return False
        self._log("key-created", file=path, why=why)
        self._use(key)
        self._credentials_file.forget()
        return True

    def _begin_anew(self, problem: Message) -> bool:
        """Keep a broken credentials file aside and make a key, as there is none to go on with."""
        path = self._credentials_file.path
        try:
            key, aside = begin_anew(path, self._wall())
        except Refused as refusal:
            self._refuse(refusal.message)
            return False
        self._log("key-created", file=path, why=sentence(problem), aside=aside)
        self._use(key)
        self._credentials_file.forget()
        self._replaced = Message.of("CredentialsReplaced", file=path, aside=aside)
        return True

    def _refuse(self, why: Message) -> None:
        path = self._credentials_file.path
        detail = sentence(why)
        if self._key is None:
            self._refusal = Message.of("CredentialsUnwritable", path=path, error=detail)
        else:
            self._refusal = Message.of("KeyNotRotated", file=path, detail=detail)

    def _target(self, effective: Effective | None) -> Target | None:
        if not self._store.serve_args or effective is None:
            return None
        problem = effective.problem
        if self._key is None:
            if self._refusal is None:
                return None  # the credentials are settling, which takes a moment at a start only
            problem = problem or Finding(self._refusal, permanent=True)
        return Target(
            arguments=effective.arguments,
            environment=effective.environment,
            key=self._key or Secret(""),
            model=effective.model or "",
            problem=problem,
        )

    def _tell(self, warnings: tuple[Message, ...]) -> None:
        """Log what is new in the warnings, and which files are good again."""
        for message in warnings:
            if message not in self._said:
                text = {"message": sentence(message)} if message.id in ENGLISH else {}
                self._log("warning", id=message.id, params=dict(message.params), **text)
        for message in self._said:
            if message not in warnings:
                self._log("warning-over", id=message.id, params=dict(message.params))
        self._said = warnings
