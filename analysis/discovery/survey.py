"""What is in each image? Sizes and objects, read before any network runs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from regvit_jax.analysis.stopping import check
from regvit_jax.batches import SKIP_ADVICE
from regvit_jax.errors import InputError
from regvit_jax.image_folder import FolderSource
from regvit_jax.images import read_size
from regvit_jax.source import NO_BOXES, Source
from regvit_jax.voc import VocSource

_NAMED = 20  # of many bad files, an error names so many


class Facts(NamedTuple):
    """An upright image's size and objects."""

    width: int
    height: int
    boxes: Float[np.ndarray, "m 4"]
    """Objects, half-open, in pixels of the file."""
    is_hard: Bool[np.ndarray, " m"]
    """Which are flagged as truncated or difficult; none where there are no flags."""


class Survey(NamedTuple):
    """The images of a data set that can be analysed."""

    indices: Int[np.ndarray, " n"]
    facts: dict[int, Facts]
    """By index."""
    skipped: list[str]
    """Messages of the images that were left out."""

    @property
    def has_objects(self) -> bool:
        """Whether any image has an object; if not, the data are not annotated."""
        return any(len(facts.boxes) for facts in self.facts.values())


def survey(source: Source, indices: Int[np.ndarray, " n"], skip_unreadable: bool) -> Survey:
    """Sizes and objects of the chosen images.

    Args:
      source: Where the images come from.
      indices: Which of them.
      skip_unreadable: Leave out those whose head or annotation cannot be read.

    Raises:
      InputError: If some cannot be read and are not to be left out, or if none can; names them.
    """
    with ThreadPoolExecutor(thread_name_prefix="survey") as pool:
        found = []
        try:
            for fact in pool.map(lambda index: _read(source, int(index)), indices):
                check()
                found.append(fact)
        finally:
            pool.shutdown(cancel_futures=True)
    facts = {
        int(index): fact
        for index, fact in zip(indices, found, strict=True)
        if isinstance(fact, Facts)
    }
    problems = [str(fact) for fact in found if isinstance(fact, InputError)]
    if problems and not (skip_unreadable and facts):
        raise InputError(_described(problems, len(indices), skip_unreadable))
    return Survey(np.array(sorted(facts), int), facts, problems)


def _read(source: Source, index: int) -> Facts | InputError:
    """What is known of an image, or why it cannot be read."""
    try:
        if isinstance(source, VocSource):  # nothing is decoded
            found = source.annotation(index)
            size = read_size(source.path(index))
            return Facts(*size, found.boxes, found.is_truncated | found.is_difficult)
        if isinstance(source, FolderSource):
            size = read_size(source.root / source.file_names[index])
            return Facts(*size, NO_BOXES, np.zeros(0, bool))
        sample = source[index]
    except InputError as error:
        return error
    is_hard = np.zeros(len(sample.boxes), bool)
    for flags in (sample.is_truncated, sample.is_difficult):
        is_hard |= False if flags is None else flags
    return Facts(*sample.image.size, sample.boxes, is_hard)


def _described(problems: Sequence[str], total: int, skip_unreadable: bool) -> str:
    shown = "\n".join(f"  {problem}" for problem in problems[:_NAMED])
    more = f"\n  ... and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    cure = "" if skip_unreadable else f"\n{SKIP_ADVICE}"
    return f"{len(problems)} of {total} images cannot be read:\n{shown}{more}{cure}"
