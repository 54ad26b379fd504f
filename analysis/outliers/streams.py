"""How long is every token in every layer? Norms of a pass's images, kept once for all analyses.

A token's norm is the L2 norm over its channels. Layers are numbered as the stream passes them: 0 is
what enters the first block (patches with positions, CLS, registers), l is what leaves block l - 1,
and "normed" is what leaves the last LayerNorm. Norms are taken before that LayerNorm: after it a
norm measures a token's direction, not its magnitude.

Letters: b and n images, l layers, t tokens, p patches, d channels.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

NORMED, CONVOLVED = "normed", "convolved"
"""After the last LayerNorm; after the patch convolution, before positions: what the pixels do."""


def keep_norms(images: Images, preprocess: Preprocess) -> Keep:
    """Keeps the norms of all tokens in all layers, as the columns of a `NormColumns`."""
    return Keep(("norms",), images, preprocess, kept_norms)


def token_norms(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b l t"]:
    """Norms of all tokens: before block 0, after every block, after the last LayerNorm."""
    del layout  # the order of the tokens is kept
    return jnp.concatenate([stream_norms(trace), l2_norm(trace.normed)[:, None]], axis=1)


def stream_norms(trace: ViTTrace) -> Float[Array, "b l t"]:
    """Norms of all tokens before block 0 and after every block."""
    streams = [trace.embedded, *(block.tokens for block in trace.blocks if block)]
    return jnp.stack([l2_norm(stream) for stream in streams], axis=1)


def kept_norms(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
    """The columns of a `NormColumns`: norms in every layer and around every sub-layer."""
    norms = token_norms(trace, layout)
    columns = {f"layer_{index}": norms[:, index] for index in range(norms.shape[1])}
    for index, block in enumerate(trace.blocks):
        assert block is not None
        columns[f"block_{index}"] = l2_norm(block.after_attn[:, layout.patches])
    return columns | {CONVOLVED: l2_norm(trace.patch_embed)}


def l2_norm(tokens: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """The L2 norm over the channels, accumulated in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(tokens.astype(jnp.float32)), axis=-1))


def over_median(tokens: Float[Array, "b t d"], layout: TokenLayout) -> Float[Array, "b t"]:
    """Norms of all tokens, in units of the median of their image's patches."""
    norms = l2_norm(tokens)
    median = jnp.median(norms[:, layout.patches], axis=1, keepdims=True)
    return norms / jnp.maximum(median, 1e-12)


class NormColumns:
    """Norms of every image, layer and token, read one layer at a time.

    Args:
      columns: What `kept_norms` gives: 20 kB an image for the small variant. "block_i" and
        "convolved" may be missing; what enters the first block then stands for the latter.
      num_layers: Before the first block, after every block, after the last LayerNorm.
      layout: Of the tokens.
    """

    def __init__(self, columns: Columns, num_layers: int, layout: TokenLayout) -> None:
        self.columns, self.num_layers, self.layout = columns, num_layers, layout

    @classmethod
    def of(
        cls, subject: Subject, columns: Columns, preprocess: Preprocess | None = None
    ) -> "NormColumns":
        """The norms of a model's images, at its own size unless another preprocess made them."""
        shape = (preprocess or subject.preprocess).shape
        return cls(columns, subject.config.depth + 2, DeiT3(subject.config).layout((1, *shape)))

    @property
    def num_images(self) -> int:
        return self.columns.num_rows

    @property
    def last(self) -> int:
        """The layer that leaves the last block."""
        return self.num_layers - 2

    def between(self, block: int) -> Float[np.ndarray, "n p"] | None:
        """Norms of the patches between attention and MLP of a block, if they were kept."""
        name = f"block_{block}"
        return self.columns.read(name) if name in self.columns else None

    @property
    def convolved(self) -> Float[np.ndarray, "n p"]:
        """Norms of the patch convolution's output: what the pixels alone do."""
        return self.columns.read(CONVOLVED) if CONVOLVED in self.columns else self.patches(0)

    def layer(self, index: int) -> Float[np.ndarray, "n t"]:
        """Norms of all tokens of all images in one layer; negative indices count from the end."""
        return self.columns.read(f"layer_{range(self.num_layers)[index]}")

    def patches(self, index: int) -> Float[np.ndarray, "n p"]:
        """Norms of the patches only."""
        return self.layer(index)[:, self.layout.patches]

    def layers(self) -> Iterator[tuple[str, Float[np.ndarray, "n t"]]]:
        """All layers, with their names: "0", "1", ... and "normed"."""
        for index in range(self.num_layers):
            name = NORMED if index == self.num_layers - 1 else str(index)
            yield name, self.layer(index)
