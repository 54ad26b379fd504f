"""Does a layer hold outlier tokens? A rule that can fail, calibrated by simulation.

A percentile always finds something, and a skewed distribution with one mode has many values beyond
three standard deviations. What the literature calls an outlier is a *separate group* of patches.
Every norm is taken in units of the median norm of its own image, so that an image with large norms
all over has no outliers. The rule asks for a group of patches that is

- rare: from 0.05 % (one patch in ten images of 14 x 14) to 10 % of all patches (2.4 % in DINOv2-g,
  arXiv:2309.16588; a commoner group is a kind of content, such as foreground);
- far: its median lies at 1.6 times the median of its images or beyond (DeiT-III-B: 2.6 times);
- apart: a valley lies before it, at most 0.8 times as dense (`valley.py`);
- isolated: of at least half of its patches, none of the four neighbours belongs to it. The patches
  of an object lie side by side;
- grown: at least 1.5 times as far out as other patches of the same norm before the blocks
  (`growth.py`). White backgrounds have large norms there in any model.

`python -m benchmarks.verdict` measures how often it finds planted groups, and how often others.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.outliers import valley
from regvit_jax.analysis.outliers.growth import growth
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

MIN_SHARE, MAX_SHARE = 0.0005, 0.10
FAR = 1.6
ISOLATED = 0.5
GROWTH = 1.5
EVIDENCE = 2.5
"""Standard errors that the valley must be clear by."""
EVIDENCE_OF_FEW, FEW = 3.5, 120
"""The same for groups of fewer patches: chance makes valleys among few."""
MIN_IMAGES = 10
MIN_TOKENS = 10
"""Patches that make a group; fewer may be chance."""

Answer = Literal["found", "not found", "cannot tell"]


class Group(NamedTuple):
    """The best candidate for a separate group of large norms."""

    cut: float
    """`cut_ratio` times the median norm of all patches: to draw a line by."""
    cut_ratio: float
    """A patch belongs to the group from here on, in units of the median norm of its image."""
    share: Estimate
    """Share of all patches."""
    peak_ratio: float
    """The group's median, in the same units."""
    valley: float
    """Density in the valley, in units of the group's density."""
    evidence: float
    """How clear the valley is, in standard errors over images."""
    isolation: float
    """Share of the group of whose four neighbours none belongs to it."""
    growth: float | None
    """The group's norm in units of other patches' of the same norm before the blocks."""
    num_tokens: int


class Verdict(NamedTuple):
    """Whether there are outliers in a layer, and why we think so."""

    answer: Answer
    reason: str
    group: Group | None


def judge(
    norms: Float[np.ndarray, "n p"],
    grid: tuple[int, int],
    *before: Float[np.ndarray, "n p"] | None,
    bootstrap: Bootstrap | None = None,
) -> Verdict:
    """Whether patches of large norm form a separate group, by the rule at the top of this file.

    Args:
      norms: Of every patch of n images, in one layer.
      grid: Rows and columns of the patches.
      before: Norms of the same patches before the blocks: after the patch convolution, with
        positions. The group must have grown from each; what is None, or not given, is not asked.
      bootstrap: Resamples of the images, for the interval of the share.
    """
    if norms.shape[0] < MIN_IMAGES:
        reason = f"{norms.shape[0]} images are too few; the rule needs {MIN_IMAGES}."
        return Verdict("cannot tell", reason, None)
    known = [norms_before for norms_before in before if norms_before is not None]
    contrasts = valley.contrast(norms)
    counts = valley.count(contrasts, grid)
    found = valley.valleys(counts.of_images, MIN_SHARE * norms.size)
    shares = counts.above[:-1] / norms.size
    isolation = counts.alone[:-1] / np.maximum(counts.above[:-1], 1)
    fits = (shares >= MIN_SHARE) & (shares <= MAX_SHARE) & (counts.above[:-1] >= MIN_TOKENS)
    fits &= np.isfinite(found.evidence)
    place = _best(found, fits & (isolation >= ISOLATED))
    if place is None or found.evidence[place] < EVIDENCE:
        crowded = _best(found, fits & (isolation < ISOLATED))
        if crowded is not None and _is_clear(found, crowded):
            group = _group(norms, contrasts, counts, found, crowded, known, bootstrap)
            return Verdict("not found", _side_by_side(group), group)
        return _without_group(norms)
    group = _group(norms, contrasts, counts, found, place, known, bootstrap)
    return _verdict(group, _is_clear(found, place), norms)


def members(norms: Float[np.ndarray, "n p"], cut_ratio: float) -> Bool[np.ndarray, "n p"]:
    """Which patches belong to a group: those from its cut on, in medians of their own image."""
    return valley.contrast(norms) >= np.float32(np.log2(cut_ratio))


def _best(found: valley.Valleys, fits) -> int | None:
    """The clearest of the cuts that fit."""
    if not fits.any():
        return None
    return int(np.where(fits, found.evidence, -np.inf).argmax())


def _is_clear(found: valley.Valleys, place: int) -> bool:
    needed = EVIDENCE if found.tokens[place] >= FEW else EVIDENCE_OF_FEW
    return bool(found.evidence[place] >= needed)


def _group(norms, contrasts, counts, found, place: int, before, bootstrap) -> Group:
    cut = (valley.LOWEST + place) / valley.OCTAVE_PARTS
    in_group = contrasts >= np.float32(cut)
    of_images = in_group.mean(axis=1, dtype=np.float64)
    share = Estimate(float(of_images.mean()), len(norms))
    return Group(
        cut=2.0**cut * float(np.median(norms)),
        cut_ratio=2.0**cut,
        share=share if bootstrap is None else bootstrap.share(of_images),
        peak_ratio=float(2.0 ** np.median(contrasts[in_group])),
        valley=float(found.depth[place]),
        evidence=float(found.evidence[place]),
        isolation=float(counts.alone[place] / counts.above[place]),
        growth=min((growth(contrasts, in_group, norms_) for norms_ in before), default=None),
        num_tokens=int(in_group.sum()),
    )


def _verdict(group: Group, is_clear: bool, norms) -> Verdict:
    if group.peak_ratio < FAR:
        return _without_group(norms)
    if group.growth is not None and group.growth < GROWTH:
        reason = (
            f"{_described(group)}, but only {group.growth:.2f} times as far out as other patches "
            "that were as large before the blocks: it is the pixels or the positions, not the "
            "network."
        )
        return Verdict("not found", reason, group)
    if not is_clear:
        reason = (
            f"{_described(group)}, but the valley before them is clear by only "
            f"{group.evidence:.1f} standard errors ({EVIDENCE_OF_FEW} are asked for); more images "
            "would tell."
        )
        return Verdict("cannot tell", reason, group)
    grown = (
        ""
        if group.growth is None
        else f", {group.growth:.1f} times as far out as patches as large before the blocks"
    )
    reason = (
        f"{_described(group)}{grown}; the valley before them has {100 * group.valley:.0f} % of "
        f"their density, and {100 * group.isolation:.0f} % have no such neighbour."
    )
    return Verdict("found", reason, group)


def _described(group: Group) -> str:
    return (
        f"{100 * group.share.value:.2f} % of the patches lie above {group.cut_ratio:.1f} x the "
        f"median norm of their image, half of them above {group.peak_ratio:.1f} x"
    )


def _side_by_side(group: Group) -> str:
    return (
        f"{_described(group)}, but they lie side by side: only {100 * group.isolation:.0f} % have "
        "no such neighbour. It is objects or regions, not outlier tokens."
    )


def _without_group(norms) -> Verdict:
    expected = norms.size * MIN_SHARE
    if expected < MIN_TOKENS:
        needed = int(np.ceil(MIN_TOKENS / MIN_SHARE / norms.shape[1]))
        reason = (
            f"No separate group, but a group of {100 * MIN_SHARE} % would be only {expected:.0f} "
            f"of these {norms.size} patches; at least {needed} images are needed."
        )
        return Verdict("cannot tell", reason, None)
    above = float((norms > 3 * np.median(norms, axis=1, keepdims=True)).mean())
    reason = (
        f"One continuous distribution: no group of {100 * MIN_SHARE} % to {100 * MAX_SHARE:.0f} % "
        f"of the patches lies apart at {FAR} x the median norm of their image or more "
        f"({100 * above:.2f} % exceed 3 x)."
    )
    return Verdict("not found", reason, None)
