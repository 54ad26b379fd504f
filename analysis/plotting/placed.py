"""How are panels placed by hand? Finding places for a hundred of them takes Matplotlib seconds."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from regvit_jax.analysis.plotting import bare_figure


class Placed:
    """A figure whose axes and texts are placed in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure, self.width, self.height = bare_figure(width, height), width, height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)

    def colour_bar(
        self, place: tuple[float, float, float], colours: str, end: float, label: str
    ) -> None:
        """A scale from 0 to `end` under the panels; `place` is left, top and width."""
        left, top, width = place
        axes = self.axes(left, top, width, 0.1)
        drawn = ScalarMappable(Normalize(0, end), colours)
        bar = self.figure.colorbar(drawn, cax=axes, orientation="horizontal", extend="max")
        bar.set_label(label, size=8)
        axes.tick_params(labelsize=7.5)
