"""What does a recipe make of the images? A contact sheet of them as training sees them."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.images import SUFFIXES
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import RedrawnSource, Source
from regvit_jax.train.augment import AugmentDraw, augment, draw_augment
from regvit_jax.train.batches import choose_crop, read_crop
from regvit_jax.train.colour import BLUR, BRIGHTNESS, CONTRAST, GREY, SATURATION, SOLARISE
from regvit_jax.train.crops import generator_of
from regvit_jax.train.mixing import Mix, draw_mixes, mix_images
from regvit_jax.train.recipe import Recipe

CELL, GAP, MARGIN = 208, 12, 24
TEXT_LINES, TEXT_SIZE, LINE = 5, 13, 16
TITLE_SIZE = 20
INK, PAPER, FAINT = (30, 30, 30), (255, 255, 255), (110, 110, 110)


class Sample(NamedTuple):
    """One cell of the sheet."""

    pixels: UInt8[np.ndarray, "h w 3"]
    caption: str


def write_sheet(recipe: Recipe, path: Path, num_images: int, num_samples: int) -> None:
    """Writes a picture: a row for each image, first as evaluation sees it, then samples of it.

    Images are mixed in pairs of rows, and each pair has a draw of its own, so that more can be
    seen; a training step draws once for each group.

    Args:
      recipe: Says what happens to the images.
      path: Of the picture.
      num_images: Rows; one more if images are mixed and this is odd.
      num_samples: Columns beside the first.

    Raises:
      InputError: If the data cannot be read, or the path is of no kind of picture.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"Expected a name such as sheet.png for the picture, got {path}.")
    source = open_source(recipe.data.data, "train")
    preprocess = Preprocess.square(recipe.model.image_size)
    columns = [_originals(source, indices := _choose(source, recipe, num_images), preprocess)]
    columns += [_samples(source, indices, recipe, preprocess, i) for i in range(num_samples)]
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(columns, _title(recipe, source), _legend(recipe)).save(path)


def _choose(source: Source, recipe: Recipe, count: int) -> list[int]:
    """Some images at random, with a partner for each if images are mixed."""
    unit = 2 if recipe.data.is_mixed else 1
    count = min(-(-max(count, 1) // unit), len(source) // unit) * unit
    if not count:
        raise InputError(
            f"{source.name} has {len(source)} image; mixing needs 2. Name more images, "
            "or turn mixing off: --mixup-alpha 0 --cutmix-alpha 0."
        )
    return np.random.default_rng(recipe.seed).permutation(len(source))[:count].tolist()


def _originals(source: Source, indices: list[int], preprocess: Preprocess) -> list[Sample]:
    """The images as evaluation sees them."""
    cells = []
    for index in indices:
        sample = source[index]
        name = source.class_names[sample.label] if source.class_names else ""
        file_name = source.file_names[index].split("/")[-1]
        caption = f"{name}\n{file_name}\n{sample.image.width} x {sample.image.height} px"
        cells.append(Sample(preprocess.pixels(sample.image), caption))
    return cells


def _samples(
    source: Source, indices: list[int], recipe: Recipe, preprocess: Preprocess, column: int
) -> list[Sample]:
    """The images as one epoch of training sees them."""
    if isinstance(source, RedrawnSource):
        source = source.at_epoch(column)
    cropped, captions = [], []
    for place, index in enumerate(indices):
        generator = generator_of(recipe.seed, column, place)
        cropped.append(read_crop(source, index, recipe, preprocess, generator)[0])
        captions.append(_crop_words(source, index, recipe, column, place))
    rng = jax.random.fold_in(jax.random.key(recipe.seed), column)
    rngs = jax.random.split(rng, len(indices))
    pixels = augment(rngs, jnp.asarray(np.stack(cropped)), recipe.data)
    draw = jax.tree.map(np.asarray, draw_augment(rngs, recipe.data))
    words = [
        [
            ", ".join(filter(None, [crop, *_effect_words(draw, i, recipe)])),
            _jitter_words(draw, i, recipe),
        ]
        for i, crop in enumerate(captions)
    ]
    if recipe.data.is_mixed:
        groups = jnp.arange(len(indices)) // 2
        mix = draw_mixes(rng, groups, recipe.model.image_size, recipe.data)
        pixels = jnp.rint(mix_images(pixels.astype(jnp.float32), mix)).astype(jnp.uint8)
        words = [[*line, _mix_words(mix, i)] for i, line in enumerate(words)]
    return [
        Sample(image, "\n".join(filter(None, line)))
        for image, line in zip(np.asarray(pixels), words, strict=True)
    ]


def _crop_words(source: Source, index: int, recipe: Recipe, column: int, place: int) -> str:
    """How much of the image was cropped."""
    if recipe.data.crop == "evaluation":
        return ""
    width, height = source[index].image.size
    crop = choose_crop(width, height, recipe, generator_of(recipe.seed, column, place))
    if recipe.data.crop == "simple":
        return f"moved to {crop.left:+d} {crop.top:+d}"
    left, top, right, bottom = crop.box
    return f"{100 * (right - left) * (bottom - top) / (width * height):.0f} %"


def _effect_words(draw: AugmentDraw, i: int, recipe: Recipe) -> list[str]:
    """Whether one image was mirrored, and which of the three effects it got."""
    words = ["mirrored"] if recipe.data.flip and draw.is_flipped[i] else []
    if not recipe.data.three_augment:
        return words
    blur = f"blurred {draw.colours.radius[i]:.1f} px"
    return [*words, {GREY: "grey", SOLARISE: "solarised", BLUR: blur}[int(draw.colours.effect[i])]]


def _jitter_words(draw: AugmentDraw, i: int, recipe: Recipe) -> str:
    """The factors of one image's adjustments, in the order in which they were made."""
    if not recipe.data.colour_jitter:
        return ""
    names = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation"}
    factors = draw.colours.factors[i]
    return ", ".join(f"{names[int(kind)]} {factors[kind]:.2f}" for kind in draw.colours.order[i])


def _mix_words(mix: Mix, i: int) -> str:
    """How one image was mixed with its partner, in the row below or above."""
    share = f"{100 * (1 - float(mix.keep[i])):.0f} % of the row {'above' if i % 2 else 'below'}"
    return f"{'cutmix' if mix.opacity[i] == 1.0 else 'mixup'}: {share}"


def _title(recipe: Recipe, source: Source) -> str:
    data = recipe.data
    parts = [f"{data.crop.replace('_', ' ')} crop", "flip" if data.flip else ""]
    parts.append("3-Augment" if data.three_augment else "")
    parts.append(f"colour jitter {data.colour_jitter:g}" if data.colour_jitter else "")
    parts.append(f"mixup {data.mixup_alpha:g}" if data.mixup_alpha else "")
    parts.append(f"cutmix {data.cutmix_alpha:g}" if data.cutmix_alpha else "")
    size = recipe.model.image_size
    return f"{source.name}, {size} px: " + ", ".join(filter(None, parts))


def _legend(recipe: Recipe) -> str:
    """What the captions mean."""
    data = recipe.data
    parts = [
        "part of the photograph's area" if data.crop == "random_resized" else "",
        "mirroring" if data.flip else "",
        "effect" if data.three_augment else "",
        "factors of the colour jitter in their order" if data.colour_jitter else "",
        "share of the image it is mixed with" if data.is_mixed else "",
    ]
    found = ", ".join(filter(None, parts))
    return f"Below each: {found}." if found else "Nothing is changed in training."


def _draw(columns: list[list[Sample]], title: str, legend: str) -> Image.Image:
    """The sheet: title, headings, then rows of pictures with captions."""
    step = CELL + GAP
    row = CELL + TEXT_LINES * LINE + GAP
    head = MARGIN + TITLE_SIZE + 4 * LINE
    large, small = (ImageFont.load_default(size) for size in (TITLE_SIZE, TEXT_SIZE))
    width = max(len(columns) * step - GAP, large.getlength(title), small.getlength(legend))
    size = (2 * MARGIN + int(width), head + len(columns[0]) * row + MARGIN - GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN // 2), title, INK, large)
    pen.text((MARGIN, MARGIN + TITLE_SIZE), legend, FAINT, small)
    for j, column in enumerate(columns):
        left, heading = MARGIN + j * step, f"training, epoch {j - 1}" if j else "evaluation"
        pen.text((left, head - LINE - 4), heading, FAINT, small)
        for i, cell in enumerate(column):
            _draw_cell(sheet, pen, cell, left, head + i * row)
    return sheet


def _draw_cell(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Sample, left: int, top: int
) -> None:
    """One picture, enlarged without smoothing if it is small, and its caption."""
    is_small = cell.pixels.shape[0] < CELL
    rule = Image.Resampling.NEAREST if is_small else Image.Resampling.BICUBIC
    sheet.paste(Image.fromarray(cell.pixels).resize((CELL, CELL), rule), (left, top))
    font = ImageFont.load_default(TEXT_SIZE)
    for i, line in enumerate(_lines(cell.caption, font)[:TEXT_LINES]):
        pen.text((left, top + CELL + 3 + i * LINE), line, INK, font)


def _lines(caption: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> list[str]:
    """The caption, broken to the width of a cell."""
    lines = []
    for part in caption.split("\n"):
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > CELL:
                lines.append(line)
                longer = word
            line = longer
        if line:
            lines.append(line)
    return lines
