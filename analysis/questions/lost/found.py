"""Which boxes did LOST find in all images of one model? From columns in patches to the frame.

Letters: n images, m of them with an object, s settings.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from regvit_jax.analysis.engine.analysis import Asked
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Kept
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.outliers.labels import find_labels
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.outliers.verdict import members
from regvit_jax.analysis.questions.lost.rules import Setting, shape_groups
from regvit_jax.analysis.questions.lost.scores import Scene, overlaps
from regvit_jax.errors import InputError


class ShownMask(NamedTuple):
    """What a figure draws of one image."""

    pixels: np.ndarray
    """What the network saw, (h, w, 3)."""
    mask: Bool[np.ndarray, "gh gw"]
    component: Bool[np.ndarray, "gh gw"]


@dataclasses.dataclass(frozen=True)
class Found:
    """One model's boxes, in the frame; the first setting gives the predictions."""

    settings: list[Setting]
    indices: Int[np.ndarray, " n"]
    """Indices of the images in the source."""
    scenes: list[Scene]
    boxes: Int[np.ndarray, "n s 4"]
    seeds: Float[np.ndarray, "n 2"]
    """Middle (x, y) of the first setting's seed patch."""
    in_mask: Bool[np.ndarray, "n s"]
    points: Float[np.ndarray, "n 2"]
    """Middle (x, y) of the patch to which CLS attends most; NaN without CLS."""
    is_outlier: Bool[np.ndarray, " n"]
    """Whether the first setting's seed is an outlier."""
    outlier_share: Float[np.ndarray, " n"]
    """Share of every image's patches."""
    remark: str
    """Which patches are outliers."""
    ious: Float[np.ndarray, "n s"]
    """With the object that fits best; NaN without one."""
    shown: dict[int, ShownMask]

    @property
    def is_scored(self) -> Bool[np.ndarray, " n"]:
        """Which images have an object."""
        return np.array([len(scene.objects) > 0 for scene in self.scenes])

    @property
    def points_at(self) -> Float[np.ndarray, " n"]:
        """Whether the most attended patch's middle lies in an object: 1 or 0; NaN without.

        Reference: the pointing game, Zhang et al., arXiv:1608.00507.
        """
        hits = np.full(len(self.scenes), np.nan)
        for place, scene in enumerate(self.scenes):
            if len(scene.objects) and np.isfinite(self.points[place]).all():
                (x, y), (left, top, right, bottom) = self.points[place], scene.objects.T
                inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)
                hits[place] = inside.any()
        return hits

    @property
    def scored_ious(self) -> Float[np.ndarray, "m s"]:
        """`ious` of the images with an object."""
        return self.ious[self.is_scored]

    @property
    def scored_scenes(self) -> list[Scene]:
        """The images with an object."""
        return [scene for scene in self.scenes if len(scene.objects)]


def found_boxes(subject: Subject, kept: Kept, settings: list[Setting], asked: Asked) -> Found:
    """The boxes of all images, those of every shape put into one order.

    Raises:
      InputError: If none of the images could be read.
    """
    rules, images = asked.about
    parts = [columns for name, columns in kept.columns.items() if name.startswith("boxes")]
    parts = [columns for columns in parts if columns.num_rows]
    if not parts:
        raise InputError("None of the images can be read.")
    order = np.argsort(_joined(parts, "index"))
    indices, boxes, seeds, in_mask, attended = (
        _joined(parts, name)[order] for name in ("index", "boxes", "seeds", "in_mask", "attended")
    )
    outliers, remark = seen_outliers(subject, kept, asked)
    patch_size = subject.config.patch_size
    scenes, framed, middles, points, ious = [], [], [], [], []
    for place, index in enumerate(indices.tolist()):
        facts = images.facts[index]
        preprocess = rules.preprocess(subject.preprocess, facts, patch_size)
        width, height = rules.frame_size(facts, preprocess)
        scene = Scene(width, height, rules.objects(facts, preprocess))
        row_size = preprocess.width // patch_size
        scenes.append(scene)
        framed.append(rules.to_frame(boxes[place], patch_size, facts, preprocess))
        middles.append(_middle(int(seeds[place, 0]), row_size, patch_size))
        points.append(_middle(int(attended[place]), row_size, patch_size))
        ious.append(overlaps(framed[-1].astype(float), [scene] * len(settings)))
    shown = _shown([c for name, c in kept.columns.items() if name.startswith("shown")])
    return Found(
        settings=settings,
        indices=indices,
        scenes=scenes,
        boxes=np.array(framed),
        seeds=np.array(middles),
        in_mask=in_mask,
        points=np.array(points),
        is_outlier=np.array([outliers[i][seeds[n, 0]] for n, i in enumerate(indices.tolist())]),
        outlier_share=np.array([outliers[i].mean() for i in indices.tolist()]),
        remark=remark,
        ious=np.array(ious),
        shown=shown,
    )


def seen_outliers(
    subject: Subject, kept: Kept, asked: Asked
) -> tuple[dict[int, Bool[np.ndarray, " p"]], str]:
    """The outliers of every image, by its index, and which they are in words.

    The commonest shape of the images gives the labels; in images of another shape the same cut
    holds, in units of their own median.
    """
    rules, images = asked.about
    groups = shape_groups(subject, images, rules)
    norms = [
        NormColumns.of(subject, kept[f"norms {place}"], preprocess)
        for place, preprocess in enumerate(groups)
        if kept[f"norms {place}"].num_rows
    ]
    commonest = max(norms, key=lambda each: each.num_images)
    labels = find_labels(commonest, asked.bootstrap(commonest.num_images), asked.options)
    median = float(np.median(commonest.patches(labels.layer)))
    ratio = labels.group.cut_ratio if labels.group else labels.led.cut / median
    found: dict[int, np.ndarray] = {}
    for each in norms:
        is_member = members(each.patches(labels.layer), ratio)
        found |= dict(zip(each.columns.indices.tolist(), is_member, strict=True))
    return found, labels.remark


def _middle(patch: int, row_size: int, size: int) -> tuple[float, float]:
    """In pixels, (x, y); NaN for no patch."""
    if patch < 0:
        return float("nan"), float("nan")
    row, column = divmod(patch, row_size)
    return (column + 0.5) * size, (row + 0.5) * size


def _joined(parts: Sequence[Columns], name: str) -> np.ndarray:
    return np.concatenate([columns.read(name) for columns in parts])


def _shown(parts: Sequence[Columns]) -> dict[int, ShownMask]:
    """Pixels, masks and their pieces of the shown images, by index."""
    shown: dict[int, ShownMask] = {}
    for columns in parts:
        if columns.num_rows:
            rows = zip(*(columns.read(n) for n in ("pixels", "mask", "component")), strict=True)
            found = (ShownMask(*row) for row in rows)
            shown |= dict(zip(columns.indices.tolist(), found, strict=True))
    return dict(sorted(shown.items()))
