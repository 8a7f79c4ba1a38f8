"""Ten failures of the real vLLM, each told by the health file: why, whether for good, its words, and what mends it.

Most end before there is a worker, after some seconds of imports.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.fake_hub import FakeHub
from support.real_vllm import ENVIRONMENT, PLAIN, START, Service, command
from vllm_fsm.cli import main

TOKEN = "hf_" + "sE3cr9T" * 5
CACHE = "VLLM_CPU_KVCACHE_SPACE"


def leave(_model: Path) -> None:
    """Change nothing."""


def config(**changes: object) -> Callable[[Path], None]:
    """Change the model's configuration."""

    def change(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def cut(name: str) -> Callable[[Path], None]:
    """Cut a file of the model off in its middle."""

    def change(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: len(content) // 2])

    return change


@dataclass(frozen=True)
class Failure:
    """What is done to the tiny model and its arguments, and what is to be told of it."""

    reason: str
    evidence: str
    """Of the engine's words, what must be among them."""
    arguments: tuple[str, ...] = ("--max-model-len", "256")
    spoil: Callable[[Path], None] = leave
    params: dict[str, str] = field(default_factory=dict)
    """Of the first sentence, as far as they are known beforehand."""
    fix: str | None = None


FAILURES = {
    "a context longer than the model's": Failure(
        "ContextTooLong",
        "User-specified max_model_len (4096) is greater than the derived max_model_len",
        arguments=("--max-model-len=4k", "--seed", "1", "--max_model_len", "4096"),
        params={"wanted": "4096", "most": "512"},
        fix="--seed 1 --max_model_len 512",
    ),
    "more sequences than a step has tokens": Failure(
        "BatchTooSmall",
        "max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128)",
        arguments=("--max-num-seqs", "128", "--max-model-len", "256", "--max-num-batched-tokens", "64"),
        params={"wanted": "128", "most": "64"},
        fix="--max-num-seqs 64 --max-model-len 256 --max-num-batched-tokens 64",
    ),
    "a value that the configuration cannot have": Failure(
        "ConfigValueWrong",
        "Validation error for field 'num_attention_heads'",
        arguments=("--hf-overrides", '{"num_attention_heads": "two"}'),
        params={"name": "num_attention_heads"},
    ),
    "an architecture that vLLM does not have": Failure(
        "ModelUnsupported",
        "Model architectures ['FooForCausalLM'] are not supported for now",
        spoil=config(architectures=["FooForCausalLM"]),
        params={"architecture": "FooForCausalLM"},
    ),
    "a type that transformers does not know": Failure(
        "ModelTypeUnknown",
        "model type `foobar` but Transformers does not recognize this architecture",
        spoil=config(model_type="foobar"),
        params={"type": "foobar"},
    ),
    "a broken config.json": Failure(
        "ConfigDamaged",
        "is not a valid JSON file",
        spoil=cut("config.json"),
    ),
    "weights that were cut off": Failure(
        "WeightsDamaged",
        "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
        spoil=cut("model.safetensors"),
    ),
}


def tells(service: Service, failure: Failure, after: int = 0) -> dict[str, Any]:
    """See that the health file tells a failure that is final at once, and no secret; return it."""
    health = service.until("Failed", START, also=lambda h: h["attempt"] > after and h["engine"] == "Absent")
    assert health["reason"] == failure.reason, service.last_lines()
    assert (health["result"], health["attempt"], health["nextTry"]) == ("failure", after + 1, None)
    assert failure.params.items() <= health["params"].items()
    assert failure.evidence in health["evidence"]
    assert "\n" not in health["evidence"]
    if failure.fix is None:
        assert health["fix"] is None
    else:
        assert health["fix"]["args"] == [service.model, *PLAIN, *failure.fix.split()]
        assert health["fix"]["message"]["message"] in health["message"]
    told = (service.run_dir / "health.json").read_text() + "".join(service.raw)
    assert TOKEN not in told
    assert service.key not in told
    return health


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_told(name: str) -> None:
    failure = FAILURES[name]
    with Service() as service:
        failure.spoil(Path(service.model))
        service.serve(service.model, *PLAIN, *failure.arguments, HF_TOKEN=TOKEN, **ENVIRONMENT)
        tells(service, failure)
        service.says("transition", to="Failed")  # the log may lag behind the health file
        assert service.path() == ["Loading", "Failed"]


def test_a_flag_that_only_the_engine_knows_not_to_have() -> None:
    """Behind another command its version is not known, and what our table finds is only said."""
    with Service(start=("env", command())) as service:
        service.serve(service.model, *PLAIN, "--no-such-flag", "1", HF_TOKEN=TOKEN, **ENVIRONMENT)
        tells(service, Failure("BadArguments", "error: unrecognized arguments: --no-such-flag 1"))


def test_a_gated_repository_that_the_engine_fetches_by_itself(tmp_path: Path) -> None:
    with FakeHub(tmp_path / "hub") as hub, Service() as service:
        hub.repo("org/gated", gated=True)
        variables = ENVIRONMENT | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        service.serve("org/gated", *PLAIN, "--code-revision", "main", **variables)
        tells(service, Failure("GatedRepoDenied", "GatedRepoError: 403 Client Error", params={"repo": "org/gated"}))


def test_a_cache_that_is_too_small_and_the_fix_that_serves() -> None:
    """The number that vLLM names is taken by one command, and vLLM comes up with it."""
    failure = Failure(
        "ContextNeedsMemoryMost",
        "the estimated maximum model length is 3968",
        params={"wanted": "65536", "most": "3968"},
        fix="--kv-cache-memory-bytes 4M --max-model-len=3968",
    )
    variables = {name: value for name, value in ENVIRONMENT.items() if name != CACHE}
    with Service() as service:
        config(max_position_embeddings=65536)(Path(service.model))
        asked = ("--kv-cache-memory-bytes", "4M", "--max-model-len=64K")
        service.serve(service.model, *PLAIN, *asked, HF_TOKEN=TOKEN, **variables)
        tells(service, failure)
        places = ("--data", str(service.data), "--run-dir", str(service.run_dir), "--engine", command())
        assert main(["set-model", "--fix", *places]) == 0
        assert service.comes_up(1)["fix"] is None
        assert service.length() == 3968
        service.generates()
