"""Which numbers did a run report, and which of them hold after an interruption?

`metrics.jsonl` has a line every few steps and one for each evaluation. The line of an evaluation
is written after its weights, so that it stands for all of them.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from regvit_jax import strict_json
from regvit_jax.errors import InputError
from regvit_jax.whole import write_whole

CHANGED, ADJUSTED = "changed", "adjusted"
"""Names in a line that tells of another configuration: one that decides what the run computes, and
one that does not."""
DAMAGED = ".damaged"

Line = dict[str, Any]

logger = logging.getLogger(__name__)


class Metrics:
    """The metrics of one run, and TensorBoard's copy of them.

    Args:
      path: Of `metrics.jsonl`.
      events: Folder of TensorBoard's files.
    """

    def __init__(self, path: Path, events: Path) -> None:
        self.path, self.events = path, events
        self._writer: Any = None

    def log(self, line: Line) -> None:
        """Adds a line, and its numbers to TensorBoard's.

        Raises:
          OSError: If it cannot be written.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self.events), purge_step=line["step"])
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(name, value, line["step"])
            elif isinstance(value, dict) and "share" in value:
                self._writer.add_scalar(name, value["share"], line["step"])

    def sync(self) -> None:
        """Returns when all lines would survive a power failure."""
        if self.path.is_file():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Writes what TensorBoard's files lack."""
        if self._writer is not None:
            self._writer.close()

    def lines(self) -> list[Line]:
        """All lines that can be read, in order."""
        return [line for _, line in self._read() if line is not None]

    def forget_after(self, step: int) -> None:
        """Drops what was reported of steps that are about to be taken again, and a cut last line.

        Lines that cannot be read are moved to a file of their own; nothing is written where nothing
        changes. If the run starts anew though it had come far, all lines are kept beside.
        """
        if not self.path.is_file():
            return
        read = self._read()
        content = self.path.read_bytes()
        if damaged := [raw for raw, line in read if line is None]:
            self._set_aside(damaged)
        kept = [raw + b"\n" for raw, line in read if line is not None and _holds(line, step)]
        if b"".join(kept) != content:
            write_whole(self.path, b"".join(kept))

    def keep_beside(self) -> Path:
        """Renames the file, for a run that starts anew.

        Returns:
          The new name.
        """
        names = (self.path.with_name(f"metrics-before-{n}.jsonl") for n in range(1, 10**6))
        return self.path.rename(next(name for name in names if not name.exists()))

    def last_step(self) -> int:
        """The newest step that was reported, 0 if there is none."""
        return max((int(line["step"]) for line in self.lines()), default=0)

    def evaluation_at(self, step: int) -> Line | None:
        """What was found after a step, by the configuration that the run has now."""
        found = None
        for line in self.lines():
            if CHANGED in line:
                found = None
            elif line["step"] == step and is_evaluation(line):
                found = line
        return found

    def best_share(self) -> float | None:
        """The highest top-1 accuracy so far on the images of now, None before an evaluation."""
        best = None
        for line in self.lines():
            if CHANGED in line and "data.data:" in str(line[CHANGED]):
                best = None
            elif is_evaluation(line):
                best = max(line["top1"]["share"], 0.0 if best is None else best)
        return best

    def _read(self) -> list[tuple[bytes, Line | None]]:
        """Each line as it is written and what it says; None for what cannot be read.

        A last line without its end, which a kill leaves, is left out if it cannot be read.
        """
        try:
            *whole, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        read = [(raw, _parse(raw)) for raw in whole if raw.strip()]
        return read + ([(rest, line)] if (line := _parse(rest)) is not None else [])

    def _set_aside(self, damaged: list[bytes]) -> None:
        aside = self.path.with_name(self.path.name + DAMAGED)
        with aside.open("ab") as file:
            file.write(b"".join(raw + b"\n" for raw in damaged))
        logger.warning(
            "%d lines of %s cannot be read (a damaged disk or an edit?). They are now in %s.",
            len(damaged),
            self.path,
            aside,
        )


def is_evaluation(values: Line) -> bool:
    """Whether a line or a result tells an accuracy with its interval, and of what."""
    top1 = values.get("top1")
    return (
        isinstance(values.get("data"), str)
        and isinstance(top1, dict)
        and all(_is_number(top1.get(name)) for name in ("share", "low", "high", "n"))
    )


def _holds(line: Line, step: int) -> bool:
    """Whether a line still tells the truth of a run that goes on after a step."""
    return line["step"] <= step or CHANGED in line or ADJUSTED in line


def _parse(raw: bytes) -> Line | None:
    try:
        line = strict_json.parse_json(raw, "the line")
        return line if strict_json.expect(line.get("step"), float, "step") >= 0 else None
    except InputError:
        return None


def _is_number(value: Any) -> bool:
    try:
        strict_json.expect(value, float, "the value")
    except InputError:
        return False
    return True
