"""How do results become one page? It reads what the commands wrote, and computes nothing anew."""

import base64
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from analysis.options import ReportOptions
from analysis.plotting import figure_svg
from analysis.plotting_training import TrainingCurve, training_figure
from analysis.report_tables import MISSING, SECTIONS, Table, percent
from analysis.results import read_results
from regvit_jax.checkpoint import read_info, resolve
from regvit_jax.errors import InputError

Json = Mapping[str, Any]

TEMPLATE = "report.html.jinja"
METRICS_FILE = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that the page carries within itself."""

    title: str
    caption: str
    source: str
    """A data URL."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An answer that a section leads with."""

    model: str
    answer: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One analysis on the page."""

    name: str
    heading: str
    text: str
    verdicts: list[Verdict]
    tables: list[Table]
    pictures: list[Picture]
    results: Json
    """For the methods: configuration, data, versions."""


def write_report(options: ReportOptions) -> None:
    """Writes the page; it appears whole or not at all.

    Raises:
      InputError: If a folder holds no results, or a run is none.
    """
    if not options.results:
        raise InputError("Name at least one result folder after --results.")
    if options.out.is_dir():
        raise InputError(f"{options.out} is a folder; --out names the HTML file.")
    html = render(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_name(f".{options.out.name}.partial-{os.getpid()}")
    try:
        partial.write_text(html, encoding="utf-8")
        os.replace(partial, options.out)
    finally:
        partial.unlink(missing_ok=True)


def render(options: ReportOptions) -> str:
    """The page as HTML."""
    folders = [(folder, read_results(folder)) for folder in options.results]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=options.title,
        models=_models_table([results for _, results in folders], options.runs),
        training=_training_picture(options.runs),
        sections=[_section(folder, results) for folder, results in folders],
        is_embedded_data=any(
            results["configuration"].get("data") == "digits" for _, results in folders
        ),
        format_value=_plain_value,
    )


def _section(folder: Path, results: Json) -> Section:
    name = results["analysis"]
    heading, text, tables = SECTIONS.get(name, (name.capitalize(), "", lambda _: []))
    return Section(
        name=name,
        heading=heading,
        text=text,
        verdicts=[
            Verdict(model["title"], model["verdict"]["answer"], model["verdict"]["reason"])
            for model in results["models"]
            if "verdict" in model
        ],
        tables=tables(results),
        pictures=[_picture(folder, figure) for figure in results["figures"]],
        results=results,
    )


def _picture(folder: Path, figure: Json) -> Picture:
    path = folder / figure["file"]
    if not path.is_file():
        raise InputError(f"{path} is missing, though {folder} says it is there. Run it again.")
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return Picture(figure["title"], figure["caption"], f"data:image/png;base64,{encoded}")


def _models_table(all_results: Sequence[Json], runs: Sequence[Path]) -> Table:
    """One row a checkpoint, whether an analysis or `--runs` names it."""
    rows: dict[str, dict[str, Any]] = {}
    for results in all_results:
        for model in results["models"]:
            if not model["is_twin"]:
                row = rows.setdefault(model["checkpoint"], {"verdict": MISSING, **model})
                row["verdict"] = model.get("verdict", {}).get("answer", row["verdict"])
    for run in runs:
        path = resolve(run)
        info = read_info(path)
        row = rows.setdefault(
            str(path),
            {
                "label": run.name,
                "num_registers": info.model.num_registers,
                "num_parameters": None,
                "verdict": MISSING,
            },
        )
        row["metrics"] = info.metrics
    return Table(
        "Models",
        ("model", "registers", "parameters", "validation top-1, %", "images", "outlier tokens"),
        [_model_row(row) for row in rows.values()],
        "In brackets: 95 % interval.",
    )


def _model_row(row: Json) -> tuple[str, ...]:
    top1 = _share(row.get("metrics", {}).get("top1"))
    parameters = row.get("num_parameters")
    return (
        row["label"],
        str(row["num_registers"]),
        MISSING if parameters is None else f"{parameters:,}",
        percent(top1, 1),
        str(top1["n"]) if top1 and "n" in top1 else MISSING,
        row["verdict"],
    )


def _training_picture(runs: Sequence[Path]) -> Picture | None:
    curves = [curve for run in runs if (curve := _training_curve(run))]
    if not curves:
        return None
    encoded = base64.b64encode(figure_svg(training_figure(curves))).decode("ascii")
    caption = "Training loss, smoothed over neighbouring lines of the log, and validation accuracy."
    return Picture("Training", caption, f"data:image/svg+xml;base64,{encoded}")


def _training_curve(run: Path) -> TrainingCurve | None:
    """What a run's log says; None where there is no log, or nothing in it."""
    path = run / METRICS_FILE
    if not path.is_file():
        return None
    loss, top1 = [], []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # a run that was killed leaves half a line
        step = line.get("step")
        if isinstance(line.get("loss"), int | float):
            loss.append((step, line["loss"]))
        if accuracy := _share(line.get("top1")):
            top1.append((step, accuracy["value"]))
    return TrainingCurve(run.name, loss, top1) if loss or top1 else None


def _share(metric: Any) -> Json | None:
    """An accuracy as results.json has numbers; runs write {"share", "low", "high", "n"}."""
    if isinstance(metric, int | float):
        return {"value": metric}
    if not isinstance(metric, Mapping):
        return None
    if "share" in metric:
        interval = [metric["low"], metric["high"]]
        return {"value": metric["share"], "n": metric["n"], "interval": interval}
    return metric if "value" in metric else None


def _plain_value(value: Any) -> str:
    """A value of a configuration, as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain_value(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain_value, value)) or "none"
    return "none" if value is None else str(value)
