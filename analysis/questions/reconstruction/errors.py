"""How far off are the probes, for outliers and for normal patches?

Every token's errors wait on disk beside the norms that tell outliers. Numbers by group:

- l2: mean over the tokens of the L2 norm of a token's error, over all values of its patch;
- mse: mean squared error of one value;
- r2: 1 - squared error / squared error of a predictor that knows no detail: the patch's own mean
  colour ("patch_mean"), or the mean colour of the training images ("global_mean");
- position: share of tokens put into the right cell, and mean Euclidean distance to it, in patches.

"normalised" is the model's input space, "rgb" the same prediction with colours in [0, 1].

Outliers are also compared with normal patches matched for pixel variance (see `matching`). What is
left of the difference in variance is reported ("matched/variance/ratio", 1 if none).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.engine.columns import Columns, StoredColumns
from regvit_jax.analysis.outliers.labels import Labelled
from regvit_jax.analysis.questions.reconstruction.matching import (
    Matching,
    matched_means,
    matching_of,
    ratio,
    variance_bins,
)
from regvit_jax.analysis.questions.reconstruction.probes import (
    Probes,
    apply_dense,
    apply_mlp,
    normalised_patches,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Resampled
from regvit_jax.analysis.stopping import check
from regvit_jax.preprocess import Preprocess

SPACES = ("normalised", "rgb")
BASELINES = ("patch_mean", "global_mean")
GROUPS = ("normal", "outlier")
BLOCK_IMAGES = 32
"""Images whose errors are computed at a time."""

_VARIANCE = "patch_mean_normalised"  # squared distance from the patch's mean colour


def pixel_probes(probes: Probes) -> tuple[str, ...]:
    """The names of the probes to pixels."""
    return ("linear",) if probes.mlp is None else ("linear", "mlp")


def judge(
    probes: Probes, preprocess: Preprocess, grid: tuple[int, int], judged: Columns, folder: Path
) -> StoredColumns:
    """The errors of all judged tokens, as columns (n, p) of the names that `token_errors` gives.

    Args:
      probes: The probes.
      preprocess: Of the model.
      grid: Of the patches.
      judged: What `patch_tokens` keeps.
      folder: Where the columns lie; what an earlier attempt computed there is taken up.
    """
    evaluate, errors = token_errors(probes, preprocess, grid), StoredColumns(folder)
    try:
        for start in range(errors.num_rows, judged.num_rows, BLOCK_IMAGES):
            check()
            stop = start + BLOCK_IMAGES
            block = (judged.read(name, start, stop) for name in ("tokens", "pixels"))
            errors.append(_padded(evaluate, BLOCK_IMAGES, *block))
            errors.save_now_and_then()
    finally:
        errors.close()
    return errors


def _padded(function, size: int, *arrays) -> dict[str, np.ndarray]:
    """`function` of a block that may be short, without compiling for another size."""
    count = len(arrays[0])
    padded = [np.pad(x, [(0, size - count)] + [(0, 0)] * (x.ndim - 1)) for x in arrays]
    return {name: np.asarray(value)[:count] for name, value in function(*padded).items()}


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


class GroupErrors(NamedTuple):
    """All numbers by one definition of an outlier."""

    by: Labelled
    numbers: dict[str, Resampled]
    """By "/"-joined name, without what is undefined."""
    matching: Matching | None
    """None without outliers or without normal patches."""


def summarise_errors(
    errors: Columns,
    labels: Iterable[Labelled],
    pixel: tuple[str, ...],
    num_values: int,
    bootstrap: Bootstrap,
) -> list[GroupErrors]:
    """The errors of both groups, by every definition of an outlier.

    Args:
      errors: What `judge` returns.
      labels: Outliers among the same patches, by every definition.
      pixel: The probes to pixels.
      num_values: Of one patch.
      bootstrap: Of the images.
    """
    groups = []
    for by in labels:
        is_outlier = by.is_outlier
        numbers = _numbers(errors, pixel, num_values, is_outlier, bootstrap)
        matching = None
        if by.num_outliers and by.num_normal:
            matched, matching = _matched(errors, pixel, num_values, is_outlier, bootstrap)
            numbers |= matched
        finite = {name: number for name, number in numbers.items() if np.isfinite(number.value)}
        groups.append(GroupErrors(by, finite, matching))
    return groups


def _numbers(errors, pixel, num_values, is_outlier, bootstrap: Bootstrap) -> dict[str, Resampled]:
    """Numbers of all patches and of both groups, and the plain contrasts of the groups."""
    columns = _columns(pixel)
    sums = _group_sums(errors, columns, is_outlier)
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


def _group_sums(errors: Columns, columns, is_outlier) -> Float[np.ndarray, "n 2 features"]:
    """For each image and group: the number of patches, and sums of the columns and their roots."""
    parts, start = [], 0
    for block in errors.blocks(*columns):
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
            values[f"{name}/{space}/l2"] = ratio(root[key], count)
            values[f"{name}/{space}/mse"] = ratio(total[key], count * num_values)
        for name in pixel:
            for baseline in BASELINES:
                unexplained = ratio(total[f"{name}_{space}"], total[f"{baseline}_{space}"])
                values[f"{name}/{space}/r2_{baseline}"] = 1 - unexplained
    values["position/top1"] = ratio(total["position_hit"], count)
    values["position/distance"] = ratio(total["position_distance"], count)
    return values


def _contrasts(values, pixel) -> dict[str, Any]:
    """Outliers against normal patches as they are: quotients of errors, differences of the rest."""
    found = {}
    for name in pixel:
        for space in SPACES:
            for kind in ("l2", "mse"):
                key = f"{name}/{space}/{kind}"
                found[f"contrast/{key}_ratio"] = ratio(
                    values[f"outlier/{key}"], values[f"normal/{key}"]
                )
    for kind in ("top1", "distance"):
        difference = values[f"outlier/position/{kind}"] - values[f"normal/position/{kind}"]
        found[f"contrast/position/{kind}_difference"] = difference
    return found


def _matched(
    errors, pixel, num_values, is_outlier, bootstrap: Bootstrap
) -> tuple[dict[str, Resampled], Matching]:
    """Outliers against normal patches of the same pixel variance."""
    bins = variance_bins(errors.read(_VARIANCE), is_outlier)
    metrics = {"variance": (_VARIANCE, "mse"), "position/top1": ("position_hit", "mean")}
    metrics["position/distance"] = ("position_distance", "mean")
    for name in pixel:
        for kind in ("l2", "mse"):
            metrics[f"{name}/normalised/{kind}"] = (f"{name}_normalised", kind)
    numbers, matching = {}, None
    for name, (column, kind) in metrics.items():
        sums = _binned_sums(errors, column, kind, num_values, bins, is_outlier)
        matching = matching or matching_of(sums)
        found = bootstrap.resampled(sums, matched_means)
        for group, number in zip(("outlier", "normal", "ratio", "difference"), found, strict=True):
            numbers[f"matched/{name}/{group}"] = number
    assert matching is not None
    return numbers, matching


def matched_own(
    own: Float[np.ndarray, "n p"],
    errors: Columns,
    is_outlier: Bool[np.ndarray, "n p"],
    bootstrap: Bootstrap,
) -> dict[str, Resampled]:
    """As the other matched numbers, of errors by the probes of `own_probes.py`."""
    bins = variance_bins(errors.read(_VARIANCE), is_outlier)
    sums = _binned_sums(Columns({"own": own}), "own", "l2", 1, bins, is_outlier)
    names = ("outlier", "normal", "ratio", "difference")
    found = zip(names, bootstrap.resampled(sums, matched_means), strict=True)
    return {f"matched/own/l2/{name}": x for name, x in found if np.isfinite(x.value)}


def _binned_sums(errors: Columns, column, kind, num_values, bins, is_outlier):
    """For each image, bin and group: the number of patches, and the sum of a measure."""
    num_bins = int(bins.max()) + 1
    parts, start = [], 0
    for (block,) in errors.blocks(column):
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
