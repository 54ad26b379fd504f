"""What does each patch show, and what is said of it? Labels from masks, and counts of agreement.

Letters: b images, p patches of a grid (gh, gw), c classes, d channels, s sampled patches.
"""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from regvit_jax.analysis.engine.extract import Forward
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.batches import Batch
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import VOID, MaskedSource
from regvit_jax.tokens import TokenLayout

Stream = Literal["normed", "last"]


def patch_classes(
    mask: UInt8[np.ndarray, "h w"], patch_size: int, num_classes: int
) -> Int[np.ndarray, " p"]:
    """The class of most of each patch's pixels, -1 where most are void; of equals the first."""
    rows, cols = (side // patch_size for side in mask.shape)
    split = mask.reshape(rows, patch_size, cols, patch_size).swapaxes(1, 2)
    cells = split.reshape(rows * cols, -1)
    counts = np.stack([(cells == value).sum(axis=1) for value in (*range(num_classes), VOID)], 1)
    found = counts.argmax(axis=1)
    return np.where(found == num_classes, -1, found)


def classes_of(
    images: Images, preprocess: Preprocess, patch_size: int, indices: Int[np.ndarray, " b"]
) -> Int[np.ndarray, "b p"]:
    """`patch_classes` of some images, as they are prepared for the network."""
    source = images.source
    assert isinstance(source, MaskedSource)
    given = (patch_size, len(source.mask_classes))
    masks = (preprocess.mask(source.mask(index), VOID) for index in indices.tolist())
    return np.stack([patch_classes(mask, *given) for mask in masks])


def patches_of(trace: ViTTrace, layout: TokenLayout, stream: Stream) -> Float[Array, "b p d"]:
    """The patches that are classified."""
    last = trace.blocks[-1]
    assert last is not None
    tokens = trace.normed if stream == "normed" else last.tokens
    return tokens[:, layout.patches].astype(jnp.float32)


def kept_samples(
    images: Images,
    preprocess: Preprocess,
    patch_size: int,
    stream: Stream,
    count: int,
    seed: int,
) -> Keep:
    """Keeps some random patches of each image: "features" (s, d) and "classes" (s)."""

    def columns(batch: Batch, patches: Any) -> dict[str, np.ndarray]:
        patches = np.asarray(patches)
        classes = classes_of(images, preprocess, patch_size, batch.indices)
        most = min(count, patches.shape[1])
        drawn = [
            np.random.default_rng((seed, index)).permutation(patches.shape[1])[:most]
            for index in batch.indices.tolist()
        ]
        places = np.stack(drawn)
        return {
            "features": np.take_along_axis(patches, places[..., None], axis=1),
            "classes": np.take_along_axis(classes, places, axis=1).astype(np.int32),
        }

    key = ("sampled patches with classes", stream, count, seed)
    reduce = lambda trace, layout: patches_of(trace, layout, stream)  # noqa: E731
    return Keep(key, images, preprocess, reduce, columns, blocks=(-1,))


def kept_counts(
    images: Images,
    preprocess: Preprocess,
    patch_size: int,
    stream: Stream,
    classifier: tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]],
    num_classes: int,
) -> Keep:
    """Keeps how the classes of each image's patches and what is said of them agree.

    Columns: "linear" (c, 3), of each class the patches that are of it and said to be, that are of
    it, that are said to be; "map" (2, 3), the same of background and the rest, for the patches that
    CLS looks at more than at the mean patch, where there is CLS. Void patches do not count.

    Args:
      images: The images.
      preprocess: What becomes of them.
      patch_size: In pixels.
      stream: The patches that are classified.
      classifier: Weights and intercepts of all classes; minus infinity for one not learned.
      num_classes: Of masks.
    """

    def compute(forward: Forward, given: Any) -> dict[str, Array]:
        layout, trace = forward.layout, forward.trace
        weights, intercepts = given
        patches = patches_of(trace, layout, stream)
        logits = jnp.matmul(patches, weights, precision="highest") + intercepts[None, None]
        found = {"said": logits.argmax(axis=-1).astype(jnp.int32)}
        if layout.has_cls:
            last = trace.blocks[-1]
            assert last is not None
            looked = last.attn[:, :, 0, layout.patches].mean(axis=1)
            found["looked_at"] = looked > looked.mean(axis=1, keepdims=True)
        return found

    def columns(batch: Batch, said: Any) -> dict[str, np.ndarray]:
        classes = classes_of(images, preprocess, patch_size, batch.indices)
        found = {"linear": agreement(classes, np.asarray(said["said"]), num_classes)}
        if "looked_at" in said:
            truth = np.where(classes < 0, -1, classes > 0)
            found["map"] = agreement(truth, np.asarray(said["looked_at"]).astype(int), 2)
        return found

    key = ("agreement of patches", stream, num_classes)
    return Keep(
        *(key, images, preprocess),
        columns=columns,
        compute=compute,
        given=classifier,
        blocks=(-1,),
    )


def agreement(
    truth: Int[np.ndarray, "b p"], said: Int[np.ndarray, "b p"], num_classes: int
) -> Int[np.ndarray, "b c 3"]:
    """Patches of each class in both, in the truth and in the answer, where the truth is known."""
    known = truth >= 0
    rows = []
    for value in range(num_classes):
        is_true, is_said = (truth == value) & known, (said == value) & known
        rows.append([x.sum(axis=1) for x in (is_true & is_said, is_true, is_said)])
    return np.array(rows, np.int32).transpose(2, 0, 1)


def mean_iou(means: Float[np.ndarray, "*r c 3"]) -> Float[np.ndarray, "*r"]:
    """The mean over the classes of intersection over union, pooled over images; classes that are
    neither there nor said do not count.
    """
    return np.asarray(np.nanmean(ious(means), axis=-1))


def ious(means: Float[np.ndarray, "*r c 3"]) -> Float[np.ndarray, "*r c"]:
    """Intersection over union of each class; NaN for one that is neither there nor said."""
    both, true, said = np.moveaxis(means, -1, 0)
    union = true + said - both
    return np.where(union > 0, both / np.where(union > 0, union, 1), np.nan)


def accuracy(means: Float[np.ndarray, "*r c 3"]) -> Float[np.ndarray, "*r"]:
    """The share of the patches that are classified correctly."""
    right, all_of_them = means[..., 0].sum(axis=-1), means[..., 1].sum(axis=-1)
    return np.asarray(right / np.maximum(all_of_them, 1e-30))
