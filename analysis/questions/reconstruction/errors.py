"""How far off are the probes, for outliers and for normal patches?

Every token's errors wait on disk until the pooled threshold is known. Numbers by group:

- l2: mean over the tokens of the L2 norm of a token's error, over all values of its patch;
- mse: mean squared error of one value;
- r2: 1 - squared error / squared error of a predictor that knows no detail: the patch's own mean
  colour ("patch_mean"), or the mean colour of the training images ("global_mean");
- position: share of tokens put into the right cell, and mean Euclidean distance to it, in patches.

"normalised" is the model's input space, "rgb" the same prediction with colours in [0, 1].

Flat patches are easy to predict, and outliers may sit on them. So outliers are also compared with
normal patches matched for pixel variance: patches are put into narrow bins that hold equal numbers
of outliers or fewer, and every bin's normal patches count as much as its outliers. What is left of
the difference in variance is reported ("matched/variance/ratio", 1 if none).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from regvit_jax.analysis.engine.store import ColumnStore
from regvit_jax.analysis.outliers.definitions import is_above, shares, thresholds
from regvit_jax.analysis.questions.reconstruction.probes import (
    Probes,
    apply_dense,
    apply_mlp,
    normalised_patches,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate, Resampled
from regvit_jax.preprocess import Preprocess

SPACES = ("normalised", "rgb")
BASELINES = ("patch_mean", "global_mean")
GROUPS = ("normal", "outlier")
MATCHED_BINS = 32
OUTLIERS_PER_BIN = 5
WIDEST_BIN = 1.25
"""The largest variance in a bin over the smallest, about."""
FLAT = 1e-4
"""Variances below this share of the largest one count as none."""

_VARIANCE = "patch_mean_normalised"  # squared distance from the patch's mean colour


def pixel_probes(probes: Probes) -> tuple[str, ...]:
    """The names of the probes to pixels."""
    return ("linear",) if probes.mlp is None else ("linear", "mlp")


def error_columns(pixel: tuple[str, ...], num_patches: int) -> dict[str, tuple[int, Any]]:
    """The columns of a store that takes in what `token_errors` returns; rows are images."""
    names = [f"{name}_{space}" for name in (*pixel, *BASELINES) for space in SPACES]
    return {
        name: (num_patches, np.float32)
        for name in (*names, "position_hit", "position_distance", "last")
    }


def token_errors(
    probes: Probes, preprocess: Preprocess, grid: tuple[int, int]
) -> Callable[..., dict[str, Any]]:
    """A compiled function of tokens (b, n, d) and their patches (b, n, v) in bytes.

    It returns (b, n) arrays: the summed squared error of every predictor in both spaces, whether
    the position was found, and the distance to it.
    """
    rows, cols = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    cells = jnp.asarray(np.stack([rows, cols], axis=1), jnp.float32)
    variances = jnp.square(jnp.asarray(preprocess.std, jnp.float32))

    @jax.jit
    def errors(tokens, patches):
        targets = normalised_patches(patches, preprocess)
        colours = targets.reshape(*targets.shape[:-1], -1, 3)
        predicted = {"linear": apply_dense(probes.linear, tokens)}
        if probes.mlp is not None:
            predicted["mlp"] = apply_mlp(probes.mlp, tokens)
        predicted["patch_mean"] = colours.mean(axis=-2, keepdims=True)
        predicted["global_mean"] = jnp.asarray(probes.channel_means).reshape(1, 1, 1, 3)
        found = {}
        for name, value in predicted.items():
            value = value if value.ndim == 4 else value.reshape(colours.shape)
            squares = jnp.square(value - colours).sum(axis=-2)
            found[f"{name}_normalised"] = squares.sum(axis=-1)
            found[f"{name}_rgb"] = (squares * variances.reshape(1, 1, 3)).sum(axis=-1)
        guessed = apply_dense(probes.position, tokens).argmax(axis=-1)
        away = cells[guessed] - cells[None]
        found["position_hit"] = (guessed == jnp.arange(len(cells))[None]).astype(jnp.float32)
        found["position_distance"] = jnp.sqrt(jnp.square(away).sum(axis=-1))
        return found

    return errors


class Matching(NamedTuple):
    """How well normal patches could be matched to outliers."""

    num_bins: int
    num_outliers: int
    """In bins that have normal patches too."""
    num_left_out: int
    num_normal: int
    """Normal patches in these bins."""


class GroupErrors(NamedTuple):
    """All numbers by one definition of an outlier."""

    definition: str
    threshold: float
    share: Estimate
    num_patches: tuple[int, int]
    """Normal patches and outliers."""
    numbers: dict[str, Resampled]
    """By "/"-joined name, without what is undefined."""
    matching: Matching | None
    """None without outliers or without normal patches."""


def summarise_errors(
    store: ColumnStore, pixel: tuple[str, ...], num_values: int, bootstrap: Bootstrap
) -> list[GroupErrors]:
    """The errors of both groups, by every definition of an outlier.

    Args:
      store: With the columns of `error_columns`.
      pixel: The probes to pixels.
      num_values: Of one patch.
      bootstrap: Of the store's images.
    """
    norms = store.read("last")
    cuts = thresholds(norms)
    found = shares(norms, cuts, bootstrap)
    groups = []
    for definition, cut in cuts.items():
        is_outlier = is_above(norms, cut)
        num_outliers = int(is_outlier.sum())
        numbers = _numbers(store, pixel, num_values, is_outlier, bootstrap)
        matching = None
        if 0 < num_outliers < norms.size:
            matched, matching = _matched(store, pixel, num_values, is_outlier, bootstrap)
            numbers |= matched
        groups.append(
            GroupErrors(
                definition,
                cut,
                found[definition],
                (norms.size - num_outliers, num_outliers),
                {name: number for name, number in numbers.items() if np.isfinite(number.value)},
                matching,
            )
        )
    return groups


def _numbers(store, pixel, num_values, is_outlier, bootstrap: Bootstrap) -> dict[str, Resampled]:
    """Numbers of all patches and of both groups, and the plain contrasts of the groups."""
    columns = _columns(pixel)
    sums = _group_sums(store, columns, is_outlier)
    names: list[str] = []

    def numbers(means):
        both = dict(zip(GROUPS, np.moveaxis(means, -2, 0), strict=True))
        groups = {"all": means.sum(axis=-2), **both}
        values: dict[str, Any] = {}
        for group, sums in groups.items():
            of_group = _of_group(sums, columns, pixel, num_values)
            values |= {f"{group}/{name}": value for name, value in of_group.items()}
        values |= _contrasts(values, pixel)
        names[:] = values
        return np.stack(list(values.values()), axis=-1)

    found = bootstrap.resampled(sums, numbers)
    return dict(zip(names, found, strict=True))


def _columns(pixel) -> list[str]:
    predictors = [f"{name}_{space}" for name in (*pixel, *BASELINES) for space in SPACES]
    return [*predictors, "position_hit", "position_distance"]


def _group_sums(store: ColumnStore, columns, is_outlier) -> Float[np.ndarray, "n 2 features"]:
    """Of each image and group: the number of patches, and sums of the columns and their roots."""
    parts, start = [], 0
    for block in store.blocks(*columns):
        stop = start + len(block[0])
        label = np.stack([~is_outlier[start:stop], is_outlier[start:stop]], axis=1)
        features = [np.ones_like(block[0]), *block, *(np.sqrt(column) for column in block)]
        # (b, group, patch) x (b, feature, patch): products over the patches of each image.
        parts.append(np.einsum("bgn,fbn->bgf", label.astype(np.float64), np.stack(features)))
        start = stop
    return np.concatenate(parts)


def _of_group(sums, columns, pixel, num_values) -> dict[str, Any]:
    """The numbers of one group, from the sums of its patches."""
    count, total = sums[..., 0], {name: sums[..., 1 + i] for i, name in enumerate(columns)}
    root = {name: sums[..., 1 + len(columns) + i] for i, name in enumerate(columns)}
    values = {}
    for space in SPACES:
        for name in (*pixel, *BASELINES):
            key = f"{name}_{space}"
            values[f"{name}/{space}/l2"] = _ratio(root[key], count)
            values[f"{name}/{space}/mse"] = _ratio(total[key], count * num_values)
        for name in pixel:
            for baseline in BASELINES:
                unexplained = _ratio(total[f"{name}_{space}"], total[f"{baseline}_{space}"])
                values[f"{name}/{space}/r2_{baseline}"] = 1 - unexplained
    values["position/top1"] = _ratio(total["position_hit"], count)
    values["position/distance"] = _ratio(total["position_distance"], count)
    return values


def _contrasts(values, pixel) -> dict[str, Any]:
    """Outliers against normal patches as they are: quotients of errors, differences of the rest."""
    found = {}
    for name in pixel:
        for space in SPACES:
            for kind in ("l2", "mse"):
                key = f"{name}/{space}/{kind}"
                found[f"contrast/{key}_ratio"] = _ratio(
                    values[f"outlier/{key}"], values[f"normal/{key}"]
                )
    for kind in ("top1", "distance"):
        difference = values[f"outlier/position/{kind}"] - values[f"normal/position/{kind}"]
        found[f"contrast/position/{kind}_difference"] = difference
    return found


def _matched(
    store, pixel, num_values, is_outlier, bootstrap: Bootstrap
) -> tuple[dict[str, Resampled], Matching]:
    """Outliers against normal patches of the same pixel variance."""
    bins = variance_bins(store.read(_VARIANCE), is_outlier)
    metrics = {"variance": (_VARIANCE, "mse"), "position/top1": ("position_hit", "mean")}
    metrics["position/distance"] = ("position_distance", "mean")
    for name in pixel:
        for kind in ("l2", "mse"):
            metrics[f"{name}/normalised/{kind}"] = (f"{name}_normalised", kind)
    numbers, matching = {}, None
    for name, (column, kind) in metrics.items():
        sums = _binned_sums(store, column, kind, num_values, bins, is_outlier)
        matching = matching or _matching(sums)
        found = bootstrap.resampled(sums, matched_means)
        for group, number in zip(("outlier", "normal", "ratio", "difference"), found, strict=True):
            numbers[f"matched/{name}/{group}"] = number
    assert matching is not None
    return numbers, matching


def variance_bins(
    variance: Float[np.ndarray, "n p"], is_outlier: Bool[np.ndarray, "n p"]
) -> Int[np.ndarray, "n p"]:
    """The bin of each patch; -1 beyond the outliers.

    Bins hold equal numbers of outliers at first. Where variances in a bin would differ by more than
    `WIDEST_BIN`, it is divided further, since normal patches crowd at one of its ends.
    """
    values = variance[is_outlier]
    num_bins = int(np.clip(len(values) // OUTLIERS_PER_BIN, 1, MATCHED_BINS))
    quantiles = np.quantile(values, np.linspace(0, 1, num_bins + 1)).astype(np.float32)
    quantiles[0], quantiles[-1] = values.min(), values.max()
    edges = _divided(np.unique(quantiles))
    bins = np.searchsorted(edges, variance, side="right") - 1
    bins[variance == edges[-1]] = max(len(edges) - 2, 0)
    bins[(variance < edges[0]) | (variance > edges[-1])] = -1
    return bins


def _divided(edges: Float[np.ndarray, " e"]) -> Float[np.ndarray, " f"]:
    """The edges, with others between them where one is many times the one before.

    What lies below the share `FLAT` of the largest one is not divided.
    """
    parts = [edges[:1]]
    for low, high in zip(np.maximum(edges[:-1], FLAT * edges[-1]), edges[1:], strict=True):
        count = int(np.ceil(np.log(high / low) / np.log(WIDEST_BIN))) if high > low else 0
        parts.append(np.geomspace(low, high, count + 1)[:-1] if count else edges[:0])
        parts.append(np.array([high]))
    return np.unique(np.concatenate(parts).astype(edges.dtype))


def matched_means(
    sums: Float[np.ndarray, "*k bins 2 2"],
) -> Float[np.ndarray, "*k 4"]:
    """Outliers' mean, matched normal mean, their quotient and difference (outlier minus normal).

    Args:
      sums: For each bin and group (normal, outlier): the number of patches, and a sum over them.
    """
    count, total = sums[..., 0], sums[..., 1]
    usable = (count > 0).all(axis=-1)
    weight = np.where(usable, count[..., 1], 0)
    means = total / np.where(count > 0, count, 1)
    whole = weight.sum(axis=-1)
    outlier = _ratio((weight * means[..., 1]).sum(axis=-1), whole)
    normal = _ratio((weight * means[..., 0]).sum(axis=-1), whole)
    return np.stack([outlier, normal, _ratio(outlier, normal), outlier - normal], axis=-1)


def _matching(sums) -> Matching:
    count = sums[..., 0].sum(axis=0)
    usable = (count > 0).all(axis=-1)
    return Matching(
        len(count),
        int(count[usable, 1].sum()),
        int(count[~usable, 1].sum()),
        int(count[usable, 0].sum()),
    )


def _binned_sums(store: ColumnStore, column, kind, num_values, bins, is_outlier):
    """Of each image, bin and group: the number of patches, and the sum of a measure."""
    num_bins = int(bins.max()) + 1
    parts, start = [], 0
    for (block,) in store.blocks(column):
        rows = len(block)
        stop = start + rows
        inside = bins[start:stop] >= 0
        values = np.sqrt(block) if kind == "l2" else block / (num_values if kind == "mse" else 1)
        place = np.arange(rows)[:, None] * num_bins + bins[start:stop]
        place = (place * 2 + is_outlier[start:stop])[inside]
        size = rows * num_bins * 2
        sums = np.bincount(place, values[inside].astype(np.float64), size)
        pair = np.stack([np.bincount(place, minlength=size), sums], axis=-1)
        parts.append(pair.reshape(rows, num_bins, 2, 2))
        start = stop
    return np.concatenate(parts)


def _ratio(above, below):
    """A quotient; NaN where nothing is divided by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
