"""How much of its pixels and of its position does a patch still hold? Kept, learned and drawn.

Each model's entry in the results has, beside its numbers, the layer, and how its probes learned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Drawn,
    Key,
    Lead,
    Measured,
    Model,
    Number,
)
from regvit_jax.analysis.engine.parts import open_parts
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Subject, choose_shown
from regvit_jax.analysis.outliers.labels import (
    DEFINITION_LABELS,
    GROUP,
    USUAL,
    Labels,
    find_labels,
    label_norms,
)
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.questions.reconstruction import studied
from regvit_jax.analysis.questions.reconstruction.equations import NormalEquations
from regvit_jax.analysis.questions.reconstruction.errors import (
    GroupErrors,
    judge,
    matched_own,
    pixel_probes,
    summarise_errors,
)
from regvit_jax.analysis.questions.reconstruction.figures import (
    GroupsPanel,
    groups_figure,
    pictures_figure,
)
from regvit_jax.analysis.questions.reconstruction.learning import (
    MIN_GAIN,
    Budget,
    fit_mlp,
    fit_position,
)
from regvit_jax.analysis.questions.reconstruction.options import ReconstructionOptions
from regvit_jax.analysis.questions.reconstruction.own_probes import own_errors, own_probes
from regvit_jax.analysis.questions.reconstruction.pictures import ShownReconstruction, rebuild
from regvit_jax.analysis.questions.reconstruction.probe_files import given_probe, probe_arrays
from regvit_jax.analysis.questions.reconstruction.probes import Mlp, Probes
from regvit_jax.analysis.questions.reconstruction.tables import (
    CONTRAST,
    ERRORS,
    LABELS,
    MATCHED,
    POSITION,
    TABLES,
    is_compared,
    key_of,
)
from regvit_jax.analysis.questions.reconstruction.tokens import (
    TrainingTokens,
    patch_tokens,
    training_tokens,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.analysis.statistics.fit import Fit
from regvit_jax.model import DeiT3
from regvit_jax.patches import unpatchify
from regvit_jax.tokens import TokenLayout, resolve_layers

SPACES = {
    "normalised": "the model's input: colours in [0, 1], minus its mean, over its standard "
    "deviation",
    "rgb": "the same predictions with colours in [0, 1]; they are not clipped",
}


class Reconstructed(NamedTuple):
    """What figures are drawn from."""

    probes: Probes
    groups: list[GroupErrors]
    shown: list[ShownReconstruction]
    labels: Labels
    num_values: int
    """Values of one patch."""


def ask(options: ReconstructionOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images to learn from and those to judge on.

    Raises:
      InputError: If a model has no such block, the given probe does not fit one, or there are too
        few images.
    """
    for subject in checkpoints:
        _layer(subject, options)
        given_probe(options, subject.config)
    parts = open_parts(options)
    facts = {
        "training": parts.training.source.name,
        "num_training_images": len(parts.training.indices),
    }
    asked = Asked(options, parts.judged, parts.training, facts=facts)
    if options.protocol == "study":
        studied.check(asked)
    return asked


def _layer(subject: Subject, options: ReconstructionOptions) -> int:
    (layer,) = resolve_layers((options.layer,), subject.config.depth)
    return layer


def _layout(subject: Subject) -> TokenLayout:
    return DeiT3(subject.config).layout((1, *subject.preprocess.shape))


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Tokens to learn from with the sums of least squares, and all tokens to judge on."""
    options = asked.options
    if options.protocol == "study":
        return studied.keeps(subject, asked)
    layer, most = _layer(subject, options), _layout(subject).num_patches
    count = min(options.patches_per_image or most, most)
    assert asked.training is not None
    return {
        "training": training_tokens(subject, asked.training, layer, count, options.seed),
        "training norms": label_norms(subject, asked.training, options),
        "judged": patch_tokens(subject, asked.images, layer),
        "judged norms": label_norms(subject, asked.images, options),
    }


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """One model's probes, and their errors on the judged tokens."""
    options = asked.options
    if options.protocol == "study":
        return studied.measure(subject, kept, asked)
    probes, learned = _learn(subject, kept, options)
    judged, norms = kept["judged"], NormColumns.of(subject, kept["judged norms"])
    errors = judge(
        probes, subject.preprocess, _layout(subject).grid, judged, kept.folder / "errors"
    )
    bootstrap = asked.bootstrap(judged.num_rows)
    num_values = subject.config.patch_size**2 * 3
    labels = find_labels(norms, bootstrap, options)
    pixel = pixel_probes(probes)
    groups = summarise_errors(errors, labels.by.values(), pixel, num_values, bootstrap)
    numbers: dict[Key, Number] = {}
    known = labels.marked(NormColumns.of(subject, kept["training norms"]))
    own = own_probes(kept["training"], known, subject.preprocess, options.seed)
    if own is not None:
        led = labels.led.is_outlier
        values = own_errors(own, judged, led, subject.preprocess)
        found = matched_own(values, errors, led, bootstrap)
        (led_group,) = (g for g in groups if g.by.definition == labels.led.definition)
        led_group.numbers.update(found)
    for group in groups:
        numbers |= _numbers(group, bootstrap)
    matching = {g.by.definition: g.matching._asdict() for g in groups if g.matching is not None}
    layer = _layer(subject, options)
    return Measured(
        judged.num_rows,
        numbers,
        {"layer": layer, "training": learned, "matching": matching, **labels.facts},
        _arrays(subject, probes, layer),
        remarks=[labels.remark],
        drawn=Reconstructed(
            *(probes, groups, _pictures(subject, probes, kept, asked, labels), labels, num_values)
        ),
    )


def _numbers(group: GroupErrors, bootstrap: Bootstrap) -> dict[Key, Number]:
    """The numbers by one definition; with their resamples where models are compared by them."""
    definition = group.by.definition
    found: dict[Key, Number] = {
        (LABELS.name, definition, name): number for name, number in group.by.numbers.items()
    }
    for path, number in group.numbers.items():
        estimate = bootstrap.estimate(number.value, number.samples)
        found[key_of(definition, path)] = number if is_compared(path) else estimate
    return found


def _pictures(
    subject: Subject, probes: Probes, kept: Kept, asked: Asked, labels: Labels
) -> list[ShownReconstruction]:
    """The shown images, as far as they could be read."""
    judged, size = kept["judged"], subject.config.patch_size
    shown = choose_shown(asked.options, asked.images.source, asked.images.indices)
    pictures = []
    for row in np.flatnonzero(np.isin(judged.indices, shown)).tolist():
        tokens, patches = (judged.read(name, row, row + 1) for name in ("tokens", "pixels"))
        pixels = unpatchify(patches, size, _layout(subject).grid)[0]
        name = asked.images.named(int(judged.indices[row]))
        is_outlier = labels.led.is_outlier[row]
        pictures.append(rebuild(subject, probes, name, pixels, tokens, is_outlier))
    return pictures


def _learn(
    subject: Subject, kept: Kept, options: ReconstructionOptions
) -> tuple[Probes, dict[str, Any]]:
    """The probes, and how they learned."""
    training = kept["training"]
    known, equations = TrainingTokens(training, options.seed), NormalEquations(training.folded)
    known.split()  # too few readable images end the command here
    budget = Budget(options.max_epochs, options.patience, options.seed, MIN_GAIN, subject.label)
    budget = budget._replace(saved=kept.folder)
    mlp, about_mlp = _learn_mlp(known, equations, options, subject, budget)
    num_cells = _layout(subject).num_patches
    position, fitted = fit_position(known, equations, num_cells, budget)
    colours = equations.target_mean.reshape(-1, 3).mean(axis=0).astype(np.float32)
    return Probes(equations.solve(), mlp, position, colours), {
        "num_images": training.num_rows,
        "skipped": training.skipped,
        "linear": {"num_tokens": equations.num_tokens, "method": "least squares, float64"},
        "mlp": about_mlp,
        "position": _fit_json(fitted, known),
    }


def _learn_mlp(
    known: TrainingTokens, equations: NormalEquations, options, subject: Subject, budget: Budget
) -> tuple[Mlp | None, dict[str, Any] | None]:
    if (given := given_probe(options, subject.config)) is not None:
        return given[0], {"file": str(options.probe), "info": given[1]}
    if not options.mlp:
        return None, None
    mlp, fitted = fit_mlp(known, equations, subject.preprocess, budget)
    return mlp, _fit_json(fitted, known)


def _fit_json(fitted: Fit, known: TrainingTokens) -> dict[str, Any]:
    learned, held = known.split()
    return {
        "num_images": len(learned),
        "num_held_out_images": len(held),
        "patches_per_image": known.tokens_per_image,
        "features": "scaled by their training mean and sd; the scaling is part of the probe",
        "held_out_scores": fitted.scores,
        "min_gain": MIN_GAIN,
        "best_epoch": fitted.best_epoch,
        "stopped_early": fitted.stopped_early,
    }


def _arrays(subject: Subject, probes: Probes, layer: int) -> dict[str, Mapping[str, np.ndarray]]:
    """The files that hold a model's probes."""
    linear = {
        "pixels/kernel": probes.linear["kernel"],
        "pixels/bias": probes.linear["bias"],
        "position/kernel": probes.position["kernel"],
        "position/bias": probes.position["bias"],
        "channel_means": probes.channel_means,
    }
    found: dict[str, Mapping[str, np.ndarray]] = {f"linear_probes_{subject.slug}.npz": linear}
    if probes.mlp is not None:
        info = {"checkpoint": str(subject.path), "layer": layer}
        found[f"mlp_probe_{subject.slug}.npz"] = probe_arrays(probes.mlp, info)
    return found


def lead(options: ReconstructionOptions) -> list[Lead]:
    """What the linear probe reads, and the contrast of outliers."""
    if options.protocol == "study":
        return studied.lead()
    all_patches = (ERRORS.name, USUAL, "all", "linear", "normalised")
    leads = [Lead((*all_patches, "r2_patch_mean"), "R² of pixels, linear probe")]
    for name, words in ((GROUP, "the outliers found"), (USUAL, "the 2 % of largest norm")):
        contrast = (CONTRAST.name, name, "linear", "normalised", "l2_ratio")
        matched = (MATCHED.name, name, "linear_l2", "ratio")
        own = (MATCHED.name, name, "own_l2", "ratio")
        leads += [
            Lead(contrast, f"pixel error, {words} / normal patches"),
            Lead(matched, f"pixel error, {words} / normal patches of equal variance"),
            Lead(own, f"the same, a probe of its own for each, {words}"),
        ]
    return [*leads, Lead((POSITION.name, USUAL, "all", "top1"), "patch position accuracy")]


def facts(models: Sequence[Model], asked: Asked) -> dict[str, Any]:
    """What the spaces are, or what the study's faults are."""
    del models
    return studied.facts() if asked.options.protocol == "study" else {"spaces": SPACES}


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Errors of outliers and normal patches, and the pictures of every model."""
    if asked.options.protocol == "study":
        return []
    panels = [_panel(model, asked) for model in models]
    drawn = [
        Drawn(
            "reconstruction_groups",
            "What outliers and normal patches hold",
            "Errors of the probes by definition of an outlier, with 95 % intervals. Flat patches "
            "are easy; the matched normal patches have the outliers' pixel variance.",
            groups_figure(panels, pixel_probes(models[0].measured.drawn.probes)),
        )
    ]
    for model in models:
        found: Reconstructed = model.measured.drawn
        words = DEFINITION_LABELS[found.labels.led.definition]
        if found.shown:
            drawn.append(
                Drawn(
                    f"reconstruction_pictures_{model.subject.slug}",
                    f"{model.subject.title}: images from their tokens",
                    "Every patch is predicted from its own token. Errors are L2 norms over the "
                    f"patch's {found.num_values} normalised values, on one scale. Framed: outliers "
                    f"({words}; by their norm {found.labels.where}).",
                    pictures_figure(found.shown, model.subject.title),
                )
            )
    return drawn


def _panel(model: Model, asked: Asked) -> GroupsPanel:
    groups, bootstrap = model.measured.drawn.groups, asked.bootstrap(model.num_images)
    estimates: list[Mapping[str, Estimate]] = [
        {path: bootstrap.estimate(n.value, n.samples) for path, n in group.numbers.items()}
        for group in groups
    ]
    return GroupsPanel(
        model.subject.title,
        model.num_images,
        [group.by.definition for group in groups],
        [group.by.share.value for group in groups],
        estimates,
    )


ANALYSIS = Analysis(
    name="reconstruction",
    heading="Reconstruction",
    text="How much of its pixels and of its position a patch token still holds, by probes that "
    "learn on other images. Outliers that gave up their own content are reconstructed worse.",
    per_image=("reconstruction_pictures",),
    tables=(*TABLES, studied.STUDY),
    keeps=keeps,
    measure=measure,
    lead=lead,
    facts=facts,
    figures=figures,
    ask=ask,
    applies=open_parts,
    options=ReconstructionOptions,
    study_preprocess="reconstruction",
    fits=True,
)
