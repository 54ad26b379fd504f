"""Which checkpoints are stages of one training run, and in which order?

A checkpoint says itself how far its run had come: the step or epoch in its metrics, or the epoch
that a converted file brought with it. Checkpoints whose folders lie side by side and whose
configurations are equal belong to one run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.plotting.epochs import Run

_WITHIN_A_RUN = ("epochs", "model", "best", "ema")
"""Folders of a training run in which it keeps checkpoints (`train/rundir.py`)."""


def training_runs(subjects: Sequence[Subject]) -> list[Run]:
    """The runs of which at least two stages are among the subjects."""
    groups: dict[Any, list[int]] = {}
    for i, subject in enumerate(subjects):
        if not subject.is_twin:
            groups.setdefault((subject.config, run_folder(subject.path)), []).append(i)
    runs = []
    for (config, folder), members in groups.items():
        for unit in ("step", "epoch"):
            places = [place_in_run(subjects[i], unit) for i in members]
            known = {place for place in places if place is not None}
            if None in places or len(known) < max(2, len(places)):
                continue
            order = sorted(zip(places, members, strict=True))
            label = f"{folder.name} ({config.num_registers} registers)"
            runs.append(Run(label, unit, [p or 0 for p, _ in order], [i for _, i in order]))
            break
    return runs


def run_folder(path: Path) -> Path:
    """The folder of the training run that a checkpoint is of."""
    for part in (path, path.parent):
        if part.name in _WITHIN_A_RUN:
            return part.parent
    return path.parent


def place_in_run(subject: Subject, unit: str) -> int | None:
    """How many "step"s or "epoch"s a checkpoint's run had taken; epochs count from 0 in files."""
    for about in (subject.info.metrics, subject.info.source):
        value = about.get(unit)
        if isinstance(value, int) and not isinstance(value, bool):
            return value + 1 if unit == "epoch" else value
    return None
