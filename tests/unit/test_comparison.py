"""The pure parts of the comparison: what a cell says, where ours loses, and the plot."""

import re
import sys
from xml.etree import ElementTree

import pytest

from support.by_path import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    from rivals import metric, page, plot, verdict
    from rivals.outcome import Outcome
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

SVG = "{http://www.w3.org/2000/svg}"


def ours(**values):
    return Outcome(
        "ours",
        "1",
        readiness="a proof",
        values={name.replace("_", "-"): given for name, given in values.items()},
        facts={"orphans": "none", "false-ready": "none"},
    )


def rival(name="rival", **values):
    outcome = ours(**values)
    outcome.name, outcome.facts = name, {"orphans": "leader, grandchild", "false-ready": "none"}
    return outcome


def row(title, *outcomes):
    (line,) = [line for line in page.table(outcomes).splitlines() if line.startswith(f"| {title} |")]
    return [text.strip() for text in line.strip("|").split("|")][1:]


def test_a_cell_has_median_and_worst_and_the_best_is_bold():
    assert row("crash → exec, ms", ours(crash_exec=[9.0, 1.0, 2.0]), rival(crash_exec=[5.0, 3.0, 4.0])) == [
        "**2.0 / 9.0**",
        "4.0 / 5.0",
    ]


def test_what_is_equal_as_it_is_shown_is_equally_good():
    assert row("PSS, MB", ours(pss=[1.01]), rival(pss=[1.02])) == ["**1.0**", "**1.0**"]


def test_what_only_a_helper_can_do_is_said_so():
    helped = rival(change_exec=[7.0, 8.0])
    helped.helper = "tool restart"
    assert row("change → new exec, ms", ours(change_exec=[9.0]), helped) == ["9.0", "cannot; with helper **7.5 / 8.0**"]
    assert row("follows the file", ours(), helped) == ["itself", "cannot; helper: `tool restart`"]


def test_what_cannot_be_had_is_a_column_that_says_so():
    absent = Outcome("absent", missing="no such package")
    assert set(row("idle CPU, % of a core", absent, absent)) == {page.ABSENT}
    text = page.page([ours(), absent], machine="m", date="d", commit="c", minutes=1.0, rounds=2)
    assert "- absent: no such package" in text


def test_who_says_nothing_of_ready_cannot():
    silent = Outcome("silent", restarts=False)
    assert row("ready noticed, ms", ours(ready=[1.0]), silent) == ["**1.0**", "cannot"]
    assert row("false ready", ours(), silent) == ["**none**", "cannot"]


def test_a_false_ready_is_no_figure_to_be_best_in():
    early, late = rival(false_ready=[1.0]), rival(false_ready=[2.0])
    assert row("false ready", early, late) == ["yes, after 1.0 s", "yes, after 2.0 s"]


def test_a_phase_that_broke_off_is_told():
    broken = rival()
    broken.facts["error"] = "TimeoutError: no exec"
    text = page.page([ours(), broken], machine="m", date="d", commit="c", minutes=1.0, rounds=2)
    assert "- rival: a phase broke off: TimeoutError: no exec" in text
    assert row("crash → exec, ms", ours(crash_exec=[1.0]), broken)[1] == "not measured"


def test_where_ours_loses_is_said_with_all_that_are_better():
    said = verdict.losses(ours(pss=[30.0]), [rival("a", pss=[10.0]), rival("b", pss=[40.0]), rival("c", pss=[0.0])])
    assert said == ["PSS: ours 30.0 MB; better are c 0.0 MB; a 10.0 MB, 3.0 times."]


def test_a_draw_is_no_loss():
    assert verdict.losses(ours(pss=[30.01]), [rival(pss=[30.0])]) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [([90.0], [1.0], False), ([110.0], [60.0], False), ([110.0], [50.0], True), ([110.0], [200.0], False)],
)
def test_only_a_latency_that_a_person_notices_counts_and_only_by_more_than_twice(mine, theirs, told):
    assert bool(verdict.noticeable(ours(ready=mine), [rival(ready=theirs)])) is told


def test_seconds_are_compared_as_seconds():
    assert verdict.noticeable(ours(deaf=[5.0]), [rival(deaf=[2.0])]) == [
        "stop of a deaf child against rival (2.5 times)"
    ]


def test_the_verdict_names_who_else_is_clean():
    clean = rival("also")
    clean.facts["orphans"] = "none"
    assert "only one" in verdict.verdict(ours(), [rival()])[0]
    assert verdict.verdict(ours(), [clean])[0].endswith("ours, and also.")
    assert "Ours left" in verdict.verdict(rival(), [])[0]


def test_the_plot_is_well_formed_and_says_all_names_and_figures_as_text():
    helped = rival("a <rival>", change_exec=[150.0], deaf=[5.0])
    helped.helper, helped.readiness = "tool", ""
    root = ElementTree.fromstring(plot.plot([ours(change_exec=[20.0, 20.0, 40.0]), helped]))
    words = [text.text for text in root.iter(f"{SVG}text")]
    expected = {"ours", "a <rival>", "20 ms / 40 ms", "150 ms (helper)", "5 s", "cannot", "not measured"}
    assert expected <= set(words)
    assert len(list(root.iter(f"{SVG}circle"))) == 3


def test_a_place_on_the_axis_is_logarithmic_and_stays_inside():
    axis = plot.Axis([20.0, 700.0])
    assert axis.powers == [10, 100, 1000]
    first, middle, last = map(axis.place, axis.powers)
    assert middle - first == pytest.approx(last - middle)
    assert axis.place(0.0) == first
    assert axis.place(1e9) == last


def test_every_class_of_the_plot_has_a_colour_for_light_and_for_dark():
    light, dark = plot.STYLE.split("@media")
    for name in set(re.findall(r"\.([a-z-]+) \{ (?:fill|stroke): ", light)):
        assert f".{name} {{" in dark, name


def test_every_metric_has_a_definition_and_a_key_of_its_own():
    assert len({line.key for line in metric.METRICS}) == len(metric.METRICS)
    assert all(line.meaning for line in metric.METRICS)
