"""How do models differ, in everything that was measured? One table and one page of figures.

It reads what the other commands wrote and computes nothing anew: the numbers that each analysis
leads with, with their intervals, and every paired difference in `comparisons`. A model is
its checkpoint, whatever a result folder calls it; the first one of the first folder is what the
others are compared with.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from regvit_jax.analysis.engine.recipes import over_sides, sides_of
from regvit_jax.analysis.engine.results import (
    RESULTS_FILE,
    FigureFile,
    ResultFolder,
    estimate_columns,
    read_results,
)
from regvit_jax.analysis.engine.results_schema import check_results
from regvit_jax.analysis.options import CompareOptions
from regvit_jax.analysis.plotting import save_figure
from regvit_jax.analysis.plotting.compare import NumberPanel, headlines_figure
from regvit_jax.analysis.statistics.bootstrap import MIN_IMAGES, Estimate
from regvit_jax.checkpoint import versions
from regvit_jax.errors import InputError

Json = Mapping[str, Any]


class Headline(NamedTuple):
    """One number that models are compared by."""

    key: str
    title: str
    is_share: bool = True


IN_THIS_PAIR = (
    "These hold in this pair of models: a statement about registers needs 3 training runs of one "
    "recipe without and 3 with them."
)
TOP1 = Headline("top1", "validation accuracy of the head")


@dataclasses.dataclass(frozen=True)
class Folder:
    """One result folder."""

    path: Path
    question: str
    """The analysis; with the folder's name where several answer the same one."""
    results: Json


@dataclasses.dataclass(frozen=True)
class Number:
    """One headline of all models."""

    question: str
    headline: Headline
    values: dict[str, Estimate | str]
    """By model's label."""
    differences: dict[str, Estimate]
    """These models minus the first one; paired, over images."""
    over_runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Recipes with registers minus those without, over training runs."""


def analyse(options: CompareOptions) -> dict[str, Any]:
    """Compares, writes everything into `options.out`, and returns what results.json says."""
    folders = open_folders(options.results)
    models = collect_models(folders)
    numbers = collect_numbers(folders, models)
    pairs = collect_pairs(folders, models)
    folder = ResultFolder(options.out, "compare", options.configuration(), options.overwrite)
    with folder:
        results = {
            "data": {"name": "results of other analyses", "skipped": []},
            "models": list(models.values()),
            "first": next(iter(models.values()))["label"],
            "headlines": [_number_json(number) for number in numbers],
            "comparisons": pairs,
            "figures": [f.to_json() for f in _write_figure(folder, numbers, models)],
            "tables": _write_tables(folder, numbers, pairs),
            "versions": versions(),
        }
        folder.finish(results)
    return results


def open_folders(paths: Sequence[Path]) -> list[Folder]:
    """The result folders, each under a name unlike the others'.

    Raises:
      InputError: If one has no results, or holds a comparison itself.
    """
    found = [(path, read_results(path)) for path in paths]
    for path, results in found:
        if results["analysis"] == "compare":
            raise InputError(f"{path} is a comparison itself; name the folders that it read.")
        check_results(results, str(path / RESULTS_FILE), is_complete=False)
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("The same result folder is named twice after --results.")
    counts = Counter(results["analysis"] for _, results in found)
    return [
        Folder(
            path,
            results["analysis"]
            if counts[results["analysis"]] == 1
            else f"{results['analysis']} ({path})",
            results,
        )
        for path, results in found
    ]


def collect_models(folders: Sequence[Folder]) -> dict[str, dict[str, Any]]:
    """What identifies each checkpoint, by its path, in the order in which they are met.

    Untrained twins are controls of one analysis; they are left out.
    """
    models: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for model in folder.results["models"]:
            if not model["is_twin"]:
                models.setdefault(model["checkpoint"], _identity(model))
    if not models:
        raise InputError("The result folders name no checkpoint.")
    counts = Counter(model["label"] for model in models.values())
    for model in models.values():
        if counts[model["label"]] > 1:
            model["label"] = model["checkpoint"]
    return models


def _identity(model: Json) -> dict[str, Any]:
    keys = (
        *("label", "title", "checkpoint", "is_twin", "variant", "num_registers", "model"),
        *("num_parameters", "source", "metrics", "preprocess"),
    )
    return {key: model.get(key) for key in keys}


def collect_numbers(
    folders: Sequence[Folder], models: Mapping[str, dict[str, Any]]
) -> list[Number]:
    """Every headline that at least one model has."""
    top1: dict[str, Estimate | str] = {
        model["label"]: estimate
        for model in models.values()
        if (estimate := Estimate.of((model["metrics"] or {}).get("top1"))) is not None
    }
    numbers = [Number("training", TOP1, top1, {})] if top1 else []
    first = next(iter(models.values()))["label"]
    for folder in folders:
        trained = {
            models[model["checkpoint"]]["label"]: model
            for model in folder.results["models"]
            if not model["is_twin"]
        }
        changes = _changes_from(folder, models, first)
        verdicts = {k: m["verdict"]["answer"] for k, m in trained.items() if "verdict" in m}
        if verdicts:
            title = folder.results["about"]["verdict"]
            numbers.append(Number(folder.question, Headline("verdict", title), verdicts, {}))
        for lead in folder.results["lead"]:
            headline = Headline(lead["key"], lead["title"], lead["is_share"])
            values: dict[str, Estimate | str] = {
                label: estimate
                for label, model in trained.items()
                if (estimate := Estimate.of(model["numbers"].get(headline.key))) is not None
            }
            differences = {
                label: found[headline.key]
                for label, found in changes.items()
                if headline.key in found
            }
            if values or differences:
                runs = _over_runs(folder, trained, headline.key)
                numbers.append(Number(folder.question, headline, values, differences, runs))
    return numbers


def _over_runs(folder: Folder, models: Mapping[str, Json], key: str) -> list[dict[str, Any]]:
    """A number's difference over the training runs of every recipe that has enough of them."""
    changes = {
        (pair["from"], pair["to"]): dict(_differences(pair)).get(key)
        for pair in folder.results["comparisons"]
    }
    found = []
    for sides in sides_of(list(models.values())):
        over = over_sides(sides, lambda model: Estimate.of(model["numbers"].get(key)), changes)
        if sides.is_enough and over is not None:
            interval = [over.low, over.high]
            entry = {"registers": sides.num_registers, "runs": list(over.runs)}
            found.append(entry | {"value": over.value, "interval": interval})
    return found


def collect_pairs(
    folders: Sequence[Folder], models: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every comparison of two checkpoints in any folder, under this comparison's labels."""
    rows = []
    for folder in folders:
        labels = _labels(folder, models)
        for pair in folder.results["comparisons"]:
            if pair["from"] in labels and pair["to"] in labels:
                rows.append(
                    {
                        "question": folder.question,
                        "from": labels[pair["from"]],
                        "to": labels[pair["to"]],
                        "paired": pair.get("paired", False),
                        "differences": dict(_differences(pair)),
                    }
                )
    return rows


def _labels(folder: Folder, models: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """This comparison's labels of a folder's checkpoints, by the folder's own."""
    return {
        model["label"]: models[model["checkpoint"]]["label"]
        for model in folder.results["models"]
        if not model["is_twin"]
    }


def _changes_from(
    folder: Folder, models: Mapping[str, dict[str, Any]], first: str
) -> dict[str, dict[str, Estimate]]:
    """The differences to the first model, by the other one's label."""
    labels, found = _labels(folder, models), {}
    for pair in folder.results["comparisons"]:
        start, end = labels.get(pair["from"]), labels.get(pair["to"])
        if start == first and end is not None:
            found[end] = dict(_differences(pair))
        elif end == first and start is not None:
            found[start] = {name: _reversed(e) for name, e in _differences(pair)}
    return found


def _differences(pair: Json) -> Iterator[tuple[str, Estimate]]:
    for name, value in pair.get("differences", {}).items():
        estimate = Estimate.of(value)
        if estimate is not None:
            yield name, estimate


def _reversed(estimate: Estimate) -> Estimate:
    if estimate.low is None or estimate.high is None:
        return Estimate(-estimate.value, estimate.n)
    return Estimate(-estimate.value, estimate.n, -estimate.high, -estimate.low)


def _number_json(number: Number) -> dict[str, Any]:
    return {
        "question": number.question,
        "name": number.headline.key,
        "title": number.headline.title,
        "is_share": number.headline.is_share,
        "values": number.values,
        "differences": number.differences,
        "over_runs": number.over_runs,
    }


def _write_tables(
    folder: ResultFolder, numbers: Sequence[Number], pairs: Sequence[Json]
) -> list[dict[str, str]]:
    rows = []
    for number in numbers:
        for label, value in number.values.items():
            rows.append(_row(number, label, value, number.differences.get(label)))
    folder.write_table("compare.csv", rows)
    tables = [{"file": "compare.csv", "title": "Headline numbers, and differences to the first"}]
    differences = [
        {"question": pair["question"], "from": pair["from"], "to": pair["to"]}
        | {"paired": pair["paired"], "quantity": name, "n": estimate.n}
        | estimate_columns("difference", estimate)
        for pair in pairs
        for name, estimate in pair["differences"].items()
    ]
    if differences:
        folder.write_table("differences.csv", differences)
        tables.append({"file": "differences.csv", "title": "Every paired difference"})
    return tables


def _row(number: Number, label: str, value: Estimate | str, difference: Estimate | None):
    empty = Estimate(float("nan"), 0)
    head = {"question": number.question, "quantity": number.headline.key, "model": label}
    text = value if isinstance(value, str) else ""
    estimate = empty if isinstance(value, str) else value
    row = head | {"n": estimate.n or ""} | estimate_columns("value", estimate)
    row |= estimate_columns("difference", difference or empty)
    row["value"] = text or estimate.value
    return row | ({} if difference else {"difference": ""})


def _write_figure(
    folder: ResultFolder, numbers: Sequence[Number], models: Mapping[str, dict[str, Any]]
) -> list[FigureFile]:
    panels = [
        NumberPanel(n.question, n.headline.title, n.headline.is_share, estimates, n.differences)
        for n in numbers
        if (estimates := {k: v for k, v in n.values.items() if isinstance(v, Estimate)})
    ]
    if not panels:
        return []
    file = FigureFile(
        "compare",
        "Headline numbers side by side",
        "Dots with 95 % intervals. At the right, where it was measured on the same images: the "
        "difference to the first model with its paired interval; bold where that leaves out zero "
        f"and rests on at least {MIN_IMAGES} images.",
    )
    titles = {model["label"]: _title(model) for model in models.values()}
    save_figure(headlines_figure(panels, titles), folder.partial, file.name)
    return [file]


def _title(model: Json) -> str:
    count = model["num_registers"]
    return f"{model['label']} ({count} register{'' if count == 1 else 's'})"


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: the differences that leave out zero, on images enough."""
    count, numbers = len(results["models"]), len(results["headlines"])
    lines = [f"{count} model{'s' if count != 1 else ''}, {numbers} headline numbers."]
    told = len(lines)
    for number in results["headlines"]:
        scale, unit = (100, " points") if number["is_share"] else (1, "")
        for label, e in number["differences"].items():
            if e.leaves_out_zero:
                assert e.low is not None
                assert e.high is not None
                lines.append(
                    f"{number['question']}, {number['title']}: {label} differs from "
                    f"{results['first']} by {scale * e.value:+.3g}{unit} "
                    f"[{scale * e.low:+.3g}, {scale * e.high:+.3g}]"
                )
                told += 1
        for over in number["over_runs"]:
            low, high = over["interval"]
            if low is not None and low * high > 0:
                lines.append(
                    f"{number['question']}, {number['title']}: over {over['runs'][0]} + "
                    f"{over['runs'][1]} training runs, {over['registers']} registers differ from "
                    f"none by {scale * over['value']:+.3g}{unit} "
                    f"[{scale * low:+.3g}, {scale * high:+.3g}]"
                )
    if not any(number["over_runs"] for number in results["headlines"]):
        lines.append(IN_THIS_PAIR)
    if told == 1:
        lines.append(
            "No paired difference of a headline number that rests on at least "
            f"{MIN_IMAGES} images leaves out zero."
        )
    return lines
