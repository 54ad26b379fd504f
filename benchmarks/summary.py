"""The README's table of speeds, from the newest figures of every benchmark.

`python -m benchmarks.summary` writes it into README.md, between two comments.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.race import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- speed: python -m benchmarks.summary -->", "<!-- end of speed -->"
JOBS = ("inference", "training", "input", "lost", "conversion", "cold_start")
HEAD = (
    "| job | against | theirs | ours | ours x as fast | memory, ours / theirs |",
    "|---|---|---|---|---|---|",
)


def newest(name: str) -> dict[str, Any] | None:
    """The last results of a benchmark, of whatever machine."""
    files = sorted(RESULTS.glob(f"????-??-??-{name}-*.json"))
    return json.loads(files[-1].read_text()) if files else None


def rows(results: dict[str, Any]) -> Iterator[str]:
    """A line for every job and rival; ours is the one that is once as fast as ours."""
    for result in results["results"]:
        rivals = dict(result["rivals"])
        ours = next(rivals.pop(n) for n, r in result["rivals"].items() if _is_ours(n, r))
        for name, theirs in rivals.items():
            # Of a process that starts others, the peak counts the starter as well.
            memory = f"{ours['peak_mb'] / theirs['peak_mb']:.2f}" if result["images"] > 1 else ""
            yield (
                f"| {result['job']} | {name} | {_time(theirs, result['images'])} | "
                f"{_time(ours, result['images'])} | {theirs['ours_is_x_times_as_fast']:.2f} | "
                f"{memory} |"
            )


def block() -> str:
    """All tables that there are figures for."""
    found = [results for name in JOBS if (results := newest(name))]
    machines = sorted({f"{r['machine']}, {r['processor']}, {r['date']}" for r in found})
    lines = [line for results in found for line in rows(results)]
    return "\n".join([BEGIN, *HEAD, *lines, "", f"Machine: {'; '.join(machines)}.", END])


def replaced(text: str, new: str) -> str:
    """The text with what lies between the two comments replaced."""
    before, rest = text.split(BEGIN)
    return before + new + rest.split(END)[1]


def main() -> None:
    """Rewrites the README."""
    README.write_text(replaced(README.read_text(), block()))
    print(f"{README} is up to date.")


def _is_ours(name: str, rival: dict[str, Any]) -> bool:
    return rival["ours_is_x_times_as_fast"] == 1.0 and name.startswith(("ours", "regvit"))


def _time(rival: dict[str, Any], images: int) -> str:
    if images == 1:
        return f"{rival['median_seconds']:.2f} s"
    return f"{rival['images_per_second']:.2f} images/s"


if __name__ == "__main__":
    main()
