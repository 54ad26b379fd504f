"""A recipe small enough to be trained in a test."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from regvit_jax.config import ViTConfig
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.recipe import DataConfig, OptimConfig, Recipe
from regvit_jax.train.step import TrainBatch

TINY_MODEL = ViTConfig(
    embed_dim=24,
    depth=3,
    num_heads=2,
    patch_size=8,
    image_size=32,
    num_classes=10,
    num_registers=4,
    layer_scale_init=0.3,
)


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Several runs of one recipe compile the same step."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Three blocks, 24 wide, on digits of 32 px, 8 at a time."""
    return Recipe(
        model=TINY_MODEL,
        data=DataConfig(data="digits", batch_size=8),
        optim=OptimConfig(optimizer="adamw", learning_rate=1e-3, rate_changes="step"),
        epochs=10 / 2500,  # 10 steps
        loss="cross_entropy",
        log_steps=1,
        save_steps=4,
    )


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return Preprocess.square(32)


@pytest.fixture(scope="session")
def batch() -> TrainBatch:
    """Eight images of noise."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    return TrainBatch(pixels, generator.integers(0, 10, 8).astype(np.int32))


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """Train and val with two classes of four small photographs each."""
    generator = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photographs" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photographs"


def with_changes(recipe: Recipe, **changes) -> Recipe:
    """The recipe with fields of its parts changed, whichever part they belong to."""
    parts = {}
    for name in ("model", "data", "optim"):
        part = getattr(recipe, name)
        fields = {field.name for field in dataclasses.fields(part)}
        parts[name] = dataclasses.replace(part, **{k: v for k, v in changes.items() if k in fields})
    own = {field.name for field in dataclasses.fields(recipe)} - parts.keys()
    own_changes = {k: v for k, v in changes.items() if k in own}
    return dataclasses.replace(recipe, **parts, **own_changes)


@pytest.fixture(scope="session")
def change():
    return with_changes
