"""Draws `organism_pair.png`, README's first picture: `python docs/images/organism_pair.py`.

One validation mosaic through the pair that comes with the package. Above without registers, below
with four: the norm of every patch, where all patches look in the last block, and the norms of 1,000
mosaics. Grey text and no background, so that it can be read on white and on black.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regvit_jax import load
from regvit_jax.checkpoint import read_info
from regvit_jax.cues import BACKGROUND, CuesSource
from regvit_jax.tokens import TokenLayout

OUT = Path(__file__).with_suffix(".png")
MODELS = {"organism-reg0": "no registers", "organism-reg4": "4 registers"}
SHOWN, NUM_IMAGES = 3, 1000
BRIGHTEST = 0.3
"""Share of attention that is drawn in the brightest colour."""
GREY, RED = "#808080", "#D55E00"
LONGEST = 4.0
"""End of the histograms' axis."""
BLOCK = 1
"""Where the norms are furthest apart."""


def main() -> None:
    """Draws and saves."""
    source = CuesSource.open("val")
    mosaics = [source.draw(index) for index in range(NUM_IMAGES)]
    pixels = np.stack([mosaic.pixels for mosaic in mosaics])
    seen = {name: look(name, pixels) for name in MODELS}
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.35))
    is_background = mosaics[SHOWN].kinds == BACKGROUND
    draw_image(figure.add_subplot(grid[:, 0]), mosaics[SHOWN].pixels, is_background)
    longest = max(norms[SHOWN].max() for norms, _, _ in seen.values())
    for row, (name, title) in enumerate(MODELS.items()):
        norms, attention, layout = seen[name]
        axes = [figure.add_subplot(grid[row, column]) for column in (1, 2, 3)]
        draw_map(axes[0], norms[SHOWN], layout, longest, is_background)
        draw_map(axes[1], attention[SHOWN], layout, BRIGHTEST, is_background)
        draw_registers(axes[1], attention[SHOWN], layout)
        draw_histogram(axes[2], norms)
        axes[0].set_ylabel(title, color=GREY, fontsize=12)
        middle = np.median(norms[SHOWN][is_background.ravel()])
        axes[0].set_xlabel(f"background: {middle:.1f} x the median", color=GREY, fontsize=8.5)
        axes[1].set_xlabel(told(attention[SHOWN], layout, is_background), color=GREY, fontsize=8.5)
        if row == 0:
            axes[0].set_title("length of each patch's vector", color=GREY, fontsize=9.5)
            axes[1].set_title("where patches look", color=GREY, fontsize=9.5)
            axes[2].set_title(f"lengths in {NUM_IMAGES:,} images", color=GREY, fontsize=9.5)
        else:
            axes[2].set_xlabel("length / median of the image", color=GREY)
    figure.savefig(OUT, dpi=160, transparent=True, metadata={"Software": None})


def look(name: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, TokenLayout]:
    """Norms of patches in medians of their image, and what patches attend to in the last block."""
    model, params = load(name)
    layout = model.layout(pixels.shape)

    @jax.jit
    def run(params: Any, images: Any) -> Any:
        trace: Any = model.apply({"params": params}, images, method="trace")
        attention = trace.blocks[-1].attn[:, :, layout.patches].mean(axis=(1, 2))
        return trace.blocks[BLOCK].tokens[:, layout.patches], attention

    normalised = read_info(name).preprocess.normalise(pixels)
    tokens, attention = (np.asarray(x) for x in run(params, normalised))
    norms = np.linalg.norm(tokens, axis=-1)
    return norms / np.median(norms, axis=1, keepdims=True), attention, layout


def draw_image(axes: Axes, pixels: np.ndarray, is_marked: np.ndarray) -> None:
    """The mosaic, its background framed."""
    axes.imshow(pixels, extent=(-0.5, 5.5, 5.5, -0.5), interpolation="nearest")
    frame(axes, is_marked)
    axes.set_title("image; framed: background", color=GREY, fontsize=9.5)
    axes.set(xticks=[], yticks=[])


def draw_map(axes: Axes, values: np.ndarray, layout: TokenLayout, top: float, is_marked) -> None:
    """One number of each patch, on the image's grid."""
    patches = values[layout.patches] if len(values) > layout.num_patches else values
    axes.imshow(patches.reshape(layout.grid), cmap="viridis", vmin=0, vmax=top)
    frame(axes, is_marked)
    axes.set(xticks=[], yticks=[], ylim=(6.9, -0.5))
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_registers(axes: Axes, attention: np.ndarray, layout: TokenLayout) -> None:
    """The attention on the registers, as cells under the map."""
    registers = attention[layout.registers]
    for place, value in enumerate(registers):
        colour = axes.images[0].cmap(value / BRIGHTEST)
        axes.add_patch(Rectangle((place - 0.5, 5.8), 1, 1, color=colour))
    if len(registers):
        axes.text(3.7, 6.3, "registers", color=GREY, fontsize=9, va="center")


def told(attention: np.ndarray, layout: TokenLayout, is_marked: np.ndarray) -> str:
    """The shares of the attention in words."""
    patches = attention[layout.patches][is_marked.ravel()].sum()
    words = f"background: {100 * patches:.0f} %"
    registers = attention[layout.registers].sum()
    return words if not layout.num_registers else f"{words}, registers: {100 * registers:.0f} %"


def draw_histogram(axes: Axes, norms: np.ndarray) -> None:
    """All patches of all images; the counts on a logarithmic axis."""
    axes.hist(norms.ravel(), bins=np.linspace(0, LONGEST, 81), color=GREY, log=True)
    axes.set(xlim=(0, LONGEST), yticks=[])
    axes.minorticks_off()
    axes.tick_params(colors=GREY)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=GREY)


def frame(axes: Axes, is_marked: np.ndarray) -> None:
    """Frames some patches."""
    for row, column in np.argwhere(is_marked):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=RED, lw=2))


if __name__ == "__main__":
    main()
