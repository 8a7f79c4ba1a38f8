"""Names of models and of their folders."""

import pytest

from support.story import target
from vllm_fsm.weights.names import folder_of, is_repo_id, repo_of
from vllm_fsm.weights.needs import named


@pytest.mark.parametrize("name", ["org/name", "gpt2", "Qwen/Qwen3-0.6B", "a_b/c.d-e"])
def test_a_folder_is_one_models(name):
    assert is_repo_id(name)
    assert repo_of(folder_of(name)) == name


@pytest.mark.parametrize(
    "folder",
    [
        "models",
        "models--",
        "models----",
        "models--..",
        "models--..--x",
        "models--a--..",
        "models--a--b--c",
        "models--a---b",
        "models--.hidden--b",
        "models--a--b/../../c",
        "models--a--b\0",
        "models--a--b\n",
        "Models--a--b",
        "datasets--a--b",
        ".vllm-fsm-deleted-0-models--a--b",
        ".locks",
        "",
    ],
)
def test_what_is_no_models_folder(folder):
    assert repo_of(folder) is None


@pytest.mark.parametrize(
    ("arguments", "repositories"),
    [
        (("org/one",), {"org/one"}),
        (("org/one", "--tokenizer", "org/words"), {"org/one", "org/words"}),
        (("org/one", "--tokenizer=org/words", "--revision", "v2"), {"org/one", "org/words"}),
        (("org/one", "--load-format", "bitsandbytes"), {"org/one"}),
        (("org/one", "--hf-config-path", "org/shape"), {"org/one", "org/shape"}),
        (("org/one", "--speculative-config", '{"model": "org/draft"}'), {"org/one", "org/draft"}),
        (("org/one", "--speculative-config.model", "org/draft"), {"org/one", "org/draft"}),
        (("org/one", "--lora-modules", "a=org/lora", '{"name": "b", "path": "org/other"}'), None),
        (("org/one", "--tokenizer", "/nowhere/at/all"), {"org/one"}),
        (("org/one:Q4_K_M",), {"org/one"}),
        (("org/one/model-q4.gguf",), {"org/one"}),
        (("/data/models/models--org--one/snapshots/0",), {"org/one"}),
        (("/srv/weights",), set()),
        (("./org/one",), set()),
        (("--seed", "1"), set()),
    ],
)
def test_everything_that_arguments_name_is_named(arguments, repositories):
    named_model = arguments[0] if not arguments[0].startswith("-") else ""
    found = named(target(named_model, *arguments[1:]))
    assert found == ({"org/one", "org/lora", "org/other"} if repositories is None else repositories)
