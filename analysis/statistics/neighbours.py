"""Which class do the nearest training images vote for?

Every one of the k training features of largest cosine votes for its class with the weight
exp(cosine / 0.07).  Reference: DINOv2's k-NN evaluation (`dinov2/eval/knn.py`), arXiv:2304.07193.

Letters: n images to classify, m training images, d channels, k numbers of neighbours.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

TEMPERATURE = 0.07
SIMILARITY_BYTES = 2**26
"""How large the similarities of the images at hand and all training images may get."""


def vote(
    features: Float[np.ndarray, "n d"],
    train_features: Float[np.ndarray, "m d"],
    train_labels: Int[np.ndarray, " m"],
    num_classes: int,
    neighbours: Sequence[int],
) -> Int[np.ndarray, "n k"]:
    """The class that the nearest training images vote for, for each number of neighbours.

    Numbers beyond the training images mean all of them.
    """
    counts = tuple(min(k, len(train_labels)) for k in neighbours)
    known = jnp.asarray(_unit(train_features))
    labels = jnp.asarray(train_labels)
    size = max(1, min(len(features), SIMILARITY_BYTES // (4 * len(train_labels))))
    padded = np.pad(_unit(features), ((0, -len(features) % size), (0, 0)))
    chunks = [
        np.asarray(_vote(jnp.asarray(chunk), known, labels, num_classes, counts))
        for chunk in padded.reshape(-1, size, features.shape[1])
    ]
    return np.concatenate(chunks)[: len(features)]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _vote(
    features: Float[Array, "n d"],
    known: Float[Array, "m d"],
    labels: Int[Array, " m"],
    num_classes: int,
    counts: tuple[int, ...],
) -> Int[Array, "n k"]:
    similarity = jnp.matmul(features, known.T, precision="highest")
    # Unless told otherwise, XLA computes the selection anew for each of its readers.
    nearest, places = jax.lax.optimization_barrier(jax.lax.top_k(similarity, max(counts)))
    # The largest weight is 1: what is beyond float32's range does not count anyway.
    weights = jnp.exp((nearest - nearest[:, :1]) / TEMPERATURE)
    voted, rows = labels[places], jnp.arange(len(features))[:, None]

    def winner(count: int):
        votes = jnp.zeros((len(features), num_classes))
        return votes.at[rows, voted[:, :count]].add(weights[:, :count]).argmax(axis=1)

    return jnp.stack([winner(count) for count in counts], axis=1)


def _unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)
