"""What does `regvit-analyze all` do? Every analysis, the comparison and the page in one folder."""

import sys
from typing import Any

from regvit_jax.analysis.comparing import compare
from regvit_jax.analysis.engine import written
from regvit_jax.analysis.engine.analysis import DoesNotApply
from regvit_jax.analysis.engine.answer import WITHOUT, answer_all
from regvit_jax.analysis.engine.question import Question
from regvit_jax.analysis.options import AllOptions, CompareOptions, ReportOptions
from regvit_jax.analysis.questions import analysis_of, known
from regvit_jax.analysis.report.page import write_report
from regvit_jax.errors import InputError

COLUMNS_FOLDER = ".columns"
REPORT_FILE = "report.html"


def analyse(options: AllOptions) -> dict[str, Any]:
    """Runs what is asked and not there yet; what each analysis found, and what became of it."""
    questions, notes = open_questions(options)
    for note in notes:
        sys.stderr.write(note + "\n")
    results = answer_all(questions, options.out / COLUMNS_FOLDER)
    folders = tuple(question.options.out for question in questions)
    together = CompareOptions(results=folders, out=options.out / "compare", overwrite=True)
    results["compare"] = compare.analyse(together)
    page = options.out / REPORT_FILE
    write_report(ReportOptions(results=(*folders, together.out), out=page, runs=options.checkpoint))
    skipped = {m: None for found in results.values() for m in found["data"]["skipped"]}
    return {"data": {"skipped": list(skipped)}, "notes": notes, "analyses": results, "page": page}


def open_questions(options: AllOptions) -> tuple[list[Question], list[str]]:
    """The questions that apply, and why the others do not.

    Raises:
      InputError: If none applies, or one cannot be asked of these models and images.
    """
    questions: list[Question] = []
    notes = []
    for name, kind in known().items():
        if name in options.skip:
            continue
        analysis = analysis_of(name)
        try:
            asked = options.of(kind, name)
            analysis.applies(asked)
        except InputError as error:
            notes.append(f"{name} was left out: {error}")
            continue
        try:
            questions.append(written.question(analysis, asked))
        except DoesNotApply as error:
            notes.append(f"{name} was left out: {error}")
        except InputError as error:
            raise InputError(f"{error} {WITHOUT.format(name)}") from error
    if not questions:
        raise InputError(" ".join(["No analysis is left.", *notes]))
    return questions, notes


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: every analysis's lines under its name."""
    lines = []
    for name, found in results["analyses"].items():
        write = compare.summary_lines if name == "compare" else written.summary_lines
        lines += [f"{name}:", *(f"  {line}" for line in write(found))]
    return [*lines, *results["notes"], f"Report: {results['page']}"]
