"""What does each kind of token receive, and what does CLS get from it? Block by block and head.

What a head adds to CLS is the sum over tokens of weight x value x projection (x LayerScale): the
part of each kind is measured along the whole of what attention adds, so that the parts of all
heads and kinds, and that of the projection's bias, add up to 1.  Reference: Lappe and Giese,
arXiv:2505.05892 (abstract), on why weights alone do not tell; arXiv:2606.08105 (abstract), on sinks
that are no-ops or broadcast.

Letters: b images, l blocks, k heads, t tokens, e width of a head, d width of a token, g kinds.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.extract import Forward
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.streams import over_median
from regvit_jax.blocks import BlockTrace
from regvit_jax.preprocess import Preprocess

KINDS = ("cls", "registers", "outliers", "patches")
"""The last are all patches that are no outliers."""
QUANTITIES = ("received", "from_cls", "value", "contribution")


def kept_received(
    images: Images, preprocess: Preprocess, outliers: tuple[int, float] | None
) -> Keep:
    """Keeps, by block, head and kind: "received", the share of all tokens' attention; "from_cls",
    that of CLS's; "value", the mean length of what a token's value becomes, over that of ordinary
    patches (NaN where an image has none of the kind); "contribution", the part of what attention
    adds to CLS. All (l, k, g).

    Args:
      images: The images.
      preprocess: What becomes of them.
      outliers: After which block, and from which multiple of the median norm on.
    """

    def compute(forward: Forward, given: Any) -> dict[str, Array]:
        del given
        of_kind = kinds_of(forward, outliers)
        blocks = []
        for index, block in enumerate(forward.trace.blocks):
            assert block is not None
            blocks.append(of_block(block, forward.params[f"blocks_{index}"], of_kind))
        return {name: jnp.stack([b[name] for b in blocks], axis=1) for name in QUANTITIES}

    return Keep(("received by kind", outliers), images, preprocess, compute=compute)


def kinds_of(forward: Forward, outliers: tuple[int, float] | None) -> Float[Array, "b t g"]:
    """1 where a token is of a kind."""
    layout, trace = forward.layout, forward.trace
    places = np.zeros((layout.num_tokens, 3), np.float32)
    for kind, tokens in enumerate((layout.cls, layout.registers, layout.patches)):
        if tokens is not None:
            places[tokens, kind] = 1
    cls, registers, patches = (jnp.asarray(places[None, :, i]) for i in range(3))
    is_outlier = jnp.zeros((forward.images.shape[0], layout.num_tokens))
    if outliers is not None:
        block = trace.blocks[outliers[0]]
        assert block is not None
        is_outlier = patches * (over_median(block.tokens, layout) >= outliers[1])
    whole = [jnp.broadcast_to(kind, is_outlier.shape) for kind in (cls, registers)]
    return jnp.stack([*whole, is_outlier, patches - is_outlier], axis=-1)


def of_block(
    block: BlockTrace, params: Any, of_kind: Float[Array, "b t g"]
) -> dict[str, Float[Array, "b k g"]]:
    """The columns of one block."""
    value = block.value.astype(jnp.float32)
    heads, width = value.shape[1], value.shape[3]
    scale = params.get("ls1", jnp.ones(block.tokens.shape[-1]))
    projection = params["attn"]["proj"]["kernel"].reshape(heads, width, -1) * scale[None, None]
    bias = params["attn"]["proj"]["bias"] * scale
    looked = block.attn[:, :, 0]
    added = jnp.einsum("bkt,bkte,ked->bd", looked, value, projection, precision="highest")
    added = added + bias[None]
    along = jnp.einsum("ked,bd->bke", projection, added, precision="highest")
    parts = looked * jnp.einsum("bkte,bke->bkt", value, along, precision="highest")
    parts = parts / jnp.maximum(jnp.square(added).sum(axis=-1), 1e-30)[:, None, None]
    gram = jnp.einsum("ked,kfd->kef", projection, projection, precision="highest")
    squares = jnp.einsum("bkte,kef,bktf->bkt", value, gram, value, precision="highest")
    length = jnp.sqrt(jnp.maximum(squares, 0.0))

    def summed(per_token: Float[Array, "b k t"]) -> Float[Array, "b k g"]:
        return jnp.einsum("bkt,btg->bkg", per_token, of_kind, precision="highest")

    count = of_kind.sum(axis=1)[:, None]
    mean = jnp.where(count > 0, summed(length) / jnp.maximum(count, 1.0), jnp.nan)
    return {
        "received": summed(block.attn.mean(axis=2)),
        "from_cls": summed(looked),
        "value": mean / jnp.maximum(mean[..., -1:], 1e-30),
        "contribution": summed(parts),
    }
