"""Which numbers of each analysis does the page show, and how are they written?"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from regvit_jax.analysis.comparing.headlines import HEADLINES, find
from regvit_jax.analysis.statistics.bootstrap import Estimate

Json = Mapping[str, Any]

MISSING = "\N{EN DASH}"
COUNT_NOTE = "n counts the images that a number rests on."

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


def percent(estimate: Any, digits: int) -> str:
    """A share in per cent with its interval: "81.0 [79.2, 82.7]"."""
    return _with_interval(estimate, 100.0, digits)


def number(estimate: Any, digits: int) -> str:
    """A number with its interval."""
    return _with_interval(estimate, 1.0, digits)


def headline_tables(results: Json) -> list[Table]:
    """The numbers that `comparing.headlines` names, and how models differ in them."""
    models, headlines = results["models"], HEADLINES[results["analysis"]]
    rows = [
        (headline.title, *(_headline(value, headline.is_share) for value in values))
        for headline in headlines
        if any(values := [find(model, headline.path) for model in models])
    ]
    tables = []
    if rows:
        titles = (model["title"] for model in models)
        tables.append(Table("Headline numbers", ("number", *titles), rows, COUNT_NOTE))
    differences = [
        (
            headline.title,
            f"{pair['from']} → {pair['to']}",
            _headline(found, headline.is_share, "points"),
        )
        for pair in results["comparisons"]
        for headline in headlines
        if (found := pair["differences"].get(headline.difference))
    ]
    if differences:
        tables.append(_paired_table(differences))
    return tables


def _lost_tables(results: Json) -> list[Table]:
    """CorLoc beside what boxes reach that look at nothing."""
    named = [(model["title"], model) for model in results["models"] if model["corloc"]]
    named += [(row["name"].replace("_", " "), row) for row in results["baselines"]]
    rows = [
        (name, percent(x["corloc"], 1), number(x["mean_best_iou"], 3), _count(x["corloc"]))
        for name, x in named
    ]
    if not rows:
        return []
    columns = ("boxes of", "CorLoc, %", "best overlap (IoU)", "images")
    note = "The baselines' boxes are the same in every image."
    return [Table("Objects found", columns, rows, note), *headline_tables(results)[1:]]


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
    return [*tables, _paired_table(differences)] if differences else tables


def _paired_table(rows: Sequence[tuple[str, ...]]) -> Table:
    note = "Second minus first, on the same images. Intervals are paired."
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


def _with_interval(estimate: Any, scale: float, digits: int) -> str:
    found = Estimate.of(estimate)
    return MISSING if found is None else found.text(digits, scale)


def _p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


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
    "similarity": (
        "Similarity of neighbours",
        "If a network keeps global notes in patches that tell it nothing by themselves, outliers "
        "should sit where the image repeats itself and be more like their neighbours than other "
        "patches: an AUC above 0.5.",
        headline_tables,
    ),
    "reconstruction": (
        "Reconstruction",
        "How much of its pixels and of its position a patch token still holds, by probes that "
        "learn on other images. Outliers that gave up their own content are reconstructed worse.",
        headline_tables,
    ),
    "lost": (
        "Object discovery (LOST)",
        "One box an image, from how alike the patches are and nothing else. Where registers keep "
        "features smooth, boxes should overlap objects more often.",
        _lost_tables,
    ),
    "probe": (
        "Probes of the class",
        "What each kind of token knows of the image's class: logistic regression, and the nearest "
        "neighbours, on frozen tokens.",
        headline_tables,
    ),
    "compare": (
        "Models side by side",
        "What every analysis leads with, for all models, and the differences that were measured "
        "on the same images.",
        _compare_tables,
    ),
}
"""Heading, explanation and tables of each analysis; another one shows its figures alone."""
