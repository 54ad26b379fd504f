"""What is kept of an image under every condition? All passes in one compiled program.

Letters: b images, c conditions (the untouched network first), p patches, k heads, t tokens,
d width of a token.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from regvit_jax.analysis.discovery.features import Feature, patch_features
from regvit_jax.analysis.discovery.lost import lost
from regvit_jax.analysis.engine.extract import Forward
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.questions.ablate.conditions import (
    Condition,
    Moments,
    as_arrays,
    image_keys,
    random_patches,
    replacing,
)
from regvit_jax.batches import Batch
from regvit_jax.edits import Edit
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

NUM_OTHERS = 64
"""Images whose CLS and registers may stand for another's."""
_OF_PATCHES = 2**20  # what is drawn for the control has a key of its own
Arrays = dict[str, np.ndarray]


def special_tokens(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b l s d"]:
    """CLS and registers after every block."""
    streams = [block.tokens for block in trace.blocks if block is not None]
    return jnp.stack([layout.special(tokens) for tokens in streams], axis=1)


def kept_sums(images: Images, preprocess: Preprocess) -> Keep:
    """Adds up CLS and the registers over all images, for `moments`."""

    def fold(folded: Any, batch: Batch, tokens: Any) -> Arrays:
        del batch
        tokens = np.asarray(tokens, np.float64)
        before = folded or {"sum": 0.0, "squares": 0.0}
        return {
            "sum": before["sum"] + tokens.sum(axis=0),
            "squares": before["squares"] + np.square(tokens).sum(axis=0),
        }

    key = ("sums of special tokens",)
    return Keep(key, images, preprocess, special_tokens, lambda b, t: {}, fold=fold)


def kept_others(images: Images, preprocess: Preprocess) -> Keep:
    """CLS and the registers of some images, as the column "tokens"."""
    places = np.linspace(0, len(images.indices) - 1, min(NUM_OTHERS, len(images.indices)))
    some = images.only(images.indices[np.unique(places.round().astype(int))])
    columns = lambda batch, tokens: {"tokens": tokens}  # noqa: E731
    return Keep(("special tokens",), some, preprocess, special_tokens, columns)


def moments(sums: Any, num_images: int, others: Float[np.ndarray, "o l s d"]) -> Moments:
    """Mean and standard deviation of CLS and the registers, from what `kept_sums` added up."""
    mean = sums["sum"] / num_images
    variance = np.maximum(sums["squares"] / num_images - np.square(mean), 0.0)
    return Moments(mean.astype(np.float32), np.sqrt(variance).astype(np.float32), others)


def read_by_head(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b d"]:
    """The token that stands for an image: CLS, or the mean patch, after the last LayerNorm."""
    if layout.has_cls:
        return trace.normed[:, 0]
    return trace.normed[:, layout.patches].mean(axis=1)


def kept_features(images: Images, preprocess: Preprocess) -> Keep:
    """The token that stands for each image, of the untouched network, as the column "features"."""

    def reduce(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
        return {"features": read_by_head(trace, layout).astype(jnp.float32)}

    return Keep(("read by the head",), images, preprocess, reduce, blocks=())


class Untouched(NamedTuple):
    """What conditions are held against."""

    patches: Float[Array, "b p d"]
    """After the last LayerNorm, of length 1."""
    attn: Float[Array, "b k p t"]
    """Attention of the patches, in the last block."""


def kept_judged(
    images: Images,
    preprocess: Preprocess,
    layout: TokenLayout,
    conditions: Sequence[Condition],
    known: Moments,
    feature: Feature | None,
    control_patches: int,
    seed: int,
) -> Keep:
    """Keeps what scores are made of, under every condition; see `order`.

    Columns: "features", (c, d); "predicted", (c), the head's largest output; "cosine", (c), mean
    over the patches with the untouched ones; "divergence", (c), Jensen-Shannon's, in nats, of the
    patches' attention in the last block, mean over heads; and, where a feature for LOST is named,
    "boxes", (c, 4), in patches.
    """
    replaced = [c for c in conditions if not c.drops]
    dropping = [c for c in conditions if c.drops]

    def compute(forward: Forward, given: Any) -> dict[str, Array]:
        trace = forward.trace
        whole = np.arange(layout.num_tokens)
        before = Untouched(_unit(trace.normed[:, layout.patches]), _attention(trace, layout, whole))
        keys = image_keys(forward.images, seed)
        of_patches = jax.vmap(lambda key: jax.random.fold_in(key, _OF_PATCHES))(keys)
        patches = random_patches(of_patches, layout, control_patches)

        def judged(condition: Any) -> dict[str, Array]:
            edit = replacing(condition, given["moments"], keys, layout, patches)
            return _judge(forward.run(edit, (-1,)), layout, whole, before, feature)

        rows = jax.tree.map(lambda x: x.swapaxes(0, 1), lax.map(judged, given["conditions"]))
        parts = [_judge(trace, layout, whole, before, feature), rows]
        for condition in dropping:
            edit = Edit(dropped=condition.drops)
            left = np.delete(whole, layout.registers.start + np.array(condition.drops))
            shorter = edit.layout(layout)
            parts.append(_judge(forward.run(edit, (-1,)), shorter, left, before, feature))
        singles = [x if x is rows else jax.tree.map(lambda y: y[:, None], x) for x in parts]
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *singles)

    key = ("ablated", *map(repr, conditions), feature, control_patches, seed)
    given = {"conditions": as_arrays(replaced, layout), "moments": known}
    return Keep(key, images, preprocess, compute=compute, given=given, blocks=(-1,))


def order(conditions: Sequence[Condition]) -> list[str]:
    """The names of the conditions, as `kept_judged` has them, after "untouched"."""
    sorted_ones = sorted(conditions, key=lambda condition: bool(condition.drops))
    return ["untouched", *(condition.name for condition in sorted_ones)]


def _judge(
    trace: ViTTrace,
    layout: TokenLayout,
    columns: Any,
    before: Untouched,
    feature: Feature | None,
) -> dict[str, Array]:
    """The columns of one condition.

    Args:
      trace: With the last block.
      layout: Of its tokens.
      columns: Their places in the untouched sequence.
      before: Of the untouched network.
      feature: For LOST.
    """
    patches = _unit(trace.normed[:, layout.patches])
    attn = _attention(trace, layout, columns, before.attn.shape[-1])
    found = {
        "features": read_by_head(trace, layout).astype(jnp.float32),
        "predicted": trace.logits.argmax(axis=-1).astype(jnp.int32),
        "cosine": jnp.sum(patches * before.patches, axis=-1).mean(axis=1),
        "divergence": divergence(attn, before.attn).mean(axis=(1, 2)),
    }
    if feature is not None:
        of_patches = patch_features(trace, layout, len(trace.blocks) - 1, feature)
        found["boxes"] = lost(of_patches, layout.grid).boxes.astype(jnp.int32)
    return found


def divergence(first: Float[Array, "*b t"], second: Float[Array, "*b t"]) -> Float[Array, "*b"]:
    """Jensen and Shannon's, in nats: 0 where they are equal, log 2 where they share nothing."""
    middle = (first + second) / 2
    terms = (xlogy(first, first) + xlogy(second, second)) / 2 - xlogy(middle, middle)
    return terms.sum(axis=-1)


def _attention(
    trace: ViTTrace, layout: TokenLayout, columns: Any, num_tokens: int | None = None
) -> Float[Array, "b k p t"]:
    """Attention of the patches in the last block; 0 on tokens that are not there."""
    last = trace.blocks[-1]
    assert last is not None
    attn = last.attn[:, :, layout.patches]
    if num_tokens in (None, len(columns)):
        return attn
    return jnp.zeros((*attn.shape[:-1], num_tokens)).at[..., columns].set(attn)


def _unit(tokens: Float[Array, "b p d"]) -> Float[Array, "b p d"]:
    length = jnp.sqrt(jnp.sum(jnp.square(tokens), axis=-1, keepdims=True))
    return tokens / jnp.maximum(length, 1e-12)
