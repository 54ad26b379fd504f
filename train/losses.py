"""How wrong is a prediction? Both of DeiT-III's losses, for each image by itself."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, Float, Int

Loss = Callable[[Float[Array, "b c"], Float[Array, "b c"]], Float[Array, " b"]]


def targets_of(labels: Int[Array, " b"], num_classes: int, smoothing: float) -> Float[Array, "b c"]:
    """One-hot rows, with a part of each spread over all classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def binary_cross_entropy(
    logits: Float[Array, "b c"], targets: Float[Array, "b c"]
) -> Float[Array, " b"]:
    """One yes-or-no question a class, averaged over the classes, in nats.

    Every class with a share in a mixed image counts in full: the shares themselves do not matter.

    Reference: arXiv:2204.07118; `engine.py` of facebookresearch/deit.
    """
    is_there = (targets > 0).astype(logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, is_there).mean(axis=-1)


def cross_entropy(logits: Float[Array, "b c"], targets: Float[Array, "b c"]) -> Float[Array, " b"]:
    """One question among all classes, in nats."""
    return optax.softmax_cross_entropy(logits, targets)


LOSSES: dict[str, Loss] = {"bce": binary_cross_entropy, "cross_entropy": cross_entropy}
