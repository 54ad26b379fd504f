"""The command `regvit-analyze`: one subcommand for each analysis, your own ones, and the page."""

import dataclasses
import functools
import importlib
import inspect
import operator
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from regvit_jax.analysis.explore.options import ExploreOptions
from regvit_jax.analysis.look.options import LookOptions
from regvit_jax.analysis.options import AllOptions, CompareOptions, ReportOptions, RunOptions
from regvit_jax.analysis.questions import analysis_of, known
from regvit_jax.analysis.spoken import shown
from regvit_jax.analysis.stopping import stoppable
from regvit_jax.command_line import check_arguments, in_our_words
from regvit_jax.console import VERSION_HINT, run
from regvit_jax.errors import InputError
from regvit_jax.repeated import gathered

RUN = "run"
FIRST: dict[str, type] = {"look": LookOptions, "explore": ExploreOptions}
OTHERS: dict[str, type] = {
    RUN: RunOptions,
    "all": AllOptions,
    "compare": CompareOptions,
    "report": ReportOptions,
}
"""Subcommands that are no analysis of the tool's."""

EXAMPLES = f"""Measure what registers change in vision transformers. {VERSION_HINT}

Examples:
  regvit-analyze look photo.jpg --checkpoint runs/reg0 runs/reg4
  regvit-analyze norms --checkpoint runs/reg0 runs/reg4 --data photos --out results/norms
"""


def main() -> None:
    """Runs `regvit-analyze`."""
    run(_main)


def _main() -> None:
    arguments = sys.argv[1:]
    with stoppable():
        own = arguments[:1] == [RUN] and len(arguments) > 1 and arguments[1][:1] != "-"
        lines = _run_file(Path(arguments[1]), arguments[2:]) if own else _answer(arguments)
        for line in lines:
            sys.stdout.write(shown(line, keep="\n") + "\n")


def _answer(arguments: Sequence[str]) -> list[str]:
    """Runs a command of the tool's; what it answers, line by line."""
    kinds = {**FIRST, **known(), **OTHERS}
    check_arguments(arguments, kinds, "regvit-analyze")
    in_short = arguments[:1] not in [[name] for name in kinds]
    commands = [
        Annotated[
            kind,
            tyro.conf.subcommand(
                name, prefix_name=False, description=_first_lines(kind) if in_short else None
            ),
        ]
        for name, kind in kinds.items()
    ]
    with in_our_words("regvit-analyze", *arguments[:1]):
        options: Any = tyro.cli(
            functools.reduce(operator.or_, commands),  # type: ignore[call-overload]
            args=gathered(arguments, _several(kinds.values()), {"--data"}),
            prog="regvit-analyze",
            description=EXAMPLES,
        )
    (name,) = (name for name, kind in kinds.items() if type(options) is kind)
    return _dispatch(name, options)


def _first_lines(kind: type) -> str:
    """The first sentence of a command's help."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _run_file(file: Path, arguments: Sequence[str]) -> list[str]:
    """Runs the analysis of a file; what it answers, line by line."""
    from regvit_jax.analysis.own import load_analysis

    analysis, checksum = load_analysis(file)
    check_arguments([RUN, *arguments], [RUN], "regvit-analyze")
    with in_our_words():
        options: Any = tyro.cli(
            analysis.options,
            args=gathered(arguments, _several([analysis.options]), {"--data"}),
            prog=f"regvit-analyze {RUN} {file}",
            description=f"{analysis.heading}. {analysis.text}",
        )
    return _analyse(analysis, options, checksum)


def _several(kinds: Iterable[Any]) -> frozenset[str]:
    """Options of several values; given again, they add to what was given."""
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    several = [field.name for field in fields if typing.get_origin(field.type) is tuple]
    return frozenset("--" + name.replace("_", "-") for name in several)


def _dispatch(name: str, options: Any) -> list[str]:
    """Runs a command; what it answers, line by line. Heavy imports wait until here."""
    if name == RUN:
        raise InputError(f"Name the file first: regvit-analyze {RUN} FILE --checkpoint ...")
    if name == "report":
        from regvit_jax.analysis.report.page import write_report

        write_report(options)
        return [f"Report: {options.out}"]
    if name in ("look", "explore"):
        from regvit_jax.compilation import cache_compilations

        cache_compilations()
        module = importlib.import_module(f"regvit_jax.analysis.{name}.command")
        return module.run(options)
    if name == "compare":
        from regvit_jax.analysis.comparing import compare

        return [*compare.summary_lines(compare.analyse(options)), f"Results: {options.out}"]
    if name != "all":
        return _analyse(analysis_of(name), options)
    from regvit_jax.analysis import all_command
    from regvit_jax.analysis.engine.answer import forecast_all
    from regvit_jax.compilation import cache_compilations

    cache_compilations()
    if options.dry_run:
        questions, notes = all_command.open_questions(options)
        return [*notes, *forecast_all(questions)]
    results = all_command.analyse(options)
    return [*all_command.summary_lines(results), *_left_out(results), f"Results: {options.out}"]


def _analyse(analysis: Any, options: Any, checksum: str = "") -> list[str]:
    """Runs one analysis, or says what it would do."""
    from regvit_jax.analysis.engine.answer import answer, forecast_all
    from regvit_jax.analysis.engine.written import question, summary_lines
    from regvit_jax.compilation import cache_compilations

    cache_compilations()
    asked = question(analysis, options, checksum)
    if options.dry_run:
        return forecast_all([asked])
    results = answer(asked)
    return [*summary_lines(results), *_left_out(results), f"Results: {options.out}"]


def _left_out(results: Mapping[str, Any]) -> list[str]:
    skipped = len(results["data"]["skipped"])
    line = f"{skipped} unreadable images were left out; results.json names them."
    return [line] if skipped else []
