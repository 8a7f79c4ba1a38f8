"""Get and rotate the API key, beside a controller and without one."""

import json
import stat

import pytest

from support.site import GONE, Service
from vllm_fsm.actions import credentials
from vllm_fsm.actions.problems import Rejected

KEY = "sk-the-key-of-a-test"
STARTING = {"state": None, "reason": "Starting"}


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path)


def put(service, content):
    service.config.credentials.write_text(content if isinstance(content, str) else json.dumps(content))


def on_disk(service):
    return json.loads(service.config.credentials.read_text())


def test_the_key_is_what_stands_in_the_file(service):
    put(service, {"apiKey": KEY})
    found = credentials.get(service.site)
    assert (found.key.reveal(), found.url) == (KEY, "http://localhost:8000/v1")
    assert KEY not in repr(found)


@pytest.mark.parametrize("content", [None, "", "{}", {"apiKey": None, "note": 1}])
def test_without_a_controller_a_missing_key_is_made(service, content):
    if content is not None:
        put(service, content)
    found = credentials.get(service.site)
    assert on_disk(service)["apiKey"] == found.key.reveal()
    assert len(found.key.reveal()) == 22
    assert ("note" in on_disk(service)) == (content == {"apiKey": None, "note": 1})
    assert stat.S_IMODE(service.config.credentials.stat().st_mode) == 0o644
    assert credentials.get(service.site) == found


@pytest.mark.parametrize("health", [STARTING, {"state": "Ready", "reason": None}])
def test_a_running_controller_makes_it(service, health):
    service.health = health
    put(service, {"apiKey": ""})
    waits = []

    def sleep(_seconds):
        waits.append(on_disk(service))
        put(service, {"apiKey": KEY})

    assert credentials.get(service.site, sleep=sleep).key.reveal() == KEY
    assert waits == [{"apiKey": ""}]


def test_a_controller_that_makes_none_is_not_waited_for_for_ever(service):
    service.health = STARTING
    with pytest.raises(Rejected, match="There is no API key yet") as refusal:
        credentials.get(service.site, sleep=lambda _: None)
    assert refusal.value.problems[0].code == "KeyNotMade"


def test_a_broken_file_is_told_and_left_alone(service):
    put(service, '{"apiKey": "with blanks"')
    before = service.files()
    with pytest.raises(Rejected, match="not valid JSON") as refusal:
        credentials.get(service.site)
    assert [problem.code for problem in refusal.value.problems] == ["FileNotJson", "KeyRotatable"]
    assert service.files() == before


def test_what_is_no_file_is_not_sent_to_the_rotation(service):
    service.config.credentials.mkdir()
    with pytest.raises(Rejected) as refusal:
        credentials.get(service.site)
    assert [problem.code for problem in refusal.value.problems] == ["FileIsNoFile"]


def test_a_key_that_cannot_be_stored_is_told(service):
    service.config.public.rmdir()
    with pytest.raises(Rejected, match="does not exist"):
        credentials.get(service.site)
    with pytest.raises(Rejected, match="does not exist"):
        credentials.rotate(service.site)


@pytest.mark.parametrize("health", [GONE, {"state": "Ready", "reason": None}])
def test_rotation_replaces_the_key_and_keeps_the_rest(service, health):
    service.health = health
    put(service, {"apiKey": KEY, "note": [1]})
    found = credentials.rotate(service.site)
    assert found.key.reveal() != KEY
    assert on_disk(service) == {"apiKey": found.key.reveal(), "note": [1]}
    assert stat.S_IMODE(service.config.credentials.stat().st_mode) == 0o644


@pytest.mark.parametrize("text", ['{"broken', '{"apiKey": "with blanks"}', '{"apiKey": 1}'])
def test_rotation_repairs_a_broken_file_and_keeps_it_aside(service, text):
    put(service, text)
    found = credentials.rotate(service.site)
    assert on_disk(service)["apiKey"] == found.key.reveal()
    with open(found.aside, encoding="utf-8") as file:
        assert file.read() == text


def test_a_link_is_never_replaced(service):
    elsewhere = service.root / "elsewhere.json"
    elsewhere.write_text(json.dumps({"apiKey": KEY}))
    service.config.credentials.symlink_to(elsewhere)
    assert credentials.get(service.site).key.reveal() == KEY
    with pytest.raises(Rejected, match="a symbolic link stands in its place"):
        credentials.rotate(service.site)


@pytest.mark.parametrize(
    ("host", "address", "url"),
    [
        ("0.0.0.0", None, "http://localhost:8000/v1"),
        ("::", None, "http://localhost:8000/v1"),
        ("10.0.0.1", None, "http://10.0.0.1:8000/v1"),
        ("fe80::1", None, "http://[fe80::1]:8000/v1"),
        ("0.0.0.0", "https://vllm.local/", "https://vllm.local/v1"),
        ("0.0.0.0", "", "http://localhost:8000/v1"),
    ],
)
def test_the_address(tmp_path, host, address, url):
    from dataclasses import replace

    service = Service(tmp_path)
    site = replace(service.site, config=replace(service.config, host=host))
    assert credentials.base_url(site, address) == url
