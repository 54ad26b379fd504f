"""How often does a box find an object? CorLoc, with intervals, and between models on equal images.

CorLoc is the share of images whose box overlaps any object with an IoU of at least 0.5. Images
without an object have no score.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.boxes import HIT_IOU, best_iou, central_box, full_box
from regvit_jax.shares import wilson

BASELINES = {"central_box": central_box, "full_image": full_box}
"""Boxes that look at nothing: half the width and height in the middle, and the whole image."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image in the frame in which boxes are compared."""

    width: int
    height: int
    objects: Float[np.ndarray, "m 4"]


class Score(NamedTuple):
    """What the boxes of one model, or one baseline, find."""

    corloc: Estimate
    mean_best_iou: Estimate
    """Mean over the images of the overlap with the object that fits best."""


def overlaps(boxes: Float[np.ndarray, "n 4"], scenes: Sequence[Scene]) -> Float[np.ndarray, " n"]:
    """Each box's IoU with the object of its image that it fits best; NaN without an object."""
    return np.array(
        [
            best_iou(box, scene.objects) if len(scene.objects) else np.nan
            for box, scene in zip(boxes, scenes, strict=True)
        ]
    )


def baseline_overlaps(name: str, scenes: Sequence[Scene]) -> Float[np.ndarray, " n"]:
    """`overlaps` of one of `BASELINES`."""
    boxes = [BASELINES[name](scene.width, scene.height) for scene in scenes]
    return overlaps(np.array(boxes), scenes)


def score(ious: Float[np.ndarray, " n"], bootstrap: Bootstrap) -> Score:
    """CorLoc with Wilson's interval, and the mean overlap with a bootstrap's.

    Args:
      ious: `overlaps` of images with an object.
      bootstrap: Resamples of these images.
    """
    found = wilson(int(hits(ious).sum()), len(ious))
    corloc = Estimate(found.share, found.n, found.low, found.high)
    return Score(corloc, bootstrap.mean(ious))


def hits(ious: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which boxes found an object."""
    return ious >= HIT_IOU


def compare(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Second against first on the same images: paired differences, and McNemar's exact test.

    The test asks whether images that only one of them finds are equally often the first's and the
    second's.
    """
    found_first, found_second = hits(first), hits(second)
    only_first = int((found_first & ~found_second).sum())
    only_second = int((found_second & ~found_first).sum())
    unlike = only_first + only_second
    return {
        "differences": {
            "corloc": bootstrap.mean(found_second.astype(float) - found_first),
            "best_iou": bootstrap.mean(second - first),
        },
        "mcnemar": {
            "only_first": only_first,
            "only_second": only_second,
            "p_value": stats.binomtest(only_first, unlike).pvalue if unlike else 1.0,
        },
    }
