"""What does training teach each patch? Targets of its own, through a layer that is thrown away.

A linear layer reads what every patch is from its token after the last norm. It is part of the
state of a run, so that a run continues bit for bit, and of no checkpoint. Mirrored, blended and
pasted images have their patches' targets mirrored, blended and pasted too.

Reference: arXiv:2104.10858 (token labelling); arXiv:2304.07193 (DINOv2's loss of patches).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import reduce
from jaxtyping import Array, Bool, Float, Int, Key

from regvit_jax.checkpoint import Params
from regvit_jax.errors import InputError
from regvit_jax.source import Sample, Source, TokenSource
from regvit_jax.train.mixing import Mix, own_share, swap_partners
from regvit_jax.train.optim import READOUT
from regvit_jax.train.recipe import Recipe

READOUT_STREAM = 0x70C3

Tokens = Int[Array | np.ndarray, "b n"] | Float[Array | np.ndarray, "b n k"]
"""A class per patch (-1: none), or the shares of all classes (all 0: none)."""


def check_tokens(recipe: Recipe, source: Source) -> None:
    """Raises unless a recipe's token loss can be computed on these images.

    Raises:
      InputError: If it cannot.
    """
    if recipe.token_loss and not isinstance(source, TokenSource):
        raise InputError(
            f"{source.name} has no targets for patches. --token-loss needs data that has, such as "
            "--data cues; leave it out, or set it to 0."
        )


def token_targets(sample: Sample, recipe: Recipe, name: str) -> np.ndarray:
    """The targets of an image's patches, row by row: (n,) or (n, k).

    Args:
      sample: The image, which is trained on as a whole.
      recipe: Has the model's grid.
      name: What error messages call the image.

    Raises:
      InputError: If there are none, they are of another grid, or the image is cropped.
    """
    targets, grid = sample.token_targets, recipe.model.grid
    if targets is None:
        raise InputError(f"{name} has no targets for its patches, which --token-loss needs.")
    if targets.shape[:2] != grid:
        rows, cols = targets.shape[:2]
        raise InputError(
            f"{name} has targets for {rows} x {cols} patches, the model has {grid[0]} x {grid[1]}. "
            "Choose --image-size and --patch-size accordingly."
        )
    if sample.image.width != sample.image.height:
        raise InputError(
            f"{name} has {sample.image.width} x {sample.image.height} px and would be cropped, "
            "which its patches' targets do not follow. --token-loss needs square images."
        )
    return targets.reshape(-1, *targets.shape[2:])


def with_readout(params: Params, recipe: Recipe, source: Source, rng: Key[Array, ""]) -> Params:
    """The parameters of a state: a model's, and the layer that reads patches if one is trained."""
    if not recipe.token_loss:
        return params
    assert isinstance(source, TokenSource)  # `check_tokens` has looked
    shape = recipe.model.embed_dim, source.token_classes
    kernel = 0.02 * jax.random.normal(jax.random.fold_in(rng, READOUT_STREAM), shape)
    return params | {READOUT: {"kernel": kernel, "bias": jnp.zeros(shape[1])}}


def without_readout(params: Params) -> Params:
    """The model's part of a state's parameters."""
    return {name: leaf for name, leaf in params.items() if name != READOUT}


def token_loss(
    readout: Params, tokens: Float[Array, "b n d"], targets: Float[Array, "b n k"]
) -> Float[Array, " b"]:
    """Cross-entropy of each image's patches, in nats, averaged over all of them.

    A patch counts as far as its shares add up: one without a target counts 0.

    Args:
      readout: The layer's kernel and bias.
      tokens: Patches after the last norm.
      targets: Shares of the classes.
    """
    logits = tokens @ readout["kernel"] + readout["bias"][None, None]
    return optax.softmax_cross_entropy(logits, targets).mean(axis=1)


def seen_targets(
    tokens: Tokens,
    num_classes: int,
    is_flipped: Bool[Array, " b"] | None,
    mix: Mix | None,
    recipe: Recipe,
) -> Float[Array, "b n k"]:
    """The targets of the patches as a step sees them.

    Args:
      tokens: As the data have them.
      num_classes: Of patches.
      is_flipped: Images that are mirrored; None where none is.
      mix: How images are made from two, if they are.
      recipe: Has the model's grid.
    """
    targets: Any = jnp.asarray(tokens)
    if targets.ndim == 2:
        targets = jax.nn.one_hot(targets, num_classes)  # -1 becomes zeros
    if is_flipped is not None:
        rows, cols = recipe.model.grid
        mirrored = targets.reshape(-1, rows, cols, num_classes)[:, :, ::-1].reshape(targets.shape)
        targets = jnp.where(is_flipped[:, None, None], mirrored, targets)
    if mix is None:
        return targets
    size, patch = recipe.model.image_size, recipe.model.patch_size
    own = reduce(own_share(mix, size, size), "b (r p) (c q) -> b (r c) 1", "mean", p=patch, q=patch)
    return own * targets + (1.0 - own) * swap_partners(targets)
