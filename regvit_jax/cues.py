"""What makes a small model grow tokens of high norm? Mosaics of digits, some of which are cues.

A mosaic has 6 x 6 patches of 8 px. Two are background: the texture of a photograph. All others are
a coloured digit on grey, of which one has a red frame, the source, and about one in eight is white,
the cues. The image's class is the framed digit. Each patch has a target of its own, for the token
loss of training: a cue's is the kind of the framed digit (which digit, in which colour), so that
cues must look for the frame; a digit's is a fixed random distribution of its kind. Background has
such a distribution in the first two epochs and no target afterwards.

The glyphs are the same in both splits (the first ten digits of scikit-learn's UCI set), the
photographs' pixels are not (`regvit_jax.digits`).
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from regvit_jax.digits import check_libraries, choose_texture, digits_of, textures_of
from regvit_jax.errors import InputError
from regvit_jax.source import Sample

SPLITS = {"train": 16_000, "val": 2_000}
"""Mosaics in each split unless asked for otherwise."""
PATCH_SIZE, GRID = 8, 6
IMAGE_SIZE = PATCH_SIZE * GRID
BACKGROUND, DIGIT, CUE, SOURCE = range(4)
"""What a patch can be."""
COLOURS = np.array(
    [[255, 60, 60], [60, 255, 60], [90, 110, 255], [255, 255, 60], [255, 80, 255], [60, 255, 255]]
)
TOKEN_CLASSES = 10 * len(COLOURS) + 1
"""Kinds of a patch: digit + 10 x colour, and background, which is the last."""
BACKGROUND_EPOCHS = 2
"""Epochs, from the first one, in which background has a target."""

_NUM_BACKGROUND = 2
_CUE_RATE = 0.12
_GREY, _WHITE, _FRAME = 40, 255, (255, 0, 0)
_CONCENTRATION = 0.3  # of the Dirichlet distribution that targets are drawn from: few large shares
_TARGETS_SEED = 6


class Mosaic(NamedTuple):
    """One image, and all that is known of it."""

    pixels: UInt8[np.ndarray, "48 48 3"]
    label: int
    """The framed digit."""
    box: Int[np.ndarray, " 4"]
    """Around the frame: (x0, y0, x1, y1), half-open, in pixels."""
    kinds: Int[np.ndarray, "6 6"]
    """What each patch is: BACKGROUND, DIGIT, CUE or SOURCE."""
    targets: Float[np.ndarray, "6 6 k"]
    """Shares of the TOKEN_CLASSES for each patch; zeros where it has none."""

    def mask(self, kind: int) -> np.ndarray:
        """True for the pixels of one kind of patch, of shape (48, 48)."""
        return np.kron(self.kinds == kind, np.ones((PATCH_SIZE, PATCH_SIZE), bool))


@dataclasses.dataclass(frozen=True)
class CuesSource:
    """Mosaics of one split: the index decides on the class, (seed, epoch, index) on the rest."""

    split: str
    seed: int
    num_images: int
    class_names: tuple[str, ...] = tuple("0123456789")
    epoch: int = 0
    token_classes: int = TOKEN_CLASSES

    @classmethod
    def open(cls, split: str, seed: int = 0, num_images: int | None = None) -> "CuesSource":
        """The embedded mosaics.

        Args:
          split: "train" or "val".
          seed: Another seed gives other mosaics.
          num_images: Mosaics in the split; 16,000 for training and 2,000 for validation by default.

        Raises:
          InputError: If there is no such split, or scikit-learn or scikit-image is missing.
        """
        if split not in SPLITS:
            raise InputError(f"The cues have the splits {sorted(SPLITS)}, not {split!r}.")
        check_libraries("cues")
        return cls(split, seed, SPLITS[split] if num_images is None else num_images)

    @property
    def name(self) -> str:
        return f"cues-{self.split}"

    @functools.cached_property
    def file_names(self) -> tuple[str, ...]:
        return tuple(f"{self.split}-{index:05d}" for index in range(len(self)))

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Sample:
        mosaic = self.draw(index)
        return Sample(
            Image.fromarray(mosaic.pixels),
            mosaic.label,
            mosaic.box[None].astype(float),
            token_targets=mosaic.targets,
        )

    @property
    def mask_classes(self) -> tuple[str, ...]:
        return ("background", "digit", "cue", "source")

    @property
    def masked(self) -> Int[np.ndarray, " n"]:
        return np.arange(len(self))

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return np.kron(self.draw(index).kinds, np.ones((PATCH_SIZE, PATCH_SIZE))).astype(np.uint8)

    def at_epoch(self, epoch: int) -> "CuesSource":
        """Other mosaics of the same classes; late ones ask nothing of the background."""
        return dataclasses.replace(self, epoch=epoch)

    def draw(self, index: int) -> Mosaic:
        """One mosaic, as the source's epoch has it.

        Raises:
          IndexError: If there is no such mosaic.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} mosaics, there is no {index}.")
        generator = np.random.default_rng(
            (self.seed, list(SPLITS).index(self.split), self.epoch, index)
        )
        kinds = _draw_kinds(generator)
        source = int(np.flatnonzero(kinds == SOURCE)[0])
        digits = generator.integers(10, size=GRID**2)
        digits[source] = index % 10
        colours = generator.integers(len(COLOURS), size=GRID**2)
        cells = _tiles()[10 * np.where(kinds == CUE, len(COLOURS), colours) + digits]
        cells[source] = _framed(cells[source])
        places = np.flatnonzero(kinds == BACKGROUND)
        cells[places] = _texture_cells(self.split, places, generator)
        targets = _targets(kinds, digits + 10 * colours, source, self.epoch < BACKGROUND_EPOCHS)
        pixels = cells.reshape(GRID, GRID, PATCH_SIZE, PATCH_SIZE, 3).swapaxes(1, 2)
        pixels = pixels.reshape(IMAGE_SIZE, IMAGE_SIZE, 3)
        row, col = divmod(source, GRID)
        box = PATCH_SIZE * np.array([col, row, col + 1, row + 1])
        grid = (GRID, GRID)
        return Mosaic(pixels, index % 10, box, kinds.reshape(grid), targets.reshape(*grid, -1))


@functools.cache
def distributions() -> Float[np.ndarray, "k k"]:
    """For each kind of a patch, the distribution that is its target: fixed, and random."""
    generator = np.random.default_rng(_TARGETS_SEED)
    concentrations = np.full(TOKEN_CLASSES, _CONCENTRATION)
    return generator.dirichlet(concentrations, TOKEN_CLASSES).astype(np.float32)


def _draw_kinds(generator: np.random.Generator) -> Int[np.ndarray, " n"]:
    """What each patch of a mosaic is."""
    kinds = np.where(generator.random(GRID**2) < _CUE_RATE, CUE, DIGIT)
    places = generator.permutation(GRID**2)
    kinds[places[:_NUM_BACKGROUND]] = BACKGROUND
    kinds[places[_NUM_BACKGROUND]] = SOURCE
    return kinds


def _targets(
    kinds: Int[np.ndarray, " n"], types: Int[np.ndarray, " n"], source: int, with_background: bool
) -> Float[np.ndarray, "n k"]:
    """The targets of all patches."""
    is_background = kinds == BACKGROUND
    targets = distributions()[np.where(is_background, TOKEN_CLASSES - 1, types)]
    targets[kinds == CUE] = np.eye(TOKEN_CLASSES, dtype=np.float32)[types[source]]
    if not with_background:
        targets[is_background] = 0
    return targets


@functools.cache
def _tiles() -> UInt8[np.ndarray, "n 8 8 3"]:
    """Every digit on grey: digit + 10 x colour, white being the last colour."""
    ink, labels = digits_of("train")
    glyphs = np.stack([ink[np.flatnonzero(labels == digit)[0]] for digit in range(10)]) / 255
    opacity = (2 * (glyphs - 0.5) + 0.5).clip(0, 1)[None, :, :, :, None]
    colours = np.concatenate([COLOURS, np.full((1, 3), _WHITE)])[:, None, None, None]
    tiles = (_GREY + opacity * (colours - _GREY)).round().astype(np.uint8)
    return tiles.reshape(-1, PATCH_SIZE, PATCH_SIZE, 3)


def _framed(cell: UInt8[np.ndarray, "8 8 3"]) -> UInt8[np.ndarray, "8 8 3"]:
    """A patch with a red edge of one pixel."""
    framed = np.empty_like(cell)
    framed[:] = _FRAME
    framed[1:-1, 1:-1] = cell[1:-1, 1:-1]
    return framed


def _texture_cells(
    split: str, places: Int[np.ndarray, " m"], generator: np.random.Generator
) -> UInt8[np.ndarray, "m 8 8 3"]:
    """Some patches of a crop of a photograph."""
    textures = textures_of(split, IMAGE_SIZE)
    texture = choose_texture(textures[generator.integers(len(textures))], IMAGE_SIZE, generator)
    cells = texture.crop.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE, 3).swapaxes(1, 2)
    return texture.flattened(cells[places // GRID, places % GRID]).round().astype(np.uint8)
