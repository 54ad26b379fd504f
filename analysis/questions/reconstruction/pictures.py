"""What does an image look like that is rebuilt from its tokens?"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.questions.reconstruction.probes import (
    Probes,
    apply_dense,
    apply_mlp,
    normalised_patches,
)
from regvit_jax.patches import patchify, unpatchify


@dataclasses.dataclass(frozen=True)
class ShownReconstruction:
    """One image and what the probes make of it."""

    name: str
    pixels: np.ndarray
    """Bytes, (h, w, 3)."""
    rebuilt: dict[str, np.ndarray]
    """By probe: colours in [0, 1], not clipped, (h, w, 3)."""
    errors: dict[str, np.ndarray]
    """By probe: L2 of each token in the normalised space, (gh, gw)."""
    is_outlier: Bool[np.ndarray, "gh gw"]


def rebuild(
    subject: Subject,
    probes: Probes,
    name: str,
    pixels: UInt8[np.ndarray, "h w 3"],
    tokens: Float[np.ndarray, "1 n d"],
    is_outlier: Bool[np.ndarray, " n"],
) -> ShownReconstruction:
    """What the probes make of one image's tokens."""
    preprocess, size = subject.preprocess, subject.config.patch_size
    grid = (preprocess.height // size, preprocess.width // size)
    targets = np.asarray(normalised_patches(patchify(pixels[None], size), preprocess))
    predicted = {"linear": apply_dense(probes.linear, tokens)}
    if probes.mlp is not None:
        predicted["mlp"] = apply_mlp(probes.mlp, tokens)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    rebuilt = {k: np.asarray(unpatchify(x, size, grid))[0] for k, x in predicted.items()}
    return ShownReconstruction(
        name,
        pixels.copy(),
        {k: image * std[None, None] + mean[None, None] for k, image in rebuilt.items()},
        {
            k: np.linalg.norm(np.asarray(x) - targets, axis=-1).reshape(grid)
            for k, x in predicted.items()
        },
        is_outlier.reshape(grid),
    )
