"""What does `regvit-analyze all` do? Every analysis, the comparison and the page in one folder."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from typing import Any

from regvit_jax.analysis.comparing import compare
from regvit_jax.analysis.engine.parts import open_labelled_parts, open_parts
from regvit_jax.analysis.engine.question import Question, answer_all
from regvit_jax.analysis.engine.results import has_results
from regvit_jax.analysis.engine.spool import Spool
from regvit_jax.analysis.options import (
    AllOptions,
    AttentionOptions,
    CompareOptions,
    ImageOptions,
    LostOptions,
    NormsOptions,
    ProbeOptions,
    ReconstructionOptions,
    ReportOptions,
    SimilarityOptions,
)
from regvit_jax.analysis.questions.attention import command as attention_command
from regvit_jax.analysis.questions.lost import command as lost_command
from regvit_jax.analysis.questions.norms import command as norms_command
from regvit_jax.analysis.questions.probe import command as probe_command
from regvit_jax.analysis.questions.reconstruction import command as reconstruction_command
from regvit_jax.analysis.questions.similarity import command as similarity_command
from regvit_jax.analysis.report.page import write_report
from regvit_jax.errors import InputError

SPOOL_FOLDER = ".spool"
REPORT_FILE = "report.html"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One part of the whole."""

    options: type[ImageOptions]
    module: Any
    """Has `summary_lines`, and `question` or `analyse`."""
    question: Callable[[Any], Question] | None = None
    """Of an analysis that joins the one pass."""
    check: Callable[[Any], object] | None = None
    """Raises InputError where the data do not allow the analysis."""


ANALYSES: dict[str, Analysis] = {
    "norms": Analysis(NormsOptions, norms_command, norms_command.question),
    "attention": Analysis(
        AttentionOptions,
        attention_command,
        attention_command.question,
        attention_command.check_models,
    ),
    "similarity": Analysis(SimilarityOptions, similarity_command, similarity_command.question),
    "lost": Analysis(LostOptions, lost_command),
    "probe": Analysis(ProbeOptions, probe_command, check=open_labelled_parts),
    "reconstruction": Analysis(ReconstructionOptions, reconstruction_command, check=open_parts),
}


def analyse(options: AllOptions) -> dict[str, Any]:
    """Runs what is asked and not there yet; what each analysis found, and what became of it."""
    chosen, notes = _choose(options)
    finished = [name for name, asked in chosen.items() if _is_finished(name, asked, options)]
    notes += [f"{name}: already there, kept." for name in finished]
    missing = {name: asked for name, asked in chosen.items() if name not in finished}
    for note in notes:
        sys.stderr.write(note + "\n")
    questions = [
        question(asked) for name, asked in missing.items() if (question := ANALYSES[name].question)
    ]
    results: dict[str, Any] = {}
    if questions:
        results |= answer_all(questions, Spool(options.out / SPOOL_FOLDER))
    for name, asked in missing.items():
        if ANALYSES[name].question is None:
            results[name] = _alone(name, asked)
    shutil.rmtree(options.out / SPOOL_FOLDER, ignore_errors=True)  # of a command that was killed
    folders = tuple(options.out / name for name in chosen)
    together = CompareOptions(results=folders, out=options.out / "compare", overwrite=True)
    results["compare"] = compare.analyse(together)
    page = options.out / REPORT_FILE
    write_report(ReportOptions(results=(*folders, together.out), out=page, runs=options.checkpoint))
    skipped = {m: None for found in results.values() for m in found["data"]["skipped"]}
    return {"data": {"skipped": list(skipped)}, "notes": notes, "analyses": results, "page": page}


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: every analysis's lines under its name."""
    lines = []
    for name, found in results["analyses"].items():
        module = compare if name == "compare" else ANALYSES[name].module
        lines += [f"{name}:", *(f"  {line}" for line in module.summary_lines(found))]
    return [*lines, *results["notes"], f"Report: {results['page']}"]


def _choose(options: AllOptions) -> tuple[dict[str, ImageOptions], list[str]]:
    """The options of the analyses that apply, and why the others do not."""
    chosen: dict[str, ImageOptions] = {}
    notes = []
    for name, analysis in ANALYSES.items():
        if name in options.skip:
            continue
        try:
            asked = options.of(analysis.options, name)
            if analysis.check is not None:
                analysis.check(asked)
        except InputError as error:
            notes.append(f"{name} was left out: {error}")
            continue
        chosen[name] = asked
    if not chosen:
        raise InputError(" ".join(["No analysis is left.", *notes]))
    return chosen, notes


def _is_finished(name: str, asked: ImageOptions, options: AllOptions) -> bool:
    """Whether results of these options, weights and images are there."""
    configuration = asked.configuration()
    try:
        return has_results(asked.out, name, configuration)
    except InputError:
        if not options.overwrite:
            raise
        return False


def _alone(name: str, asked: ImageOptions) -> dict[str, Any]:
    """The results of an analysis that passes over images of its own."""
    try:
        return ANALYSES[name].module.analyse(asked)
    except InputError as error:
        raise InputError(
            f"{error} What is done is kept; to go on without this analysis: --skip {name}."
        ) from error
