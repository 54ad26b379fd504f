"""The README's tables of speeds, from the newest figures of every job and kind of machine.

`python -m benchmarks.summary` writes them into README.md, between two comments.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measurements import newest
from benchmarks.race import OURS
from benchmarks.tables import replaced_table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- speed: python -m benchmarks -->", "<!-- end of speed -->"
JOBS = ("inference", "training", "input", "lost", "conversion", "cold_start")
HEAD = (
    "| job | against | theirs | ours | ours x as fast (95 %) | memory, ours / theirs |",
    "|---|---|---|---|---|---|",
)


def rows(figures: Mapping[str, Any]) -> Iterator[str]:
    """A line for every race of a job and every rival in it."""
    for result in figures["results"]:
        ours = result["rivals"][result["ours"]]
        for name, theirs in result["rivals"].items():
            if name == result["ours"] or (name.startswith(OURS) and result["images"] > 1):
                continue
            low, high = theirs["interval"]
            ratio = f"**{theirs['ours_is_x_times_as_fast']:.2f}** ({low:.2f} to {high:.2f})"
            # Of a process that starts others, the peak counts the starter as well.
            memory = f"{ours['peak_mb'] / theirs['peak_mb']:.2f}" if result["images"] > 1 else ""
            job = result["job"] + ("" if result["ours"] == OURS else f"; {result['ours']}")
            yield (
                f"| {job} | {name} | {_time(theirs, result['images'])} | "
                f"{_time(ours, result['images'])} | {ratio} | {memory} |"
            )


def block() -> list[str]:
    """The tables of all machines."""
    lines: list[str] = []
    for kind, jobs in newest().items():
        measured = [jobs[job] for job in JOBS if job in jobs]
        dates = sorted({figures["date"] for figures in measured})
        processor = measured[-1]["machine"]["processor"]
        lines += [*HEAD, *(line for figures in measured for line in rows(figures)), ""]
        lines += [f"{kind}: {processor}; {', '.join(dates)}.", ""]
    return lines[:-1]


def main() -> None:
    """Rewrites the README."""
    new = block()
    print("", *new, "", sep="\n")
    README.write_text(replaced_table(README.read_text(), BEGIN, END, new))
    print(f"{README} is up to date.")


def _time(rival: Mapping[str, Any], images: int) -> str:
    if images == 1:
        return f"{rival['median_seconds']:.2f} s"
    return f"{rival['images_per_second']:.2f} images/s"


if __name__ == "__main__":
    main()
