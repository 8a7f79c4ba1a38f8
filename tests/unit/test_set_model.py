"""Set Model: what a choice comes to, what it keeps, and what it refuses without writing anything."""

import json
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.site import Service
from vllm_fsm import request
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.actions.selection import Choice, choose, clear, last_choice, offered
from vllm_fsm.presets import CUSTOM

TOKEN = "hf_" + "aB3" * 11
PROXY = ("HTTPS_PROXY", "http://me:secret-word@proxy:1")


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path)


def custom(line, *variables, **others):
    return Choice(CUSTOM, line, variables, **others)


def refused(service, choice):
    """See that the choice is refused and nothing is touched; return field, code and position of each reason."""
    before = service.files()
    with pytest.raises(Rejected) as refusal:
        choose(service.site, choice)
    assert service.files() == before
    assert TOKEN not in str(refusal.value)
    return [(one.field, one.code, one.position) for one in refusal.value.problems]


def written(service):
    """What any write of the store changes; reading it changes only the time of access."""
    status = service.config.store.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def environment(service):
    return {variable["name"]: variable["value"] for variable in service.store.get("serveEnv", ())}


# --- what is written ---------------------------------------------------------------------------------------------


def test_custom_arguments_are_split_as_a_shell_does(service):
    line = """org/name --speculative-config '{"method": "mtp"}' --max-model-len 4k"""
    done = choose(service.site, custom(line, ("A", "1 2")))
    assert (done.changed, done.retried, done.aside) == (True, False, None)
    assert service.store == {
        "serveArgs": ["org/name", "--speculative-config", '{"method": "mtp"}', "--max-model-len", "4k"],
        "serveEnv": [{"name": "A", "value": "1 2"}],
        "modelSelection": {"selection": "custom", "customArgs": line, "customEnv": [{"name": "A", "value": "1 2"}]},
    }
    assert stat.S_IMODE(service.config.store.stat().st_mode) == 0o600
    assert service.looked == 0


def test_nothing_is_expanded(service, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    choose(service.site, custom("org/name --served-model-name '$(id)' '`id`' '$HOME' \\~ '*'"))
    assert service.store["serveArgs"][2:] == ["$(id)", "`id`", "$HOME", "~", "*"]


def test_a_preset_brings_its_arguments_and_pins_its_devices(service):
    choose(service.site, Choice("qwen3-30b-a3b"))
    store = service.store
    assert store["modelSelection"] == {"selection": "qwen3-30b-a3b"}
    assert store["serveArgs"][-2:] == ["--max-model-len", "32768"]
    assert environment(service) == {"CUDA_VISIBLE_DEVICES": "GPU-00000002-1111-2222-3333-000000000002"}


def test_a_preset_removes_variables_but_not_those_for_access_and_network(service):
    kept = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://hub", "https_proxy": "http://p:1", "NO_PROXY": "a"}
    service.put({"serveEnv": [{"name": name, "value": value} for name, value in ({"VLLM_X": "1"} | kept).items()]})
    choose(service.site, Choice("qwen3-30b-a3b"))
    assert environment(service) == {"CUDA_VISIBLE_DEVICES": "GPU-00000002-1111-2222-3333-000000000002", **kept}
    choose(service.site, custom("org/name", ("NO_PROXY", "b")))
    assert environment(service) == kept | {"NO_PROXY": "b"}


def test_what_stays_can_be_forgotten(service):
    choose(service.site, custom("org/name", PROXY, token=TOKEN))
    choose(service.site, custom("org/name", token=None, unset=frozenset({PROXY[0]})))
    assert environment(service) == {}
    choose(service.site, custom("org/name", PROXY, token=TOKEN))
    choose(service.site, custom("org/name", unset=frozenset({PROXY[0], "HF_TOKEN"})))
    assert environment(service) == {}
    choose(service.site, custom("org/name", PROXY, token=TOKEN))
    choose(service.site, custom("org/name", keep=False))
    assert environment(service) == {"HF_TOKEN": TOKEN}


def test_the_token_has_one_place(service):
    choose(service.site, custom("org/name", ("HF_TOKEN", TOKEN)))
    assert environment(service) == {"HF_TOKEN": TOKEN}
    assert TOKEN not in json.dumps(service.store["modelSelection"])
    choose(service.site, custom("org/two"))
    assert environment(service) == {"HF_TOKEN": TOKEN}
    choose(service.site, custom("org/two", ("HF_TOKEN", "***")))
    assert environment(service) == {"HF_TOKEN": TOKEN}
    assert refused(service, custom("org/two", ("HF_TOKEN", TOKEN), token="hf_another")) == [
        ("customEnv[0].name", "VariableTwice", None)
    ]


def test_unknown_fields_survive(service):
    service.put({"note": {"mine": [1, None]}, "serveArgs": ["old"]})
    choose(service.site, custom("org/name"))
    assert service.store["note"] == {"mine": [1, None]}


def test_clearing_leaves_access_and_network(service):
    choose(service.site, custom("org/name", PROXY, ("A", "1"), token=TOKEN))
    assert clear(service.site).changed
    assert list(service.store) == ["serveEnv"]
    assert environment(service) == {"HTTPS_PROXY": PROXY[1], "HF_TOKEN": TOKEN}
    assert not clear(service.site).changed


# --- the same again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [custom("org/name --seed 1", PROXY, token=TOKEN), Choice("qwen3-30b-a3b")])
def test_the_same_choice_again_writes_nothing(service, choice):
    choose(service.site, choice)
    before = written(service)
    done = choose(service.site, choice)
    assert (done.changed, done.retried) == (False, False)
    assert written(service) == before


def test_the_same_choice_again_in_failed_asks_for_a_retry(service):
    choose(service.site, custom("org/name"))
    service.health = {"state": "Failed", "reason": "EngineExited"}
    assert choose(service.site, custom("org/name"), dry=True).retried is False
    assert not (service.config.run_dir / request.NAME).exists()
    assert choose(service.site, custom("org/name")).retried
    assert json.loads((service.config.run_dir / request.NAME).read_text())["request"] == "retry"


def test_another_choice_in_failed_needs_no_request(service):
    service.health = {"state": "Failed", "reason": "EngineExited"}
    assert not choose(service.site, custom("org/name")).retried
    clear(service.site)
    assert not clear(service.site).retried
    assert not (service.config.run_dir / request.NAME).exists()


def test_a_dry_run_checks_and_writes_nothing(service):
    done = choose(service.site, custom("org/name --seed 1"), dry=True)
    assert (done.dry, done.prepared.arguments) == (True, ("org/name", "--seed", "1"))
    assert service.store is None
    with pytest.raises(Rejected):
        choose(service.site, custom("org/name --seed one"), dry=True)


# --- a broken store ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"broken', "[]", '{"serveArgs": "org/name"}', '{"serveEnv": [{"name": "A"}], "note": 1}', "\xff"]
)
def test_a_broken_store_is_repaired_and_kept_aside(service, text):
    service.config.store.write_bytes(text.encode("latin-1"))
    done = choose(service.site, custom("org/name"))
    assert done.changed
    assert Path(done.aside).read_bytes() == text.encode("latin-1")
    assert service.store["serveArgs"] == ["org/name"]
    assert ("note" in service.store) == ("note" in text)
    assert choose(service.site, custom("org/name")).aside is None


def test_what_is_no_file_is_never_replaced(service):
    elsewhere = service.root / "elsewhere.json"
    elsewhere.write_text("{}")
    service.config.store.symlink_to(elsewhere)
    assert refused(service, custom("org/name")) == [(None, "WriteIsNoFile", None)]
    service.config.store.unlink()
    service.config.data.rmdir()
    assert refused(service, custom("org/name")) == [(None, "WriteNoDirectory", None)]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "position"),
    [
        ("", "ArgumentsMissing", 0),
        (" \n ", "ArgumentsMissing", 0),
        ("--max-model-len 5", "ArgumentsUnusable", None),
        ("org/name 'a", "QuoteNotClosed", 9),
        ("org/name a\\", "NothingEscaped", 10),
        ("'org/na me'", "ModelHasBlanks", 0),
        ("--seed 1 --model 'org/na me'", "ModelHasBlanks", 17),
        ("org/na me", "ArgumentExtra", 7),
        ("org/name --max-model-length 5", "FlagUnknownMeant", 9),
        ("org/name --seed one", "ValueNoInteger", 16),
        ("org/name --port 9", "ArgumentReserved", 9),
        ("org/name --api-k x", "ArgumentReserved", 9),
        ("org/name --chat-template /none.jinja", "ChatTemplateMissing", 25),
        ("org/name $(id)", "ArgumentExtra", 9),
        ("org/name --hf-token '***'", "SecretMasked", 20),
        ("org/name `id`", "ArgumentExtra", 9),
        ("org/name\0", "CharacterRefused", 8),
        ("org/name --seed\x1b 1", "CharacterRefused", 15),
        ("org/name \u202e--seed 1", "CharacterRefused", 9),
        ("org/name " + "x" * 100_000, "ArgumentsTooLong", 65536),
        ("org/name " + "x " * 2000, "ArgumentsUnusable", None),
    ],
)
def test_bad_arguments_are_refused_with_their_place(service, line, code, position):
    assert refused(service, custom(line))[0] == ("customArgs", code, position)


def test_a_path_may_have_blanks(service):
    model = service.root / "my model"
    model.mkdir()
    choose(service.site, custom(f"'{model}'"))
    assert service.store["serveArgs"] == [str(model)]


def test_bad_variables_are_refused_with_their_field(service):
    choice = custom(
        "org/name", ("A", "1"), ("A", "2"), ("1B", ""), ("VLLM_API_KEY", "x"), ("VLLM_FSM_PORT", "1"), (TOKEN + "-", "")
    )
    assert refused(service, choice) == [
        ("customEnv[1].name", "VariableTwice", None),
        ("customEnv[2].name", "VariableNameUnusable", None),
        ("customEnv[3].name", "VariableReserved", None),
        ("customEnv[4].name", "VariableReserved", None),
        ("customEnv[5].name", "VariableNameUnusable", None),
    ]
    assert refused(service, custom("org/name", ("A", "x\0"), ("HF_TOKEN", "***"), ("B", "a\u200f"))) == [
        ("customEnv[0].value", "CharacterRefused", 1),
        ("customEnv[2].value", "CharacterRefused", 1),
        ("customEnv[0].value", "VariableValueUnusable", None),
    ]
    assert refused(service, custom("org/name", ("HF_TOKEN", "***"), ("B", "x" * (1 << 17)))) == [
        ("customEnv[1].value", "ValueTooLong", 65536),
        ("customEnv[1].value", "VariableValueUnusable", None),
    ]
    assert refused(service, custom("org/name", ("A", "***"))) == [("customEnv[0].value", "ValueNotStored", None)]
    assert refused(service, custom("org/name", token=f"{TOKEN} x")) == [("hfToken", "TokenUnusable", None)]


def test_variables_of_ones_own_do_not_go_with_a_preset(service):
    choice = Choice("qwen3-30b-a3b", variables=(PROXY, ("A", "1")))
    assert refused(service, choice) == [("customEnv[1].name", "VariableNotForPreset", None)]


def test_a_preset_that_is_not_there_or_does_not_fit(service):
    assert refused(service, Choice("qwen3-30b-a3c")) == [("selection", "PresetUnknownMeant", None)]
    assert refused(service, Choice("x" * 100_000)) == [("selection", "PresetUnknown", None)]
    assert refused(service, Choice("llama-33-70b")) == [
        ("selection", "PresetNeedsMemory", None),
        ("selection", "PresetNotOffered", None),
    ]


@pytest.mark.parametrize("machine", ["rtx4090-rtx3060", "rtx4090-x2", "h200-x8", "b200", "mi300x-x8", "gb10"])
def test_what_is_offered_can_be_chosen(tmp_path, machine):
    service = Service(tmp_path, machine=machine)
    offers, _ = offered(service.site, service.site.detect())
    ids = [offer.preset.id for offer in offers if offer.reason is None]
    assert ids
    for id_ in ids:
        assert choose(service.site, Choice(id_), dry=True).dry


def test_a_preset_of_ones_own_is_checked_too(service):
    config = {"args": ["org/mine", "--frobnicate"], "minMemoryGB": 8, "contextByMemory": []}
    own = {"id": "mine", "displayName": "Mine", "configs": {"nvidia-older": config}}
    (service.config.data / "presets.json").write_text(json.dumps({"presets": [own]}))
    assert refused(service, Choice("mine")) == [("selection", "FlagUnknown", None)]


def test_an_engine_of_another_version_is_noted(tmp_path):
    service = Service(tmp_path, version="0.99.0")
    done = choose(service.site, custom("org/name --frobnicate"))
    assert [note.code for note in done.prepared.notes] == ["VersionOther", "FlagUnknown"]
    assert refused(service, custom("org/name --port 9"))[0] == ("customArgs", "ArgumentReserved", 9)


# --- the last choice ---------------------------------------------------------------------------------------------


def test_the_last_choice_comes_back_without_secrets(service):
    choose(service.site, custom("org/name --seed 1", PROXY, ("MY_API_KEY", "abcd"), ("A", "1"), token=TOKEN))
    last = last_choice(service.site)
    assert (last.selection, last.arguments, last.token) == (CUSTOM, "org/name --seed 1", "***")
    assert last.variables == (("HTTPS_PROXY", "***"), ("MY_API_KEY", "***"), ("A", "1"))
    before = service.store
    assert not choose(service.site, last).changed
    assert service.store == before


def test_after_a_preset_network_variables_are_there_for_custom_arguments(service):
    choose(service.site, custom("org/name", ("NO_PROXY", "a"), ("A", "1")))
    choose(service.site, Choice("qwen3-30b-a3b"))
    last = last_choice(service.site)
    assert (last.selection, last.arguments, last.variables) == ("qwen3-30b-a3b", "", (("NO_PROXY", "a"),))


def test_a_store_written_by_hand_comes_back_as_custom_arguments(service):
    service.put({"serveArgs": ["org/name", "--x", "a b"], "serveEnv": [{"name": "A", "value": "1"}]})
    last = last_choice(service.site)
    assert (last.selection, last.arguments, last.variables) == (CUSTOM, "org/name --x 'a b'", (("A", "1"),))


def test_what_somebody_edited_since_comes_back(service):
    choose(service.site, custom("org/name --seed 1", ("A", "1")))
    store = service.store
    service.put(store | {"serveArgs": ["org/name", "--seed", "2"], "serveEnv": [{"name": "B", "value": "2"}]})
    last = last_choice(service.site)
    assert (last.selection, last.arguments, last.variables) == (CUSTOM, "org/name --seed 2", (("B", "2"),))
    service.put(store | {"serveArgs": None, "serveEnv": None})
    last = last_choice(service.site)
    assert (last.selection, last.arguments, last.variables) == (CUSTOM, "org/name --seed 1", (("A", "1"),))


def test_a_secret_among_the_arguments_is_not_shown_and_stays(service):
    line = f"org/name --hf-token  {TOKEN} --seed 1"
    done = choose(service.site, custom(line))
    assert [(note.code, note.position) for note in done.prepared.notes] == [("SecretInArguments", 21)]
    last = last_choice(service.site)
    assert last.arguments == "org/name --hf-token  *** --seed 1"
    assert not choose(service.site, last).changed
    assert service.store["modelSelection"]["customArgs"] == line
    service.put({"serveArgs": ["org/name", f"--hf-token={TOKEN}"]})
    assert TOKEN not in last_choice(service.site).arguments
    choose(service.site, last_choice(service.site))
    assert service.store["serveArgs"] == ["org/name", f"--hf-token={TOKEN}"]


@pytest.mark.parametrize("text", ["{}", '{"broken', '{"serveArgs": []}'])
def test_no_last_choice(service, text):
    service.put(text)
    assert last_choice(service.site) == Choice("", token=None)


def test_what_is_offered_names_what_is_wrong(service):
    (service.config.data / "presets.json").write_text("{")
    offers, problems = offered(service.site, service.site.detect())
    assert len(offers) == 9
    assert [problem.code for problem in problems] == ["FileNotJson"]


# --- anything at all ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"))
    choose(service.site, custom("org/first", PROXY, token=TOKEN))
    return service


PIECES = st.sampled_from(
    [
        "org/name",
        "--seed",
        "--model",
        "--max-model-len",
        "'",
        '"',
        "\\",
        " ",
        "\n",
        "\0",
        "$(",
        "`",
        "=",
        "\u202e",
        "--",
    ]
)
LINES = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)
NAMES = st.sampled_from(["A", "HF_TOKEN", "HTTPS_PROXY", "VLLM_API_KEY", "CUDA_VISIBLE_DEVICES"]) | st.text(max_size=5)
VALUES = st.sampled_from(["***", "1", TOKEN]) | st.text(max_size=5)
VARIABLES = st.lists(st.tuples(NAMES, VALUES), max_size=3).map(tuple)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(LINES, VARIABLES, st.none() | VALUES, st.booleans())
def test_whatever_is_chosen_is_written_whole_or_refused_without_a_trace(one, line, variables, token, keep):
    before = one.files()
    choice = Choice(CUSTOM, line, variables, token, keep)
    try:
        done = choose(one.site, choice)
    except Rejected as refusal:
        said = [problem.document()["message"] for problem in refusal.problems]
        done = None
    if done is None:
        assert said
        assert one.files() == before
    else:
        assert one.store["serveArgs"] == list(done.prepared.arguments)
        assert one.store["modelSelection"]["customArgs"] == line
        assert done.changed == (one.files() != before)
        assert not choose(one.site, choice).changed
