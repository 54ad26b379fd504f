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
    if list(known) == [UNDIVIDED]:
        return UNDIVIDED
    small = {own.lower(): own for own in known}
    for candidate in candidates:
        if candidate in known or candidate in small:
            return candidate if candidate in known else small[candidate]
    raise InputError(
        f"{where} has no split {' or '.join(map(repr, dict.fromkeys(candidates)))}. It has "
        f"{', '.join(sorted(known)) or 'none'}."
    )
