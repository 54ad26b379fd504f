"""Which files hold the results on reconstruction? Probes, tables and figures."""

from collections.abc import Sequence
from typing import Any

from regvit_jax.analysis.engine.results import FigureFile, ResultFolder, estimate_columns
from regvit_jax.analysis.options import ReconstructionOptions
from regvit_jax.analysis.plotting import save_figure
from regvit_jax.analysis.questions.reconstruction.command import (
    SHOWN_DEFINITION,
    Reconstructed,
    estimates,
)
from regvit_jax.analysis.questions.reconstruction.figures import (
    GroupsPanel,
    groups_figure,
    pictures_figure,
)
from regvit_jax.analysis.questions.reconstruction.probes import save_probe

TABLE_GROUPS = ("all", "normal", "outlier")


def write_probes(folder: ResultFolder, models: Sequence[Reconstructed]) -> None:
    """Writes every model's probes: the linear ones, and the MLP in `save_probe`'s form."""
    for model in models:
        probes = model.probes
        folder.write_arrays(
            f"linear_probes_{model.subject.slug}.npz",
            {
                "pixels/kernel": probes.linear["kernel"],
                "pixels/bias": probes.linear["bias"],
                "position/kernel": probes.position["kernel"],
                "position/bias": probes.position["bias"],
                "channel_means": probes.channel_means,
            },
        )
        if probes.mlp is not None:
            info = {"checkpoint": str(model.subject.path), "layer": model.layer}
            save_probe(folder.path(f"mlp_probe_{model.subject.slug}.npz"), probes.mlp, info)


def write_tables(
    folder: ResultFolder,
    models: Sequence[Reconstructed],
    comparisons: Sequence[dict[str, Any]],
    options: ReconstructionOptions,
) -> list[dict[str, str]]:
    """Writes the numbers by group, all numbers, and the differences between models."""
    groups, numbers = [], []
    for model in models:
        for group in model.groups:
            found = estimates(group, model.num_images, options)
            head = {"model": model.subject.label, "definition": group.definition}
            numbers += [
                head | {"quantity": name, "n": value.n} | estimate_columns("value", value)
                for name, value in found.items()
            ]
            counts = dict(zip(("normal", "outlier"), group.num_patches, strict=True))
            counts["all"] = sum(group.num_patches)
            for name in TABLE_GROUPS:
                row = head | {"group": name, "patches": counts[name], "n": model.num_images}
                for quantity in _table_quantities(models):
                    value = found.get(f"{name}/{quantity}")
                    column = quantity.replace("/", "_")
                    missing = {column: None, f"{column}_low": None, f"{column}_high": None}
                    row |= estimate_columns(column, value) if value else missing
                groups.append(row)
    folder.write_table("reconstruction_groups.csv", groups)
    folder.write_table("reconstruction_numbers.csv", numbers)
    return [
        {"file": "reconstruction_groups.csv", "title": "Errors of outliers and normal patches"},
        {"file": "reconstruction_numbers.csv", "title": "All numbers on reconstruction"},
        *folder.write_comparisons(comparisons),
    ]


def _table_quantities(models: Sequence[Reconstructed]) -> list[str]:
    quantities = ["position/top1", "position/distance"]
    for probe in models[0].pixel:
        quantities += [
            f"{probe}/normalised/l2",
            f"{probe}/normalised/mse",
            f"{probe}/rgb/mse",
            f"{probe}/normalised/r2_patch_mean",
            f"{probe}/normalised/r2_global_mean",
        ]
    return quantities


def write_figures(
    folder: ResultFolder, models: Sequence[Reconstructed], options: ReconstructionOptions
) -> list[FigureFile]:
    """Writes the pictures of every model, and the errors of outliers and normal patches."""
    file = FigureFile(
        "reconstruction_groups",
        "What outliers and normal patches hold",
        "Errors of the probes by definition of an outlier, with 95 % intervals. Flat patches are "
        "easy; the matched normal patches have the outliers' pixel variance.",
    )
    panels = [
        GroupsPanel(
            model.subject.title,
            model.num_images,
            [group.definition for group in model.groups],
            [group.share.value for group in model.groups],
            [estimates(group, model.num_images, options) for group in model.groups],
        )
        for model in models
    ]
    drawn = [(file, groups_figure(panels, models[0].pixel))]
    for model in models:
        file = FigureFile(
            f"reconstruction_pictures_{model.subject.slug}",
            f"{model.subject.title}: images from their tokens",
            "Every patch is predicted from its own token. Errors are L2 norms over the patch's "
            f"{model.num_values} normalised values, on one scale. Framed: the 2 % of the patches "
            "with the largest norms.",
        )
        threshold = model.by(SHOWN_DEFINITION).threshold
        drawn.append((file, pictures_figure(model.shown, threshold, model.subject.title)))
    for file, figure in drawn:
        save_figure(figure, folder.partial, file.name)
    return [file for file, _ in drawn]
