"""Does what other platforms compute equal what this one does, and is it what was meant for them?"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax import DeiT3, ViTConfig
from regvit_jax.checkpoint import flatten
from regvit_jax.model import init_params
from regvit_jax.ways import ACCELERATOR, CPU, GPU, cudnn_attends, taking, ways

CONFIG = ViTConfig(
    embed_dim=64,
    depth=2,
    num_heads=2,
    patch_size=8,
    image_size=32,
    num_registers=4,
    num_classes=5,
    layer_scale_init=0.5,
)
PLAIN_GPU = GPU._replace(attention="xla")
"""As on a GPU, but for cuDNN, which is only there."""
DENSE = 4 * CONFIG.depth + 1
"""Products with a kernel: four a block, and that of the patches; the head's is a fifth kind."""


@pytest.fixture(scope="module")
def given():
    """Parameters far from their start values, images, and weights of the logits."""
    params = init_params(DeiT3(CONFIG), jax.random.key(0))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.05 * generator.normal(size=x.shape), params)
    images = generator.normal(size=(3, 32, 32, 3)).astype(np.float32)
    return jax.tree.map(jnp.float32, params), jnp.asarray(images), generator.normal(size=(3, 5))


def score(dtype, images, weights):
    model = DeiT3(CONFIG, dtype=dtype)
    return lambda params: jnp.vdot(model.apply({"params": params}, images), jnp.asarray(weights))


def value_and_gradient(given, taken, dtype=jnp.bfloat16):
    params, images, weights = given
    with taking(taken):
        return jax.jit(jax.value_and_grad(score(dtype, images, weights)))(params)


@pytest.fixture(scope="module")
def exact(given):
    """In float32, which parity with timm proves; its rounding is nothing beside that of 16 bits."""
    return value_and_gradient(given, CPU, jnp.float32)[1]


def errors(found, expected):
    """Difference of each gradient, in parts of its length."""
    found, expected = flatten(found), flatten(expected)
    return {
        name: np.linalg.norm(np.float64(found[name]) - leaf) / np.linalg.norm(leaf)
        for name, leaf in expected.items()
    }


def test_this_platform_takes_its_own_way():
    assert ways() == CPU
    with taking(GPU):
        assert ways() == GPU
    assert ways() == CPU


@pytest.mark.parametrize(
    "taken", [ACCELERATOR, PLAIN_GPU], ids=["results of 16 bits", "and attention of JAX"]
)
def test_gradients_in_bfloat16_are_as_near_to_float32_as_those_of_this_platform(
    given, exact, taken
):
    mine = errors(value_and_gradient(given, CPU)[1], exact)
    theirs = errors(value_and_gradient(given, taken)[1], exact)
    assert max(mine.values()) < 0.06
    for name, error in theirs.items():
        assert error < 2.0 * mine[name] + 0.01, (name, error, mine[name])


def test_float32_is_the_same_everywhere(given):
    value, grads = value_and_gradient(given, CPU, jnp.float32)
    other_value, other = value_and_gradient(given, GPU, jnp.float32)
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    assert max(errors(other, grads).values()) < 1e-5


def lowered(given, taken):
    """The step's gradient as it is handed to XLA for CUDA."""
    params, images, weights = given
    with taking(taken):
        traced = jax.jit(jax.value_and_grad(score(jnp.bfloat16, images, weights))).trace(params)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_gpu_writes_16_bits_wherever_a_kernel_is_multiplied(given):
    text = lowered(given, PLAIN_GPU)
    results = re.findall(r"dot_general.*-> tensor<((?:\d+x)*)(\w+)>", text)
    of_kernels = [kind for shape, kind in results if shape.count("x") == 2]
    assert of_kernels.count("bf16") == 3 * DENSE - 1 + 2  # pixels have no gradient; the head's have
    assert of_kernels.count("f32") == 1  # logits
    assert "optimization_barrier" not in text
    assert text != lowered(given, ACCELERATOR)  # attention is computed in another way
    here = re.findall(r"dot_general.*-> tensor<((?:\d+x)*)(\w+)>", lowered(given, CPU))
    assert {kind for _, kind in here} == {"f32"}


def test_gelus_inputs_of_16_bits_wait_for_the_gradient(given):
    params, images, weights = given

    def waiting(taken):
        with taking(taken):
            _, pull = jax.vjp(score(jnp.bfloat16, images, weights), params)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pull))

    num_tokens = len(images) * DeiT3(CONFIG).layout(images.shape).num_tokens
    saved_bytes = 2 * num_tokens * CONFIG.mlp_dim * CONFIG.depth
    assert waiting(CPU) - waiting(ACCELERATOR) == saved_bytes


def test_where_cudnn_does_not_attend_this_is_said_and_jax_does(capsys):
    assert not cudnn_attends.__wrapped__()
    assert "cuDNN computes no attention here" in capsys.readouterr().err
