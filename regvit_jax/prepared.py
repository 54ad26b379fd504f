"""Where on this machine is a data set of TensorFlow Datasets? Nothing is ever downloaded."""

import difflib
import os
import re
from pathlib import Path
from typing import NamedTuple

from regvit_jax.errors import InputError
from regvit_jax.folders import folder_names

METADATA = "dataset_info.json"
"""The file that makes a folder a prepared data set."""

_NAME = re.compile(
    r"(?P<name>[A-Za-z]\w*)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?(@(?P<folder>.+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Prepared(NamedTuple):
    """A prepared data set on disk."""

    directory: Path
    config: str
    """Variant of the data set; empty where it has none."""
    version: tuple[int, ...]


def data_directory() -> Path:
    """Where TFDS keeps prepared data sets: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_in(folder: Path) -> list[Prepared]:
    """The versions of a data set, from its folder or from that of one version.

    Folders with variants are known by what TFDS leaves beside them, so that no other folder of
    folders, which may hold a million images, is searched.
    """
    if (folder / METADATA).is_file():
        return [Prepared(folder, "", _version_of(folder))]
    return variants_in(folder) if (folder / ".config").is_dir() else _versions_in(folder)


def variants_in(folder: Path) -> list[Prepared]:
    """The versions of a data set, and of all its variants."""
    variants = [path for path in _folders_in(folder) if not _version_of(path)]
    of_variants = [
        each._replace(config=variant.name) for variant in variants for each in _versions_in(variant)
    ]
    return _versions_in(folder) + of_variants


def find_prepared(data: str) -> Path:
    """The directory of the data set that a name of TFDS stands for, in its newest version.

    Args:
      data: Such as `cifar10`, `voc/2007`, `cifar10:3.0.2` or `cifar10@/data/tfds`.

    Raises:
      InputError: If it is not prepared on this machine, or only in variants to choose from.
    """
    match = _NAME.fullmatch(data)
    if match is None:
        raise InputError(_unknown(data, data, data_directory()))
    name, config, version = match["name"], match["config"], match["version"]
    root = Path(match["folder"]).expanduser() if match["folder"] else data_directory()
    found = [
        each
        for each in variants_in(root / name)
        if config in (None, each.config) and version in (None, each.directory.name)
    ]
    if not found:
        raise InputError(_unknown(data, name, root))
    return newest(found, data)


def newest(found: list[Prepared], data: str) -> Path:
    """The directory of the newest version.

    Raises:
      InputError: If there are variants to choose from.
    """
    configs = sorted({each.config for each in found})
    if len(configs) > 1:
        raise InputError(
            f"{data} is prepared in the variants {', '.join(configs)}. Choose one: "
            f"{data}/{configs[0]}."
        )
    return max(found, key=lambda each: each.version).directory


def _versions_in(folder: Path) -> list[Prepared]:
    """Folders named by a version; what TFDS was stopped from finishing has another name."""
    return [
        Prepared(path, "", _version_of(path))
        for path in _folders_in(folder)
        if _version_of(path) and (path / METADATA).is_file()
    ]


def _version_of(directory: Path) -> tuple[int, ...]:
    is_version = _VERSION.fullmatch(directory.name)
    return tuple(int(part) for part in directory.name.split(".")) if is_version else ()


def _folders_in(folder: Path) -> list[Path]:
    return [folder / name for name in folder_names(folder)] if folder.is_dir() else []


def _unknown(data: str, name: str, root: Path) -> str:
    """What is wrong with a name, what is there, and how to get the rest."""
    there = _names_in(root)
    near = difflib.get_close_matches(name, [*there, *_names_of_tfds(), "digits", "cues"], n=3)
    prepared = f"those prepared are {', '.join(there)}" if there else "none is prepared there"
    sentences = [
        f"There is no folder {data}, and no data set of that name prepared in {root} ({prepared}).",
        'Expected "digits", "cues", a folder of images or of class folders, or a prepared data set '
        "of TensorFlow Datasets.",
    ]
    if near and name not in near:
        sentences.append(f"Did you mean {' or '.join(near)}?")
    target = data.partition("@")[0] if name in _names_of_tfds() else near[0] if near else "NAME"
    sentences.append(
        f"To prepare one (downloads; needs TensorFlow): tfds build {target} "
        f"--file_format=array_record --data_dir={root}"
    )
    return " ".join(sentences)


def _names_in(root: Path) -> list[str]:
    """The data sets prepared below a folder, with their variants."""
    names = (
        "/".join(filter(None, (folder.name, each.config)))
        for folder in _folders_in(root)
        if folder.name != "downloads"
        for each in variants_in(folder)
    )
    return list(dict.fromkeys(names))


def _names_of_tfds() -> list[str]:
    """All data sets that TFDS can prepare; none where it is not installed."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        return []
    return tfds.list_builders(with_community_datasets=False)
