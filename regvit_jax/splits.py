"""Which part of a data set do "train" and "val" stand for? Data sets have their own names."""

from collections.abc import Sequence
from pathlib import Path

from regvit_jax.errors import InputError
from regvit_jax.folders import folder_names

ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev", "test"),
}
"""Names for a split, the first that exists is taken."""

UNDIVIDED = "whole"
"""The split of a data set that has no others; it stands for each, as an undivided folder does."""


_USUAL = {name for names in ALIASES.values() for name in names} | {UNDIVIDED, "trainval"}
"""What the whole of a data set without splits may be called."""


def resolve_split(split: str, known: Sequence[str], where: str) -> str:
    """A split in the data set's own words.

    Args:
      split: A name, or names with parts as TFDS writes them: `train[:90%]+val`.
      known: The splits that the data set has.
      where: What error messages call the data set.

    Raises:
      InputError: If there is no such split.
    """
    parts = (part.strip().partition("[") for part in split.split("+"))
    own = (_own_name(name, known, where) + bracket + rest for name, bracket, rest in parts)
    return "+".join(dict.fromkeys(own))  # train+val of an undivided data set is all of it, once


def check_whole(split: str, where: str) -> None:
    """Does nothing if a split can stand for all images, of data that have no parts.

    Args:
      split: As the user says.
      where: What the error calls the data.

    Raises:
      InputError: If it is no usual name of a split, or a part of one.
    """
    if not all(part.strip().lower() in _USUAL for part in split.split("+")):
        raise InputError(
            f"{where} have no parts, so there is no {split!r} of them. Leave out --split to take "
            "all; --num-images takes some."
        )


def split_folders(root: Path, wanted: str | None = None) -> tuple[str, ...]:
    """The folders of a root that are one split each; none where it holds classes or images.

    Args:
      root: A folder; others may lie beside those of the splits if training's and validation's are
        there, otherwise not.
      wanted: A folder of this name is a split, whatever lies beside it.
    """
    folders = folder_names(root)
    known = {name for names in ALIASES.values() for name in names} | {wanted}
    found = tuple(name for name in folders if name in known or name.lower() in known)
    small = {name.lower() for name in found}
    are_both_there = all(set(names) & small for names in ALIASES.values())
    return found if wanted in found or are_both_there or len(found) == len(folders) else ()


def _own_name(name: str, known: Sequence[str], where: str) -> str:
    candidates = (name, *ALIASES.get(name, ()))
    if list(known) == [UNDIVIDED] and name.lower() in _USUAL:
        return UNDIVIDED
    small = {own.lower(): own for own in known}
    for candidate in candidates:
        if candidate in known or candidate in small:
            return candidate if candidate in known else small[candidate]
    raise InputError(
        f"{where} has no split {' or '.join(map(repr, dict.fromkeys(candidates)))}. It has "
        f"{', '.join(sorted(known)) or 'none'}."
    )
