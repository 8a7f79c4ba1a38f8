"""Every argument list that a preset can be offered with, against vLLM's own parser."""

import sys
from pathlib import Path

from support.real_vllm import command, parse
from vllm_fsm import engine_version, flags
from vllm_fsm.argument_check import check
from vllm_fsm.presets import WAYS, built_in

TEMPLATES = ("/vllm-workspace/examples/", "/app/vllm/examples/")
"""Where the images for NVIDIA and for AMD have chat templates; nothing else has them."""


def test_every_offered_argument_list_is_taken(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.touch()
    lines = [
        config.arguments(context, devices)
        for preset in built_in()
        for config in preset.configs.values()
        for context in ([step.ctx for step in config.context_by_memory] or [None])
        for devices in WAYS
    ]
    here = [[str(template) if word.startswith(TEMPLATES) else word for word in line] for line in lines]
    verdicts = parse(here)["verdicts"]
    assert [(line, verdict) for line, verdict in zip(lines, verdicts, strict=True) if verdict is not None] == []
    version = engine_version.version([command()])
    table = flags.load(version)
    for line in lines:
        assert check(line, (), table, version, exists=lambda path: path.startswith(TEMPLATES)) == (), line
    print(f"{len(lines)} argument lists of {len(built_in())} presets, all taken", file=sys.stderr)
    assert len(lines) >= 100
