"""How many images does a device compute at once? The project's one switch by platform.

A CPU is fastest on four images at a time: their activations stay in its cache, and no fresh memory
is touched (1.3 x the speed and 60 % of the memory of 32 images at once). An accelerator takes all.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

CPU_CHUNK_SIZE = 4

Tree = TypeVar("Tree")


def chunk_size(batch_size: int) -> int:
    """Images that the default device should compute at once, at most `batch_size`."""
    return min(batch_size, CPU_CHUNK_SIZE) if jax.default_backend() == "cpu" else batch_size


def map_chunks(function: Callable[[jax.Array], Tree], batch: jax.Array) -> Tree:
    """`function(batch)`, computed chunk by chunk.

    Args:
      function: Maps (b, ...) to a tree of arrays (b, ...), every image by itself.
      batch: At least one image; a remainder of less than a chunk is computed by itself.
    """
    size = chunk_size(batch.shape[0])
    whole = batch.shape[0] // size * size
    if size == batch.shape[0]:
        return function(batch)
    chunks = batch[:whole].reshape(-1, size, *batch.shape[1:])
    mapped = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), jax.lax.map(function, chunks))
    if whole == batch.shape[0]:
        return mapped
    rest = function(batch[whole:])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), mapped, rest)
