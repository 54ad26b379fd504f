"""Is attention, with its hand-written gradient, softmax attention?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax.attention import attend, attention_weights


def projections(dtype=jnp.float32):
    """Query, key and value of 2 images, 3 heads, 7 tokens of width 4; scores up to about 8."""
    rngs = jax.random.split(jax.random.key(0), 3)
    return [(2.0 * jax.random.normal(rng, (2, 3, 7, 4))).astype(dtype) for rng in rngs]


def in_float64(query, key, value):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("bkte,bkse->bkts", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights, weights @ value


def test_attention_equals_float64():
    query, key, value = projections()
    weights, out = in_float64(query, key, value)
    np.testing.assert_allclose(attention_weights(query, key), weights, rtol=0, atol=1e-6)
    np.testing.assert_allclose(attend(query, key, value), out, rtol=0, atol=2e-6)


@pytest.mark.parametrize("num_queries", [5, 600])
def test_many_tokens_pass_head_by_head(num_queries):
    """Their scores would not fit into a CPU's cache together."""
    rngs = jax.random.split(jax.random.key(1), 3)
    query, key, value = (2.0 * jax.random.normal(rng, (2, 3, 600, 4)) for rng in rngs)
    query = query[:, :, :num_queries]
    text = jax.jit(attend).lower(query, key, value).as_text()
    assert ("while" in text) == (num_queries == 600)
    _, expected = in_float64(query, key, value)
    found = attend(query, key, value)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)  # measured 2.6e-6


def test_huge_scores_do_not_overflow():
    query, key, value = projections()
    out = attend(100.0 * query, 100.0 * key, value)
    assert np.isfinite(out).all()
    _, expected = in_float64(100.0 * query, 100.0 * key, value)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_the_gradient_equals_automatic_differentiation(argument):
    arguments = projections()
    direction = jax.random.normal(jax.random.key(7), arguments[2].shape)

    def plain(query, key, value):
        scores = jnp.einsum("bkte,bkse->bkts", query, key) / 2.0
        return jax.nn.softmax(scores, -1) @ value

    def gradient(function):
        return jax.grad(lambda *a: jnp.vdot(function(*a), direction), argument)(*arguments)

    got, want = gradient(attend), gradient(plain)
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6)  # measured 1e-6


def test_bfloat16_adds_up_in_float32():
    query, key, value = projections(jnp.bfloat16)
    weights, out = in_float64(query, key, value)
    assert attention_weights(query, key).dtype == jnp.float32
    # The scaled query is rounded to 8 bits once more: scores of 8 are off by up to 0.02.
    np.testing.assert_allclose(attention_weights(query, key), weights, rtol=0, atol=0.02)
    assert attend(query, key, value).dtype == jnp.bfloat16
    np.testing.assert_allclose(attend(query, key, value).astype(float), out, rtol=0, atol=0.05)
