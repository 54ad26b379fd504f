"""What is softmax attention, and its gradient, in the form that runs fastest on every platform?

Letters: b images, k heads, t query tokens, s key tokens, e width of a head.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from regvit_jax.product import matmul

KEPT = ("attention_weights", "attended")
"""Names of what a gradient that repeats the forward pass should keep instead."""


def attention_weights(
    query: Float[Array, "b k t e"], key: Float[Array, "b k s e"]
) -> Float[Array, "b k t s"]:
    """How much each token attends to each other one: the softmax over s, in float32."""
    weights, total = _unnormalised(query, key)
    return weights / total


@jax.custom_vjp
def attend(
    query: Float[Array, "b k t e"], key: Float[Array, "b k s e"], value: Float[Array, "b k s e"]
) -> Float[Array, "b k t e"]:
    """The values of all tokens, averaged with the attention weights.

    The softmax is normalised after the value product: one pass over t x s numbers fewer. The
    gradient is written by hand because XLA multiplies batches of matrices at half speed on a CPU
    when one of them has to be read transposed.
    """
    weights, total = _unnormalised(query, key)
    return (matmul(weights.astype(value.dtype), value) / total).astype(value.dtype)


def _attend_forward(query, key, value):
    weights, total = _unnormalised(query, key)
    attn = checkpoint_name((weights / total).astype(value.dtype), KEPT[0])
    out = checkpoint_name(matmul(attn, value).astype(value.dtype), KEPT[1])
    return out, (query, key, value, attn, out)


def _attend_backward(residuals, grad):
    query, key, value, attn, out = residuals
    scale = query.shape[-1] ** -0.5
    # d softmax: each row of scores moves by attn * (its own gradient - the row's mean gradient).
    row_mean = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)
    grad_scores = attn * (matmul(grad, _transpose(value)) - row_mean) * scale
    grad_scores = grad_scores.astype(query.dtype)
    return (
        matmul(grad_scores, key).astype(query.dtype),
        matmul(_transpose(grad_scores), query).astype(key.dtype),
        matmul(_transpose(attn), grad).astype(value.dtype),
    )


attend.defvjp(_attend_forward, _attend_backward)


def _unnormalised(query, key):
    """exp(score - row maximum), and its sums over s, both float32."""
    scores = matmul(query * query.shape[-1] ** -0.5, _transpose(key))
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return weights, weights.sum(-1, keepdims=True)


def _transpose(x):
    """The transposed matrix, written to memory (see `attend`)."""
    return jax.lax.optimization_barrier(x.swapaxes(-1, -2))
