"""Tables of the docs that are written from kept figures, between two comments of a page."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import measurements


def newest_rows(job: str) -> list[dict[str, Any]]:
    """The newest figures of a job, whatever machine they are from: simulations are alike on all."""
    (*_, found) = sorted(
        (jobs[job] for jobs in measurements.newest().values() if job in jobs),
        key=lambda figures: figures["date"],
    )
    return found["results"]


def replaced_table(text: str, begin: str, end: str, lines: Sequence[str]) -> str:
    """A page with other lines between two comments."""
    before, rest = text.split(begin)
    return before + "\n".join([begin, *lines, end]) + rest.split(end)[1]


def cells(values: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(values) + " |"
