"""What is known of the engine's failures: a table from what an exception says to a reason, and what to read out of it.

Wording drifts between releases, so a row matches a short stable fragment, whatever the case. It is anchored where a
name could stand before it: what users call their models, files and requests must not decide. What the CPU build of
vLLM 0.32.0 and huggingface_hub 2.4.0 print was recorded (`tests/unit/data/recordings`); rows about GPUs follow the
wording of their sources and were never seen in a run here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile when it is first needed: most engines report no exception, and all rows take 15 ms."""
    return re.compile(pattern, re.IGNORECASE)


GENERAL, USUAL, SPECIAL = range(3)
"""How much a row says. Within one traceback the one that says most wins, however late it comes."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One row."""

    reason: str
    """The message; its parameters are the groups of `says`, and for those that it lacks the facts of the traceback."""
    says: str
    """A pattern that is searched in the exception's text, which is without its class."""
    kind: str = r"\w+"
    """A pattern of the exception's class, without its module."""
    permanent: bool = False
    """The same start would fail the same way until the user changes something."""
    rank: int = USUAL
    needs: tuple[str, ...] = ()
    """Facts without which the row says nothing; a later row tells the same with fewer numbers."""
    status: str | None = None
    """The answer of the hub that must have been reported in the same traceback; None for any, or none."""

    def match(self, kind: str, text: str) -> re.Match[str] | None:
        """Return what the row finds in an exception of class `kind`, None where it is about another."""
        return _compiled(self.says).search(text) if _compiled(self.kind).fullmatch(kind) else None


def _capability(digits: str) -> str:
    """Write 89 as 8.9 and 100 as 10.0, as NVIDIA does."""
    return f"{digits[:-1]}.{digits[-1]}"


READ: Final[Mapping[str, tuple[str, Callable[[str], str]]]] = {
    "least_capability": ("least", _capability),
    "has_capability": ("has", _capability),
    "tried_bytes": ("tried", lambda digits: f"{int(digits[:20]) / 1e9:.1f} GB"),
    "status2": ("status", str),
}
"""Groups that are not told as they are read: the parameter, and how it is written."""

_OS = r"OSError|PermissionError|FileNotFoundError|EnvironmentError|IOError"
_HTTP = r"HTTPStatusError|HfHubHTTPError|HTTPError"
_CONNECT = r"ConnectError|ConnectionError|ConnectTimeout|NewConnectionError|MaxRetryError|gaierror|ProxyError"

CAUSES: Final[tuple[Cause, ...]] = (
    # --- GPU memory ---
    Cause(
        "GpuBusy",
        r"^Free memory on device .{0,40}?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than desired "
        r"GPU memory utilization(?: \((?:[\d.]+, )?(?P<needed>[\d.]+) GiB\))?",
        rank=SPECIAL,
        needs=("needed",),
    ),
    Cause("GpuBusyUnmeasured", r"is less than desired GPU memory utilization", rank=SPECIAL),
    Cause(
        "ContextNeedsMemoryMost",
        r"^To serve at least one request with the models?'s max seq len \((?P<wanted>\d+)\),? \(?(?P<needed>[\d.]+) "
        r"GiB KV cache is needed.{0,120}?KV cache memory \((?P<free>[\d.]+) GiB\)"
        r".{0,200}?estimated maximum model length is (?P<most>\d+)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause(
        "ContextNeedsMemory",
        r"^To serve at least one request with the models?'s max seq len \((?P<wanted>\d+)\),? \(?(?P<needed>[\d.]+) "
        r"GiB KV cache is needed.{0,120}?KV cache memory \((?P<free>[\d.]+) GiB\)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause("NoCacheMemory", r"^No available memory for the cache blocks", permanent=True),
    Cause(
        "CacheTooLarge",
        r"^Available memory on node .{0,20}?\((?P<free>[\d.]+)/[\d.]+ GiB\) on kv cache allocation is less than "
        r"requested memory for kv \((?P<wanted>[\d.]+) GiB\)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause(
        "GpuMemoryTaken",
        r"out of memory.*?Process (?P<pid>\d+) has (?P<held>[\d.]+ [KMGT]iB) memory in use",
        kind=r"OutOfMemoryError|RuntimeError",
        rank=SPECIAL,
    ),
    Cause(
        "GpuMemoryFull",
        r"^(?:CUDA|HIP|XPU)\b.{0,40}?out of memory.{0,40}?Tried to allocate (?P<tried>[\d.]+ [KMGT]?i?B)"
        r".*?total capacity of (?P<total>[\d.]+ [KMGT]iB) of which (?P<free>[\d.]+ (?:[KMGT]i?B|bytes)) is free",
        kind=r"OutOfMemoryError|RuntimeError",
    ),
    Cause("GpuMemoryFullUnmeasured", r"^(?:CUDA|HIP|XPU)\b.{0,40}?out of memory", kind=r"OutOfMemoryError|\w*Error"),
    # --- memory of the machine ---
    Cause(
        "MachineMemoryBusy",
        r"^Available memory on node .{0,20}?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than desired "
        r"CPU memory utilization \((?:[\d.]+, )?(?P<needed>[\d.]+) GiB\)",
        rank=SPECIAL,
    ),
    Cause(
        "MachineMemoryShort",
        r"can't allocate memory: you tried to allocate (?P<tried_bytes>\d+) bytes",
        kind=r"RuntimeError|OutOfMemoryError",
    ),
    Cause("MachineMemoryShortUnmeasured", r"", kind=r"MemoryError"),
    Cause("MachineMemoryShortUnmeasured", r"^\[Errno 12\]", kind=_OS),
    # --- disks ---
    Cause("SharedMemoryFull", r"^\[Errno 28\].*'/dev/shm\b", kind=_OS, permanent=True, rank=SPECIAL),
    Cause("VolumeFullFor", r"^\[Errno 28\]", kind=_OS, permanent=True, needs=("expected", "room")),
    Cause("VolumeFull", r"^\[Errno 28\]", kind=_OS, permanent=True),
    Cause("CacheNotWritable", r"^\[Errno 30\] (?P<error>[^:]{1,60}): '(?P<path>[^']{1,300})", kind=_OS, permanent=True),
    Cause("PathDenied", r"^\[Errno 13\] (?P<error>[^:]{1,60}): '(?P<path>[^']{1,300})", kind=_OS, permanent=True),
    # --- the hub ---
    Cause("GatedRepoDenied", r"", kind=r"GatedRepoError", permanent=True, rank=SPECIAL, status="403"),
    Cause("GatedRepo", r"", kind=r"GatedRepoError", permanent=True, rank=SPECIAL),
    Cause("GatedRepoDenied", r"^You are trying to access a gated repo", permanent=True, rank=SPECIAL, status="403"),
    Cause("GatedRepo", r"^You are trying to access a gated repo", permanent=True, rank=SPECIAL),
    Cause(
        "RevisionNotFound",
        r"^(?P<revision>.{1,200}?) is not a valid git identifier .{0,100}? that exists for this model name",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause("RevisionNotFound", r"", kind=r"RevisionNotFoundError", permanent=True, rank=SPECIAL, needs=("revision",)),
    Cause("RevisionNotFoundUnnamed", r"", kind=r"RevisionNotFoundError", permanent=True, rank=SPECIAL),
    Cause("ModelNotFoundOrPrivate", r"", kind=r"RepositoryNotFoundError", permanent=True, rank=SPECIAL, status="401"),
    Cause("ModelNotFound", r"", kind=r"RepositoryNotFoundError", permanent=True, rank=SPECIAL),
    Cause(
        "ModelNotFoundOrPrivate",
        r"^(?P<repo>.{1,200}?) is not a local folder and is not a valid model identifier",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause(
        "ModelPathMissing",
        r"^Repo id must .{0,120}?: '(?P<path>[^']{1,300})'",
        kind=r"HFValidationError",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause("HubRateLimited", r"^Client error '429\b|\b429 Too Many Requests|^429 Client Error", kind=_HTTP),
    Cause("HubError", r"^Server error '(?P<status>5\d\d)\b|^(?P<status2>5\d\d) Server Error", kind=_HTTP),
    Cause("NotAHub", r"^Client error '404\b|^404 Client Error", kind=_HTTP),
    Cause("TokenRefused", r"^Client error '401\b|^401 Client Error", kind=_HTTP, permanent=True, rank=GENERAL),
    Cause("HubForbids", r"^Client error '403\b|^403 Client Error", kind=_HTTP, permanent=True, rank=GENERAL),
    Cause(
        "HubNameUnknown",
        r"Name or service not known|Temporary failure in name resolution|No address associated with hostname"
        r"|nodename nor servname|Failed to resolve|Name resolution",
        kind=_CONNECT,
        rank=SPECIAL,
    ),
    Cause("HubNotTrusted", r"CERTIFICATE_VERIFY_FAILED", rank=SPECIAL),
    Cause("HubSilent", r"", kind=r"ReadTimeout|ConnectTimeout|PoolTimeout|ReadTimeoutError"),
    Cause("HubUnreachable", r"", kind=r"ConnectError|NewConnectionError|MaxRetryError|ProxyError"),
    Cause("DownloadCut", r"", kind=r"RemoteProtocolError|ReadError|IncompleteRead|ChunkedEncodingError"),
    # --- files of the model ---
    Cause("FileMissing", r"", kind=r"OfflineModeIsEnabled|IncompleteSnapshotError", rank=SPECIAL),
    Cause("FileMissing", r"", kind=r"LocalEntryNotFoundError", rank=GENERAL),
    Cause(
        "FileMissing",
        r"^We couldn't connect to '.{0,200}?' to load the files, and couldn't find them in the cached files",
        rank=GENERAL,
    ),
    Cause("FileMissing", r"^Weight files referenced in index but missing"),
    Cause("FileMissing", r"^Cannot find any model weights with"),
    Cause("FileMissing", r"^Couldn't instantiate the backend tokenizer"),
    Cause("FileMissing", r"^Invalid repository ID or local directory specified"),
    Cause("WeightsDamaged", r"^(?P<detail>.{1,200})", kind=r"SafetensorError", permanent=True),
    Cause(
        "ConfigDamaged",
        r"^It looks like the config file at '(?P<path>[^']{1,300})' is not a valid JSON file",
        permanent=True,
    ),
    # --- the model and this vLLM ---
    Cause(
        "ModelUnsupported",
        r"^Model architectures \['?(?P<architecture>[^\]',]{1,100}).{0,200}?are not supported for now",
        permanent=True,
    ),
    Cause(
        "ModelTypeUnknown",
        r"checkpoint you are trying to load has model type `?(?P<type>[^`\s]{1,80})`? but Transformers does "
        r"not recognize",
        permanent=True,
    ),
    Cause(
        "ConfigValueWrong",
        r"^Validation error for field '(?P<name>[\w.]{1,80})'",
        kind=r"StrictDataclassFieldValidationError",
        permanent=True,
    ),
    Cause("QuantizationUnknown", r"^Unknown quantization method: (?P<method>\w(?:[\w.-]{0,60}\w)?)", permanent=True),
    Cause(
        "RemoteCodeNeeded",
        r"(?:contains? custom code which must be executed|execute the configuration file in that repo)",
        permanent=True,
    ),
    # --- the machine and this vLLM ---
    Cause(
        "GpuTooOldForFormat",
        r"^The quantization method (?P<method>[\w.-]{1,60}) is not supported for the current GPU\.? Minimum "
        r"capability: (?P<least_capability>\d{2,3})\.? Current capability: (?P<has_capability>\d{2,3})",
        permanent=True,
    ),
    Cause("GpuUnsupported", r"no kernel image is available for execution on the device", permanent=True),
    Cause("DriverTooOld", r"NVIDIA driver on your system is too old", permanent=True),
    Cause("NoGpu", r"^Failed to infer device type", permanent=True),
    Cause("NoGpu", r"^Found no NVIDIA driver|^No CUDA GPUs are available|^No HIP GPUs are available", permanent=True),
    Cause("NoGpu", r"^libcuda\.so\.1: cannot open shared object file", permanent=True),
    Cause(
        "TooFewGpus",
        r"World size \((?P<wanted>\d+)\) is larger than the number of available GPUs \((?P<has>\d+)\)",
        permanent=True,
    ),
    Cause("PortInUse", r"^\[Errno 98\]", kind=_OS),
    Cause(
        "GuardNotLoaded",
        r"^No module named '?vllm_fsm_guard\b",
        kind=r"ModuleNotFoundError|ImportError",
        permanent=True,
        rank=SPECIAL,
    ),
    # --- the arguments ---
    Cause(
        "ContextTooLong",
        r"^User-specified max_model_len \((?P<wanted>\d+)\) is greater than the derived max_model_len "
        r"\([^)]{0,80}?=(?P<most>\d+)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause(
        "ContextNeedsBatch",
        r"^max_num_batched_tokens \((?P<most>\d+)\) is smaller than max_model_len \((?P<wanted>\d+)\)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause(
        "BatchTooSmall",
        r"^max_num_batched_tokens \((?P<most>\d+)\) must be greater than or equal to max_num_seqs \((?P<wanted>\d+)\)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause(
        "TooManySequences",
        r"^max_num_seqs \((?P<wanted>\d+)\) exceeds available Mamba cache blocks \((?P<most>\d+)\)",
        permanent=True,
        rank=SPECIAL,
    ),
    Cause("ToolParserUnknown", r"invalid tool call parser: (?P<name>[\w.-]{1,60})", kind=r"KeyError", permanent=True),
    Cause("ReasoningParserUnknown", r"^.?Reasoning parser '(?P<name>[\w.-]{1,60})' not found", permanent=True),
    Cause("ReasoningParserUnknown", r"invalid reasoning parser: (?P<name>[\w.-]{1,60})", permanent=True),
    Cause(
        "ChatTemplateMissing",
        r"^The supplied chat template string \((?P<path>.{1,300}?)\) appears path-like, but doesn't exist",
        permanent=True,
    ),
    Cause(
        "FlagNeedsFlag",
        r"^Error: (?P<flag>--[\w-]{1,60}) requires (?P<other>--[\w-]{1,60})",
        kind=r"TypeError|ValueError",
        permanent=True,
    ),
    Cause(
        "SpeculativeMethodUnsupported",
        r"^Unsupported speculative method: '?(?P<method>[\w.-]{1,60})",
        permanent=True,
    ),
)

WRAPPERS: Final = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineCore encountered an issue"
    r"|See (?:root cause|stack trace)|Executor failed|failed to be inspected|Engine process (?:failed to start|died)"
    r"|Timed out waiting for engine core processes to start|EngineDeadError|\bcancelled\b",
    re.IGNORECASE,
)
"""What is said when something below failed: a symptom, whatever it is called."""
WRAPPING: Final = frozenset({"EngineDeadError", "CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"})
"""Classes of such exceptions."""
VANISHED: Final = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineCore encountered an issue"
    r"|engine core exited unexpectedly",
    re.IGNORECASE,
)
"""What is said of a process that ended. When it had reported no exception, it was ended from outside or by a crash."""
DIED: Final = re.compile(
    r"Worker proc \S{1,80} died unexpectedly \(exit code: (-?\d+)\)"
    r"|Failed core proc\(s\): \{[^}]{0,200}?: (-?\d+)[,}]"
)
"""The one number that is told of such an end: negative for a signal."""
FACTS: Final = (
    re.compile(
        r"https?://[^/\s'\"@]{1,200}/(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})/resolve/(?P<revision>[^/\s'\"]{1,120})/"
    ),
    re.compile(r"https?://(?:[^/\s'\"@]{1,100}@)?(?P<host>[\w.-]{1,120})[^\s'\"]{0,300}/resolve/"),
    re.compile(r"^Invalid rev id: (?P<revision>\S{1,200})"),
    re.compile(r"connect to '?https?://(?:[^/\s'\"@]{1,100}@)?(?P<host>[\w.-]{1,120})"),
    re.compile(r"have access to it at https?://[^/\s]{1,120}/(?P<repo>[\w.-]{1,96}/[\w.-]{1,96}?)\.?$"),
    re.compile(r"Access to model (?P<repo>[\w.-]{1,96}/[\w.-]{1,96}) is restricted"),
    re.compile(r"Check the model page at 'https?://[^/\s]{1,120}/(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})'"),
    re.compile(r"\b(?P<status>[45]\d\d) (?:Client|Server) Error|(?:Client|Server) error '(?P<status2>[45]\d\d)\b"),
)
"""What the lines of one traceback tell besides: each group is a parameter of its name."""
WARNED: Final = re.compile(
    r"Not enough free disk space to download the file.{0,60}?expected file size is: (?P<expected>[\d.]+ [kKMGT]?B)"
    r".{0,400}? only has (?P<room>[\d.]+ [kKMGT]?B) free"
)
"""huggingface_hub warns of this and goes on; the error that follows has no numbers."""
ONLY_THERE: Final = frozenset(
    {"create_engine_config", "from_cli_args", "validate_parsed_serve_args", "validate_api_server_args"}
)
"""Functions of vLLM that do nothing but look at the arguments and the model's configuration."""
