"""What does `regvit-analyze reconstruction` do? From checkpoints and images to a result folder."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from regvit_jax.analysis.comparing.pairs import compared_pairs
from regvit_jax.analysis.engine.extract import extract
from regvit_jax.analysis.engine.parts import Part, open_parts
from regvit_jax.analysis.engine.results import ResultFolder, comparison
from regvit_jax.analysis.engine.store import ColumnStore
from regvit_jax.analysis.engine.subjects import (
    Subject,
    choose_shown,
    images_json,
    open_batches,
    open_subjects,
)
from regvit_jax.analysis.options import ReconstructionOptions
from regvit_jax.analysis.outliers.definitions import is_tautological
from regvit_jax.analysis.questions.reconstruction.errors import (
    GroupErrors,
    error_columns,
    pixel_probes,
    summarise_errors,
    token_errors,
)
from regvit_jax.analysis.questions.reconstruction.pictures import ShownReconstruction, rebuild
from regvit_jax.analysis.questions.reconstruction.probes import (
    Budget,
    Mlp,
    NormalEquations,
    Probes,
    TokenCache,
    fit_mlp,
    fit_position,
    load_probe,
    normalised_patches,
    patch_features,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.analysis.statistics.fit import Fit
from regvit_jax.checkpoint import unflatten, versions
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3
from regvit_jax.patches import patchify
from regvit_jax.tokens import resolve_layers

SPACES = {
    "normalised": "the model's input: colours in [0, 1], minus its mean, over its standard "
    "deviation",
    "rgb": "the same predictions with colours in [0, 1]; they are not clipped",
}
SHOWN_DEFINITION = "quantile_98"
MIN_GAIN = 1e-3
"""An epoch that lowers the held-out score by less than this share does not count as better."""


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """One model's probes and errors, reduced to what is written."""

    subject: Subject
    layer: int
    num_images: int
    num_values: int
    """Of one patch."""
    probes: Probes
    training: dict[str, Any]
    """How the probes learned."""
    groups: list[GroupErrors]
    shown: list[ShownReconstruction]
    skipped: list[str]

    @property
    def pixel(self) -> tuple[str, ...]:
        return pixel_probes(self.probes)

    def by(self, definition: str) -> GroupErrors:
        """The errors by one definition of an outlier."""
        (found,) = (group for group in self.groups if group.definition == definition)
        return found


def analyse(options: ReconstructionOptions) -> dict[str, Any]:
    """Measures, writes everything into `options.out`, and returns what results.json says."""
    subjects = open_subjects(options, "reconstruction")
    for subject in subjects:  # a wrong layer or probe ends the command before any work
        resolve_layers((options.layer,), subject.config.depth)
        given_probe(options, subject.config)
    training, judged, _ = open_parts(options)
    configuration = options.configuration()
    folder = ResultFolder(options.out, "reconstruction", configuration, options.overwrite)
    with folder:
        if options.protocol == "study":
            from regvit_jax.analysis.questions.reconstruction.study_command import write_study

            results = write_study(folder, subjects, options, training, judged)
        else:
            shown = choose_shown(options, judged.source, judged.indices)
            models = [_reconstruct(s, options, training, judged, shown) for s in subjects]
            results = _write(folder, models, options, training, judged)
        folder.finish(results)
    return results


def given_probe(
    options: ReconstructionOptions, config: ViTConfig
) -> tuple[Mlp, dict[str, Any]] | None:
    """The probe that the options name, and its info.

    Raises:
      InputError: If it does not fit the model.
    """
    if options.probe is None:
        return None
    probe, info = load_probe(options.probe)
    found = (probe["fc1"]["kernel"].shape[0], probe["fc2"]["kernel"].shape[1])
    expected = (config.embed_dim, config.patch_size**2 * 3)
    if found != expected:
        raise InputError(
            f"{options.probe} maps {found[0]} features to {found[1]} values; the model has "
            f"{expected[0]} features and {expected[1]} values a patch."
        )
    return probe, info


def parts_json(training: Part, judged: Part, options, num_images: int, skipped) -> dict[str, Any]:
    """What results.json says on the images of both parts."""
    return images_json(judged.source, options.split, num_images, skipped) | {
        "training": training.source.name,
        "num_training_images": len(training.indices),
    }


def _reconstruct(
    subject: Subject, options: ReconstructionOptions, training: Part, judged: Part, shown
) -> Reconstructed:
    (layer,) = resolve_layers((options.layer,), subject.config.depth)
    model, params = subject.load(options.seed)
    layout = model.layout((subject.preprocess.height, subject.preprocess.width, 3))
    probes, learned = _learn(subject, model, params, options, training, layer)
    evaluate = token_errors(probes, subject.preprocess, layout.grid)
    columns = error_columns(pixel_probes(probes), layout.num_patches)
    wanted, pictures = set(shown.tolist()), []
    with ColumnStore(columns) as store:
        batches = open_batches(options, subject, judged.source, judged.indices)
        label = f"{subject.label}, judging"
        for batch, features in extract(
            model, params, batches, patch_features(layer), (layer, -1), label
        ):
            patches = patchify(batch.pixels, subject.config.patch_size)
            found = _padded(evaluate, batches.batch_size, features.tokens, patches)
            store.append(found | {"last": features.last})
            for i, index in enumerate(batch.indices.tolist()):
                if index in wanted:
                    name = judged.source.file_names[index].split("/")[-1]
                    tokens, norms = features.tokens[i : i + 1], features.last[i]
                    pictures.append(rebuild(subject, probes, name, batch.pixels[i], tokens, norms))
        if not store.num_rows:
            raise InputError(
                f"None of the {len(judged.indices)} images of {judged.source.name} can be read."
            )
        bootstrap = Bootstrap(store.num_rows, options.bootstrap, options.seed)
        num_values = subject.config.patch_size**2 * 3
        groups = summarise_errors(store, pixel_probes(probes), num_values, bootstrap)
        return Reconstructed(
            *(subject, layer, store.num_rows, num_values, probes, learned, groups, pictures),
            batches.skipped,
        )


def _learn(
    subject: Subject, model: DeiT3, params, options, training: Part, layer: int
) -> tuple[Probes, dict[str, Any]]:
    """One pass over the training images, then the probes."""
    config, preprocess = subject.config, subject.preprocess
    layout = model.layout((preprocess.height, preprocess.width, 3))
    num_values = config.patch_size**2 * 3
    tokens_per_image = min(options.patches_per_image or layout.num_patches, layout.num_patches)
    equations = NormalEquations(config.embed_dim, num_values)
    columns = TokenCache.columns(tokens_per_image, config.embed_dim, num_values)
    with ColumnStore(columns) as store:
        cache = TokenCache(store, tokens_per_image, options.seed)
        batches = open_batches(options, subject, training.source, training.indices)
        reduce, label = patch_features(layer), f"{subject.label}, training"
        for batch, features in extract(model, params, batches, reduce, (layer, -1), label):
            patches = patchify(batch.pixels, config.patch_size)
            targets = np.asarray(normalised_patches(patches, preprocess))
            equations.add(
                features.tokens.reshape(-1, config.embed_dim), targets.reshape(-1, num_values)
            )
            cache.add(features.tokens, patches, batch.indices)
        cache.split()  # too few readable images end the command here
        budget = Budget(options.max_epochs, options.patience, options.seed, MIN_GAIN, subject.label)
        mlp, about_mlp = _learn_mlp(cache, equations, options, subject, budget)
        position, fitted = fit_position(cache, equations, layout.num_patches, budget)
        colours = equations.target_mean.reshape(-1, 3).mean(axis=0).astype(np.float32)
        learned = {
            "num_images": store.num_rows,
            "skipped": batches.skipped,
            "linear": {"num_tokens": equations.num_tokens, "method": "least squares, float64"},
            "mlp": about_mlp,
            "position": _fit_json(fitted, cache),
        }
    return Probes(equations.solve(), mlp, position, colours), learned


def _learn_mlp(
    cache: TokenCache, equations: NormalEquations, options, subject: Subject, budget: Budget
) -> tuple[Mlp | None, dict[str, Any] | None]:
    if (given := given_probe(options, subject.config)) is not None:
        return given[0], {"file": str(options.probe), "info": given[1]}
    if not options.mlp:
        return None, None
    mlp, fitted = fit_mlp(cache, equations, subject.preprocess, budget)
    return mlp, _fit_json(fitted, cache)


def _fit_json(fitted: Fit, cache: TokenCache) -> dict[str, Any]:
    learned, held = cache.split()
    return {
        "num_images": len(learned),
        "num_held_out_images": len(held),
        "patches_per_image": cache.tokens_per_image,
        "features": "scaled by their training mean and sd; the scaling is part of the probe",
        "held_out_scores": fitted.scores,
        "min_gain": MIN_GAIN,
        "best_epoch": fitted.best_epoch,
        "stopped_early": fitted.stopped_early,
    }


def _padded(function, size: int, *arrays) -> dict[str, np.ndarray]:
    """`function` of a batch that may be short, without compiling for another size."""
    count = arrays[0].shape[0]
    padded = [np.pad(x, [(0, size - count)] + [(0, 0)] * (x.ndim - 1)) for x in arrays]
    return {name: np.asarray(value)[:count] for name, value in function(*padded).items()}


def _write(
    folder: ResultFolder, models: Sequence[Reconstructed], options, training: Part, judged: Part
) -> dict[str, Any]:
    from regvit_jax.analysis.questions.reconstruction.files import (
        write_figures,
        write_probes,
        write_tables,
    )

    write_probes(folder, models)
    comparisons = _comparisons(models, options)
    first = models[0]
    return {
        "data": parts_json(training, judged, options, first.num_images, first.skipped),
        "spaces": SPACES,
        "models": [_model_json(model, options) for model in models],
        "comparisons": comparisons,
        "figures": [file.to_json() for file in write_figures(folder, models, options)],
        "tables": write_tables(folder, models, comparisons, options),
        "versions": versions(),
    }


def estimates(
    group: GroupErrors, num_images: int, options: ReconstructionOptions
) -> dict[str, Estimate]:
    """All numbers by one definition, with their intervals, by "/"-joined name."""
    bootstrap = Bootstrap(num_images, options.bootstrap, options.seed)
    return {k: bootstrap.estimate(v.value, v.samples) for k, v in group.numbers.items()}


def _model_json(model: Reconstructed, options: ReconstructionOptions) -> dict[str, Any]:
    by_definition = {}
    for group in model.groups:
        normal, outlier = group.num_patches
        note = None
        if not outlier:
            note = "No patch is an outlier by this definition."
        elif not normal:
            note = "Every patch is an outlier by this definition."
        empty = dict.fromkeys(("normal", "outlier", "contrast", "matched"))
        by_definition[group.definition] = {
            "threshold": group.threshold,
            "share": group.share,
            "by_construction": is_tautological(group.definition),
            "num_normal_patches": normal,
            "num_outlier_patches": outlier,
            "note": note,
            "matching": None if group.matching is None else group.matching._asdict(),
            **empty,
            **unflatten(estimates(group, model.num_images, options)),
        }
    return model.subject.to_json() | {
        "layer": model.layer,
        "training": model.training,
        "definitions": by_definition,
    }


def compared_names(pixel: Sequence[str]) -> list[str]:
    """The numbers by which models are compared."""
    names = [f"{group}/position/top1" for group in ("all", "normal", "outlier")]
    for probe in pixel:
        names += [f"{group}/{probe}/normalised/l2" for group in ("all", "normal", "outlier")]
        names += [
            f"all/{probe}/normalised/r2_patch_mean",
            f"contrast/{probe}/normalised/l2_ratio",
            f"matched/{probe}/normalised/l2/ratio",
        ]
    return names


def _comparisons(models: Sequence[Reconstructed], options) -> list[dict[str, Any]]:
    """By every definition that both of a pair can meet."""
    rows = []
    for model, other in compared_pairs(models):
        bootstrap = Bootstrap(other.num_images, options.bootstrap, options.seed)
        differences = {}
        for first in model.groups:
            second = other.by(first.definition)
            for name in compared_names(other.pixel):
                if name in first.numbers and name in second.numbers:
                    difference = bootstrap.difference(first.numbers[name], second.numbers[name])
                    differences[f"{first.definition}/{name}"] = difference
        rows.append(comparison(model.subject.label, other.subject.label, differences))
    return rows


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: the notebook's line, or the 98 % definition's errors."""
    if "faults" in results:
        return [f"{model['title']}: {model['study']['printed']}" for model in results["models"]]
    return [line for model in results["models"] for line in _model_lines(model)]


def _model_lines(model: dict[str, Any]) -> list[str]:
    found = model["definitions"][SHOWN_DEFINITION]
    whole = found["all"]
    lines = [
        f"{model['title']}: linear probe L2 {whole['linear']['normalised']['l2'].text(3)}, R2 over "
        f"the patch's mean {whole['linear']['normalised']['r2_patch_mean'].text(3)}; position "
        f"{100 * whole['position']['top1'].value:.1f} %, "
        f"{whole['position']['distance'].value:.2f} patches off"
    ]
    if found["matched"] is not None:
        raw = found["contrast"]["linear"]["normalised"]["l2_ratio"]
        matched = found["matched"]["linear"]["normalised"]["l2"]["ratio"]
        lines.append(
            f"  the 2 % of largest norm against the others: L2 ratio {raw.text(3)}, "
            f"{matched.text(3)} against patches of equal variance"
        )
    return lines
