"""Are the norms those of the stream, and the summaries those of the norms?"""

import numpy as np
import pytest

from regvit_jax.analysis.outliers.labels import find_labels
from regvit_jax.analysis.outliers.streams import kept_norms, token_norms
from regvit_jax.analysis.questions.norms.norms import (
    QUANTILES,
    creator,
    pooled_quantiles,
    summarise,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.tokens import TokenLayout
from tests.analysis.conftest import label_options, norm_columns

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

# A sum of 24 squares in float32, against float64: measured 6e-7 of norms up to 10.
NORM_ATOL = 5e-6


def summarised(store, bootstrap):
    return summarise(store, find_labels(store, bootstrap, label_options()), bootstrap)


def test_norms_are_torchs_of_every_stream(traced):
    config, _, trace, layout = traced
    norms = np.asarray(token_norms(trace, layout))
    streams = [trace.embedded, *(block.tokens for block in trace.blocks), trace.normed]
    assert norms.shape == (6, config.depth + 2, layout.num_tokens)
    for layer, stream in enumerate(streams):
        for image in range(6):
            for token in range(layout.num_tokens):
                vector = torch.from_numpy(np.asarray(stream[image, token], np.float64))
                expected = torch.linalg.vector_norm(vector).item()
                assert norms[image, layer, token] == pytest.approx(expected, abs=NORM_ATOL)


def test_the_columns_are_the_layers_and_sub_layers_of_the_trace(traced):
    config, _, trace, layout = traced
    columns = {name: np.asarray(column) for name, column in kept_norms(trace, layout).items()}
    every = np.asarray(token_norms(trace, layout))
    for index in range(config.depth + 2):
        np.testing.assert_array_equal(columns[f"layer_{index}"], every[:, index])
    for index, block in enumerate(trace.blocks):
        patches = np.asarray(block.after_attn, np.float64)[:, layout.patches]
        expected = np.linalg.norm(patches, axis=-1)
        np.testing.assert_allclose(columns[f"block_{index}"], expected, rtol=0, atol=NORM_ATOL)


def test_a_layer_is_read_by_its_number_or_from_the_end():
    layout = TokenLayout(num_registers=2, grid=(3, 4))
    norms = np.random.default_rng(0).random((7, 5, layout.num_tokens)).astype(np.float32)
    columns = norm_columns(norms, layout)
    assert columns.num_images == 7
    for index in (0, 2, -1, -2):
        np.testing.assert_array_equal(columns.layer(index), norms[:, index])
    np.testing.assert_array_equal(columns.patches(1), norms[:, 1, 3:])
    assert [name for name, _ in columns.layers()] == ["0", "1", "2", "3", "normed"]


def test_quantiles_are_numpys_and_lie_inside_their_intervals():
    values = np.exp(np.random.default_rng(1).normal(2, 0.5, (400, 50)))
    found = pooled_quantiles(values, Bootstrap(400, 500))
    for name, level in QUANTILES.items():
        assert found[name].value == pytest.approx(np.quantile(values, level), rel=1e-12)
        assert found[name].low < found[name].value < found[name].high
    assert found["mean"].value == pytest.approx(values.mean())
    assert found["max"].value == values.max()


def test_the_interval_of_a_median_is_that_of_resampling_by_hand():
    values = np.exp(np.random.default_rng(2).normal(2, 0.5, (60, 40)))
    found = pooled_quantiles(values, Bootstrap(60, 2000, seed=3))["median"]
    generator = np.random.default_rng(4)
    medians = [np.median(values[generator.integers(60, size=60)]) for _ in range(2000)]
    low, high = np.quantile(medians, [0.025, 0.975])
    # Two independent sets of 2,000 resamples: 4 x sqrt(2) x 2.67 / sqrt(2000) standard errors.
    atol = 4 * 2**0.5 * 2.67 / 2000**0.5 * np.std(medians)
    assert found.low == pytest.approx(low, abs=atol)
    assert found.high == pytest.approx(high, abs=atol)


def test_kinds_of_token_are_told_apart():
    layout = TokenLayout(num_registers=2, grid=(2, 3))
    norms = np.tile(np.array([10.0, 20.0, 30.0, 1, 1, 1, 1, 1, 1], np.float32), (12, 3, 1))
    store = norm_columns(norms, layout)
    summary = summarised(store, Bootstrap(12, 200))
    medians = {(row.layer, row.kind): row.values["median"].value for row in summary.layers}
    for layer in ("0", "1", "normed"):
        assert medians[layer, "cls"] == 10
        assert medians[layer, "register_0"] == 20
        assert medians[layer, "register_1"] == 30
        assert medians[layer, "patches"] == 1


def test_the_layer_where_outliers_appear_and_where_they_sit_are_seen():
    layout = TokenLayout(num_registers=1, grid=(4, 5))
    generator = np.random.default_rng(5)
    norms = np.exp(generator.normal(2, 0.1, (1050, 6, layout.num_tokens))).astype(np.float32)
    corner = 2 + 19  # the last patch, in every second image, from layer 3 on
    norms[::2, 3:5, corner] *= 8
    store = norm_columns(norms, layout)
    summary = summarised(store, Bootstrap(1050, 300))
    assert summary.answer == "found"
    assert [v.answer for v in summary.verdicts] == ["not found"] * 3 + ["found"] * 2
    assert summary.emergence == [0.0, 0.0, 0.0, 1.0, 1.0]
    expected = np.zeros((4, 5))
    expected[3, 4] = 0.5
    np.testing.assert_array_equal(summary.map, expected)
    counts, edges = summary.histogram
    assert counts.sum() == 1050 * 20
    assert edges[0] <= norms[:, 4, 2:].min()
    assert norms[:, 4, 2:].max() <= edges[-1]


def test_the_sub_layer_that_makes_large_patches_is_named():
    generator = np.random.default_rng(3)
    layout = TokenLayout(0, (4, 5))
    norms = generator.uniform(9, 11, (60, 5, 21)).astype(np.float32)
    between = generator.uniform(9, 11, (60, 3, 20)).astype(np.float32)
    norms[:30, 2:, 20] = 200.0  # from block 1's MLP on
    between[:30, 2, 19] = 200.0
    store = norm_columns(norms, layout, between)
    summary = summarised(store, Bootstrap(60, 200))
    made = creator(summary.origin)
    assert (made.block, made.sublayer, made.share_before, made.share_after) == (1, "mlp", 0, 1)
    assert len(summary.origin) == 6
    store = norm_columns(norms, layout)
    assert summarised(store, Bootstrap(60, 200)).origin is None


def test_the_low_tail_is_counted_where_it_is():
    generator = np.random.default_rng(4)
    norms = generator.uniform(9, 11, (100, 4, 21)).astype(np.float32)
    norms[:40, 2, 1] = 1.0
    store = norm_columns(norms, TokenLayout(0, (4, 5)))
    tail = summarised(store, Bootstrap(100, 200)).low_tail
    assert tail.share_below_third.value == pytest.approx(40 / 2000)
    assert tail.map_q02[0, 0] == pytest.approx(0.4)
    assert tail.map_q02.shape == (4, 5)
    assert tail.min_over_median == pytest.approx(0.1, abs=0.01)
