"""What a real vLLM printed is understood, also where it is cut, mixed, doubled, or written as other releases do."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import recordings
from vllm_fsm import messages
from vllm_fsm.diagnosis.stream import Diagnosis

EXPECTED = {
    "b1_unknown_flag": ("BadArguments", True),
    "b2_bad_int_value": ("BadArguments", True),
    "b3_bad_choice": ("BadArguments", True),
    "b4_bad_json": ("BadArguments", True),
    "b5_bad_tool_parser": ("ToolParserUnknown", True),
    "b6_bad_reasoning_parser": ("ReasoningParserUnknown", True),
    "b7_chat_template_missing": ("ChatTemplateMissing", True),
    "b8_tool_choice_without_parser": ("FlagNeedsFlag", True),
    "b9_missing_flag_value": ("BadArguments", True),
    "c2_model_not_found_no_token": ("ModelNotFoundOrPrivate", True),
    "c3_model_not_found_token": ("ModelNotFound", True),
    "c4_gated_no_token": ("GatedRepo", True),
    "c5_gated_token_no_access": ("GatedRepoDenied", True),
    "c6_bad_token": ("TokenRefused", True),
    "c7_hub_refused": ("HubUnreachable", False),
    "c8_hub_dns_fail": ("HubNameUnknown", False),
    "c9_wrong_revision": ("RevisionNotFound", True),
    "c10_hub_503": ("HubError", False),
    "c12_weights_stall_forever": ("HubSilent", False),
    "c14_weights_500": ("HubError", False),
    "c16_not_a_hub": ("NotAHub", False),
    "c18_rate_limited": ("HubRateLimited", False),
    "d3_offline_shard_missing": ("FileMissing", False),
    "d4_offline_tokenizer_missing": ("FileMissing", False),
    "d5_offline_config_missing": ("FileMissing", False),
    "d6_offline_no_weights": ("FileMissing", False),
    "d7_offline_empty_cache": ("FileMissing", False),
    "d8_sigkill_mid_download": ("EngineKilled", False),
    "e1_kv_space_larger_than_ram": ("CacheTooLarge", True),
    "e2_max_len_exceeds_kv_cache": ("ContextNeedsMemoryMost", True),
    "e3_max_len_exceeds_model": ("ContextTooLong", True),
    "e4_truncated_safetensors": ("WeightsDamaged", True),
    "e5_garbage_safetensors_header": ("WeightsDamaged", True),
    "e6_tokenizer_missing": ("FileMissing", False),
    "e7_unsupported_architecture": ("ModelUnsupported", True),
    "e8_unknown_model_type": ("ModelTypeUnknown", True),
    "e9_port_in_use": ("PortInUse", False),
    "e10_disk_full_while_downloading": ("VolumeFullFor", True),
    "e11_read_only_cache": ("CacheNotWritable", True),
    "e12_no_weights_files": ("FileMissing", False),
    "e13_bitsandbytes_preset": ("QuantizationUnknown", True),
    "e14_worker_killed_while_loading": ("EngineVanished", False),
    "e15_model_path_missing": ("ModelPathMissing", True),
    "e16_speculative_config_unusable": ("SpeculativeMethodUnsupported", True),
    "e17_cpu_memory_short": ("MachineMemoryBusy", False),
    "e18_batch_smaller_than_sequences": ("BatchTooSmall", True),
    "e19_context_exceeds_batch": ("ContextNeedsBatch", True),
    "e20_config_not_json": ("ConfigDamaged", True),
    "e21_hf_overrides_wrong": ("ConfigValueWrong", True),
    "f1_sigkill_api_server": ("EngineKilled", False),
    "f1b_sigkill_api_server_busy": ("EngineKilled", False),
    "f2_sigkill_engine_core": ("EngineVanished", False),
    "f2b_sigkill_engine_core_busy": ("EngineVanished", False),
    "f3_sigkill_worker": ("EngineKilled", False),
    "f4_worker_dies_on_first_completion": ("EngineKilled", False),
}
NO_ENGINE = {"d11_snapshot_download_sigterm", "d12_snapshot_download_sigint", "d13_snapshot_download_sigkill"} | {
    "d2_predownload_then_offline_step1_snapshot_download"
}
"""Runs of a downloader: there is nothing to say about an engine."""
CLEAN = sorted(set(recordings.names()) - set(EXPECTED) - NO_ENGINE)
READ_BY_STATUS = {name for name, (reason, _) in EXPECTED.items() if reason == "EngineKilled"}
PREFIX = re.compile(r"\((\w+)[\w-]* pid=(\d+)\) ")
LEVEL = re.compile(r"^(?:INFO|WARNING|ERROR) \d\d-\d\d [\d:]+ \[[^]]*\] ?")

failures = pytest.mark.parametrize("name", sorted(EXPECTED))


def verdict(name, change=list):
    finding = recordings.load(name).finding(change)
    return finding.reason, finding.permanent


def renamed(form):
    """Lines whose processes are named as another release does."""
    return lambda lines: [PREFIX.sub(lambda old: form.format(name=old[1], pid=old[2]), line) for line in lines]


def undecorated(lines):
    """Lines of no logger at all."""
    return [LEVEL.sub("", PREFIX.sub("", line)) for line in lines]


def two_workers(lines, seed=1):
    """The same from two workers at once, their lines mixed."""
    draw = random.Random(seed)
    mixed, waiting = [], []
    for line in lines:
        if "(Worker pid=" not in line:
            mixed += waiting
            waiting = []
            mixed.append(line)
            continue
        mixed.append(line.replace("(Worker pid=", "(Worker_TP0 pid="))
        waiting.append(line.replace("(Worker pid=", "(Worker_TP1 pid=9"))
        for _ in range(draw.randrange(3)):
            if waiting:
                mixed.append(waiting.pop(0))
    return mixed + waiting


def longer(lines):
    """Ten times as long: noise of every kind between all lines."""
    noise = [
        "(APIServer pid=9) INFO 11-23 09:05:03 [loggers.py:1] Engine 000: no error failed, memory 12 GiB",
        "(APIServer pid=9) WARNING 11-23 09:05:03 [x.py:1] OSError: [Errno 28] No space left on device",
        "Loading safetensors checkpoint shards:  10% Completed | 1/10 [00:00<?, ?it/s]",
    ]
    return [text for line in lines for text in (*noise, *noise, *noise, line)]


FORMS = {
    "other names": renamed("({name}_DP0 pid={pid}) "),
    "ranks": renamed("({name}_TP1 pid={pid}) "),
    "older workers": renamed("(Vllm{name} rank=1 pid={pid}) "),
    "no names": renamed(""),
    "nothing": undecorated,
    "lines doubled": lambda lines: [line for line in lines for _ in range(2)],
    "lines ten times": lambda lines: [line for line in lines for _ in range(10)],
    "log doubled": lambda lines: lines * 2,
    "two workers": two_workers,
    "ten times longer": longer,
    "coloured": lambda lines: [f"\x1b[36m{line}\x1b[0m" for line in lines],
    "cut": lambda lines: [line[:420] for line in lines],
}


def test_every_recording_has_an_expectation():
    assert len(CLEAN) >= 35
    assert set(EXPECTED) | set(CLEAN) | NO_ENGINE == set(recordings.names())


@failures
def test_a_failure_is_recognised(name):
    assert verdict(name) == EXPECTED[name]


@pytest.mark.parametrize("form", FORMS)
@failures
def test_a_failure_is_recognised_in_any_form(name, form):
    assert verdict(name, FORMS[form]) == EXPECTED[name]


@failures
def test_a_failure_is_told_in_full_with_the_engines_line(name):
    finding = recordings.load(name).finding()
    assert messages.text(finding.message)
    assert finding.evidence in "\n".join(recordings.load(name).lines)


@failures
def test_lines_that_are_lost_change_nothing_as_long_as_the_cause_stands_in_its_traceback(name):
    recording = recordings.load(name)
    kept = (recording.finding().evidence, "Traceback (most recent", "The above exception", "During handling")
    for seed in range(20):
        draw = random.Random(seed)
        lost = [line for line in recording.lines if any(text in line for text in kept) or draw.random() < 0.8]
        reason, permanent = EXPECTED[name]
        found = recording.finding(lambda _, lost=lost: lost)
        told = found.reason.removesuffix("For").removesuffix("OrPrivate").removesuffix("Denied")
        assert reason.startswith(told), seed
        assert found.permanent is permanent


@pytest.mark.parametrize("name", CLEAN)
def test_a_run_that_was_asked_to_end_has_no_cause(name):
    assert verdict(name) == ("EngineStopped", False)
    heard = recordings.load(name).heard().heard()
    assert (heard.known, heard.unknown, heard.loose, heard.usage) == (None, None, None, "")


@pytest.mark.parametrize("name", sorted(READ_BY_STATUS | {"e14_worker_killed_while_loading", "f2_sigkill_engine_core"}))
def test_a_silent_end_is_for_want_of_memory_when_the_kernel_counted_it(name):
    finding = recordings.load(name).finding(oom_kills=1)
    expected = "EngineKilled" if name.startswith("f4") else "MachineMemoryFull"
    assert (finding.reason, finding.permanent) == (expected, False)


@pytest.mark.parametrize("name", ["e3_max_len_exceeds_model", "c4_gated_no_token", "b1_unknown_flag"])
def test_what_the_engine_says_comes_before_the_kernels_counter(name):
    assert recordings.load(name).finding(oom_kills=3).reason == EXPECTED[name][0]


@given(st.data())
def test_a_cause_is_found_wherever_noise_stands(data):
    """Whatever harmless lines come between, in any number: the reason stays."""
    name = data.draw(st.sampled_from(sorted(EXPECTED)))
    noise = data.draw(
        st.lists(
            st.sampled_from(
                [
                    "",
                    " ",
                    "\x1b[0m",
                    "(Worker pid=1) INFO 01-02 03:04:05 [a.py:1] RuntimeError: CUDA out of memory",
                    "(APIServer pid=2) WARNING 01-02 03:04:05 [a.py:1] Traceback (most recent call last):",
                    "(EngineCore_DP0 pid=3) DEBUG 01-02 03:04:05 [a.py:1] OSError: [Errno 98] Address already in use",
                    "Capturing CUDA graphs:  10%|#         | 1/10 [00:01<00:09,  1.1it/s]",
                    'INFO:     127.0.0.1:1 - "GET /No%20space%20left HTTP/1.1" 404 Not Found',
                ]
            ),
            min_size=1,
            max_size=5,
        )
    )
    seed = data.draw(st.integers(0, 1000))

    def change(lines):
        draw = random.Random(seed)
        for line in lines:
            while draw.random() < 0.3:
                yield draw.choice(noise)
            yield line

    finding = recordings.load(name).finding(change)
    assert (finding.reason, finding.permanent) == EXPECTED[name]


@given(st.lists(st.text(max_size=300) | st.sampled_from([*recordings.load("e10_disk_full_while_downloading").lines])))
def test_nothing_that_is_printed_breaks_it(lines):
    diagnosis = Diagnosis()
    for line in lines:
        diagnosis.feed(line)
    finding = diagnosis.finding(recordings.End(1))
    assert len(finding.evidence) <= 500
    assert messages.text(finding.message)
