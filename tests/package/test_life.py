"""The package as StartOS drives it, with the real controller inside; the engine is the rude fake, or the real one."""

import json
import os
import re
import shutil
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.s9pk import PATIENCE, PROJECT, SOURCE, StartOS
from vllm_fsm.messages import ENGLISH

VERSION = tomllib.loads((PROJECT / "vllm" / "version.toml").read_text())["vllm"]["version"]
CHANGES = int(os.environ.get("VLLM_FSM_TEST_CHANGES", "30"))
KEY = re.compile(r"[A-Za-z0-9]{22}")
TASK = {
    "vllm:set-model": {
        "reason": "Select which AI model vLLM should serve",
        "actionId": "set-model",
        "packageId": "vllm",
        "severity": "critical",
        "replayId": "vllm:set-model",
    }
}
STARTING = ["starting", "The controller is starting."]
NOT_STARTING = ["failure", "The controller does not start. Check the service logs for errors."]
"""What it becomes half a minute after the start."""
NO_NEXT = ["disabled", "No other model is being downloaded."]


def problem(id_, **params):
    return {"field": None, "code": id_, "message": "told by the package", "params": params, "position": None}


def field(id_, choices=None):
    return {"id": id_, "default": None, "value": None, "choices": choices}


SPREAD = problem("PresetSpread", devices=2)
REFUSED = {"disabledReason": "told by the package", "disabledCode": "PresetNeedsGpu", "disabledParams": {}}
FREE = dict.fromkeys(("disabledReason", "disabledCode", "disabledParams"))
PRESETS = [
    {"id": "plain", "label": "Plain", **FREE, "context": 4096, "devices": 1, "note": None},
    {"id": "spread", "label": "Spread", **FREE, "context": 4096, "devices": 2, "note": SPREAD},
    {"id": "refused", "label": "Refused", **REFUSED, "context": None, "devices": 2, "note": SPREAD},
    {"id": "custom", "label": "Custom arguments", **FREE},
]
SAID = {
    "form set-model": {
        "fields": [field("selection", PRESETS), field("customArgs"), field("customEnv"), field("hfToken")],
        "notes": [],
    },
    "form delete-model-cache": {
        "fields": [
            field("model", [{"id": "tiny", "label": "tiny", **FREE, "size": 1_500_000_000, "state": None}]),
            field("force"),
        ],
        "notes": [problem("VolumeFull")],
    },
    "run delete-model-cache": {"ok": True, "result": {"freed": 1_500_000_000, "notes": [problem("VolumeFull")]}},
}
"""What a controller says on machines and volumes that there are none of here."""


# --- the lives, side by side -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waiting(package, tmp_path_factory):
    """The package with a controller that prints what it is given, and has answers ready to some questions."""
    place = tmp_path_factory.mktemp("waiting") / "package"
    shutil.copytree(package, place)
    program = place / "assets" / "vllm-fsm"
    answers = "\n".join(f"'{words}') echo '{json.dumps(answer)}' ;;" for words, answer in SAID.items())
    program.write_text(f"""#!/bin/sh
[ "$1" = run ] && while read -r line < /data/said; do echo "$line" >&2; done
case "$2 $3" in
{answers}
*) exit 1 ;;
esac
""")
    return place


@pytest.fixture(scope="module")
def lives(request, package, waiting, tmp_path_factory):
    """Those that the chosen tests look at, begun together: each has namespaces of its own, and mostly waits."""

    def live(package, name, scenario, **options):
        startos = StartOS(package, tmp_path_factory.mktemp(name), real=name == "real_life")
        return lambda: (startos, startos.live(scenario, **options))

    asked = {name for item in request.session.items for name in item.fixturenames}
    begun = {
        "real_life": live(package, "real_life", "real_life"),
        "first_run": live(package, "first_run", "first_run"),
        "changes": live(package, "changes", "changes", words=[str(CHANGES)], limit=PATIENCE + 20 * CHANGES),
        "mishaps": live(package, "mishaps", "mishaps"),
        "unfit": live(package, "unfit", "unfit"),
        "hearsay": live(waiting, "hearsay", "hearsay"),
        "german": live(waiting, "german", "hearsay", locale="de_DE.UTF-8"),
    }
    with ThreadPoolExecutor(len(begun)) as pool:
        yield {name: pool.submit(life) for name, life in begun.items() if name in asked}


def life(name):
    """A fixture: what that life has found out."""

    @pytest.fixture(scope="module", name=name)
    def found(lives):
        return lives[name].result()[1]

    return found


real_life, first_run, changes = life("real_life"), life("first_run"), life("changes")
mishaps, unfit, hearsay, german = life("mishaps"), life("unfit"), life("hearsay"), life("german")


# --- from the installation on ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restored(lives, first_run):
    startos, _ = lives["first_run"].result()
    shutil.rmtree(startos.volumes)
    return startos.live("restored")


def test_there_is_a_key_before_the_first_start(first_run):
    assert KEY.fullmatch(first_run["key"]["apiKey"])


def test_a_model_has_to_be_chosen_before_it_starts(first_run):
    assert first_run["tasks"] == TASK
    assert first_run["startWithoutModel"] is False
    assert first_run["tasksAfterwards"] == {}
    assert first_run["started"] is True


def test_the_api_is_an_interface(first_run):
    ((id_, interface),) = first_run["interfaces"].items()
    assert (id_, interface["type"], interface["masked"]) == ("api", "api", False)
    assert interface["addressInfo"]["hostId"] == "api-multi"
    assert interface["addressInfo"]["internalPort"] == 8000
    assert [(binding["id"], binding["internalPort"]) for binding in first_run["bindings"]] == [("api-multi", 8000)]


def test_the_actions_can_be_run_in_every_state_by_the_user_only(first_run):
    actions = first_run["actions"]
    assert {id_: action["name"] for id_, action in actions.items()} == {
        "set-model": "Set Model",
        "get-api-credentials": "Get API Key",
        "rotate-api-key": "Rotate API Key",
        "delete-model-cache": "Delete Model Cache",
    }
    assert {action["allowedStatuses"] for action in actions.values()} == {"any"}
    assert {action["visibility"] for action in actions.values()} == {"enabled"}
    assert {action.get("access", "user") for action in actions.values()} == {"user"}
    assert {id_ for id_, action in actions.items() if action["warning"]} == {"rotate-api-key", "delete-model-cache"}


def test_what_does_not_fit_is_shown_with_its_reason_and_cannot_be_chosen(first_run):
    model = first_run["form"]["spec"]["model"]
    presets = set(model["variants"]) - {"custom"}
    assert len(presets) == 9
    assert set(model["disabled"]) == presets
    assert {model["variants"][id_]["name"].partition(": ")[2] for id_ in presets} == {ENGLISH["PresetNeedsGpu"]}
    assert model["default"] == "custom"
    assert first_run["form"]["spec"]["hfToken"]["masked"] is True


def test_what_is_wrong_is_said_with_its_place_and_changes_nothing(first_run):
    quote, flag, nothing = first_run["refusals"]
    assert quote.startswith('Error: Arguments: The quote " at character 6 is not closed')
    assert flag.startswith('Error: Arguments, character 6: vLLM has no flag "--max-modl-len"; perhaps --max-model-len')
    assert "There are no arguments" in nothing
    assert first_run["storeAfterRefusals"] is None


def test_a_choice_is_stored_by_the_controller(first_run):
    assert first_run["store"]["serveArgs"] == ["tiny", "--max-model-len", "4096"]
    assert first_run["store"]["modelSelection"]["selection"] == "custom"
    assert {"name": "HF_TOKEN", "value": "hf_abcdefgh"} in first_run["store"]["serveEnv"]
    assert "takes over by itself" in first_run["chosen"]["message"]


def test_the_form_comes_back_filled_in_and_means_the_same(first_run):
    filled = first_run["prefilled"]
    assert filled["model"]["selection"] == "custom"
    assert filled["model"]["value"]["customArgs"] == "tiny --max-model-len 4096"
    assert filled["hfToken"] == "***"
    assert first_run["again"]["message"] == "The choice is the same as before. Nothing was changed."
    assert first_run["attemptAfterTheSame"] == 1


def test_it_is_ready_when_the_controller_says_so(first_run):
    assert first_run["ready"] == ENGLISH["Ready"]
    assert first_run["next"] == NO_NEXT[1]


def test_the_engine_inherits_nothing_of_ours(first_run):
    engine = first_run["engine"]
    assert engine["environ"]["VLLM_API_KEY"] == first_run["key"]["apiKey"]
    assert first_run["key"]["apiKey"] not in engine["argv"]
    assert [name for name in engine["environ"] if name.startswith("VLLM_FSM_") or name == "PYTHONPATH"] == []


def test_the_key_is_shown_masked_and_can_be_copied(first_run):
    access = first_run["access"]
    key = access["result"]["value"][0]
    assert (key["value"], key["masked"], key["copyable"], key["qr"]) == (first_run["key"]["apiKey"], True, True, False)
    assert "/v1" in access["message"]
    assert len(access["result"]["value"]) == 1  # this machine has said of no way to the service


def test_base_urls_are_the_ways_that_clients_have(first_run):
    """Neither the bridge between services nor localhost, and of public addresses the one that was switched on."""
    hosts = ("192.168.1.20", "adjective-noun.local", "[fd00::20]")
    plain, secure = (
        [f"{scheme}://{host}:{port}/v1" for host in hosts] for scheme, port in (("http", 49152), ("https", 49153))
    )
    assert sorted(first_run["addresses"]) == sorted(
        [
            *plain,
            *secure,
            "https://198.51.100.9:49153/v1",
            "http://llm.example.org:442/v1",
            "https://llm.example.org/v1",
        ]
    )


def test_the_controller_follows_the_files_and_nothing_restarts_it(first_run):
    assert first_run["restarts"] == []
    # One per start of the service, of which there were three, and one after the crash.
    assert len(first_run["daemons"]) == 4
    assert first_run["daemons"][0][:3] == ["sh", "/opt/vllm-fsm/vllm-fsm", "run"]
    assert KEY.fullmatch(first_run["newKey"]["apiKey"])
    assert first_run["newKey"] != first_run["key"]
    assert first_run["readyAgain"] == ENGLISH["Ready"]


def test_a_broken_selection_is_named_and_set_model_repairs_it(first_run):
    assert first_run["broken"].startswith("The vLLM API is ready. Ignoring /data/store.json: not valid JSON")
    assert first_run["tasksWhileBroken"] == {}
    assert "store.json.broken-" in first_run["repaired"]["message"]


def test_a_broken_key_is_named_and_the_action_that_is_named_with_it_repairs_it(first_run):
    assert "Ignoring /public/credentials.json" in first_run["keyBroken"]
    assert ENGLISH["KeyRotatable"] in first_run["keyRefused"]
    key = first_run["rotatedKey"]["apiKey"]
    assert KEY.fullmatch(key)
    assert key not in (first_run["key"]["apiKey"], first_run["newKey"]["apiKey"])
    rotated = first_run["rotated"]
    assert rotated["result"]["value"][0]["value"] == key
    assert "credentials.json.broken-" in rotated["message"]


def test_a_service_that_comes_up_says_how_far_it_is(first_run):
    assert [result for result, _ in first_run["comingUp"]] in (
        ["starting", "starting", "loading", "success"],
        ["starting", "loading", "success"],
        ["starting", "starting", "success"],
        ["starting", "success"],
    )
    assert first_run["comingUp"][-1] == ["success", ENGLISH["Ready"]]


def test_nothing_is_a_success_unless_the_controller_says_so(first_run):
    assert first_run["unfounded"] == []
    assert first_run["healthWhenStopped"] == {}


def test_a_crash_is_a_failure_until_a_controller_says_ready(first_run):
    assert "The controller has ended" in first_run["crashed"] or "daemon crashed" in first_run["crashed"]
    assert first_run["recovered"] == ENGLISH["Ready"]


def test_an_installation_asks_the_host_for_this_and_nothing_else(first_run):
    """In StartOS's order: what is there, what it offers, what it depends on, actions, then tasks."""
    container = {"imageId": "vllm", "name": "run-get-api-credentials"}
    interface = first_run["interfaces"]["api"]
    (binding,) = first_run["bindings"]
    exports = [["action.export", {"id": id_, "metadata": metadata}] for id_, metadata in first_run["actions"].items()]
    assert first_run["installing"] == [
        ["get-data-version", {}],
        ["set-data-version", {"version": f"{VERSION}:0"}],
        ["bind", binding],
        ["export-service-interface", interface],
        ["clear-bindings", {"except": [{"id": "api-multi", "internalPort": 8000}]}],
        ["clear-service-interfaces", {"except": ["api"]}],
        ["set-dependencies", {"dependencies": []}],
        *exports,
        ["action.clear", {"except": list(first_run["actions"])}],
        ["subcontainer.create-fs", container],
        ["subcontainer.destroy-fs", {}],
        ["action.create-task", TASK["vllm:set-model"]],
        ["set-init-progress", {"progress": {"overall": True, "phases": []}}],
    ]
    assert binding == {
        "id": "api-multi",
        "internalPort": 8000,
        "preferredExternalPort": 80,
        "secure": None,
        "addSsl": {
            "addXForwardedHeaders": True,
            "preferredExternalPort": 443,
            "scheme": "https",
            "alpn": {"specified": ["http/1.1"]},
            "auth": None,
        },
    }
    words = {"allowedStatuses", "description", "group", "hasInput", "name", "visibility", "warning"}
    assert [set(metadata) for metadata in first_run["actions"].values()] == [words] * 4


def test_a_life_asks_the_host_for_nothing_that_the_rules_do_not_know(first_run):
    """Every call with every argument: what is not listed here is a surprise."""
    containers = {f"{verb}-{id_}" for id_ in first_run["actions"] for verb in ("form", "run")} | {"vllm"}
    names = {"primary": "vLLM API", "download": "Next model"}
    rest = [call for call in first_run["calls"] if call not in first_run["installing"]]
    for method, params in rest:
        match method:
            case "subcontainer.create-fs":
                assert set(params) == {"imageId", "name"}
                assert params["imageId"] == "vllm"
                assert params["name"] in containers
            case "set-health":
                assert set(params) == {"id", "name", "result", "message"}
                assert params["name"] == names[params["id"]]
                assert params["result"] in {"starting", "loading", "success", "failure", "disabled"}
                assert params["message"] or params["result"] in ("starting", "success")
            case "action.clear-tasks":
                assert params == {"only": ["vllm:set-model"]}
            case "get-host-info":
                assert params == {"hostId": "api-multi", "callback": None}
            case "set-backup-progress":
                phases = [phase["name"] for phase in params["progress"]["phases"]]
                assert phases == [f"rsync:/media/startos/backup/volumes/{volume}/" for volume in ("main", "public")]
            case "set-data-version":
                assert params == {"version": None}
            case _:
                raise AssertionError(f"{method} {params}")
    assert first_run["errors"] == []


def test_containers_get_the_volumes_and_the_controller_and_nothing_else(first_run):
    assert {(source.rstrip("/"), target.partition("/rootfs")[2]) for source, target in first_run["mounts"]} == {
        ("/media/startos/volumes/main", "/data"),
        ("/media/startos/volumes/public", "/public"),
        ("/media/startos/assets", "/opt/vllm-fsm"),
    }


def test_a_model_in_use_is_not_deleted_and_another_is(first_run):
    assert first_run["models"]["spec"]["model"]["values"] == {"tiny": "tiny, 0.000 GB, is served"}
    assert first_run["deletion"].startswith(
        "Error: Cached Model: tiny was not deleted: it is selected or being served."
    )
    assert first_run["deleted"]["message"].startswith("tiny was deleted")


def test_clearing_the_selection_brings_the_task_back(first_run):
    assert first_run["tasksWhenCleared"] == TASK


def test_a_failure_is_shown_at_once_and_stopping_does_not_wait(first_run):
    assert first_run["startedAgain"] is True
    assert "./none" in first_run["servedAgain"]
    assert first_run["stopping"] < 20.0


def test_no_secret_is_logged(first_run):
    log = "\n".join(first_run["logged"])
    assert "started" in log
    calls = json.dumps(first_run["calls"])
    keys = [first_run[name]["apiKey"] for name in ("key", "newKey", "rotatedKey")]
    for secret in (*keys, "hf_abcdefgh"):
        assert secret not in log
        assert secret not in calls


def test_a_restore_needs_no_key_no_choice_and_no_download(restored, first_run):
    assert restored["key"] == first_run["rotatedKey"]
    assert restored["tasks"] == {}
    assert restored["started"] is True
    assert restored["ready"] == ENGLISH["Ready"]


def test_what_is_made_anew_is_not_in_a_backup(restored):
    assert "models" in restored["volume"]
    assert not {"cache", ".vllm-fsm"} & set(restored["volume"])


def test_no_change_is_lost(changes):
    """Many in a row, each of which the controller has to follow without being told."""
    median = changes["took"][CHANGES // 2]
    print(f"{CHANGES} changes, {len(changes['lost'])} lost; Set Model's answer → in force: median {median:.3f} s")
    assert changes["lost"] == []
    assert changes["restarts"] == []
    assert len(changes["took"]) == CHANGES
    assert median < 5.0  # a fraction of a second on a machine that is not busy
    assert changes["ready"] == ENGLISH["Ready"]


# --- the real vLLM ------------------------------------------------------------------------------------------------


def test_the_real_engine_comes_up_and_generates(real_life):
    assert real_life["started"] is True
    assert real_life["ready"] == ENGLISH["Ready"]
    assert real_life["unfounded"] == []
    assert real_life["refused"] == 401
    assert real_life["completion"]["model"] == "tiny"
    assert real_life["completion"]["usage"]["completion_tokens"] == 8


def test_the_real_engine_ends_with_the_service(real_life):
    """In order, and nothing of it is left in its container."""
    assert real_life["stopping"] < 60.0
    assert len(real_life["running"]) >= 3
    assert real_life["left"] == []


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_broken_files_keep_nothing_from_starting(mishaps):
    """Nothing can be known of what is selected: it starts, and says so."""
    assert mishaps["tasks"] == {}
    assert mishaps["started"] is True
    assert "Ignoring /data/store.json: not valid JSON at line 1" in mishaps["broken"]
    replaced = "The vLLM API is ready. /public/credentials.json could not be used and is kept as "
    assert mishaps["ready"].startswith(replaced)


def test_a_killed_controller_is_noticed_at_the_next_look(mishaps):
    assert mishaps["noticed"] < 8.0  # by the heartbeat alone, 15 s
    assert mishaps["afterKill"][0] == "failure"
    # After the first look that knew of it, none says success before the new controller does.
    first = mishaps["afterKill"].index("success")
    assert set(mishaps["afterKill"][:first]) <= {"failure", "starting", "loading"}
    assert mishaps["back"] == ENGLISH["Ready"]


def test_a_controller_that_hangs_is_told_from_a_quiet_one(mishaps):
    assert re.fullmatch(
        r"The controller has not been heard of for (1[5-9]|2\d) s\. Restart the service\.", mishaps["stuck"]
    )
    assert (
        mishaps["setBack"] == "The controller has not been heard of since the clock was set back. Restart the service."
    )
    assert mishaps["awake"] == ENGLISH["Ready"]


def test_an_engine_that_ends_is_named_with_its_status(mishaps):
    assert "exit status 3" in mishaps["ended"]


@pytest.mark.parametrize(
    ("life", "said"),
    [
        ("noEngine", "vllm-fsm: there is no vllm on PATH in this image"),
        ("otherEngine", "vllm-fsm: the first line of /usr/local/bin/vllm names no Python interpreter"),
        ("noDirectory", "vllm-fsm: "),
        ("readOnly", "vllm-fsm: "),
    ],
)
def test_what_keeps_the_controller_from_running_is_shown(unfit, life, said):
    """StartOS has the service started; its health names what is wrong, in the words of whoever noticed."""
    started, shown = unfit[life]
    assert started is True
    assert shown.startswith(f"The controller has ended ({said}")
    assert shown.endswith("). It is being started again.")


def test_what_was_repaired_starts(unfit):
    assert unfit["started"] is True
    assert unfit["repaired"] == ENGLISH["Ready"]


# --- what is shown of a report -----------------------------------------------------------------------------------


def test_no_installation_fails_for_want_of_a_controller(hearsay):
    assert hearsay["started"] is True
    assert any("The controller gave no answer" in line for line in hearsay["logged"])


@pytest.mark.parametrize("report", ["fromAnEarlierRun", "anotherBoot", "null"])
def test_what_another_life_said_is_no_success(hearsay, report):
    assert hearsay[report]["primary"] in (STARTING, NOT_STARTING)
    assert hearsay[report]["download"] == NO_NEXT


def test_a_report_is_shown_with_all_its_sentences(hearsay):
    ready = "The vLLM API is ready. The argument --port is reserved for the service and was left out."
    assert hearsay["ready"] == {"primary": ["success", ready], "download": NO_NEXT}
    assert hearsay["failed"]["primary"] == ["failure", ENGLISH["StartupTimeout"].format(minutes=35)]


def test_a_line_of_a_controller_that_beats_is_not_its_end(hearsay):
    """Where the kernel's list does not show the lock."""
    assert hearsay["stray"]["primary"] == hearsay["strayAndHeard"]["primary"] == ["success", ENGLISH["Ready"]]
    ended = "The controller has ended (a stray line). It is being started again."
    assert hearsay["strayAndSilent"]["primary"] == ["failure", ended]


def test_the_download_of_the_next_model_has_a_check_of_its_own(hearsay):
    told = ENGLISH["ReadyNextTime"].format(repo="org/next", percent=43, minutes=6)
    assert hearsay["next"] == {"primary": ["success", told], "download": ["loading", told]}
    assert hearsay["loading"]["primary"] == ["loading", f"Downloading org/1. {ENGLISH['Loading']}"]
    assert hearsay["loading"]["download"] == NO_NEXT


def test_a_result_that_is_not_known_is_no_success(hearsay):
    assert hearsay["unknown"]["primary"][0] == "failure"


def test_silence_is_a_failure(hearsay):
    assert re.search(r"not been heard of for (1[6-9]|2\d) s", hearsay["old"]["primary"][1])
    assert hearsay["old"]["primary"][0] == "failure"


@pytest.mark.parametrize("place", ["nonsense", "pipe", "directory"])
def test_what_cannot_be_read_is_said_and_holds_nobody_up(hearsay, place):
    result, message = hearsay[place]["primary"]
    assert result == "failure"
    assert message.startswith("The state of the service cannot be read (")
    assert hearsay["stopping"] < 20.0


def test_people_read_their_own_language(german):
    sentences = json.loads((SOURCE / "startos" / "i18n" / "controller" / "de_DE.json").read_text())
    assert german["failed"]["primary"] == ["failure", sentences["StartupTimeout"].format(minutes=35)]
    assert german["ready"]["primary"][1].startswith(sentences["Ready"] + ". ")
    assert german["fromAnEarlierRun"] == {
        "primary": ["starting", "Die Steuerung startet."],
        "download": ["disabled", "Es wird kein weiteres Modell heruntergeladen."],
    }


@pytest.mark.parametrize(("life", "locale"), [("hearsay", "en_US"), ("german", "de_DE")])
def test_what_should_be_known_of_a_choice_stands_with_it(hearsay, german, life, locale):
    told = {"hearsay": hearsay, "german": german}[life]
    sentences = json.loads((SOURCE / "startos" / "i18n" / "controller" / f"{locale}.json").read_text())
    names = {id_: variant["name"] for id_, variant in told["form"]["spec"]["model"]["variants"].items()}
    assert names["plain"] == "Plain"
    assert names["spread"] == "Spread: " + sentences["PresetSpread"].format(devices=2)
    assert names["refused"] == "Refused: " + sentences["PresetNeedsGpu"]
    assert told["form"]["spec"]["model"]["disabled"] == ["refused"]


def test_a_deletion_is_told_with_what_the_controller_adds(hearsay):
    assert hearsay["cached"]["spec"]["model"]["warning"] == ENGLISH["VolumeFull"]
    assert hearsay["deleted"]["message"] == f"tiny was deleted: 1.5 GB are free again. {ENGLISH['VolumeFull']}"
