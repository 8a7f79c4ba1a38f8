"""The pure parts of the benchmarks: percentiles, bounds, the table, what a soak says about cells."""

from collections import Counter

import pytest

from support.by_path import load

figure = load("benchmarks/figure.py")
soak = load("benchmarks/soak.py")
Bound, Figure = figure.Bound, figure.Figure


@pytest.mark.parametrize(
    ("percent", "value"),
    [(0, 1), (5, 1), (10, 1), (11, 2), (50, 5), (90, 9), (95, 10), (100, 10)],
)
def test_a_percentile_is_the_value_of_nearest_rank(percent, value):
    assert figure.percentile([3, 1, 2, 10, 9, 8, 4, 5, 6, 7], percent) == value


def test_the_only_value_is_every_percentile():
    assert [figure.percentile([7.0], percent) for percent in (0, 50, 95, 100)] == [7.0] * 4


@pytest.mark.parametrize(
    ("bound", "met"),
    [
        (Bound("median", 2.0), True),
        (Bound("median", 1.9), False),
        (Bound("max", 9.0), True),
        (Bound("max", 8.9), False),
        (Bound("p95", 8.9), False),
        (Bound("median", 2.0, least=True), True),
        (Bound("median", 2.1, least=True), False),
    ],
)
def test_a_bound_is_met_up_to_its_limit(bound, met):
    assert Figure("x", "ms", [1.0, 9.0, 2.0], bound).met is met


def test_a_figure_without_a_bound_is_never_missed():
    assert Figure("x", "ms", [1e9]).met


def test_a_row_says_what_is_to_be_reached_what_was_found_and_the_verdict():
    row = Figure("reaction", "ms", [10.0, 20.0, 40.0], Bound("median", 15)).cells()
    assert row == ("reaction", "median ≤ 15 ms", "20.0 ms", "40.0 ms", "40.0 ms", "3", "**missed**")


def test_a_single_value_has_no_distribution():
    row = Figure("rate", "events/s", [31234.5], Bound("median", 25_000, least=True), digits=0).cells()
    assert row == ("rate", "≥ 25,000 events/s", "31,234 events/s", "", "", "1", "met")


def test_the_table_lines_up_and_is_markdown():
    lines = figure.table([Figure("a", "ms", [1.0, 2.0]), Figure("a longer name", "MB", [1000.0])]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace("-", "") == "|||:|:|:|:||"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["a", "a longer name"]


def test_a_soak_names_the_cells_that_do_something_and_were_not_met():
    everything = Counter(dict.fromkeys(soak.CELLS, 1))
    assert "Never met" not in soak.unseen_list(everything)
    missing = Counter(everything)
    for cell in (("Ready", "EngineExited"), ("NoModel", "ProbePassed")):
        assert (cell in soak.DONE) is (cell[0] == "Ready")
        del missing[cell]
    assert soak.unseen_list(missing).endswith("Never met of these: EngineExited in Ready.")


def test_a_soaked_seed_counts_every_event_once():
    outcome = soak.soak((0, 300))
    assert outcome.failure is None
    assert 0 < outcome.cells.total() <= outcome.events - outcome.late
