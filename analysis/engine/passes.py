"""Which passes over the images do some questions need, and what do these leave behind?

One pass for each model, part of the data and preprocessing, shared by all questions that were
asked: every image runs through a network once, however many questions look at it. What they keep
is reduced on the device in one compiled program and appended to columns batch by batch.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from regvit_jax.analysis.engine.columns import INDEX, LABEL, StoredColumns
from regvit_jax.analysis.engine.extract import Extractor, Forward
from regvit_jax.analysis.engine.identity import weights_of
from regvit_jax.analysis.engine.question import Keep, Question
from regvit_jax.analysis.engine.results import plain
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.analysis.progress import clock, track
from regvit_jax.batches import Batch, Batches
from regvit_jax.checkpoint import Params, versions
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3

Load = Callable[[], tuple[DeiT3, Params]]

TIMED_BATCHES = 2
"""Measured for a forecast, after one that warms up."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """One model once over some images."""

    subject: Subject
    images: Images
    options: ImageOptions
    keeps: Mapping[str, Keep]
    """By the name of their columns' folder."""
    questions: tuple[str, ...]

    @property
    def first(self) -> Keep:
        """One of the keeps; they are alike in network and preprocessing."""
        return next(iter(self.keeps.values()))

    @property
    def title(self) -> str:
        """The pass in words."""
        count, (data, part) = len(self.images.indices), self.images.place
        where = data if data == part else f"{data} ({part})"
        return f"{self.subject.label}, {count} images of {where}"

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """The blocks that the keeps read; None is all."""
        named = [keep.blocks for keep in self.keeps.values()]
        if any(blocks is None for blocks in named):
            return None
        depth = self.subject.config.depth
        return tuple(sorted({range(depth)[i] for blocks in named for i in blocks or ()}))

    def extractor(self, load: Load | None = None) -> Extractor:
        """The compiled program that reduces a batch for all keeps.

        Args:
          load: Gives the network and its parameters, where several passes share them.
        """
        model, params = load() if load else self.subject.load(self.options.seed)
        if self.first.network is not DeiT3:
            model = self.first.network(model.config, model.dtype)
        keeps = self.keeps

        def compute(forward: Forward, given: Mapping[str, Any]) -> dict[str, Any]:
            return {name: keep.computed(forward, given[name]) for name, keep in keeps.items()}

        size, preprocess = self.batches(self.images.indices).batch_size, self.first.preprocess
        given = {name: keep.given for name, keep in keeps.items()}
        return Extractor(
            *(model, params, preprocess, size), layers=self.blocks, compute=compute, given=given
        )

    def batches(self, indices: Int[np.ndarray, " m"]) -> Batches:
        """Some of the images, in batches of one size that leaves the last the least padding."""
        count, most = len(self.images.indices), self.options.batch_size
        size = -(-count // -(-count // most))
        skip = self.options.skip_unreadable
        return Batches(
            self.images.source, self.first.preprocess, size, indices, skip_unreadable=skip
        )

    def left(self, stores: Iterable[StoredColumns]) -> Int[np.ndarray, " m"]:
        """The images that some of the columns still lack."""
        done = min(store.done for store in stores)
        return self.images.indices[self.images.indices > done]


def plan(questions: Sequence[Question]) -> tuple[list[Pass], dict[tuple[str, str, str], str]]:
    """The passes that answer some questions, model by model.

    Returns:
      The passes; and for each question, model's label and kept name, the folder of its columns.
    """
    groups: dict[Any, dict[str, Keep]] = {}
    askers: dict[Any, tuple[Subject, ImageOptions, list[str]]] = {}
    folders: dict[tuple[str, str, str], str] = {}
    subjects = {(s.label, s.is_twin): None for q in questions for s in q.subjects}
    weights = functools.cache(weights_of)
    for key in subjects:
        for question in questions:
            for subject in question.subjects:
                if (subject.label, subject.is_twin) != key:
                    continue
                for name, keep in question.keeps(subject).items():
                    folder = _folder(subject, keep, question, weights(subject.path))
                    folders[question.name, subject.label, name] = folder
                    group = (*key, keep.images.place, keep.preprocess, keep.network)
                    groups.setdefault(group, {}).setdefault(folder, keep)
                    names = askers.setdefault(group, (subject, question.options, []))[2]
                    if question.name not in names:
                        names.append(question.name)
    passes = []
    for group, keeps in groups.items():
        subject, options, names = askers[group]
        union = np.unique(np.concatenate([keep.images.indices for keep in keeps.values()]))
        images = next(iter(keeps.values())).images.only(union)
        passes.append(Pass(subject, images, options, keeps, tuple(names)))
    return passes, folders


def run(work: Pass, folder: Path, load: Load | None = None) -> dict[str, StoredColumns]:
    """The columns of a pass's keeps, by name; takes up what an earlier attempt left.

    Args:
      work: The pass.
      folder: Where the columns lie, each keep's in a folder of its name.
      load: As for `Pass.extractor`; called only if there are images left.

    Raises:
      InputError: If an image cannot be read and is not to be left out, or if none can.
    """
    stores = {name: StoredColumns(folder / name) for name in work.keeps}
    left = work.left(stores.values())
    if len(left):
        batches = work.batches(left)
        known = {name: list(store.skipped) for name, store in stores.items()}
        asked = {name: set(keep.images.indices.tolist()) for name, keep in work.keeps.items()}
        total = len(work.images.indices)
        try:
            extracted = work.extractor(load)(batches)
            label, done = work.title, total - len(left)
            for batch, reduced in track(extracted, total, label, _num_images, done):
                _append(work, stores, batch, reduced)
                for name, store in stores.items():
                    store.skipped = _messages(known[name], batches, asked[name])
                    store.save_now_and_then()
            for name, store in stores.items():
                store.done = int(left[-1])
                store.skipped = _messages(known[name], batches, asked[name])
        finally:
            for store in stores.values():
                store.close()
    for name, keep in work.keeps.items():
        if keep.is_needed and not stores[name].num_rows:
            count, source = len(keep.images.indices), keep.images.source.name
            raise InputError(f"None of the {count} images of {source} can be read.")
    return stores


def run_after(
    question: str, options: ImageOptions, subject: Subject, keeps: Mapping[str, Keep], folder: Path
) -> dict[str, StoredColumns]:
    """A further pass, of keeps that depend on what earlier ones left; for an analysis's `measure`.

    Args:
      question: The analysis's name.
      options: Its options.
      subject: The model.
      keeps: Of one part of the data and one preprocessing, by unlike names.
      folder: Of what the analysis computes from columns, where these outlive a stop.

    Raises:
      InputError: If an image cannot be read and is not to be left out.
    """
    union = np.unique(np.concatenate([keep.images.indices for keep in keeps.values()]))
    images = next(iter(keeps.values())).images.only(union)
    return run(Pass(subject, images, options, keeps, (question,)), folder)


def _messages(known: list[str], batches: Batches, asked: set[int]) -> list[str]:
    """Messages of the unreadable images that a keep asks for: those known before, then new ones."""
    places = zip(batches.skipped_indices, batches.skipped, strict=True)
    return list(dict.fromkeys([*known, *(message for i, message in places if i in asked)]))


def _num_images(extracted: tuple[Batch, Any]) -> int:
    return len(extracted[0].indices)


def _append(
    work: Pass, stores: Mapping[str, StoredColumns], batch: Batch, reduced: Mapping[str, Any]
) -> None:
    """Adds a batch to every keep's columns: the images that it wants and does not have yet."""
    if not len(batch.indices):
        return
    for name, keep in work.keeps.items():
        store = stores[name]
        wanted = np.isin(batch.indices, keep.images.indices) & (batch.indices > store.done)
        if wanted.any():
            part, tree = _rows(batch, reduced[name], wanted)
            rows = {INDEX: part.indices, LABEL: part.labels, **keep.columns(part, tree)}
            folded = keep.fold(store.folded, part, tree) if keep.fold else None
            store.append(rows, folded)
        store.done = max(store.done, int(batch.indices[-1]))


def _rows(batch: Batch, tree: Any, wanted: Bool[np.ndarray, " b"]) -> tuple[Batch, Any]:
    """Some images of a batch, and their reduced tree."""
    if wanted.all():
        return batch, tree
    import jax

    return Batch(*(column[wanted] for column in batch)), jax.tree.map(lambda x: x[wanted], tree)


def forecast(work: Pass, folder: Path) -> str:
    """How long a pass will take and what it leaves on disk, from a few measured batches.

    Args:
      work: The pass.
      folder: An empty one, for the rows of these batches.
    """
    stores = {name: StoredColumns(folder / name) for name in work.keeps}
    batches = work.batches(work.images.indices)
    few = batches.indices[: (1 + TIMED_BATCHES) * batches.batch_size]
    start = time.monotonic()
    extract = work.extractor()
    compiled = time.monotonic() - start
    marks = [time.monotonic()]
    for batch, reduced in extract(work.batches(few)):
        _append(work, stores, batch, reduced)
        marks.append(time.monotonic())
    for store in stores.values():
        store.close()
    per_batch = (
        (marks[-1] - marks[1]) / (len(marks) - 2) if len(marks) > 2 else marks[-1] - marks[0]
    )
    seconds = compiled + per_batch * len(batches)
    size = sum(
        store.row_bytes * len(keep.images.indices)
        for keep, store in zip(work.keeps.values(), stores.values(), strict=True)
    )
    names = ", ".join(work.questions)
    return f"{work.title}, for {names}: {clock(seconds)}, {_megabytes(size)} on disk meanwhile"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{max(size / 1e6, 0.1):.1f} MB"


def _folder(subject: Subject, keep: Keep, question: Question, weights: str) -> str:
    """A name for columns, of all that they depend on."""
    options = question.options
    known = {
        "key": keep.key,
        "file_checksum": question.file_checksum,
        "weights": weights,
        "twin": options.seed if subject.is_twin else None,
        "images": options.contents_of(keep.images.place[1]),
        "indices": hashlib.sha256(np.ascontiguousarray(keep.images.indices).data).hexdigest(),
        "preprocess": dataclasses.asdict(keep.preprocess),
        "network": keep.network.__name__,
        "versions": versions(),
    }
    text = json.dumps(plain(known), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
