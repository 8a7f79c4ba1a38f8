"""What would mend a failed start: which number goes where, and that nothing else is touched."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support import recordings
from support.flag_lines import Lines
from vllm_fsm import flags, messages
from vllm_fsm.argument_check import check
from vllm_fsm.command_line import read
from vllm_fsm.complaints import Severity
from vllm_fsm.core.snapshot import Message
from vllm_fsm.fix import CHANGED, CONTEXT, REASONS, Change, apply, mend

TABLE = flags.load()
CACHE = "VLLM_CPU_KVCACHE_SPACE"
OTHERS = [
    ("--dtype", "auto"),
    ("--enforce_eager",),
    ("--served-model-name", "a", "b"),
    ("--hf-overrides", '{"max_model_len": 9000, "x": "--max-model-len 7"}'),
    ("--speculative-config", '{"method": "ngram", "max_model_len": 9000}'),
    ("-tp", "2"),
    ("-tp=2",),
    ("-O3",),
    ("-cc.mode=3",),
    ("--seed=-1",),
    ("--chat-template", "{{ messages }} --max-model-len 5"),
    ("--max-num-batched-tokens", "16K"),
]
SPELLED = [
    ("--max-model-len", "{}"),
    ("--max_model_len", "{}"),
    ("--max-model-len={}",),
    ("--max_model_len={}",),
    ("--max-model-l", "{}"),
    ("--max-model-l={}",),
]
LONGER = st.sampled_from(("8192", "8k", "8K", "1m", " 9_000 ", "25.6k", "auto", "AUTO"))


def too_long(most=4096, wanted=1_000_000):
    return Message.of("ContextTooLong", wanted=str(wanted), most=str(most))


def mended(failure, *arguments, **environment):
    return mend(failure, arguments, tuple(environment.items()), TABLE)


def told(line):
    """Each flag with its values, apart from the context length."""
    return [(g.flag, [v.text for v in g.values]) for g in read(line, TABLE).given if CONTEXT not in g.flag.names]


@st.composite
def contexts(draw):
    form = draw(st.sampled_from(SPELLED))
    value = draw(LONGER)
    return tuple(word.format(value) for word in form)


@st.composite
def lines(draw):
    """A model and flags in any order, the context length any number of times among them."""
    groups = draw(st.lists(st.sampled_from(OTHERS) | contexts(), max_size=8))
    model = draw(st.sampled_from([("org/name",), ("--model", "org/name"), ("--model=org/name",)]))
    groups.insert(0 if len(model) == 1 and "=" not in model[0] else draw(st.integers(0, len(groups))), model)
    return [word for group in groups for word in group]


@given(lines())
def test_the_flag_has_the_wanted_value_and_all_others_are_as_they_were(line):
    fix = mended(too_long(), *line)
    assert fix is not None
    now = [g for g in read(fix.arguments, TABLE).given if CONTEXT in g.flag.names]
    assert [[value.text for value in one.values] for one in now] == [["4096"]]
    assert told(fix.arguments) == told(line)
    assert check(fix.arguments, (), TABLE, TABLE.version, exists=lambda _: True) == ()
    # What is left of the old words is in its order.
    rest = iter(line)
    assert all(word in rest for word in fix.arguments if "4096" not in word and word != CONTEXT)
    assert mended(too_long(), *fix.arguments) is None


@given(st.integers(0, 10**9), contexts())
def test_it_holds_for_any_flags_that_this_vllm_has(seed, context):
    line = [*Lines(TABLE, seed).right(), *context]
    said = check(line, (), TABLE, TABLE.version, exists=lambda _: True)
    assume(not any(one.severity is Severity.ERROR for one in said))
    fix = mended(too_long(), *line)
    assert fix is not None
    assert told(fix.arguments) == told(line)
    assert [v.text for v in read(fix.arguments, TABLE).last(CONTEXT).values] == ["4096"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m", "m --max-model-len 4096"),
        ("m --max-model-len 8192 --seed 1", "m --max-model-len 4096 --seed 1"),
        ("m --max-model-len=8k --seed 1", "m --max-model-len=4096 --seed 1"),
        ("m --max_model_len=8k --seed 1", "m --max_model_len=4096 --seed 1"),
        ("m --max-model-len 9k --seed 1 --max_model_len 8k", "m --seed 1 --max_model_len 4096"),
        ("--max-model-len 9k --model m", "--max-model-len 4096 --model m"),
        ("m --max-model-len=-1", "m --max-model-len=4096"),
        ("m --max-model-len 8k --of-another-vllm", "m --max-model-len 4096 --of-another-vllm"),
    ],
)
def test_where_the_value_goes(line, expected):
    assert mended(too_long(), *line.split()).arguments == tuple(expected.split())


@pytest.mark.parametrize(
    ("failure", "line", "change"),
    [
        (too_long(), "m", "--max-model-len 4096"),
        (Message.of("ContextNeedsMemoryMost", wanted="131072", most="4096"), "m", "--max-model-len 4096"),
        (Message.of("ContextNeedsBatch", wanted="8192", most="2048"), "m", "--max-model-len 2048"),
        (Message.of("BatchTooSmall", wanted="256", most="64"), "m --max-num-seqs 256", "--max-num-seqs 64"),
        (Message.of("TooManySequences", wanted="256", most="90"), "m", "--max-num-seqs 90"),
        (Message.of("GpuBusy", free="20.17", total="24.0", needed="22.1"), "m", "--gpu-memory-utilization 0.84"),
        (
            Message.of("MachineMemoryBusy", free="16.07", total="17.84", needed="17.66"),
            "m --device-memory-utilization 0.99",
            "--gpu-memory-utilization 0.9",
        ),
        (
            Message.of("CacheTooLarge", free="16.07", wanted="900.0"),
            "m --kv-cache-memory-bytes 900G",
            "--kv-cache-memory-bytes 14G",
        ),
        (Message.of("TooFewGpus", wanted="4", has="3"), "m -tp 4", "--tensor-parallel-size 2"),
    ],
)
def test_what_each_failure_asks_for(failure, line, change):
    assert failure.id in REASONS
    fix = mended(failure, *line.split())
    assert str(fix.change) == change
    assert fix.change.value in " ".join(fix.arguments)


def test_every_reason_is_a_message_with_the_numbers_that_its_rule_reads():
    for reason in REASONS:
        assert {"most", "free", "has"} & set(messages.parameters(reason)), reason


def test_a_variable_is_changed_where_it_is_what_counts():
    failure = Message.of("CacheTooLarge", free="16.07", wanted="900.0")
    fix = mended(failure, "m", "--kv-cache-memory-bytes", "1G", A="1", VLLM_CPU_KVCACHE_SPACE="900", Z="2")
    assert fix.arguments == ("m", "--kv-cache-memory-bytes", "1G")
    assert fix.environment == (("A", "1"), (CACHE, "14"), ("Z", "2"))
    assert str(fix.change) == "VLLM_CPU_KVCACHE_SPACE=14"
    assert "900" not in repr(fix)
    assert mended(failure, "m") is None
    assert mended(failure, "m", VLLM_CPU_KVCACHE_SPACE="14") is None


@pytest.mark.parametrize(
    "failure",
    [
        Message.of("EngineKilled", signal="SIGKILL"),
        Message.of("ContextTooLong"),
        too_long(most=0),
        too_long(most=-5),
        too_long(most="many"),
        too_long(most=5000, wanted=5000),
        too_long(most=9000, wanted=5000),
        too_long(most="9" * 30, wanted="9" * 31),
        too_long(most="4096; rm", wanted=9000),
        Message.of("GpuBusy", free="0.0", total="24.0", needed="22.1"),
        Message.of("GpuBusy", free="24.0", total="24.0", needed="24.1"),
        Message.of("GpuBusy", free="1.0", total="0.0", needed="24.1"),
        Message.of("GpuBusy", free="1.0.0", total="24", needed="24.1"),
        Message.of("CacheTooLarge", free="0.9", wanted="900.0"),
        Message.of("TooFewGpus", wanted="4", has="0"),
        Message.of("TooFewGpus", wanted="4", has="2"),
    ],
)
def test_there_is_none_where_the_number_makes_no_sense(failure):
    assert mended(failure, "m", "--max-model-len", "8192") is None


@pytest.mark.parametrize(
    "line",
    [
        "m --max-model-len 4096",
        "m --max-model-len 4k",
        "m --max-model-len 8192 --max-model-len 2048",
        "m --max-model-len",
        "m --max-model-len.a=8192",
        "m --served-model-name -- --max-model-len 8192",
    ],
)
def test_there_is_none_where_it_would_not_lower_the_value_or_not_be_taken(line):
    assert mended(too_long(), *line.split()) is None


def test_a_spread_over_stages_is_left_alone():
    failure = Message.of("TooFewGpus", wanted="4", has="2")
    assert mended(failure, "m", "-tp", "2", "-pp", "2") is None


@pytest.mark.parametrize(
    "change",
    [
        Change("--max-model-len", "0"),
        Change("--max-model-len", "-1"),
        Change("--max-model-len", ""),
        Change("--max-model-len", "4096 --port 80"),
        Change("--max-model-len", "१२"),
        Change("--trust-remote-code", "1"),
        Change("LD_PRELOAD", "1"),
        Change("", ""),
    ],
)
def test_only_what_can_be_proposed_is_applied(change):
    assert apply(change, ("m",), (("LD_PRELOAD", "9"),), TABLE) is None


def test_what_it_changes_are_flags_of_this_vllm():
    assert {name for name in CHANGED if name.startswith("-")} <= set(TABLE.flags)


def test_the_recorded_failures_that_are_mended():
    found = {
        name: str(fix.change)
        for name in recordings.names()
        if (fix := mended(recordings.load(name).finding().message, "m", "-tp", "8", VLLM_CPU_KVCACHE_SPACE="1000"))
    }
    assert found == {
        "e1_kv_space_larger_than_ram": "VLLM_CPU_KVCACHE_SPACE=6",
        "e2_max_len_exceeds_kv_cache": "--max-model-len 1048448",
        "e3_max_len_exceeds_model": "--max-model-len 512",
        "e17_cpu_memory_short": "--gpu-memory-utilization 0.73",
        "e18_batch_smaller_than_sequences": "--max-num-seqs 64",
        "e19_context_exceeds_batch": "--max-model-len 128",
    }
