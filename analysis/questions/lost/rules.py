"""How is LOST measured? The published protocol, the study's, and each difference between them."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from regvit_jax.analysis.discovery.features import Feature, default_feature
from regvit_jax.analysis.discovery.survey import Facts, Survey
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.options import Protocol
from regvit_jax.analysis.questions.lost.options import LostOptions
from regvit_jax.boxes import Frame, visible
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import resolve_layers


@dataclasses.dataclass(frozen=True)
class LostRules:
    """What `--protocol` decides, and options can change one by one."""

    frame: Frame = "file"
    """"file": images at full resolution; "crop": the centre that evaluation crops."""
    centre_features: bool = False
    """Features lose their mean over the image and get length 1."""
    gram_bias: float = 0.0
    """Added to all products of features."""
    drop_hard: bool = False
    """Objects flagged as truncated or difficult do not count."""
    drop_empty: bool = False
    """Annotated images without an object that counts are left out altogether."""
    shift_far_corner: bool = False
    """Objects end a pixel early: 1 is subtracted from all four numbers of VOC, not from two."""
    stretch_objects: bool = False
    """Objects are scaled by crop / file in each direction, as if nothing had been cropped."""
    clip_to_file: bool = False
    """Boxes in the crop are clipped to the size of the file."""

    @classmethod
    def of(cls, options: LostOptions) -> "LostRules":
        """The protocol's rules, with what the options change."""
        changed = {
            name: value
            for name in (field.name for field in dataclasses.fields(cls))
            if name != "gram_bias" and (value := getattr(options, name)) is not None
        }
        if options.gram_bias:
            changed["gram_bias"] = options.gram_bias[0]
        return dataclasses.replace(PRESETS[options.protocol], **changed)

    def preprocess(self, subject: Preprocess, facts: Facts, patch_size: int) -> Preprocess:
        """What becomes of an image.

        Args:
          subject: What the model's evaluation does.
          facts: Of the image.
          patch_size: Of the model.
        """
        if self.frame == "crop" or _is_whole(subject, facts):
            return subject
        return subject.padding(facts.height, facts.width, patch_size)

    def frame_size(self, facts: Facts, preprocess: Preprocess) -> tuple[int, int]:
        """Width and height of an image in the frame."""
        if self.frame == "file":
            return facts.width, facts.height
        return preprocess.width, preprocess.height

    def objects(self, facts: Facts, preprocess: Preprocess) -> Float[np.ndarray, "m 4"]:
        """An image's objects that count, in the frame."""
        boxes = facts.boxes[~facts.is_hard] if self.drop_hard else facts.boxes
        if self.shift_far_corner:
            boxes = boxes - np.array([[0.0, 0.0, 1.0, 1.0]])
        if self.frame == "file":
            return boxes
        if self.stretch_objects:
            scale = (preprocess.width / facts.width, preprocess.height / facts.height)
            return boxes * np.array([[*scale, *scale]])
        boxes = preprocess.boxes(boxes, facts.width, facts.height)
        return boxes[visible(boxes)]

    def to_frame(
        self, boxes: Int[np.ndarray, "s 4"], patch_size: int, facts: Facts, preprocess: Preprocess
    ) -> Int[np.ndarray, "s 4"]:
        """Boxes in patches, in pixels of the frame; what sticks out right and below is cut off."""
        boxes = boxes * patch_size
        size = self.frame_size(facts, preprocess)
        if self.clip_to_file:
            size = (facts.width, facts.height)
        return np.concatenate([boxes[:, :2], np.minimum(boxes[:, 2:], [size])], axis=1)


def _is_whole(preprocess: Preprocess, facts: Facts) -> bool:
    """Whether evaluation leaves such an image as it is: nothing resized, cropped or padded."""
    size = (preprocess.height, preprocess.width)
    is_fixed = preprocess.resize == "squash" or min(size) == preprocess.short_side
    return size == (facts.height, facts.width) and is_fixed and preprocess.resize != "pad"


PRESETS: dict[Protocol, LostRules] = {
    "official": LostRules(),
    "study": LostRules(
        frame="crop",
        centre_features=True,
        gram_bias=0.05,
        drop_hard=True,
        drop_empty=True,
        shift_far_corner=True,
        stretch_objects=True,
        clip_to_file=True,
    ),
}


class Setting(NamedTuple):
    """Which features are compared, and how."""

    feature: Feature
    layer: int
    """Block, from 0."""
    gram_bias: float


def settings_of(subject: Subject, options: LostOptions, rules: LostRules) -> list[Setting]:
    """All combinations that the options name for a model; the first gives its predictions.

    Raises:
      InputError: If the model has no such block.
    """
    features = options.feature or (default_feature(subject),)
    layers = resolve_layers(options.layer, subject.config.depth)
    biases = options.gram_bias or (rules.gram_bias,)
    unlike = dict.fromkeys(itertools.product(features, layers, biases))
    return [Setting(*values) for values in unlike]


def shape_groups(
    subject: Subject, images: Survey, rules: LostRules
) -> dict[Preprocess, Int[np.ndarray, " n"]]:
    """Indices of the images by what becomes of them; few shapes, so few compilations."""
    groups: dict[Preprocess, list[int]] = {}
    for index in images.indices.tolist():
        facts = images.facts[index]
        preprocess = rules.preprocess(subject.preprocess, facts, subject.config.patch_size)
        groups.setdefault(preprocess, []).append(index)
    return {preprocess: np.array(indices) for preprocess, indices in groups.items()}
