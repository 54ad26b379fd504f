"""Which models is a report about, and what is said of each?"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regvit_jax.analysis.report.assumptions import without_assumed
from regvit_jax.analysis.report.tables import MISSING, Table, percent
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.checkpoint import read_info, resolve
from regvit_jax.config import variant_name

Json = Mapping[str, Any]


def models_of(all_results: Sequence[Json], runs: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What is known of each checkpoint, whether an analysis or `--runs` names it."""
    models: dict[str, dict[str, Any]] = {}
    for results in all_results:
        for found in results["models"]:
            if not found["is_twin"]:
                model = models.setdefault(found["checkpoint"], {"answer": MISSING, **found})
                model["answer"] = found.get("verdict", {}).get("answer", model["answer"])
    for run in runs:
        path = resolve(run)
        info = read_info(path)
        known = {
            "label": run.name,
            "checkpoint": str(path),
            "variant": variant_name(info.model),
            "num_registers": info.model.num_registers,
            "model": dataclasses.asdict(info.model),
            "num_parameters": None,
            "source": info.source,
            "answer": MISSING,
        }
        model = models.setdefault(str(path), known)
        model["metrics"] = info.metrics
    return models


def models_table(models: Mapping[str, Json]) -> Table:
    """A row for each checkpoint."""
    return Table(
        "Models",
        ("model", "registers", "parameters", "validation top-1, %", "images", "outlier tokens"),
        [_model_row(model) for model in models.values()],
        "In brackets: 95 % interval.",
    )


def model_facts(models: Mapping[str, Json]) -> dict[str, Json]:
    """Where each model comes from and what its configuration is, by its name on the page."""
    sources, shapes = (by_name(models, field) for field in ("source", "model"))
    return {
        name: {
            "checkpoint": path,
            "source": without_assumed(sources[name]),
            "model": shapes[name],
        }
        for name, path in zip(sources, models, strict=True)
    }


def by_name(models: Mapping[str, Json], field: str) -> dict[str, Any]:
    """A field of every model, by its label; by its path where labels are alike."""
    labels = [model["label"] for model in models.values()]
    return {
        model["label"] if labels.count(model["label"]) == 1 else path: model[field]
        for path, model in models.items()
    }


def _model_row(model: Json) -> tuple[str, ...]:
    top1 = Estimate.of((model.get("metrics") or {}).get("top1"))
    parameters = model.get("num_parameters")
    return (
        model["label"],
        str(model["num_registers"]),
        MISSING if parameters is None else f"{parameters:,}",
        percent(top1, 1),
        str(top1.n) if top1 and top1.n else MISSING,
        model["answer"],
    )
