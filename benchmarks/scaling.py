"""What do registers, pixels, images and devices cost? This project against itself.

Inference of DeiT-III Small, float32, batch 8, against the number of registers and the image's side;
norms of 250 to 1,000 embedded images with the demo's model; a training step of the demo's model on
1 and 2 virtual devices of a CPU.
"""

import functools
import os
from typing import Any

import numpy as np

from benchmarks.machine import device
from benchmarks.race import SetUp, Step, race, table
from regvit_jax.train.presets import DEMO

BATCH, NUM_STEPS = 8, 10


def inference(num_registers: int = 4, size: int = 224) -> Step:
    """Logits of a batch."""
    import jax

    from regvit_jax import DeiT3, ViTConfig
    from regvit_jax.model import init_params
    from regvit_jax.preprocess import Preprocess

    model = DeiT3(ViTConfig(num_registers=num_registers))
    params = init_params(model, jax.random.key(0))
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    images = Preprocess().normalise(pixels)
    forward = jax.jit(lambda params, images: model.apply({"params": params}, images))
    return lambda: forward(params, images).block_until_ready()


def norms(num_images: int) -> Step:
    """Norms of all tokens of embedded images, as `regvit-analyze norms` extracts them."""
    import jax

    from regvit_jax import DeiT3
    from regvit_jax.analysis.engine.extract import Extractor
    from regvit_jax.analysis.outliers.streams import token_norms
    from regvit_jax.batches import Batches
    from regvit_jax.data import open_source
    from regvit_jax.model import init_params
    from regvit_jax.preprocess import Preprocess

    model = DeiT3(DEMO.model)
    params = init_params(model, jax.random.key(0))
    preprocess = Preprocess.square(DEMO.model.image_size)
    batches = Batches(open_source("digits"), preprocess, 32, np.arange(num_images))
    extractor = Extractor(model, params, preprocess, 32, token_norms)

    def step() -> None:
        for _ in extractor(batches):
            pass

    return step


def training(num_devices: int) -> Step:
    """A step of the demo's model."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={num_devices}" + (
        " --xla_cpu_multi_thread_eigen=false" if num_devices > 1 else ""
    )
    import jax

    from regvit_jax import DeiT3
    from regvit_jax.model import init_params
    from regvit_jax.preprocess import Preprocess
    from regvit_jax.train.optim import make_optimizer
    from regvit_jax.train.step import TrainBatch, first_state, make_train_step

    network, optimizer = DeiT3(DEMO.model), make_optimizer(DEMO.optim, lambda _: 1e-3)
    size = DEMO.model.image_size
    take = make_train_step(network, optimizer, DEMO, Preprocess.square(size))
    state = first_state(init_params(network, jax.random.key(0)), optimizer, DEMO)
    generator = np.random.default_rng(0)
    count = DEMO.data.batch_size
    pixels = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    batch = TrainBatch(pixels, generator.integers(0, 10, count).astype(np.int32))

    def step() -> None:
        nonlocal state
        for _ in range(NUM_STEPS):
            state, metrics = take(state, batch)
        float(metrics.loss)

    return step


def measure(rounds: int) -> list[dict[str, Any]]:
    """Runs the races, prints their tables and returns their figures."""
    jobs: dict[str, tuple[int, dict[str, SetUp]]] = {
        "Inference, registers": (
            BATCH,
            {f"{r} registers": functools.partial(inference, r) for r in (0, 4, 16)},
        ),
        "Inference, image size": (
            BATCH,
            {f"{s} px": functools.partial(inference, 4, s) for s in (224, 384, 512)},
        ),
        "Norms, number of images": (
            1,
            {f"{n} images": functools.partial(norms, n) for n in (250, 500, 1000)},
        ),
    }
    if device() == "cpu":
        jobs["Ten training steps, virtual devices"] = (
            NUM_STEPS * DEMO.data.batch_size,
            {f"{n} devices": functools.partial(training, n) for n in (1, 2)},
        )
    return [
        table(job, images, race(rivals, rounds), next(iter(rivals)))
        for job, (images, rivals) in jobs.items()
    ]
