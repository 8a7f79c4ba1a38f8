"""What an edited file is told before an engine is stopped for it."""

from pathlib import Path

import pytest

from vllm_fsm import flags
from vllm_fsm.arguments import Effective, effective
from vllm_fsm.core.snapshot import Finding
from vllm_fsm.judgement import judged
from vllm_fsm.messages import text as sentence

KNOWN = flags.versions()[-1]


@pytest.fixture
def engine(tmp_path: Path):
    """Returns a function that makes an engine command of some version."""

    def of(version: str | None) -> list[str]:
        script = tmp_path / "bin" / "vllm"
        script.parent.mkdir()
        script.write_text(f"#!{tmp_path}/bin/python3\n")
        script.chmod(0o755)
        if version is not None:
            (tmp_path / "lib" / "python3.12" / "site-packages" / f"vllm-{version}.dist-info").mkdir(parents=True)
        return [str(script)]

    return of


def about(line: str, command: list[str]) -> Effective:
    return judged(effective(line.split(), ()), command, exists=lambda _: False)


def test_what_the_engine_would_refuse_is_a_problem(engine):
    found = about("m --max-model-length 9 --frobnicate", engine(f"{KNOWN}+cpu"))
    assert found.problem == Finding.of(
        "BadArguments",
        permanent=True,
        detail='vLLM has no flag "--max-model-length"; perhaps --max-model-len was meant',
    )
    assert found.warnings == ()
    assert sentence(found.problem.message) == (
        "The serve arguments cannot be used: "
        'vLLM has no flag "--max-model-length"; perhaps --max-model-len was meant. '
        'Correct them with the "Set Model" action.'
    )


def test_a_missing_template_is_a_problem(engine):
    found = about("m --chat-template /none/such.jinja", engine(KNOWN))
    assert "/none/such.jinja" in sentence(found.problem.message)


@pytest.mark.parametrize(("version", "says"), [("0.99.0", "VersionOther"), (None, "VersionUnknown")])
def test_by_the_flags_of_another_version_it_is_a_warning(engine, version, says):
    found = about("m --max-model-length 9", engine(version))
    assert found.problem is None
    assert [message.id for message in found.warnings] == [says, "FlagUnknownMeant"]


@pytest.mark.parametrize("version", [KNOWN, "0.99.0", None])
def test_nothing_wrong_nothing_said(engine, version):
    found = effective(["m", "--max-model-len", "9", "--port", "1"], ())
    assert judged(found, engine(version)) == found


def test_what_is_refused_already_stays_as_it_is(engine):
    found = effective(["--max-model-length", "9"], ())
    assert judged(found, engine(KNOWN)) is found
    nothing = effective([], ())
    assert judged(nothing, ["vllm"]) is nothing
