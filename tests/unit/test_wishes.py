"""What the two files come to over time: the last good content, keys that make themselves, warnings that settle."""

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vllm_fsm.arguments import Effective
from vllm_fsm.core.snapshot import Finding, Message, Target
from vllm_fsm.files import writing
from vllm_fsm.messages import ENGLISH
from vllm_fsm.messages import text as sentence
from vllm_fsm.wishes import JUDGED_AFTER, JUDGED_AGAIN, SETTLE, Wanted, Wishes

NOON = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
KEY = "sk-the-key"
SECRET = "hf_abcdefghijKLMNOP1234567890"


def combine(arguments: Sequence[str], environment: Sequence[tuple[str, str]]) -> Effective:
    """Stand in for the rules about arguments: `--bad` is dropped, no model is a problem."""
    kept = tuple(argument for argument in arguments if argument != "--bad")
    warnings = tuple(Message.of("ReservedArgument", argument=argument) for argument in arguments if argument == "--bad")
    model = None if kept[:1] and kept[0].startswith("-") else kept[0]
    problem = None if model else Finding.of("BadArguments", permanent=True, detail="no model")
    return Effective(kept, tuple(sorted(environment)), model, warnings, problem)


class World:
    """Two directories, a clock, and a log."""

    def __init__(self, path: Path) -> None:
        self.data, self.public = path / "data", path / "public"
        self.data.mkdir()
        self.public.mkdir()
        self.store, self.credentials = self.data / "store.json", self.public / "credentials.json"
        self.now = 1000.0
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.combined = 0
        self.judge: Court | None = None
        self.wishes = self.start()

    def start(self) -> Wishes:
        self.wishes = Wishes(
            self.store,
            self.credentials,
            clock=lambda: self.now,
            log=lambda event, /, **fields: self.lines.append((event, fields)),
            wall=lambda: NOON,
            judge=self.judge,
            combine=self._combine,
        )
        return self.wishes

    def _combine(self, arguments: Sequence[str], environment: Sequence[tuple[str, str]]) -> Effective:
        self.combined += 1
        return combine(arguments, environment)

    def look(self, after: float = 0.0) -> Wanted:
        self.now += after
        return self.wishes.look()

    def settle(self) -> Wanted:
        """Look, and again when it is due."""
        wanted = self.look()
        while wanted.again is not None:
            assert wanted.again <= self.now + SETTLE
            self.now = wanted.again
            wanted = self.look()
        return wanted

    def key_on_disk(self) -> str:
        key = json.loads(self.credentials.read_text())["apiKey"]
        assert isinstance(key, str)
        return key

    def logged(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.lines if name == event]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def running(world: World) -> World:
    """A model is wanted, with a key."""
    world.store.write_text('{"serveArgs": ["org/name", "--x"]}')
    world.credentials.write_text(json.dumps({"apiKey": KEY}))
    assert target(world.look()).key.reveal() == KEY
    return world


def target(wanted: Wanted) -> Target:
    assert wanted.target is not None
    return wanted.target


def words(wanted: Wanted) -> str:
    return " ".join(sentence(message) for message in wanted.warnings if message.id in ENGLISH)


# --- what is wanted ----------------------------------------------------------------------------------------------


def test_nothing_there_at_all(world: World) -> None:
    wanted = world.look()
    assert wanted == Wanted(None)
    assert len(world.key_on_disk()) == 22
    assert world.settle() == Wanted(None)


@pytest.mark.parametrize(
    "text", ["{}", '{"serveArgs": null}', '{"serveArgs": []}', '{"modelSelection": {"selection": "x"}}']
)
def test_nothing_wanted(running: World, text: str) -> None:
    running.store.write_text(text)
    assert running.look() == Wanted(None)


def test_a_target(world: World) -> None:
    world.store.write_text(
        '{"serveArgs": ["org/name", "--bad", "--x"], "serveEnv": [{"name": "B", "value": "2"}, '
        '{"name": "A", "value": "1"}]}'
    )
    world.credentials.write_text('{"apiKey": "k", "note": 1}')
    wanted = world.look()
    made = target(wanted)
    assert made.arguments == ("org/name", "--x")
    assert made.environment == (("A", "1"), ("B", "2"))
    assert made.key.reveal() == "k"
    assert made.model == "org/name"
    assert made.problem is None
    assert wanted.warnings == (Message.of("ReservedArgument", argument="--bad"),)
    assert wanted.again is None


def test_arguments_without_a_model_are_a_problem(running: World) -> None:
    running.store.write_text('{"serveArgs": ["--x"]}')
    problem = target(running.look()).problem
    assert problem is not None
    assert problem.reason == "BadArguments"


def test_only_what_the_engine_would_see_is_a_change(running: World) -> None:
    before = running.look()
    computed = running.combined
    running.look()
    assert running.combined == computed, "unchanged content is looked at again"
    running.store.write_text(
        '{ "modelSelection": {"selection": "y"},\n\n "x": 1, "serveEnv": [], "serveArgs": [ "org/name", "--x" ] }'
    )
    running.credentials.write_text(json.dumps({"note": 1, "apiKey": KEY}, indent=8))
    assert running.look() == before
    running.store.write_text('{"serveArgs": ["--x", "org/name"]}')
    assert running.look() != before


# --- broken files ------------------------------------------------------------------------------------------------


def test_a_broken_store_counts_only_when_it_stays_broken(running: World) -> None:
    before = running.look()
    running.store.write_text('{"serveArgs": ["org/na')
    first = running.look()
    assert first == before
    assert first.again == running.now + SETTLE
    almost = running.look(SETTLE - 0.01)
    assert almost == before
    assert almost.again == first.again
    late = running.look(0.01)
    assert late.target == before.target
    assert "store.json: not valid JSON at line 1, column" in words(late)
    assert late.again is None
    assert len(running.logged("warning")) == 1
    running.look(5.0)
    assert len(running.logged("warning")) == 1

    running.store.write_text('{"serveArgs": ["org/other"]}')
    good = running.look()
    assert target(good).model == "org/other"
    assert good.warnings == ()
    assert [line["id"] for line in running.logged("warning-over")] == ["FileNotJson"]


def test_a_half_written_store_that_is_completed_says_nothing(running: World) -> None:
    for text in ("", '{"serve', '{"serveArgs": ["a'):
        running.store.write_text(text)
        assert running.look(0.1).warnings == ()
    running.store.write_text('{"serveArgs": ["a"]}')
    assert target(running.look(0.1)).model == "a"
    assert running.lines == []


def test_what_is_said_follows_the_broken_file(running: World) -> None:
    running.store.write_text("{")
    assert "not valid JSON" in words(running.settle())
    running.store.write_text("[]")
    assert "must be an object" in words(running.look(1.0))


def test_an_empty_store_is_broken_and_a_missing_one_wants_nothing(running: World) -> None:
    before = running.look()
    running.store.write_text("")
    empty = running.settle()
    assert empty.target == before.target
    assert "it is empty" in words(empty)
    running.store.unlink()
    pending = running.look()
    assert pending == empty
    missing = running.look(SETTLE)
    assert missing == Wanted(None)


def test_deleting_and_creating_a_store_is_one_change(running: World) -> None:
    before = running.look()
    running.store.unlink()
    assert running.look() == before
    running.store.write_text('{"serveArgs": ["b"]}')
    assert target(running.look(0.2)).model == "b"
    # Gone a second time: the time counts anew.
    running.store.unlink()
    assert target(running.look(0.2)).model == "b"
    assert target(running.look(SETTLE - 0.01)).model == "b"
    assert running.look(0.01).target is None


def test_an_in_place_write_to_a_broken_store_gets_its_moment_too(running: World) -> None:
    running.store.write_text("{")
    assert "not valid JSON" in words(running.settle())
    running.now += 3600
    running.store.write_text("")
    assert "not valid JSON" in words(running.look())
    assert "it is empty" in words(running.look(SETTLE))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_keeps_the_last_good_content(running: World, make: Callable[[Path], None]) -> None:
    before = running.look()
    running.store.unlink()
    make(running.store)
    wanted = running.settle()
    assert wanted.target == before.target
    assert str(running.store) in words(wanted)


def test_a_broken_store_at_a_start_wants_nothing_and_says_so(world: World) -> None:
    world.credentials.write_text(json.dumps({"apiKey": KEY}))
    world.store.write_text("{")
    assert world.look() == Wanted(None)
    wanted = world.settle()
    assert wanted.target is None
    assert "not valid JSON" in words(wanted)
    assert world.store.read_text() == "{"


# --- the key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"a": 1}', '{"apiKey": null, "a": 1}', '{"apiKey": "", "a": 1}'])
def test_clearing_the_key_rotates_it_at_once(running: World, text: str) -> None:
    running.credentials.write_text(text)
    wanted = running.look()
    assert wanted.warnings == ()
    assert target(wanted).key.reveal() == running.key_on_disk() != KEY
    assert json.loads(running.credentials.read_text())["a"] == 1
    assert running.credentials.stat().st_mode & 0o777 == 0o644
    assert running.look() == wanted
    assert len(running.logged("key-created")) == 1


@pytest.mark.parametrize("clear", [Path.unlink, lambda path: path.write_text("")])
def test_a_file_that_is_gone_or_empty_rotates_the_key_when_it_stays_so(
    running: World, clear: Callable[[Path], None]
) -> None:
    before = running.look()
    clear(running.credentials)
    assert running.look() == before
    assert running.look(SETTLE - 0.01) == before
    after = running.look(0.01)
    assert target(after).key.reveal() == running.key_on_disk() != KEY
    # And again, before anybody has looked at what we wrote: the second time is not at once either.
    clear(running.credentials)
    assert running.look() == after
    assert running.settle() != after


def test_writing_the_key_anew_in_place_does_not_rotate_it(running: World) -> None:
    running.credentials.write_text("")
    running.look()
    running.credentials.write_text('{"apiKey"')
    running.look(0.1)
    running.credentials.unlink()
    running.look(0.2)
    running.credentials.write_text('{"apiKey": "next"}')
    assert target(running.look(0.2)).key.reveal() == "next"
    assert running.lines == []


@pytest.mark.parametrize("text", ["{", '{"apiKey": "a b"}', '{"apiKey": 5}', '{"apiKey": "é"}', "[]"])
def test_a_broken_credentials_file_keeps_the_running_key(running: World, text: str) -> None:
    before = running.look()
    running.credentials.write_text(text)
    assert running.look() == before
    wanted = running.look(SETTLE)
    assert wanted.target == before.target
    assert "credentials.json" in words(wanted)
    assert running.credentials.read_text() == text
    running.credentials.write_text('{"apiKey": "good"}')
    good = running.look()
    assert target(good).key.reveal() == "good"
    assert good.warnings == ()


@pytest.mark.parametrize("text", ["{", '{"apiKey": "a b"}', '{"apiKey": 5}', "x" * 1024 * 1025, "\0" * 50])
def test_a_broken_credentials_file_at_a_start_does_not_lock_the_service_out(world: World, text: str) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    world.credentials.write_text(text)
    assert world.look() == Wanted(None), "it may be half-written"
    wanted = world.settle()
    assert target(wanted).key.reveal() == world.key_on_disk()
    assert target(wanted).problem is None
    aside = Path(f"{world.credentials}.broken-20260131T120005Z")
    assert aside.read_text() == text
    assert aside.name in words(wanted)
    # It is said until somebody sees to the file.
    assert world.look(3600.0) == wanted
    world.credentials.write_text('{"apiKey": "mine"}')
    assert world.look().warnings == ()
    assert len(list(world.public.iterdir())) == 2


def test_a_credentials_file_that_is_half_written_at_a_start_is_waited_for(world: World) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    world.credentials.write_text("")
    assert world.look().again == world.now + SETTLE
    world.credentials.write_text(json.dumps({"apiKey": KEY}))
    assert target(world.look(0.2)).key.reveal() == KEY
    assert world.lines == []


def test_two_controllers_make_one_key(world: World) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    first = world.start()
    second = world.start()
    keys = {target(wishes.look()).key.reveal() for wishes in (first, second, first)}
    assert keys == {world.key_on_disk()}


def test_somebody_faster_decides_the_first_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    link = os.link

    def late(*arguments: str, **keywords: int) -> None:
        world.credentials.write_text(json.dumps({"apiKey": "theirs"}))
        link(*arguments, **keywords)

    monkeypatch.setattr(os, "link", late)
    assert target(world.look()).key.reveal() == "theirs"
    assert world.logged("key-created") == []


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file system read-only for our writers; a real one needs a mount."""
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **keywords: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **keywords)

    monkeypatch.setattr(writing.os, "open", refuse)


def test_without_a_key_that_can_be_stored_no_engine_is_started(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    with monkeypatch.context() as patch:
        read_only(patch)
        wanted = world.look()
        problem = target(wanted).problem
        assert problem is not None
        assert (problem.reason, problem.permanent) == ("CredentialsUnwritable", True)
        assert "its volume is read-only" in sentence(problem.message)
        assert wanted.warnings == (), "the problem says it"
        world.store.write_text("{}")
        nothing = world.look()
        assert nothing.target is None
        assert "its volume is read-only" in words(nothing)
        world.store.write_text('{"serveArgs": ["m"]}')
        assert world.settle() == wanted
    after = world.look(30.0)
    assert target(after).problem is None
    assert target(after).key.reveal() == world.key_on_disk()
    assert after.warnings == ()


def test_a_key_that_cannot_be_rotated_goes_on(running: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = running.look()
    running.credentials.write_text("{}")
    with monkeypatch.context() as patch:
        read_only(patch)
        wanted = running.look()
        assert wanted.target == before.target
        assert "the running key stays" in words(wanted)
        running.credentials.write_text("{")
        broken = running.settle()
        assert broken.target == before.target
        assert [message.id for message in broken.warnings] == ["FileNotJson"]
        running.credentials.write_text("{}")
        assert running.look() == wanted
    after = running.look()
    assert target(after).key.reveal() == running.key_on_disk() != KEY
    assert after.warnings == ()


def test_a_write_under_way_is_not_overwritten_for_what_stood_there_before(
    running: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        read_only(patch)
        running.credentials.write_text("{}")
        wanted = running.look()
        assert "the running key stays" in words(wanted)
    for text in ("", '{"apiKey": "ne'):
        running.credentials.write_text(text)
        assert running.look(0.1) == wanted
        assert running.credentials.read_text() == text
    running.credentials.write_text('{"apiKey": "next"}')
    assert target(running.look(0.1)).key.reveal() == "next"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "it is a directory"),
        (lambda path: path.symlink_to("nowhere"), "leads nowhere"),
        (lambda path: (path.parent / "x").write_text("{}") and path.symlink_to("x"), "a symbolic link stands"),
        (lambda path: (path.parent / "x").write_text("{") and path.symlink_to("x"), "a symbolic link stands"),
    ],
)
def test_what_is_no_file_is_left_alone_at_a_start(world: World, make: Callable[[Path], None], said: str) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    make(world.credentials)
    before = sorted((file.name, os.lstat(file).st_ino) for file in world.public.iterdir())
    wanted = world.settle()
    problem = target(wanted).problem
    assert problem is not None
    assert problem.reason == "CredentialsUnwritable"
    assert said in sentence(problem.message)
    assert sorted((file.name, os.lstat(file).st_ino) for file in world.public.iterdir()) == before
    assert world.settle() == wanted


def test_a_symbolic_link_is_followed_for_reading(world: World) -> None:
    world.store.write_text('{"serveArgs": ["m"]}')
    (world.public / "x").write_text(json.dumps({"apiKey": KEY}))
    world.credentials.symlink_to("x")
    assert target(world.look()).key.reveal() == KEY


def test_a_directory_that_comes_later(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.public.rmdir()
    world.data.rmdir()
    wanted = world.settle()
    assert wanted.target is None
    assert "its directory does not exist" in words(wanted)
    world.data.mkdir()
    world.store.write_text('{"serveArgs": ["m"]}')
    assert target(world.look()).problem is not None
    world.public.mkdir()
    after = world.look()
    assert target(after).key.reveal() == world.key_on_disk()
    assert after.warnings == ()


def test_no_key_and_no_token_is_logged(running: World) -> None:
    running.store.write_text(f'{{"serveArgs": ["m"], "serveEnv": [{{"name": "HF_TOKEN", "value": "{SECRET}"}}]}}')
    wanted = running.look()
    running.store.write_text(f'{{"serveArgs": ["{SECRET}", 1]}}')
    running.credentials.write_text(f'{{"apiKey": "{KEY} {SECRET}"}}')
    wanted = running.settle()
    assert len(wanted.warnings) == 2
    running.credentials.write_text("{}")
    running.look()
    shown = repr(running.lines) + repr(wanted) + words(wanted)
    for secret in (SECRET, KEY, running.key_on_disk()):
        assert secret not in shown


# --- what the engine would refuse --------------------------------------------------------------------------------


class Court:
    """Finds `--wrong` wrong unless it was pardoned, and gives no answer while it is away."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []
        self.pardoned = self.away = False

    def __call__(self, found: Effective) -> Effective | None:
        self.heard.append(found.arguments)
        if self.away:
            return None
        if "--wrong" not in found.arguments or self.pardoned:
            return found
        return replace(found, problem=Finding.of("BadArguments", permanent=True, detail="--wrong"))


@pytest.fixture
def court(world: World) -> Court:
    world.credentials.write_text(json.dumps({"apiKey": KEY}))
    world.judge = Court()
    world.start()
    return world.judge


def ask(world: World, *arguments: str, **others: object) -> None:
    world.store.write_text(json.dumps({"serveArgs": arguments, **others}))


def test_what_is_found_first_is_judged_a_moment_later(world: World, court: Court) -> None:
    ask(world, "m", "--wrong")
    wanted = world.look()
    assert (target(wanted).problem, court.heard) == (None, [])
    assert wanted.again == world.now + JUDGED_AFTER
    world.now += JUDGED_AFTER
    wanted = world.look()
    assert target(wanted).problem == Finding.of("BadArguments", permanent=True, detail="--wrong")
    assert wanted.again is None


def test_an_edit_is_judged_before_it_counts_and_once(world: World, court: Court) -> None:
    ask(world, "m")
    world.look()
    ask(world, "m", "--wrong")
    assert target(world.look(0.1)).problem is not None
    ask(world, "m", "--right")
    assert target(world.look(0.1)).problem is None
    world.look(5.0)
    ask(world, "m", "--right", modelSelection={"selection": "custom"})
    assert court.heard == [("m", "--wrong"), ("m", "--right")]


def test_what_was_refused_is_judged_again_at_each_look(world: World, court: Court) -> None:
    world.look()
    ask(world, "m", "--wrong")
    assert target(world.look(0.1)).problem is not None
    court.pardoned = True
    assert target(world.look(0.1)).problem is None


def test_an_edit_without_an_answer_counts_and_is_judged_later(world: World, court: Court) -> None:
    ask(world, "m")
    world.look(5.0)
    court.away = True
    ask(world, "m", "--wrong")
    wanted = world.look(0.1)
    assert target(wanted).problem is None
    assert wanted.again == world.now + JUDGED_AGAIN
    heard = len(court.heard)
    world.look(JUDGED_AGAIN / 2)
    assert len(court.heard) == heard, "who does not answer is not asked at every look"
    court.away = False
    assert target(world.look(JUDGED_AGAIN / 2)).problem is not None


def test_a_problem_stays_while_there_is_no_answer(world: World, court: Court) -> None:
    ask(world, "m", "--wrong")
    world.look()
    assert target(world.look(JUDGED_AFTER)).problem is not None
    court.away = True
    wanted = world.look(0.1)
    assert target(wanted).problem is not None
    assert wanted.again == world.now + JUDGED_AGAIN
    court.pardoned, court.away = True, False
    assert target(world.look(1.0)).problem is not None
    assert target(world.look(JUDGED_AGAIN)).problem is None
    ask(world, "m", "--wrong", "--again")
    court.pardoned = False
    assert target(world.look(0.1)).problem is not None, "another edit is judged at once"


def test_nothing_wanted_is_not_judged(world: World, court: Court) -> None:
    world.store.write_text("{}")
    assert world.look(5.0).again is None
    ask(world)
    world.look(5.0)
    assert court.heard == []
