"""Which images does a step train on, and who reads them meanwhile?"""

import functools
import itertools
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from regvit_jax.batches import process_slice
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import why_no_classes
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import EncodedSource, RedrawnSource, Source, check_same_classes
from regvit_jax.threads import run_ahead
from regvit_jax.train.crops import Crop, cut, generator_of, random_resized_crop, simple_random_crop
from regvit_jax.train.decoding import check_decoder, decode_crop
from regvit_jax.train.recipe import DataConfig, Recipe
from regvit_jax.train.step import TrainBatch
from regvit_jax.train.token_labels import token_targets

BATCHES_AHEAD = 2
REPLACE_ADVICE = "To train on other images in the place of such: --skip-unreadable."


def open_splits(data: str) -> tuple[Source, Source]:
    """The training and the validation images.

    Raises:
      InputError: If a split is missing, has no classes, or their classes differ.
    """
    train, val = open_source(data, "train"), open_source(data, "val")
    if train.name == val.name:
        raise InputError(
            f"{data} has no folders train and val. Expected both, each with one folder a class."
        )
    for source in (train, val):
        if not source.class_names:
            raise InputError(
                f"The images in {source.name} are not in class folders. Expected one a class. "
                + why_no_classes(source)
            )
    check_same_classes(train, val)
    return train, val


class Data(NamedTuple):
    """What a run learns from and is measured on."""

    train: Source
    val: Source
    preprocess: Preprocess


class BatchPlan(NamedTuple):
    """What one step trains on; partners for mixup and cutmix lie next to one another."""

    epoch: int
    """Counted from 0."""
    places: Int[np.ndarray, " b"]
    """Place of each image in the epoch; a repeated image has several."""
    indices: Int[np.ndarray, " b"]
    """Index of each image in the source."""


def plan_batch(seed: int, data: DataConfig, num_images: int, step: int) -> BatchPlan:
    """The images of a step: a function of its number, so that resuming needs no state.

    Every epoch has its own order, in which each image comes `repeats` times in a row, and leaves
    out what does not fill a batch or comes after as many entries as there are images.

    Args:
      seed: Of the run.
      data: Has the batch size, the repeats and the groups for mixing.
      num_images: In the source.
      step: Counted from 0.

    Reference: `samplers.py` of facebookresearch/deit, whose length is rounded to 256.
    """
    epoch, batch = divmod(step, num_images // data.batch_size)
    places = batch * data.batch_size + np.arange(data.batch_size)
    if data.is_mixed:
        places = places[pair_order(data.batch_size, data.group_size)]
    return BatchPlan(epoch, places, _order(seed, epoch, num_images)[places // data.repeats])


@functools.lru_cache(maxsize=2)
def pair_order(batch_size: int, group_size: int) -> Int[np.ndarray, " b"]:
    """Places in a batch, group by group and partner beside partner.

    The groups are those of as many processes of a published run, of which each takes every n-th
    image; within a group of g, image i is mixed with image g - 1 - i.
    """
    groups = np.arange(batch_size).reshape(group_size, batch_size // group_size).T
    first, last = groups[:, : group_size // 2], groups[:, ::-1][:, : group_size // 2]
    return np.stack([first, last], axis=-1).reshape(batch_size)


@functools.lru_cache(maxsize=2)  # of this epoch and, reading ahead, the next
def _order(seed: int, epoch: int, num_images: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


class TrainBatches:
    """The batches of steps first_step .. last_step - 1, read by threads ahead of the loop.

    Args:
      source: Training images.
      recipe: Says how they are ordered, cropped and decoded.
      preprocess: What evaluation does with an image.
      first_step: Counted from 0.
      last_step: The one after the last.
      process_index: Of this host.
      process_count: Hosts that share each batch; this one reads its block of neighbours.
      workers: Threads; one per core unless given.

    Raises:
      InputError: If the decoder is not installed; while reading, if an image cannot be read.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        preprocess: Preprocess,
        first_step: int,
        last_step: int,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
    ) -> None:
        check_decoder(recipe.data.decoder)
        self.source, self.recipe, self.preprocess = source, recipe, preprocess
        self.steps = range(first_step, last_step)
        self.process = (process_index, process_count)
        self.waited_seconds = 0.0
        """Time that the loop has spent waiting for images so far."""
        self.unreadable: set[str] = set()
        """Messages of the images that were replaced by others so far."""
        self._size = recipe.data.batch_size // process_count
        ahead = BATCHES_AHEAD * self._size + self._size
        self._futures = run_ahead(self._read, self._places(), ahead, workers)
        self._batches = self._collect()

    def __iter__(self) -> Iterator[TrainBatch]:
        return self

    def __next__(self) -> TrainBatch:
        start = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.waited_seconds += time.perf_counter() - start

    def close(self) -> None:
        """Lets the threads end."""
        self._batches.close()
        self._futures.close()

    def _collect(self) -> Generator[TrainBatch]:
        for _ in self.steps:
            rows: list[Future] = list(itertools.islice(self._futures, self._size))
            pixels, labels, tokens = zip(*(row.result() for row in rows), strict=True)
            targets = None if tokens[0] is None else np.stack(tokens)
            # All images of a batch were written into one array.
            yield TrainBatch(pixels[0], np.array(labels, np.int32), targets)

    def _places(self) -> Iterator["_Place"]:
        """What each call of `_read` is about, batch by batch."""
        size = self.recipe.model.image_size
        source, epoch = self.source, -1
        for step in self.steps:
            plan = plan_batch(self.recipe.seed, self.recipe.data, len(self.source), step)
            pixels = np.empty((self._size, size, size, 3), np.uint8)
            if plan.epoch != epoch and isinstance(self.source, RedrawnSource):
                # Once an epoch: a source makes the names of all its images when asked for one.
                source, epoch = self.source.at_epoch(plan.epoch), plan.epoch
            places, indices = (process_slice(x, *self.process) for x in plan[1:])
            for row, (place, index) in enumerate(zip(places, indices, strict=True)):
                yield _Place(source, plan.epoch, int(place), int(index), pixels, row)

    def _read(self, place: "_Place") -> "Cropped":
        """Writes one image into its row; returns the whole array, and what the image is."""
        count = len(place.source)
        for index in range(place.image, place.image + count):
            try:
                generator = generator_of(self.recipe.seed, place.epoch, place.place)
                found = read_crop(
                    place.source, index % count, self.recipe, self.preprocess, generator
                )
            except InputError as error:
                if not self.recipe.data.skip_unreadable:
                    raise InputError(f"{error} {REPLACE_ADVICE}") from None
                self.unreadable.add(str(error))
            else:
                place.pixels[place.row] = found.pixels
                return found._replace(pixels=place.pixels)
        raise InputError(f"None of the {count} images of {self.source.name} can be read.")


class _Place(NamedTuple):
    """One image of one batch."""

    source: Source
    epoch: int
    place: int
    image: int
    pixels: UInt8[np.ndarray, "b h w 3"]
    row: int


class Cropped(NamedTuple):
    """What training reads of one image."""

    pixels: UInt8[np.ndarray, "*b h w 3"]
    label: int
    tokens: np.ndarray | None = None
    """Targets of the patches, (n,) or (n, k), if the recipe has a token loss."""


def read_crop(
    source: Source,
    index: int,
    recipe: Recipe,
    preprocess: Preprocess,
    generator: np.random.Generator,
) -> Cropped:
    """One image, cropped as the recipe says.

    Args:
      source: Where the image comes from.
      index: Which one.
      recipe: Has the size, the crop and the decoder.
      preprocess: Cropping for evaluation.
      generator: Decides on the crop.

    Raises:
      InputError: If the image cannot be read.
    """
    data, size = recipe.data, recipe.model.image_size
    if data.crop == "evaluation":
        sample = source[index]
        pixels = preprocess.pixels(sample.image)
        if not recipe.token_loss:
            return Cropped(pixels, sample.label)
        tokens = token_targets(sample, recipe, source.file_names[index])
        return Cropped(pixels, sample.label, tokens)

    choose = functools.partial(choose_crop, recipe=recipe, generator=generator)
    if isinstance(source, EncodedSource):
        encoded = source.encoded(index)
        return Cropped(decode_crop(encoded, choose, size, data.decoder), encoded.label)
    sample = source[index]
    return Cropped(cut(sample.image, choose(*sample.image.size), size), sample.label)


def choose_crop(width: int, height: int, recipe: Recipe, generator: np.random.Generator) -> Crop:
    """The crop of one image, as the recipe says.

    Args:
      width: Of the image.
      height: Of the image.
      recipe: Has the size and the kind of crop.
      generator: Decides where.
    """
    size = recipe.model.image_size
    if recipe.data.crop == "simple":
        return simple_random_crop(width, height, size, generator)
    return random_resized_crop(width, height, size, recipe.data.min_crop_area, generator)
