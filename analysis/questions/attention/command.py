"""What does `regvit-analyze attention` do? From checkpoints and images to a result folder."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from regvit_jax.analysis.comparing.epochs import training_runs
from regvit_jax.analysis.comparing.pairs import compared_pairs
from regvit_jax.analysis.engine.question import Question, answer
from regvit_jax.analysis.engine.results import (
    FigureFile,
    ResultFolder,
    comparison,
    estimate_columns,
)
from regvit_jax.analysis.engine.subjects import (
    Subject,
    choose_images,
    choose_shown,
    images_json,
    open_subjects,
)
from regvit_jax.analysis.options import AttentionOptions
from regvit_jax.analysis.plotting import Figure, save_figure
from regvit_jax.analysis.plotting.epochs import Curves, curves_figure
from regvit_jax.analysis.questions.attention.attention import COMPARED_DEFINITION, MEASURES
from regvit_jax.analysis.questions.attention.collector import Attended, AttentionCollector
from regvit_jax.analysis.questions.attention.figures import (
    AttentionPanel,
    average_figure,
    by_layer_figure,
    evolution_figure,
    heads_figure,
    maps_figure,
    side_by_side_figure,
    similarity_figure,
)
from regvit_jax.analysis.questions.attention.on_outliers import outlier_part
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.checkpoint import versions
from regvit_jax.errors import InputError
from regvit_jax.source import Source
from regvit_jax.tokens import resolve_layers

Drawn = list[tuple[FigureFile, Figure]]

NUM_EVOLUTIONS = 2
"""Shown images whose maps are drawn over training."""


def analyse(options: AttentionOptions) -> dict[str, Any]:
    """Measures, writes everything into `options.out`, and returns what results.json says."""
    return answer(question(options))


def check_models(options: AttentionOptions) -> list[Subject]:
    """The models, if all have a CLS token.

    Raises:
      InputError: If one has none, whose attention could be measured.
    """
    subjects = open_subjects(options, "attention")
    if without := [s.label for s in subjects if not s.config.class_token]:
        raise InputError(
            f"attention asks where CLS looks; without a CLS token: {', '.join(without)}. Ask "
            "norms, similarity, probe, lost and reconstruction instead."
        )
    return subjects


def question(options: AttentionOptions) -> Question:
    """The question with its models and images opened."""
    subjects = check_models(options)
    for subject in subjects:  # a wrong layer ends the command before any work
        resolve_layers((options.layer,), subject.config.depth)
    source, indices = choose_images(options)
    shown = choose_shown(options, source, indices).tolist()
    names = {index: source.file_names[index].split("/")[-1] for index in shown}
    return Question(
        "attention",
        options,
        subjects,
        source,
        indices,
        collect=lambda subject, model, params: AttentionCollector(
            subject, model, params, options, names
        ),
        write=lambda folder, attended: _write(folder, attended, options, source),
    )


def _write(
    folder: ResultFolder, attended: Sequence[Attended], options: AttentionOptions, source: Source
) -> dict[str, Any]:
    """Writes figures, tables and maps; what results.json says."""
    for model in attended:
        _write_maps(folder, model)
    comparisons = _comparisons(attended, options)
    return {
        "data": images_json(
            source, options.split, attended[0].summary.num_images, attended[0].skipped
        ),
        "measures": MEASURES,
        "models": [_model_json(model) for model in attended],
        "comparisons": comparisons,
        "figures": [f.to_json() for f in _write_figures(folder, attended, options)],
        "tables": _write_tables(folder, attended, comparisons),
        "versions": versions(),
    }


def _comparisons(attended: Sequence[Attended], options: AttentionOptions) -> list[dict[str, Any]]:
    rows = []
    for first, other in compared_pairs(attended):
        bootstrap = Bootstrap(other.summary.num_images, options.bootstrap, options.seed)
        differences = {
            name: bootstrap.mean(other.features[name] - values)
            for name, values in first.features.items()
            if name in other.features
        }
        if first.masses[:, 1].any() and other.masses[:, 1].any():
            parts = [bootstrap.resampled(m.masses, outlier_part)[0] for m in (first, other)]
            differences["cls_outlier_part"] = bootstrap.difference(*parts)
        rows.append(comparison(first.subject.label, other.subject.label, differences))
    return rows


def _model_json(model: Attended) -> dict[str, Any]:
    summary = model.summary
    layers = []
    for block in range(model.subject.config.depth):
        entry: dict[str, Any] = {"block": block}
        entry["queries"] = {
            query: {name: summary.measures[name][block][i] for name in MEASURES}
            for i, query in enumerate(summary.queries)
        }
        if summary.register_maps is not None:
            cosine, centred = summary.register_maps[block]
            entry["register_maps"] = {"cosine": cosine, "centred_cosine": centred}
        layers.append(entry)
    return model.subject.to_json() | {
        "block": model.layer,
        "queries": summary.queries,
        "layers": layers,
        "register_embedding_cosine": summary.register_embeddings,
        "outlier_mass": {k: v._asdict() for k, v in summary.outlier_mass.items()},
        "average_map": summary.average_map,
        "arrays": f"attention_maps_{model.subject.slug}.npz",
    }


def _write_maps(folder: ResultFolder, model: Attended) -> None:
    folder.write_arrays(
        f"attention_maps_{model.subject.slug}.npz",
        {
            "maps": np.stack([image.maps for image in model.shown]),
            "average_map": model.summary.average_map,
            **({"rollout": np.stack([i.maps[0] for i in model.rolled])} if model.rolled else {}),
            "file_names": np.array([image.name for image in model.shown]),
            "queries": np.array(model.summary.queries),
            "block": np.array(model.layer),
        },
    )


def _write_tables(
    folder: ResultFolder, attended: Sequence[Attended], comparisons: Sequence[dict[str, Any]]
) -> list[dict[str, str]]:
    rows = []
    for model in attended:
        for block in range(model.subject.config.depth):
            for i, query in enumerate(model.summary.queries):
                row: dict[str, Any] = {
                    "model": model.subject.label,
                    "num_registers": model.subject.config.num_registers,
                    "block": block,
                    "query": query,
                    "n": model.summary.num_images,
                }
                for name in MEASURES:
                    row |= estimate_columns(name, model.summary.measures[name][block][i])
                rows.append(row)
    folder.write_table("attention_by_layer.csv", rows)
    outliers = [
        {"model": model.subject.label, "block": model.layer, "definition": name, "cut": mass.cut}
        | {"n": mass.mass.n}
        | estimate_columns("share_of_patches", mass.share_of_patches)
        | estimate_columns("mass", mass.mass)
        for model in attended
        for name, mass in model.summary.outlier_mass.items()
    ]
    folder.write_table("attention_on_outliers.csv", outliers)
    return [
        {"file": "attention_by_layer.csv", "title": "Attention by block and query"},
        {"file": "attention_on_outliers.csv", "title": "Attention of CLS on outlier patches"},
        *folder.write_comparisons(comparisons),
    ]


def _write_figures(
    folder: ResultFolder, attended: Sequence[Attended], options: AttentionOptions
) -> list[FigureFile]:
    drawn = _map_figures(attended, options) + _summary_figures(attended)
    drawn += _training_figures(attended)
    for file, figure in drawn:
        save_figure(figure, folder.partial, file.name)
    return [file for file, _ in drawn]


def _map_figures(attended: Sequence[Attended], options: AttentionOptions) -> Drawn:
    drawn: Drawn = []
    if len(attended) > 1 and options.heads != "each":
        file = FigureFile(
            "attention_cls",
            "Attention of CLS, side by side",
            "Mean over the heads; weights as they are, on one scale for all panels.",
        )
        models = [(model.subject.title, model.shown) for model in attended]
        drawn.append((file, side_by_side_figure(models, attended[0].block)))
    for model in attended:
        title, queries = model.subject.title, model.summary.queries
        if options.heads != "each":
            file = FigureFile(
                f"attention_maps_{model.subject.slug}",
                f"{title}: attention maps",
                "Attention of CLS and of every register on the patches, mean over the heads: on "
                "the image, and by itself below it.",
            )
            drawn.append((file, maps_figure(model.shown, queries, title, model.block)))
        if model.rolled:
            file = FigureFile(
                f"attention_rollout_{model.subject.slug}",
                f"{title}: attention rollout",
                "What CLS and every register draw from the patches through all blocks together; "
                "each block passes on half of a token and half of what it attends to.",
            )
            drawn.append((file, maps_figure(model.rolled, queries, title, "all blocks, rollout")))
        if options.heads != "mean":
            file = FigureFile(
                f"attention_heads_{model.subject.slug}",
                f"{title}: attention head by head",
                "Attention of CLS and of every register on one image, in every head.",
            )
            drawn.append((file, heads_figure(model.shown[0], queries, title, model.block)))
    return drawn


def _summary_figures(attended: Sequence[Attended]) -> Drawn:
    panels = [AttentionPanel(model.subject.title, model.summary) for model in attended]
    by_layer = FigureFile(
        "attention_by_layer",
        "Attention by block",
        "Means over the images with 95 % bands: where the attention of CLS goes, how evenly "
        "queries look at patches, and the largest weight on one patch.",
    )
    average = FigureFile(
        "attention_average",
        "Average attention maps",
        "Mean over all images and heads; spots that stay bright are attended to whatever the "
        "image shows.",
    )
    drawn = [
        (by_layer, by_layer_figure(panels)),
        (average, average_figure(panels, attended[0].block)),
    ]
    if any(panel.summary.register_maps for panel in panels):
        similarity = FigureFile(
            "attention_registers",
            "Likeness of the registers' maps",
            "Attention is never negative, so that the plain cosine is high by construction; the "
            "centred one is not.",
        )
        drawn.append((similarity, similarity_figure(panels)))
    return drawn


def _training_figures(attended: Sequence[Attended]) -> Drawn:
    """Maps and measures over the training of every run of which there are several stages."""
    runs = training_runs([model.subject for model in attended])
    drawn: Drawn = []
    for place, run in enumerate(runs):
        stages = [
            (f"{run.unit} {p}", attended[i]) for p, i in zip(run.places, run.members, strict=True)
        ]
        block, queries = stages[0][1].block, stages[0][1].summary.queries
        for i in range(min(NUM_EVOLUTIONS, len(stages[0][1].shown))):
            file = FigureFile(
                f"attention_evolution_{place}_{i}",
                f"{run.label}: attention maps over training",
                "Mean over the heads; weights as they are, on one scale for all panels.",
            )
            columns = [(title, model.shown[i]) for title, model in stages]
            drawn.append((file, evolution_figure(columns, queries, run.label, block)))
    if runs:
        file = FigureFile(
            "attention_over_training",
            "Attention over training",
            "Last block, mean over the heads, with 95 % bands over the images. The cosine of the "
            "registers' maps is high by construction; the centred one is not.",
        )
        figure = curves_figure("Attention over training", runs, _curves(attended), "last block")
        drawn.append((file, figure))
    return drawn


def _curves(attended: Sequence[Attended]) -> list[Curves]:
    """The numbers that are followed over training."""
    summaries = [model.summary for model in attended]

    def cls(measure: str) -> dict[int, Estimate | None]:
        return {i: s.measures[measure][-1][0] for i, s in enumerate(summaries)}

    def maps(which: int) -> dict[int, Estimate | None]:
        return {
            i: s.register_maps[-1][which] if s.register_maps else None
            for i, s in enumerate(summaries)
        }

    outliers = {i: s.outlier_mass[COMPARED_DEFINITION].mass for i, s in enumerate(summaries)}
    panels = [
        Curves("cosine of the\nregisters' maps", 1.0, maps(0)),
        Curves("centred cosine of\nthe registers' maps", 1.0, maps(1)),
        Curves("attention of CLS on\nthe registers (%)", 100.0, cls("mass_registers")),
        Curves("attention of CLS on\n2 % largest norms (%)", 100.0, outliers),
        Curves("entropy of CLS's map\n(1 = even)", 1.0, cls("entropy")),
    ]
    has_registers = any(s.register_maps for s in summaries)
    return panels if has_registers else panels[3:]


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: the last block in a line a model."""
    lines = []
    for model in results["models"]:
        values: dict[str, Estimate] = model["layers"][-1]["queries"]["CLS"]
        lines.append(
            f"{model['title']}: in the last block CLS gives {values['mass_patches'].percent()} of "
            f"its attention to patches, {values['mass_registers'].percent()} to registers; "
            f"largest weight on a patch {values['largest_weight'].percent()}; entropy "
            f"{values['entropy'].text(3)}"
        )
    return lines
