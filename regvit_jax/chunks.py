"""How many images does a device compute at once, and how are the others computed after them?"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from regvit_jax.ways import ways

Tree = TypeVar("Tree")


def chunk_size(batch_size: int, num_tokens: int) -> int:
    """Images that the default device should compute at once, at most `batch_size`.

    Args:
      batch_size: Images at hand.
      num_tokens: Of each image.
    """
    together = ways().tokens_together
    if together is None:
        return batch_size
    fitting = max(1, together // num_tokens)
    power_of_two = 1 << (fitting.bit_length() - 1)  # divides the usual batch sizes
    return min(batch_size, power_of_two)


def map_chunks(function: Callable[[jax.Array], Tree], batch: jax.Array, size: int) -> Tree:
    """`function(batch)`, computed chunk by chunk.

    Args:
      function: Maps (b, ...) to a tree of arrays (b, ...), every image by itself.
      batch: At least one image.
      size: Images of a chunk; a remainder of less is computed by itself.
    """
    whole = batch.shape[0] // size * size
    if batch.shape[0] <= size:
        return function(batch)
    chunks = batch[:whole].reshape(-1, size, *batch.shape[1:])
    mapped = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), jax.lax.map(function, chunks))
    if whole == batch.shape[0]:
        return mapped
    rest = function(batch[whole:])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), mapped, rest)
