"""The tiny model: complete, the same every time, split and grown as asked."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from support.tiny_model import make


def weights(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    assert size % 8 == 0
    assert max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_") == len(raw) - 8 - size
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_whole_model_that_is_the_same_every_time(tmp_path: Path) -> None:
    first = make(tmp_path / "a" / "b")
    assert digests(first) == digests(make(tmp_path / "c"))
    assert digests(first) != digests(make(tmp_path / "d", seed=1))
    assert set(digests(first)) == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "model.safetensors"),
    }
    config = json.loads((first / "config.json").read_text())
    tokens = json.loads((first / "tokenizer.json").read_text())["model"]["vocab"]
    assert config["vocab_size"] == len(tokens) == 320
    assert sorted(tokens.values()) == list(range(320))
    held = weights(first / "model.safetensors")
    assert held["model.embed_tokens.weight"]["shape"] == [320, config["hidden_size"]]
    assert len(held) == 3 + 9 * config["num_hidden_layers"]


def test_shards_hold_the_same_weights_and_an_index(tmp_path: Path) -> None:
    whole = weights(make(tmp_path / "whole", dtype="BF16") / "model.safetensors")
    split = make(tmp_path / "split", shards=3, dtype="BF16")
    index = json.loads((split / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    for name, file in index["weight_map"].items():
        entry = weights(split / file)[name]
        assert (entry["shape"], entry["dtype"]) == (whole[name]["shape"], "BF16")
    assert index["metadata"]["total_size"] == sum(e["data_offsets"][1] - e["data_offsets"][0] for e in whole.values())


def test_it_grows_to_about_the_size_asked_for(tmp_path: Path) -> None:
    size = (make(tmp_path, size_mb=9) / "model.safetensors").stat().st_size
    assert 9e6 < size < 11e6
