"""Which images do several files, folders and patterns name? A source without classes."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from regvit_jax.errors import InputError
from regvit_jax.folders import image_names, is_foreign
from regvit_jax.image_folder import FolderSource
from regvit_jax.images import SUFFIXES


def are_several(data: str) -> bool:
    """Whether what follows `--data` is a pattern, or several names, one in each line."""
    return ("\n" in data or glob.has_magic(data)) and not os.path.exists(_whole(data))


def open_files(data: str) -> FolderSource:
    """The images that names stand for, in the order of the names; each counts once.

    Args:
      data: A name in each line: of an image, of a folder (all images below it, sorted), or a
        pattern such as `photos/*.png` or `photos/**/*.jpg` (sorted).

    Raises:
      InputError: If a name stands for nothing, or for no image.
    """
    names = [data] if os.path.exists(_whole(data)) else data.splitlines()
    files = list(dict.fromkeys(os.path.abspath(file) for name in names for file in _files(name)))
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    title = names[0] if len(names) == 1 else f"{root} ({len(files)} images)"
    return FolderSource(Path(root), tuple(os.path.relpath(f, root) for f in files), (), title)


def _files(name: str) -> Iterator[str]:
    """The images that one name stands for."""
    path = _whole(name)
    if os.path.isdir(path):
        found = [os.path.join(path, inside) for inside in image_names(Path(path))]
    elif os.path.exists(path):
        found = [path]  # whatever its suffix: it was named
    elif glob.has_magic(path):
        found = _matching(path)
    else:
        raise InputError(
            f"There is no image {name}. Several names after --data are images, folders of images "
            "or patterns such as 'photos/*.png'; a data set stands alone."
        )
    if not found:
        raise InputError(f"{name} stands for no image (looked for {', '.join(sorted(SUFFIXES))}).")
    yield from found


def _matching(pattern: str) -> list[str]:
    """The images that match a pattern, sorted; not those among other programs' or our results."""
    found = [Path(file) for file in sorted(glob.glob(pattern, recursive=True)) if _is_image(file)]
    top = Path(f"{re.split(r'[*?[]', pattern)[0]}x").parent
    folders = {file.parent for file in found}
    foreign = {folder for folder in folders if is_foreign(folder, top)}
    return [str(file) for file in found if file.parent not in foreign]


def _whole(name: str) -> str:
    return os.path.expanduser(name)


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES and os.path.isfile(path)
