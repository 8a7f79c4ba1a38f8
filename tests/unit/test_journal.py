"""The log lines."""

import io
import json
from datetime import UTC, datetime

from support.story import CRASH, WRONG, Story, target
from vllm_fsm import health, journal
from vllm_fsm.core import events as ev
from vllm_fsm.core.snapshot import Finding, Message, Progress
from vllm_fsm.core.states import Phase
from vllm_fsm.redaction import Redactor


def wall(at):
    return datetime.fromtimestamp(at, UTC)


class Lines(io.StringIO):
    def msg(self, line):
        self.write(line + "\n")


def lines(console=False, scrub=lambda value: value):
    stream = Lines()
    return stream, journal.logger(stream, scrub, lambda: "2026-01-02T12:00:00.000Z", console=console)


def test_a_line_is_one_json_object_that_begins_with_time_and_event():
    stream, log = lines()
    log("started", pid=7, path="a\nb")
    assert stream.getvalue().count("\n") == 1
    assert list(json.loads(stream.getvalue()).items()) == [
        ("time", "2026-01-02T12:00:00.000Z"),
        ("event", "started"),
        ("pid", 7),
        ("path", "a\nb"),
    ]


def test_every_value_is_scrubbed():
    stream, log = lines(scrub=lambda value: "***" if value == "secret" else value)
    log("started", key="secret")
    assert json.loads(stream.getvalue())["key"] == "***"


def test_what_json_does_not_know_is_shown_as_text():
    stream, log = lines()
    log("started", error=ValueError("x"))
    assert json.loads(stream.getvalue())["error"] == "x"


def test_a_transition_is_a_line_with_its_fields():
    stream, log = lines()
    observe = journal.transition(log, wall)
    story = Story().loading()
    before = story.snapshot
    story.wait(12.5).happens(ev.ProbePassed)
    fields = observe(before, ev.ProbePassed(story.now, 1), story.snapshot)
    assert fields == {
        "trigger": "ProbePassed",
        "from": "Loading",
        "to": "Ready",
        "reason": None,
        "message": "The vLLM API is ready",
        "lasted": 12.5,
        "attempt": 1,
        "engine": "Alive",
        "pid": 77,
        "parts": [{"id": "Ready", "params": {}}],
        "evidence": "",
    }
    phase, line = map(json.loads, stream.getvalue().splitlines())
    assert (phase["event"], phase["phase"], phase["after"], phase["lasted"]) == ("phase", "Ready", "Imports", 12.5)
    assert line["event"] == "transition"


def test_a_start_within_a_state_is_a_line_too():
    stream, log = lines()
    observe = journal.transition(log, wall)
    story = Story()
    for kind, *fields in ((ev.WantedChanged, target()), (ev.WeightsComplete,), (ev.EngineStarted, 77)):
        before = story.snapshot
        story.happens(kind, *fields)
        observe(before, ev.RetryRequested(story.now), story.snapshot)
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["transition", "engine", "engine-started", "phase"]


def test_an_end_is_told_with_its_status_and_whether_it_was_asked_for():
    stream, log = lines()
    observe = journal.transition(log, wall)
    story = Story().ready()
    before = story.snapshot
    event = ev.EngineExited(story.now, 1, 0, CRASH)
    observe(before, event, story.feed(event).snapshot)
    observe(story.snapshot, event, story.feed(event).snapshot)
    ends = [json.loads(line) for line in stream.getvalue().splitlines() if "engine-exited" in line]
    assert [(end["attempt"], end["status"], end["asked"], end["evidence"]) for end in ends] == [
        (1, 0, False, ""),
        (1, 0, True, ""),
    ]


def test_people_see_one_line_each():
    stream, log = lines(console=True)
    log("engine-output", line="INFO: hello")
    log("transition", **{"from": "Loading", "to": "Ready"}, lasted=200.0, trigger="ProbePassed", message="It is ready")
    log("engine", **{"from": "Alive", "to": "Terminating"}, attempt=3)
    log("stopped", code=0, nothing=None)
    assert stream.getvalue().splitlines() == [
        "12:00:00   │ INFO: hello",
        "12:00:00 ● Loading → Ready after 3 min (ProbePassed): It is ready",
        "12:00:00 · engine Alive → Terminating (start 3)",
        "12:00:00 · stopped code=0",
    ]


def test_no_value_passes_for_a_line_of_ours():
    """Nobody who has a say in an error, a name or an answer writes a line that begins as ours do."""
    forged = "x\n12:00:00 ● Loading → Ready after 1.0 s (ProbePassed): The vLLM API is ready"
    stream, log = lines(console=True, scrub=Redactor().scrub_value)
    log("engine-output", line=forged)
    log("transition", **{"from": "Loading", "to": "Failed"}, lasted=1.0, trigger="EngineExited", message=forged)
    log("warning", error=forged)
    log("warning", **{forged: 1})
    log("download", repo=forged, done=1, total=2, bytesPerSecond=None, etaSeconds=None, filesDone=0, files=1)
    shown = stream.getvalue().splitlines()
    assert sum(line.startswith("12:00:00") for line in shown) == 5
    assert all(line.startswith(("12:00:00", " " * 9)) for line in shown)


def test_no_value_passes_for_another_field():
    stream, log = lines(console=True)
    log("warning", file="a b state=Ready", quoted='x" state="y', names=["a", "b c"], empty="", plain="/a/b:1")
    assert stream.getvalue() == (
        '12:00:00 · warning file="a b state=Ready" quoted="x\\" state=\\"y" names=["a", "b c"] empty="" plain=/a/b:1\n'
    )


def test_a_line_of_json_stays_one_line_whatever_it_holds():
    stream, log = lines(scrub=Redactor().scrub_value)
    log("engine-output", line='a\n{"event": "transition", "to": "Ready"}\u2028b\x85c\rd')
    assert len(stream.getvalue().splitlines()) == 1


def test_a_download_is_a_line_every_ten_seconds_at_most():
    stream, log = lines()
    observe = journal.transition(log, wall)
    story = Story().wants(target()).happens(ev.WeightsMissing)
    for second in range(25):
        before = story.snapshot
        story.wait(1).happens(ev.DownloadProgressed, Progress("org/one", second, 100, files=3))
        event = ev.DownloadProgressed(story.now, story.snapshot.fetch, story.snapshot.progress)
        assert observe(before, event, story.snapshot) is None
    shown = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["done"] for line in shown] == [0, 10, 20]
    assert shown[0] | {"time": ""} == {
        "time": "",
        "event": "download",
        "repo": "org/one",
        "done": 0,
        "total": 100,
        "bytesPerSecond": None,
        "etaSeconds": None,
        "filesDone": 0,
        "files": 3,
    }


def test_a_download_is_told_in_words_on_a_terminal():
    stream, log = lines(console=True)
    log(journal.DOWNLOAD, **health.download(Progress("org/one", 10**9, 2 * 10**9, files_done=1, files=3)))
    assert stream.getvalue() == "12:00:00 ⇣ org/one: 1.0 of 2.0 GB (50 %), 1 of 3 files\n"


def test_a_failed_attempt_is_a_line_with_its_evidence():
    stream, log = lines()
    observe = journal.transition(log, wall)
    story = Story().wants(target()).happens(ev.WeightsMissing)
    before = story.snapshot
    finding = Finding.of("HubUnreachable", evidence="ConnectError: refused", host="hub.example")
    story.happens(ev.DownloadFailed, finding)
    observe(before, ev.DownloadFailed(story.now, before.fetch, finding), story.snapshot)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["reason"], line["evidence"]) == (
        "download-failed",
        "HubUnreachable",
        "ConnectError: refused",
    )


def test_a_fallback_is_a_line_with_its_reason():
    stream, log = lines()
    observe = journal.transition(log, wall)
    story = Story(fallback=True).ready().wants(target("org/two")).happens(ev.WeightsComplete)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated).happens(ev.EngineStarted, 78)
    before = story.snapshot
    event = ev.EngineExited(story.now, story.snapshot.epoch, 1, WRONG)
    observe(before, event, story.feed(event).snapshot)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines() if '"fallback"' in line]
    assert (line["model"], line["reason"]) == ("org/one", "BadArguments")
    assert "--oops" in line["message"]


def test_people_see_the_phases_with_their_times():
    stream, log = lines(console=True)
    observe = journal.transition(log, wall)
    story = Story().loading()
    before = story.snapshot
    event = ev.PhaseEntered(story.now + 5.1, 1, Phase.WEIGHTS, Message.of("PhaseWeights"))
    observe(before, event, story.feed(event).snapshot)
    assert stream.getvalue() == "12:00:00 · start 1: Weights (Imports took 5.1 s)\n"
