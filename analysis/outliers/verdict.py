"""Does a set of patch norms hold outliers? Definitions, tests that can fail, and a verdict.

A percentile always finds something, and a skewed distribution with one mode has many values beyond
three standard deviations. What the literature calls an outlier is a *separate group* of patches.
So the verdict asks for a group of patches that is

- rare: from 0.05 % (one patch in ten images of 14 x 14) to 10 % of all patches (2.4 % in DINOv2-g,
  arXiv:2309.16588; a commoner group is a kind of content, such as foreground);
- far: most of its norms are at least twice the median. This is where the tail of DeiT-III-B begins
  (300-600 against 900-1400); those of DINOv2-g have ten times the median;
- apart: between the group and the bulk lies a valley, at most half as dense as the group's own
  peak. A heavy tail, however long, has no valley;
- grown: the group's distance from the bulk is at least 1.5 times what it was for the same patches
  in the patch convolution's output. White backgrounds have large norms there in any model, even an
  untrained one: such a group is made of pixels.

Rarity and the valley must hold in 97.5 % of the resamples of the images, so that one odd image
proves nothing.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

MIN_SHARE, MAX_SHARE = 0.0005, 0.10
FAR = 2.0
VALLEY = 0.5
GROWTH = 1.5
CERTAINTY = 0.975
MIN_IMAGES = 10
ROUNDING = 1e-6
"""Relative difference of two norms in float32 that may be rounding."""
MIN_TOKENS = 10
"""Patches that make a group; fewer may be chance."""

_OCTAVE_PARTS = 4  # bins per doubling of the norm
_VALLEY_FROM = 2**0.5  # a valley nearer to the median belongs to the bulk
_DIP_SAMPLE = 20_000
_DIP_TAIL = 0.05

Answer = Literal["found", "not found", "cannot tell"]


class Group(NamedTuple):
    """The best candidate for a separate group of large norms."""

    cut: float
    """Norm in the valley; larger ones belong to the group."""
    cut_ratio: float
    """The same in units of the median norm."""
    share: Estimate
    """Of all patches."""
    peak_ratio: float
    """Norm at the group's peak, in units of the median norm."""
    valley: float
    """Density in the valley, in units of the density at the group's peak."""
    certainty: float
    """Share of resamples in which the group is rare enough, frequent enough and apart."""
    growth: float | None
    """Distance from the bulk, in units of the same patches' after the patch convolution."""
    num_tokens: int


class Verdict(NamedTuple):
    """Whether there are outliers, and why we think so."""

    answer: Answer
    reason: str
    group: Group | None


def thresholds(norms: Float[np.ndarray, "n p"]) -> dict[str, float]:
    """The published definitions of an outlier, as norms above which a patch is one."""
    pooled = norms.astype(np.float64).ravel()
    median, q98, q995 = np.quantile(pooled, [0.5, 0.98, 0.995])
    return {
        "quantile_98": float(q98),
        "quantile_99_5": float(q995),
        "mean_plus_3sd": float(pooled.mean() + 3 * pooled.std()),
        "3_x_median": float(3 * median),
        "absolute_150": 150.0,
    }


def is_above(norms: Float[np.ndarray, "*b"], cut: float) -> Bool[np.ndarray, "*b"]:
    """Which norms lie above a cut; those that equal it but for rounding do not.

    Patches that look alike have equal norms, and a quantile or a multiple of the median may be one
    of these. Batches of another size round differently.
    """
    return norms > cut * (1 + ROUNDING)


def is_below(norms: Float[np.ndarray, "*b"], cut: float) -> Bool[np.ndarray, "*b"]:
    """Which norms lie below a cut; those that equal it but for rounding do not."""
    return norms < cut * (1 - ROUNDING)


def is_tautological(definition: str) -> bool:
    """Whether a definition finds the same share in any data."""
    return definition.startswith("quantile")


def shares(
    norms: Float[np.ndarray, "n p"], cuts: dict[str, float], bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """The share of patches above each threshold; the thresholds stay fixed in the resamples."""
    above = np.stack([is_above(norms, cut).mean(axis=1) for cut in cuts.values()], axis=1)
    estimates = bootstrap.statistic(above, lambda means: means)
    return dict(zip(cuts, estimates, strict=True))


def shape_tests(
    norms: Float[np.ndarray, "n p"], bootstrap: Bootstrap
) -> dict[str, Estimate | float]:
    """Numbers that outliers would make large and a single-moded distribution keeps small.

    The p-values of the dip test treat patches as independent, which those of one image are not:
    they are too small, never too large.
    """
    pooled = norms.astype(np.float64).ravel()
    scale = pooled.std() or 1.0
    z = (norms - pooled.mean()) / scale
    moments = np.stack([(z**power).mean(axis=1) for power in (1, 2, 3, 4)], axis=1)
    kurtosis = bootstrap.statistic(moments, _excess_kurtosis)[0]
    largest = Estimate(float(pooled.max() / np.median(pooled)), norms.shape[0])
    return {
        "excess_kurtosis": kurtosis,
        "max_over_median": largest,
        **_dip_tests(pooled, bootstrap.seed),
    }


def judge(
    norms: Float[np.ndarray, "n p"],
    convolved: Float[np.ndarray, "n p"] | None,
    bootstrap: Bootstrap,
) -> Verdict:
    """Whether patches of large norm form a separate group, by the rule at the top of this file.

    Args:
      norms: Of every patch of n images, in one layer.
      convolved: Of the same patches after the patch convolution; without it, growth is not asked.
      bootstrap: Resamples of the n images.
    """
    if norms.shape[0] < MIN_IMAGES:
        reason = f"{norms.shape[0]} images are too few; the rule needs {MIN_IMAGES}."
        return Verdict("cannot tell", reason, None)
    group = _find_group(norms, convolved, bootstrap)
    if group is None:
        return _without_group(norms)
    described = (
        f"{100 * group.share.value:.2f} % of the patches lie above {group.cut_ratio:.1f} x the "
        f"median norm, with a peak at {group.peak_ratio:.1f} x"
    )
    if group.certainty < CERTAINTY:
        reason = (
            f"{described}, but they form a group apart in only {100 * group.certainty:.0f} % of "
            f"the resamples of the images ({100 * CERTAINTY:.1f} % are asked for)."
        )
        return Verdict("cannot tell", reason, group)
    if group.growth is not None and group.growth < GROWTH:
        reason = (
            f"{described}, but the same patches stood out {1 / group.growth:.2f} times as far "
            "after the patch convolution: it is the pixels, not the network."
        )
        return Verdict("not found", reason, group)
    grown = (
        ""
        if group.growth is None
        else f", {group.growth:.1f} times as far out as after the patch convolution"
    )
    reason = (
        f"{described}{grown}; the valley before them has {100 * group.valley:.0f} % of the peak's "
        "density."
    )
    return Verdict("found", reason, group)


def _without_group(norms) -> Verdict:
    expected = norms.size * MIN_SHARE
    if expected < MIN_TOKENS:
        needed = int(np.ceil(MIN_TOKENS / MIN_SHARE / norms.shape[1]))
        reason = (
            f"No separate group, but a group of {100 * MIN_SHARE} % would be only {expected:.0f} "
            f"of these {norms.size} patches; at least {needed} images are needed."
        )
        return Verdict("cannot tell", reason, None)
    above = float(is_above(norms, 3 * float(np.median(norms))).mean())
    reason = (
        f"One continuous distribution: no group of {100 * MIN_SHARE} % to {100 * MAX_SHARE:.0f} % "
        f"of the patches lies apart at {FAR:.0f} x the median norm or more "
        f"({100 * above:.2f} % exceed 3 x the median)."
    )
    return Verdict("not found", reason, None)


def _find_group(norms, convolved, bootstrap: Bootstrap) -> Group | None:
    """The group with the deepest valley before it, if any is rare, far and apart."""
    num_patches = norms.shape[1]
    median = float(np.median(norms))
    counts, edges = _octave_histogram(norms / median)
    density = counts.mean(axis=0, dtype=np.float64) / num_patches
    above = density.sum() - np.cumsum(density)
    place = _deepest_valley(density, above, edges, MIN_TOKENS / norms.size)
    if place is None:
        return None
    valley, peak = place
    features = np.stack(
        [counts[:, valley], counts[:, peak], counts[:, valley + 1 :].sum(axis=1)], axis=1
    )
    resampled = bootstrap.means(features.astype(np.float32)) / num_patches
    in_valley, at_peak, share = resampled.T
    holds = (VALLEY * at_peak >= in_valley) & (share >= MIN_SHARE) & (share <= MAX_SHARE)
    # The cut is the valley's upper edge, so that the counts above are the group exactly.
    cut_ratio = float(edges[valley + 1])
    in_group = norms >= cut_ratio * median
    return Group(
        cut=cut_ratio * median,
        cut_ratio=cut_ratio,
        share=bootstrap.estimate(float(above[valley]), share),
        peak_ratio=float((edges[peak] * edges[peak + 1]) ** 0.5),
        valley=float(density[valley] / density[peak]),
        certainty=float(holds.mean()),
        growth=None if convolved is None else _growth(norms, convolved, in_group),
        num_tokens=int(in_group.sum()),
    )


def _octave_histogram(ratios):
    """Patches of each image in bins a quarter of a doubling wide; and the edges of the bins."""
    position = np.log2(np.maximum(ratios, 2.0**-8)) * _OCTAVE_PARTS
    bins = np.floor(position).astype(int)
    lowest, highest = bins.min(), bins.max()
    size = highest - lowest + 1
    rows = np.arange(ratios.shape[0])[:, None] * size
    flat = np.bincount((rows + bins - lowest).ravel(), minlength=ratios.shape[0] * size)
    edges = 2.0 ** (np.arange(lowest, highest + 2) / _OCTAVE_PARTS)
    return flat.reshape(ratios.shape[0], size), edges


def _deepest_valley(density, above, edges, least_peak) -> tuple[int, int] | None:
    """The bins of the valley and of the peak beyond it."""
    found = []
    for valley in range(len(density) - 1):
        if edges[valley] < _VALLEY_FROM * (1 - 1e-9):
            continue
        if not MIN_SHARE <= above[valley] <= MAX_SHARE:
            continue
        peak = valley + 1 + int(np.argmax(density[valley + 1 :]))
        is_far = edges[peak] >= FAR * (1 - 1e-9)
        if is_far and density[peak] >= least_peak and density[valley] <= VALLEY * density[peak]:
            found.append((density[valley] / density[peak], valley, peak))
    if not found:
        return None
    deepest = min(found)[0]
    ties = [(valley, peak) for depth, valley, peak in found if depth == deepest]
    return ties[len(ties) // 2]  # the middle of an empty stretch


def _growth(norms, convolved, in_group: Bool[np.ndarray, "n p"]) -> float:
    """How much further from the bulk the same patches are than after the patch convolution."""
    now = np.median(norms[in_group]) / np.median(norms)
    before = np.median(convolved[in_group]) / np.median(convolved)
    return float(now / before)


def _excess_kurtosis(moments):
    """Of means of the first four powers, (..., 4)."""
    m1, m2, m3, m4 = np.moveaxis(moments, -1, 0)
    variance = np.maximum(m2 - m1**2, 1e-12)
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return (fourth / variance**2 - 3)[..., None]


def _dip_tests(pooled, seed: int) -> dict[str, float]:
    """Hartigan's dip of the log norms: of all, and of the upper 5 %, where rare groups show."""
    import diptest

    log_norms = np.log(np.maximum(pooled, 1e-12))
    tail = log_norms[log_norms >= np.quantile(log_norms, 1 - _DIP_TAIL)]
    results = {}
    for name, values in (("all", log_norms), ("upper_5_percent", tail)):
        if len(values) > _DIP_SAMPLE:
            generator = np.random.default_rng(seed)
            values = generator.choice(values, _DIP_SAMPLE, replace=False)
        if len(values) < 4 or np.ptp(values) == 0:
            continue
        dip, p_value = diptest.diptest(values)
        results[f"dip_{name}"], results[f"dip_{name}_p"] = float(dip), float(p_value)
    return results
