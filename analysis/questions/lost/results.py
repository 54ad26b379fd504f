"""What does LOST's result folder say of the boxes that were found?"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from regvit_jax.analysis.comparing.pairs import compared_pairs
from regvit_jax.analysis.engine.results import COMPARISONS_TABLE, ResultFolder, estimate_columns
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.options import LostOptions
from regvit_jax.analysis.questions.lost.collector import ShownMask
from regvit_jax.analysis.questions.lost.rules import FEATURE_RULE, Setting
from regvit_jax.analysis.questions.lost.scores import (
    BASELINES,
    Scene,
    baseline_overlaps,
    compare,
    hits,
    score,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.boxes import HIT_IOU

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """One model's boxes, in the frame; s settings, the first gives the predictions."""

    subject: Subject
    settings: list[Setting]
    indices: Int[np.ndarray, " n"]
    """Of the images in the source."""
    scenes: list[Scene]
    boxes: Int[np.ndarray, "n s 4"]
    seeds: Float[np.ndarray, "n 2"]
    """Middle (x, y) of the first setting's seed patch."""
    in_mask: Bool[np.ndarray, "n s"]
    ious: Float[np.ndarray, "n s"]
    """With the object that fits best; NaN without one."""
    shown: dict[int, ShownMask]
    skipped: list[str]

    @property
    def is_scored(self) -> Bool[np.ndarray, " n"]:
        """Which images have an object."""
        return np.array([len(scene.objects) > 0 for scene in self.scenes])

    @property
    def scored_ious(self) -> Float[np.ndarray, "m s"]:
        """`ious` of the images with an object."""
        return self.ious[self.is_scored]

    @property
    def scored_scenes(self) -> list[Scene]:
        """The images with an object."""
        return [scene for scene in self.scenes if len(scene.objects)]


def predictions_file(found: Found, num_models: int) -> str:
    """The name of a model's predictions."""
    return "predictions.json" if num_models == 1 else f"predictions_{found.subject.slug}.json"


def model_json(found: Found, num_models: int, options: LostOptions) -> Json:
    """A model's entry."""
    settings = [_setting_json(found, place, options) for place in range(len(found.settings))]
    return (
        found.subject.to_json()
        | settings[0]
        | {
            "feature_rule": FEATURE_RULE,
            "predictions": predictions_file(found, num_models),
            "settings": settings,
            "against": _against_baselines(found, options),
        }
    )


def baselines_json(found: Found, options: LostOptions) -> list[Json]:
    """The scores of boxes that look at nothing."""
    return [
        {"name": name, **_scores(baseline_overlaps(name, found.scored_scenes), options)}
        for name in BASELINES
    ]


def comparisons_json(models: Sequence[Found], options: LostOptions) -> list[Json]:
    """The paired models, on the images that have an object for both."""
    rows = []
    for model, other in compared_pairs(models):
        both = model.is_scored & other.is_scored
        if both.any():
            first, second = model.ious[both, 0], other.ious[both, 0]
            rows.append(
                {"from": model.subject.label, "to": other.subject.label, "paired": True}
                | compare(first, second, _bootstrap(len(first), options))
            )
    return rows


def write_predictions(
    folder: ResultFolder, models: Sequence[Found], file_names: Sequence[str]
) -> None:
    """Writes {file name: [x0, y0, x1, y1]} for each model."""
    for found in models:
        boxes = {
            file_names[index]: box.tolist()
            for index, box in zip(found.indices.tolist(), found.boxes[:, 0], strict=True)
        }
        text = json.dumps(boxes, indent=1)
        folder.path(predictions_file(found, len(models))).write_text(text + "\n")


def write_tables(
    folder: ResultFolder, models: Sequence[Found], file_names: Sequence[str], results: Json
) -> list[dict[str, str]]:
    """Writes a row an image and model, a row a setting, and a row a comparison."""
    folder.write_table(
        "boxes.csv", [row for found in models for row in _box_rows(found, file_names)]
    )
    tables = [{"file": "boxes.csv", "title": "The box of every image"}]
    if results["data"]["num_with_object"]:
        folder.write_table("corloc.csv", _score_rows(models, results))
        tables.append({"file": "corloc.csv", "title": "CorLoc by model and setting"})
    if results["comparisons"]:
        rows = [_comparison_row(pair) for pair in results["comparisons"]]
        folder.write_table(COMPARISONS_TABLE["file"], rows)
        tables.append(COMPARISONS_TABLE)
    return tables


def _setting_json(found: Found, place: int, options: LostOptions) -> Json:
    setting = found.settings[place]
    return {
        "feature": setting.feature,
        "layer": setting.layer,
        "gram_bias": setting.gram_bias,
        "seeds_outside_mask": int((~found.in_mask[:, place]).sum()),
        **_scores(found.scored_ious[:, place], options),
    }


def _scores(ious: Float[np.ndarray, " n"], options: LostOptions) -> Json:
    if not len(ious):
        return {"corloc": None, "mean_best_iou": None}
    result = score(ious, _bootstrap(len(ious), options))
    return {
        "num_found": int(hits(ious).sum()),
        "corloc": result.corloc,
        "mean_best_iou": result.mean_best_iou,
    }


def _against_baselines(found: Found, options: LostOptions) -> list[Json]:
    ious = found.scored_ious[:, 0]
    if not len(ious):
        return []
    bootstrap = _bootstrap(len(ious), options)
    return [
        {"baseline": name} | compare(baseline_overlaps(name, found.scored_scenes), ious, bootstrap)
        for name in BASELINES
    ]


def _bootstrap(num_images: int, options: LostOptions) -> Bootstrap:
    return Bootstrap(num_images, options.bootstrap, options.seed)


def _box_rows(found: Found, file_names: Sequence[str]):
    for place, index in enumerate(found.indices.tolist()):
        scene, iou = found.scenes[place], found.ious[place, 0]
        is_scored = len(scene.objects) > 0
        yield {
            "model": found.subject.label,
            "file_name": file_names[index],
            "width": scene.width,
            "height": scene.height,
            **dict(zip(("x0", "y0", "x1", "y1"), found.boxes[place, 0].tolist(), strict=True)),
            **dict(zip(("seed_x", "seed_y"), found.seeds[place].tolist(), strict=True)),
            "num_objects": len(scene.objects),
            "best_iou": float(iou) if is_scored else "",
            "is_hit": int(iou >= HIT_IOU) if is_scored else "",
        }


def _score_rows(models: Sequence[Found], results: Json) -> list[Json]:
    rows = []
    for found, model in zip(models, results["models"], strict=True):
        rows += [_score_row(found.subject.label, setting) for setting in model["settings"]]
    return rows + [_score_row(baseline["name"], baseline) for baseline in results["baselines"]]


def _score_row(name: str, scores: Json) -> Json:
    setting = {key: scores.get(key, "") for key in ("feature", "layer", "gram_bias")}
    row: Json = {"model": name, **setting, "n": scores["corloc"].n}
    for key in ("corloc", "mean_best_iou"):
        row |= estimate_columns(key, scores[key])
    return row


def _comparison_row(comparison: Json) -> Json:
    row: Json = {"from": comparison["from"], "to": comparison["to"]}
    row["n"] = comparison["differences"]["corloc"].n
    for key, difference in comparison["differences"].items():
        row |= estimate_columns(key, difference)
    return row | comparison["mcnemar"]
