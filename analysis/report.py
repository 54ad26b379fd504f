"""How do results become one page? It reads what the commands wrote, and computes nothing anew."""

import base64
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from analysis.options import ReportOptions
from analysis.plotting import figure_svg
from analysis.plotting_training import TrainingCurve, training_figure
from analysis.results import read_results
from regvit_jax.checkpoint import read_info, resolve
from regvit_jax.errors import InputError

Json = Mapping[str, Any]

TEMPLATE = "report.html.jinja"
METRICS_FILE = "metrics.jsonl"
MISSING = "\N{EN DASH}"

DEFINITIONS = {
    "quantile_98": "98 % quantile (2 % by construction)",
    "quantile_99_5": "99.5 % quantile (0.5 % by construction)",
    "mean_plus_3sd": "mean + 3 sd",
    "3_x_median": "3 x median",
    "absolute_150": "norm 150 (DINOv2-g)",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a section; cells are text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


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
    heading, text, tables = SECTIONS.get(name, (name.capitalize(), "", _no_tables))
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


def _no_tables(results: Json) -> list[Table]:
    return []


def _norms_tables(results: Json) -> list[Table]:
    models = results["models"]
    titles = tuple(model["title"] for model in models)
    definitions = [
        (
            label,
            *(
                f"{percent(model['shares']['last'][name], 2)} above "
                f"{model['thresholds']['last'][name]:.4g}"
                for model in models
            ),
        )
        for name, label in DEFINITIONS.items()
    ]
    tests = [
        ("excess kurtosis", *(number(m["tests"]["last"]["excess_kurtosis"], 2) for m in models)),
        ("largest / median", *(number(m["tests"]["last"]["max_over_median"], 2) for m in models)),
        *(
            (label, *(_p_value(model["tests"]["last"].get(name)) for model in models))
            for name, label in (
                ("dip_all_p", "dip test of all patches, p"),
                ("dip_upper_5_percent_p", "dip test of the upper 5 %, p"),
            )
        ),
    ]
    tables = [
        Table(
            "Share of patches above each definition of an outlier, %",
            ("definition", *titles),
            definitions,
            "Norms after the last block, before the last LayerNorm. A percentile finds the same "
            "share in any model. [0.00, 0.00] says that no image had such a patch.",
        ),
        Table(
            "Tests that can fail",
            ("test", *titles),
            tests,
            "Large kurtosis, a large ratio and small p speak for outliers. The p-values treat "
            "patches as independent and are therefore too small.",
        ),
    ]
    if results["comparisons"]:
        tables.append(_differences_table(results["comparisons"]))
    return tables


def _differences_table(comparisons: Sequence[Json]) -> Table:
    rows = [
        (
            f"{pair['from']} → {pair['to']}",
            percent(pair["differences"]["share_above_mean_plus_3sd"], 2),
            percent(pair["differences"]["share_above_3_x_median"], 2),
            number(pair["differences"]["largest_over_median"], 2),
        )
        for pair in comparisons
    ]
    return Table(
        "Differences on the same images",
        ("models", "above mean + 3 sd, points", "above 3 x median, points", "largest / median"),
        rows,
        "Second minus first; every model has its own thresholds. Intervals are paired. "
        "Largest: of each image, averaged over the images.",
    )


def _attention_tables(results: Json) -> list[Table]:
    rows, likeness = [], []
    for model in results["models"]:
        last = model["layers"][-1]
        for query, values in last["queries"].items():
            rows.append(
                (
                    model["title"],
                    query,
                    percent(values["mass_patches"], 1),
                    percent(values["mass_registers"], 1),
                    percent(values["mass_cls"], 1),
                    percent(values["largest_weight"], 2),
                    number(values["entropy"], 3),
                )
            )
        if "register_maps" in last:
            embeddings = model["register_embedding_cosine"]
            likeness.append(
                (
                    model["title"],
                    number(last["register_maps"]["cosine"], 3),
                    number(last["register_maps"]["centred_cosine"], 3),
                    MISSING if embeddings is None else f"{embeddings:.3f}",
                )
            )
    tables = [
        Table(
            "Where attention goes in the last block",
            (
                "model",
                "query",
                "on patches, %",
                "on registers, %",
                "on CLS, %",
                "largest patch, %",
                "entropy",
            ),
            rows,
            "Mean over the heads, then over the images. Entropy over the patches: 1 is even.",
        )
    ]
    if likeness:
        columns = ("model", "cosine of maps", "centred cosine of maps", "cosine of embeddings")
        tables.append(Table("How alike the registers are (last block)", columns, likeness))
    return tables


SECTIONS: dict[str, tuple[str, str, Callable[[Json], list[Table]]]] = {
    "norms": (
        "Token norms",
        "Outlier tokens are patches whose vectors are many times as long as the others'. They are "
        "“found” here only if they form a group of their own: rare, far from the bulk, separated "
        "from it by a valley, and further out than the pixels alone put them.",
        _norms_tables,
    ),
    "attention": (
        "Attention",
        "What CLS and each register look at. Where outlier tokens exist, they draw attention to "
        "single patches that have nothing to do with the object.",
        _attention_tables,
    ),
}
"""Heading, explanation and tables of each analysis; another one shows its figures alone."""


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


def percent(estimate: Any, digits: int) -> str:
    """A share in per cent with its interval: "81.0 [79.2, 82.7]"."""
    return _with_interval(estimate, 100.0, digits)


def number(estimate: Any, digits: int) -> str:
    """A number with its interval."""
    return _with_interval(estimate, 1.0, digits)


def _with_interval(estimate: Any, scale: float, digits: int) -> str:
    if isinstance(estimate, int | float):
        estimate = {"value": estimate}
    if not estimate or estimate.get("value") is None:
        return MISSING
    text = f"{scale * estimate['value']:.{digits}f}"
    if interval := estimate.get("interval"):
        low, high = (f"{scale * end:.{digits}f}" for end in interval)
        text += f" [{low}, {high}]"
    return text


def _p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _plain_value(value: Any) -> str:
    """A value of a configuration, as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain_value(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain_value, value)) or "none"
    return "none" if value is None else str(value)
