"""How is a training run drawn?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import new_figure, series_name, styled
from regvit_jax.analysis.plotting.palette import SERIES

_SMOOTHING = 0.03  # of the log's length


class TrainingCurve(NamedTuple):
    """What a run's log holds."""

    label: str
    loss: list[tuple[int, float]]
    """Step and training loss."""
    top1: list[tuple[int, float]]
    """Step and validation accuracy, in [0, 1]."""


def training_figure(curves: Sequence[TrainingCurve]) -> Figure:
    """Loss and accuracy of runs over their steps."""
    with styled():
        figure = new_figure(7.2, 3.0, "Training")
        loss, top1 = figure.subplots(1, 2, sharex=True)
        for i, curve in enumerate(curves):
            color, label = SERIES[i % len(SERIES)], series_name(curve.label)
            if curve.loss:
                steps, values = _smooth(curve.loss)
                loss.plot(steps, values, color=color, lw=1.4, label=label)
            if curve.top1:
                steps, values = np.array(curve.top1).T
                top1.plot(steps, 100 * values, color=color, marker="o", ms=4, label=label)
                top1.annotate(
                    f"{100 * values[-1]:.1f}",
                    (steps[-1], 100 * values[-1]),
                    xytext=(-4, 5 if i % 2 else -11),
                    textcoords="offset points",
                    ha="right",
                    color=color,
                    fontsize=8,
                )
        loss.set_ylabel("training loss")
        top1.set_ylabel("validation top-1 (%)")
        top1.set_ylim(0, 100)  # a narrower range makes a hair's breadth of two points
        for axis in (loss, top1):
            axis.set_xlabel("step")
        (loss if any(curve.loss for curve in curves) else top1).legend()
    return figure


def _smooth(points):
    """Steps and values, averaged over neighbours."""
    steps, values = np.array(points, float).T
    width = max(1, int(len(values) * _SMOOTHING))
    kernel = np.ones(width)
    weight = np.convolve(np.ones(len(values)), kernel, mode="same")
    return steps, np.convolve(values, kernel, mode="same") / weight
