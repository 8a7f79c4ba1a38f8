"""From an exit status and the last lines to a finding."""

import errno
import os
from pathlib import Path

import pytest

from vllm_fsm.adapters.process.output import TAIL_LINES
from vllm_fsm.diagnosis import explain_exec, explain_exit


def test_a_usage_error_is_permanent() -> None:
    tail = "usage: vllm serve [model_tag]\nvllm serve: error: argument --dtype: invalid choice: 'float7'\n"
    finding = explain_exit(2, tail)
    assert (finding.reason, finding.permanent) == ("BadArguments", True)
    assert finding.evidence == "vllm serve: error: argument --dtype: invalid choice: 'float7'"
    assert dict(finding.message.params) == {"detail": "argument --dtype: invalid choice: 'float7'"}


def test_status_2_alone_proves_nothing() -> None:
    """Python itself exits with 2 when it cannot open a script."""
    finding = explain_exit(2, "python: can't open file 'x'")
    assert (finding.reason, finding.permanent) == ("EngineExited", False)


def test_a_usage_error_is_believed_with_its_status_only() -> None:
    assert explain_exit(1, "vllm: error: unrecognized arguments: --x").reason == "EngineExited"


@pytest.mark.parametrize(("status", "name"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (-6, "SIGABRT"), (-63, "SIG63")])
def test_a_signal_is_named(status: int, name: str) -> None:
    finding = explain_exit(status, "the last words")
    assert finding.reason == "EngineKilled"
    assert dict(finding.message.params) == {"signal": name}
    assert finding.evidence == "the last words"


@pytest.mark.parametrize(
    ("tail", "evidence"),
    [
        ("", ""),
        ("ValueError: a\n\n", "ValueError: a"),
        ("(EngineCore pid=7) ERROR 11-23 09:05:03 [core.py:133] RuntimeError: b", "RuntimeError: b"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("OSError: c\nnanobind: leaked 3 instances!\n - leaked type x", "OSError: c"),
        (
            "d\n<python>/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1",
            "d",
        ),
        ("e\nINFO:     Application shutdown complete.\nINFO:     Finished server process [1]", "e"),
        ("x" * 9000, "x" * 500),
    ],
)
def test_the_last_line_that_says_something_is_the_evidence(tail: str, evidence: str) -> None:
    assert explain_exit(1, tail).evidence == evidence


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
def test_an_error_of_exec_has_a_meaning(number: int, reason: str, permanent: bool) -> None:
    finding = explain_exec(OSError(number, os.strerror(number)), "no-such-vllm", "/bin")
    assert (finding.reason, finding.permanent) == (reason, permanent)


@pytest.mark.parametrize("by_path", [True, False])
def test_a_script_without_its_interpreter_was_found(tmp_path: Path, by_path: bool) -> None:
    (tmp_path / "vllm").touch()
    command = str(tmp_path / "vllm") if by_path else "vllm"
    finding = explain_exec(OSError(errno.ENOENT, "No such file"), command, str(tmp_path))
    assert finding.reason == "EngineNotExecutable"
    assert "interpreter" in dict(finding.message.params)["error"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("recording", "line"),
    [
        ("d3_offline_shard_missing", "FileNotFoundError: Weight files referenced in index but missing"),
        ("d4_offline_tokenizer_missing", "ValueError: Couldn't instantiate the backend tokenizer"),
        ("d5_offline_config_missing", "Value error, Invalid repository ID or local directory specified"),
        ("d6_offline_no_weights", "RuntimeError: Cannot find any model weights with"),
        ("d7_offline_empty_cache", "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate"),
    ],
)
def test_a_file_that_the_cache_lacks_is_recognised_in_what_a_real_vllm_said(recording: str, line: str) -> None:
    log = (Path(__file__).parent / "data" / f"{recording}.log").read_text().splitlines()
    finding = explain_exit(1, "\n".join(log[-TAIL_LINES:]))
    assert (finding.reason, finding.permanent) == ("FileMissing", False)
    assert finding.evidence.startswith(line)


def test_a_request_that_speaks_of_missing_files_is_no_cause() -> None:
    said = "(APIServer pid=7) INFO 11-23 09:05:03 [x.py:1] prompt: 'huggingface_hub.errors.LocalEntryNotFoundError: x'"
    assert explain_exit(1, said).reason == "EngineExited"
