"""Which files of a repository are read, as a real vLLM fetched them and as its sources say."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm.weights.needs import FORMATS, Repo, Role
from vllm_fsm.weights.selection import (
    INDEX,
    NEVER_READ,
    NoWeights,
    elsewhere,
    foreign_code,
    index_shards,
    plain_files,
    weight_files,
)

FETCHED = json.loads((Path(__file__).parent / "data" / "files_fetched_by_vllm_0_32.json").read_text())["repositories"]
NOT_PLAIN = [
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp3", "*.mp4", "*.wav", "*.flac"),
    *("*.parquet", "*.arrow", "*.ipynb", "*.zip", "*.tar*"),
]
"""`_WEIGHT_FILE_PATTERNS` of vLLM 0.32, `transformers_utils/repo_utils.py`."""


def weights(
    *paths: str, load_format: str = "auto", indexes: Mapping[str, list[str]] | None = None, role: Role = Role.MODEL
) -> list[str]:
    named = indexes or {}
    return weight_files(paths, Repo("org/m", role=role, load_format=load_format), lambda index: named.get(index, []))


# --- as a real vLLM did ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FETCHED)
def test_what_a_real_vllm_fetched(kind: str) -> None:
    """The same files, but for `original/`, which it fetches and does not read."""
    fetched = FETCHED[kind]["fetched"]
    there = [*fetched, *FETCHED[kind]["left"]]
    shards = [path for path in fetched if "-of-" in path]
    chosen = {*plain_files(there, Role.MODEL), *weights(*there, indexes={INDEX: shards})}
    assert sorted(chosen) == [path for path in sorted(fetched) if not path.startswith(NEVER_READ)]


# --- what is no weights ------------------------------------------------------------------------------------------

NAMES = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "a/", "vae/b/", "original/", "[x]/"]),
        st.sampled_from(["config", "model", "x.tar", ".git", "a*b", "M"]),
        st.sampled_from([".json", ".bin", ".BIN", ".pt", ".pth", ".safetensors", ".tar.gz", ".txt", "", ".onnx_data"]),
    ),
    unique=True,
)


@given(NAMES)
def test_plain_files_are_those_that_huggingface_hub_would_leave(paths: list[str]) -> None:
    left = filter_repo_objects(paths, ignore_patterns=NOT_PLAIN)
    assert plain_files(paths, Role.MODEL) == sorted(path for path in left if not path.startswith("original/"))
    assert plain_files(paths, Role.PLAIN) == plain_files(paths, Role.MODEL)


def test_sub_folders_are_read_and_original_is_not() -> None:
    there = ["1_Pooling/config.json", "modules.json", "original/params.json", "vae/config.json", "originals/x.json"]
    assert plain_files(there, Role.MODEL) == sorted(path for path in there if path != "original/params.json")


def test_an_adapter_is_read_whole() -> None:
    """`snapshot_download` without a pattern, `lora/utils.py`."""
    there = ["README.md", "adapter_config.json", "adapter_model.safetensors", "original/x.bin", "x.png"]
    assert plain_files(reversed(there), Role.ADAPTER) == there
    assert weights(*there, role=Role.ADAPTER) == []


def test_a_tokenizer_has_no_weights() -> None:
    assert weights("tokenizer.json", "model.safetensors", role=Role.PLAIN) == []


# --- weights -----------------------------------------------------------------------------------------------------

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_the_index_comes_first() -> None:
    there = [INDEX, *SHARDS, "model.safetensors", "consolidated.txt", "vae/model.safetensors", "pytorch_model.bin"]
    assert weights(*there, indexes={INDEX: SHARDS}) == SHARDS


def test_an_index_that_names_files_of_a_sub_folder() -> None:
    assert weights(INDEX, "w/a.safetensors", "b.safetensors", indexes={INDEX: ["w/a.safetensors"]}) == [
        "w/a.safetensors"
    ]


def test_an_index_that_names_missing_files() -> None:
    """What there is of them is fetched; vLLM says the rest (`filter_duplicate_safetensors_files`)."""
    assert weights(INDEX, SHARDS[0], indexes={INDEX: SHARDS}) == SHARDS[:1]
    with pytest.raises(NoWeights):
        weights(INDEX, "other.safetensors", indexes={INDEX: SHARDS})


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "original/model.safetensors", "..", ""])
def test_an_index_names_files_of_the_repository_only(name: str) -> None:
    there = [INDEX, "original/model.safetensors", "a.safetensors"]
    assert weights(*there, indexes={INDEX: [name, "a.safetensors"]}) == ["a.safetensors"]


def test_an_index_without_files_does_not_count() -> None:
    assert weights(INDEX, "a.safetensors", "b.safetensors") == ["a.safetensors", "b.safetensors"]


def test_an_index_elsewhere_does_not_count() -> None:
    there = ["transformer/" + INDEX, "model.safetensors"]
    assert weights(*there, indexes={"transformer/" + INDEX: SHARDS}) == ["model.safetensors"]


@pytest.mark.parametrize("load_format", ["auto", "mistral"])
def test_the_consolidated_form_is_preferred(load_format: str) -> None:
    there = ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors", INDEX, *SHARDS]
    assert weights(*there, indexes={INDEX: SHARDS}, load_format=load_format) == there[:2]


@pytest.mark.parametrize(
    ("load_format", "chosen"),
    [
        ("auto", ["consolidated.safetensors"]),
        ("hf", ["consolidated.safetensors", "model.safetensors"]),
        ("safetensors", ["consolidated.safetensors", "model.safetensors"]),
        ("fastsafetensors", ["consolidated.safetensors", "model.safetensors"]),
        ("instanttensor", ["consolidated.safetensors", "model.safetensors"]),
        ("mistral", ["consolidated.safetensors"]),
        ("pt", ["model.pt"]),
        ("npcache", ["pytorch_model.bin"]),
    ],
)
def test_each_load_format_has_its_files(load_format: str, chosen: list[str]) -> None:
    there = [
        "config.json",
        "consolidated.safetensors",
        "model.gguf",
        "model.pt",
        "model.safetensors",
        "pytorch_model.bin",
    ]
    assert weights(*there, load_format=load_format) == chosen


@pytest.mark.parametrize(
    ("load_format", "patterns"),
    [
        ("hf", [".safetensors", ".bin", ".pt"]),
        ("auto", [".safetensors", ".bin", ".pt"]),
        ("npcache", [".bin", ".pt"]),
        ("pt", [".pt"]),
        ("safetensors", [".safetensors"]),
    ],
)
def test_the_next_pattern_counts_where_the_first_fits_nothing(load_format: str, patterns: list[str]) -> None:
    for place, ending in enumerate(patterns):
        there = [f"m{other}" for other in patterns[place:]]
        assert weights(*there, load_format=load_format) == [f"m{ending}"]
    rest = {".safetensors", ".bin", ".pt", ".pth", ".gguf"} - set(patterns)
    with pytest.raises(NoWeights):
        weights("config.json", *(f"m{ending}" for ending in rest), load_format=load_format)


def test_weights_of_sub_folders_come_with_those_at_the_top() -> None:
    """A pattern of huggingface_hub crosses `/`; a file at the top decides which pattern it is."""
    there = ["m.safetensors", "vae/m.safetensors", "vae/m.bin", "original/m.safetensors"]
    assert weights(*there) == ["m.safetensors", "vae/m.safetensors"]
    assert weights("m.bin", *there[1:]) == ["m.bin", "vae/m.bin"]
    with pytest.raises(NoWeights, match="org/m"):
        weights(*there[1:])


def test_original_makes_no_consolidated_form() -> None:
    assert weights("original/consolidated.safetensors", "m.safetensors") == ["m.safetensors"]


@pytest.mark.parametrize("load_format", FORMATS)
def test_no_weights(load_format: str) -> None:
    with pytest.raises(NoWeights):
        weights("config.json", "tokenizer.json", load_format=load_format)


@given(NAMES, st.sampled_from(FORMATS))
def test_weights_and_plain_files_have_nothing_in_common(paths: list[str], load_format: str) -> None:
    try:
        chosen = weights(*paths, load_format=load_format)
    except NoWeights:
        return
    assert set(chosen) <= set(paths)
    assert len({Path(path).suffix for path in chosen}) == 1
    assert not set(chosen) & set(plain_files(paths, Role.MODEL))


@pytest.mark.parametrize(
    ("there", "projectors"),
    [
        (["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"], ["2_Dense/model.safetensors"]),
        (["2_Dense/pytorch_model.bin"], ["2_Dense/pytorch_model.bin"]),
        (
            ["2_Dense/model.safetensors", "3_Dense/pytorch_model.bin"],
            ["2_Dense/model.safetensors", "3_Dense/pytorch_model.bin"],
        ),
        (["2_Dense/config.json", "onnx/2_Dense/model.safetensors", "2_Other/model.safetensors"], []),
    ],
)
def test_projectors_of_sentence_transformers_are_read_beside_an_index(there: list[str], projectors: list[str]) -> None:
    """`_load_dense_weights` in `models/adapters.py` takes the first of two names, and goes on without either."""
    assert weights(INDEX, *SHARDS, *there, indexes={INDEX: SHARDS}) == sorted([*SHARDS, *projectors])


def test_a_projector_in_another_form_than_the_model() -> None:
    assert weights("m.safetensors", "2_Dense/pytorch_model.bin") == ["2_Dense/pytorch_model.bin", "m.safetensors"]


# --- what files say ----------------------------------------------------------------------------------------------


def test_an_index_read() -> None:
    text = json.dumps(
        {"metadata": {}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    )
    assert index_shards(text) == index_shards(text.encode()) == ["1.safetensors", "2.safetensors"]
    assert index_shards('{"weight_map": {"a": 5, "b": null, "c": "x"}}') == ["x"]


BROKEN = [
    "",
    "{",
    "null",
    "[]",
    "5",
    '"x"',
    "{}",
    '{"weight_map": 5}',
    '{"weight_map": []}',
    b"\xff\xfe",
    "[" * 100_000,
]


@pytest.mark.parametrize("text", [*BROKEN, '{"weight_map": {}}'])
def test_what_is_no_index(text: str | bytes) -> None:
    assert index_shards(text) == []


@pytest.mark.parametrize(
    ("classes", "foreign"),
    [
        ({"AutoConfig": "other/repo--module.Config"}, True),
        ({"AutoConfig": "module.Config", "AutoModel": "other/repo--module.Model"}, True),
        ({"AutoTokenizer": ["other/repo--module.Slow", None]}, True),
        ({"AutoTokenizer": ["module.Slow", None]}, False),
        ({"AutoConfig": "module.Config"}, False),
        ({}, False),
        (None, False),
        ("x--y", False),
    ],
)
def test_code_of_another_repository(classes: object, foreign: bool) -> None:
    assert foreign_code(json.dumps({"auto_map": classes})) is foreign


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_configuration_refers_to_nothing(text: str | bytes) -> None:
    assert not foreign_code(text)
    assert elsewhere(text) is None


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"speculators_config": {"verifier": {"name_or_path": "org/verifier"}}}, "the model that it speculates for"),
        ({"text_model_id": "org/text", "audio_model_id": None}, "weights of another repository"),
        ({"audio_model_id": "org/audio"}, "weights of another repository"),
        ({"architectures": ["MoonshotKimiaForCausalLM"]}, "further weights"),
        ({"architectures": ["Cosmos3ForConditionalGeneration"]}, "further weights"),
        ({"architectures": ["LlamaForCausalLM"], "text_model_id": None, "speculators_config": None}, None),
        ({"architectures": "x"}, None),
        ({"architectures": [["x"]]}, None),
        ({"text_model_id": ""}, None),
    ],
)
def test_what_a_configuration_makes_vllm_read_besides(config: object, what: str | None) -> None:
    assert elsewhere(json.dumps(config)) == what
