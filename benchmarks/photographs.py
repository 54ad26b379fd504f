"""JPEG files to decode: a folder's, or pieces of the photographs that scikit-image ships."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 95
"""As most photographs of Pascal VOC."""
SHIPPED = ("astronaut", "coffee", "chelsea", "rocket")
COUNT = 128
"""At most, in whole batches of 32."""
LEAST_PART = 0.6
SUFFIXES = {".jpg", ".jpeg"}


@contextlib.contextmanager
def photographs(folder: Path | None) -> Iterator[list[Path]]:
    """At most `COUNT` files of one folder: `files_below` a given one, or made ones."""
    if folder is not None:
        yield files_below(folder)
        return
    with tempfile.TemporaryDirectory() as name:
        yield [_write(Path(name), index) for index in range(COUNT)]


def files_below(folder: Path) -> list[Path]:
    """At most `COUNT` JPEG files that lie together in a folder, or in the first one below it."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [path for path in files if path.parent == files[0].parent][:COUNT]


def _write(folder: Path, index: int) -> Path:
    """A piece of a shipped photograph, enlarged: as hard to decode as any."""
    from skimage import data

    generator = np.random.default_rng(index)
    image = Image.fromarray(getattr(data, SHIPPED[index % len(SHIPPED)])()[..., :3])
    part = generator.uniform(LEAST_PART, 1.0)
    width, height = part * image.width, part * image.height
    left = generator.uniform(0, image.width - width)
    top = generator.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    path = folder / f"{index:03d}.jpg"
    image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box).save(path, quality=QUALITY)
    return path
