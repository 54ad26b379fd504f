"""What do the parameters start as? Random values, or those of a checkpoint that a run goes on from.

A checkpoint may get what it lacks: registers, a head for other classes, positions of another image
size.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from regvit_jax import checkpoint
from regvit_jax.checkpoint import Params
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, init_params
from regvit_jax.positions import resample_pos_embed
from regvit_jax.train.evaluate import same_names
from regvit_jax.train.recipe import Recipe

logger = logging.getLogger(__name__)

MAY_DIFFER = frozenset(
    {
        "num_registers",
        "num_classes",
        "image_size",
        "drop_path_rate",
        "layer_scale_init",
        "register_init_std",
        "pos_resampling",
    }
)
"""Fields of the model in which a run may differ from the checkpoint that it starts from."""


def start_params(recipe: Recipe, class_names: tuple[str, ...], rng: Key[Array, ""]) -> Params:
    """The parameters before the first step.

    Args:
      recipe: Its model has a head for the classes.
      class_names: Of the training images; a head for others starts anew.
      rng: For all that is random.

    Raises:
      InputError: If the checkpoint cannot be read or is of another model.
    """
    fresh = init_params(DeiT3(recipe.model), rng)
    if not recipe.init:
        return fresh
    info = check_init(recipe)
    assert info is not None
    _, found = checkpoint.load(recipe.init)
    return _grown(found, info, recipe.model, class_names, fresh)


def check_init(recipe: Recipe) -> checkpoint.CheckpointInfo | None:
    """What the checkpoint that a recipe starts from is, None without one; reads no weights.

    Raises:
      InputError: If there is none, or its model cannot become the recipe's.
    """
    if not recipe.init:
        return None
    info = checkpoint.read_info(Path(recipe.init))
    if info.model.added is not None:
        raise InputError(
            f"The checkpoint {recipe.init} has test-time registers, which belong to weights as "
            "they are. Start from the checkpoint that they were added to."
        )
    before, now = dataclasses.asdict(info.model), dataclasses.asdict(recipe.model)
    wrong = [name for name in before if name not in MAY_DIFFER and before[name] != now[name]]
    if wrong:
        lines = [f"{name}: {before[name]!r} there, {now[name]!r} asked for" for name in wrong]
        raise InputError(
            f"The checkpoint {recipe.init} is another model:\n  " + "\n  ".join(lines) + "\nWith "
            "--init the model is the checkpoint's; leave these options out."
        )
    if info.model.rope == "scaled" and info.model.grid != recipe.model.grid:
        raise InputError(
            f"The rotary positions of {recipe.init} belong to images of {info.model.image_size} "
            f"px; a run cannot go on with {recipe.model.image_size} px. Leave --model.image-size "
            "out."
        )
    if recipe.model.num_registers < info.model.num_registers:
        raise InputError(
            f"The checkpoint {recipe.init} has {info.model.num_registers} registers; a run can add "
            f"some, but not go on with {recipe.model.num_registers}."
        )
    return info


def _grown(
    found: Params,
    info: checkpoint.CheckpointInfo,
    config: ViTConfig,
    class_names: tuple[str, ...],
    fresh: Params,
) -> Params:
    """The checkpoint's parameters, and fresh ones where it has none."""
    params: dict[str, Any] = fresh | found
    if config.num_registers > info.model.num_registers:
        old = found.get("reg_tokens", np.zeros((1, 0, config.embed_dim), np.float32))
        added = fresh["reg_tokens"][:, info.model.num_registers :]
        params["reg_tokens"] = jnp.concatenate([old, added], axis=1)
    if config.pos_embed:
        params["pos_embed"] = resample_pos_embed(
            jnp.asarray(found["pos_embed"]), info.model.grid, config.grid, config.pos_resampling
        )
    same_number = info.model.num_classes == config.num_classes
    fits = same_number and (not info.class_names or same_names(info.class_names, class_names))
    if "head" in fresh and fits and not info.class_names:
        logger.warning(
            "The checkpoint that the run starts from names no classes: its head is kept, and its "
            "outputs are matched to the folders by order (0 = %s, 1 = %s, ...).",
            *(*class_names, "none")[:2],
        )
    if "head" in fresh and not fits:
        params["head"] = fresh["head"]
    if "head" not in fresh:
        params.pop("head", None)
    return jax.tree.map(jnp.asarray, params)
