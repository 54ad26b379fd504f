"""Which images does a step train on, and who reads them meanwhile?"""

import collections
import functools
import os
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8

from regvit_jax.data import Source, open_source
from regvit_jax.digits import DigitsSource
from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess
from train.augment import generator_of, random_resized_crop
from train.recipe import Recipe
from train.step import TrainBatch

BATCHES_AHEAD = 2


def open_splits(data: str) -> tuple[Source, Source]:
    """The training and the validation images.

    Raises:
      InputError: If a split is missing, has no classes, or their classes differ.
    """
    train, val = open_source(data, "train"), open_source(data, "val")
    if not isinstance(train, DigitsSource) and train.name == val.name:
        raise InputError(
            f"{data} has no folders train and val. Expected both, each with one folder a class."
        )
    for source in (train, val):
        if not source.class_names:
            raise InputError(
                f"The images in {source.name} are not in class folders. Expected one a class."
            )
    if train.class_names != val.class_names:
        first, second = set(train.class_names), set(val.class_names)
        raise InputError(
            f"The class folders of {train.name} and {val.name} differ: only the first has "
            f"{sorted(first - second)}, only the second {sorted(second - first)}. Every class "
            "needs a folder in both."
        )
    return train, val


def batch_indices(
    seed: int, num_images: int, batch_size: int, step: int
) -> tuple[int, Int[np.ndarray, " b"]]:
    """The epoch of a step, counted from 0, and the images of its batch: a function of the step.

    Every epoch has its own order, and leaves out what does not fill a batch.
    """
    epoch, place = divmod(step, num_images // batch_size)
    order = _order(seed, epoch, num_images)
    return epoch, order[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)  # of this epoch and, reading ahead, the next
def _order(seed: int, epoch: int, num_images: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


def train_batches(
    source: Source, recipe: Recipe, preprocess: Preprocess, first_step: int, last_step: int
) -> Generator[TrainBatch]:
    """The batches of steps first_step .. last_step - 1, read by threads ahead of the loop."""
    ahead: collections.deque[list[Future]] = collections.deque()
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="train-data") as pool:
        try:
            for step in range(first_step, last_step):
                epoch, indices = batch_indices(
                    recipe.seed, len(source), recipe.data.batch_size, step
                )
                ahead.append(
                    [pool.submit(_read, source, recipe, preprocess, epoch, int(i)) for i in indices]
                )
                if len(ahead) > BATCHES_AHEAD:
                    yield _stack(ahead.popleft())
            while ahead:
                yield _stack(ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(
    source: Source, recipe: Recipe, preprocess: Preprocess, epoch: int, index: int
) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Pixels and label of one image in one epoch; embedded scenes are drawn anew in each."""
    if isinstance(source, DigitsSource):
        sample = source.sample(index, epoch)
    else:
        sample = source[index]
    if recipe.data.min_crop_area == 1.0:
        return preprocess.pixels(sample.image), sample.label
    generator = generator_of(recipe.seed, epoch, index)
    size, min_area = recipe.model.image_size, recipe.data.min_crop_area
    return random_resized_crop(sample.image, size, min_area, generator), sample.label


def _stack(futures: list[Future]) -> TrainBatch:
    pixels, labels = zip(*(future.result() for future in futures), strict=True)
    return TrainBatch(np.stack(pixels), np.array(labels, np.int32))
