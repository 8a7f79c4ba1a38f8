"""The list of deliberate defects: each can still be made, in one place only."""

import pytest

from support.by_path import ROOT, load

mutations = load("benchmarks/mutations.py")


@pytest.mark.parametrize("defect", mutations.DEFECTS, ids=lambda defect: defect.breaks)
def test_a_defect_can_be_made(defect):
    source = (ROOT / mutations.CORE / defect.file).read_text()
    assert mutations.mutated(defect, source) != source


def test_no_two_defects_are_told_in_the_same_words():
    told = [defect.breaks for defect in mutations.DEFECTS]
    assert len(set(told)) == len(told)


def test_a_line_that_is_there_twice_is_named():
    defect = mutations.Defect("some.py", "f", "y", "z", "nothing")
    with pytest.raises(LookupError, match=r"2 lines of some\.py have 'y'"):
        mutations.mutated(defect, "def f():\n    y = 1\n    y = 2\n")
    with pytest.raises(LookupError, match="0 lines"):
        mutations.mutated(defect, "y = 0\ndef f():\n    pass\n")
