"""What takes the place of CLS and the registers? Conditions, and the edit that they all are.

After every block, the chosen tokens become a x mean + b x sd x noise + c x those of another image:
one compiled pass serves every condition. Means and standard deviations are over the images, of each
block, token and channel; noise is Gaussian.  Reference: Parodi, Matelsky and Segado,
arXiv:2604.14433.

Letters: b images, l blocks, t tokens, s CLS and registers, d channels, c conditions, o images whose
tokens may be another's.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from regvit_jax.edits import Edit
from regvit_jax.tokens import TokenLayout

MOST_SINGLE = 8
"""With more registers than this, single ones are not ablated."""
WAYS = {
    "zeroed": (0.0, 0.0, 0.0),
    "mean": (1.0, 0.0, 0.0),
    "noise": (1.0, 1.0, 0.0),
    "other_image": (0.0, 0.0, 1.0),
}
"""Weights of the mean, the noise and another image's tokens."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """One thing that is done to tokens."""

    name: str
    title: str
    which: tuple[int, ...] = ()
    """CLS and registers, by their place in `TokenLayout.special_names`."""
    way: str = "zeroed"
    on_patches: bool = False
    """Whether random patches are zeroed instead."""
    drops: tuple[int, ...] = ()
    """Registers that never enter, by number."""


class Moments(NamedTuple):
    """CLS and registers after every block, over all images."""

    mean: Float[np.ndarray, "l s d"]
    sd: Float[np.ndarray, "l s d"]
    others: Float[np.ndarray, "o l s d"]
    """Those of some images."""


def conditions_of(
    layout: TokenLayout, control_patches: int, num_trained: int | None = None
) -> list[Condition]:
    """What is done to a model's tokens, the control last.

    Args:
      layout: Of the tokens.
      control_patches: How many.
      num_trained: Registers that can be dropped, all unless given: test-time registers are part of
        what such a model is.
    """
    registers = tuple(range(layout.has_cls, layout.num_specials))
    count = len(registers)
    found = []
    if count:
        all_of_them = "the register" if count == 1 else f"all {count} registers"
        for name, way, words in (
            ("registers_zeroed", "zeroed", "zeroed"),
            ("registers_mean", "mean", "replaced by their mean"),
            ("registers_noise", "noise", "replaced by noise"),
            ("registers_other_image", "other_image", "taken from another image"),
        ):
            found.append(Condition(name, f"{all_of_them} {words}", registers, way))
        dropped = tuple(range(count if num_trained is None else num_trained))
        if dropped:
            title = f"{all_of_them if len(dropped) == count else len(dropped)} dropped"
            found.append(Condition("registers_dropped", title, drops=dropped))
        if 1 < count <= MOST_SINGLE:
            for number, place in enumerate(registers):
                name, title = f"register_{number}_zeroed", f"register {number} zeroed"
                found.append(Condition(name, title, (place,)))
    if layout.has_cls:
        found.append(Condition("cls_zeroed", "CLS zeroed", (0,)))
        found.append(Condition("cls_mean", "CLS replaced by its mean", (0,), "mean"))
    words = "a random patch" if control_patches == 1 else f"{control_patches} random patches"
    found.append(Condition("patches_zeroed", f"{words} zeroed", on_patches=True))
    return found


def as_arrays(conditions: list[Condition], layout: TokenLayout) -> dict[str, np.ndarray]:
    """The conditions of one program: which tokens, and how."""
    which = np.zeros((len(conditions), layout.num_specials), bool)
    for row, condition in zip(which, conditions, strict=True):
        row[list(condition.which)] = True
    return {
        "which": which,
        "weights": np.array([WAYS[condition.way] for condition in conditions], np.float32),
        "on_patches": np.array([condition.on_patches for condition in conditions]),
    }


def image_keys(images: Float[Array, "b h w v"], seed: int) -> Key[Array, " b"]:
    """A random key of each image, by its pixels: the same in any batch."""
    bits = lax.bitcast_convert_type(images.astype(jnp.float32), jnp.uint32).reshape(len(images), -1)
    odd = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    summed = jnp.sum(bits * odd[None], axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda one: jax.random.fold_in(jax.random.key(seed), one))(summed)


def random_patches(keys: Key[Array, " b"], layout: TokenLayout, count: int) -> Bool[Array, "b t"]:
    """So many patches of each image, at random; True at their tokens."""
    num_patches = layout.num_patches

    def draw(key):
        places = jax.random.permutation(key, num_patches)[: min(count, num_patches)]
        tokens = jnp.arange(layout.num_tokens)[layout.patches][places]
        return jnp.zeros(layout.num_tokens, bool).at[tokens].set(True)

    return jax.vmap(draw)(keys)


def replacing(
    condition: dict[str, Array], moments: Any, keys: Key[Array, " b"], layout: TokenLayout, patches
) -> Edit:
    """The edit of one condition.

    Args:
      condition: A row of `as_arrays`.
      moments: A `Moments`, as arrays of the program.
      keys: Of the images.
      layout: Of the tokens.
      patches: Of the control, (b, t).
    """
    places = np.array(layout.specials)
    a, b, c = condition["weights"]

    def tokens(layer: int, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        def drawn(key):
            of_noise, of_image = jax.random.split(jax.random.fold_in(key, layer))
            noise = jax.random.normal(of_noise, moments.mean.shape[1:])
            other = jax.random.randint(of_image, (), 0, len(moments.others))
            return b * moments.sd[layer] * noise + c * moments.others[other, layer]

        x = jnp.where((condition["on_patches"] & patches)[:, :, None], 0.0, x)
        if not len(places):
            return x
        new = (a * moments.mean[layer])[None] + jax.vmap(drawn)(keys)
        is_new = condition["which"][None, :, None]
        return x.at[:, places].set(jnp.where(is_new, new, x[:, places]))

    return Edit(tokens=tokens)
