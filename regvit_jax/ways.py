"""Which way is a network computed on which platform? All ways give the same up to rounding.

The reasons stand here and the ways themselves where they are taken: `regvit_jax.attention`,
`regvit_jax.product` and `regvit_jax.chunks`.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

HALVES = (jnp.bfloat16, jnp.float16)


class Ways(NamedTuple):
    """How a platform computes."""

    tokens_together: int | None
    """Tokens of the images that pass the network at once; None: all there are. A CPU is fastest on
    few, four images of 224 px say: what they leave stays in its cache (1.3 x the speed and 60 % of
    the memory of 32 such images at once)."""
    heads_together: int | None
    """Tokens of an image up to which all heads attend at once, if nobody wants a gradient. Beyond,
    the scores of one head fill a CPU's cache."""
    half_results: bool
    """Whether a dense layer with factors of 16 bits writes 16 bits, its gradients too; the sums are
    float32 in any case. An accelerator waits for its memory; a CPU would only convert."""
    attention: Literal["own", "xla", "cudnn"]
    """Who computes attention of 16 bits where its weights are not asked for: this project, JAX in
    plain operations, or cuDNN in one kernel that never writes the scores."""


CPU = Ways(1100, 512, half_results=False, attention="own")
ACCELERATOR = Ways(None, None, half_results=True, attention="own")
GPU = ACCELERATOR._replace(attention="cudnn")

_taken: ContextVar[Ways | None] = ContextVar("ways", default=None)


def ways() -> Ways:
    """How the default device computes, or whatever `taking` names instead."""
    if (taken := _taken.get()) is not None:
        return taken
    backend = jax.default_backend()
    if backend == "cpu":
        return CPU
    if backend == "gpu" and cudnn_attends():
        return GPU
    return ACCELERATOR


@contextlib.contextmanager
def taking(other: Ways) -> Iterator[None]:
    """Traces what is inside as another platform would; what is compiled already stays as it is."""
    token = _taken.set(other)
    try:
        yield
    finally:
        _taken.reset(token)


def result_dtype(dtype: DTypeLike) -> DTypeLike:
    """What a dense layer writes whose factors have a type."""
    return dtype if ways().half_results and dtype in HALVES else jnp.float32


@functools.cache
def cudnn_attends() -> bool:
    """Whether cuDNN computes attention here: not on old devices, nor where it is not installed."""
    x = jnp.ones((1, 9, 2, 64), jnp.bfloat16)

    def attend(x):
        out = jax.nn.dot_product_attention(x, x, x, implementation="cudnn")
        return out.astype(jnp.float32).sum()

    try:
        jax.block_until_ready(jax.jit(jax.grad(attend))(x))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        sys.stderr.write(
            f"cuDNN computes no attention here ({reason}): it is computed without, slower. A newer "
            "GPU, or `pip install 'jax[cuda13]'`, may have it.\n"
        )
        return False
    return True
