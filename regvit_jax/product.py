"""What is the product of tokens and a kernel, and its gradient, in the form that runs fastest?

Letters: i channels in, o channels out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from regvit_jax.ways import result_dtype


def product(
    x: Float[Array | np.ndarray, "*t i"],
    kernel: Float[Array | np.ndarray, "i o"],
    dtype: DTypeLike,
    written: DTypeLike | None = None,
) -> Float[Array, "*t o"]:
    """Every token times the kernel.

    Args:
      x: Tokens.
      kernel: Its columns are what a token is multiplied with.
      dtype: Of the factors; the sums are float32.
      written: Type of the result; by default the one that is best here for such factors.
    """
    flat = _product(
        x.reshape(-1, x.shape[-1]).astype(dtype),
        kernel.astype(dtype),
        jnp.dtype(result_dtype(dtype) if written is None else written),
    )
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def matmul(
    left: Float[Array | np.ndarray, "*b m i"], right: Float[Array | np.ndarray, "*b i o"]
) -> Float[Array, "*b m o"]:
    """A product that adds up in float32 (which is also what makes bfloat16 fast on a CPU)."""
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, kernel, written):
    """The product of two matrices.

    Automatic differentiation would write the gradient of the kernel as a product of two transposed
    copies, which is slow on a CPU: 7 % of a training step.
    """
    return jnp.matmul(x, kernel, preferred_element_type=written)


def _forward(x, kernel, written):
    return _product(x, kernel, written), (x, kernel)


def _backward(written, residuals, grad):
    del written
    x, kernel = residuals
    grad, best = grad.astype(x.dtype), result_dtype(x.dtype)
    grad_x = jnp.matmul(grad, kernel.T, preferred_element_type=best)
    grad_kernel = jnp.matmul(x.T, grad, preferred_element_type=best)
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)
