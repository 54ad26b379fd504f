"""Unsupervised object discovery from patch similarity: what is kept, measured and drawn.

Beside what every analysis's results hold, LOST's have

  data          is_annotated; num_with_object and num_without_object of the images analysed;
                num_dropped, of annotated images that the rules leave out altogether
  rules         the protocol's rules with what the options changed (`LostRules`), and k
  frame         name ("file" or "crop") and meaning: the pixels of predictions, objects and sizes
  metric        what counts as found
  baselines     name, corloc, mean_best_iou of the central box and of the whole image
  models[]      feature, layer, gram_bias and file (`predictions`) of the predictions

`predictions.json` maps file names to [x0, y0, x1, y1], half-open, in pixels of the frame. With
several models each has its own, `predictions_LABEL.json`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.discovery.features import FEATURE_RULE
from regvit_jax.analysis.discovery.survey import Survey, survey
from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Drawn,
    Key,
    Lead,
    Listing,
    Measured,
    Model,
    Number,
)
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Images, Subject, choose_shown, open_images
from regvit_jax.analysis.outliers.labels import label_norms
from regvit_jax.analysis.questions.lost.boxes import kept_boxes, kept_masks
from regvit_jax.analysis.questions.lost.figures import BoxPanel, boxes_figure, corloc_figure
from regvit_jax.analysis.questions.lost.found import Found, found_boxes
from regvit_jax.analysis.questions.lost.options import LostOptions
from regvit_jax.analysis.questions.lost.part import resolved_split
from regvit_jax.analysis.questions.lost.rules import (
    LostRules,
    Setting,
    settings_of,
    shape_groups,
)
from regvit_jax.analysis.questions.lost.scores import (
    BASELINES,
    Score,
    baseline_overlaps,
    compare,
    score,
)
from regvit_jax.analysis.questions.lost.tables import AGAINST, LOST, SEEDS, SETTINGS
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.boxes import HIT_IOU
from regvit_jax.errors import InputError

FRAMES = {
    "file": "the upright image as it is stored",
    "crop": "what the model's evaluation leaves of the image (see each model's preprocess)",
}
METRIC = (
    "CorLoc: share of images whose box has an IoU of at least 0.5 with any object. Boxes are "
    "half-open, (x0, y0, x1, y1), with width x1 - x0; VOC's (xmin, ymin, xmax, ymax) is (xmin - 1, "
    "ymin - 1, xmax, ymax), as in valeoai/LOST. Intervals: Wilson's for CorLoc, else bootstrap."
)


class About(NamedTuple):
    """What was read before any network runs."""

    rules: LostRules
    images: Survey


def ask(options: LostOptions, checkpoints: Sequence[Subject]) -> Asked:
    """Sizes and objects of the images, and which of them count.

    Raises:
      InputError: If some cannot be read and are not to be left out, if a model has no such block or
        an image too many patches, or if no image is left.
    """
    options = dataclasses.replace(options, split=resolved_split(options.split, options.data))
    opened, rules = open_images(options), LostRules.of(options)
    for subject in checkpoints:
        settings_of(subject, options, rules)
    images = survey(opened.source, opened.indices, options.skip_unreadable)
    for subject in checkpoints:
        _refuse_large(subject, images, rules, options.max_patches, opened)
    kept, num_dropped = _drop_empty(checkpoints[0], images, rules)
    facts = {"is_annotated": images.has_objects, "num_dropped": num_dropped}
    about, chosen = About(rules, kept), opened.only(kept.indices)
    return Asked(options, chosen, about=about, facts=facts, skipped=images.skipped)


def _refuse_large(
    subject: Subject, images: Survey, rules: LostRules, most: int, opened: Images
) -> None:
    patch_size = subject.config.patch_size
    for index, facts in images.facts.items():
        preprocess = rules.preprocess(subject.preprocess, facts, patch_size)
        num_patches = preprocess.height * preprocess.width // patch_size**2
        if num_patches > most:
            raise InputError(
                f"{opened.source.file_names[index]} of {opened.source.name} has {facts.width} x "
                f"{facts.height} px: {num_patches} patches of {patch_size} px, more than "
                f"--max-patches {most}. Make the images smaller, allow more, or use --frame crop."
            )


def _drop_empty(subject: Subject, images: Survey, rules: LostRules) -> tuple[Survey, int]:
    """The images that remain, and how many were dropped; none are where nothing is annotated."""
    if not (rules.drop_empty and images.has_objects):
        return images, 0
    kept = [
        index
        for index in images.indices.tolist()
        if len(rules.objects(images.facts[index], subject.preprocess))
    ]
    if not kept:
        raise InputError(
            f"None of the {len(images.indices)} images has an object that counts. Keep hard "
            "objects with --drop-hard False, or images without an object with --drop-empty False."
        )
    return images._replace(indices=np.array(kept)), len(images.indices) - len(kept)


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Boxes of the images of every shape, and the masks of those that are shown."""
    rules, images = asked.about
    shown = choose_shown(asked.options, asked.images.source, images.indices)
    settings = settings_of(subject, asked.options, rules)
    found = {}
    for place, (preprocess, indices) in enumerate(shape_groups(subject, images, rules).items()):
        given = (preprocess, settings, rules.centre_features, asked.options.k)
        of_shape = asked.images.only(indices)
        found[f"boxes {place}"] = kept_boxes(of_shape, *given)
        norms = label_norms(subject, of_shape, asked.options, preprocess)
        found[f"norms {place}"] = dataclasses.replace(norms, is_needed=False)
        drawn: Images = asked.images.only(np.intersect1d(indices, shown))
        if len(drawn.indices):
            found[f"shown {place}"] = kept_masks(drawn, *given)
    return found


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """How often boxes find an object, by setting, and against boxes that look at nothing."""
    settings = settings_of(subject, asked.options, asked.about.rules)
    found = found_boxes(subject, kept, settings, asked)
    numbers: dict[Key, Number] = {}
    for place, setting in enumerate(settings):
        scores = _scores(found, place, asked)
        key = (SETTINGS.name, setting.feature, str(setting.layer), f"{setting.gram_bias:g}")
        numbers |= {(*key, name): number for name, number in scores.items()}
        if not place:
            numbers |= {(LOST.name, name): number for name, number in scores.items()}
    numbers |= _against_baselines(found, asked) | _outlier_numbers(found, asked)
    several = len(asked.options.checkpoint) > 1
    file = f"predictions_{subject.slug}.json" if several else "predictions.json"
    names = asked.images.source.file_names
    predictions = {
        names[index]: box.tolist()
        for index, box in zip(found.indices.tolist(), found.boxes[:, 0], strict=True)
    }
    facts = settings[0]._asdict() | {"feature_rule": FEATURE_RULE, "predictions": file}
    return Measured(
        *(len(found.indices), numbers, facts),
        documents={file: predictions},
        remarks=[found.remark],
        drawn=found,
    )


def _outlier_numbers(found: Found, asked: Asked) -> dict[Key, Number]:
    """Whether seeds are outliers, and whether the most attended patch lies in an object."""
    bootstrap = asked.bootstrap(len(found.indices))
    numbers: dict[Key, Number] = {
        (SEEDS.name, "seed_is_outlier"): bootstrap.share(found.is_outlier.astype(float)),
        (SEEDS.name, "outliers"): bootstrap.share(found.outlier_share),
    }
    hits = found.points_at[np.isfinite(found.points_at)]
    if len(hits):
        numbers[SEEDS.name, "points_at_object"] = asked.bootstrap(len(hits)).share(hits)
    return numbers


def _scores(found: Found, place: int, asked: Asked) -> dict[str, Number]:
    """The numbers of `SCORES` for one setting, those that are defined."""
    ious = found.scored_ious[:, place]
    outside = Estimate(int((~found.in_mask[:, place]).sum()), len(found.indices))
    if not len(ious):
        return {"seeds_outside_mask": outside}
    result = score(ious, asked.bootstrap(len(ious)))
    num_found = Estimate(int((ious >= HIT_IOU).sum()), len(ious))
    numbers: dict[str, Number] = {
        "corloc": result.corloc,
        "best_iou": result.mean_best_iou,
        "num_found": num_found,
    }
    numbers["seeds_outside_mask"] = outside
    return numbers


def _against_baselines(found: Found, asked: Asked) -> dict[Key, Number]:
    numbers: dict[Key, Number] = {}
    ious = found.scored_ious[:, 0]
    for name in BASELINES if len(ious) else ():
        bootstrap = asked.bootstrap(len(ious))
        result = compare(baseline_overlaps(name, found.scored_scenes), ious, bootstrap)
        mcnemar = {k: Estimate(v, len(ious)) for k, v in result["mcnemar"].items()}
        counts = {"only_first": "only_baseline", "only_second": "only_lost"}
        values = result["differences"] | {counts.get(k, k): v for k, v in mcnemar.items()}
        numbers |= {(AGAINST.name, name, quantity): value for quantity, value in values.items()}
    return numbers


def differences(
    analysis: Analysis, first: Model, other: Model, asked: Asked
) -> Mapping[Key, Estimate]:
    """On the images that have an object for both, with McNemar's exact test."""
    del analysis
    one, two = first.measured.drawn, other.measured.drawn
    both = one.is_scored & two.is_scored
    if not both.any():
        return {}
    count = int(both.sum())
    result = compare(one.ious[both, 0], two.ious[both, 0], asked.bootstrap(count))
    found = {(LOST.name, name): value for name, value in result["differences"].items()}
    points = two.points_at - one.points_at
    if (known := np.isfinite(points)).any():
        bootstrap = asked.bootstrap(int(known.sum()))
        found[SEEDS.name, "points_at_object"] = bootstrap.mean(points[known])
    return found | {("mcnemar", k): Estimate(v, count) for k, v in result["mcnemar"].items()}


def facts(models: Sequence[Model], asked: Asked) -> dict[str, Any]:
    """Rules, frame, metric, and the scores of boxes that look at nothing."""
    rules, found = asked.about.rules, models[0].measured.drawn
    baselines = _baselines(found, asked)
    num_scored = len(found.scored_scenes)
    return {
        "rules": dataclasses.asdict(rules) | {"k": asked.options.k},
        "frame": {"name": rules.frame, "meaning": FRAMES[rules.frame]},
        "metric": METRIC if num_scored else "No image has an object: boxes only, no CorLoc.",
        "baselines": [{"name": name, **each._asdict()} for name, each in baselines.items()],
        "data": {
            "num_with_object": num_scored,
            "num_without_object": len(found.scenes) - num_scored,
        },
        "remarks": [
            f"{name.replace('_', ' ').capitalize()}: CorLoc {each.corloc.percent()}"
            for name, each in baselines.items()
        ]
        or [f"Boxes of {len(found.scenes)} images; none has an object, so no CorLoc."],
    }


def _baselines(found: Found, asked: Asked) -> dict[str, Score]:
    """The scores of boxes that look at nothing."""
    scenes = found.scored_scenes
    return {
        name: score(baseline_overlaps(name, scenes), asked.bootstrap(len(scenes)))
        for name in (BASELINES if scenes else ())
    }


def lead(options: LostOptions) -> list[Lead]:
    """CorLoc and the best overlap of the predictions."""
    del options
    return [
        Lead((LOST.name, "corloc"), "LOST: CorLoc"),
        Lead((LOST.name, "best_iou"), "LOST: best overlap"),
        Lead((SEEDS.name, "seed_is_outlier"), "LOST: seeds that are outliers"),
        Lead((SEEDS.name, "points_at_object"), "most attended patch lies in an object"),
    ]


def listings(models: Sequence[Model], asked: Asked) -> list[Listing]:
    """The box of every image."""
    rows = [row for model in models for row in _box_rows(model, asked)]
    return [Listing("boxes", "The box of every image", rows)]


def _box_rows(model: Model, asked: Asked) -> Iterator[dict[str, Any]]:
    found: Found = model.measured.drawn
    for place, index in enumerate(found.indices.tolist()):
        scene, iou = found.scenes[place], found.ious[place, 0]
        is_scored = len(scene.objects) > 0
        yield {
            "model": model.subject.label,
            "file_name": asked.images.source.file_names[index],
            "width": scene.width,
            "height": scene.height,
            **dict(zip(("x0", "y0", "x1", "y1"), found.boxes[place, 0].tolist(), strict=True)),
            **dict(zip(("seed_x", "seed_y"), found.seeds[place].tolist(), strict=True)),
            "num_objects": len(scene.objects),
            "best_iou": float(iou) if is_scored else "",
            "is_hit": int(iou >= HIT_IOU) if is_scored else "",
        }


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Boxes on the shown images, and CorLoc of every setting."""
    drawn = []
    panels = [_panels(model, asked) for model in models]
    if any(panels):
        drawn.append(
            Drawn(
                "lost_boxes",
                "Boxes that LOST finds",
                "In colour: the seed's piece of the mask, which the box goes round. Light grey: "
                "other patches that resemble it.",
                boxes_figure(panels, [model.subject.title for model in models]),
            )
        )
    if baselines := _baselines(models[0].measured.drawn, asked):
        corlocs = {name: each.corloc for name, each in baselines.items()}
        drawn.append(
            Drawn(
                "lost_corloc",
                "CorLoc",
                "Share of images whose box overlaps an object with an IoU of at least 0.5, with "
                "95 % intervals; lines: boxes that look at nothing.",
                corloc_figure([_corlocs(model) for model in models], corlocs),
            )
        )
    return drawn


def _corlocs(model: Model) -> tuple[str, list[tuple[Setting, Estimate]]]:
    """A model's title, and CorLoc of its settings."""
    rows = []
    for setting in model.measured.drawn.settings:
        place = (setting.feature, str(setting.layer), f"{setting.gram_bias:g}")
        rows.append((setting, model.estimates[SETTINGS.name, *place, "corloc"]))
    return model.subject.title, rows


def _panels(model: Model, asked: Asked) -> list[BoxPanel]:
    found: Found = model.measured.drawn
    places = {index: place for place, index in enumerate(found.indices.tolist())}
    return [
        BoxPanel(
            asked.images.named(index),
            *(mask.pixels, mask.mask, mask.component, found.scenes[places[index]]),
            *(found.boxes[places[index], 0], found.seeds[places[index]]),
            *(found.ious[places[index], 0], model.subject.config.patch_size),
        )
        for index, mask in found.shown.items()
    ]


ANALYSIS = Analysis(
    name="lost",
    heading="Object discovery (LOST)",
    text="One box per image, from patch similarity alone. Where registers keep "
    "features smooth, boxes should overlap objects more often.",
    per_image=("lost_boxes",),
    tables=(LOST, SEEDS, SETTINGS, AGAINST),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    facts=facts,
    listings=listings,
    ask=ask,
    differences=differences,
    options=LostOptions,
    study_preprocess="lost",
)
