"""How do boxes meet? Frames, intersection over union, and the trivial boxes of an image.

A box is (x0, y0, x1, y1), half-open, in pixels of a named frame: "file" is the upright image as it
is stored, "crop" what the network sees of it. x1 and y1 are the first column and row outside, so
that width and height are plain differences.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Frame = Literal["file", "crop"]

HIT_IOU = 0.5
"""Least overlap of a box that found an object."""


def iou(
    first: Float[np.ndarray, "m 4"], second: Float[np.ndarray, "s 4"]
) -> Float[np.ndarray, "m s"]:
    """Intersection over union of every pair of boxes; 0 where both are empty.

    Reference: `bbox_iou` of valeoai/LOST, which adds no pixel to widths either.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    union = area(first)[:, None] + area(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def area(boxes: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, " m"]:
    """Area in square pixels; 0 for a box turned inside out."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)


def best_iou(box: Float[np.ndarray, " 4"], objects: Float[np.ndarray, "m 4"]) -> float:
    """Overlap of a box with the object that it fits best; there must be one."""
    return float(iou(box[None], objects).max())


def visible(boxes: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, " m"]:
    """Which boxes have an area."""
    return area(boxes) > 0


def central_box(width: int, height: int) -> Float[np.ndarray, " 4"]:
    """Half the width and half the height of an image, in its middle."""
    return np.array([width / 4, height / 4, width * 3 / 4, height * 3 / 4])


def full_box(width: int, height: int) -> Float[np.ndarray, " 4"]:
    """The whole image."""
    return np.array([0.0, 0.0, width, height])


def turned_upright(
    boxes: Float[np.ndarray, "m 4"], orientation: int, width: int, height: int
) -> Float[np.ndarray, "m 4"]:
    """Boxes in pixels of an image as it is stored, moved to the image turned upright.

    Args:
      boxes: Half-open.
      orientation: The image's EXIF orientation, 1 to 8.
      width: Of the image as it is stored, in pixels.
      height: Of the image as it is stored, in pixels.
    """
    x0, y0, x1, y1 = boxes.T
    if orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    sides = (y0, x0, y1, x1) if orientation >= 5 else (x0, y0, x1, y1)
    return np.stack(sides, axis=1)
