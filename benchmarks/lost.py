"""LOST without and with the network: this project against plain PyTorch.

Feature maps of 384 channels, float32, and photographs through DeiT-III Small with 4
registers at 224 px. SciPy's connected components run on the CPU in either case, as is usual.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference import REGISTERS, our_model
from benchmarks.pytorch import MEAN, STD, start_torch, timm_model, torch_device
from benchmarks.race import OURS, SetUp, Step, race, table

DIM = 384
MAPS = {(14, 14): 64, (28, 37): 8, (60, 60): 2}
"""Grids, and how many feature maps of each make a step."""
NUM_LONELY, NUM_PHOTOGRAPHS = 100, 64


def feature_maps(grid: tuple[int, int], count: int) -> np.ndarray:
    """Smooth random features, as a network's are, (count, patches, DIM)."""
    import scipy.ndimage

    generator = np.random.default_rng(0)
    values = generator.normal(size=(count, *grid, DIM))
    values = scipy.ndimage.gaussian_filter(values, (0, 2, 2, 0))
    values = values / values.std() + 0.3 * generator.normal(size=(count, 1, 1, DIM))
    return values.reshape(count, -1, DIM).astype(np.float32)


# --- PyTorch -----------------------------------------------------------------------------------


def torch_lost(features, grid: tuple[int, int]) -> list[int]:
    """The published algorithm on one image, plainly: the Gram matrix, then scipy's components."""
    import scipy.ndimage
    import torch

    gram = features @ features.T
    links = gram.clone()
    links.fill_diagonal_(0)
    links[links < 0] = 0
    order = torch.argsort((links > 0).sum(dim=1), stable=True)
    seed, lonely = order[0], order[:NUM_LONELY]
    similar = lonely[gram[seed, lonely] > 0]
    mask = (gram[similar].sum(dim=0) > 0).reshape(grid).cpu().numpy()
    pieces, _ = scipy.ndimage.label(mask)
    row, col = divmod(int(seed), grid[1])
    rows, cols = np.where(pieces == pieces[row, col])
    return [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]


def torch_maps(grid: tuple[int, int], count: int) -> Step:
    """One map after the other."""
    maps = start_torch().from_numpy(feature_maps(grid, count)).to(torch_device())
    return lambda: [torch_lost(features, grid) for features in maps]


def torch_photographs(files: list[Path]) -> Step:
    """A loop like the study's: each photograph is opened twice and runs through the network twice.

    The second pass is for values of the last block, with gradients switched on.
    """
    torch, model = timm_model(REGISTERS)
    from PIL import Image
    from torchvision import transforms

    prepare = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    found: list = []
    model.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, out: found.append(out))

    def read(path: Path):
        with Image.open(path) as image:
            return prepare(image.convert("RGB"))[None].to(torch_device())

    def one(path: Path):
        with torch.inference_mode():
            model(read(path))
        found.clear()
        model(read(path))
        values = found[0][0, 1 + REGISTERS :, -DIM:].detach()
        values = torch.nn.functional.normalize(values - values.mean(dim=0, keepdim=True), dim=1)
        return torch_lost(values, (14, 14))

    return lambda: [one(path) for path in files]


# --- ours --------------------------------------------------------------------------------------


def our_maps(grid: tuple[int, int], count: int) -> Step:
    """All maps in one call."""
    import jax

    from regvit_jax.analysis.discovery.lost import lost

    maps = jax.numpy.asarray(feature_maps(grid, count))
    return lambda: lost(maps, grid).boxes.block_until_ready()


def our_photographs(files: list[Path]) -> Step:
    """The loop that `regvit-analyze lost --protocol study` runs."""
    from regvit_jax.analysis.engine.extract import Extractor
    from regvit_jax.analysis.engine.subjects import Images
    from regvit_jax.analysis.questions.lost.boxes import kept_boxes
    from regvit_jax.analysis.questions.lost.rules import PRESETS, Setting
    from regvit_jax.batches import Batches
    from regvit_jax.image_folder import FolderSource
    from regvit_jax.preprocess import STUDY_PREPROCESS

    model, params = our_model()
    source = FolderSource(files[0].parent, tuple(path.name for path in files), ())
    batches = Batches(source, STUDY_PREPROCESS["lost"], 32)
    setting = Setting("value", model.config.depth - 1, 0.05)
    images = Images((str(files[0].parent), "val"), source, np.arange(len(source)))
    rules = PRESETS["study"]
    keep = kept_boxes(images, batches.preprocess, [setting], rules.centre_features, NUM_LONELY)
    extractor = Extractor(model, params, batches.preprocess, 32, keep.reduce)
    return lambda: np.concatenate([rows["boxes"] for _, rows in extractor(batches)])


def measure(rounds: int, files: list[Path]) -> list[dict[str, Any]]:
    """Runs the races, prints their tables and returns their figures."""
    results = []
    for grid, count in MAPS.items():
        rivals: dict[str, SetUp] = {
            "PyTorch": functools.partial(torch_maps, grid, count),
            OURS: functools.partial(our_maps, grid, count),
        }
        job = f"LOST without the network, {grid[0]} x {grid[1]} patches"
        results.append(table(job, count, race(rivals, rounds), OURS))
    chosen = files[:NUM_PHOTOGRAPHS]
    loops: dict[str, SetUp] = {
        "PyTorch, study's loop": functools.partial(torch_photographs, chosen),
        OURS: functools.partial(our_photographs, chosen),
    }
    results.append(table("LOST of JPEG files, 224 px", len(chosen), race(loops, rounds), OURS))
    return results
