"""Photographs to training images: this project's input against torchvision's with a DataLoader.

Decode, random resized crop to 224 px, flip, 3-Augment, colour jitter 0.3, normalise; batches of 50
on all cores. What we compute on the device counts, and on a CPU runs on the same cores.
"""

import functools
import os
import random
import tempfile
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageFilter, ImageOps

from benchmarks.pytorch import MEAN, STD, start_torch
from benchmarks.race import SetUp, Step, race, table

BATCH, SIZE, JITTER = 50, 224, 0.3
IMAGES = 400


# --- torchvision -------------------------------------------------------------------------------


class OneOfThree:
    """DeiT-III's 3-Augment, with Pillow."""

    def __call__(self, image: Image.Image) -> Image.Image:
        kind = random.randrange(3)
        if kind == 0:
            return image.convert("L").convert("RGB")
        if kind == 1:
            return ImageOps.solarize(image)
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class TorchPhotographs:
    """A map-style data set of training images, for torch's DataLoader."""

    def __init__(self, files: list[Path]) -> None:
        from torchvision import transforms

        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    SIZE, interpolation=transforms.InterpolationMode.BICUBIC
                ),
                transforms.RandomHorizontalFlip(),
                OneOfThree(),
                transforms.ColorJitter(JITTER, JITTER, JITTER),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int):
        with Image.open(self.files[index % len(self.files)]) as image:
            return self.transform(image.convert("RGB"))


def torchvision_input(files: list[Path]) -> Step:
    """torchvision, with one worker a core."""
    torch = start_torch()
    loader = torch.utils.data.DataLoader(
        TorchPhotographs(files),
        batch_size=BATCH,
        shuffle=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
        multiprocessing_context="fork",  # a spawned worker cannot import torchvision here
    )

    def step():
        for images in loader:
            assert images.shape == (BATCH, 3, SIZE, SIZE)

    return step


# --- ours --------------------------------------------------------------------------------------


def our_input(files: list[Path], decoder: Literal["pillow", "opencv"]) -> Step:
    """Threads that decode and crop; the rest in one program on as many devices as there are."""
    from regvit_jax.config import VARIANTS
    from regvit_jax.train.cores import claim_cores

    model = VARIANTS["tiny"]
    claim_cores(BATCH, model)
    import jax

    from regvit_jax.image_folder import FolderSource
    from regvit_jax.preprocess import Preprocess
    from regvit_jax.train.augment import augment
    from regvit_jax.train.batches import TrainBatches
    from regvit_jax.train.recipe import DataConfig, Recipe
    from regvit_jax.train.step import shard

    recipe = Recipe(
        model=model,
        data=DataConfig(
            batch_size=BATCH,
            crop="random_resized",
            flip=True,
            three_augment=True,
            colour_jitter=JITTER,
            decoder=decoder,
        ),
    )
    names = tuple(files[i % len(files)].name for i in range(IMAGES))
    source, preprocess = FolderSource(files[0].parent, names, ()), Preprocess.square(SIZE)
    change = jax.pmap(lambda rngs, pixels: preprocess.normalise(augment(rngs, pixels, recipe.data)))
    devices = jax.local_device_count()
    rngs = jax.random.split(jax.random.key(0), (devices, BATCH // devices))

    def step():
        for batch in TrainBatches(source, recipe, preprocess, 0, IMAGES // BATCH):
            images = change(rngs, shard(batch).pixels)
        images.block_until_ready()

    return step


# --- the races ---------------------------------------------------------------------------------


def enlarged(files: list[Path], folder: Path, times: int) -> list[Path]:
    """Copies of photographs with so many times their width and height."""
    for file in files:
        with Image.open(file) as image:
            size = (times * image.width, times * image.height)
            larger = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            larger.save(folder / file.name, quality=90)
    return [folder / file.name for file in files]


def measure(rounds: int, files: list[Path]) -> list[dict[str, Any]]:
    """Runs the races, prints their tables and returns their figures."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        larger = enlarged(files, Path(name), 2)
        for job, chosen in (("as they are", files), ("twice as wide and high", larger)):
            rivals: dict[str, SetUp] = {
                "torchvision, DataLoader": functools.partial(torchvision_input, chosen),
                "ours, pillow": functools.partial(our_input, chosen, "pillow"),
                "ours, opencv": functools.partial(our_input, chosen, "opencv"),
            }
            timings = race(rivals, rounds)
            results += [
                table(f"Input, photographs {job}", IMAGES, timings, ours)
                for ours in ("ours, pillow", "ours, opencv")
            ]
    return results
