"""From the output and the end of an engine to a finding."""

import errno
import os
import re
import tracemalloc

import pytest

from vllm_fsm import messages
from vllm_fsm.diagnosis.causes import CAUSES, READ
from vllm_fsm.diagnosis.ending import End, Site
from vllm_fsm.diagnosis.execution import explain_exec
from vllm_fsm.diagnosis.stream import MOST_PROCESSES, Diagnosis

SITE = Site("org/given", "hub.example", 8000)
HEADER = "Traceback (most recent call last):"
FRAME = '  File "<site-packages>/vllm/v1/worker/gpu_worker.py", line 1, in load_model'


def explain(status, *lines, asked=False, oom_kills=0, **options):
    diagnosis = Diagnosis(SITE, **options)
    for line in lines:
        diagnosis.feed(line)
    return diagnosis.finding(End(status, asked, oom_kills))


def raised(*said, process="Worker"):
    """The lines of an exception as a process below the server reports it."""
    return [f"({process} pid=7) ERROR 11-23 09:05:03 [core.py:133] {text}" for text in (HEADER, FRAME, *said)]


def test_a_usage_error_is_permanent():
    said = "vllm serve: error: argument --dtype: invalid choice: 'float7'"
    finding = explain(2, "usage: vllm serve [model_tag]", said)
    assert (finding.reason, finding.permanent) == ("BadArguments", True)
    assert finding.evidence == said
    assert dict(finding.message.params) == {"detail": "argument --dtype: invalid choice: 'float7'"}


def test_status_2_alone_proves_nothing():
    """Python itself exits with 2 when it cannot open a script."""
    finding = explain(2, "python: can't open file 'x'")
    assert (finding.reason, finding.permanent) == ("EngineExited", False)


def test_a_usage_error_is_believed_with_its_status_only():
    assert explain(1, "vllm: error: unrecognized arguments: --x").reason == "EngineExited"


@pytest.mark.parametrize(
    ("status", "name"),
    [(-9, "SIGKILL"), (-11, "SIGSEGV"), (-6, "SIGABRT"), (-63, "SIG63"), (137, "SIGKILL"), (139, "SIGSEGV")],
)
def test_a_signal_is_named(status, name):
    finding = explain(status, "the last words")
    assert finding.reason == "EngineKilled"
    assert dict(finding.message.params) == {"signal": name}
    assert finding.evidence == "the last words"


@pytest.mark.parametrize(
    ("lines", "evidence"),
    [
        ([], ""),
        (["ValueError: a", ""], "ValueError: a"),
        (["(EngineCore pid=7) ERROR 11-23 09:05:03 [core.py:133] RuntimeError: b"], "RuntimeError: b"),
        (["\x1b[31mred\x1b[0m"], "red"),
        (["OSError: c", "nanobind: leaked 3 instances!", " - leaked type x"], "OSError: c"),
        (["d", "<python>/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There are 1"], "d"),
        (["e", "INFO:     Application shutdown complete.", "INFO:     Finished server process [1]"], "e"),
        (["x" * 9000], "x" * 500),
        (
            ["Fatal Python error: Segmentation fault", "Extension modules: numpy"],
            "Fatal Python error: Segmentation fault",
        ),
        (["(Worker pid=1) ERROR 11-23 09:05:03 [a.py:1] NCCL went away", "bye"], "NCCL went away"),
    ],
)
def test_the_line_that_matters_most_is_the_evidence_and_is_shown(lines, evidence):
    finding = explain(1, *lines)
    assert (finding.reason, finding.permanent) == ("EngineExited", False)
    assert finding.evidence == evidence
    assert "not known" in messages.text(finding.message)
    assert (evidence[:300] or "nothing") in messages.text(finding.message)


def test_of_an_unknown_failure_the_first_word_from_below_the_server_is_shown():
    finding = explain(
        1,
        *raised("ZeroDivisionError: the root"),
        *raised("Exception: WorkerProc initialization failed due to an exception", process="EngineCore"),
        HEADER,
        FRAME,
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    )
    assert (finding.reason, finding.evidence) == ("EngineExited", "ZeroDivisionError: the root")


def test_of_an_unknown_failure_of_the_server_its_last_word_is_shown():
    link = "The above exception was the direct cause of the following exception:"
    finding = explain(1, HEADER, FRAME, "ZeroDivisionError: low", "", link, "", HEADER, FRAME, "LookupError: high")
    assert finding.evidence == "LookupError: high"


@pytest.mark.parametrize(
    ("said", "reason", "permanent", "params"),
    [
        (
            (
                "ValueError: Free memory on device cuda:0 (3.21/23.65 GiB) on startup is less than desired GPU memory "
                "utilization (0.9, 21.28 GiB). Decrease GPU memory utilization or reduce GPU memory used by others."
            ),
            "GpuBusy",
            False,
            {"free": "3.21", "total": "23.65", "needed": "21.28"},
        ),
        (
            "ValueError: Free memory on the device is less than desired GPU memory utilization",
            "GpuBusyUnmeasured",
            False,
            {},
        ),
        (
            (
                "ValueError: Available memory on node 0 (16.07/17.84 GiB) on startup is less than desired CPU memory "
                "utilization (0.99, 17.66 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls …"
            ),
            "MachineMemoryBusy",
            False,
            {"free": "16.07", "total": "17.84", "needed": "17.66"},
        ),
        (
            "ValueError: max_num_batched_tokens (128) is smaller than max_model_len (256). This effectively …",
            "ContextNeedsBatch",
            True,
            {"wanted": "256", "most": "128"},
        ),
        (
            "ValueError: max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128).",
            "BatchTooSmall",
            True,
            {"wanted": "128", "most": "64"},
        ),
        (
            (
                "ValueError: max_num_seqs (256) exceeds available Mamba cache blocks (90). Each decode sequence "
                "requires one Mamba cache block, so CUDA graph capture cannot proceed. Please lower max_num_seqs …"
            ),
            "TooManySequences",
            True,
            {"wanted": "256", "most": "90"},
        ),
        ("ValueError: No available memory for the cache blocks. Try increasing …", "NoCacheMemory", True, {}),
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (32768), (4.0 GiB KV cache is "
                "needed, which is larger than the available KV cache memory (1.5 GiB). Try …"
            ),
            "ContextNeedsMemory",
            True,
            {"wanted": "32768", "needed": "4.0", "free": "1.5"},
        ),
        (
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "23.65 GiB of which 1.20 GiB is free. Including non-PyTorch memory, this process has 22 GiB …"
            ),
            "GpuMemoryFull",
            False,
            {"tried": "2.00 GiB", "total": "23.65 GiB", "free": "1.20 GiB"},
        ),
        (
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "23.65 GiB of which 1.20 GiB is free. Process 4711 has 18.00 GiB memory in use. Including …"
            ),
            "GpuMemoryTaken",
            False,
            {"pid": "4711", "held": "18.00 GiB"},
        ),
        ("torch.OutOfMemoryError: HIP out of memory.", "GpuMemoryFullUnmeasured", False, {}),
        ("RuntimeError: CUDA error: out of memory", "GpuMemoryFullUnmeasured", False, {}),
        (
            (
                "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "MachineMemoryShort",
            False,
            {"tried": "17.2 GB"},
        ),
        ("MemoryError", "MachineMemoryShortUnmeasured", False, {}),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "SharedMemoryFull", True, {}),
        ("OSError: [Errno 28] No space left on device", "VolumeFull", True, {}),
        (
            "PermissionError: [Errno 13] Permission denied: '/data/x'",
            "PathDenied",
            True,
            {"path": "/data/x", "error": "Permission denied"},
        ),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", "GatedRepoDenied", True, {"repo": "org/given"}),
        (
            "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] x",
            "HubNotTrusted",
            False,
            {"host": "hub.example"},
        ),
        (
            (
                "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. "
                "Current capability: 86."
            ),
            "GpuTooOldForFormat",
            True,
            {"method": "fp8", "least": "8.9", "has": "8.6"},
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "GpuUnsupported",
            True,
            {},
        ),
        (
            "OSError: It looks like the config file at '/models/x/config.json' is not a valid JSON file.",
            "ConfigDamaged",
            True,
            {"path": "/models/x/config.json"},
        ),
        (
            "huggingface_hub.errors.StrictDataclassFieldValidationError: Validation error for field 'num_heads':",
            "ConfigValueWrong",
            True,
            {"name": "num_heads"},
        ),
        ("RuntimeError: Failed to infer device type, please set the environment variable", "NoGpu", True, {}),
        ("ImportError: libcuda.so.1: cannot open shared object file: No such file", "NoGpu", True, {}),
        ("ModuleNotFoundError: No module named 'vllm_fsm_guard'", "GuardNotLoaded", True, {}),
        (
            "ValueError: World size (4) is larger than the number of available GPUs (2) in this node.",
            "TooFewGpus",
            True,
            {"wanted": "4", "has": "2"},
        ),
        (
            "ValueError: The repository org/x contains custom code which must be executed to correctly load the model.",
            "RemoteCodeNeeded",
            True,
            {"repo": "org/given"},
        ),
    ],
)
def test_what_is_known_is_told_with_its_numbers(said, reason, permanent, params):
    finding = explain(1, *raised(said))
    assert (finding.reason, finding.permanent) == (reason, permanent)
    assert dict(finding.message.params) == params
    assert finding.evidence == said[:500]


@pytest.mark.parametrize(
    ("lines", "permanent"),
    [
        (
            [
                HEADER,
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig",
                "  Value error, never seen before. [type=value_error, input_value=ArgsKwargs((), {}), input_type=A]",
            ],
            True,
        ),
        ([HEADER, "vllm.exceptions.VLLMValidationError: never seen before"], True),
        (
            [
                HEADER,
                '  File "<site-packages>/vllm/engine/arg_utils.py", line 1, in create_engine_config',
                "    raise KeyError(",
                "ValueError: never seen before",
            ],
            False,
        ),
    ],
)
def test_a_refusal_is_known_by_where_it_comes_from(lines, permanent):
    finding = explain(1, *lines)
    assert (finding.reason, finding.permanent) == ("ArgumentsRefused", permanent)
    assert dict(finding.message.params) == {"detail": "never seen before"}


def test_the_earliest_cause_wins_and_within_a_traceback_the_one_that_says_most():
    full, busy = "ValueError: No available memory for the cache blocks.", "OSError: [Errno 98] Address already in use"
    gap = "(Worker pid=7) INFO 11-23 09:05:03 [a.py:1] trying again"
    assert explain(1, *raised(full), gap, *raised(busy)).reason == "NoCacheMemory"
    assert explain(1, *raised(busy), gap, *raised(full)).reason == "PortInUse"
    link = "The above exception was the direct cause of the following exception:"
    chain = [
        "httpx.HTTPStatusError: Client error '404 Not Found' for url 'http://h.example/o/n/resolve/main/c'",
        "",
        link,
    ]
    finding = explain(
        1, *raised(*chain, HEADER, FRAME, "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.")
    )
    assert (finding.reason, dict(finding.message.params)) == ("ModelNotFound", {"repo": "o/n"})


def test_what_an_engine_survived_is_no_cause():
    said = raised("torch.OutOfMemoryError: CUDA out of memory.")
    up = "INFO:     Application startup complete."
    answered = 'INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK'
    loaded = "(Worker pid=7) INFO 11-23 09:05:03 [a.py:1] Loading weights took 1.0 seconds"
    assert explain(1, *said).reason == "GpuMemoryFullUnmeasured"
    assert explain(1, *said, up).reason == "EngineExited"
    assert explain(1, *said, loaded).reason == "EngineExited"
    assert explain(1, up, *said, *[answered] * 5).reason == "GpuMemoryFullUnmeasured"
    assert explain(1, up, *said, *[answered] * 30).reason == "EngineExited"


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=7) INFO 11-23 09:05:03 [x.py:1] prompt: 'huggingface_hub.errors.LocalEntryNotFoundError: x'",
        "(APIServer pid=7) INFO 11-23 09:05:03 [x.py:1] torch.OutOfMemoryError: CUDA out of memory",
        "(APIServer pid=7) WARNING 11-23 09:05:03 [x.py:1] Traceback (most recent call last):",
        "(APIServer pid=7) INFO 11-23 09:05:03 [a.py:1] non-default args: {'model': 'org/No available memory for the'}",
        "    OSError: [Errno 28] No space left on device",
        'INFO:     127.0.0.1:1 - "GET /v1/CUDA%20out%20of%20memory HTTP/1.1" 200 OK',
        "You are trying to access a gated repo.",
        "Loading /models/OSError: [Errno 28] No space left on device.safetensors",
    ],
)
def test_what_requests_and_names_say_is_no_cause(line):
    assert explain(1, line).reason == "EngineExited"


def test_the_name_of_a_model_is_no_cause():
    name = "org/CUDA-out-of-memory-Failed-to-infer-device-type"
    said = f"OSError: {name} is not a local folder and is not a valid model identifier listed on 'https://hub'"
    finding = explain(1, *raised(said))
    assert (finding.reason, dict(finding.message.params)) == ("ModelNotFoundOrPrivate", {"repo": name})


def test_what_stands_alone_counts_only_when_nothing_better_was_said():
    alone = "OSError: [Errno 98] Address already in use"
    assert explain(1, alone).reason == "PortInUse"
    assert explain(1, alone, *raised("ZeroDivisionError: x")).reason == "EngineExited"


def test_what_comes_after_a_stop_counts_as_nothing():
    diagnosis = Diagnosis()
    diagnosis.feed("the last words")
    diagnosis.stop()
    for line in raised("torch.OutOfMemoryError: CUDA out of memory."):
        diagnosis.feed(line)
    finding = diagnosis.finding(End(-9, asked=True))
    assert (finding.reason, finding.evidence) == ("EngineStopped", "the last words")


def test_a_stop_by_somebody_else_ends_the_reading_too():
    stopping = "(APIServer pid=1) INFO 11-23 08:51:02 [launcher.py:254] [shutdown] API server: shutdown triggered"
    assert explain(0, stopping, *raised("torch.OutOfMemoryError: CUDA out of memory.")).reason == "EngineExited"


@pytest.mark.parametrize(
    ("said", "reason"),
    [("{'EngineCore': -9}", "EngineKilled"), ("{}", "EngineVanished"), ("{'EngineCore_DP0': 1}", "EngineVanished")],
)
def test_a_wrapper_alone_tells_that_a_process_ended(said, reason):
    line = f"RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {said}"
    assert explain(1, HEADER, FRAME, line).reason == reason


def test_the_kernels_counter_explains_silence_and_not_a_crash():
    assert explain(-9, oom_kills=1).reason == "MachineMemoryFull"
    assert explain(137, oom_kills=2).reason == "MachineMemoryFull"
    assert explain(-11, oom_kills=1).reason == "EngineKilled"
    assert explain(1, "ValueError: x", oom_kills=1).reason == "EngineExited"


def test_what_is_kept_is_redacted_before_it_is_shortened():
    secret = "kSecretKey0123456789ab"
    line = "RuntimeError: " + "x" * 480 + secret
    finding = explain(1, *raised(line), redact=lambda text: text.replace(secret, "***"))
    assert "kS" not in finding.evidence + messages.text(finding.message)
    said = f"PermissionError: [Errno 13] Permission denied: '/data/{secret}'"
    assert secret not in repr(explain(1, *raised(said), redact=lambda text: text.replace(secret, "***")))
    assert secret not in repr(explain(2, f"vllm: error: {secret}", redact=lambda text: text.replace(secret, "***")))


def test_memory_is_bounded_whoever_writes():
    diagnosis = Diagnosis()
    tracemalloc.start()
    for number in range(2000):
        diagnosis.feed(f"(Worker_TP{number} pid={number}) ERROR 11-23 09:05:03 [a.py:1] RuntimeError: {'x' * 1000}")
        diagnosis.feed(f"ValueError: {number}" + "y" * 5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_PROCESSES * 20_000


def test_every_row_has_a_sentence_and_can_fill_it_in():
    everywhere = {"repo", "host", "port", "line"}
    for cause in CAUSES:
        told = set(cause.needs) | everywhere | set(_groups(cause.says))
        assert set(messages.parameters(cause.reason)) <= told, cause.reason


def _groups(pattern):
    return [READ[name][0] if name in READ else name for name in re.compile(pattern).groupindex]


@pytest.mark.parametrize(
    ("number", "reason", "permanent"),
    [
        (errno.ENOENT, "EngineNotFound", True),
        (errno.ENOTDIR, "EngineNotFound", True),
        (errno.EACCES, "EngineNotExecutable", True),
        (errno.ENOEXEC, "EngineNotExecutable", True),
        (errno.E2BIG, "EngineStartFailed", True),
        (errno.ENOMEM, "EngineStartFailed", False),
        (errno.ETXTBSY, "EngineStartFailed", False),
    ],
)
def test_an_error_of_exec_has_a_meaning(number, reason, permanent):
    finding = explain_exec(OSError(number, os.strerror(number)), "no-such-vllm", "/bin")
    assert (finding.reason, finding.permanent) == (reason, permanent)


@pytest.mark.parametrize("by_path", [True, False])
def test_a_script_without_its_interpreter_was_found(tmp_path, by_path):
    (tmp_path / "vllm").touch()
    command = str(tmp_path / "vllm") if by_path else "vllm"
    finding = explain_exec(OSError(errno.ENOENT, "No such file"), command, str(tmp_path))
    assert finding.reason == "EngineNotExecutable"
    assert "interpreter" in dict(finding.message.params)["error"]
