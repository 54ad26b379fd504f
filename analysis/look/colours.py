"""What do the patches of a photograph have in common? Their first components as colours.

Letters: b images, n patches, d channels.
"""

import itertools

import numpy as np
from jaxtyping import Float

_TAILS = (0.01, 0.99)  # quantiles that become black and full colour


def component_colours(features: Float[np.ndarray, "b n d"]) -> Float[np.ndarray, "b n 3"]:
    """The first three principal components of the patches of all images as red, green, blue.

    Patches of like colour have like features; the colours themselves mean nothing. Each component
    is turned so that its larger extreme is bright.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    directions = np.linalg.eigh(flat.T @ flat)[1][:, :-4:-1]
    found = np.zeros((len(flat), 3))
    found[:, : directions.shape[1]] = flat @ directions
    found *= np.where(found.max(axis=0) < -found.min(axis=0), -1.0, 1.0)
    low, high = np.quantile(found, _TAILS, axis=0)
    scaled = ((found - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    return scaled.reshape(*features.shape[:2], 3)


def matched(
    colours: Float[np.ndarray, "b n 3"], reference: Float[np.ndarray, "b n 3"]
) -> Float[np.ndarray, "b n 3"]:
    """The same components, ordered and turned to be most like another model's of the same grid."""
    if colours.shape != reference.shape:
        return colours
    first, second = (x.reshape(-1, 3) - x.reshape(-1, 3).mean(axis=0) for x in (reference, colours))
    lengths = np.linalg.norm(first, axis=0)[:, None] * np.linalg.norm(second, axis=0)
    likeness = first.T @ second / np.maximum(lengths, 1e-12)
    order = max(
        itertools.permutations(range(3)),
        key=lambda o: sum(abs(likeness[i, o[i]]) for i in range(3)),
    )
    chosen = colours[..., list(order)]
    turned = np.array([likeness[i, order[i]] < 0 for i in range(3)])
    return np.where(turned, 1 - chosen, chosen)
