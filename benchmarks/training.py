"""One training step, forward to update: this project against timm on PyTorch.

DeiT-III Small with 4 registers and LAMB, Tiny with 4 registers and AdamW; 224 px, binary
cross-entropy. Float32 on a CPU; TF32 and bfloat16 on a GPU, where `torch.compile` races too.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.machine import device
from benchmarks.pytorch import normalised, products_in, start_torch, torch_device
from benchmarks.race import OURS, SetUp, Step, race, table

SIZE, REGISTERS, NUM_CLASSES = 224, 4, 1000
RATE, DECAY = 4e-3, 0.05


class Job(NamedTuple):
    """One kind of step."""

    variant: str
    batch_size: int
    optimizer: Literal["lamb", "adamw"]
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def title(self) -> str:
        words = [f"Training step, {self.variant} + {REGISTERS} registers, {self.optimizer}"]
        return ", ".join(words + [self.dtype] * (self.dtype != "float32"))


JOBS: dict[str, tuple[Job, ...]] = {
    "cpu": (Job("small", 16, "lamb"), Job("tiny", 32, "adamw")),
    "gpu": (Job("small", 256, "lamb"), Job("small", 256, "lamb", "bfloat16")),
}


def batch_of(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (job.batch_size, SIZE, SIZE, 3), np.uint8)
    return pixels, generator.integers(0, NUM_CLASSES, job.batch_size).astype(np.int32)


def torch_step(job: Job, compiled: bool) -> Step:
    """Timm's model; timm's LAMB, or torch's AdamW."""
    torch = start_torch()
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
    ).to(torch_device())
    optimizer = create_optimizer_v2(
        model, opt=job.optimizer, lr=RATE, weight_decay=DECAY, eps=1e-8, betas=(0.9, 0.999)
    )
    model.train()
    forward = torch.compile(model) if compiled else model
    pixels, labels = batch_of(job)
    classes = torch.from_numpy(labels).long().to(torch_device())
    targets = torch.nn.functional.one_hot(classes, NUM_CLASSES).float()

    def step() -> float:
        with products_in(torch, job.dtype):
            logits = forward(normalised(torch, pixels))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()  # after all that was queued before, the update too

    return step


def our_step(job: Job) -> Step:
    """The step of `regvit-train`, cores shared out as it does."""
    from regvit_jax.config import VARIANTS
    from regvit_jax.train.cores import claim_cores

    model = dataclasses.replace(VARIANTS[job.variant], num_registers=REGISTERS)
    claim_cores(job.batch_size, model)
    import jax

    from regvit_jax.model import DeiT3, init_params
    from regvit_jax.preprocess import Preprocess
    from regvit_jax.train.optim import make_optimizer
    from regvit_jax.train.recipe import OptimConfig, Recipe
    from regvit_jax.train.step import TrainBatch, first_state, make_train_step

    optim = OptimConfig(optimizer=job.optimizer, learning_rate=RATE, weight_decay=DECAY)
    recipe = Recipe(model=model, optim=optim)
    network, optimizer = DeiT3(model, job.dtype), make_optimizer(optim, lambda _: RATE)
    take = make_train_step(network, optimizer, recipe, Preprocess())
    state = first_state(init_params(network, jax.random.key(0)), optimizer, recipe)
    batch = TrainBatch(*batch_of(job))

    def step() -> float:
        nonlocal state
        state, metrics = take(state, batch)
        jax.block_until_ready(state)
        return float(metrics.loss)

    return step


def measure(rounds: int) -> list[dict[str, Any]]:
    """Runs the races, prints their tables and returns their figures."""
    results = []
    for job in JOBS[device()]:
        rivals: dict[str, SetUp] = {
            OURS: functools.partial(our_step, job),
            "timm eager": functools.partial(torch_step, job, False),
        }
        if device() == "gpu":
            rivals["timm torch.compile"] = functools.partial(torch_step, job, True)
        results.append(table(job.title, job.batch_size, race(rivals, rounds), OURS))
    return results
