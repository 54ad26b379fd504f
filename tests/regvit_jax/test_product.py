"""Is the gradient of a product, written by hand, that of float64?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax.product import product

# Sums of up to 70 products in float32, of numbers up to 30: measured 4.9e-6.
ATOL = 2e-5
# The same with factors rounded to bfloat16: measured 0.058.
ROUGH_ATOL = 0.25


@pytest.mark.parametrize("shape", [(7,), (2, 35), (2, 5, 7)])
@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, ATOL), (jnp.bfloat16, ROUGH_ATOL)])
def test_value_and_gradient_are_those_of_float64(shape, dtype, atol):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(*shape, 11)).astype(np.float32)
    kernel = generator.normal(size=(11, 13)).astype(np.float32)
    weights = generator.normal(size=(*shape, 13)).astype(np.float32)
    out, pull = jax.vjp(lambda x, kernel: product(x, kernel, dtype), x, kernel)
    grad_x, grad_kernel = pull(jnp.asarray(weights))
    assert {out.dtype, grad_x.dtype, grad_kernel.dtype} == {jnp.dtype(jnp.float32)}
    exact_x, exact_kernel, exact_weights = (a.astype(np.float64) for a in (x, kernel, weights))
    np.testing.assert_allclose(out, exact_x @ exact_kernel, rtol=0, atol=atol)
    np.testing.assert_allclose(grad_x, exact_weights @ exact_kernel.T, rtol=0, atol=atol)
    expected = exact_x.reshape(-1, 11).T @ exact_weights.reshape(-1, 13)
    np.testing.assert_allclose(grad_kernel, expected, rtol=0, atol=atol)
