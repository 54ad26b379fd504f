"""Which files and folders of a folder count? Not the hidden ones, nor links that lead nowhere."""

import os
from collections.abc import Iterator
from pathlib import Path

from regvit_jax.images import SUFFIXES


def folder_names(folder: Path) -> list[str]:
    """The visible folders in a folder, sorted."""
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir())


def image_names(folder: Path) -> list[str]:
    """The images below a folder, as paths relative to it, sorted.

    Links are followed, except to a folder that they lie in themselves.
    """
    return sorted(_image_names(folder, "", ()))


def _image_names(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _image_names(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
            yield prefix + entry.name


def _visible(folder: Path) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            is_dangling = entry.is_symlink() and not os.path.exists(entry)
            if entry.name[0] != "." and not is_dangling:
                yield entry
