"""Does a box find an object? For several boxes in each image, in the crop that is analysed.

Letters: n images, m of them with an object, c kinds of box.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from regvit_jax.analysis.discovery.survey import Survey, survey
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.boxes import HIT_IOU, best_iou, visible
from regvit_jax.image_folder import FolderSource


class Hits(NamedTuple):
    """Which boxes overlap an object with an IoU of at least 0.5."""

    rows: Int[np.ndarray, " m"]
    """The images that have an object."""
    found: Bool[np.ndarray, "m c"]


def known_objects(images: Images, skip_unreadable: bool) -> Survey | None:
    """The objects of some images; None where the data have none."""
    if isinstance(images.source, FolderSource):  # has no boxes: nothing need be read
        return None
    found = survey(images.source, images.indices, skip_unreadable)
    return found if found.has_objects else None


def hits_of(
    indices: Sequence[int], boxes: Int[np.ndarray, "n c 4"], objects: Survey, subject: Subject
) -> Hits:
    """Which boxes of the images find an object.

    Args:
      indices: Of the images in their source.
      boxes: Half-open, in patches.
      objects: Of the images, in pixels of the file.
      subject: Whose pixels and patches these are.
    """
    rows, found = [], []
    for row, (index, of_image) in enumerate(zip(indices, boxes, strict=True)):
        facts = objects.facts.get(index)
        if facts is None:
            continue
        seen = subject.preprocess.boxes(facts.boxes, facts.width, facts.height)
        seen = seen[visible(seen)]
        if len(seen):
            rows.append(row)
            pixels = of_image * float(subject.config.patch_size)
            found.append([best_iou(box, seen) >= HIT_IOU for box in pixels])
    return Hits(np.array(rows, int), np.array(found, bool).reshape(len(rows), boxes.shape[1]))
