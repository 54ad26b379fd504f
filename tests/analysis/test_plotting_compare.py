"""Does the figure of a comparison point out differences, and not noise?"""

import pytest

from regvit_jax.analysis.comparing.compare import summary_lines
from regvit_jax.analysis.plotting.compare import NumberPanel, headlines_figure
from regvit_jax.analysis.statistics.bootstrap import Estimate

TITLES = {"a": "a (0 registers)", "b": "b (4 registers)"}


def drawn(values, difference, is_share=False):
    """The panel of one number as it is saved, and the text of the difference."""
    panel = NumberPanel("norms", "number", is_share, values, {"b": difference})
    figure = headlines_figure([panel], TITLES)
    figure.canvas.draw()
    axis = figure.axes[0]
    return axis, axis.texts[-1]


def two(first, second, n=100):
    return {"a": Estimate(first, n, first, first), "b": Estimate(second, n, second, second)}


@pytest.mark.parametrize(
    ("difference", "weight"),
    [
        (Estimate(0.1, 30, 0.05, 0.2), "bold"),
        (Estimate(0.1, 29, 0.05, 0.2), "normal"),
        (Estimate(0.124, 3, 0.124, 0.124), "normal"),
        (Estimate(0.1, 100, -0.05, 0.2), "normal"),
        (Estimate(5.96e-8, 100, 5.9e-8, 6e-8), "normal"),
        (Estimate(0.1, 100), "normal"),
    ],
)
def test_bold_is_what_leaves_out_zero_on_thirty_images(difference, weight):
    _, text = drawn(two(0.5, 0.6), difference)
    assert text.get_fontweight() == weight
    number = {"question": "q", "title": "t", "is_share": False}
    number |= {"differences": {"b": difference}, "over_runs": []}
    lines = summary_lines({"models": [1, 2], "headlines": [number], "first": "a"})
    assert (" b differs from a " in lines[1]) == (weight == "bold")


@pytest.mark.parametrize("is_share", [False, True])
def test_rounding_shows_neither_in_the_difference_nor_on_the_axis(is_share):
    noise = Estimate(5.96e-8, 100, 5.9e-8, 6e-8)
    axis, text = drawn(two(1.0, 1.0 + 5.96e-8), noise, is_share)
    assert text.get_text() == "0 [0, 0]"
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels
    assert max(map(len, labels)) <= 8


def test_shares_begin_at_zero_and_other_numbers_where_they_are():
    small = Estimate(0.001, 100, 0.0, 0.002)
    assert drawn(two(0.0, 0.3), small, is_share=True)[0].get_xlim()[0] == 0
    assert drawn(two(-2.0, 0.3), small)[0].get_xlim()[0] < -2
