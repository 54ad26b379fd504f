"""How are several questions answered in one pass of each model over the images?

Every command that only looks at what a network makes of its evaluation images is a `Question`; a
single command answers one, `regvit-analyze all` several together. A model passes over the images
once for all questions that prepare them alike.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

from regvit_jax.analysis.engine.extract import Tree, extract
from regvit_jax.analysis.engine.identity import binding
from regvit_jax.analysis.engine.results import ResultFolder
from regvit_jax.analysis.engine.spool import Spool, SpooledPass
from regvit_jax.analysis.engine.stopping import check
from regvit_jax.analysis.engine.subjects import Subject, open_batches
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.batches import Batch, Batches
from regvit_jax.checkpoint import Params, versions
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.source import Source
from regvit_jax.tokens import TokenLayout


@runtime_checkable
class Collector(Protocol):
    """What one question keeps of one model; it may hold files while it is entered."""

    shown: set[int]
    """Indices of the images whose pixels it keeps."""

    def __enter__(self) -> "Collector": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def reduce(self, trace: ViTTrace, layout: TokenLayout) -> Tree:
        """What is kept of each image, computed on the device."""
        ...

    def add(self, batch: Batch, reduced: Any) -> None:
        """Takes in one batch, of which only shown images need have their pixels."""
        ...

    def finish(self, skipped: list[str]) -> Any:
        """The model's entry for `Question.write`; `skipped` names the unreadable images."""
        ...


@dataclasses.dataclass(frozen=True)
class Question:
    """One analysis, its models and images opened and its options checked."""

    name: str
    options: ImageOptions
    subjects: Sequence[Subject]
    source: Source
    indices: Int[np.ndarray, " n"]
    collect: Callable[[Subject, DeiT3, Params], Collector]
    """A collector for one model."""
    write: Callable[[ResultFolder, list[Any]], dict[str, Any]]
    """Writes figures and tables from the models' entries; returns what results.json says."""


def answer(question: Question) -> dict[str, Any]:
    """The results of one question, written into its folder."""
    out = question.options.out.resolve()
    return answer_all([question], Spool(out.with_name(f".{out.name}.spool")))[question.name]


def answer_all(questions: Sequence[Question], spool: Spool) -> dict[str, dict[str, Any]]:
    """The results of all questions by name, each written into its own folder.

    Args:
      questions: With the same images.
      spool: Keeps what was computed until all is written, for a run that goes on after a stop.

    Raises:
      InputError: If no image can be read, or a folder holds other results.
    """
    folders = [
        ResultFolder(q.options.out, q.name, q.options.configuration(), q.options.overwrite)
        for q in questions
    ]
    results = {}
    with contextlib.ExitStack() as stack:
        for folder in folders:  # first: they keep a second command from the spool
            stack.enter_context(folder)
        stack.enter_context(spool)
        entries = _pass_all(questions, spool)
        for question, folder in zip(questions, folders, strict=True):
            models = [entries[question.name, *_key(subject)] for subject in question.subjects]
            results[question.name] = question.write(folder, models)
            folder.finish(results[question.name])
    return results


def _key(subject: Subject) -> tuple[Any, ...]:
    return subject.label, subject.preprocess


def _pass_all(questions: Sequence[Question], spool: Spool) -> dict[tuple[Any, ...], Any]:
    """The entry of every question and model."""
    asked: dict[tuple[Any, ...], tuple[Subject, list[Question]]] = {}
    for question in questions:
        for subject in question.subjects:
            asked.setdefault(_key(subject), (subject, []))[1].append(question)
    entries = {}
    for key, (subject, group) in asked.items():
        for question, entry in zip(group, _pass(subject, group, spool), strict=True):
            entries[question.name, *key] = entry
    return entries


def _pass(subject: Subject, questions: Sequence[Question], spool: Spool) -> list[Any]:
    """One model over the images: its entries for some questions."""
    first = questions[0]
    model, params = subject.load(first.options.seed)
    batches = open_batches(first.options, subject, first.source, first.indices)
    with contextlib.ExitStack() as stack:
        collectors = {
            q.name: stack.enter_context(q.collect(subject, model, params)) for q in questions
        }
        spooled = {q.name: spool.open(_spool_key(q, subject)) for q in questions}

        def reduce(trace: ViTTrace, layout: TokenLayout) -> Tree:
            return {name: c.reduce(trace, layout) for name, c in collectors.items()}

        structure = functools.partial(_structure, model, params, subject, reduce)
        place, num_seen, skipped = _replay(collectors, spooled, structure, batches.indices)
        rest = Batches(
            *(batches.source, batches.preprocess, batches.batch_size, batches.indices[num_seen:]),
            skip_unreadable=batches.skip_unreadable,
        )
        rest.skipped += skipped
        reduced_batches = extract(model, params, rest, reduce, label=subject.label)
        for batch, reduced in reduced_batches if len(rest) else ():
            for name, collector in collectors.items():
                leaves = jax.tree.leaves(reduced[name])
                spooled[name].write(place, batch, leaves, collector.shown, rest.skipped)
                collector.add(batch, reduced[name])
            place += 1
        if not place:
            raise InputError(
                f"None of the {len(first.indices)} images of {first.source.name} can be read."
            )
        # A message comes twice if a stopped run had read ahead.
        messages = list(dict.fromkeys(rest.skipped))
        return [collector.finish(messages) for collector in collectors.values()]


def _replay(
    collectors: Mapping[str, Collector],
    spooled: Mapping[str, SpooledPass],
    structure: Callable[[], Mapping[str, Any]],
    indices: Int[np.ndarray, " n"],
) -> tuple[int, int, list[str]]:
    """Hands the collectors what an earlier attempt computed.

    Returns:
      Batches, the images up to the last one of these, and messages of those left out.
    """
    count, num_seen, skipped = min(map(len, spooled.values())), 0, list[str]()
    structures = structure() if count else {}
    for place in range(count):
        check()
        found = {name: batches.read(place) for name, batches in spooled.items()}
        if any(one is None for one in found.values()):
            return place, num_seen, skipped
        for name, one in found.items():
            assert one is not None
            collectors[name].add(one.batch, jax.tree.unflatten(structures[name], one.leaves))
            num_seen = int(np.flatnonzero(indices == one.batch.indices[-1])[0]) + 1
            skipped = one.skipped
    return count, num_seen, skipped


def _structure(model: DeiT3, params: Params, subject: Subject, reduce) -> dict[str, Any]:
    """The trees that `reduce` makes, by question, without computing anything."""
    shape = (1, *subject.preprocess.shape)
    layout = model.layout(shape)

    def reduced(params, pixels):
        images = subject.preprocess.normalise(pixels)
        return reduce(model.apply({"params": params}, images, method="trace"), layout)

    trees = jax.eval_shape(reduced, params, jax.ShapeDtypeStruct(shape, np.uint8))
    return {name: jax.tree.structure(tree) for name, tree in trees.items()}


def _spool_key(question: Question, subject: Subject) -> dict[str, Any]:
    """All that the reduced batches depend on."""
    names = "\n".join(question.source.file_names[i] for i in question.indices)
    return {
        "question": question.name,
        "configuration": binding(question.options.configuration()),
        "subject": subject.to_json(),
        "source": question.source.name,
        "images": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        "versions": versions(),
    }
