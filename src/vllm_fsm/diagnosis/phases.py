"""What a starting engine is doing, read from its output: vLLM 0.32's lines, and their like in earlier releases."""

from __future__ import annotations

import re
from typing import Final

from vllm_fsm.core.snapshot import Message
from vllm_fsm.core.states import Phase
from vllm_fsm.diagnosis.lines import parse

# The comments name who prints it.
_ROWS: Final = (
    # v1/engine/core.py, entrypoints/openai/api_server.py, uvicorn
    (Phase.LISTENING, "PhaseListening", r"init engine \(|Starting vLLM (?:API )?server |Started server process "),
    # v1/worker/gpu_model_runner.py; a progress bar has the same words
    (
        Phase.GRAPHS,
        "PhaseGraphs",
        r"Capturing CUDA graphs?|Capturing (?:encoder )?cudagraphs?|Graph capturing finished ",
    ),
    # v1/core/kv_cache_utils.py, v1/worker/{gpu,cpu}_worker.py
    (
        Phase.MEMORY,
        "PhaseMemory",
        r"Available KV cache memory: |(?:GPU|CPU|TPU|XPU) KV cache size: |Explicitly set \(",
    ),
    # compilation/{monitor,backends,decorators}.py, v1/worker/cpu_model_runner.py
    (
        Phase.COMPILATION,
        "PhaseCompilation",
        (
            r"Starting torch\.compile|Using cache directory: .* torch\.compile|Dynamo bytecode transform time: "
            r"|Compiling a graph for |Directly load |Warming up model for the compilation|Compile and warming up model "
        ),
    ),
    # v1/worker/*_model_runner.py
    (Phase.WEIGHTS, "PhaseWeights", r"Starting to load model |Loading model from scratch|Loading drafter model"),
    # config/model.py: the last of the configuration; then the engine's processes are made
    (Phase.PROCESSES, "PhaseProcesses", r"Using max model len |Initializing a V1 LLM engine "),
    # entrypoints/utils.py
    (Phase.CONFIGURATION, "PhaseConfiguration", r"non-default args: |vLLM API server version "),
)
"""How a logger's message begins that tells a phase."""
_MARKS: Final = re.compile("|".join(rf"(?P<{phase.name}>{begin})" for phase, _, begin in _ROWS))
_MESSAGES: Final = {phase.name: (phase, Message.of(id_)) for phase, id_, _ in _ROWS}
_PREFIX: Final = re.compile(r"\[\w{1,40}\] ")
"""Of the part of a model that is compiled."""
_SHARDS: Final = re.compile(r"Loading \S{1,40} checkpoint shards: .*?\|\s*(\d{1,6})/(\d{1,6}) ")
"""tqdm's bar, which no logger writes."""
_WAITING: Final = re.compile(r"No available shared memory broadcast block found|Waiting for \d+ (?:local|remote)")
"""Said over and over by a process that waits for another: no sign of life of that one."""


def waits(line: str) -> bool:
    """Whether `line` says no more than that somebody is waited for."""
    return _WAITING.match(parse(line).text) is not None


class Phases:
    """Reads one start. Pure, and of constant size."""

    def __init__(self) -> None:
        self._latest: tuple[Phase, Message] | None = None

    def feed(self, line: str) -> tuple[Phase, Message] | None:
        """Take the next line; return the phase that it tells and what to say of it, None if that is known."""
        parsed = parse(line)
        if parsed.level in ("ERROR", "CRITICAL"):
            return None
        text = _PREFIX.sub("", parsed.text.removeprefix("INFO:").lstrip(), count=1)
        told = self._weights(text) or self._mark(text)
        if told is None or told == self._latest:
            return None
        self._latest = told
        return told

    def _mark(self, text: str) -> tuple[Phase, Message] | None:
        found = _MARKS.match(text)
        if found is None or found.lastgroup is None:
            return None
        told = _MESSAGES[found.lastgroup]
        if self._latest is not None and self._latest[0] is told[0]:
            return None  # its numbers say more than its name
        return told

    def _weights(self, text: str) -> tuple[Phase, Message] | None:
        found = _SHARDS.match(text)
        if found is None:
            return None
        done, total = int(found[1]), int(found[2])
        return Phase.WEIGHTS, Message.of("Weights", done=done, total=total)
