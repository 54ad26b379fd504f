"""How does what was measured become files? The one writer of results.json, tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Key,
    Measured,
    Model,
    Number,
    Table,
    Told,
)
from regvit_jax.analysis.engine.pairs import compared_pairs
from regvit_jax.analysis.engine.question import Kept, Question
from regvit_jax.analysis.engine.results import (
    FigureFile,
    ResultFolder,
    comparison,
    estimate_columns,
)
from regvit_jax.analysis.engine.subjects import Subject, images_json, open_subjects
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.analysis.plotting import save_figure
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate, Resampled
from regvit_jax.checkpoint import versions


def question(analysis: Analysis, options: ImageOptions, file_checksum: str = "") -> Question:
    """The question that an analysis asks with some options, its models and images opened.

    Args:
      analysis: The analysis.
      options: Of its class.
      file_checksum: A checksum of its file, where it is none of the tool's.

    Raises:
      InputError: If a checkpoint or the images cannot be opened, or cannot be measured so.
    """
    checkpoints = open_subjects(options, analysis.study_preprocess)
    asked = analysis.ask(options, checkpoints)

    def measure(subject: Subject, kept: Kept) -> tuple[Model, list[str]]:
        measured = analysis.measure(subject, kept, asked)
        _check_keys(analysis, measured)
        bootstrap = asked.bootstrap(measured.num_images)
        estimates = {key: _estimate(number, bootstrap) for key, number in measured.numbers.items()}
        return Model(subject, measured, estimates), kept.skipped

    def write(folder: ResultFolder, entries: list[Any]) -> dict[str, Any]:
        models = [model for model, _ in entries]
        skipped = [*asked.skipped, *entries[0][1]]
        part, count = asked.images.place[1], models[0].num_images
        data = images_json(asked.images.source, part, count, skipped) | dict(asked.facts)
        results = _write(folder, analysis, models, asked)
        return results | {"data": data | results.get("data", {})}

    return Question(
        analysis.name,
        options,
        analysis.subjects(checkpoints, asked),
        keeps=lambda subject: analysis.keeps(subject, asked),
        measure=measure,
        write=write,
        fits=analysis.fits,
        file_checksum=file_checksum,
    )


def joined(key: Key) -> str:
    """A key as files have it."""
    return "/".join(key)


def summary_lines(results: Mapping[str, Any]) -> list[str]:
    """What the command prints at the end: verdicts, leading numbers and remarks of every model,
    then the differences of the leading numbers.
    """
    lines = []
    for model in results["models"]:
        if verdict := model.get("verdict"):
            about = results["about"]["verdict"]
            lines.append(f"{model['title']}: {about} {verdict['answer']}. {verdict['reason']}")
        for lead in () if model["is_twin"] else results["lead"]:
            if (estimate := Estimate.of(model["numbers"].get(lead["key"]))) is not None:
                text = estimate.percent() if lead["is_share"] else estimate.text(3)
                lines.append(f"{model['title']}: {lead['title']} {text}, n {estimate.n}")
        lines += [f"  {remark}" for remark in model["remarks"]]
    lines += results["remarks"]
    for pair in results["comparisons"]:
        for lead in results["lead"]:
            if (estimate := Estimate.of(pair["differences"].get(lead["key"]))) is not None:
                text = estimate.points() if lead["is_share"] else estimate.text(3)
                lines.append(f"{pair['from']} -> {pair['to']}: {lead['title']} {text}")
    return lines


def _check_keys(analysis: Analysis, measured: Measured) -> None:
    """Raises ValueError if a number has a key that no table has a place for."""
    shapes = {table.name: (len(table.axes) + 2, table.quantities) for table in analysis.tables}
    for key in measured.numbers:
        length, quantities = shapes.get(key[0], (0, {}))
        if len(key) != length or key[-1] not in quantities or "/" in "".join(key):
            raise ValueError(f"{analysis.name} has no table with a place for {joined(key)}.")


def _estimate(number: Number, bootstrap: Bootstrap) -> Estimate:
    if isinstance(number, Resampled):
        return bootstrap.estimate(number.value, number.samples)
    return number.estimate if isinstance(number, Told) else number


def _write(
    folder: ResultFolder, analysis: Analysis, models: Sequence[Model], asked: Asked
) -> dict[str, Any]:
    """Writes arrays, tables and figures; what results.json says."""
    comparisons = _comparisons(analysis, models, asked)
    figures = []
    for name, title, caption, figure in analysis.figures(models, asked):
        save_figure(figure, folder.partial, name, asked.options.figures == "paper")
        figures.append(FigureFile(name, title, caption).to_json())
    for model in models:
        for name, arrays in model.measured.arrays.items():
            folder.write_arrays(name, arrays)
        for name, document in model.measured.documents.items():
            folder.write_document(name, document)
    tables = [entry for table in analysis.tables for entry in _write_table(folder, table, models)]
    for name, title, rows in analysis.listings(models, asked):
        folder.write_table(f"{name}.csv", rows)
        tables.append({"file": f"{name}.csv", "title": title})
    return {
        "about": {
            "heading": analysis.heading,
            "text": analysis.text,
            "verdict": analysis.verdict,
            "per_image": analysis.per_image,
            "rank": analysis.options.rank,
        },
        "measured": _tables_json(analysis),
        "lead": [
            {"key": joined(key), "title": title, "is_share": analysis.quantity(key).is_share}
            for key, title in analysis.lead(asked.options)
        ],
        "remarks": [],
        **analysis.facts(models, asked),
        "models": [_model_json(model) for model in models],
        "comparisons": comparisons,
        "figures": figures,
        "tables": [*tables, *folder.write_comparisons(comparisons)],
        "versions": versions(),
    }


def _tables_json(analysis: Analysis) -> dict[str, Any]:
    """What the numbers are, by the table's name."""
    return {
        table.name: {
            "title": table.title,
            "axes": table.axes,
            "on_page": table.on_page,
            "words": table.words,
            "quantities": {name: q._asdict() for name, q in table.quantities.items()},
        }
        for table in analysis.tables
    }


def _comparisons(analysis: Analysis, models: Sequence[Model], asked: Asked) -> list[dict[str, Any]]:
    rows = []
    for first, other in _pairs(models):
        found = analysis.differences(analysis, first, other, asked)
        differences = {joined(key): estimate for key, estimate in found.items()}
        rows.append(comparison(first.subject.label, other.subject.label, differences))
    return rows


def _pairs(models: Sequence[Model]) -> list[tuple[Model, Model]]:
    """The checkpoints' pairs, and every checkpoint against its untrained twin."""
    trained = [model for model in models if not model.subject.is_twin]
    twins = {model.subject.config: model for model in models if model.subject.is_twin}
    controls = [(twins[m.subject.config], m) for m in trained if m.subject.config in twins]
    return compared_pairs(trained) + controls


def _model_json(model: Model) -> dict[str, Any]:
    measured = model.measured
    found: dict[str, Any] = {}
    if measured.verdict is not None:
        answer, reason = measured.verdict
        found["verdict"] = {"answer": answer, "reason": reason}
    found["numbers"] = {joined(key): estimate for key, estimate in model.estimates.items()}
    found["remarks"] = list(measured.remarks)
    return model.subject.to_json() | found | dict(measured.facts)


def _write_table(
    folder: ResultFolder, table: Table, models: Sequence[Model]
) -> list[dict[str, str]]:
    """Writes a CSV file; its entry of `tables`, if there is any row."""
    rows = []
    for model in models:
        places = dict.fromkeys(k[1:-1] for k in model.estimates if k[0] == table.name)
        for place in places:
            row: dict[str, Any] = {"model": model.subject.label}
            row["num_registers"] = model.subject.config.num_registers
            row |= dict(zip(table.axes, place, strict=True)) | {"n": model.num_images}
            for name in table.quantities:
                estimate = model.estimates.get((table.name, *place, name))
                missing = {name: None, f"{name}_low": None, f"{name}_high": None}
                row |= estimate_columns(name, estimate) if estimate else missing
            rows.append(row)
    if not rows:
        return []
    folder.write_table(f"{table.name}.csv", rows)
    return [{"file": f"{table.name}.csv", "title": table.title}]
