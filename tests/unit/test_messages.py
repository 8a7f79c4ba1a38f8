"""The sentences: complete, used, and ending as sentences do."""

import re
from pathlib import Path

from vllm_fsm import messages
from vllm_fsm.core.snapshot import Message
from vllm_fsm.examples import examples

SOURCE = Path(messages.__file__).parent
OPEN_ENDED = {"Ready", "ReadyNext", "ReadyNextSize", "ReadyNextTime", "ReadyKept"}
"""The dashboard shows `The vLLM API is ready` without a full stop; what follows brings it."""


def used() -> set[str]:
    """The ids that the sources name."""
    texts = [path.read_text() for path in SOURCE.rglob("*.py") if path.name != "messages.py"]
    return {id_ for text in texts for id_ in re.findall(r'"([A-Z][A-Za-z0-9]+)"', text)}


def test_every_sentence_is_said_somewhere():
    assert {id_ for id_ in messages.ENGLISH if id_ not in used()} == set()


def test_sentences_end_as_sentences():
    assert {id_ for id_, text in messages.ENGLISH.items() if not text.endswith((".", "}"))} == OPEN_ENDED


def test_a_row_of_sentences_has_its_full_stops():
    row = [Message.of("Ready"), Message.of("ReservedArgument", argument="--port"), Message.of("NoModel")]
    assert messages.sentences(row) == (
        "The vLLM API is ready. The argument --port is reserved for the service and was left out. "
        'No model selected. Run the "Set Model" action.'
    )


def test_every_state_has_an_example():
    assert {state for state, _, _ in examples()} == {"NoModel", "Downloading", "Loading", "Ready", "Failed"}
