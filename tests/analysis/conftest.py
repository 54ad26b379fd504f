"""Tiny models, pictures and planted outliers for the tests of the analyses."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from regvit_jax.analysis.cli import main
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.options import LabelOptions
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.checkpoint import CheckpointInfo, flatten, save, unflatten
from regvit_jax.config import ViTConfig
from regvit_jax.data import open_source
from regvit_jax.model import DeiT3, init_params
from regvit_jax.preprocess import Preprocess

TINY = ViTConfig(
    embed_dim=24, depth=3, num_heads=3, patch_size=4, image_size=32, num_classes=5, mlp_ratio=2.0
)
PLANTED_BLOCK = 1


def norm_columns(norms, layout, between=None) -> NormColumns:
    """Norms of every image and layer (n, l, t), as the columns of a pass.

    Args:
      norms: In every layer.
      layout: Of the tokens.
      between: Of the patches between attention and MLP of every block, (n, k, p).
    """
    columns = {f"layer_{index}": norms[:, index] for index in range(norms.shape[1])}
    if between is not None:
        columns |= {f"block_{index}": between[:, index] for index in range(between.shape[1])}
    return NormColumns(Columns(columns), norms.shape[1], layout)


def label_options(outlier_layer="verdict", **others) -> LabelOptions:
    """Options that name a layer, of nothing that is ever opened."""
    nowhere = Path("nowhere")
    return LabelOptions(
        checkpoint=(nowhere,), data="digits", out=nowhere, outlier_layer=outlier_layer, **others
    )


def some_images() -> Images:
    """Images that are never read."""
    return Images(("digits", "val"), open_source("digits", "val"), np.arange(2))


def random_params(config: ViTConfig, seed: int = 0, layer_scale: float = 0.3):
    """Parameters far from their start values: every block matters."""
    params = flatten(init_params(DeiT3(config), jax.random.key(seed)))
    generator = np.random.default_rng(seed)
    for name, value in params.items():
        noise = generator.normal(0, 0.1, value.shape).astype(np.float32)
        is_scale = name.endswith(("ls1", "ls2"))
        start = np.float32(layer_scale) if is_scale else np.asarray(value)
        params[name] = jnp.asarray(start + noise)
    return unflatten(params)


def plant_outliers(config: ViTConfig, params, images, share=0.02, size=10.0, block=PLANTED_BLOCK):
    """Parameters with two MLP units changed, so that a share of the patches gets a huge norm.

    The difference of two steep GELUs is a step: it fires for the patches that lie furthest along
    one direction at this block, and adds a vector `size` times as long as the median token.
    """
    model = DeiT3(config)
    trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, images)
    layout = model.layout(images.shape)
    stream = np.asarray(trace.blocks[block].after_attn)
    flat = {name: np.array(value) for name, value in flatten(params).items()}
    name = f"blocks_{block}"
    mean, variance = stream.mean(-1, keepdims=True), stream.var(-1, keepdims=True)
    normed = (stream - mean) / np.sqrt(variance + 1e-6)
    normed = normed * flat[f"{name}/norm2/scale"] + flat[f"{name}/norm2/bias"]
    direction = np.random.default_rng(7).normal(size=config.embed_dim)
    along = np.asarray(normed @ direction)
    cut = np.quantile(along[:, layout.patches], 1 - share)
    steepness = 400.0 / along.std()
    for unit, shift, sign in ((0, 0.5, 1.0), (1, -0.5, -1.0)):
        flat[f"{name}/mlp/fc1/kernel"][:, unit] = steepness * direction
        flat[f"{name}/mlp/fc1/bias"][unit] = -steepness * cut + shift
        vector = np.zeros(config.embed_dim)
        vector[3] = size * np.median(np.linalg.norm(stream, axis=-1))
        flat[f"{name}/mlp/fc2/kernel"][unit] = sign * vector / flat[f"{name}/ls2"]
    return unflatten({name: jnp.asarray(value) for name, value in flat.items()})


def write_pictures(folder: Path, count: int, size: int = 40, classes=("ant", "bee")) -> Path:
    """Smooth random pictures in class folders."""
    generator = np.random.default_rng(3)
    for i in range(count):
        coarse = generator.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        path = folder / classes[i % len(classes)] / f"picture_{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size + 8, size), Image.Resampling.BICUBIC).save(path)
    return folder


def save_checkpoint(folder: Path, config: ViTConfig, params) -> Path:
    """A checkpoint directory with the preprocessing that belongs to the size."""
    info = CheckpointInfo(
        model=config,
        source={"kind": "test"},
        preprocess=Preprocess.square(config.image_size),
        metrics={"top1": {"value": 0.5, "n": 40, "interval": [0.4, 0.6]}},
    )
    save(folder, params, info)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _compilations_in_a_folder_of_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def tiny_images() -> jax.Array:
    """Normalised pictures with smooth content, (b, h, w, 3), not square."""
    generator = np.random.default_rng(5)
    coarse = jnp.asarray(generator.normal(0, 1.2, (6, 7, 5, 3)), jnp.float32)
    return jax.image.resize(coarse, (6, 32, 24, 3), "cubic")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 200 pictures in two classes."""
    return write_pictures(tmp_path_factory.mktemp("pictures"), 200)


@pytest.fixture(scope="session", params=[0, 4], ids=["0 registers", "4 registers"])
def tiny(request):
    """A tiny model's configuration and parameters."""
    config = dataclasses.replace(TINY, num_registers=request.param)
    return config, random_params(config, seed=request.param)


@pytest.fixture(scope="session")
def traced(tiny, tiny_images):
    """A tiny model's configuration, parameters, trace of the tiny images, and token layout."""
    config, params = tiny
    model = DeiT3(config)
    trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, tiny_images)
    return config, params, trace, model.layout(tiny_images.shape)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, pictures) -> dict[str, Path]:
    """Checkpoints: "plain" (0 registers), "registers" (4), "planted" (0, with outliers)."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = sorted(pictures.rglob("*.png"))[:60]
    pixels = np.stack([Preprocess.square(32).pixels(Image.open(file)) for file in files])
    images = Preprocess.square(32).normalise(jnp.asarray(pixels))
    params = random_params(TINY)
    registers = dataclasses.replace(TINY, num_registers=4)
    return {
        "plain": save_checkpoint(folder / "plain", TINY, params),
        "registers": save_checkpoint(folder / "registers", registers, random_params(registers, 4)),
        "planted": save_checkpoint(folder / "planted", TINY, plant_outliers(TINY, params, images)),
    }


def call(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of `regvit-analyze`, run in this process."""
    patch.setattr(sys, "argv", ["regvit-analyze", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
