"""Are the colours those of Pillow and torchvision, level by level?

Every comparison is of whole images in grey levels, and asks for equality: on eight photographs of
scikit-image, and 40 of Imagenette where the machine has them. (A true Gaussian differs from
Pillow's blur by up to 19 levels, 0.33 in the mean.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from regvit_jax.preprocess import Preprocess
from regvit_jax.train.colour import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    GREY,
    SATURATION,
    SOLARISE,
    ColourDraw,
    adjust,
    apply_effect,
    draw_colours,
    to_pixels,
    to_planes,
)

ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


@pytest.fixture(scope="module")
def pixels(textures):
    """Eight photographs that scikit-image ships."""
    preprocess = Preprocess()
    mean, std = (np.array(value, np.float32) for value in (preprocess.mean, preprocess.std))
    return np.rint((textures * std + mean) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def all_pixels(pixels, request):
    """The same, and photographs of Imagenette where the machine has them."""
    try:
        folder = request.getfixturevalue("photographs")
    except pytest.skip.Exception:
        return pixels
    files = sorted(folder.rglob("*.JPEG"))[::100]
    return np.stack([*pixels, *(np.asarray(Image.open(file).convert("RGB")) for file in files)])


def drawn(count, effect=GREY, radius=1.0, order=(0, 1, 2), factors=(1.0, 1.0, 1.0)):
    """The same draw for all images, or one each."""
    return ColourDraw(
        jnp.broadcast_to(jnp.asarray(effect), (count,)),
        jnp.broadcast_to(jnp.asarray(radius, jnp.float32), (count,)),
        jnp.broadcast_to(jnp.asarray(order), (count, 3)),
        jnp.broadcast_to(jnp.asarray(factors, jnp.float32), (count, 3)),
    )


@jax.jit
def affected(pixels, draw):
    return to_pixels(apply_effect(to_planes(pixels), draw))


@jax.jit
def adjusted(pixels, draw):
    return to_pixels(adjust(to_planes(pixels), draw))


def difference(ours, pictures):
    """In grey levels, of our pixels from Pillow's images."""
    return np.abs(np.asarray(ours, int) - np.stack([np.asarray(p) for p in pictures]).astype(int))


def test_grey_and_solarised_images_are_pillows(all_pixels):
    pictures = [Image.fromarray(image) for image in all_pixels]
    count = len(pictures)
    grey = difference(
        affected(all_pixels, drawn(count, GREY)), [p.convert("L").convert("RGB") for p in pictures]
    )
    solarised = difference(
        affected(all_pixels, drawn(count, SOLARISE)), [ImageOps.solarize(p, 128) for p in pictures]
    )
    assert grey.max() == solarised.max() == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blurred_images_are_pillows(all_pixels, seed):
    count = len(all_pixels)
    radii = np.random.default_rng(seed).uniform(0.1, 2.0, count).astype(np.float32)
    if seed == 0:  # three or five pixels wide; weights that often end half-way between two levels
        radii[:7] = [0.1, 1.41, 1.42, 2.0, 1.0, 0.5, 1.5]
    ours = affected(all_pixels, drawn(count, BLUR, radii))
    pictures = [
        Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(radius)))
        for image, radius in zip(all_pixels, radii, strict=True)
    ]
    assert difference(ours, pictures).max() == 0


def test_each_image_gets_its_own_effect(pixels):
    effects = np.array([GREY, SOLARISE, BLUR, BLUR, SOLARISE, GREY, BLUR, GREY])
    together = affected(pixels, drawn(8, effects))
    for effect in (GREY, SOLARISE, BLUR):
        alone = affected(pixels, drawn(8, effect))
        np.testing.assert_array_equal(together[effects == effect], alone[effects == effect])


def test_the_jitter_is_torchvisions(timm, all_pixels):
    from torchvision.transforms import functional

    adjustments = {
        BRIGHTNESS: functional.adjust_brightness,
        CONTRAST: functional.adjust_contrast,
        SATURATION: functional.adjust_saturation,
    }
    count = len(all_pixels)
    orders = np.array([ORDERS[i % 6] for i in range(count)])
    # Round factors would give levels on the edge between two, where a rounding decides.
    factors = np.random.default_rng(0).uniform(0.7, 1.3, (count, 3)).astype(np.float32)
    pictures = []
    for image, order, factor in zip(all_pixels, orders, factors, strict=True):
        picture = Image.fromarray(image)
        for kind in order:
            picture = adjustments[int(kind)](picture, float(factor[kind]))
        pictures.append(picture)
    ours = adjusted(all_pixels, drawn(count, order=orders, factors=factors))
    assert difference(ours, pictures).max() == 0


def test_draws_are_uniform_and_each_images_own():
    rngs = jax.random.split(jax.random.key(0), 6000)
    draw = jax.jit(draw_colours, static_argnums=1)(rngs, 0.3)
    # 1000 of each order and 2000 of each effect expected; five standard deviations.
    orders, counts = np.unique(np.asarray(draw.order), axis=0, return_counts=True)
    assert len(orders) == 6
    assert (np.abs(counts - 1000) < 145).all()
    assert (np.abs(np.bincount(np.asarray(draw.effect)) - 2000) < 183).all()
    for values, low, high in ((draw.radius, 0.1, 2.0), (draw.factors, 0.7, 1.3)):
        values = np.asarray(values)
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    alone = jax.jit(draw_colours, static_argnums=1)(rngs[10:12], 0.3)
    np.testing.assert_array_equal(alone.factors, draw.factors[10:12])
