"""The files that are chosen against those that vLLM's own loader would fetch."""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

from support.real_vllm import python
from vllm_fsm.weights.needs import FORMATS, Repo, Role
from vllm_fsm.weights.selection import index_shards, plain_files, weight_files

SCRIPT = Path(__file__).parents[1] / "support" / "real_loader.py"
REPOSITORIES = 3000
FOLDERS = ("", "", "", "", "vae/", "a/b/")
INDEXES = ("model.safetensors.index.json", "consolidated.safetensors.index.json")
NAMES = (
    *("model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    *("consolidated.safetensors", "consolidated-1.safetensors", "pytorch_model.bin", "optimizer.bin"),
    *("model.pt", "x.pth", "m.gguf", "config.json", *INDEXES),
)


def repository(draw: random.Random) -> dict[str, str]:
    """Draw a repository; its indexes may name anything, what is missing too."""
    paths = sorted({draw.choice(FOLDERS) + draw.choice(NAMES) for _ in range(draw.randrange(1, 8))})
    shards = [path for path in paths if path.endswith(".safetensors")] or ["none.safetensors"]
    files = {}
    for path in paths:
        named = [draw.choice(shards) for _ in range(draw.randrange(4))]
        named += ["missing.safetensors"] if draw.random() < 0.1 else []
        index = json.dumps({"weight_map": {str(number): name for number, name in enumerate(named)}})
        files[path] = index if path.endswith(INDEXES) else "x"
    return files


def ask(cases: list[dict[str, Any]]) -> dict[str, Any]:
    done = subprocess.run(
        [*python(), str(SCRIPT)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "CRITICAL", "HF_HUB_OFFLINE": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_real_loader() -> None:
    """Wherever it finds weights, we choose the very files that it fetches. One process for all."""
    draw = random.Random(1)
    cases = [{"files": repository(draw), "load_format": draw.choice(FORMATS)} for _ in range(REPOSITORIES)]
    answer = ask(cases)
    compared = 0
    for case, fetched in zip(cases, answer["fetched"], strict=True):
        if fetched is not None:
            files = case["files"]
            repo = Repo("org/m", load_format=case["load_format"])
            assert weight_files(files, repo, lambda index, files=files: index_shards(files[index])) == fetched, case
            compared += 1
    assert compared > REPOSITORIES / 4
    examples = [pattern.replace("*", "x") for pattern in answer["not_plain"]]
    assert plain_files([*examples, "x.json", "x.txt"], Role.MODEL) == ["x.json", "x.txt"]
