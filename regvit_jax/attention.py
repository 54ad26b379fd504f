"""What is softmax attention, and its gradient, in the form that runs fastest on every platform?

Letters: b images, k heads, t query tokens, s key tokens, e width of a head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from regvit_jax.product import matmul
from regvit_jax.ways import HALVES, ways


def attention_weights(
    query: Float[Array, "b k t e"], key: Float[Array, "b k s e"]
) -> Float[Array, "b k t s"]:
    """How much each token attends to each other one: the softmax over s, in float32."""
    weights, total = _unnormalised(query, key)
    return weights / total


def attend(
    query: Float[Array, "b k t e"], key: Float[Array, "b k s e"], value: Float[Array, "b k s e"]
) -> Float[Array, "b k t e"]:
    """The values of all tokens, averaged with the attention weights."""
    way = ways().attention
    if way == "own" or query.dtype not in HALVES:
        return _attend(query, key, value)
    by_token = (x.swapaxes(1, 2) for x in (query, key, value))
    return jax.nn.dot_product_attention(*by_token, implementation=way).swapaxes(1, 2)


@jax.custom_vjp
def _attend(query, key, value):
    """The softmax divides after the value product, and its gradient by hand does the same: passes
    over t x e numbers instead of t x s.
    """
    together = ways().heads_together
    if together is None or query.shape[-2] <= together:
        return _attend_forward(query, key, value)[0]
    by_head = tuple(jnp.moveaxis(x, 1, 0)[:, :, None] for x in (query, key, value))
    out = jax.lax.map(lambda head: _attend_forward(*head)[0], by_head)
    return jnp.moveaxis(out[:, :, 0], 0, 1)


def _attend_forward(query, key, value):
    weights, total = _unnormalised(query, key)
    weights, share = weights.astype(value.dtype), 1 / total
    out = (matmul(weights, value) * share).astype(value.dtype)
    return out, (query, key, value, weights, share, out)


def _attend_backward(residuals, grad):
    query, key, value, weights, share, out = residuals
    scale = query.shape[-1] ** -0.5
    # Each row of scores moves by attn * (its own gradient - the row's mean gradient), where attn
    # is weights * share.
    grad = grad.astype(jnp.float32) * share
    row_mean = jnp.sum(grad * out.astype(jnp.float32), -1, keepdims=True)
    grad = grad.astype(value.dtype)
    grad_scores = weights * (matmul(grad, value.swapaxes(-1, -2)) - row_mean)
    grad_scores = grad_scores.astype(query.dtype)
    return (
        matmul(grad_scores, key * scale).astype(query.dtype),
        matmul(grad_scores.swapaxes(-1, -2), query * scale).astype(key.dtype),
        matmul(weights.swapaxes(-1, -2), grad).astype(value.dtype),
    )


_attend.defvjp(_attend_forward, _attend_backward)


def _unnormalised(query, key):
    """exp(score - row maximum), and its sums over s, both float32."""
    scores = matmul(query * query.shape[-1] ** -0.5, key.swapaxes(-1, -2))
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return weights, weights.sum(-1, keepdims=True)
