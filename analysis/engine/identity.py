"""Are these the same weights and the same images? Told by content, never by a path or a time.

A checkpoint is known by its configuration and the checksums of its arrays, images by their names,
sizes and pieces of their files. Results that rest on the same ones are kept, wherever the files
were moved or copied to.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regvit_jax.arrays import ARRAYS_FOLDER, CHECKSUMS_FILE
from regvit_jax.checkpoint import CONFIG_FILE, resolve
from regvit_jax.data import is_embedded, open_source
from regvit_jax.image_folder import FolderSource
from regvit_jax.prepared import find_prepared
from regvit_jax.source import Source
from regvit_jax.voc import ANNOTATIONS, VocSource

PATHS = {"checkpoint": "weights", "data": "images"}
"""Options that name a place, and what stands in a configuration for what lies there."""
_PIECE = 16 * 2**10
_LETTERS = 16


def weights_of(checkpoint: Path) -> str:
    """A checksum of a checkpoint directory, or of a run's newest one: its configuration and arrays.

    Raises:
      InputError: If it is no checkpoint.
    """
    path = resolve(checkpoint)
    known = hashlib.sha256((path / CONFIG_FILE).read_bytes())
    checksums = path / CHECKSUMS_FILE
    if checksums.is_file():
        known.update(checksums.read_bytes())
    else:  # of a version that wrote none
        arrays = path / ARRAYS_FOLDER
        for file in sorted(each for each in arrays.rglob("*") if each.is_file()):
            known.update(os.fsencode(file.relative_to(arrays)) + b"\0")
            known.update(zlib.crc32(file.read_bytes()).to_bytes(4, "big"))
    return known.hexdigest()[:_LETTERS]


def images_of(data: str, split: str, count: int, seed: int) -> str:
    """A checksum of the images that a command draws from a part of the data.

    Args:
      data: As for `open_source`.
      split: The part.
      count: How many images; 0 is all.
      seed: Of the choice.

    Raises:
      InputError: If there are none.
    """
    from regvit_jax.analysis.engine.subjects import some_of

    source = open_source(data, split)
    known = hashlib.sha256()
    known.update(f"{len(source)} {source.class_names!r}\n".encode(errors="surrogateescape"))
    for file in _files(data, source, some_of(np.arange(len(source)), count, seed).tolist()):
        known.update(_piece(*file))
    return known.hexdigest()[:_LETTERS]


def binding(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the paths whose content it knows."""
    known = {path for path, content in PATHS.items() if content in configuration}
    return {name: value for name, value in configuration.items() if name not in known}


def _files(data: str, source: Source, indices: Sequence[int]) -> Iterator[tuple[str, Path]]:
    """The files behind some images, each under a name that does not say where the data lie."""
    if isinstance(source, FolderSource | VocSource):
        for index in indices:
            name = source.file_names[index]
            if isinstance(source, FolderSource):
                yield name, source.root / name
                continue
            yield name, source.path(index)
            note = (source.root / ANNOTATIONS / name).with_suffix(".xml")
            if note.is_file():
                yield note.name, note
    elif not is_embedded(data):
        root = Path(data).expanduser()
        for file in sorted((root if root.is_dir() else find_prepared(data)).rglob("*")):
            if file.is_file():
                yield file.name, file


def _piece(name: str, path: Path) -> bytes:
    """Name, size, start, middle and end; a file that is gone is named later, by who reads it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            crc = 0
            for start in sorted({0, max(0, (size - _PIECE) // 2), max(0, size - _PIECE)}):
                file.seek(start)
                crc = zlib.crc32(file.read(_PIECE), crc)
    except OSError:
        size, crc = -1, 0
    return os.fsencode(name) + f"\0{size} {crc}\n".encode()
