"""What does a training run's folder say for the report: its curve, and its hours?"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regvit_jax.analysis.plotting import figure_bytes
from regvit_jax.analysis.plotting.training import TrainingCurve, training_figure
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.errors import InputError
from regvit_jax.strict_json import expect, parse_json, read_json

METRICS_FILE = "metrics.jsonl"
RECIPE_FILE = "recipe.json"


def training_svg(runs: Sequence[Path]) -> bytes | None:
    """Loss and accuracy of the runs as SVG; None where no run has a log."""
    curves = [curve for run in runs if (curve := _curve(run))]
    return figure_bytes(training_figure(curves), "svg") if curves else None


def training_hours(run: Path) -> float | None:
    """Hours that the steps of a run took, evaluation left out; None where the log does not say."""
    batch_size, seconds, before = _batch_size(run), 0.0, 0
    for line in _lines(run):
        step, speed = line.get("step"), line.get("images_per_second")
        if isinstance(step, int) and isinstance(speed, int | float) and speed > 0 and batch_size:
            seconds += max(step - before, 0) * batch_size / speed
            before = max(step, before)
    return seconds / 3600 or None


def _curve(run: Path) -> TrainingCurve | None:
    """What a run's log says; None where there is no log, or nothing in it."""
    loss: list[tuple[int, float]] = []
    top1: list[tuple[int, float]] = []
    for line in _lines(run):
        step = line.get("step")
        if not isinstance(step, int):
            continue
        if isinstance(line.get("loss"), int | float):
            loss.append((step, line["loss"]))
        if accuracy := Estimate.of(line.get("top1")):
            top1.append((step, accuracy.value))
    return TrainingCurve(run.name, loss, top1) if loss or top1 else None


def _lines(run: Path) -> Iterator[dict[str, Any]]:
    path = run / METRICS_FILE
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(InputError):  # a run that was killed leaves half a line
            yield parse_json(text, str(path))


def _batch_size(run: Path) -> int | None:
    path = run / RECIPE_FILE
    if not path.is_file():
        return None
    data = expect(read_json(path).get("data", {}), dict, f"{path}: data")
    size = data.get("batch_size")
    return None if size is None else expect(size, int, f"{path}: data.batch_size")
