"""What is the product of tokens and a kernel, and its gradient, in the form that runs fastest?

Letters: i channels in, o channels out.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def product(
    x: Float[Array | np.ndarray, "*t i"],
    kernel: Float[Array | np.ndarray, "i o"],
    dtype: DTypeLike,
) -> Float[Array, "*t o"]:
    """Every token times the kernel, float32.

    Args:
      x: Tokens.
      kernel: Its columns are what a token is multiplied with.
      dtype: Of the factors; the sums are float32.
    """
    flat = _product(x.reshape(-1, x.shape[-1]).astype(dtype), kernel.astype(dtype))
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def matmul(
    left: Float[Array | np.ndarray, "*b m i"], right: Float[Array | np.ndarray, "*b i o"]
) -> Float[Array, "*b m o"]:
    """A product that adds up in float32 (which is also what makes bfloat16 fast on a CPU).

    Plain: what chooses the products that a gradient keeps can see it.
    """
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _product(x, kernel):
    """The product of two matrices.

    Automatic differentiation would write the gradient of the kernel as a product of two transposed
    copies, which is slow on a CPU: 7 % of a training step.
    """
    return matmul(x, kernel)


def _forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _backward(residuals, grad):
    x, kernel = residuals
    grad = grad.astype(x.dtype)
    return matmul(grad, kernel.T).astype(x.dtype), matmul(x.T, grad).astype(kernel.dtype)


_product.defvjp(_forward, _backward)
