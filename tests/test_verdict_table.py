"""Are the tables in the docs those that were measured, and as good as they should be?"""

import pytest

from benchmarks import coverage, seeds, verdict
from benchmarks.tables import newest_rows


@pytest.mark.parametrize("job", [verdict, coverage, seeds])
def test_the_docs_table_is_that_of_the_newest_figures(job):
    text = job.PAGE.read_text()
    assert job.replaced(text) == text


def test_intervals_hold_the_truth_as_often_as_they_promise():
    rows = {row["estimator"]: row for row in newest_rows(coverage.JOB)}
    for name in coverage.ESTIMATORS:
        assert rows[name]["runs"] >= 1000
        for by in rows[name]["by"].values():
            if by["printed"] > rows[name]["runs"] / 2:
                assert by["covered"] >= 0.93 * by["printed"], name


def test_seeds_alone_hardly_ever_speak_for_registers():
    for row in newest_rows(seeds.JOB):
        assert row["statements"] >= 40 * len(seeds.NUMBERS)
        assert row["answers"]["supported"] <= 0.05 * row["statements"]


def test_what_was_measured_is_what_the_rule_promises():
    rows = {row["geometry"]: row for row in newest_rows(verdict.JOB)}
    for geometry in verdict.GEOMETRIES:
        row = rows[geometry.name]
        for by in row["by"].values():
            share = by["found"] / row["runs"]
            if geometry.expected is not None:
                assert share >= 0.95 if geometry.expected else share <= 0.05
