"""How do norm, attention and accuracy depend on the number of registers? One panel each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from regvit_jax.analysis.plotting import DPI, new_figure, styled
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.statistics.seeds import mean

PANELS = (
    (
        "norm of background / median of all patches",
        (1.0, 0.0, None),
        {"background": "largest of all blocks"},
    ),
    (
        "attention of patches, last block (%)",
        (100.0, 0.0, 100.0),
        {"on_background": "on background", "on_registers": "on registers", "on_cls": "on CLS"},
    ),
    ("accuracy (%)", (100.0, None, 100.0), {"accuracy": "framed digit"}),
)
"""Title; unit and ends of the axis, None where the numbers decide; quantities with their names."""
_ROOM = 0.015  # of the axis, beyond its ends


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a PNG: against the number of registers every run, and means with 95 % intervals."""
    with styled():
        figure = new_figure(9.5, 3.4, "What registers change: every run, and means over seeds")
        for axes, (title, ends, names) in zip(figure.subplots(1, 3), PANELS, strict=True):
            for place, name in enumerate(names):
                _draw(axes, rows, name, ends[0], SERIES[place], names[name])
            axes.set(xlabel="registers", title=title)
            _limit(axes, *ends[1:])
            if len(names) > 1:
                axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _draw(axes: Axes, rows, name: str, unit: float, colour: str, label: str) -> None:
    counts = sorted({row["registers"] for row in rows})
    by_count = [[unit * row[name] for row in rows if row["registers"] == n] for n in counts]
    found = [mean(values) for values in by_count]
    axes.plot(range(len(counts)), [m.value for m in found], color=colour, label=label)
    for place, (values, middle) in enumerate(zip(by_count, found, strict=True)):
        axes.plot([place] * len(values), values, ".", color=colour, alpha=0.5)
        if middle.low is not None and middle.high is not None:
            axes.plot([place, place], [middle.low, middle.high], color=colour, lw=2.5, alpha=0.6)
    axes.set_xticks(range(len(counts)), [str(n) for n in counts])


def _limit(axes: Axes, low: float | None, high: float | None) -> None:
    """Cuts off what lies beyond the ends of an axis, such as intervals of shares."""
    found = axes.get_ylim()
    low, high = (
        end if given is None else given for end, given in zip(found, (low, high), strict=True)
    )
    room = _ROOM * (high - low)
    axes.set_ylim(low - room, high + room)
