"""How large is each token in each layer? Numbers on the norms of one model, see `streams.py`."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.options import LAST
from regvit_jax.analysis.outliers.definitions import is_above, is_below
from regvit_jax.analysis.outliers.labels import Labelled, Labels, labelled
from regvit_jax.analysis.outliers.shape import shape_tests
from regvit_jax.analysis.outliers.streams import NORMED, NormColumns
from regvit_jax.analysis.outliers.verdict import Verdict
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

QUANTILES = {"q02": 0.02, "median": 0.5, "q90": 0.9, "q98": 0.98, "q99": 0.99, "q99_5": 0.995}
_OCTAVE_PARTS = 16  # bins per doubling of the norm, in the drawn histogram


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
    labels: Labels
    """Outliers by every definition, in the layer where they are furthest out."""
    by: dict[str, dict[str, Labelled]]
    """By tensor ("last", "normed", perhaps "strongest") and definition."""
    median: float
    """Median of the patches' norms after the last block."""
    tests: dict[str, dict[str, Any]]
    """By tensor: tests that can fail."""
    emergence: list[float] | None
    """By layer: how many of the large patches are as far out there, in [0, 1]."""
    origin: list[Stage] | None
    """How `emergence` grows from sub-layer to sub-layer; None where none is large or it was not
    measured."""
    low_tail: LowTail
    drawn_ratio: float
    """In medians, from where on figures mark a patch as large: the group's cut, or 3."""
    map: np.ndarray
    """Share of images with such a patch, (gh, gw)."""
    histogram: tuple[np.ndarray, np.ndarray]
    """Counts and edges of the last block's patch norms."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Verdicts on the layers from 0 to the last block."""
        return self.labels.verdict.layers

    @property
    def answer(self) -> str:
        """Whether the model has outliers."""
        return self.labels.verdict.answer


def summarise(norms: NormColumns, labels: Labels, bootstrap: Bootstrap) -> NormSummary:
    """Everything that is reported on one model's norms."""
    layout, group = norms.layout, labels.group
    last, normed = norms.patches(-2), norms.patches(-1)
    tensors = {LAST: last, NORMED: normed}
    by = {name: {b.definition: b for b in labelled(x, bootstrap)} for name, x in tensors.items()}
    by |= {labels.tensor: labels.by}
    chosen = norms.patches(labels.layer)
    is_large = labels.led.is_outlier if group else is_above(chosen, 3 * float(np.median(chosen)))
    ratio = group.cut_ratio if group else 3.0
    return NormSummary(
        num_images=norms.num_images,
        num_patches=layout.num_patches,
        grid=layout.grid,
        layers=list(_layer_summaries(norms, bootstrap)),
        labels=labels,
        by=by,
        median=float(np.median(last)),
        tests={name: shape_tests(tensors[name], bootstrap) for name in tensors},
        emergence=_emergence(norms, is_large, ratio),
        origin=_origin(norms, is_large, ratio),
        low_tail=_low_tail(last, layout.grid, bootstrap),
        drawn_ratio=ratio,
        map=is_large.mean(axis=0).reshape(layout.grid),
        histogram=_ratio_histogram(last),
    )


def pooled_quantiles(values: Float[np.ndarray, "n p"], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Mean, quantiles over all values of all images, and the largest, with intervals."""
    quantiles = bootstrap.quantiles(values, list(QUANTILES.values()))
    return {
        "mean": bootstrap.mean(values.mean(axis=1, dtype=np.float64)),
        **dict(zip(QUANTILES, quantiles, strict=True)),
        "max": Estimate(float(values.max()), values.shape[0]),
    }


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


def _emergence(norms: NormColumns, is_large, ratio: float) -> list[float] | None:
    """The share of the large patches that are as far out in each layer."""
    if not is_large.any():
        return None
    return [_as_far(norms.patches(layer), is_large, ratio) for layer in range(norms.last + 1)]


def _origin(norms: NormColumns, is_large, ratio: float) -> list[Stage] | None:
    """The share of the large patches that are as far out around each sub-layer."""
    if not is_large.any():
        return None
    stages: list[Stage] = []
    before = _as_far(norms.patches(0), is_large, ratio)
    for block in range(norms.last):
        between = norms.between(block)
        if between is None:
            return None
        middle = _as_far(between, is_large, ratio)
        after = _as_far(norms.patches(block + 1), is_large, ratio)
        stages += [Stage(block, "attention", before, middle), Stage(block, "mlp", middle, after)]
        before = after
    return stages


def _as_far(patches, is_large, ratio: float) -> float:
    medians = np.median(patches, axis=1, keepdims=True)
    return float(is_above(patches / np.maximum(medians, 1e-30), ratio)[is_large].mean())


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
