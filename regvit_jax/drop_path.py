"""Which images skip which residual branches in training (stochastic depth)?"""

import jax
from jaxtyping import Array, Float, Key


def draw_drop_path(rngs: Key[Array, " b"], rate: float, depth: int) -> Float[Array, "b l 2"]:
    """Factors of the two residual branches of every block: 0, or 1 / (1 - rate).

    Every image has its own key, so that what is drawn for it depends neither on its place in the
    batch nor on the number of devices. The rate is the same in all blocks, the two branches are
    drawn apart.

    Reference: arXiv:1603.09382; `DropPath` of timm, with `scale_by_keep`.
    """
    keep = jax.vmap(lambda rng: jax.random.bernoulli(rng, 1.0 - rate, (depth, 2)))(rngs)
    return keep / (1.0 - rate)
