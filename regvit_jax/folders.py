"""Which files and folders of a folder count?

Not the hidden ones, links that lead nowhere, what other programs leave behind, nor our own results.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from regvit_jax.images import SUFFIXES

RUBBISH = frozenset(
    {"@eadir", "__macosx", "__pycache__", "lost+found", "thumbs.db", "$recycle.bin", "#recycle"}
    | {"system volume information", "@tmp", "#snapshot"}
)
"""What file managers, network drives and archives leave in folders, in small letters."""

_RESULTS = "results.json"
_RUN = ("recipe.json", "steps")
_CHECKPOINT = ("config.json", "params")


def folder_names(folder: Path) -> list[str]:
    """The visible folders in a folder, sorted."""
    return sorted(entry.name for entry in visible(folder) if entry.is_dir())


def image_names(folder: Path) -> list[str]:
    """The images below a folder, as paths relative to it, sorted.

    Links are followed, except to a folder that they lie in themselves.
    """
    return sorted(_image_names(folder, "", ()))


def is_foreign(folder: Path, top: Path) -> bool:
    """Whether a folder, or one above it up to a top one, is rubbish or holds our own results."""
    if folder == top or top not in folder.parents:
        return False
    is_rubbish = folder.name.startswith(".") or folder.name.lower() in RUBBISH
    return is_rubbish or _is_ours(folder) or is_foreign(folder.parent, top)


def _image_names(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above or (above and _is_ours(folder)):
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from _image_names(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
            yield prefix + entry.name


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds results, a training run or a checkpoint of this project."""
    if (folder / _RESULTS).is_file():
        with (folder / _RESULTS).open("rb") as file:
            head = file.read(200)
        return b'"format"' in head and b'"analysis"' in head
    return any(all((folder / name).exists() for name in names) for names in (_RUN, _CHECKPOINT))


def visible(folder: Path) -> Iterator[os.DirEntry]:
    """What counts in a folder, in the disk's order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_dangling = entry.is_symlink() and not os.path.exists(entry)
            is_rubbish = entry.name[0] == "." or entry.name.lower() in RUBBISH
            if not (is_rubbish or is_dangling):
                yield entry
