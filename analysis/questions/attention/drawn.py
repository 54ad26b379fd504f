"""Which figures does `attention` draw? Maps, summaries, and both over the training of a run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.engine.analysis import Asked, Drawn, Model
from regvit_jax.analysis.engine.epochs import training_runs
from regvit_jax.analysis.outliers.labels import USUAL, Marked
from regvit_jax.analysis.plotting.epochs import Curves, curves_figure
from regvit_jax.analysis.questions.attention.attention import AttentionSummary
from regvit_jax.analysis.questions.attention.figures import (
    AttentionPanel,
    ShownAttention,
    average_figure,
    by_layer_figure,
    evolution_figure,
    heads_figure,
    maps_figure,
    side_by_side_figure,
    similarity_figure,
)
from regvit_jax.analysis.questions.attention.options import AttentionOptions
from regvit_jax.analysis.statistics.bootstrap import Estimate

NUM_EVOLUTIONS = 2
"""Shown images whose maps are drawn over training."""


class Attended(NamedTuple):
    """What figures are drawn from."""

    block: str
    """The block of the maps, in words."""
    summary: AttentionSummary
    shown: list[ShownAttention]
    rolled: list[ShownAttention]
    """Attention rollout on the shown images, as maps of one head."""
    marked: Marked
    cls_maps: Float[np.ndarray, "n p"]
    """Attention of CLS on every patch of all images."""


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Maps of the shown images, summaries, and both over training."""
    drawn = [*_side_by_side(models, asked.options)]
    for model in models:
        drawn += _map_figures(model, asked.options)
    return [*drawn, *_summary_figures(models), *_training_figures(models)]


def _side_by_side(models: Sequence[Model], options: AttentionOptions) -> list[Drawn]:
    found = [(model.subject.title, model.measured.drawn.shown) for model in models]
    if len(models) < 2 or options.heads == "each" or not found[0][1]:
        return []
    return [
        Drawn(
            "attention_cls",
            "Attention of CLS, side by side",
            "Mean over the heads; weights as they are, on one scale for all panels.",
            side_by_side_figure(found, models[0].measured.drawn.block),
        )
    ]


def _map_figures(model: Model, options: AttentionOptions) -> list[Drawn]:
    """One model's maps, rollout and heads."""
    subject, found = model.subject, model.measured.drawn
    title, queries, block = subject.title, found.summary.queries, found.block
    drawn = []
    if found.shown and options.heads != "each":
        drawn.append(
            Drawn(
                f"attention_maps_{subject.slug}",
                f"{title}: attention maps",
                "Attention of CLS and of every register on the patches, mean over the heads.",
                maps_figure(found.shown, queries, title, block),
            )
        )
    if found.rolled:
        drawn.append(
            Drawn(
                f"attention_rollout_{subject.slug}",
                f"{title}: attention rollout",
                "What CLS and every register draw from the patches through all blocks together; "
                "each block passes on half of a token and half of what it attends to.",
                maps_figure(found.rolled, queries, title, "all blocks, rollout"),
            )
        )
    if found.shown and options.heads != "mean":
        drawn.append(
            Drawn(
                f"attention_heads_{subject.slug}",
                f"{title}: attention head by head",
                "Attention of CLS and of every register on one image, in every head.",
                heads_figure(found.shown[0], queries, title, block),
            )
        )
    return drawn


def _summary_figures(models: Sequence[Model]) -> list[Drawn]:
    found = [model.measured.drawn for model in models]
    panels = [
        AttentionPanel(m.subject.title, x.summary) for m, x in zip(models, found, strict=True)
    ]
    drawn = [
        Drawn(
            "attention_by_layer",
            "Attention by block",
            "Means over the images with 95 % bands: where the attention of CLS goes, how evenly "
            "queries look at patches, and the largest weight on one patch.",
            by_layer_figure(panels),
        ),
        Drawn(
            "attention_average",
            "Average attention maps",
            "Mean over all images and heads; spots that stay bright are attended to whatever the "
            "image shows.",
            average_figure(panels, found[0].block),
        ),
    ]
    if any(panel.summary.register_maps for panel in panels):
        drawn.append(
            Drawn(
                "attention_registers",
                "Similarity of the registers' maps",
                "Attention is never negative, so that the plain cosine is high by construction; "
                "the centred one is not.",
                similarity_figure(panels),
            )
        )
    return drawn


def _training_figures(models: Sequence[Model]) -> list[Drawn]:
    """Maps and measures over the training of every run of which there are several stages."""
    runs = training_runs([model.subject for model in models])
    found, drawn = [model.measured.drawn for model in models], []
    for place, run in enumerate(runs):
        stages = [found[i] for i in run.members]
        titles = [f"{run.unit} {p}" for p in run.places]
        for i in range(min(NUM_EVOLUTIONS, *(len(stage.shown) for stage in stages))):
            columns = [(t, stage.shown[i]) for t, stage in zip(titles, stages, strict=True)]
            queries, block = stages[0].summary.queries, stages[0].block
            drawn.append(
                Drawn(
                    f"attention_evolution_{place}_{i}",
                    f"{run.label}: attention maps over training",
                    "Mean over the heads; weights as they are, on one scale for all panels.",
                    evolution_figure(columns, queries, run.label, block),
                )
            )
    if runs:
        curves = _curves(models)
        drawn.append(
            Drawn(
                "attention_over_training",
                "Attention over training",
                "Last block, mean over the heads, with 95 % bands over the images. The cosine of "
                "the registers' maps is high by construction; the centred one is not.",
                curves_figure("Attention over training", runs, curves, "last block"),
            )
        )
    return drawn


def _curves(models: Sequence[Model]) -> list[Curves]:
    """The numbers that are followed over training."""
    summaries = [model.measured.drawn.summary for model in models]

    def cls(measure: str) -> dict[int, Estimate | None]:
        return {i: s.measures[measure][-1][0] for i, s in enumerate(summaries)}

    def maps(which: int) -> dict[int, Estimate | None]:
        return {
            i: s.register_maps[-1][which] if s.register_maps else None
            for i, s in enumerate(summaries)
        }

    mass = ("attention_on_outliers", USUAL, "mass")
    outliers = {i: model.estimates.get(mass) for i, model in enumerate(models)}
    panels = [
        Curves("cosine of the\nregisters' maps", 1.0, maps(0)),
        Curves("centred cosine of\nthe registers' maps", 1.0, maps(1)),
        Curves("attention of CLS on\nthe registers (%)", 100.0, cls("mass_registers")),
        Curves("attention of CLS on\n2 % largest norms (%)", 100.0, outliers),
        Curves("entropy of CLS's map\n(1 = even)", 1.0, cls("entropy")),
    ]
    has_registers = any(s.register_maps for s in summaries)
    return panels if has_registers else panels[3:]
