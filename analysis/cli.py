"""The command `regvit-analyze`: one subcommand a question, and the report."""

import importlib
import sys
from typing import Annotated, Any

import tyro

from regvit_jax.analysis.engine.stopping import stoppable
from regvit_jax.analysis.options import (
    AllOptions,
    AttentionOptions,
    CompareOptions,
    LostOptions,
    NormsOptions,
    ProbeOptions,
    ReconstructionOptions,
    ReportOptions,
    SimilarityOptions,
)
from regvit_jax.analysis.spoken import shown
from regvit_jax.console import VERSION_HINT, run
from regvit_jax.repeated import gathered

Command = (
    Annotated[NormsOptions, tyro.conf.subcommand("norms", prefix_name=False)]
    | Annotated[AttentionOptions, tyro.conf.subcommand("attention", prefix_name=False)]
    | Annotated[SimilarityOptions, tyro.conf.subcommand("similarity", prefix_name=False)]
    | Annotated[ProbeOptions, tyro.conf.subcommand("probe", prefix_name=False)]
    | Annotated[ReconstructionOptions, tyro.conf.subcommand("reconstruction", prefix_name=False)]
    | Annotated[LostOptions, tyro.conf.subcommand("lost", prefix_name=False)]
    | Annotated[AllOptions, tyro.conf.subcommand("all", prefix_name=False)]
    | Annotated[CompareOptions, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[ReportOptions, tyro.conf.subcommand("report", prefix_name=False)]
)

ANALYSES: dict[type, str] = {
    NormsOptions: "regvit_jax.analysis.questions.norms.command",
    AttentionOptions: "regvit_jax.analysis.questions.attention.command",
    ProbeOptions: "regvit_jax.analysis.questions.probe.command",
    AllOptions: "regvit_jax.analysis.all_command",
    CompareOptions: "regvit_jax.analysis.comparing.compare",
    LostOptions: "regvit_jax.analysis.questions.lost.command",
    SimilarityOptions: "regvit_jax.analysis.questions.similarity.command",
    ReconstructionOptions: "regvit_jax.analysis.questions.reconstruction.command",
}
"""Where each question is answered: a module with `analyse(options)`, which writes the results and
returns them, and `summary_lines(results)`."""

SEVERAL = frozenset(
    {"--checkpoint", "--data", "--show", "--skip", "--results", "--runs"}
    | {"--neighbours", "--feature", "--layer", "--gram-bias"}
)
"""Options of several values; given again, they add to what was given."""

EXAMPLES = f"""What registers change, measured. {VERSION_HINT}

Example: regvit-analyze norms --checkpoint runs/reg0 runs/reg4 --data photos --out runs/norms
"""


def main() -> None:
    """Runs `regvit-analyze`."""
    run(_main)


def _main() -> None:
    with stoppable():
        _answer()


def _answer() -> None:
    options: Any = tyro.cli(
        Command,  # type: ignore[arg-type]
        args=gathered(sys.argv[1:], SEVERAL, {"--data"}),
        prog="regvit-analyze",
        description=EXAMPLES,
    )
    for line in _dispatch(options):
        sys.stdout.write(shown(line, keep="\n") + "\n")


def _dispatch(options: Any) -> list[str]:
    """Runs a command; what it answers, line by line. Heavy imports wait until here."""
    if isinstance(options, ReportOptions):
        from regvit_jax.analysis.report.page import write_report

        write_report(options)
        return [f"Report: {options.out}"]
    from regvit_jax.compilation import cache_compilations

    cache_compilations()
    question = importlib.import_module(ANALYSES[type(options)])
    results = question.analyse(options)
    lines = question.summary_lines(results)
    if skipped := results["data"]["skipped"]:
        lines.append(f"{len(skipped)} unreadable images were left out; results.json names them.")
    return [*lines, f"Results: {options.out}"]
