"""Do figures show what they were given? Asked of Matplotlib's artists, not of pixels."""

import re

import numpy as np
import pytest

from regvit_jax.analysis.outliers.labels import Labelled, find_labels
from regvit_jax.analysis.plotting import new_figure, round_up, row_label, save_figure
from regvit_jax.analysis.plotting.epochs import Curves, Run, curves_figure
from regvit_jax.analysis.plotting.training import TrainingCurve, training_figure
from regvit_jax.analysis.questions.attention.figures import (
    ShownAttention,
    heads_figure,
    maps_figure,
)
from regvit_jax.analysis.questions.norms.figures import (
    NormPanel,
    ShownImage,
    by_layer_figure,
    histogram_figure,
    positions_figure,
)
from regvit_jax.analysis.questions.norms.figures import (
    maps_figure as norm_maps_figure,
)
from regvit_jax.analysis.questions.norms.norms import summarise
from regvit_jax.analysis.questions.reconstruction.figures import GroupsPanel, groups_figure
from regvit_jax.analysis.questions.similarity.figures import (
    SimilarityPanel,
    densities_figure,
    medians_figure,
)
from regvit_jax.analysis.questions.similarity.similarity import DENSITY_AT, Similarities
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.tokens import TokenLayout
from tests.analysis.conftest import label_options, norm_columns


@pytest.fixture(scope="module")
def panel():
    layout = TokenLayout(num_registers=2, grid=(3, 4))
    norms = np.exp(np.random.default_rng(0).normal(2, 0.1, (30, 5, layout.num_tokens)))
    norms[::3, 2:4, 5] *= 9
    columns = norm_columns(norms.astype(np.float32), layout)
    bootstrap = Bootstrap(30, 100)
    labels = find_labels(columns, bootstrap, label_options())
    return NormPanel("model (2 registers)", summarise(columns, labels, bootstrap), False)


def test_a_legend_names_every_model_as_it_is_called(tmp_path):
    names = ["_hidden", "$a$", "two\tcells", "reg_4"]
    curves = [TrainingCurve(name, [(0, 1.0), (1, 0.5)], [(1, 0.5)]) for name in names]
    figure = training_figure(curves)
    save_figure(figure, tmp_path, "x")
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["_hidden", "$a$", "two\\tcells", "reg_4"]


def lines(axis):
    return {line.get_label(): line.get_ydata() for line in axis.get_lines()}


def test_norms_by_layer_are_the_summarys(panel):
    figure = by_layer_figure([panel, panel])
    axis = figure.axes[0]
    drawn = lines(axis)
    for label, kind in (("patches, median", "patches"), ("CLS, median", "cls")):
        expected = [
            row.values["median"].value
            for row in panel.summary.layers
            if row.kind == kind and row.layer != "normed"
        ]
        np.testing.assert_array_equal(drawn[label], expected)
    assert {"register 0", "register 1"} <= drawn.keys()
    assert axis.get_yscale() == "log"


def test_the_histogram_marks_the_definitions_at_their_norms(panel):
    axis = histogram_figure([panel]).axes[0]
    places = {line.get_label(): line.get_xdata()[0] for line in axis.get_lines()}
    cuts = {name: by.cut for name, by in panel.summary.by["last"].items()}
    assert places["3 x median"] == pytest.approx(3.0)
    assert places["mean + 3 sd"] == pytest.approx(cuts["mean_plus_3sd"] / cuts["3_x_median"] * 3)
    assert axis.patches[0].get_data().values.sum() == 30 * 12
    assert axis.get_yscale() == "log"


def test_all_norm_maps_share_one_scale_and_frame_the_largest(panel):
    maps = [np.full((3, 4), 1.0), np.full((3, 4), 2.0)]
    maps[1][2, 1] = 7.3
    image = ShownImage("a.png", np.zeros((48, 64, 3), np.uint8), maps)
    figure = norm_maps_figure(
        [image], ["one (0 registers)", "two (4 registers)"], ["a", "b"], "after block 1"
    )
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0.0, 8.0)
    corners = {patch.get_xy() for patch in figure.axes[2].patches}
    assert (1.0, 2.0) in corners


def test_positions_show_where_and_when(panel):
    figure = positions_figure([panel])
    drawn = lines(figure.axes[-1])["model (2 registers)"]
    np.testing.assert_array_equal(drawn, 100 * np.array(panel.summary.emergence))


@pytest.mark.parametrize("num_queries", [1, 5])
def test_attention_is_drawn_in_per_cent_on_one_scale(num_queries):
    maps = np.full((3, num_queries, 3, 4), 0.02, np.float32)
    image = ShownAttention("a.png", np.full((48, 64, 3), 255, np.uint8), maps)
    queries = ["CLS", *(f"register {i}" for i in range(num_queries - 1))]
    figure = maps_figure([image], queries, "model", "block 1")
    assert figure.axes[-1].get_ylim() == (0.0, 2.0)
    titles = [axis.get_title() for axis in figure.axes[: 1 + num_queries]]
    assert titles == ["image", *queries]
    heads = heads_figure(image, queries, "model", "block 1")
    assert [axis.get_title() for axis in heads.axes[:5]] == [
        "image",
        "mean",
        "head 0",
        "head 1",
        "head 2",
    ]


def test_training_curves_are_the_logs():
    curve = TrainingCurve("run", [(1, 0.5), (2, 0.25)], [(2, 0.8)])
    loss, top1 = training_figure([curve]).axes
    np.testing.assert_allclose(lines(loss)["run"], [0.5, 0.25])
    np.testing.assert_allclose(lines(top1)["run"], [80.0])


def test_a_figure_is_saved_twice_alike(tmp_path, panel):
    for name in ("a", "b"):
        save_figure(histogram_figure([panel]), tmp_path, name)
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second
        assert len(first) > 1000


@pytest.mark.parametrize(
    ("value", "end"), [(0.0, 1.0), (0.7, 0.8), (1.0, 1.0), (1.01, 1.5), (83.0, 100.0)]
)
def test_scales_end_at_round_numbers(value, end):
    assert round_up(value) == pytest.approx(end)


def labelled(share, centre=0.5):
    density = np.exp(-0.5 * ((DENSITY_AT - [[0.5], [centre]]) / 0.05) ** 2)
    is_outlier = np.arange(9)[None] == 0
    by = Labelled("mean_plus_3sd", 1.0, is_outlier, Estimate(share, 9))
    return Similarities("last", by, (8, 1), {}, density)


def test_each_models_rows_say_its_own_share_of_outliers():
    shares = (0.0127, 0.00525)
    groups = groups_figure(
        [
            GroupsPanel(f"reg{i}", 9, ["mean_plus_3sd"], [share], [{}])
            for i, share in enumerate(shares)
        ],
        ["linear"],
    )
    medians = medians_figure(
        [
            SimilarityPanel(
                f"reg{i}",
                9,
                [labelled(share)],
                [{"median_normal": None, "median_outlier": None, "auc": None}],
            )
            for i, share in enumerate(shares)
        ],
        "after the last block",
    )
    for figure, columns in ((groups, 3), (medians, 2)):
        figure.draw_without_rendering()
        rows = figure.axes[::columns]
        written = [[label.get_text() for label in axis.get_yticklabels()] for axis in rows]
        assert written == [["mean + 3 sd (1.27 %)"], ["mean + 3 sd (0.525 %)"]]


@pytest.mark.parametrize(("centre", "lowest"), [(0.5, 0.0), (-0.2, -0.4)])
def test_densities_are_drawn_as_far_down_as_they_reach(centre, lowest):
    estimates = {"median_normal": None, "median_outlier": None, "auc": None}
    panel = SimilarityPanel("reg0", 9, [labelled(0.02, centre)], [estimates])
    axis = densities_figure([panel], ["mean_plus_3sd"], "after the last block").axes[0]
    assert axis.get_xlim() == pytest.approx((lowest, 1.0))
    np.testing.assert_array_equal(axis.get_lines()[1].get_ydata(), panel.labelled[0].density[1])


def test_curves_over_training_lie_in_their_panels_with_their_bands():
    runs = [Run("a", "step", [10, 20], [0, 2]), Run("b", "step", [10, 20], [1, 3])]
    shares = {i: Estimate(v, 9, v - 0.01, v + 0.01) for i, v in enumerate((0.5, 0.3, 0.6, 0.2))}
    others = {0: Estimate(1.99971, 9), 1: None, 2: Estimate(1.99973, 9), 3: None}
    panels = [
        Curves("share (%)", 100.0, shares),
        Curves("none (%)", 100.0, dict.fromkeys(range(4))),
        Curves("other", 1.0, others),
    ]
    figure = curves_figure("Over training", runs, panels, "note")
    figure.draw_without_rendering()
    share, none, other = figure.axes
    assert [line.get_ydata().tolist() for line in share.get_lines()] == [[50.0, 60.0], [30.0, 20.0]]
    assert share.get_ylim()[0] == 0.0
    assert share.get_ylim()[1] > 61.0  # the band's upper end
    assert len(share.collections) == 2
    assert none.get_ylim() == (0.0, 1.0)
    assert [line.get_xdata().tolist() for line in other.get_lines()] == [[10, 20]]
    assert other.yaxis.get_offset_text().get_text() == ""
    assert figure.axes[-1].get_xlabel() == "training step"


def test_numbers_on_logarithmic_axes_are_no_formulas(panel, tmp_path):
    figure = histogram_figure([panel])
    save_figure(figure, tmp_path, "histogram")
    labels = [
        label.get_text()
        for axes in figure.axes
        for label in (*axes.get_xticklabels(which="both"), *axes.get_yticklabels(which="both"))
    ]
    assert {"1", "10", "100"} <= set(labels)
    assert not any("$" in label or "\\" in label for label in labels)


def test_the_label_of_a_row_may_have_two_lines():
    axes = new_figure(2.0, 2.0, "rows").add_subplot()
    row_label(axes, "reg4\n(4 registers)")
    assert axes.get_ylabel() == "reg4\n(4 registers)"
    row_label(axes, "a\x07b")
    assert axes.get_ylabel() == "a\\x07b"


@pytest.mark.parametrize(("width", "columns"), [(4.0, 3.35), (7.2, 6.9)])
def test_a_figure_for_a_paper_has_a_columns_width_and_no_title(width, columns, tmp_path):
    figure = new_figure(width, 3.0, "A title")
    figure.add_subplot().plot([0, 1], [0, 1])
    save_figure(figure, tmp_path, "x", for_paper=True)
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "x.svg", "x.pdf"}
    content = (tmp_path / "x.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([0-9.]+) ([0-9.]+) \]", content)
    assert abs(float(box[1]) - 72 * columns) < 0.1
    assert abs(float(box[2]) - 72 * 3.0 * columns / width) < 0.1
    assert figure.get_suptitle() == ""
