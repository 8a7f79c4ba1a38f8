"""The sentences: complete, used, and ending as sentences do."""

import re
from pathlib import Path

from support import sentences
from vllm_fsm import messages
from vllm_fsm.core.snapshot import Message
from vllm_fsm.diagnosis.ending import End
from vllm_fsm.diagnosis.stream import Diagnosis
from vllm_fsm.examples import examples
from vllm_fsm.redaction import Redactor

SOURCE = Path(messages.__file__).parent
OPEN_ENDED = {
    *("Ready", "ReadyNext", "ReadyNextSize", "ReadyNextTime", "ReadyKept", "ReadyFallback"),
    *("LoadingFallback", "FailedFallback", "FixChoice"),
}
"""A choice is no sentence. The dashboard shows `The vLLM API is ready` without a full stop; what follows brings it."""


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


def test_the_page_is_generated_from_the_sentences():
    assert sentences.PAGE.read_bytes() == sentences.page().encode()


def test_every_sentence_is_on_the_page_and_every_sample_is_used():
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", sentences.page(), re.MULTILINE)
    assert {id_ for id_, text in rows if text != "sentence"} == set(messages.ENGLISH)
    assert set(sentences.OWN) <= set(messages.ENGLISH)
    for id_, own in sentences.OWN.items():
        assert set(own) <= set(messages.parameters(id_)), id_
    assert set(sentences.SAMPLES) == {name for id_ in messages.ENGLISH for name in messages.parameters(id_)}


def test_sentences_read_as_sentences():
    for id_, sentence in messages.ENGLISH.items():
        text = messages.text(sentences.sample(id_))
        assert "  " not in text, id_
        assert ".." not in text, id_
        assert sentence[0].isupper() or sentence.startswith(("{", "vLLM")), id_


def test_no_sentence_shows_a_secret():
    """Whatever the engine prints of keys, tokens and proxies: what is told of it has gone through the redaction."""
    redactor = Redactor(["kSecretKey0123456789ab"])
    secrets = ("kSecretKey0123456789ab", "hf_" + "aB3" * 11, "proxyPassw0rd")
    redactor.know_environment([("HTTPS_PROXY", f"http://user:{secrets[2]}@proxy.example:3128")])
    told = " ".join((secrets[0], secrets[1], f"http://user:{secrets[2]}@proxy.example:3128"))
    for said in (
        f"RuntimeError: {told}",
        f"OSError: {told} is not a local folder and is not a valid model identifier",
        f"OSError: {secrets[0]} is not a valid git identifier (x) that exists for this model name",
        f"OSError: [Errno 30] Read-only file system: '/data/{secrets[0]}'",
        f"KeyError: 'invalid tool call parser: {secrets[1]}'",
        f"safetensors.SafetensorError: {told}",
        f"vllm.exceptions.VLLMValidationError: {told}",
        f"httpx.ConnectError: {told} http://user:{secrets[2]}@proxy.example/org/name/resolve/main/x",
        f"vllm: error: unrecognized arguments: {told}",
        told,
    ):
        for status in (1, 2, -9):
            diagnosis = Diagnosis(redact=redactor.line)
            diagnosis.feed("Traceback (most recent call last):")
            diagnosis.feed(said)
            finding = diagnosis.finding(End(status))
            shown = messages.text(finding.message) + repr(finding)
            assert not [secret for secret in secrets if secret in shown], shown
