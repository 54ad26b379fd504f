"""How do the records fit into a page of a few megabytes?

A weight is a byte whose levels are as fine as the page's size allows, and the bytes are deflated,
which the browser undoes. Where even the coarsest are too many, blocks are left out.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from regvit_jax.analysis.explore.record import Record
from regvit_jax.config import ViTConfig

MAX_BYTES = 11_000_000
"""Size of all records as text."""
MAX_WEIGHTS = 24_000_000
"""Numbers of attention in a page: two DeiT-III Small and four photographs have 23.3 million."""
LEVELS = (255, 160, 112, 80, 56, 40, 28)
"""Steps of the square root of a weight; the finest that fits is taken."""


def kept_blocks(config: ViTConfig, num_tokens: int, share: float) -> list[int]:
    """The blocks whose attention a page holds: all, or some at even distances and the last.

    Args:
      config: The model's.
      num_tokens: Of an image.
      share: Of `MAX_WEIGHTS`, what one photograph and model may take.
    """
    fit = int(share * MAX_WEIGHTS / (config.num_heads * num_tokens**2))
    count = max(1, min(config.depth, fit))
    places = np.linspace(config.depth - 1, 0, count).round().astype(int)
    return sorted(set(places.tolist()))


def packed(records: Sequence[Record]) -> tuple[int, list[str]]:
    """The levels of a weight, and every record as text: deflated, base64."""
    for levels in LEVELS:
        if levels == LEVELS[-1] or _estimate(records, levels) <= MAX_BYTES:
            texts = [_text(record.content(levels)) for record in records]
            if levels == LEVELS[-1] or sum(map(len, texts)) <= MAX_BYTES:
                break
    return levels, texts


def _estimate(records: Iterable[Record], levels: int) -> float:
    """Letters of all records, each from its middle block."""
    total = 0.0
    for record in records:
        blocks = record.attention[len(record.attention) // 2 :][:1]
        one = len(_text(record._replace(attention=blocks).content(levels)))
        none = len(_text(record._replace(attention=blocks[:0]).content(levels)))
        total += none + (one - none) * len(record.attention)
    return total


def _text(content: bytes) -> str:
    deflate = zlib.compressobj(6, wbits=-15)  # without a header: "deflate-raw"
    return base64.b64encode(deflate.compress(content) + deflate.flush()).decode()
