"""What is a network in somebody else's code, to compare ours with?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Run = Callable[[Float[np.ndarray, "b h w 3"]], dict[str, np.ndarray]]
"""From normalised images to tensors by the names that `verification` gives them."""


class Reference(NamedTuple):
    """A network in somebody else's code."""

    title: str
    is_resampling: bool
    """Whether it takes images of other sizes, with the family's own rule for positions."""
    run: Run
    knows: tuple[str, ...] = ()
    """What it was not told: names of what is assumed on our side, that it so proves or refutes."""


EVERYTHING = ("attention heads", "activation", "LayerNorm epsilon", "input of the head")
"""What a network that is built by its own name is not told."""


def channels_first(torch: Any, images: Float[np.ndarray, "b h w c"]) -> Any:
    """Images as torch's models want them."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
