"""How much arithmetic is a training step, and how much could the devices do?"""

import functools
import time

import jax
import jax.numpy as jnp

from regvit_jax.config import ViTConfig

ACCELERATOR_SIDE, CPU_SIDE = 8192, 1024
REPEATS = 5


def forward_flops(config: ViTConfig) -> int:
    """Floating-point operations of one image's forward pass: twice its multiply-adds.

    Products only; LayerNorm, softmax and the non-linearity add about a hundredth.
    """
    num_patches = config.grid[0] * config.grid[1]
    tokens = config.class_token + config.num_registers + num_patches
    dim, hidden = config.embed_dim, config.mlp_dim
    inner = config.num_heads * config.head_dim
    gates = hidden if config.mlp == "swiglu" else 0
    dense = 4 * dim * inner + dim * (2 * hidden + gates)
    attention = 2 * tokens * inner
    patches = num_patches * config.num_channels * config.patch_size**2 * dim
    head = config.num_pooled * config.num_classes
    return 2 * (config.depth * tokens * (dense + attention) + patches + head)


def training_flops(config: ViTConfig) -> int:
    """Operations of one image's forward and backward pass; the gradient needs twice the forward's.

    Reference: arXiv:2204.02311, appendix B, for the convention (nothing recomputed is counted).
    """
    return 3 * forward_flops(config)


@functools.cache
def matrix_rate(dtype: str) -> float:
    """Operations per second that all local devices reach together in a large product, measured."""
    side = CPU_SIDE if jax.default_backend() == "cpu" else ACCELERATOR_SIDE
    count = jax.local_device_count()
    square = jnp.ones((count, side, side), dtype)

    @jax.pmap
    def multiply(x):
        return jnp.matmul(x, x, preferred_element_type=jnp.float32).astype(x.dtype) / side

    jax.block_until_ready(multiply(square))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(multiply(square))
        seconds.append(time.perf_counter() - start)
    return count * 2 * side**3 / min(seconds)
