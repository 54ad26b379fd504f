"""Which boxes did LOST find in all images of one model? From columns in patches to the frame.

Letters: n images, m of them with an object, s settings.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from regvit_jax.analysis.discovery.survey import Survey
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Kept
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.questions.lost.rules import LostRules, Setting
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
    ious: Float[np.ndarray, "n s"]
    """With the object that fits best; NaN without one."""
    shown: dict[int, ShownMask]

    @property
    def is_scored(self) -> Bool[np.ndarray, " n"]:
        """Which images have an object."""
        return np.array([len(scene.objects) > 0 for scene in self.scenes])

    @property
    def scored_ious(self) -> Float[np.ndarray, "m s"]:
        """`ious` of the images with an object."""
        return self.ious[self.is_scored]

    @property
    def scored_scenes(self) -> list[Scene]:
        """The images with an object."""
        return [scene for scene in self.scenes if len(scene.objects)]


def found_boxes(
    subject: Subject, kept: Kept, settings: list[Setting], rules: LostRules, images: Survey
) -> Found:
    """The boxes of all images, those of every shape put into one order.

    Raises:
      InputError: If none of the images could be read.
    """
    parts = [columns for name, columns in kept.columns.items() if name.startswith("boxes")]
    parts = [columns for columns in parts if columns.num_rows]
    if not parts:
        raise InputError("None of the images can be read.")
    order = np.argsort(_joined(parts, "index"))
    indices, boxes, seeds, in_mask = (
        _joined(parts, name)[order] for name in ("index", "boxes", "seeds", "in_mask")
    )
    patch_size = subject.config.patch_size
    scenes, framed, middles, ious = [], [], [], []
    for place, index in enumerate(indices.tolist()):
        facts = images.facts[index]
        preprocess = rules.preprocess(subject.preprocess, facts, patch_size)
        size = rules.frame_size(facts, preprocess)
        scene = Scene(*size, objects=rules.objects(facts, preprocess))
        row, col = divmod(int(seeds[place, 0]), preprocess.width // patch_size)
        scenes.append(scene)
        framed.append(rules.to_frame(boxes[place], patch_size, facts, preprocess))
        middles.append(((col + 0.5) * patch_size, (row + 0.5) * patch_size))
        ious.append(overlaps(framed[-1].astype(float), [scene] * len(settings)))
    shown = _shown([c for name, c in kept.columns.items() if name.startswith("shown")])
    return Found(
        *(settings, indices, scenes, np.array(framed), np.array(middles), in_mask),
        *(np.array(ious), shown),
    )


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
