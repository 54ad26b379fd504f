"""What does `regvit-analyze lost` do? From checkpoints and images to a result folder.

Beside what every `results.json` holds (`regvit_jax.analysis.engine.results`), LOST's has

  data          is_annotated; num_with_object and num_without_object of the images analysed;
                num_dropped, of annotated images that the rules leave out altogether
  rules         the protocol's rules with what the options changed (`lost_rules.LostRules`), and k
  frame         name ("file" or "crop") and meaning: the pixels of predictions, objects and sizes
  metric        what counts as found
  baselines     name, corloc, mean_best_iou of the central box and of the whole image
  models[]      feature, layer, gram_bias of the predictions; num_found, corloc, mean_best_iou (null
                without objects); seeds_outside_mask (there the box is the seed's patch);
                predictions (the file); settings: the same numbers for every combination asked for;
                against: differences from each baseline
  comparisons   corloc and best_iou, second minus first; McNemar's exact test

`predictions.json` maps file names to [x0, y0, x1, y1], half-open, in pixels of the frame. With
several models each has its own, `predictions_LABEL.json`, in which anything but letters, digits,
dots, dashes and underscores of the label became a dash.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from regvit_jax.analysis.engine.results import FigureFile, ResultFolder
from regvit_jax.analysis.engine.subjects import (
    Subject,
    choose_images,
    choose_shown,
    images_json,
    open_subjects,
)
from regvit_jax.analysis.options import LostOptions
from regvit_jax.analysis.plotting import save_figure
from regvit_jax.analysis.questions.lost.annotated import Survey, survey
from regvit_jax.analysis.questions.lost.collector import LostCollector, run_groups
from regvit_jax.analysis.questions.lost.figures import BoxPanel, boxes_figure, corloc_figure
from regvit_jax.analysis.questions.lost.results import (
    Found,
    baselines_json,
    comparisons_json,
    model_json,
    write_predictions,
    write_tables,
)
from regvit_jax.analysis.questions.lost.rules import LostRules, settings_of
from regvit_jax.analysis.questions.lost.scores import Scene, overlaps
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.checkpoint import versions
from regvit_jax.errors import InputError
from regvit_jax.image_files import are_several
from regvit_jax.prepared import prepared_in
from regvit_jax.source import Source
from regvit_jax.voc import voc_year

FRAMES = {
    "file": "the upright image as it is stored",
    "crop": "what the model's evaluation leaves of the image (see each model's preprocess)",
}
METRIC = (
    "CorLoc: share of images whose box has an IoU of at least 0.5 with any object. Boxes are "
    "half-open, (x0, y0, x1, y1), with width x1 - x0; VOC's (xmin, ymin, xmax, ymax) is (xmin - 1, "
    "ymin - 1, xmax, ymax), as in valeoai/LOST. Intervals: Wilson's for CorLoc, else bootstrap."
)


def analyse(options: LostOptions) -> dict[str, Any]:
    """Measures, writes everything into `options.out`, and returns what results.json says."""
    configuration = options.configuration()  # as asked, by which finished results are known
    options = dataclasses.replace(options, split=resolved_split(options))
    rules = LostRules.of(options)
    subjects = open_subjects(options, "lost")
    for subject in subjects:  # a wrong layer ends the command before any work
        settings_of(subject, options, rules)
    source, indices = choose_images(options)
    folder = ResultFolder(options.out, "lost", configuration, options.overwrite)
    images = survey(source, indices, options.skip_unreadable)
    for subject in subjects:
        _refuse_large(subject, images, rules, options.max_patches, source)
    images, num_dropped = _drop_empty(subjects[0], images, rules)
    shown = choose_shown(options, source, images.indices)
    with folder:
        models = [_find(s, options, rules, source, images, shown) for s in subjects]
        results = _results(models, options, rules, source, images, num_dropped)
        write_predictions(folder, models, source.file_names)
        results["tables"] = write_tables(folder, models, source.file_names, results)
        results["figures"] = [f.to_json() for f in _write_figures(folder, models, source, results)]
        folder.finish(results)
    return results


def resolved_split(options: LostOptions) -> str:
    """The part of the data that "auto" stands for."""
    if options.split != "auto":
        return options.split
    if are_several(options.data):
        return "val"
    root = Path(options.data).expanduser()
    if root.is_dir() and voc_year(root):
        return "trainval"
    is_prepared = not root.is_dir() or bool(prepared_in(root))
    return "train+val" if is_prepared and "voc" in root.parts else "val"


def _refuse_large(
    subject: Subject, images: Survey, rules: LostRules, most: int, source: Source
) -> None:
    patch_size = subject.config.patch_size
    for index, facts in images.facts.items():
        preprocess = rules.preprocess(subject.preprocess, facts, patch_size)
        num_patches = preprocess.height * preprocess.width // patch_size**2
        if num_patches > most:
            raise InputError(
                f"{source.file_names[index]} of {source.name} has {facts.width} x {facts.height} "
                f"px: {num_patches} patches of {patch_size} px, more than --max-patches {most}. "
                "Make the images smaller, allow more, or use --frame crop."
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


def _find(
    subject: Subject,
    options: LostOptions,
    rules: LostRules,
    source: Source,
    images: Survey,
    shown: Int[np.ndarray, " m"],
) -> Found:
    """One model's boxes."""
    settings = settings_of(subject, options, rules)
    collector = LostCollector(settings, rules, options.k, shown)
    skipped = run_groups(subject, options, source, images, collector)
    found = collector.boxes()
    patch_size = subject.config.patch_size
    scenes, boxes, seeds, ious = [], [], [], []
    for place, index in enumerate(found.indices.tolist()):
        facts = images.facts[index]
        preprocess = rules.preprocess(subject.preprocess, facts, patch_size)
        scene = Scene(
            *rules.frame_size(facts, preprocess), objects=rules.objects(facts, preprocess)
        )
        framed = rules.to_frame(found.boxes[place], patch_size, facts, preprocess)
        row, col = divmod(int(found.seeds[place, 0]), preprocess.width // patch_size)
        scenes.append(scene)
        boxes.append(framed)
        seeds.append(((col + 0.5) * patch_size, (row + 0.5) * patch_size))
        ious.append(overlaps(framed.astype(float), [scene] * len(settings)))
    return Found(
        subject,
        settings,
        found.indices,
        scenes,
        np.array(boxes),
        np.array(seeds),
        found.in_mask,
        np.array(ious),
        collector.shown,
        images.skipped + skipped,
    )


def _results(
    models: Sequence[Found],
    options: LostOptions,
    rules: LostRules,
    source: Source,
    images: Survey,
    num_dropped: int,
) -> dict[str, Any]:
    is_scored = models[0].is_scored
    has_scores = bool(is_scored.any())
    return {
        "data": images_json(source, options.split, len(is_scored), models[0].skipped)
        | {
            "is_annotated": images.has_objects,
            "num_with_object": int(is_scored.sum()),
            "num_without_object": int((~is_scored).sum()),
            "num_dropped": num_dropped,
        },
        "rules": dataclasses.asdict(rules) | {"k": options.k},
        "frame": {"name": rules.frame, "meaning": FRAMES[rules.frame]},
        "metric": METRIC if has_scores else "No image has an object: boxes only, no CorLoc.",
        "models": [model_json(found, len(models), options) for found in models],
        "baselines": baselines_json(models[0], options) if has_scores else [],
        "comparisons": comparisons_json(models, options),
        "versions": versions(),
    }


def _write_figures(
    folder: ResultFolder, models: Sequence[Found], source: Source, results: dict[str, Any]
) -> list[FigureFile]:
    drawn = []
    panels = [_panels(found, source) for found in models]
    if any(panels):
        file = FigureFile(
            "lost_boxes",
            "Boxes that LOST finds",
            "In colour: the seed's piece of the mask, which the box goes round. Light grey: other "
            "patches that resemble it.",
        )
        drawn.append((file, boxes_figure(panels, [m.subject.title for m in models])))
    if results["baselines"]:
        file = FigureFile(
            "lost_corloc",
            "CorLoc",
            "Share of images whose box overlaps an object with an IoU of at least 0.5, with "
            "95 % intervals; lines: boxes that look at nothing.",
        )
        rows = [(model["title"], model["settings"]) for model in results["models"]]
        baselines = {b["name"]: b["corloc"] for b in results["baselines"]}
        drawn.append((file, corloc_figure(rows, baselines)))
    for file, figure in drawn:
        save_figure(figure, folder.partial, file.name)
    return [file for file, _ in drawn]


def _panels(found: Found, source: Source) -> list[BoxPanel]:
    places = {index: place for place, index in enumerate(found.indices.tolist())}
    return [
        BoxPanel(
            source.file_names[index].split("/")[-1],
            mask.pixels,
            mask.mask,
            mask.component,
            found.scenes[places[index]],
            found.boxes[places[index], 0],
            found.seeds[places[index]],
            found.ious[places[index], 0],
            found.subject.config.patch_size,
        )
        for index, mask in sorted(found.shown.items())
    ]


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: CorLoc of every model and baseline."""
    data = results["data"]
    if not data["num_with_object"]:
        return [f"Boxes of {data['num_images']} images; none has an object, so no CorLoc."]
    lines = [
        f"{model['title']}: CorLoc {model['corloc'].percent()} ({model['num_found']} of "
        f"{model['corloc'].n} images; {model['feature']}s of block {model['layer']})"
        for model in results["models"]
    ]
    lines += [
        f"{name}: CorLoc {baseline['corloc'].percent()}"
        for baseline in results["baselines"]
        for name in [baseline["name"].replace("_", " ").capitalize()]
    ]
    for pair in results["comparisons"]:
        difference: Estimate = pair["differences"]["corloc"]
        lines.append(
            f"{pair['from']} -> {pair['to']}: {difference.points()}; McNemar p = "
            f"{pair['mcnemar']['p_value']:.3g}"
        )
    return lines
