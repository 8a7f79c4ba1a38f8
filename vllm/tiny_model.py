#!/usr/bin/env python3
"""Make a tiny random Llama that vLLM serves: 1.3 MB, no download, answers gibberish. Standard library only.

    python3 vllm/tiny_model.py DIRECTORY [--seed N] [--shards N] [--size-mb N] [--dtype F32|BF16]

The directory is a complete model repository as the hub holds them: config, tokenizer, chat template, safetensors. The
same options make the same bytes, so the hashes of its files are stable.
"""

import argparse
import json
import random
import struct
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, LAYERS, INTERMEDIATE, POSITIONS = 128, 2, 1, 64, 2, 192, 512

WIDTH = {"F32": 4, "BF16": 2}
"""Bytes of one number."""

CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"

PAIRS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha "
    "as ou io le ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur"
)
MERGES = (*PAIRS.split(), *(f" {letter}" for letter in "taoiswcbpfmd"))
"""What the tokenizer merges. With two special tokens and 256 bytes: a vocabulary of 320, a multiple of 64."""


@dataclass(frozen=True)
class Tensor:
    """One weight: its name and shape, and whether it holds `random` numbers, `ones` or `zeros`."""

    name: str
    shape: tuple[int, ...]
    fill: str = "random"

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def make(out: Path | str, seed: int = 0, shards: int = 1, size_mb: int = 0, dtype: str = "F32") -> Path:
    """Write the model into the directory `out`, made if need be, and return it.

    `shards`: safetensors files to split the weights over, with an index when there are several. `size_mb`: grow it to
    about so many MiB by a wider middle layer of zeros, to have something that takes a while to download. `dtype`: F32
    works on any CPU, BF16 does not.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    wide = int(size_mb * 2**20 / (LAYERS * 3 * HIDDEN * WIDTH[dtype])) // 64 * 64
    intermediate = max(INTERMEDIATE, wide)
    _write(out / "config.json", _config(len(tokens), intermediate, dtype))
    _write(out / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    _write(out / "tokenizer.json", _tokenizer(tokens))
    _write(out / "tokenizer_config.json", _tokenizer_config())
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write_weights(out, tensors(len(tokens), intermediate), random.Random(seed), shards, dtype)
    return out


# --- tokenizer ---------------------------------------------------------------------------------------------------


def alphabet() -> list[str]:
    """Return the printable character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def vocabulary() -> dict[str, int]:
    """Return the tokens with their numbers: begin, end, the 256 bytes, the merged pairs."""
    letters = alphabet()
    pairs = ["".join(letters[byte] for byte in pair.encode()) for pair in MERGES]
    return {token: number for number, token in enumerate(("<s>", "</s>", *letters, *pairs))}


def _tokenizer(tokens: dict[str, int]) -> dict[str, Any]:
    letters = alphabet()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": tokens[text], "content": text, **flags} for text in ("<s>", "</s>")],
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "post_processor": None,
        "decoder": bytewise,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": tokens,
            "merges": [" ".join(letters[byte] for byte in pair.encode()) for pair in MERGES],
        },
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }


# --- weights -----------------------------------------------------------------------------------------------------


def _config(tokens: int, intermediate: int, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokens,
        "hidden_size": HIDDEN,
        "intermediate_size": intermediate,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "use_cache": True,
        "torch_dtype": {"F32": "float32", "BF16": "bfloat16"}[dtype],
    }


def tensors(tokens: int, intermediate: int) -> list[Tensor]:
    """Return every weight of a LlamaForCausalLM of these sizes."""
    keys = KV_HEADS * HEAD_SIZE
    middle = "random" if intermediate == INTERMEDIATE else "zeros"
    layers = [
        Tensor(f"model.layers.{number}.{name}.weight", shape, fill)
        for number in range(LAYERS)
        for name, shape, fill in (
            ("input_layernorm", (HIDDEN,), "ones"),
            ("self_attn.q_proj", (HEADS * HEAD_SIZE, HIDDEN), "random"),
            ("self_attn.k_proj", (keys, HIDDEN), "random"),
            ("self_attn.v_proj", (keys, HIDDEN), "random"),
            ("self_attn.o_proj", (HIDDEN, HEADS * HEAD_SIZE), "random"),
            ("post_attention_layernorm", (HIDDEN,), "ones"),
            ("mlp.gate_proj", (intermediate, HIDDEN), middle),
            ("mlp.up_proj", (intermediate, HIDDEN), middle),
            ("mlp.down_proj", (HIDDEN, intermediate), middle),
        )
    ]
    return [
        Tensor("model.embed_tokens.weight", (tokens, HIDDEN)),
        *layers,
        Tensor("model.norm.weight", (HIDDEN,), "ones"),
        Tensor("lm_head.weight", (tokens, HIDDEN)),
    ]


def _write_weights(out: Path, plan: list[Tensor], numbers: random.Random, shards: int, dtype: str) -> None:
    if shards <= 1:
        _write_safetensors(out / "model.safetensors", plan, numbers, dtype)
        return
    total = sum(tensor.numbers for tensor in plan) * WIDTH[dtype]
    groups: list[list[Tensor]] = [[]]
    before = 0
    for tensor in plan:  # in order, each file about as large as the others
        if groups[-1] and len(groups) < shards and before >= total * len(groups) / shards:
            groups.append([])
        groups[-1].append(tensor)
        before += tensor.numbers * WIDTH[dtype]
    places: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        _write_safetensors(out / name, group, numbers, dtype)
        places |= {tensor.name: name for tensor in group}
    _write(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write_safetensors(path: Path, group: list[Tensor], numbers: random.Random, dtype: str) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in group:
        start, end = end, end + tensor.numbers * WIDTH[dtype]
        header[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in group:
            file.write(_payload(tensor, numbers, dtype))


def _payload(tensor: Tensor, numbers: random.Random, dtype: str) -> bytes:
    if tensor.fill == "zeros":
        return bytes(tensor.numbers * WIDTH[dtype])
    ones = tensor.fill == "ones"
    values = (1.0 if ones else numbers.gauss(0.0, 0.02) for _ in range(tensor.numbers))
    raw = struct.pack(f"<{tensor.numbers}f", *values)
    # The upper half of a float32 is that number as bfloat16, cut off.
    return raw if dtype == "F32" else b"".join(raw[at + 2 : at + 4] for at in range(0, len(raw), 4))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Make the model that the command line describes and print where it is."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--shards", type=int, default=1, metavar="N")
    parser.add_argument("--size-mb", type=int, default=0, metavar="N")
    parser.add_argument("--dtype", choices=sorted(WIDTH), default="F32")
    options = parser.parse_args()
    print(make(options.directory, options.seed, options.shards, options.size_mb, options.dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())
