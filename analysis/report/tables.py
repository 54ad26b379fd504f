"""Which numbers of each analysis does the page show, and how are they written?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from regvit_jax.analysis.statistics.bootstrap import Estimate

Json = Mapping[str, Any]

MISSING = "\N{EN DASH}"
COUNT_NOTE = "n counts the images that a number rests on."

TOGETHER = (
    "Models side by side",
    "What every analysis leads with, for all models, and the differences that were measured on the "
    "same images.",
)
"""Heading and explanation of a comparison."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a section; cells are text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def percent(estimate: Any, digits: int) -> str:
    """A share in per cent with its interval: "81.0 [79.2, 82.7]"."""
    return _with_interval(estimate, 100.0, digits)


def number(estimate: Any, digits: int) -> str:
    """A number with its interval."""
    return _with_interval(estimate, 1.0, digits)


def tables_of(results: Json) -> list[Table]:
    """The numbers that an analysis leads with, how models differ in them, and whole tables."""
    if results["analysis"] == "compare":
        return _compare_tables(results)
    shown = [_whole_table(results, name) for name, t in results["measured"].items() if t["on_page"]]
    return [*_headline_tables(results), *(table for table in shown if table.rows)]


def _headline_tables(results: Json) -> list[Table]:
    models, leads = results["models"], results["lead"]
    rows = [
        (lead["title"], *(_headline(value, lead["is_share"]) for value in values))
        for lead in leads
        if any(values := [model["numbers"].get(lead["key"]) for model in models])
    ]
    tables = []
    if rows:
        titles = (model["title"] for model in models)
        tables.append(Table("Headline numbers", ("number", *titles), rows, COUNT_NOTE))
    differences = [
        (
            lead["title"],
            f"{pair['from']} → {pair['to']}",
            _headline(found, lead["is_share"], "points"),
        )
        for pair in results["comparisons"]
        for lead in leads
        if (found := pair["differences"].get(lead["key"]))
    ]
    if differences:
        tables.append(_paired_table(differences))
    return tables


def _whole_table(results: Json, name: str) -> Table:
    """A row for each model and place on the axes, a column for each quantity."""
    table = results["measured"][name]
    quantities = {key: q for key, q in table["quantities"].items() if q["on_page"]}
    rows = []
    for model in results["models"]:
        keys = [key.split("/") for key in model["numbers"] if key.startswith(f"{name}/")]
        for place in dict.fromkeys(tuple(key[1:-1]) for key in keys):
            values = (model["numbers"].get("/".join([name, *place, q])) for q in quantities)
            cells = (
                _cell(value, quantity["is_share"])
                for value, quantity in zip(values, quantities.values(), strict=True)
            )
            words = (table["words"].get(part, part.replace("_", " ")) for part in place)
            rows.append((model["title"], *words, *cells))
    titles = (q["title"] + (", %" if q["is_share"] else "") for q in quantities.values())
    axes = (axis.replace("_", " ") for axis in table["axes"])
    return Table(table["title"], ("model", *axes, *titles), rows)


def _cell(value: Any, is_share: bool) -> str:
    """A number of a whole table: counts without decimals, small p-values in powers of ten."""
    if is_share or not isinstance(value, Mapping) or value.get("interval"):
        return percent(value, 2) if is_share else number(value, 3)
    plain = float(value["value"] or 0)
    if plain.is_integer():
        return f"{plain:.0f}"
    return f"{plain:.1e}" if abs(plain) < 0.001 else f"{plain:.3f}"


def _compare_tables(results: Json) -> list[Table]:
    """The headline numbers of all analyses side by side."""
    labels = [model["label"] for model in results["models"]]
    rows, differences = [], []
    for entry in results["headlines"]:
        name = f"{entry['question']}: {entry['title']}"
        values = (_headline(entry["values"].get(label), entry["is_share"]) for label in labels)
        rows.append((name, *values))
        differences += [
            (name, f"{results['first']} → {label}", _headline(found, entry["is_share"], "points"))
            for label, found in entry["differences"].items()
        ]
    tables = [Table("Headline numbers", ("number", *labels), rows, COUNT_NOTE)]
    if differences:
        tables.append(_paired_table(differences))
    return [*tables, _table_of_runs(results)]


def _table_of_runs(results: Json) -> Table:
    """Differences over training runs, or that there are too few."""
    rows = [
        (
            f"{entry['question']}: {entry['title']}",
            f"{over['runs'][0]} + {over['runs'][1]}, {over['registers']} registers",
            _headline(over, entry["is_share"], "points"),
        )
        for entry in results["headlines"]
        for over in entry.get("over_runs", ())
    ]
    note = (
        "Runs of one recipe with registers minus runs without; 95 % intervals over training runs."
        if rows
        else "Needs 3 runs of one recipe without and 3 with registers, of unlike seeds. What is "
        "said above holds in this pair of models; another seed may say otherwise."
    )
    return Table("Differences over training runs", ("number", "runs", "difference"), rows, note)


def _paired_table(rows: Sequence[tuple[str, ...]]) -> Table:
    note = (
        "Second minus first, on the same images. Intervals are over images, paired: they hold in "
        "this pair of models."
    )
    return Table("Differences between models", ("number", "models", "difference"), rows, note)


def _headline(value: Any, is_share: bool, unit: str = "%") -> str:
    """A number with its interval and count, or a word."""
    digits = 4 if unit == "points" else 3  # differences are smaller
    if isinstance(value, str):
        return value
    text = f"{percent(value, 2)} {unit}" if is_share and value else number(value, digits)
    count = _count(value)
    return text if MISSING in (text, count) else f"{text}, n {count}"


def _count(value: Any) -> str:
    return str(value["n"]) if isinstance(value, Mapping) and value.get("n") else MISSING


def _with_interval(estimate: Any, scale: float, digits: int) -> str:
    found = Estimate.of(estimate)
    return MISSING if found is None else found.text(digits, scale)
