"""How often are planted outliers found, and how often something that is none?

`python -m benchmarks.verdict` draws norms of patches from every geometry of `geometries.py`, judges
them by the rule of the analyses, and prints the share of runs in which it says "found".
`--keep` adds the figures to the results; `--write` puts the table of the newest ones into
docs/analyse.md, between two comments.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import measurements
from benchmarks.geometries import GEOMETRIES, GRID, SHARES, Geometry, simulate
from benchmarks.tables import cells, newest_rows, replaced_table
from regvit_jax.analysis.outliers.verdict import judge

PAGE = Path(__file__).parents[1] / "docs" / "analyse.md"
BEGIN, END = "<!-- verdict: python -m benchmarks.verdict -->", "<!-- end of verdict -->"
JOB = "verdict"


def main() -> None:
    """Simulates, prints, keeps and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict", description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="of every geometry and share")
    parser.add_argument("--keep", action="store_true", help="add the figures to the results")
    parser.add_argument("--write", action="store_true", help="rewrite the table of the docs only")
    options = parser.parse_args()
    if not options.write:
        rows = []
        for geometry in GEOMETRIES:
            rows.append(measure(geometry, options.runs))
            print(*line(rows[-1]), flush=True)
        if options.keep:
            measurements.keep(JOB, rows, {"runs": options.runs})
    if options.write or options.keep:
        PAGE.write_text(replaced(PAGE.read_text()))


def measure(geometry: Geometry, runs: int) -> dict[str, Any]:
    """By share of outliers, or "none": in how many runs they are found, and not known."""
    shares = SHARES if geometry.outliers else (0.0,)
    found = {}
    for share in shares:
        answers = []
        for seed in range(runs):
            norms, pixels = simulate(geometry, share, seed)
            answers.append(judge(norms, GRID, pixels).answer)
        found[f"{100 * share:g}" if share else "none"] = {
            "found": answers.count("found"),
            "cannot tell": answers.count("cannot tell"),
        }
    return {"geometry": geometry.name, "images": geometry.num_images, "runs": runs, "by": found}


def line(row: Mapping[str, Any]) -> Iterator[str]:
    """A geometry, its images, and in which share of the runs outliers were found."""
    yield from (row["geometry"], f"{row['images']:,}")
    for by in row["by"]:
        yield _share(row, by, "found")


def replaced(text: str) -> str:
    """The page with the newest tables: of outliers, and of what is none."""
    rows = newest_rows(JOB)
    planted = [row for row in rows if "none" not in row["by"]]
    others = [row for row in rows if "none" in row["by"]]
    heads = [f"{100 * share:g} %" for share in SHARES]
    lines = [
        cells(["outliers are there", "images", *heads]),
        "|---" * (2 + len(heads)) + "|",
        *(cells(line(row)) for row in planted),
        "",
        cells(["no outliers are there", "images", "found", "cannot tell"]),
        "|---" * 4 + "|",
        *(cells([*line(row), _share(row, "none", "cannot tell")]) for row in others),
        "",
        f"Share of {rows[0]['runs']} simulated models, of 196 patches an image.",
    ]
    return replaced_table(text, BEGIN, END, lines)


def _share(row, by: str, answer: str) -> str:
    return f"{100 * row['by'][by][answer] / row['runs']:.0f} %"


if __name__ == "__main__":
    main()
