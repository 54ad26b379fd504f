"""How often is a model right, and how sure is that?"""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from regvit_jax import checkpoint
from regvit_jax.batches import Batches
from regvit_jax.checkpoint import Params
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import why_no_classes
from regvit_jax.interrupt import StopRequest
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from regvit_jax.shares import Share, wilson
from regvit_jax.source import Source
from regvit_jax.train.hosts import total
from regvit_jax.train.step import TrainBatch, make_rank_step

IMAGES_AT_ONCE = 64
BY_NAME = "matched by name"


class Accuracy(NamedTuple):
    """Top-1 and top-5 accuracy; with five classes or fewer, every answer is in the top 5."""

    top1: Share
    top5: Share
    unreadable: int = 0
    """Images that could not be read and are not counted."""

    def to_json(self) -> dict[str, Any]:
        """Both shares with interval and n, by name, and how many images are not counted."""
        return {
            "top1": self.top1._asdict(),
            "top5": self.top5._asdict(),
            "unreadable_images": self.unreadable,
        }


def evaluate(
    model: DeiT3,
    params: Params,
    source: Source,
    preprocess: Preprocess,
    skip_unreadable: bool = False,
    stop: StopRequest | None = None,
) -> Accuracy:
    """Accuracy over all images of a source, none counted twice.

    Of several processes, each takes its share of the images.

    Args:
      model: The network.
      params: Its parameters.
      source: Images with labels.
      preprocess: What becomes of each image.
      skip_unreadable: Leave out images that cannot be read, instead of stopping.
      stop: Ends a single process's evaluation early.

    Raises:
      InputError: If an image cannot be read, or, where such are left out, if none can.
      Interrupted: If it was ended early.
    """
    ranks_of = make_rank_step(model, preprocess)
    devices = jax.local_device_count()
    batch_size = -(-IMAGES_AT_ONCE // devices) * devices
    mine = np.arange(jax.process_index(), len(source), jax.process_count())
    batches = Batches(source, preprocess, batch_size, mine, skip_unreadable=skip_unreadable)
    counts = np.zeros(3, np.int64)
    for batch in batches:
        found = ranks_of(params, TrainBatch(batch.pixels, batch.labels.astype(np.int32)))
        ranks = np.asarray(found)[batch.is_real]
        counts += [(ranks < 1).sum(), (ranks < 5).sum(), len(ranks)]
        if stop is not None and jax.process_count() == 1:
            stop.check()
    skipped = len(batches.skipped)
    top1, top5, n, unreadable = (int(count) for count in total(np.append(counts, skipped)))
    if not n:
        raise InputError(f"None of the {len(source)} images of {source.name} can be read.")
    return Accuracy(wilson(top1, n), wilson(top5, n), unreadable)


def evaluate_checkpoint(
    directory: Path, data: str, split: str, skip_unreadable: bool = False
) -> dict[str, Any]:
    """The accuracy of a checkpoint on one split, as `regvit-train eval` writes it.

    Args:
      directory: Of the checkpoint.
      data: What `open_source` takes.
      split: Of the data.
      skip_unreadable: Leave out images that cannot be read, instead of stopping.

    Raises:
      InputError: If the checkpoint or the data cannot be read, or their classes differ.
    """
    info, source = checkpoint.read_info(directory), open_source(data, split)
    check_classes(info, source)
    model, params = checkpoint.load(directory)
    accuracy = evaluate(model, params, source, info.preprocess, skip_unreadable)
    return {
        "checkpoint": str(directory),
        "data": source.name,
        "classes": BY_NAME if info.class_names else _by_order(source.class_names),
        **accuracy.to_json(),
    }


def check_classes(info: checkpoint.CheckpointInfo, source: Source) -> None:
    """Raises unless the head's outputs can stand for the source's classes, in the same order.

    Raises:
      InputError: If they cannot.
    """
    if not source.class_names:
        raise InputError(
            f"The images in {source.name} are in no class folders; nothing to measure. "
            + why_no_classes(source)
        )
    if not info.model.num_classes:
        raise InputError(
            "The checkpoint has no head that names a class, only features; there is no accuracy to "
            "measure. `regvit-analyze probe` tells how well its tokens predict the class."
        )
    if info.class_names and not same_names(info.class_names, source.class_names):
        raise InputError(
            f"The checkpoint knows the classes {_some(info.class_names)}, {source.name} has "
            f"{_some(source.class_names)}. Evaluate it on the classes that it was trained for."
        )
    if info.model.num_classes != len(source.class_names):
        raise InputError(
            f"The checkpoint has {info.model.num_classes} classes, {source.name} has "
            f"{len(source.class_names)}: there is no telling which output means which folder."
        )


def same_names(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether classes are called the same, in whichever form Unicode writes an accent."""
    one, other = (
        [unicodedata.normalize("NFC", name) for name in names] for names in (first, second)
    )
    return one == other


def _by_order(names: tuple[str, ...]) -> str:
    first = ", ".join(f"{i} = {name}" for i, name in enumerate(names[:3]))
    return (
        "matched by order, since the checkpoint names none: output "
        f"{first}{', ...' if len(names) > 3 else ''}"
    )


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} ({len(names)})"
