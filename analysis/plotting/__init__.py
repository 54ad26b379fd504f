"""What do all figures share? Size, colours that colour-blind readers can tell apart, and saving."""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogFormatterMathtext

from regvit_jax.analysis.plotting.tokens import OUTLIERS
from regvit_jax.analysis.spoken import shown

LINE_STYLES = ("-", "--", "-.", ":")
COLOUR_MAP = "viridis"
DPI = 160
COLUMN, TWO_COLUMNS = 3.35, 6.9
"""Widths of figures in a paper, in inches."""
WIDEST_IN_A_COLUMN = 4.8
"""Wider figures, in inches, would have too small letters in one column."""
TITLE_LETTERS_PER_INCH = 9.0  # of bold letters of `figure.titlesize`
_SHOWN = "\u2060"  # before a series' name, until it is drawn

_SVG_OPTIONS: Any = {
    "format": "svg",
    "dpi": DPI,
    "metadata": {"Date": None},
    "transparent": True,
}
_THEME = (
    b"svg{fill:currentColor;color:#1c1f23}"
    b"@media screen and (prefers-color-scheme:dark){svg{color:#e6e8ea}}"
)

STYLE: Any = {  # Matplotlib types it by every name it knows
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 11,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "svg.hashsalt": "regvit",  # the same figure gives the same file
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # letters, not drawings, as publishers ask
}


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure in the project's style; sizes in inches.

    Draw on it inside `matplotlib.rc_context(STYLE)`, so that no global setting is touched.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    lines = textwrap.fill(title, max(1, int(width * TITLE_LETTERS_PER_INCH)))
    figure.suptitle(lines, x=0.01, ha="left", fontweight="bold")
    return figure


def bare_figure(width: float, height: float) -> Figure:
    """An empty figure without a title, whose axes are placed by hand; sizes in inches."""
    figure = _Shown(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


class _Shown(Figure):
    """A figure that a notebook shows as its cell's result, whether or not pyplot is loaded."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self, "png")


def styled() -> Any:
    """The context in which figures are drawn and saved."""
    return matplotlib.rc_context(STYLE)


def save_figure(figure: Figure, folder: Path, name: str, for_paper: bool = False) -> None:
    """Writes a figure as PNG and SVG.

    Args:
      figure: Without a use for anything else afterwards.
      folder: Where.
      name: Of the files, without their ends.
      for_paper: Writes a PDF as well: without the title, as wide as one or two columns.
    """
    with _named(figure), styled():
        figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        figure.set_layout_engine("none")  # the places are found; finding them takes a second
        drawing = folder / f"{name}.svg"
        figure.savefig(drawing, **_SVG_OPTIONS)
        drawing.write_bytes(_themed(drawing.read_bytes()))
        if for_paper:
            _to_column(figure)
            figure.savefig(folder / f"{name}.pdf", dpi=2 * DPI, metadata={"CreationDate": None})


def _to_column(figure: Figure) -> None:
    """Takes the title away, which is a paper's caption, and scales to a column's width."""
    figure.suptitle("")
    width, height = figure.get_size_inches()
    target = COLUMN if width <= WIDEST_IN_A_COLUMN else TWO_COLUMNS
    figure.set_size_inches(target, height * target / width)
    figure.set_layout_engine("constrained")


def figure_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as the content of a file."""
    file = io.BytesIO()
    with _named(figure), styled():
        if kind == "svg":
            figure.savefig(file, **_SVG_OPTIONS)
            return _themed(file.getvalue())
        figure.savefig(file, format=kind, dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _themed(svg: bytes) -> bytes:
    """A drawing whose black is white where a page is dark."""
    svg = svg.replace(b"#000000", b"currentColor")
    svg = svg.replace(b"stroke: #dddddd", b"stroke: #808080; stroke-opacity: 0.3")
    return svg.replace(b'<style type="text/css">', b'<style type="text/css">' + _THEME, 1)


class _PlainPowers(LogFormatter):
    """Labels of a logarithmic axis: 0.1 and 1000 as people write them, 1e-06 beyond."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos)
        return f"{x:g}" if text and 1e-4 <= abs(x) < 1e5 else text


@contextlib.contextmanager
def _named(figure: Figure) -> Iterator[None]:
    """What names of files and models say is drawn as it is, or escaped; no font has all letters.

    Since no text is mathematics then, powers of ten on logarithmic axes are plain numbers.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(_PlainPowers())
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(_PlainPowers())
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(shown(text.get_text(), keep="\n").replace(_SHOWN, ""))
        text.set_parse_math(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def series_name(name: str) -> str:
    """A model's name as the label of a series: Matplotlib leaves "_x" out of its legends."""
    return f"{_SHOWN}{name}" if name.startswith("_") else name


def legend_below(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """One legend for all panels under them, each label once."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(label), handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def is_leftmost(axes: Axes) -> bool:
    """Whether a panel is the first of its row: the one that names the y axis."""
    place = axes.get_subplotspec()
    return place is not None and place.is_first_col()


def hide_ticks(axes: Axes) -> None:
    """A picture without ticks, grid or frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def show_image(axes: Axes, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """A picture of the model's input."""
    axes.imshow(pixels, interpolation="nearest")
    hide_ticks(axes)


def show_map(axes: Axes, values: Float[np.ndarray, "gh gw"], limits: tuple[float, float]) -> Any:
    """A map of patches as coloured squares.

    Returns:
      What a colour bar is made from.
    """
    rows, cols = values.shape
    coloured = ScalarMappable(Normalize(*limits), COLOUR_MAP)
    extent = (0.0, float(cols), float(rows), 0.0)
    axes.imshow(coloured.to_rgba(values)[..., :3], extent=extent, interpolation="nearest")
    hide_ticks(axes)
    return coloured


def show_plain_map(
    axes: Axes, values: Float[np.ndarray, "gh gw"], colours: str, end: float
) -> None:
    """A map of patches as coloured squares, by a colour map and a scale from 0 to `end`."""
    extent = (0.0, float(values.shape[1]), float(values.shape[0]), 0.0)
    axes.imshow(values, colours, vmin=0, vmax=end, interpolation="nearest", extent=extent)
    hide_ticks(axes)


def coloured(values: Float[np.ndarray, "gh gw"], colours: str) -> UInt8[np.ndarray, "gh gw 3"]:
    """The colours of values in [0, 1]; what lies outside has the colour of the nearer end."""
    return matplotlib.colormaps[colours](values.clip(0, 1), bytes=True)[..., :3]


def outline_patches(axes: Axes, cells: Sequence[tuple[int, int]], scale: float = 1.0) -> None:
    """Frames around patches (row, column); `scale` is a patch's side in the axes' units."""
    for row, col in cells:
        corner = (col * scale, row * scale)
        for color, width in (("white", 2.2), (OUTLIERS, 1.1)):
            axes.add_patch(
                Rectangle(corner, scale, scale, fill=False, edgecolor=color, linewidth=width)
            )


def row_label(axes: Axes, text: str) -> None:
    """A label left of a row of pictures, cut to what fits."""
    text = shown(text, keep="\n")
    short = text if len(text) <= 24 else "…" + text[-23:]
    axes.set_ylabel(short, fontsize=7, rotation=90)


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 times a power of ten: a scale's end."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return float(next(step * power for step in steps if step * power >= value * (1 - 1e-9)))
