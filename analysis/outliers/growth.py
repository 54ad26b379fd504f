"""Did the network make the group, or do the pixels? Compared with patches of the same pixel norm.

White backgrounds have large norms after the patch convolution in any model, even an untrained one.
A group has grown where its patches are further out than *other* patches of the same norm there.
"""

import numpy as np
from jaxtyping import Bool, Float

BIN_PARTS = 8
"""Bins per doubling of the norm before the blocks."""
LEAST_OTHERS = 0.1
"""Share of a bin's patches outside the group that makes them a comparison."""


def growth(
    contrasts: Float[np.ndarray, "n p"],
    in_group: Bool[np.ndarray, "n p"],
    before: Float[np.ndarray, "n p"],
) -> float:
    """The group's norm, in units of that of patches outside it with the same norm before.

    Where nearly all patches of a bin belong to the group, there is nobody to compare with; patches
    of that bin are then expected to be as far out as they were before.

    Args:
      contrasts: Log2 of the norms over the median of their image.
      in_group: Whose growth is asked for.
      before: Norms of the same patches before the blocks.
    """
    logs = np.log2(np.maximum(before, 1e-30, dtype=np.float32))
    logs = logs - np.median(logs)
    bins = np.floor(logs * BIN_PARTS).astype(int)
    gains = []
    for place in np.unique(bins[in_group]):
        here = bins == place
        inside = contrasts[here & in_group]
        others = contrasts[here & ~in_group]
        is_known = len(others) >= LEAST_OTHERS * (len(others) + len(inside))
        expected = np.median(others) if is_known else np.median(logs[here & in_group])
        gains.append(inside - expected)
    return float(2.0 ** np.median(np.concatenate(gains)))
