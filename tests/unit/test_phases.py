"""The phases of a start, read from what a real vLLM printed, and from lines of GPU builds as its source has them."""

import pytest

from support import recordings
from vllm_fsm import messages
from vllm_fsm.core.states import Phase
from vllm_fsm.diagnosis.phases import Phases, waits

EAGER = ["Configuration", "Processes", "Weights", "Memory", "Listening"]
COMPILED = ["Configuration", "Processes", "Weights", "Compilation", "Memory", "Listening"]
GPU = """\
(APIServer pid=7) INFO 11-23 09:00:00 [api_utils.py:286] non-default args: {'model': 'org/name'}
(APIServer pid=7) INFO 11-23 09:00:01 [model.py:2152] Using max model len 4096
(EngineCore_DP0 pid=8) INFO 11-23 09:00:02 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: x
(Worker_TP0 pid=9) INFO 11-23 09:00:03 [gpu_model_runner.py:1] Starting to load model org/name...
(Worker_TP1 pid=10) INFO 11-23 09:00:03 [gpu_model_runner.py:1] Starting to load model org/name...
\rLoading safetensors checkpoint shards:   0% Completed | 0/3 [00:00<?, ?it/s]
\rLoading safetensors checkpoint shards:  67% Completed | 2/3 [00:01<00:00,  1.50it/s]
Loading safetensors checkpoint shards: 100% Completed | 3/3 [00:02<00:00,  1.50it/s]
(Worker_TP0 pid=9) INFO 11-23 09:00:05 [gpu_model_runner.py:1] Model loading took 7.1 GiB memory and 2.1 seconds
(Worker_TP0 pid=9) INFO 11-23 09:00:06 [backends.py:1] [backbone] Dynamo bytecode transform time: 3.51 s
(Worker_TP1 pid=10) INFO 11-23 09:00:06 [backends.py:1] Dynamo bytecode transform time: 3.51 s
(Worker_TP0 pid=9) INFO 11-23 09:00:07 [backends.py:1] Compiling a graph for compile range (1, 2048) takes 7.71 s
(Worker_TP0 pid=9) INFO 11-23 09:00:08 [gpu_worker.py:1] Available KV cache memory: 9.17 GiB
(EngineCore_DP0 pid=8) INFO 11-23 09:00:09 [kv_cache_utils.py:1] GPU KV cache size: 75,120 tokens
Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   1%|          | 1/67 [00:00<00:21,  3.10it/s]
(Worker_TP0 pid=9) INFO 11-23 09:00:10 [gpu_model_runner.py:1] Graph capturing finished in 15 secs, took 0.56 GiB
(EngineCore_DP0 pid=8) INFO 11-23 09:00:11 [core.py:402] init engine (profile, create kv cache, warmup model) took 9 s
(APIServer pid=7) INFO 11-23 09:00:12 [entry.py:140] Starting vLLM server on http://0.0.0.0:8000
"""


def told(lines):
    """What is told of the lines, as `phase` or as the sentence with numbers."""
    phases, found = Phases(), []
    for line in lines:
        said = phases.feed(line)
        if said is not None:
            found.append(said)
    return found


def names(lines):
    return list(dict.fromkeys(phase.value for phase, _ in told(lines)))


@pytest.mark.parametrize("name", ["a1_clean_start_sigterm", "a12_start_with_compile"])
def test_the_phases_of_a_real_start(name):
    run = recordings.load(name)
    assert names(run.lines[: run.asked]) == (COMPILED if "compile" in name else EAGER)


@pytest.mark.parametrize("name", recordings.names())
def test_no_real_start_goes_back_and_those_that_got_ready_come_to_their_end(name):
    run = recordings.load(name)
    found = names(run.lines)
    order = [phase.value for phase in Phase]
    assert found == sorted(found, key=order.index)
    assert ("INFO:     Application startup complete." not in run.lines) or found[-1] == "Listening"


def test_the_phases_of_a_gpu():
    lines = GPU.replace("\r", "").splitlines()
    assert names(lines) == [*COMPILED[:-1], "Graphs", "Listening"]
    shards = [messages.text(message) for phase, message in told(lines) if phase is Phase.WEIGHTS]
    assert shards == ["Loading the weights.", "Weights 0/3.", "Weights 2/3.", "Weights 3/3."]


def test_a_line_that_comes_twice_is_told_once():
    lines = GPU.replace("\r", "").splitlines()
    assert told(line for line in lines for _ in range(2)) == told(lines)


@pytest.mark.parametrize(
    "line",
    [
        "(Worker pid=9) ERROR 11-23 09:00:00 [x.py:1] Capturing CUDA graphs failed",
        "(APIServer pid=9) INFO 11-23 09:00:00 [x.py:1] Received request: Starting to load model for me...",
        "the user wrote: Available KV cache memory: 1 GiB",
        "",
    ],
)
def test_what_only_looks_like_a_phase_is_none(line):
    assert Phases().feed(line) is None


def test_waiting_is_no_sign_of_life():
    waiting = "No available shared memory broadcast block found in 60 seconds. This typically happens when"
    assert waits(f"(EngineCore_DP0 pid=8) INFO 11-23 09:00:00 [shm_broadcast.py:466] {waiting}")
    assert not waits(GPU.splitlines()[0])
