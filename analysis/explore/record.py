"""What does the page hold of one photograph and one model? Bytes, in an order that it knows.

Letters: k kept blocks, h heads, t tokens (CLS, registers, patches: in this order, whatever the
model's), n patches, l layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from regvit_jax.analysis.look.opened import Opened, Photograph
from regvit_jax.analysis.outliers.streams import l2_norm, stream_norms
from regvit_jax.model import ViTTrace
from regvit_jax.tokens import TokenLayout


class Record(NamedTuple):
    """One photograph seen by one model."""

    pixels: UInt8[np.ndarray, "h w 3"]
    attention: Float[np.ndarray, "k h t t"]
    similarity: Float[np.ndarray, "t n"]
    """Cosine of every token and every patch after the last LayerNorm."""
    norms: Float[np.ndarray, "l t"]
    """Before the first block and after every block."""

    def content(self, levels: int) -> bytes:
        """Attention and similarity as a byte a number, then norms as little-endian float32.

        Args:
          levels: A weight w is written as `round(levels sqrt(w))`: faint attention keeps more of
            its precision than it would on a plain scale.
        """
        weights = np.rint(levels * np.sqrt(self.attention)).astype(np.uint8)
        similarity = np.rint(127.5 * (self.similarity.clip(-1, 1) + 1)).astype(np.uint8)
        return weights.tobytes() + similarity.tobytes() + self.norms.astype("<f4").tobytes()


class Recorder:
    """Records photographs with one model, compiled once.

    Args:
      opened: The model.
      blocks: Whose attention is kept.
    """

    def __init__(self, opened: Opened, blocks: Sequence[int]) -> None:
        self._opened = opened
        preprocess = opened.preprocess
        shape = (preprocess.height, preprocess.width, 3)
        self.layout = opened.model.layout(shape)
        order = token_order(self.layout)

        def run(params, pixels):
            trace = opened.model.apply(
                {"params": params}, preprocess.normalise(pixels), method="trace"
            )
            assert isinstance(trace, ViTTrace)
            return _reduced(trace, blocks, order, self.layout.num_specials)

        self._run = jax.jit(run)

    def record(self, photograph: Photograph) -> Record:
        """What the page holds of a photograph.

        Raises:
          InputError: If it cannot be read.
        """
        pixels = self._opened.preprocess.pixels(photograph.picture)
        attention, similarity, norms = self._run(self._opened.params, pixels[None])
        return Record(pixels[..., :3], *map(np.asarray, (attention, similarity, norms)))


def token_order(layout: TokenLayout) -> Int[np.ndarray, " t"]:
    """Places of CLS, the registers and the patches, in this order."""
    patches = range(layout.patches.start, layout.patches.stop)
    return np.array([*layout.specials, *patches])


def _reduced(trace: ViTTrace, blocks: Sequence[int], order, num_specials: int):
    """From a batch of one image: attention, similarity and norms."""
    kept = [block for block in trace.blocks if block is not None]
    attention = jnp.stack([kept[i].attn[0][:, order][:, :, order] for i in blocks])
    features = trace.normed[0, order]
    unit = features / jnp.maximum(l2_norm(features)[:, None], 1e-12)
    return attention, unit @ unit[num_specials:].T, stream_norms(trace)[0][:, order]
