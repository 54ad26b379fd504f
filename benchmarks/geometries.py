"""Norms of patches as models have them, or as something else than outliers makes them.

A geometry says how norms are distributed; those of one model's patches are drawn from it. The
bulk's are lognormal unless said, with a scale of each image; outliers ride on their image's scale.
"""

import dataclasses

import numpy as np

GRID = (14, 14)
NUM_PATCHES = GRID[0] * GRID[1]
SHARES = (0.001, 0.005, 0.02, 0.05)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How norms are distributed, in units of the bulk's median (and spreads of the logarithm)."""

    name: str
    expected: bool | None = False
    """Whether outliers should be found; None where it depends on the share or nobody can tell."""
    bulk: str = "lognormal"
    spread: float = 0.14
    image_spread: float = 0.10
    freedom: float = 3.0
    """Degrees of freedom of Student's t, or the exponent of Pareto."""
    outliers: float | None = None
    """Their norm; None without any."""
    outlier_spread: float = 0.11
    own_scale: bool = True
    """Whether outliers ride on the scale of their image."""
    images_with: float = 1.0
    """Share of the images that have outliers."""
    whole_images: float = 0.0
    """Share of the images of other norms."""
    part_of_image: float = 1.0
    """How much of these images has other norms."""
    blocks: tuple[int, int] | None = None
    """Least and largest side of an object that half of the images have."""
    larger: float = 1.0
    """Norm of whole images, or of objects."""
    white: float = 0.0
    """Share of patches that are white: `larger` after the patch convolution and ever after."""
    num_images: int = 1000


DEIT = Geometry("DeiT-III-B: 300-600 against 900-1400", True, outliers=2.65)
GEOMETRIES = (
    DEIT,
    dataclasses.replace(DEIT, name="the same, scales of images differ by 0.25", image_spread=0.25),
    dataclasses.replace(DEIT, name="outliers at 2.3 x", outliers=2.3),
    dataclasses.replace(DEIT, name="outliers at 2.0 x", outliers=2.0, expected=None),
    dataclasses.replace(DEIT, name="outliers at 1.8 x", outliers=1.8, expected=None),
    dataclasses.replace(
        DEIT,
        name="outliers of one norm in all images, whose scales differ by 0.25",
        image_spread=0.25,
        own_scale=False,
        expected=None,
    ),
    Geometry("DINOv2-L: 60-200 against 20", True, spread=0.2, outliers=5.0, outlier_spread=0.35),
    Geometry("DINOv2-g: 10 x", True, spread=0.2, outliers=10.0, outlier_spread=0.2),
    Geometry("10 x, 200 images", True, spread=0.2, outliers=10.0, num_images=200),
    Geometry("10 x in 5 % of 200 images", None, outliers=10.0, images_with=0.05, num_images=200),
    Geometry("lognormal, 0.3", spread=0.3),
    Geometry("lognormal, 0.6, images 0.3", spread=0.6, image_spread=0.3),
    Geometry("gamma, 0.4", bulk="gamma", spread=0.4),
    Geometry("Student's t, 3, of the logarithm", bulk="t of log", spread=0.2),
    Geometry("Student's t, 3", bulk="t", spread=0.3),
    Geometry("Pareto 1 in a tenth", bulk="pareto", spread=0.2, freedom=1.0),
    Geometry("Pareto 3 in a tenth", bulk="pareto", spread=0.2),
    Geometry("Pareto 1 in a tenth, 150 images", bulk="pareto", freedom=1.0, num_images=150),
    Geometry("5 % of the images 2.6 x all over", whole_images=0.05, larger=2.6),
    Geometry("2 % of the images 4 x all over", whole_images=0.02, larger=4.0),
    Geometry("5 % of the images 4 x all over", whole_images=0.05, larger=4.0),
    Geometry(
        "5 % of the images, 60 % of their patches 3 x",
        whole_images=0.05,
        part_of_image=0.6,
        larger=3.0,
    ),
    Geometry("objects of 3 to 7 patches a side at 2.6 x", blocks=(3, 7), larger=2.6),
    Geometry("objects of 3 to 7 patches a side at 3.5 x", blocks=(3, 7), larger=3.5),
    Geometry("objects of 2 or 3 patches a side at 3 x", blocks=(2, 3), larger=3.0),
    Geometry("white patches, 2 %, at 3 x", white=0.02, larger=3.0),
)


def simulate(geometry: Geometry, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the patches and, after the patch convolution, of their pixels, (n, p) each."""
    generator = np.random.default_rng((int(share * 1e6), seed))
    norms = 420 * _bulk(geometry, generator)
    pixels = np.exp(generator.normal(0, 0.15, norms.shape))
    if geometry.blocks is not None:
        _add_objects(norms.reshape(-1, *GRID), geometry, generator)
    is_other = generator.random((len(norms), 1)) < geometry.whole_images
    norms *= np.where(
        is_other & (generator.random(norms.shape) < geometry.part_of_image), geometry.larger, 1.0
    )
    is_white = generator.random(norms.shape) < geometry.white
    norms, pixels = (np.where(is_white, geometry.larger * a, a) for a in (norms, pixels))
    if geometry.outliers is not None:
        _add_outliers(norms, geometry, share, generator)
    return norms.astype(np.float32), pixels.astype(np.float32)


def _bulk(geometry: Geometry, generator: np.random.Generator) -> np.ndarray:
    shape, spread = (geometry.num_images, NUM_PATCHES), geometry.spread
    images = np.exp(generator.normal(0, geometry.image_spread, (shape[0], 1)))
    if geometry.bulk == "gamma":
        return images * generator.gamma(spread**-2, spread**2, shape)
    if geometry.bulk == "t of log":
        return images * np.exp(spread * generator.standard_t(geometry.freedom, shape))
    if geometry.bulk == "t":
        return images * np.abs(1 + spread * generator.standard_t(geometry.freedom, shape))
    norms = images * np.exp(generator.normal(0, spread, shape))
    if geometry.bulk == "pareto":
        tail = 1 + generator.pareto(geometry.freedom, shape)
        norms *= np.where(generator.random(shape) < 0.1, tail, 1.0)
    return norms


def _add_objects(maps, geometry: Geometry, generator: np.random.Generator) -> None:
    least, largest = geometry.blocks or (0, 0)
    for image in np.flatnonzero(generator.random(len(maps)) < 0.5):
        height, width = generator.integers(least, largest + 1, 2)
        top = generator.integers(0, GRID[0] - height + 1)
        left = generator.integers(0, GRID[1] - width + 1)
        maps[image, top : top + height, left : left + width] *= geometry.larger


def _add_outliers(norms, geometry: Geometry, share: float, generator) -> None:
    """Their number in an image is geometric: some images have many, many none."""
    assert geometry.outliers is not None
    has_any = generator.random(len(norms)) < geometry.images_with
    mean = share / geometry.images_with * NUM_PATCHES * generator.gamma(1, 1, len(norms))
    numbers = np.minimum(generator.poisson(mean * has_any), NUM_PATCHES // 2)
    medians = np.median(norms, axis=1) if geometry.own_scale else np.full(len(norms), 420.0)
    for image in np.flatnonzero(numbers):
        places = generator.choice(NUM_PATCHES, numbers[image], replace=False)
        factors = np.exp(generator.normal(0, geometry.outlier_spread, numbers[image]))
        norms[image, places] = medians[image] * geometry.outliers * factors
