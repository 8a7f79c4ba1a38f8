"""Which repositories an engine start will read."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_fsm.arguments import effective, flag_values, names_served_model
from vllm_fsm.core.snapshot import Secret, Target
from vllm_fsm.weights.hub_cache import RepoFolder
from vllm_fsm.weights.needs import FORMATS, Needs, Repo, Role, local_models, needs

TOKEN = "hf_" + "abcdefghijKLMNOP1234567890"
LOCAL = {"/models/here", "models/here", "here", "./here", "/home/me/lora"}


def of(*arguments: str, environment: Mapping[str, str] | None = None, model: str = "org/m") -> Needs:
    target = Target((model, *arguments), tuple(sorted((environment or {}).items())), Secret("k"), model)
    return needs(target, exists=LOCAL.__contains__)


def others(*arguments: str) -> list[Repo]:
    """What is read besides the model."""
    found = of(*arguments)
    assert (found.unresolved, found.problem) == (None, None)
    assert found.repos[0].id == "org/m"
    return list(found.repos[1:])


def what(found: Needs) -> tuple[object, object]:
    """Of whom, and why the engine fetches by itself."""
    assert found.unresolved is not None
    assert found.unresolved.id == "FetchedByEngine"
    assert found.repos == ()
    params = dict(found.unresolved.params)
    return params["model"], params["what"]


def problem(found: Needs) -> tuple[str, dict[str, object]]:
    assert found.problem is not None
    assert found.problem.permanent
    assert found.repos == ()
    return found.problem.reason, dict(found.problem.message.params)


# --- the model ---------------------------------------------------------------------------------------------------


def test_a_model_of_the_hub() -> None:
    assert of() == Needs((Repo("org/m", "main", Role.MODEL, "auto"),))


@pytest.mark.parametrize("name", ["gpt2", "org/m", "Org-1/M_2.5-x", "_org/m_", "o/" + "m" * 96, "o" * 96 + "/m", "a-b"])
def test_names_of_repositories(name: str) -> None:
    assert of(model=name).repos == (Repo(name),)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b/c",
        "org/",
        "/m",
        "-org/m",
        "org/m-",
        ".org/m",
        "org/m.",
        "org-/m",
        "org/a--b",
        "org/a..b",
        "../m",
        "org/..",
        "o/" + "m" * 97,
        "org/m.git",
        "org/m\n",
        "org/é",
        "org\\m",
        "org/m x",
        "org/m\0",
        "~/m",
        "~nobody/m",
        "./missing",
        "../missing",
        "/models/missing",
        "org/m%2e",
    ],
)
def test_names_of_nothing(name: str) -> None:
    assert problem(of(model=name)) == ("ModelPathMissing", {"path": name})


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_a_local_path_needs_nothing(name: str) -> None:
    assert of(model=name) == Needs()


@pytest.mark.parametrize(
    "arguments",
    [("--ignore-patterns", "x"), ("--load-format", "runai_streamer"), ("--code-revision=x",), ("--revision=..",)],
)
def test_a_local_path_needs_nothing_however_it_is_read(arguments: tuple[str, ...]) -> None:
    assert of(*arguments, model="/models/here", environment={"VLLM_USE_MODELSCOPE": "1"}) == Needs()
    assert what(of("--generation-config", "org/g", model="/models/here")) == ("/models/here", "--generation-config")


def test_a_local_model_with_a_tokenizer_of_the_hub() -> None:
    assert of("--tokenizer", "org/t", model="/models/here").repos == (Repo("org/t", role=Role.PLAIN),)


@pytest.mark.parametrize("name", ["s3://bucket/m", "gs://b/m", "org/m:Q4_K_M", "org/m/file.gguf", "https://x/m"])
def test_what_only_the_engine_can_fetch(name: str) -> None:
    assert what(of(model=name)) == (name, name)


def test_vllm_expands_no_home_directory_of_a_model() -> None:
    """As `Path(model).exists()` says in `transformers_utils/repo_utils.py`."""
    target = Target(("~/here",), (), Secret("k"), "~/here")
    assert problem(needs(target, exists=lambda path: path.startswith("/"))) == ("ModelPathMissing", {"path": "~/here"})


# --- revisions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("--revision", "v1"), ("--revision=v1",), ("--revisio=v1",), ("--revision", "v0", "--revision", "v1")]
)
def test_the_revision_in_all_spellings(arguments: tuple[str, ...]) -> None:
    assert of(*arguments).repos == (Repo("org/m", "v1"),)


@pytest.mark.parametrize("revision", ["refs/pr/1", "c0ffee" + "0" * 34, "v1.0-rc_2", "feature/x"])
def test_names_of_revisions(revision: str) -> None:
    assert of(f"--revision={revision}").repos == (Repo("org/m", revision),)


@pytest.mark.parametrize(
    "revision",
    ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/", "a/./b", ".hidden", "a b", "a\0", "é", "x" * 300],
)
def test_names_of_no_revision(revision: str) -> None:
    assert problem(of(f"--revision={revision}")) == ("RevisionNotFound", {"repo": "org/m", "revision": revision[:100]})


def test_a_tokenizer_of_the_models_revision_is_left_to_the_engine() -> None:
    assert what(of("--tokenizer", "org/t", "--revision", "v1")) == ("org/m", "--tokenizer without --tokenizer-revision")
    assert of("--tokenizer", "/models/here", "--revision", "v1").repos == (Repo("org/m", "v1"),)


# --- further repositories ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tokenizer", "org/t"),
        ("--tokenizer=org/t",),
        ("--tokenizer", "org/x", "--tokenizer", "org/t"),
        ("--tokenizer_mode", "auto", "--tokenizer=org/t"),
        ("--tokenizer=org/t", "--tokenizer-mode", "auto"),
    ],
)
def test_a_tokenizer(arguments: tuple[str, ...]) -> None:
    assert others(*arguments) == [Repo("org/t", "main", Role.PLAIN)]


@pytest.mark.parametrize("flag", ["--tokenizer-revision", "--tokenizer_revision", "--tokenizer-rev"])
def test_a_tokenizers_revision(flag: str) -> None:
    found = of("--tokenizer=org/t", flag, "v2", "--revision", "v1").repos
    assert found == (Repo("org/m", "v1"), Repo("org/t", "v2", Role.PLAIN))


@pytest.mark.parametrize("flag", ["--hf-config-path", "--hf_config_path", "--hf-conf"])
def test_a_configuration_has_the_models_revision(flag: str) -> None:
    assert of(flag, "org/c", "--revision", "v1").repos == (Repo("org/m", "v1"), Repo("org/c", "v1", Role.PLAIN))


DRAFT = json.dumps({"model": "org/d", "num_speculative_tokens": 3})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--speculative-config", DRAFT),
        (f"--speculative-config={DRAFT}",),
        ("--speculative_config", DRAFT),
        ("--specul", DRAFT),
        ("-sc", DRAFT),
        (f"-sc={DRAFT}",),
        ("--speculative-config.model", "org/d"),
        ("--speculative-config.model=org/d",),
        ("--speculative_config.model=org/d", "--speculative-config.num_speculative_tokens", "3"),
        ("-sc.model=org/d",),
        ("-sc.model", '"org/d"'),
        ("--spec-model", "org/d"),
        ("--spec_model=org/d", "--spec-tokens", "3"),
        ("--spec-method", "eagle", "--spec-model", "org/d"),
        ("-sc", '{"method": "eagle3"}', "--spec-model", "org/d"),
    ],
)
def test_a_draft_model(arguments: tuple[str, ...]) -> None:
    assert others(*arguments) == [Repo("org/d", "main", Role.MODEL)]


def test_a_draft_model_without_an_organisation() -> None:
    assert others("-sc", '{"model": "gpt2"}') == [Repo("gpt2")]


def test_a_method_that_is_none() -> None:
    assert others("-sc", '{"model": "org/d", "method": ["ngram"], "revision": 5}') == [Repo("org/d")]
    assert others("-sc", '{"model": "org/d", "method": {}, "draft_load_config": 7}') == [Repo("org/d")]


def test_a_draft_models_own_revision_and_load_format() -> None:
    draft = {"model": "org/d", "revision": "v2", "draft_load_config": {"load_format": "pt"}}
    assert others("-sc", json.dumps(draft)) == [Repo("org/d", "v2", Role.MODEL, "pt")]
    assert others("-sc.model=org/d", "-sc.revision", "v2") == [Repo("org/d", "v2")]
    draft["draft_load_config"] = {"load_format": "tensorizer"}
    assert what(of("-sc", json.dumps(draft)))[0] == "org/d"
    draft["draft_load_config"] = {"load_format": "dummy"}
    assert others("-sc", json.dumps(draft)) == [Repo("org/d", "v2", Role.PLAIN, "dummy")]


@pytest.mark.parametrize(
    "draft",
    [
        {"model": "ngram"},
        {"model": "[ngram]"},
        {"method": "ngram", "model": "org/x"},
        {"method": "ngram_gpu"},
        {"method": "suffix", "model": "suffix"},
        {"method": "extract_hidden_states", "model": "org/x"},
        {"method": "custom_class", "model": "pkg.Proposer"},
        {"model": "pkg.module.Proposer"},
        {"method": "mtp", "num_speculative_tokens": 1},
        {"model": None},
        {"model": 5},
        {},
    ],
)
def test_speculation_without_a_model_of_its_own(draft: dict[str, object]) -> None:
    """As `config/speculative.py` sorts them, `SpeculativeConfig.__post_init__`."""
    assert others("--speculative-config", json.dumps(draft)) == []


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "5", '"org/d"', "[" * 100_000, '{"a":' * 100_000, "\ud800"])
def test_bad_json_names_nothing(text: str) -> None:
    assert others("-sc", text) == []
    assert others("--lora-modules", text) == []
    assert others("--default-mm-loras", text) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--lora-modules", "a=org/l"),
        ("--lora_modules=a=org/l",),
        ("--lora-mod", "a=org/l"),
        ("--lora-modules", '{"name": "a", "path": "org/l", "base_model_name": "org/m"}'),
        ("--lora-modules", "old=org/old", "--lora-modules", "a=org/l"),
        ("--lora-modules", "a=org/l", "b=/models/here", "c=~me/lora", "", "=", "d="),
        ("--lora-modules", "b=here", "--hf-overrides.x", "1", "a=org/l"),
        ("--default-mm-loras", '{"image": "org/l", "audio": "/models/here", "video": 1}'),
        ("--default_mm_loras.image", "org/l"),
    ],
)
def test_adapters(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~me", "/home/me"))
    assert others(*arguments) == [Repo("org/l", "main", Role.ADAPTER)]


def test_several_adapters_each_once() -> None:
    found = others("--lora-modules", "a=org/l", '{"name": "b", "path": "org/k"}', "c=org/l")
    assert [repo.id for repo in found] == ["org/l", "org/k"]


@pytest.mark.parametrize("path", ["/models/missing", "./missing", "~me/missing", "a/b/c"])
def test_an_adapter_that_is_missing(path: str) -> None:
    assert problem(of("--lora-modules", f"a={path}")) == ("ModelPathMissing", {"path": path})


def test_one_repository_in_two_roles() -> None:
    assert others("--tokenizer", "org/m") == [Repo("org/m", role=Role.PLAIN)]


def test_the_value_of_a_json_path_is_no_flag() -> None:
    """`FlexibleArgumentParser` takes whatever stands behind one."""
    assert others("--hf-overrides.x", "--tokenizer=org/t") == []
    assert others("--hf-overrides.x", "--speculative-config.model=org/d") == []
    assert flag_values(["--x.y", "--x.z=1"], "--x.z") is None


# --- what the engine reads in a way of its own -------------------------------------------------------------------


@pytest.mark.parametrize("load_format", FORMATS)
def test_known_load_formats(load_format: str) -> None:
    assert of("--load-format", load_format).repos == (Repo("org/m", load_format=load_format),)
    assert of(f"--load_format={load_format.upper()}").repos == (Repo("org/m", load_format=load_format),)


def test_made_up_weights() -> None:
    draft = of("--load-format=dummy", "-sc", DRAFT)
    assert draft.repos == (
        Repo("org/m", role=Role.PLAIN, load_format="dummy"),
        Repo("org/d", "main", Role.PLAIN, "dummy"),
    )


@pytest.mark.parametrize("load_format", ["runai_streamer", "tensorizer", "sharded_state", "gguf", "modelexpress", "x"])
def test_other_load_formats(load_format: str) -> None:
    assert what(of("--load-format", load_format)) == ("org/m", f"--load-format {load_format}")


@pytest.mark.parametrize("flag", ["--code-revision", "--ignore-patterns", "--model-weights"])
def test_flags_that_are_not_followed(flag: str) -> None:
    assert what(of(flag, "x")) == ("org/m", flag)


def test_a_generation_configuration_of_another_repository() -> None:
    assert what(of("--generation-config", "org/g")) == ("org/m", "--generation-config")
    for value in ("auto", "vllm", "/models/here"):
        assert others("--generation-config", value) == []


@pytest.mark.parametrize("value", ["1", "true", "True", " TRUE "])
def test_modelscope(value: str) -> None:
    assert what(of(environment={"VLLM_USE_MODELSCOPE": value})) == ("org/m", "ModelScope")


@pytest.mark.parametrize("value", ["", "0", "false", "yes", "on"])
def test_no_modelscope(value: str) -> None:
    """`vllm/envs.py` takes `1` and `true` only."""
    assert of(environment={"VLLM_USE_MODELSCOPE": value}).repos == (Repo("org/m"),)


def test_names_that_are_redirected() -> None:
    found = of(environment={"VLLM_MODEL_REDIRECT_PATH": "/etc/redirect.json"})
    assert what(found) == ("org/m", "VLLM_MODEL_REDIRECT_PATH")
    assert of(environment={"VLLM_MODEL_REDIRECT_PATH": ""}).repos == (Repo("org/m"),)


# --- variables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "offline"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "yes"}, True),
        ({"HF_HUB_OFFLINE": "ON"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": "2"}, False),
        ({"HF_HUB_OFFLINE": ""}, False),
        ({"TRANSFORMERS_OFFLINE": "true"}, True),
        ({"TRANSFORMERS_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, False),
        ({"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}, True),
    ],
)
def test_offline_as_huggingface_hub_reads_it(environment: dict[str, str], offline: bool | None) -> None:
    """`_is_true(HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)` in its `constants.py`."""
    assert of(environment=environment).offline is offline


def test_remote_code() -> None:
    assert not of().remote_code
    assert of("--trust-remote-code").remote_code
    assert of("--trust_remote_code").remote_code


# --- secrets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--hf-token", TOKEN), (f"--hf_token={TOKEN}",), ("--hf-tok", TOKEN)])
def test_a_token_is_kept_and_not_shown(arguments: tuple[str, ...]) -> None:
    found = of(*arguments)
    assert found.token == TOKEN
    assert TOKEN not in repr(found) + str(found) + f"{found}"


def test_a_token_from_elsewhere() -> None:
    assert of("--hf-token").token is None
    assert of("--hf-token", "--seed", "1").token is None


# --- whatever comes ----------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("--tokenizer", "--revision", "--tokenizer-revision", "--hf-config-path", "--speculative-config", "-sc"),
        *("--speculative-config.model", "-sc.revision", "--lora-modules", "--default-mm-loras", "--load-format"),
        *("--hf-token", "--trust-remote-code", "--served-model-name", "--spec-model", "--generation-config", "-"),
        *("org/m", "../x", "a=../../x", "~", "~\0/x", "/", "..", ".", "a=b", DRAFT, '{"model": "~\\u0000/x"}', "dummy"),
        *('{"path": "\\ud800/x"}', '{"image": "../.."}', '{"model": "a/b", "revision": "../.."}', "main/../.."),
    ]
)


@given(st.lists(st.one_of(WORDS, st.text(), st.builds("{}={}".format, WORDS, st.text())), max_size=12))
@example(["-sc", '{"model": "~\\u0000/x"}'])
@example(["--lora-modules", '{"path": "~\\ud800/x"}'])
def test_it_never_raises_and_no_path_leads_out(arguments: list[str]) -> None:
    """Whatever is named lies in a folder of its own below the cache."""
    for given_ in (arguments, effective(arguments, ()).arguments):
        model = given_[0] if given_ else ""
        found = needs(Target(tuple(given_), (), Secret("k"), model), exists=lambda _: False)
        names_served_model(given_)
        for repo in found.repos:
            folder = RepoFolder("/cache", repo.id)
            assert folder.path == f"/cache/{folder.name}"
            assert "/" not in folder.name
            refs = f"{folder.path}/refs/"
            ref = folder.ref(repo.revision)
            assert ref.startswith(refs)
            assert not {"", ".", ".."} & set(ref.removeprefix(refs).split("/"))
        for said in (found.unresolved, found.problem and found.problem.message):
            if said is not None:
                str(dict(said.params)).encode()
        repr(found)


# --- models from here ------------------------------------------------------------------------------------------------


def here(*arguments: str, model: str = "/models/here") -> list[tuple[str, str]]:
    target = Target((model, *arguments), (), Secret("k"), model)
    return [(repo.id, repo.load_format) for repo in local_models(target, exists=LOCAL.__contains__)]


def test_models_that_are_read_from_paths() -> None:
    assert here() == [("/models/here", "auto")]
    assert here(model="org/m") == []
    assert here("--spec-model", "here") == [("/models/here", "auto"), ("here", "auto")]
    assert here("--spec-model", "here", model="org/m") == [("here", "auto")]


def test_neither_tokenizers_nor_adapters_nor_what_is_not_there() -> None:
    assert here("--tokenizer", "./here", "--lora-modules", "a=./here") == [("/models/here", "auto")]
    assert here(model="/models/elsewhere") == []


@pytest.mark.parametrize(
    "arguments", [("--load-format", "dummy"), ("--load-format", "tensorizer"), ("--ignore-patterns", "*.bin")]
)
def test_what_is_read_in_ways_that_are_not_followed(arguments: tuple[str, ...]) -> None:
    assert here(*arguments) == []
