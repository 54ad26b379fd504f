"""Is the table of the verdict's power in the docs the one that was measured?"""

from benchmarks import measurements, verdict


def test_the_docs_table_is_that_of_the_newest_figures():
    text = verdict.PAGE.read_text()
    assert verdict.replaced(text) == text


def test_what_was_measured_is_what_the_rule_promises():
    jobs = next(jobs for jobs in measurements.newest().values() if verdict.JOB in jobs)
    rows = {row["geometry"]: row for row in jobs[verdict.JOB]["results"]}
    for geometry in verdict.GEOMETRIES:
        row = rows[geometry.name]
        for by in row["by"].values():
            share = by["found"] / row["runs"]
            if geometry.expected is not None:
                assert share >= 0.95 if geometry.expected else share <= 0.05
