"""How do the parameters move? LAMB and AdamW with DeiT's partition, and the learning rate."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from regvit_jax.checkpoint import Params
from regvit_jax.train.recipe import OptimConfig, Trainable

# How much further Muon moves a matrix than Adam a vector: its steps have singular values of 1.
MUON_RATIO = 10.0
READOUT = "token_readout"
"""Among a state's parameters, the layer of the token loss (`regvit_jax.train.token_labels`)."""
UNDECAYED = frozenset({"pos_embed", "cls_token", "reg_tokens"})


def rate_at(optim: OptimConfig, epochs: float, epoch: jax.typing.ArrayLike) -> jax.Array:
    """The learning rate at a time: a straight rise, then a cosine whose clock runs from 0.

    Args:
      optim: With the rates.
      epochs: Length of the run.
      epoch: The time, in epochs since the start.

    Reference: `CosineLRScheduler` of timm with `warmup_prefix=False`.
    """
    epoch = jnp.asarray(epoch, jnp.float32)
    peak, final = optim.learning_rate, optim.final_learning_rate
    fraction = jnp.clip(epoch / epochs, 0.0, 1.0)
    cosine = final + 0.5 * (peak - final) * (1.0 + jnp.cos(math.pi * fraction))
    start = optim.warmup_learning_rate
    rise = start + epoch * (peak - start) / max(optim.warmup_epochs, 1e-12)
    return jnp.where(epoch < optim.warmup_epochs, rise, cosine)


def make_schedule(optim: OptimConfig, epochs: float, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        if optim.rate_changes != "step":
            lag = 1 if optim.rate_changes == "late_epoch" else 0
            return rate_at(optim, epochs, jnp.maximum(step // steps_per_epoch - lag, 0))
        return rate_at(optim, epochs, step / steps_per_epoch)

    return schedule


def is_decayed(params: Params) -> Params:
    """True for the matrix-like tensors: 50 in a model of depth 12.

    These alone are decayed, and LAMB scales these alone by the ratio of norms: at LayerScale's
    start values of 1e-4, the ratio would keep the other tensors from ever moving.

    Reference: `param_groups_weight_decay` of timm; FusedLAMB of apex with `use_nvlamb=False`.
    """

    def decide(path: tuple[Any, ...], leaf: Any) -> bool:
        return leaf.ndim > 1 and path[-1].key not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decide, params)


def is_trained(path: tuple[Any, ...], trainable: Trainable) -> bool:
    """Whether the parameter at a path of the tree learns."""
    name = path[0].key
    if name == READOUT:
        return True
    in_part = {"reg_tokens": "registers", "head": "head"}.get(name)
    return trainable == "all" or (in_part is not None and in_part in trainable.split("_and_"))


def make_optimizer(
    optim: OptimConfig, schedule: optax.Schedule, trainable: Trainable = "all"
) -> optax.GradientTransformation:
    """Clipping, Adam's direction, decay, with LAMB the ratio of norms, and the learning rate.

    What is not trained gets no update, decay included.
    """
    parts = [optax.clip_by_global_norm(optim.clip_norm), _direction(optim, schedule)]
    if trainable != "all":
        parts.append(optax.stateless(lambda updates, _: _only(updates, trainable)))
    return optax.chain(*parts)


def _only(updates: Params, trainable: Trainable) -> Params:
    def keep(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf if is_trained(path, trainable) else jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(keep, updates)


def _direction(optim: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    if optim.optimizer == "muon":
        return _muon(optim, schedule)
    decayed_only = [optax.add_decayed_weights(optim.weight_decay)]
    if optim.optimizer == "lamb":
        decayed_only.append(optax.scale_by_trust_ratio())
    return optax.chain(
        optax.scale_by_adam(b1=optim.beta1, b2=optim.beta2, eps=optim.epsilon),
        optax.masked(optax.chain(*decayed_only), is_decayed),
        optax.scale_by_learning_rate(schedule),
    )


def _muon(optim: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Orthogonalised momentum for the dense kernels, Adam for all other tensors."""
    return optax.contrib.muon(
        lambda step: MUON_RATIO * schedule(step),
        weight_decay=optim.weight_decay,
        adam_learning_rate=schedule,
        adam_b1=optim.beta1,
        adam_b2=optim.beta2,
        eps=optim.epsilon,
    )
