"""Which photographs do both sides of a verification see?"""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from regvit_jax.errors import InputError

NUM_IMAGES = 4

_NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
"""Square and wide ones of those that scikit-image ships; never its own code, only its files."""


def photographs(folder: Path | None) -> tuple[list[Image.Image], str]:
    """Images of any size in RGB, and what they are.

    Args:
      folder: Whose photographs to take; None takes some that come with scikit-image, or random
        pixels where that is not installed.
    """
    if folder is not None:
        return _of_folder(folder)
    from regvit_jax.images import read_image

    spec = importlib.util.find_spec("skimage")
    places = (
        [Path(place) / "data" for place in (spec.submodule_search_locations or [])] if spec else []
    )
    files = [place / name for place in places for name in _NAMES if (place / name).is_file()]
    if len(files) == NUM_IMAGES:
        return [read_image(file) for file in files], f"{NUM_IMAGES} photographs of scikit-image"
    generator = np.random.default_rng(0)
    sizes = ((512, 512), (300, 451), (400, 600), (427, 640))
    images = [
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes
    ]
    told = "(--images takes photographs; scikit-image, which has some, is not installed)"
    return images, f"{NUM_IMAGES} images of random pixels {told}"


def _of_folder(folder: Path) -> tuple[list[Image.Image], str]:
    from regvit_jax.data import open_source

    source = open_source(str(folder))
    if not len(source):
        raise InputError(f"{folder} holds no images.")
    # Spread over the folder, so that they do not all show the same class.
    indices = np.unique(np.linspace(0, len(source) - 1, NUM_IMAGES).astype(int))
    return [source[int(i)].image for i in indices], f"{len(indices)} images of {folder}"
