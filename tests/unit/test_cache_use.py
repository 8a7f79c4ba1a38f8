"""Which models are needed, by the health file and the store."""

from datetime import UTC, datetime

import pytest

from support.story import Story, target
from vllm_fsm import cache, health
from vllm_fsm.core.snapshot import Message
from vllm_fsm.files.reading import Broken, Empty, Good
from vllm_fsm.files.store import Store

PATH = "/data/store.json"
NOBODY = {"state": None, "reason": "NotRunning"}
NOTHING = Good(Store())


def stored(*arguments):
    return Good(Store.model_validate({"serveArgs": list(arguments)}))


def said(story):
    return health.document(story.snapshot, lambda at: datetime.fromtimestamp(at, UTC), "boot")


def test_without_a_controller_the_store_alone_counts():
    used = cache.use(NOBODY, stored("org/one", "--tokenizer", "org/words"), PATH)
    assert used == cache.Use(selected=frozenset({"org/one", "org/words"}))
    assert "org/words" in used
    assert "org/other" not in used
    assert cache.use(NOBODY, NOTHING, PATH) == cache.Use()


def test_what_serves_and_what_comes_next_are_told_apart():
    swapping = Story().swapping(target("org/two", "--speculative-config", '{"model": "org/draft"}'))
    used = cache.use(said(swapping), stored("org/three"), PATH)
    assert used.served == {"org/one"}
    assert used.selected == {"org/two", "org/draft", "org/three"}


def test_arguments_that_cannot_be_started_keep_what_they_name():
    used = cache.use(NOBODY, stored("org/one", "--model", "org/two", "--tokenizer", "org/words"), PATH)
    assert used.selected == {"org/one", "org/words"}


@pytest.mark.parametrize(
    "reading", [Broken(Message.of("FileEmpty", file=PATH)), Empty(Message.of("FileEmpty", file=PATH))]
)
def test_a_store_that_says_nothing(reading):
    assert cache.use(NOBODY, reading, PATH).unknown == Message.of("SelectionUnknown", file=PATH)
    running = cache.use(said(Story().ready()), reading, PATH)
    assert running.unknown is None
    assert running.served == running.selected == {"org/one"}


@pytest.mark.parametrize("document", [{}, {"target": None}, {"target": {"model": 1}}, {"active": []}, {"download": []}])
def test_a_document_of_another_shape_names_nothing(document):
    assert cache.use(document, NOTHING, PATH) == cache.Use()


def test_what_is_downloaded_is_needed():
    assert "org/part" in cache.use({"download": {"repo": "org/part"}}, NOTHING, PATH)


@pytest.mark.parametrize(
    ("reason", "lacks"),
    [("DiskFull", True), ("VolumeTooSmall", True), ("VolumeFull", True), ("HubUnreachable", False), (None, False)],
)
def test_who_lacks_room(reason, lacks):
    assert cache.lacks_room({"reason": reason}) is lacks
