"""One training step, forward to update: this project against timm on PyTorch.

`python -m benchmarks.training [--rounds N] [--compile]`: DeiT-III Small with 4 registers, batch 16,
LAMB, and Tiny with 4 registers, batch 32, AdamW; 224 px, float32, binary cross-entropy.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.inference import timm_model
from benchmarks.race import SetUp, Step, race, table, write

OURS = "regvit_jax"
SIZE, REGISTERS, NUM_CLASSES = 224, 4, 1000
RATE, DECAY = 4e-3, 0.05


class Job(NamedTuple):
    """One kind of step."""

    variant: str
    batch_size: int
    optimizer: Literal["lamb", "adamw"]

    @property
    def title(self) -> str:
        return f"training step, {self.variant} + {REGISTERS} registers, {self.optimizer}"


JOBS = (Job("small", 16, "lamb"), Job("tiny", 32, "adamw"))


def batch_of(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (job.batch_size, SIZE, SIZE, 3), np.uint8)
    return pixels, generator.integers(0, NUM_CLASSES, job.batch_size).astype(np.int32)


def torch_step(job: Job, compiled: bool) -> Step:
    """Timm's model; timm's LAMB, or torch's AdamW."""
    torch, _ = timm_model(compiled=False)
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import create_optimizer_v2

    from regvit_jax.config import VARIANTS

    size = VARIANTS[job.variant]
    model: Any = VisionTransformer(
        embed_dim=size.embed_dim,
        depth=size.depth,
        num_heads=size.num_heads,
        reg_tokens=REGISTERS,
        no_embed_class=True,
        init_values=1e-4,
    )
    optimizer = create_optimizer_v2(
        model, opt=job.optimizer, lr=RATE, weight_decay=DECAY, eps=1e-8, betas=(0.9, 0.999)
    )
    model.train()
    forward = torch.compile(model) if compiled else model
    pixels, labels = batch_of(job)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), NUM_CLASSES).float()

    def step() -> float:
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        logits = forward(images)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def our_step(job: Job) -> Step:
    """The step of `regvit-train`, cores shared out as it does."""
    from regvit_jax.config import VARIANTS
    from train.cores import claim_cores

    model = dataclasses.replace(VARIANTS[job.variant], num_registers=REGISTERS)
    claim_cores(job.batch_size, model)
    import jax

    from regvit_jax.model import DeiT3, init_params
    from regvit_jax.preprocess import Preprocess
    from train.optim import make_optimizer
    from train.recipe import OptimConfig, Recipe
    from train.step import TrainBatch, first_state, make_train_step

    optim = OptimConfig(optimizer=job.optimizer, learning_rate=RATE, weight_decay=DECAY)
    recipe = Recipe(model=model, optim=optim)
    network, optimizer = DeiT3(model), make_optimizer(optim, lambda _: RATE)
    take = make_train_step(network, optimizer, recipe, Preprocess())
    state = first_state(init_params(network, jax.random.key(0)), optimizer, recipe)
    batch = TrainBatch(*batch_of(job))

    def step() -> float:
        nonlocal state
        state, metrics = take(state, batch)
        jax.block_until_ready(state)
        return float(metrics.loss)

    return step


def main() -> None:
    """Measures, prints tables and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also race torch.compile")
    options = parser.parse_args()
    results = []
    for job in JOBS:
        rivals: dict[str, SetUp] = {
            OURS: functools.partial(our_step, job),
            "timm eager": functools.partial(torch_step, job, False),
        }
        if options.compile:
            rivals["timm torch.compile"] = functools.partial(torch_step, job, True)
        timings = race(rivals, options.rounds)
        results.append(table(job.title, job.batch_size, timings, OURS))
    packages = ("jax", "torch", "timm", "numpy")
    write("training", results, {name: importlib.metadata.version(name) for name in packages})


if __name__ == "__main__":
    main()
