"""`states.md` is what the table says."""

from pathlib import Path

from vllm_fsm.cli import main
from vllm_fsm.core.render import states_md
from vllm_fsm.examples import examples

PAGE = Path(__file__).parents[2] / "states.md"


def test_the_page_is_generated_from_the_table():
    assert PAGE.read_bytes() == states_md(examples()).encode()


def test_check_says_so(capsys):
    assert main(["states", "--check", str(PAGE)]) == 0
    assert "is what the table says" in capsys.readouterr().out


def test_check_shows_what_differs(tmp_path, capsys):
    other = tmp_path / "states.md"
    other.write_text(PAGE.read_text().replace("the port is free again", "whatever", 1))
    assert main(["states", "--check", str(other)]) == 1
    error = capsys.readouterr().err
    assert "differs from the table" in error
    assert "whatever" in error


def test_check_of_nothing(tmp_path, capsys):
    assert main(["states", "--check", str(tmp_path / "none.md")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_without_examples_the_page_has_no_health_lines():
    assert "What a person sees" not in states_md()
