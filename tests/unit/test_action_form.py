"""The machine form: lists, forms and results as `docs/actions.md` has them, and every wrong input refused in words."""

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vllm_fsm.cli.action
from support import hub_cache
from support.site import Service
from vllm_fsm.actions.form import ACTIONS
from vllm_fsm.actions.selection import fixed
from vllm_fsm.cli import main

TOKEN = "hf_" + "aB3" * 11
PAGE = Path(__file__).parents[2] / "docs" / "actions.md"


class Stage:
    """Runs `vllm-fsm action` on a service."""

    def __init__(self, service, monkeypatch, capsysbinary):
        self.service = service
        self._monkeypatch = monkeypatch
        self._capsys = capsysbinary
        monkeypatch.setattr(vllm_fsm.cli.action, "site", lambda _: service.site)

    def __call__(self, *words):
        self.code = main(["action", *words])
        said = self._capsys.readouterr()
        assert said.err == b""
        return json.loads(said.out)

    def run(self, id_, **fields):
        return self("run", id_, "--input", json.dumps(fields))

    def refused(self, *words):
        before = self.service.files()
        answer = self(*words)
        assert (self.code, answer["ok"]) == (2, False)
        assert self.service.files() == before
        return [(error["field"], error["code"], error["position"]) for error in answer["errors"]]

    def given(self, content):
        stdin = io.TextIOWrapper(io.BytesIO(content))
        self._monkeypatch.setattr("sys.stdin", stdin)
        return ("run", "set-model", "--input", "-")


@pytest.fixture
def action(tmp_path, monkeypatch, capsysbinary):
    return Stage(Service(tmp_path), monkeypatch, capsysbinary)


def fields(form):
    return {field["id"]: field for field in form["fields"]}


def test_the_list(action):
    listed = action("list")["actions"]
    assert [one["id"] for one in listed] == [one.id for one in ACTIONS]
    assert all(set(one) == {"id", "name", "description"} for one in listed)
    assert action.service.looked == 0


def test_the_form_of_set_model(action):
    form = action("form", "set-model")
    assert action.code == 0
    assert list(form) == ["fields", "notes"]
    assert [(field["id"], field["type"]) for field in form["fields"]] == [
        ("selection", "choice"),
        ("customArgs", "text"),
        ("customEnv", "variables"),
        ("hfToken", "secret"),
    ]
    assert all(list(field) == ["id", "type", "default", "value", "choices"] for field in form["fields"])
    selection = fields(form)["selection"]
    assert (selection["default"], selection["value"]) == ("qwen3-30b-a3b", None)
    choices = {choice["id"]: choice for choice in selection["choices"]}
    assert len(choices) == 10
    assert choices["custom"]["disabledReason"] is None
    assert choices["qwen3-30b-a3b"]["disabledReason"] is None
    assert choices["llama-33-70b"] == {
        "id": "llama-33-70b",
        "label": "Llama 3.3 70B Instruct",
        "disabledReason": "Needs 44 GiB, has 24.",
        "disabledCode": "PresetNeedsMemory",
        "disabledParams": {"needs": 44, "has": 24},
        "context": None,
        "devices": 1,
        "note": None,
    }
    fits = choices["qwen3-30b-a3b"]
    assert (fits["context"], fits["devices"], fits["note"]) == (32768, 1, None)
    assert action.service.looked == 1


def test_a_preset_that_was_not_tried_on_hardware_is_marked(action):
    action.service.machine = "rtx4090-x2"
    choices = fields(action("form", "set-model"))["selection"]["choices"]
    spread = next(choice for choice in choices if choice["id"] == "qwen36-27b")
    assert (spread["disabledReason"], spread["devices"], spread["note"]["code"]) == (None, 2, "PresetSpread")
    assert "not tried on hardware" in spread["note"]["message"]


def test_the_last_choice_fills_the_form_and_its_values_are_the_same_choice(action):
    variables = [{"name": "A", "value": "1"}, {"name": "HTTPS_PROXY", "value": "http://me:secret-word@p:1"}]
    action.run("set-model", selection="custom", customArgs="org/name --seed 1", customEnv=variables, hfToken=TOKEN)
    form = action("form", "set-model")
    assert TOKEN not in json.dumps(form)
    assert "secret-word" not in json.dumps(form)
    values = {id_: field["value"] for id_, field in fields(form).items()}
    assert values == {
        "selection": "custom",
        "customArgs": "org/name --seed 1",
        "customEnv": [{"name": "A", "value": "1"}, {"name": "HTTPS_PROXY", "value": "***"}],
        "hfToken": "***",
    }
    assert action.run("set-model", **values)["result"]["changed"] is False


def test_a_preset_ignores_the_fields_of_custom_arguments(action):
    answer = action.run(
        "set-model", selection="qwen3-30b-a3b", customArgs="'", customEnv=[{"name": "A", "value": "1"}], hfToken=TOKEN
    )
    assert answer["result"]["serveEnv"] == ["CUDA_VISIBLE_DEVICES", "HF_TOKEN"]
    assert fields(action("form", "set-model"))["selection"]["value"] == "qwen3-30b-a3b"


def test_a_list_that_comes_back_is_all_there_is_to_be(action):
    proxy = {"name": "NO_PROXY", "value": "a"}
    action.run("set-model", selection="custom", customArgs="m", customEnv=[proxy], hfToken=TOKEN)
    assert action.run("set-model", selection="custom", customArgs="m")["result"]["serveEnv"] == ["NO_PROXY", "HF_TOKEN"]
    action.run("set-model", selection="custom", customArgs="m", customEnv=[], hfToken=None)
    assert "serveEnv" not in action.service.store


def test_the_result_of_set_model(action):
    answer = action.run("set-model", selection="custom", customArgs=f"org/name --hf-token {TOKEN}")
    assert action.code == 0
    assert answer == {
        "ok": True,
        "result": {
            "changed": True,
            "retried": False,
            "dryRun": False,
            "serveArgs": ["org/name", "--hf-token", "***"],
            "serveEnv": [],
            "notes": answer["result"]["notes"],
            "aside": None,
        },
    }


def test_a_token_among_the_arguments_is_in_no_form(action):
    answer = action.run("set-model", selection="custom", customArgs=f"org/name --hf-token {TOKEN}")
    assert [note["code"] for note in answer["result"]["notes"]] == ["SecretInArguments"]
    form = action("form", "set-model")
    assert TOKEN not in json.dumps(form)
    values = {id_: field["value"] for id_, field in fields(form).items()}
    assert action.run("set-model", **values)["result"]["changed"] is False


def test_a_vanished_preset_is_no_value(action):
    action.service.put({"modelSelection": {"selection": "gone"}})
    assert fields(action("form", "set-model"))["selection"]["value"] is None


def test_the_form_of_a_broken_store_is_empty(action):
    action.service.put('{"broken')
    assert fields(action("form", "set-model"))["customArgs"]["value"] == ""


def test_a_driver_that_does_not_answer_is_noted(action):
    from dataclasses import replace

    from support import machines
    from vllm_fsm.core.snapshot import Message

    known = machines.load("rtx4090-rtx3060").machine()
    silent = replace(known, tier=None, count=0, complete=False, notes=(Message.of("NvmlHangs"),))
    action.service.site = replace(action.service.site, detect=lambda: silent)
    form = action("form", "set-model")
    assert [note["code"] for note in form["notes"]] == ["NvmlHangs"]
    selection = fields(form)["selection"]
    assert (selection["default"], selection["choices"][0]["disabledCode"]) == ("custom", "PresetHardwareUnknown")
    assert action.refused("run", "set-model", "--input", '{"selection": "qwen3-30b-a3b"}') == [
        ("selection", "PresetHardwareUnknown", None),
        (None, "NvmlHangs", None),
        ("selection", "PresetNotOffered", None),
    ]


@pytest.mark.parametrize("id_", ["get-api-credentials", "get-api-key"])
def test_the_key(action, id_):
    assert action("form", id_) == {"fields": [], "notes": []}
    (action.service.config.public / "credentials.json").write_text('{"apiKey": "sk-key"}')
    values = action.run(id_)["result"]["values"]
    assert values == [
        {"id": "apiKey", "value": "sk-key", "masked": True, "copyable": True},
        {"id": "baseUrl", "value": "http://localhost:8000/v1", "masked": False, "copyable": True},
    ]
    new = action.run("rotate-api-key")["result"]["values"][0]["value"]
    assert action.run(id_)["result"]["values"][0]["value"] == new != "sk-key"


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("", [("input", "InputEmpty", None)]),
        ("{", [("input", "InputNotJson", 1)]),
        ('{\n "selection":\n x}', [("input", "InputNotJson", 17)]),
        ("[]", [("input", "InputWrongShape", None)]),
        ("{}", [("selection", "InputFieldMissing", None)]),
        ('{"selection": null}', [("selection", "InputWrongShape", None)]),
        ('{"selection": 1}', [("selection", "InputWrongShape", None)]),
        ('{"selection": "custom", "customArgs": ["m"]}', [("customArgs", "InputWrongShape", None)]),
        ('{"selection": "custom", "customEnv": {"A": 1}}', [("customEnv", "InputWrongShape", None)]),
        ('{"selection": "custom", "customEnv": [1]}', [("customEnv[0]", "InputWrongShape", None)]),
        ('{"selection": "custom", "customEnv": [{"name": "A"}]}', [("customEnv[0].value", "InputFieldMissing", None)]),
        (
            '{"selection": "custom", "customEnv": [{"name": "A", "value": 1}]}',
            [("customEnv[0].value", "InputWrongShape", None)],
        ),
        (
            '{"selection": "custom", "customEnv": [{"name": "A", "value": "1", "x": 1}]}',
            [("customEnv[0]", "FieldUnknown", None)],
        ),
        ('{"selection": "custom", "customArg": "m"}', [("customArg", "FieldUnknown", None)]),
        ('{"selection": "custom", "selection": "x"}', [("input", "InputDuplicateKey", None)]),
        ('{"selection": NaN}', [("input", "InputNotANumber", None)]),
        ('{"selection": 1e999}', [("input", "InputNumberTooLarge", None)]),
        ("{" + '"a":{' * 100 + "}" * 101, [("input", "InputTooDeep", None)]),
        ('{"selection": "\\ud800"}', [("selection", "PresetUnknown", None)]),
        ('{"selection": "custom", "customArgs": ""}', [("customArgs", "ArgumentsMissing", 0)]),
        ('{"selection": "custom", "customArgs": "m \\u0000"}', [("customArgs", "CharacterRefused", 2)]),
        ('{"selection": "nope"}', [("selection", "PresetUnknown", None)]),
    ],
)
def test_wrong_input_is_refused_in_words(action, text, errors):
    assert action.refused("run", "set-model", "--input", text) == errors


def test_input_from_standard_input_has_bounds(action):
    assert action(*action.given(b'{"selection": "custom", "customArgs": "org/name"}'))["ok"]
    assert action.refused(*action.given(b"\xff")) == [("input", "InputNotUtf8", None)]
    assert action.refused(*action.given(b'{"a": "\0"}')) == [("input", "InputHasNul", None)]
    assert action.refused(*action.given(b" " * (1 << 21))) == [("input", "InputTooLarge", 1 << 20)]


def test_an_action_without_fields_takes_none(action):
    assert action.refused("run", "rotate-api-key", "--input", '{"key": "mine"}') == [("key", "NoFields", None)]
    assert action.refused("run", "set-modle") == [("action", "ActionUnknown", None)]
    assert action.refused("form", "set-modle") == [("action", "ActionUnknown", None)]


def test_the_page_names_every_action_and_field(action):
    page = PAGE.read_text()
    for one in ACTIONS:
        assert f"`{one.id}`" in page
        for field in action("form", one.id)["fields"]:
            assert f"`{field['id']}`" in page
        for choice in fields(action("form", one.id)).get("selection", {}).get("choices", ()):
            assert set(choice) <= set(re.findall(r"[`\"](\w+)[`\"]", page))
    result = action.run("set-model", selection="custom", customArgs="m")["result"]
    assert set(result) <= set(re.findall(r"`(\w+)`", page))


# --- Delete Model Cache ------------------------------------------------------------------------------------------


def test_the_form_of_the_cache(action):
    assert fields(action("form", "delete-model-cache"))["model"]["choices"] == []
    models = action.service.config.models
    hub_cache.keep(models, "org/one")
    hub_cache.keep(models, "org/two")
    (models / "models--org--link").symlink_to(action.service.root)
    action.service.put({"serveArgs": ["org/one"]})
    form = fields(action("form", "delete-model-cache"))
    assert form["force"] == {"id": "force", "type": "switch", "default": False, "value": False, "choices": None}
    choices = {choice["id"]: choice for choice in form["model"]["choices"]}
    assert set(choices) == {"org/one", "org/two", "org/link"}
    assert choices["org/one"]["label"] == "org/one, 0.000 GB, selected"
    assert choices["org/one"]["disabledReason"] is None
    assert choices["org/two"]["state"] is None
    assert choices["org/two"]["size"] > 0
    assert choices["org/link"]["disabledCode"] == "ModelLinked"


def test_deleting_a_model(action):
    models = action.service.config.models
    hub_cache.keep(models, "org/one")
    hub_cache.keep(models, "org/two")
    action.service.put({"serveArgs": ["org/one"]})
    assert action.refused("run", "delete-model-cache", "--input", '{"model": "org/one"}') == [
        ("model", "ModelInUse", None)
    ]
    assert action.refused("run", "delete-model-cache", "--input", '{"model": "../data"}') == [
        ("model", "ModelNotCached", None)
    ]
    assert action.refused("run", "delete-model-cache", "--input", '{"model": "org/two", "force": 1}') == [
        ("force", "InputWrongShape", None)
    ]
    action.service.health = {"state": "Failed", "reason": "DiskFull"}
    result = action.run("delete-model-cache", model="org/two")["result"]
    assert (set(result), result["retried"]) == ({"freed", "freeBefore", "freeAfter", "retried", "notes"}, True)
    assert action.run("delete-model-cache", model="org/one", force=True)["ok"]
    assert [path.name for path in models.iterdir() if path.name.startswith("models--")] == []


def test_a_cache_that_cannot_be_read_is_noted(action):
    action.service.config.models.write_text("")
    form = action("form", "delete-model-cache")
    assert [note["code"] for note in form["notes"]] == ["CacheUnreadable"]
    assert fields(form)["model"]["choices"] == []


# --- anything at all ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return Service(tmp_path_factory.mktemp("service"))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("***")
KEYS = st.sampled_from(["selection", "customArgs", "customEnv", "hfToken", "name", "value"]) | st.text(max_size=3)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
LIKELY = st.fixed_dictionaries(
    {"selection": st.sampled_from(["custom", "qwen3-30b-a3b", "llama-33-70b"]) | st.text(max_size=4)},
    optional={
        "customArgs": st.sampled_from(["org/name", "org/name --seed 1", "'"]) | LEAVES,
        "customEnv": st.lists(st.fixed_dictionaries({"name": LEAVES, "value": LEAVES}), max_size=2) | JSON,
        "hfToken": LEAVES,
    },
)
INPUTS = (JSON | LIKELY).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.sampled_from([action.id for action in ACTIONS] + ["nope"]), INPUTS)
def test_whatever_comes_in_an_answer_goes_out(one, monkeypatch, capsysbinary, id_, content):
    with monkeypatch.context() as patch:
        patch.setattr(vllm_fsm.cli.action, "site", lambda _: one.site)
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        before = one.files()
        code = main(["action", "run", id_, "--input", "-"])
    answer = json.loads(capsysbinary.readouterr().out)
    assert code == (0 if answer["ok"] else 2)
    if not answer["ok"]:
        assert answer["errors"]
        assert all(error["message"] and error["code"] for error in answer["errors"])
        assert one.files() == before


# --- a fix -------------------------------------------------------------------------------------------------------


FIX = "fix:--max-model-len=4096"


def failed(service, arguments=("org/name", "--max-model-len", "8k"), environment=(), **fix):
    """Let the store hold these arguments, and the controller say that the engine failed with them."""
    variables = [{"name": name, "value": value} for name, value in environment]
    service.put({"serveArgs": list(arguments), "serveEnv": variables})
    target = {"arguments": list(arguments), "environment": [name for name, _ in environment]}
    change = {"name": "--max-model-len", "value": "4096"} | fix
    service.health = {"state": "Failed", "reason": "ContextTooLong", "target": target, "fix": change}


def test_a_fix_is_the_first_choice_and_can_be_taken(action):
    failed(action.service)
    selection = fields(action("form", "set-model"))["selection"]
    assert selection["choices"][0] == {
        "id": FIX,
        "label": "The same model with --max-model-len 4096, which fits",
        "disabledReason": None,
        "disabledCode": None,
        "disabledParams": None,
        "title": {
            "id": "FixChoice",
            "params": {"change": "--max-model-len 4096"},
            "message": "The same model with --max-model-len 4096, which fits",
        },
        "args": ["org/name", "--max-model-len", "4096"],
    }
    assert selection["value"] == "custom"
    before = action.service.files()
    action("form", "set-model")
    assert action.service.files() == before
    result = action.run("set-model", selection=FIX)["result"]
    assert (result["changed"], result["serveArgs"]) == (True, ["org/name", "--max-model-len", "4096"])
    store = action.service.store
    assert store["serveArgs"] == ["org/name", "--max-model-len", "4096"]
    assert store["modelSelection"] == {"selection": "custom", "customArgs": "org/name --max-model-len 4096"}


def test_a_fix_is_gone_when_the_file_has_changed(action):
    failed(action.service)
    action.service.put({"serveArgs": ["org/other", "--max-model-len", "8k"]})
    assert FIX not in [choice["id"] for choice in fields(action("form", "set-model"))["selection"]["choices"]]
    wanted = json.dumps({"selection": FIX})
    assert action.refused("run", "set-model", "--input", wanted) == [("selection", "FixGone", None)]


def test_another_fix_than_the_one_that_was_shown_is_not_taken(action):
    failed(action.service, value="2048")
    wanted = json.dumps({"selection": FIX})
    assert action.refused("run", "set-model", "--input", wanted) == [("selection", "FixGone", None)]


def test_a_fix_keeps_secrets_and_variables_and_shows_none(action):
    word = "hf_" + "cD4" * 11
    arguments = ["org/name", "--hf-token", "***"]
    failed(action.service, arguments, [("HF_TOKEN", TOKEN), ("Z", "1"), ("A", "b c")])
    action.service.put(
        {
            "serveArgs": ["org/name", "--hf-token", word],
            "serveEnv": [
                {"name": "Z", "value": "1"},
                {"name": "HF_TOKEN", "value": TOKEN},
                {"name": "A", "value": "b c"},
            ],
        }
    )
    action.service.health["target"]["environment"] = ["A", "HF_TOKEN", "Z"]
    form = action("form", "set-model")
    assert fields(form)["selection"]["choices"][0]["id"] == FIX
    answer = action.run("set-model", selection=FIX)
    assert word not in json.dumps([form, answer])
    assert TOKEN not in json.dumps([form, answer])
    store = action.service.store
    assert store["serveArgs"] == ["org/name", "--hf-token", word, "--max-model-len", "4096"]
    assert {one["name"]: one["value"] for one in store["serveEnv"]} == {"A": "b c", "HF_TOKEN": TOKEN, "Z": "1"}


def test_a_fix_of_a_variable(action):
    failed(
        action.service, ("org/name",), (("VLLM_CPU_KVCACHE_SPACE", "900"),), name="VLLM_CPU_KVCACHE_SPACE", value="14"
    )
    choice = fields(action("form", "set-model"))["selection"]["choices"][0]
    assert choice["label"] == "The same model with VLLM_CPU_KVCACHE_SPACE=14, which fits"
    assert action.run("set-model", selection=choice["id"])["result"]["changed"]
    assert action.service.store["serveEnv"] == [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "14"}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
    | st.sampled_from(["--max-model-len", "4096", "9" * 40, "--port", "0"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "value", "arguments", "environment", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(fix=JSON, target=JSON, known=st.booleans())
def test_nothing_in_the_health_file_can_break_the_form(action, fix, target, known):
    service = action.service
    failed(service)
    service.health["fix"] = fix
    if not known:
        service.health["target"] = target
    found = fixed(service.site)
    assert found is None or (known and found.arguments[0] == "org/name" and "--port" not in found.arguments)


def test_a_health_file_without_a_fix_offers_none(action):
    failed(action.service)
    del action.service.health["fix"]
    assert fields(action("form", "set-model"))["selection"]["choices"][0]["id"] == "qwen36-35b-a3b"
