"""How large is each token in each layer?

A token's norm is the L2 norm over its channels. Layers are numbered as the stream passes them: 0 is
what enters the first block (patches with positions, CLS, registers), l is what leaves block l, and
"normed" is what leaves the last LayerNorm. The last block's output, before that LayerNorm, is the
primary tensor: after it a norm measures a token's direction, not its magnitude.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.outliers.definitions import is_above, is_below, shares, thresholds
from regvit_jax.analysis.outliers.labels import CONVOLVED, NORMED, l2_norm
from regvit_jax.analysis.outliers.layers import ModelVerdict, judge_layers
from regvit_jax.analysis.outliers.shape import shape_tests
from regvit_jax.analysis.outliers.verdict import Group, Verdict
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.model import ViTTrace
from regvit_jax.tokens import TokenLayout

QUANTILES = {"q02": 0.02, "median": 0.5, "q90": 0.9, "q98": 0.98, "q99": 0.99, "q99_5": 0.995}
_BINS = 256
_OCTAVE_PARTS = 16  # bins per doubling of the norm, in the drawn histogram


def token_norms(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b l t"]:
    """Norms of all tokens: before block 1, after every block, after the last LayerNorm."""
    del layout  # the order of the tokens is kept
    streams = [trace.embedded, *(block.tokens for block in trace.blocks if block), trace.normed]
    return jnp.stack([l2_norm(stream) for stream in streams], axis=1)


def kept_norms(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
    """The columns of a `NormColumns`: norms in every layer and around every sub-layer."""
    norms = token_norms(trace, layout)
    columns = {f"layer_{index}": norms[:, index] for index in range(norms.shape[1])}
    for index, block in enumerate(trace.blocks):
        assert block is not None
        columns[f"block_{index}"] = l2_norm(block.after_attn[:, layout.patches])
    return columns | {CONVOLVED: l2_norm(trace.patch_embed)}


class NormColumns:
    """Norms of every image, layer and token, read one layer at a time.

    Args:
      columns: What `kept_norms` gives: 20 kB an image for the small variant. "block_i" and
        "convolved" may be missing; what enters the first block then stands for the latter.
      num_layers: Before the first block, after every block, after the last LayerNorm.
      layout: Of the tokens.
    """

    def __init__(self, columns: Columns, num_layers: int, layout: TokenLayout) -> None:
        self.columns, self.num_layers, self.layout = columns, num_layers, layout

    @property
    def num_images(self) -> int:
        return self.columns.num_rows

    def between(self, block: int) -> Float[np.ndarray, "n p"] | None:
        """Norms of the patches between attention and MLP of a block, if they were kept."""
        name = f"block_{block}"
        return self.columns.read(name) if name in self.columns else None

    @property
    def convolved(self) -> Float[np.ndarray, "n p"]:
        """Norms of the patch convolution's output: what the pixels alone do."""
        return self.columns.read(CONVOLVED) if CONVOLVED in self.columns else self.patches(0)

    def layer(self, index: int) -> Float[np.ndarray, "n t"]:
        """Norms of all tokens of all images in one layer; negative indices count from the end."""
        return self.columns.read(f"layer_{range(self.num_layers)[index]}")

    def patches(self, index: int) -> Float[np.ndarray, "n p"]:
        """Norms of the patches only."""
        return self.layer(index)[:, self.layout.patches]

    def layers(self) -> Iterator[tuple[str, Float[np.ndarray, "n t"]]]:
        """All layers, with their names: "0", "1", ... and "normed"."""
        for index in range(self.num_layers):
            name = NORMED if index == self.num_layers - 1 else str(index)
            yield name, self.layer(index)


class KindSummary(NamedTuple):
    """Norms of one kind of token in one layer."""

    layer: str
    kind: str
    """"cls", "register_0", ..., "patches"."""
    values: dict[str, Estimate]
    """Mean, quantiles, largest."""


class Stage(NamedTuple):
    """One sub-layer's part in the making of large patches."""

    block: int
    sublayer: Literal["attention", "mlp"]
    share_before: float
    """Part of the last block's large patches that are as far out before it, in [0, 1]."""
    share_after: float


class LowTail(NamedTuple):
    """Patches of small norm after the last block."""

    share_below_third: Estimate
    """Share of the patches below a third of the median norm."""
    min_over_median: float
    q02_over_median: float
    """The norm below which 2 % of the patches lie, whatever their distribution."""
    map_q02: np.ndarray
    """Share of images whose patch here is one of these 2 %, (gh, gw)."""


@dataclasses.dataclass(frozen=True)
class NormSummary:
    """All that is reported on the norms of one model."""

    num_images: int
    num_patches: int
    grid: tuple[int, int]
    layers: list[KindSummary]
    thresholds: dict[str, dict[str, float]]
    """By tensor ("last", "normed"): the norm of each definition of an outlier."""
    shares: dict[str, dict[str, Estimate]]
    """By tensor: the share of patches above."""
    tests: dict[str, dict[str, Any]]
    """By tensor: tests that can fail."""
    verdict: ModelVerdict
    """The verdict on the model, and on its layers from 0 to the last block."""
    emergence: list[float] | None
    """By layer: how many of the last block's large patches are already as far out, in [0, 1]."""
    origin: list[Stage] | None
    """How `emergence` grows from sub-layer to sub-layer; None where none is large or it was not
    measured."""
    low_tail: LowTail
    drawn_cut: float
    """Norm above which figures mark a patch: the group's cut, or 3 x the median."""
    map: np.ndarray
    """Share of images with a patch above `drawn_cut`, (gh, gw)."""
    histogram: tuple[np.ndarray, np.ndarray]
    """Counts and edges of the last block's patch norms."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.verdict.layers

    @property
    def group(self) -> Group | None:
        """The model's outliers in the layer where they are furthest out."""
        strongest = self.verdict.strongest
        return None if strongest is None else self.verdicts[strongest].group


def summarise(norms: NormColumns, bootstrap: Bootstrap) -> NormSummary:
    """Everything that is reported on one model's norms."""
    layout = norms.layout
    last, normed = norms.patches(-2), norms.patches(-1)
    tensors = {"last": last, "normed": normed}
    cuts = {name: thresholds(values) for name, values in tensors.items()}
    streams = (norms.patches(index) for index in range(norms.num_layers - 1))
    verdict = judge_layers(streams, layout.grid, norms.convolved, bootstrap)
    at_end = verdict.layers[-1]
    group = at_end.group if at_end.answer == "found" else None
    cut = group.cut if group else cuts["last"]["3_x_median"]
    return NormSummary(
        num_images=norms.num_images,
        num_patches=layout.num_patches,
        grid=layout.grid,
        layers=list(_layer_summaries(norms, bootstrap)),
        thresholds=cuts,
        shares={name: shares(tensors[name], cuts[name], bootstrap) for name in tensors},
        tests={name: shape_tests(tensors[name], bootstrap) for name in tensors},
        verdict=verdict,
        emergence=_emergence(norms, is_above(last, cut), cut / float(np.median(last))),
        origin=_origin(norms, is_above(last, cut), cut / float(np.median(last))),
        low_tail=_low_tail(last, layout.grid, bootstrap),
        drawn_cut=cut,
        map=is_above(last, cut).mean(axis=0).reshape(layout.grid),
        histogram=_ratio_histogram(last),
    )


def pooled_quantiles(values: Float[np.ndarray, "n p"], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Mean, quantiles over all values of all images, and the largest, with intervals.

    The values are exact; the intervals come from histograms of 256 bins.
    """
    counts, edges = _per_image_histogram(values)
    cumulative = np.cumsum(bootstrap.means(counts), axis=1)
    estimates = {"mean": bootstrap.mean(values.mean(axis=1, dtype=np.float64))}
    exact = np.quantile(values.astype(np.float64), list(QUANTILES.values()))
    for (name, level), value in zip(QUANTILES.items(), exact, strict=True):
        samples = _histogram_quantile(cumulative, edges, level)
        estimates[name] = bootstrap.estimate(float(value), samples)
    estimates["max"] = Estimate(float(values.max()), values.shape[0])
    return estimates


def _layer_summaries(norms: NormColumns, bootstrap: Bootstrap) -> Iterator[KindSummary]:
    layout = norms.layout
    for name, layer in norms.layers():
        kinds = {
            kind.lower().replace(" ", "_"): layer[:, [place]]
            for kind, place in zip(layout.special_names, layout.specials, strict=True)
        }
        kinds["patches"] = layer[:, layout.patches]
        for kind, values in kinds.items():
            yield KindSummary(name, kind, pooled_quantiles(values, bootstrap))


def _emergence(norms: NormColumns, is_large, cut_ratio: float) -> list[float] | None:
    if not is_large.any():
        return None
    shares_out = []
    for index in range(norms.num_layers - 1):
        patches = norms.patches(index)
        shares_out.append(
            float(is_above(patches, cut_ratio * float(np.median(patches)))[is_large].mean())
        )
    return shares_out


def _origin(norms: NormColumns, is_large, cut_ratio: float) -> list[Stage] | None:
    """The share of the last block's large patches that are as far out around each sub-layer."""
    if not is_large.any():
        return None

    def share(patches) -> float:
        return float(is_above(patches, cut_ratio * float(np.median(patches)))[is_large].mean())

    stages: list[Stage] = []
    before = share(norms.patches(0))
    for block in range(norms.num_layers - 2):
        between = norms.between(block)
        if between is None:
            return None
        middle, after = share(between), share(norms.patches(block + 1))
        stages += [Stage(block, "attention", before, middle), Stage(block, "mlp", middle, after)]
        before = after
    return stages


def creator(stages: Sequence[Stage]) -> Stage:
    """The sub-layer that makes most of the large patches: after it most more are large."""
    return max(stages, key=lambda stage: stage.share_after - stage.share_before)


def _low_tail(values, grid: tuple[int, int], bootstrap: Bootstrap) -> LowTail:
    median, q02 = (float(q) for q in np.quantile(values.astype(np.float64), [0.5, 0.02]))
    return LowTail(
        share_below_third=bootstrap.mean(
            is_below(values, median / 3).mean(axis=1, dtype=np.float64)
        ),
        min_over_median=float(values.min()) / median,
        q02_over_median=q02 / median,
        map_q02=is_below(values, q02).mean(axis=0).reshape(grid),
    )


def _ratio_histogram(values):
    """Counts and edges, in bins a sixteenth of a doubling wide that are the same for all models."""
    median = float(np.median(values))
    position = np.log2(np.maximum(values / median, 2.0**-8)) * _OCTAVE_PARTS
    edges = np.arange(np.floor(position.min()), np.floor(position.max()) + 2)
    return np.histogram(position, edges)[0], median * 2.0 ** (edges / _OCTAVE_PARTS)


def _log_edges(values, num_bins: int):
    low, high = float(values.min()), float(values.max())
    low = max(low, high * 1e-6, 1e-12)
    return np.geomspace(low * (1 - 1e-6), max(high, low) * (1 + 1e-6), num_bins + 1)


def _per_image_histogram(values):
    """Counts (n, bins) as float32, and the bins' edges, evenly spaced in the logarithm."""
    edges = _log_edges(values, _BINS)
    bins = np.searchsorted(edges, values, side="right").clip(1, _BINS) - 1
    rows = np.arange(values.shape[0])[:, None] * _BINS
    flat = np.bincount((rows + bins).ravel(), minlength=values.shape[0] * _BINS)
    return flat.reshape(values.shape[0], _BINS).astype(np.float32), edges


def _histogram_quantile(cumulative, edges, level: float):
    """The quantile of each row's histogram, interpolated within its bin."""
    target = level * cumulative[:, -1:]
    place = (cumulative < target).sum(axis=1).clip(0, cumulative.shape[1] - 1)
    rows = np.arange(len(place))
    before = np.where(place > 0, cumulative[rows, place - 1], 0.0)
    inside = cumulative[rows, place] - before
    fraction = (target[:, 0] - before) / np.maximum(inside, 1e-12)
    return edges[place] + fraction.clip(0, 1) * (edges[place + 1] - edges[place])
