"""How sure is a share of n images, such as an accuracy?"""

import math
from typing import NamedTuple

Z_95 = 1.959963984540054


class Share(NamedTuple):
    """A share of n images, with its 95 % interval."""

    share: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        percent = (100 * value for value in (self.share, self.low, self.high))
        return "{:.2f} % ({:.2f} to {:.2f}, n = {})".format(*percent, self.n)


def wilson(hits: int, n: int) -> Share:
    """A share with Wilson's interval, which also holds near 0 and 1.

    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, z2 = hits / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Share(share, max(0.0, centre - half), min(1.0, centre + half), n)
