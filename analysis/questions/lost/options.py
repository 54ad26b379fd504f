"""What can a user choose for `regvit-analyze lost`? Imports nothing heavy."""

import dataclasses
import math
from typing import ClassVar, Literal

from regvit_jax.analysis.options import LabelOptions
from regvit_jax.errors import InputError

Feature = Literal["query", "key", "value"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LostOptions(LabelOptions):
    """Unsupervised object discovery from patch similarity (LOST): one box per image.

    --feature, --layer and --gram-bias take several values: every combination is measured in the
    same pass, and the first of each gives predictions and figures. The defaults of the options
    after --gram-bias depend on --protocol; each of the study's errors has its own switch.
    """

    rank: ClassVar[int] = 4

    split: str = "auto"
    """Which part of the data; "auto" is trainval for VOC, as in published figures, else val."""
    num_images: int = 0
    """Images to analyse, drawn at random when there are more; 0 is all."""
    feature: tuple[Feature, ...] = ()
    """Vectors of the attention, heads side by side; values for DeiT, keys for DINO unless given."""
    layer: tuple[int, ...] = (-1,)
    """Block whose features are compared, from 0; -1 is the last."""
    k: int = 100
    """Patches of lowest degree that may join the seed."""
    gram_bias: tuple[float, ...] = ()
    """Added to all products of features: 0 in `official`, 0.05 in `study`."""
    centre_features: bool | None = None
    """Subtract the image's mean feature and scale to length 1 (`study`)."""
    frame: Literal["file", "crop"] | None = None
    """"file": full resolution, padded (`official`); "crop": what evaluation crops (`study`)."""
    drop_hard: bool | None = None
    """Leave out objects flagged as truncated or difficult (`study`)."""
    drop_empty: bool | None = None
    """Leave out annotated images without an object (`study`); else they have boxes, no score."""
    shift_far_corner: bool | None = None
    """Fault of the study: objects end a pixel early, on the right and below."""
    stretch_objects: bool | None = None
    """Fault of the study: objects are stretched to the crop, not cropped."""
    clip_to_file: bool | None = None
    """Fault of the study: boxes in the crop are clipped to the size of the file."""
    max_patches: int = 5000
    """Refuse images of more patches: a network's memory grows with the square of their number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("k", "max_patches"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least 1, got {getattr(self, name)}.")
        if not self.layer:
            raise InputError("Name at least one block after --layer.")
        if not all(map(math.isfinite, self.gram_bias)):
            raise InputError(f"--gram-bias must be finite, got {self.gram_bias}.")
        if self.image_size is not None and self.resolved_frame == "file":
            raise InputError(
                "--image-size is the side of a square crop; --frame file takes images as they "
                "are. Add --frame crop."
            )

    def drawn(self) -> list[tuple[str, int]]:
        from regvit_jax.analysis.questions.lost.part import resolved_split

        return [(resolved_split(self.split, self.data), self.num_images)]

    @property
    def resolved_frame(self) -> Literal["file", "crop"]:
        """The frame, by protocol unless given."""
        return self.frame or ("crop" if self.protocol == "study" else "file")
