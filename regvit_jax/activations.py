"""What does an MLP do between its two dense layers? The non-linearities of all families."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def gelu(x: Float[Array, "*t m"]) -> Float[Array, "*t m"]:
    """Exact GELU. XLA's erf is twice as fast on a CPU as the erfc of `jax.nn.gelu`.

    The gradient needs no more than x; automatic differentiation would keep three arrays for it.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, grad):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    return ((grad * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def gelu_tanh(x: Float[Array, "*t m"]) -> Float[Array, "*t m"]:
    """The approximation by tanh, which deit3-jax was trained with."""
    return nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def quick_gelu(x: Float[Array, "*t m"]) -> Float[Array, "*t m"]:
    """The approximation by a sigmoid, which OpenAI's CLIP was trained with."""
    wide = x.astype(jnp.float32)
    return (wide * nn.sigmoid(1.702 * wide)).astype(x.dtype)


def swiglu(x: Float[Array, "*t v"]) -> Float[Array, "*t m"]:
    """The second half of the units, gated by the first.  Reference: arXiv:2002.05202."""
    gates, units = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return (nn.silu(gates) * units).astype(x.dtype)


NON_LINEARITIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}


def _normal_cdf(x):
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))
