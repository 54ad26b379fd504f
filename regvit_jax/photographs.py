"""How does a photograph become the model's input?"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from regvit_jax.checkpoint import CheckpointInfo, read_info
from regvit_jax.errors import InputError
from regvit_jax.images import Picture
from regvit_jax.preprocess import Preprocess


def load_images(
    pictures: Picture | Iterable[Picture], prepared_for: str | Path | CheckpointInfo | Preprocess
) -> Float[np.ndarray, "b h w 3"]:
    """Pictures as a model's input: upright, RGB, resized, cropped and normalised.

    Args:
      pictures: One or several paths, Pillow images of any mode, or arrays of uint8 or uint16 of
        shape (h, w), (h, w, 3) or with 1 or 4 channels.
      prepared_for: A checkpoint's directory, what `read_info` says of it, or a preprocessing.

    Raises:
      InputError: If there is no picture, one cannot be read, or there is no such checkpoint.
    """
    if isinstance(prepared_for, str | Path):
        prepared_for = read_info(prepared_for)
    if isinstance(prepared_for, CheckpointInfo):
        prepared_for = prepared_for.preprocess
    if not isinstance(prepared_for, Preprocess):
        raise InputError(
            "Expected a checkpoint's directory, its information or a Preprocess as the second "
            f"argument, got {type(prepared_for).__name__}."
        )
    pixels = [prepared_for.pixels(picture) for picture in several(pictures)]
    if not pixels:
        raise InputError("There are no pictures to load.")
    return np.asarray(prepared_for.normalise(np.stack(pixels)))


def several(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """One picture, or each of several; a stack of images is several."""
    if isinstance(pictures, np.ndarray):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, str | bytes | os.PathLike | Image.Image):
        return [pictures]
    if not isinstance(pictures, Iterable):
        raise InputError(
            f"Expected paths, Pillow images or NumPy arrays, got {type(pictures).__name__}."
        )
    return list(pictures)
