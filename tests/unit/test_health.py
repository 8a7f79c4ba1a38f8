"""What a person sees."""

import json
from datetime import UTC, datetime

import pytest

from support.story import CRASH, HUB_DOWN, KEY, TAKEN, WRONG, Story, target
from vllm_fsm import health
from vllm_fsm.core import events as ev
from vllm_fsm.core.snapshot import Finding, Message, Progress
from vllm_fsm.core.states import Phase
from vllm_fsm.examples import snapshots

LOADING = (
    "The vLLM API is starting. A first-time model download plus load can take 30+ minutes; loading an already-cached "
    "model can take 15+ minutes. Exact time depends on your hardware resources and network bandwidth."
)


def wall(at):
    return datetime.fromtimestamp(at, UTC)


def document(story):
    return health.document(story.snapshot, wall, "boot")


def shown(story):
    report = health.report(story.snapshot, wall)
    return report.result, report.message


def test_no_model():
    assert shown(Story()) == ("failure", 'No model selected. Run the "Set Model" action.')


def test_loading():
    assert shown(Story().wants(target())) == ("loading", LOADING)
    assert shown(Story().loading()) == ("loading", f"{LOADING} Reading the programs.")


def test_ready():
    assert shown(Story().ready()) == ("success", "The vLLM API is ready")


def test_a_look_for_files_that_takes_long_is_named_since_a_dead_disk_may_never_answer():
    looking = "Looking for the files of org/one takes long: a disk is slow or does not answer."
    story = Story().wants(target()).fires(ev.LookOverdue)
    assert shown(story) == ("loading", f"{LOADING} {looking}")
    assert looking not in shown(story.wants(target("org/two")))[1]
    assert shown(story.happens(ev.WeightsComplete)) == ("loading", LOADING)
    story = Story().ready().wants(target("org/two")).fires(ev.LookOverdue)
    assert shown(story) == ("success", f"The vLLM API is ready. {looking.replace('one', 'two')}")


def test_the_deadline():
    story = Story().loading().fires(ev.DeadlinePassed)
    message = "The vLLM API did not come up within 35 minutes. Check the service logs for errors."
    assert shown(story) == ("failure", message)


@pytest.mark.parametrize(
    ("progress", "sentence"),
    [
        (Progress("org/one", 0), "Downloading org/one."),
        (Progress("org/one", 12_300_000_000, 39_600_000_000), "Downloading org/one: 12.3 of 39.6 GB (31 %)."),
        (
            Progress("org/one", 12_300_000_000, 39_600_000_000, 85e6),
            "Downloading org/one: 12.3 of 39.6 GB (31 %), 85 MB/s.",
        ),
        (
            Progress("org/one", 12_300_000_000, 39_600_000_000, 85e6, 290.0),
            "Downloading org/one: 12.3 of 39.6 GB (31 %), 85 MB/s, 5 min left.",
        ),
        (
            Progress("org/one", 12_300_000_000, 39_600_000_000, 0.31e6),
            "Downloading org/one: 12.3 of 39.6 GB (31 %), 0.3 MB/s.",
        ),
        (
            Progress("org/one", 12_300_000_000, 39_600_000_000, 0.0),
            "Downloading org/one: 12.3 of 39.6 GB (31 %).",
        ),
    ],
)
def test_downloading_leaves_out_what_is_unknown(progress, sentence):
    story = Story().wants(target()).happens(ev.WeightsMissing).happens(ev.DownloadProgressed, progress)
    assert shown(story) == ("loading", f"{sentence} {LOADING}")


def test_downloading_before_the_first_byte():
    assert shown(Story().wants(target()).happens(ev.WeightsMissing))[1] == f"Downloading org/one. {LOADING}"


def test_a_waiting_download_says_why_and_when():
    story = Story().wants(target()).happens(ev.WeightsMissing).happens(ev.DownloadFailed, HUB_DOWN, 60.0)
    assert shown(story)[1].startswith(
        "The hub hub.example cannot be reached. Check the network, and HF_ENDPOINT if you set it. "
        "Next try at 00:17:40 UTC. Downloading"
    )


@pytest.mark.parametrize(
    ("progress", "rest"),
    [
        (None, "org/two is downloading"),
        (Progress("org/two", 43, 100), "org/two is downloading: 43 %"),
        (Progress("org/two", 43, 100, 1.0, 350.0), "org/two is downloading: 43 %, 6 min left"),
    ],
)
def test_ready_with_a_next_model(progress, rest):
    story = Story().swapping()
    if progress:
        story.happens(ev.DownloadProgressed, progress)
    assert shown(story) == ("success", f"The vLLM API is ready. {rest}")


def test_ready_says_why_the_next_model_does_not_come():
    result, message = shown(Story().ready().wants(target("--oops", problem=WRONG)))
    assert result == "success"
    assert message.startswith("The vLLM API is ready. It still serves org/one, because")
    assert "--oops" in message


def test_a_warning_follows():
    warning = Message.of("ReservedArgument", argument="--port")
    assert shown(Story().ready().happens(ev.WarningsChanged, (warning,)))[1] == (
        "The vLLM API is ready. The argument --port is reserved for the service and was left out."
    )


def test_waiting_for_the_next_try_says_when_and_which():
    story = Story().loading().crashes().happens(ev.EngineStarted, 78).crashes()
    result, message = shown(story)
    assert result == "loading"
    assert message.startswith("The engine ended by itself with exit status 1, for a reason")
    assert message.endswith("UTC, number 2 of 5.")


def test_a_phase_is_shown_while_loading():
    story = Story().loading().happens(ev.PhaseEntered, Phase.WEIGHTS, Message.of("Weights", done=3, total=8))
    assert shown(story)[1] == f"{LOADING} Weights 3/8."


def test_a_crash_beside_a_waiting_download_says_what_waits():
    story = Story().swapping().happens(ev.DownloadFailed, HUB_DOWN).happens(ev.EngineExited, 1, CRASH)
    assert shown(story)[1].startswith("The hub hub.example cannot be reached. Check the network, and")


def test_a_taken_port_names_no_time_that_would_change_every_5_seconds():
    story = Story().wants(target()).happens(ev.WeightsComplete).happens(ev.StartFailed, TAKEN)
    for _ in range(3):
        story.fires(ev.RestartDue).happens(ev.PortTaken, TAKEN)
    assert shown(story) == (
        "failure",
        "Port 8000 is in use by nginx (pid 7). End that program; the engine then starts by itself within seconds.",
    )


def test_resting_says_when_it_is_tried_again():
    story = Story().loading()
    for _ in range(6):
        story.crashes(CRASH)
        if story.state == "Loading" and story.snapshot.due(ev.RestartDue):
            story.fires(ev.RestartDue)
        if story.state == "Loading":
            story.happens(ev.EngineStarted, 78)
    assert story.state == "Failed"
    assert "Next try at" in shown(story)[1]


@pytest.mark.parametrize("snapshot", snapshots())
def test_the_document_is_json_without_secrets(snapshot):
    document = health.document(snapshot, wall, "boot")
    assert json.loads(json.dumps(document)) == document
    assert document["message"] == health.report(snapshot, wall).message
    assert document["schema"] == 1


LONG = Finding.of(
    "ContextTooLong",
    permanent=True,
    evidence="Value error, User-specified max_model_len (8192) is greater than …",
    wanted="8192",
    most="4096",
)


def too_long(*arguments):
    story = Story().wants(target("org/one", *arguments)).happens(ev.WeightsComplete).happens(ev.EngineStarted, 77)
    return story.happens(ev.EngineExited, 1, LONG)


def test_a_failure_that_names_a_number_offers_what_fits():
    story = too_long("--max-model-len=8k", "--seed", "1")
    document = health.document(story.snapshot, wall, "boot")
    assert document["state"] == "Failed"
    assert document["evidence"] == LONG.evidence
    assert document["fix"] == {
        "name": "--max-model-len",
        "value": "4096",
        "change": "--max-model-len 4096",
        "args": ["org/one", "--max-model-len=4096", "--seed", "1"],
        "message": {
            "id": "FixOffered",
            "params": {"change": "--max-model-len 4096"},
            "message": 'The "Set Model" action offers the same model with --max-model-len 4096, which fits.',
        },
    }
    assert [part["id"] for part in document["parts"]] == ["ContextTooLong", "FixOffered"]


def test_nothing_is_offered_where_nothing_would_change():
    document = health.document(too_long("--max-model-len", "4096").snapshot, wall, "boot")
    assert (document["fix"], len(document["parts"])) == (None, 1)
    assert health.document(Story().ready().snapshot, wall, "boot")["fix"] is None


def test_a_fix_is_gone_when_something_else_is_wanted():
    story = too_long("--max-model-len", "8192")
    assert health.fix(story.snapshot) is not None
    assert health.fix(story.wants(target("org/one", "--max-model-len", "4096")).snapshot) is None
    story = too_long("--max-model-len", "8192").wants(None)
    assert health.document(story.snapshot, wall, "boot")["fix"] is None


def test_a_fix_is_offered_while_the_next_try_is_waited_for():
    busy = Finding.of("MachineMemoryBusy", free="7.5", total="10.0", needed="9.2")
    story = Story().loading()
    for number in (78, 79):
        story.happens(ev.EngineExited, 1, busy).happens(ev.EngineVacated)
        if story.snapshot.due(ev.RestartDue):
            break
        story.happens(ev.EngineStarted, number)
    parts = [part["id"] for part in health.document(story.snapshot, wall, "boot")["parts"]]
    assert parts == ["MachineMemoryBusy", "FixOffered", "NextTryOf"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("", None),
        (" \n ", None),
        ("one\r\ntwo\tthree", "one two three"),
        ("red \x1b[31mword\x1b[0m \u202e", "red word \\u202e"),
        ("x" * 501, "x" * 500),
    ],
)
def test_the_evidence_is_one_harmless_line(said, shown):
    story = (
        Story()
        .loading()
        .happens(ev.EngineExited, 2, Finding.of("BadArguments", permanent=True, evidence=said, detail=""))
    )
    assert health.document(story.snapshot, wall, "boot")["evidence"] == shown


def test_a_target_shows_names_of_variables_only():
    story = Story().ready()
    document = health.document(story.snapshot, wall, "boot")
    assert document["target"] == {"model": "org/one", "arguments": ["org/one"], "environment": []}
    assert KEY.reveal() not in json.dumps(document)


def test_next_try_is_the_first_of_those_that_are_set():
    story = Story().swapping().crashes().happens(ev.DownloadFailed, HUB_DOWN)
    assert health.next_try(story.snapshot) == story.snapshot.due(ev.DownloadRetryDue)
    assert health.document(story.snapshot, wall, "b")["nextTry"].endswith("Z")


def test_ready_says_how_often_the_next_model_was_tried_for():
    story = Story(download_tries=2).swapping()
    story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue).happens(ev.DownloadFailed, HUB_DOWN)
    result, message = shown(story)
    assert result == "success"
    assert message == (
        "The vLLM API is ready. It still serves org/one, because what was chosen since cannot be served: "
        "The hub hub.example cannot be reached. Check the network, and HF_ENDPOINT if you set it. "
        "2 attempts in a row brought nothing."
    )


def test_a_failed_engine_says_nothing_of_attempts_for_the_next_model():
    story = Story(download_tries=2).swapping()
    story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue).happens(ev.DownloadFailed, HUB_DOWN)
    while story.crashes().state != "Failed":
        if story.snapshot.due(ev.RestartDue):
            story.fires(ev.RestartDue)
    assert "attempts" not in shown(story)[1]


def test_a_failure_at_the_first_attempt_counts_none():
    story = Story().wants(target()).happens(ev.WeightsMissing)
    story.happens(ev.DownloadFailed, Finding.of("GatedRepo", permanent=True, repo="org/one"))
    assert shown(story)[1].startswith("org/one is gated.")
    assert "attempts" not in shown(story)[1]


def test_loading_says_that_the_engine_downloads_by_itself():
    note = Message.of("FetchedByEngine", model="org/one", what="s3://x")
    story = Story().wants(target()).happens(ev.WeightsComplete, False, note)
    assert shown(story)[1].endswith(
        "vLLM downloads what it needs of org/one by itself (s3://x), so its progress is not known."
    )


def test_a_download_is_told_with_its_files():
    told = health.told(health.download(Progress("org/one", 12_300_000_000, 39_600_000_000, 85e6, 321.0, 3, 17)))
    assert told == "org/one: 12.3 of 39.6 GB (31 %), 3 of 17 files, 85.0 MB/s, 6 min left"


def test_a_small_download_is_told_in_small_numbers():
    assert health.told(health.download(Progress("org/one", 500_000, 2_000_000, files=2))) == (
        "org/one: 0.001 of 0.002 GB (25 %), 0 of 2 files"
    )


def test_a_download_before_its_plan():
    assert health.told(health.download(Progress("org/one", 0))) == "org/one: asking the hub what there is"


def fallen_back():
    """The engine of `org/two` cannot start, and `org/one` is started again."""
    story = Story(fallback=True).ready().wants(target("org/two")).happens(ev.WeightsComplete)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated).happens(ev.EngineStarted, 78)
    return story.crashes(WRONG).happens(ev.EngineStarted, 79)


def test_a_fallback_is_called_one_in_every_state():
    story = fallen_back()
    assert document(story)["fallback"]
    assert shown(story)[1].startswith(
        "The fallback org/one, which was ready last, is started, because what was chosen since cannot be served: The "
    )
    assert document(story)["reason"] == "BadArguments"
    assert shown(story.happens(ev.ProbePassed))[1].startswith(
        "The vLLM API is ready. It serves the fallback org/one, which was ready last, because what was chosen since "
    )
    assert document(story)["reason"] == "BadArguments"
    result, message = shown(fallen_back().crashes(WRONG))
    assert result == "failure"
    assert "The fallback org/one, which was ready last, failed too:" in message
    assert not document(story.wants(target()))["fallback"]


def test_a_fallback_that_waits_tells_of_both():
    story = fallen_back().crashes().happens(ev.EngineStarted, 80).crashes()
    result, message = shown(story)
    assert result == "loading"
    assert message.startswith("The serve arguments cannot be used")
    assert "The fallback org/one, which was ready last, failed too: The engine ended by itself" in message
    assert message.endswith("number 2 of 5.")
    assert document(story)["reason"] == "BadArguments"


def test_a_fix_is_offered_beside_the_fallback():
    story = Story(fallback=True).ready().wants(target("org/two", "--max-model-len", "32768"))
    story.happens(ev.WeightsComplete).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    most = Finding.of("ContextNeedsMemoryMost", permanent=True, needed="4.0", free="1.5", most=12288, wanted=32768)
    story.happens(ev.EngineStarted, 78).crashes(most).happens(ev.EngineStarted, 79)
    for _ in range(2):
        assert document(story)["fix"]["args"] == ["org/two", "--max-model-len", "12288"]
        assert "--max-model-len 12288" in shown(story)[1]
        story.happens(ev.ProbePassed)


def test_the_phases_of_a_start_have_their_times():
    story = Story().loading().wait(5.1).happens(ev.PhaseEntered, Phase.WEIGHTS, Message.of("PhaseWeights"))
    now = document(story)
    assert now["phases"] == [{"name": "Imports", "seconds": 5.1}]
    assert now["phase"] == {
        "name": "Weights",
        "since": health.timestamp(wall(story.now)),
        "message": "Loading the weights.",
    }
    after = document(story.wait(2.0).happens(ev.ProbePassed))
    assert after["phases"] == [{"name": "Imports", "seconds": 5.1}, {"name": "Weights", "seconds": 2.0}]
    assert after["phase"] is None
