"""Which images does a command's `--data` name?"""

from pathlib import Path

from regvit_jax.errors import InputError
from regvit_jax.image_files import are_several, open_files
from regvit_jax.image_folder import FolderSource
from regvit_jax.prepared import find_prepared, newest, prepared_in
from regvit_jax.source import Source
from regvit_jax.splits import check_whole, resolve_split, split_folders
from regvit_jax.voc import VocSource, voc_year

EMBEDDED = ("digits", "cues")
"""Data sets that are drawn here; a file or folder of such a name goes before them."""


def is_embedded(data: str) -> bool:
    """Whether a command's `--data` names an embedded data set."""
    return data in EMBEDDED and not Path(data).exists()


def open_source(data: str, split: str = "val") -> Source:
    """The images that a command's `--data` names.

    Args:
      data: "digits" or "cues" for an embedded data set (`regvit_jax.digits`, `regvit_jax.cues`); a
        folder of images, of class folders, or with a folder for each split; the folder or the name
        of a data set that TensorFlow Datasets prepared (`regvit_jax.prepared`); or images
        (`regvit_jax.image_files`).
      split: "train", "val", or another that the data set has.

    Raises:
      InputError: If there are no images there.
    """
    if not data.strip():
        raise InputError("Nothing is named after --data. Is a variable of your shell empty?")
    if are_several(data):
        check_whole(split, "Images that are named")
        return open_files(data)
    root = Path(data).expanduser()
    if is_embedded(data):
        return _open_embedded(data, split)
    if root.is_dir():
        return _open_folder(root, split)
    if root.is_file():
        check_whole(split, "Images that are named")
        return open_files(data)
    if "://" in data:
        raise InputError(f"{data} is an address. Fetch it, unpack it and name the folder.")
    if root.exists() or data.startswith((".", "/", "~")) or "\\" in data:
        raise InputError(f"There is no folder {data}. Expected images, or one folder a class.")
    from regvit_jax.records import RecordSource

    return RecordSource.open(find_prepared(data), split, data)


def _open_embedded(data: str, split: str) -> Source:
    """Drawn on demand; only what is asked for is imported."""
    if data == "cues":
        from regvit_jax.cues import CuesSource

        return CuesSource.open(split)
    from regvit_jax.digits import DigitsSource

    return DigitsSource.open(split)


def _open_folder(root: Path, split: str) -> Source:
    """What a folder holds: a prepared data set, a folder for each split, or images."""
    if prepared := prepared_in(root):
        from regvit_jax.records import RecordSource

        return RecordSource.open(newest(prepared, str(root)), split, str(root))
    if voc_year(root):
        return VocSource.open(root, split)
    if splits := split_folders(root, split):
        root = root / resolve_split(split, splits, str(root))
    else:
        check_whole(split, f"The images in {root}")
    return FolderSource.open(root)
