"""Which colours does a training image get? DeiT-III's 3-Augment and colour jitter, on the device.

All arithmetic is on whole grey levels held as float32, rounded where Pillow rounds, so that the
results are Pillow's. Red, green and blue are arrays of their own: with three values side by side, a
CPU cannot compute eight pixels at once (measured: seven times slower). `cond` and `fori_loop` keep
the compiler from computing a step anew for each of its uses.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

GREY, SOLARISE, BLUR = range(3)
"""The three effects, of which an image gets one."""
BRIGHTNESS, CONTRAST, SATURATION = range(3)
"""The adjustments of the jitter, each of which an image gets."""

ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION)))

MIN_RADIUS, MAX_RADIUS = 0.1, 2.0
SOLARISE_FROM = 128
BOX_PASSES, WEIGHT_BITS = 3, 24

Plane = Float[Array, "b h w"]
PerImage = Float[Array, "b 1 1"]


class Planes(NamedTuple):
    """The grey levels of each colour, from 0 to 255."""

    red: Plane
    green: Plane
    blue: Plane


class ColourDraw(NamedTuple):
    """What chance decided for each image."""

    effect: Int[Array, " b"]
    """`GREY`, `SOLARISE` or `BLUR`."""
    radius: Float[Array, " b"]
    """Standard deviation of the blur, in pixels."""
    order: Int[Array, "b 3"]
    """The adjustments, first to last."""
    factors: Float[Array, "b 3"]
    """Strength of each adjustment; 1 changes nothing."""


def draw_colours(rngs: Key[Array, " b"], jitter: float) -> ColourDraw:
    """Draws effect and adjustments, each image by its own key.

    Args:
      rngs: One key an image.
      jitter: Factors lie between 1 - jitter and 1 + jitter.

    Reference: `augment.py` of facebookresearch/deit; `ColorJitter` of torchvision.
    """
    # One call for all: each takes the compiler a second on a CPU.
    drawn = jax.vmap(lambda rng: jax.random.uniform(rng, (6,)))(rngs)
    effect, radius, order = drawn[:, 0], drawn[:, 1], drawn[:, 2]
    return ColourDraw(
        effect=jnp.floor(3 * effect).astype(jnp.int32),
        radius=MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * radius,
        order=jnp.asarray(ORDERS)[jnp.floor(len(ORDERS) * order).astype(jnp.int32)],
        factors=1.0 + jitter * (2.0 * drawn[:, 3:] - 1.0),
    )


def to_planes(pixels: UInt8[Array, "b h w 3"]) -> Planes:
    """The three colours of the images."""
    return Planes(*(pixels[..., i].astype(jnp.float32) for i in range(3)))


def to_pixels(planes: Planes) -> UInt8[Array, "b h w 3"]:
    """The images of three colours."""
    return jnp.stack(planes, axis=-1).astype(jnp.uint8)


def apply_effect(planes: Planes, draw: ColourDraw) -> Planes:
    """Greyscale, solarised or blurred, as drawn: 3-Augment (arXiv:2204.07118)."""
    # The only costly effect. Where images come one at a time, it is computed only when drawn.
    is_blurred = (draw.effect == BLUR).any()
    blurred = jax.lax.cond(is_blurred, gaussian_blur, lambda planes, _: planes, planes, draw.radius)
    effect, shade = _per_image(draw.effect), grey(planes)

    def choose(sharp: Plane, soft: Plane) -> Plane:
        return jnp.where(effect == GREY, shade, jnp.where(effect == BLUR, soft, solarise(sharp)))

    return Planes(*map(choose, planes, blurred))


def adjust(planes: Planes, draw: ColourDraw) -> Planes:
    """Brightness, contrast and saturation, changed in the order drawn.

    Each is a step from a picture without it (black, the mean grey, the pixel's own grey) to the
    image and, for factors above 1, beyond.

    Reference: `ImageEnhance` of Pillow, called by `ColorJitter` of torchvision.
    """

    def adjust_one(place: Int[Array, ""], planes: Planes) -> Planes:
        kind = jnp.take(draw.order, place, axis=1)
        factor = jnp.take_along_axis(draw.factors, kind[:, None], axis=1)[:, 0]
        shade, kind, factor = grey(planes), _per_image(kind), _per_image(factor)
        without = jnp.where(kind == CONTRAST, mean_level(shade), shade)
        without = jnp.where(kind == BRIGHTNESS, 0.0, without)
        return Planes(*(blend(without, plane, factor) for plane in planes))

    return jax.lax.fori_loop(0, 3, adjust_one, planes)


def grey(planes: Planes) -> Plane:
    """The luminance of ITU-R 601, by Pillow's 16-bit weights; exact in float32."""
    weighted = 19595.0 * planes.red + 38470.0 * planes.green + 7471.0 * planes.blue
    return jnp.floor((weighted + 32768.0) / 65536.0)


def solarise(plane: Plane) -> Plane:
    """Bright levels inverted."""
    return jnp.where(plane < SOLARISE_FROM, plane, 255.0 - plane)


def mean_level(plane: Plane) -> PerImage:
    """The mean of each image, rounded to a whole level."""
    return jnp.floor(plane.mean((1, 2), keepdims=True) + 0.5)


def blend(start: Array, end: Plane, factor: PerImage) -> Plane:
    """The level `factor` of the way from one image to another, cut to what 8 bits hold."""
    return jnp.trunc(jnp.clip(start + factor * (end - start), 0.0, 255.0))


def gaussian_blur(planes: Planes, radius: Float[Array, " b"]) -> Planes:
    """Blurred by Pillow's rule: three box filters along each axis, each rounded.

    Args:
      planes: What to blur, whole levels.
      radius: Standard deviation in pixels, at most `MAX_RADIUS`.

    Reference: `BoxBlur.c` of Pillow; Gwosdek et al. 2011, "Theoretical foundations of Gaussian
      convolution by extended box filtering".
    """
    taps = box_taps(radius)

    def blur(plane: Plane) -> Plane:
        levels = plane.astype(jnp.uint32)
        for axis in (2, 1):
            levels = jax.lax.fori_loop(
                0, BOX_PASSES, lambda _, x, axis=axis: _box_filter(x, taps, axis), levels
            )
        return levels.astype(jnp.float32)

    return Planes(*(blur(plane) for plane in planes))


def box_taps(radius: Float[Array, " b"]) -> UInt32[Array, "b 3"]:
    """Weights of a pixel, its neighbours and theirs: three passes make the deviation `radius`.

    In units of 2^-24 and cut to whole ones, as Pillow has them: this decides where the sum lies
    half-way between two levels, which is so for every thirtieth pixel at a radius of 2.
    """
    variance = radius**2 / BOX_PASSES
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)  # 0 or 1
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part /= 6 * (variance - (whole + 1) ** 2)
    inner = (2**WEIGHT_BITS / (2 * (whole + part) + 1)).astype(jnp.uint32)
    outer = (2**WEIGHT_BITS - (2 * whole + 1).astype(jnp.uint32) * inner) // 2
    is_wide = whole == 1
    return jnp.stack(
        [inner, jnp.where(is_wide, inner, outer), jnp.where(is_wide, outer, 0)], axis=1
    )


def _box_filter(
    levels: UInt32[Array, "b h w"], taps: UInt32[Array, "b 3"], axis: int
) -> UInt32[Array, "b h w"]:
    size = levels.shape[axis]
    widths = [(2, 2) if i == axis else (0, 0) for i in range(3)]
    padded = jnp.pad(levels, widths, mode="edge")
    shifted = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(5)]
    own, near, far = (_per_image(taps[:, i]) for i in range(3))
    total = own * shifted[2] + near * (shifted[1] + shifted[3]) + far * (shifted[0] + shifted[4])
    return (total + 2 ** (WEIGHT_BITS - 1)) >> WEIGHT_BITS


def _per_image(values: Array) -> Array:
    return values[:, None, None]
