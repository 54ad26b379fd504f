"""How are questions answered? Passes, then measuring model by model, then whole result folders.

What the passes keep lies beside the results until all of them are written. A command that was
stopped, or that met an image it cannot read, leaves it there, and the same command goes on from it.
"""

import contextlib
import functools
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from regvit_jax.analysis.engine.columns import StoredColumns
from regvit_jax.analysis.engine.passes import Load, Pass, forecast, plan, run
from regvit_jax.analysis.engine.question import Kept, Question
from regvit_jax.analysis.engine.results import ResultFolder, has_results, plain, read_results
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.progress import Stages
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.checkpoint import versions
from regvit_jax.errors import InputError

_FITS = "fits"
_KEPT = (
    "What is computed of the images before it is kept: the same command goes on there, with "
    "--skip-unreadable too."
)
WITHOUT = "What is done is kept; to go on without this analysis: --skip {}."
"""Advice on one of several analyses that cannot be answered, with its name."""


def answer(question: Question) -> dict[str, Any]:
    """The results of one question, written into its folder; see `answer_all`."""
    out = question.options.out.resolve()
    return answer_all([question], out.with_name(f".{out.name}.columns"))[question.name]


def answer_all(questions: Sequence[Question], workspace: Path) -> dict[str, dict[str, Any]]:
    """The results of all questions by name, each written into its own folder.

    A question whose folder holds results of the same configuration, weights and images is not
    asked again.

    Args:
      questions: They share the passes over images that they have in common.
      workspace: A folder for the columns; it is gone when all is written.

    Raises:
      InputError: If no image can be read, or a folder holds other results.
    """
    results = {q.name: found for q in questions if (found := _finished(q)) is not None}
    missing = [question for question in questions if question.name not in results]
    folders = [
        ResultFolder(q.options.out, q.name, q.configuration, q.options.overwrite) for q in missing
    ]
    with contextlib.ExitStack() as stack:
        for folder in folders:  # first: they keep a second command out of the workspace
            stack.enter_context(folder)
        stack.enter_context(_gone_at_the_end(workspace))
        entries, problems = _measure_all(missing, workspace)
        for question, folder in zip(missing, folders, strict=True):
            if question.name not in problems:
                models = [entries[question.name, subject.label] for subject in question.subjects]
                results[question.name] = question.write(folder, models)
                folder.finish(results[question.name])
        for name, error in problems.items():
            others = "" if len(questions) == 1 else f" {WITHOUT.format(name)}"
            raise InputError(f"{error}{others}") from error
    return {question.name: results[question.name] for question in questions}


def forecast_all(questions: Sequence[Question]) -> list[str]:
    """What answering the questions takes: a line for each pass, measured on a few batches."""
    missing = [question for question in questions if _finished(question) is None]
    passes, _ = plan(missing)
    with tempfile.TemporaryDirectory(prefix="regvit-forecast-") as folder:
        lines = [forecast(work, Path(folder) / str(i)) for i, work in enumerate(passes)]
    lines = [f"Pass {i} of {len(lines)}: {line}" for i, line in enumerate(lines, start=1)]
    if fits := [question.name for question in missing if question.fits]:
        lines.append(f"Not counted: the fits of {' and '.join(fits)}.")
    return lines or ["Nothing to do: all results are there."]


def _finished(question: Question) -> dict[str, Any] | None:
    """The results in a question's folder, if they are of the same configuration."""
    options = question.options
    try:
        if not has_results(options.out, question.name, question.configuration):
            return None
        results = _revived(read_results(options.out))
    except InputError:
        if options.overwrite:
            return None
        raise
    sys.stderr.write(f"{question.name}: already there, kept.\n")
    return results


def _known_as(question: Question, subject: Subject) -> str:
    """A name for what long fits leave behind, of all that they depend on."""
    known = [question.name, subject.slug, plain(question.configuration), versions()]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]


Problems = dict[str, InputError]
"""By question: why it could not be answered."""


def _measure_all(
    questions: Sequence[Question], workspace: Path
) -> tuple[dict[tuple[str, str], Any], Problems]:
    """The entry of every question and model's label."""
    passes, names = plan(questions)
    stages = Stages(len(passes) + sum(len(q.subjects) for q in questions if q.fits))
    entries: dict[tuple[str, str], Any] = {}
    problems: Problems = {}
    for label in dict.fromkeys(work.subject.label for work in passes):
        stores: dict[str, StoredColumns] = {}
        works = [work for work in passes if work.subject.label == label]
        load = functools.cache(functools.partial(works[0].subject.load, works[0].options.seed))
        for work in works:
            with stages.stage():
                stores |= _run(work, workspace, load)
        del load  # the network's memory is free before anything is measured
        for question in questions:
            for subject in question.subjects:
                if subject.label != label:
                    continue
                wanted = {
                    name: stores[folder]
                    for (asker, model, name), folder in names.items()
                    if (asker, model) == (question.name, label)
                }
                fits = workspace / _FITS / _known_as(question, subject)
                with stages.stage() if question.fits else contextlib.nullcontext():
                    try:
                        entries[question.name, label] = question.measure(
                            subject, Kept(wanted, fits)
                        )
                    except InputError as error:
                        problems.setdefault(question.name, error)
    return entries, problems


def _run(work: Pass, workspace: Path, load: Load) -> Mapping[str, StoredColumns]:
    try:
        return run(work, workspace, load)
    except InputError as error:
        if any(workspace.glob("*/*.rows")):
            raise _Unreadable(f"{error} {_KEPT}") from error
        raise


class _Unreadable(InputError):
    """An image could not be read, and the columns of those before it are worth keeping."""


@contextlib.contextmanager
def _gone_at_the_end(workspace: Path) -> Iterator[None]:
    """Removes the workspace, unless what is inside was stopped and can go on from it."""
    try:
        yield
    except _Unreadable:
        raise
    except InputError:
        shutil.rmtree(workspace, ignore_errors=True)
        raise
    shutil.rmtree(workspace, ignore_errors=True)


def _revived(value: Any) -> Any:
    """Results as `Question.write` returns them: numbers are estimates again."""
    if isinstance(value, Mapping):
        if value.keys() == {"value", "n", "interval"}:
            return Estimate.of(value)
        return {key: _revived(each) for key, each in value.items()}
    return [_revived(each) for each in value] if isinstance(value, list) else value
