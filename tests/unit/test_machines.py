"""What is decided about each machine of `data/machines`, and that each of their values has a source."""

import json

import pytest

from support import machines
from vllm_fsm import messages
from vllm_fsm.hardware import report
from vllm_fsm.hardware.probes import from_json, to_json

FIXTURES = machines.all_()
each = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)


def leaves(value, path=()):
    """Every path to a value, without the numbers of a list's entries."""
    if isinstance(value, dict) and value:
        return {leaf for name, item in value.items() for leaf in leaves(item, (*path, name))}
    if isinstance(value, list) and value:
        return {leaf for item in value for leaf in leaves(item, path)}
    return {".".join(path)}


def short(machine):
    """The answer as the files write it."""
    document = report.document(machine)
    devices = [
        {name: device[name] for name in ("tier", "memoryGiB", "kind", "target", "fp8", "chosen")}
        | {"reasons": [reason["id"] for reason in device["reasons"]]}
        for device in document["devices"]
    ]
    kept = ("tier", "memoryGiB", "count", "fp8", "ramGiB", "environment", "complete")
    notes = [note["id"] for note in document["notes"]]
    return {name: document[name] for name in kept} | {"notes": notes, "devices": devices}


@each
def test_the_machine_is_judged_as_expected(fixture):
    assert short(fixture.machine()) == fixture.content["expected"]


@each
def test_a_recording_survives_json(fixture):
    probes = from_json(fixture.content["probes"])
    assert from_json(json.loads(json.dumps(to_json(probes)))) == probes
    assert to_json(probes) == fixture.content["probes"]


@each
def test_every_value_has_a_source(fixture):
    sources = fixture.content["sources"]
    assert {
        leaf
        for leaf in leaves(fixture.content["probes"])
        if not any(sources.get(known) and (leaf + ".").startswith(known + ".") for known in sources)
    } == set()


@each
def test_the_answer_is_json_and_says_why(fixture):
    document = json.loads(json.dumps(report.document(fixture.machine())))
    assert document["notes"]
    for device in document["devices"]:
        assert device["reasons"], device["name"]
        assert all(messages.ENGLISH[reason["id"]] for reason in device["reasons"])


def test_there_are_enough_of_them_and_the_page_says_where_they_are_from():
    assert len(FIXTURES) >= 25
    assert {fixture.content["origin"] for fixture in FIXTURES} == {"specified", "recorded"}
    recorded = [fixture for fixture in FIXTURES if fixture.content["origin"] == "recorded"]
    assert not any(fixture.machine().devices for fixture in recorded), "the page says that no GPU was at hand"


def test_the_page_is_generated_from_them():
    assert machines.PAGE.read_bytes() == machines.page().encode()
