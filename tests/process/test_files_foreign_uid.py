"""Files that belong to another user, seen by a real user without privileges."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.unprivileged import NOBODY, open_directory, unprivileged
from vllm_fsm.core.snapshot import Message
from vllm_fsm.files.credentials import read_credentials
from vllm_fsm.files.reading import Broken, Good
from vllm_fsm.files.store import read_store
from vllm_fsm.files.writing import Refused, replace, update
from vllm_fsm.messages import text as sentence
from vllm_fsm.wishes import SETTLE, Wanted, Wishes


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as path:
        yield path


def judged(reading: object) -> str:
    return sentence(reading.message) if isinstance(reading, Broken) else type(reading).__name__


def test_an_unreadable_file_is_broken_and_can_be_kept_aside(place: Path) -> None:
    path = place / "store.json"
    path.write_text("{}")
    path.chmod(0)
    assert "Permission denied" in str(unprivileged(lambda: judged(read_store(path))))
    path.chmod(0o644)
    assert unprivileged(lambda: judged(read_store(path))) == "Good"


def test_an_unreadable_directory_is_no_fault_of_the_file(place: Path) -> None:
    (place / "inner").mkdir()
    (place / "inner" / "credentials.json").write_text("{}")
    (place / "inner").chmod(0)
    reading = unprivileged(
        lambda: (lambda found: [judged(found), isinstance(found, Broken) and found.contents])(
            read_credentials(place / "inner" / "credentials.json")
        )
    )
    (place / "inner").chmod(0o755)
    assert isinstance(reading, list)
    assert "Permission denied" in reading[0]
    assert reading[1] is False


def test_no_permission_to_write_is_a_sentence(place: Path) -> None:
    (place / "store.json").write_text("{}")
    place.chmod(0o555)

    def refused() -> str:
        try:
            replace(place / "store.json", {"serveArgs": []}, 0o600)
        except Refused as refusal:
            return str(refusal)
        return "written"

    assert "no permission to change its directory" in str(unprivileged(refused))
    assert (place / "store.json").read_text() == "{}"


def test_an_unreadable_credentials_file(place: Path) -> None:
    """It keeps the running key; at a start it is kept aside, even where `fs.protected_hardlinks` refuses a link."""
    (place / "store.json").write_text('{"serveArgs": ["org/m"]}')
    (place / "credentials.json").write_text('{"apiKey": "first"}')
    (place / "credentials.json").chmod(0o644)
    (place / "store.json").chmod(0o644)

    def life() -> list[object]:
        now = 10.0
        log: list[str] = []

        def start() -> Wishes:
            return Wishes(
                place / "store.json",
                place / "credentials.json",
                clock=lambda: now,
                log=lambda event, /, **_fields: log.append(event),
            )

        def key(wanted: Wanted) -> str | None:
            return wanted.target.key.reveal() if wanted.target else None

        def ids(wanted: Wanted) -> list[str]:
            return [message.id for message in wanted.warnings]

        wishes = start()
        story: list[object] = [key(wishes.look())]
        (place / "credentials.json").unlink()
        os.close(os.open(place / "credentials.json", os.O_CREAT | os.O_WRONLY, 0))
        wishes.look()
        now += SETTLE
        wanted = wishes.look()
        story += [key(wanted), ids(wanted)]
        wishes = start()
        wishes.look()
        now += SETTLE
        wanted = wishes.look()
        return [*story, key(wanted), ids(wanted), log]

    story = unprivileged(life)
    assert isinstance(story, list)
    first, running, warned, fresh, said, log = story
    assert first == running == "first"
    assert warned == ["FileUnreadable"]
    assert len(fresh) == 22
    assert said == ["CredentialsReplaced"]
    assert log == ["warning", "key-created", "warning"]
    assert json.loads((place / "credentials.json").read_text()) == {"apiKey": fresh}
    names = sorted(file.name for file in place.iterdir())
    assert len(names) == 3
    assert names[1].startswith("credentials.json.broken-")


def test_root_leaves_a_file_to_its_owner(place: Path) -> None:
    """A command run as root in a container must not lock out a controller that is not root."""
    path = place / "store.json"
    path.write_text('{"note": 1}')
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    owner = path.stat().st_uid
    assert update(path, {"serveArgs": ["m"]}, 0o600).changed
    status = path.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner, 0o600)
    assert unprivileged(lambda: judged(read_store(path))) == "Good"
    path.unlink()
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
    assert update(path, {"serveArgs": ["m"]}, 0o600).changed
    assert path.stat().st_uid == place.stat().st_uid
    assert unprivileged(lambda: judged(read_store(path))) == "Good"


def test_what_the_child_reports_is_what_it_saw(place: Path) -> None:
    assert unprivileged(lambda: [os.geteuid() != 0, judged(Broken(Message.of("FileTooDeep", file="x", limit=1)))]) == [
        True,
        "Ignoring x: nested more than 1 levels deep. Correct it; the change is taken without a restart.",
    ]
    assert isinstance(read_store(place / "none"), Good)
