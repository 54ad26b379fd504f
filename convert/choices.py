"""What may the user say about a model that is imported?"""

import dataclasses
from typing import Any, Literal

from regvit_jax.errors import InputError

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user says of the network and its pixels; it wins over what the files say."""

    num_heads: int | None = None
    """Attention heads."""
    mean: tuple[float, ...] | None = None
    """Mean of the training pixels in [0, 1]: one number, or one for each channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the training pixels in [0, 1]: one number, or three."""
    crop: float | None = None
    """Side of evaluation's centre crop as a part of the short side, in (0, 1]."""
    image_size: int | None = None
    """Side of the images in evaluation, in pixels."""
    short_side: int | None = None
    """Short side before the centre crop, in pixels."""
    interpolation: Interpolation | None = None
    """How images are resized."""
    epsilon: float | None = None
    """Added to the variance in every LayerNorm."""
    activation: Activation | None = None
    """GELU of the MLPs: exact, by tanh, or OpenAI's by a sigmoid."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the position embedding, where they are not equal."""

    def __post_init__(self) -> None:
        for name in ("num_heads", "image_size", "short_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{_option(name)} is {value}, expected at least 1.")
        for name, most in (("crop", 1.0), ("epsilon", 0.1)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise InputError(
                    f"{_option(name)} is {value}, expected a number above 0, at most {most}."
                )
        for name, least in (("mean", -1e3), ("std", 0.0)):
            values = getattr(self, name)
            if values is not None and (
                len(values) not in (1, 3) or not all(least < value < 1e3 for value in values)
            ):
                raise InputError(
                    f"{_option(name)} is {' '.join(map(str, values))}, expected one or three "
                    f"numbers{' above 0' if name == 'std' else ''}."
                )
        if self.grid is not None and min(self.grid) < 1:
            raise InputError(
                f"--grid is {self.grid[0]} {self.grid[1]}, expected rows and columns of patches."
            )
        if self.crop is not None and self.short_side is not None:
            raise InputError("--crop and --short-side say the same thing. Give one of them.")

    def channels(self, name: str) -> tuple[float, float, float] | None:
        """The mean or the standard deviation, one number a channel; None if nothing is said."""
        values = getattr(self, name)
        if values is None:
            return None
        red, green, blue = tuple(values) * (3 // len(values))
        return red, green, blue

    @property
    def said(self) -> dict[str, Any]:
        """What is said, by name."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if value is not None}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
