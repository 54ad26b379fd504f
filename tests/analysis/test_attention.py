"""Are the attention summaries those of plain NumPy on the model's own attention?"""

import itertools

import numpy as np
import pytest

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.questions.attention.attention import (
    MEASURES,
    attention_maps,
    attention_rows,
    compared_features,
    embedding_similarity,
    summarise_attention,
)
from regvit_jax.analysis.questions.attention.on_outliers import outlier_masses
from regvit_jax.analysis.questions.attention.rollout import rollout
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import some_images

PREPROCESS = Preprocess(32, 24)
# float32 sums of at most 53 weights against float64: measured 3e-7.
ATOL = 3e-6


def rows_of(traced, layer):
    _, _, trace, layout = traced
    return attention_rows(some_images(), PREPROCESS, layer).reduce(trace, layout)


def by_hand(row, num_registers):
    """The measures of one query's head-averaged row, in float64."""
    patches = row[1 + num_registers :]
    share = patches / patches.sum()
    return {
        "entropy": -sum(p * np.log(p) for p in share) / np.log(len(share)),
        "largest_weight": patches.max(),
        "largest_times_even": share.max() * len(share),
        "mass_cls": row[0],
        "mass_registers": row[1 : 1 + num_registers].sum(),
        "mass_patches": patches.sum(),
    }


def test_measures_are_those_of_numpy_loops(traced):
    config, _, trace, layout = traced
    rows = rows_of(traced, 1)
    for image, block, query in itertools.product(
        range(6), range(3), range(1 + layout.num_registers)
    ):
        attn = np.asarray(trace.blocks[block].attn, np.float64)[image]
        expected = by_hand(attn[:, query].mean(axis=0), config.num_registers)
        assert expected.keys() == MEASURES.keys()
        for name, value in expected.items():
            found = float(rows[name][image, block, query])
            assert found == pytest.approx(value, rel=1e-5, abs=ATOL), name


def test_the_masses_add_up_to_one(traced):
    measures = rows_of(traced, 0)
    total = measures["mass_cls"] + measures["mass_registers"] + measures["mass_patches"]
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=ATOL)


def test_maps_are_the_rows_of_the_chosen_block_on_patches(traced):
    config, _, trace, layout = traced
    for layer in range(config.depth):
        keep = attention_maps(some_images(), PREPROCESS, layer)
        maps = keep.reduce(trace, layout)["maps"]
        start = 1 + config.num_registers
        expected = np.asarray(trace.blocks[layer].attn)[:, :, :start, start:]
        np.testing.assert_array_equal(maps, expected)


def test_register_maps_are_compared_as_numpy_does(traced):
    config, _, trace, layout = traced
    found = np.asarray(rows_of(traced, 0)["similarity"])
    if config.num_registers < 2:
        assert not found.any()
        return
    for image, block in itertools.product(range(6), range(config.depth)):
        mean = np.asarray(trace.blocks[block].attn, np.float64)[image].mean(axis=0)
        maps = mean[layout.registers, layout.patches]
        pairs = list(itertools.combinations(maps, 2))
        cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        centred = [np.corrcoef(a, b)[0, 1] for a, b in pairs]
        assert found[image, block, 0] == pytest.approx(np.mean(cosine), abs=ATOL)
        assert found[image, block, 1] == pytest.approx(np.mean(centred), abs=10 * ATOL)


def test_register_embeddings_are_compared_pair_by_pair():
    tokens = np.array([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]], np.float32)
    assert embedding_similarity({"reg_tokens": tokens}) == pytest.approx(2 * 0.5**0.5 / 3)
    assert embedding_similarity({"reg_tokens": tokens[:, :1]}) is None
    assert embedding_similarity({}) is None


def test_a_data_set_is_summed_up(traced):
    config, params, trace, layout = traced
    columns = {name: np.asarray(column) for name, column in rows_of(traced, 2).items()}
    rows = Columns(columns)
    embeddings, bootstrap = embedding_similarity(params), Bootstrap(6, 200)
    summary = summarise_attention(rows, layout, embeddings, bootstrap)
    features = compared_features(rows, config.num_registers)
    assert set(features) >= {"cls_entropy", "cls_largest_times_even"}
    assert ("register_maps_cosine" in features) == (config.num_registers > 1)
    assert summary.num_images == 6
    assert len(summary.queries) == 1 + config.num_registers
    for name in MEASURES:
        for block in range(config.depth):
            for query in range(len(summary.queries)):
                expected = columns[name].astype(np.float64)[:, block, query].mean()
                assert summary.measures[name][block][query].value == pytest.approx(
                    expected, abs=ATOL
                )
    mean_map = np.asarray(trace.blocks[2].attn, np.float64).mean(axis=(0, 1))
    mean_map = mean_map[: 1 + config.num_registers, layout.patches]
    mean_map = mean_map.reshape(-1, *layout.grid)
    np.testing.assert_allclose(summary.average_map, mean_map, rtol=0, atol=ATOL)
    assert (summary.register_maps is None) == (config.num_registers < 2)


def test_rollout_is_the_product_of_all_blocks(traced):
    config, _, trace, layout = traced
    found = np.asarray(rollout(trace, layout))
    for image in range(6):
        product = np.eye(layout.num_tokens)
        for block in trace.blocks:
            mean = np.asarray(block.attn, np.float64)[image].mean(axis=0)
            product = (0.5 * mean + 0.5 * np.eye(len(mean))) @ product
        expected = product[: 1 + config.num_registers, layout.patches]
        np.testing.assert_allclose(found[image], expected, rtol=0, atol=ATOL)


def test_attention_on_outliers_is_that_of_a_loop():
    generator = np.random.default_rng(0)
    is_outlier = generator.random((20, 12)) < 0.1
    maps = generator.dirichlet(np.ones(14), size=20)[:, :12].astype(np.float32)
    found = outlier_masses(is_outlier, maps, Bootstrap(20, 200))
    rows = zip(is_outlier, maps, strict=True)
    expected = [sum(m for is_one, m in zip(*row, strict=True) if is_one) for row in rows]
    assert found["mass"].value == pytest.approx(np.mean(expected), abs=ATOL)
    part = np.sum(expected) / maps.sum(dtype=np.float64)
    assert found["share_of_patch_mass"].value == pytest.approx(part, abs=ATOL)
    assert found["times_even"].value == pytest.approx(part / is_outlier.mean(), rel=1e-5)


def test_even_attention_is_once_even_and_nobody_has_no_number():
    maps = np.full((20, 12), 1 / 14, np.float32)
    is_outlier = np.random.default_rng(1).random((20, 12)) < 0.2
    even = outlier_masses(is_outlier, maps, Bootstrap(20, 200))["times_even"]
    assert even.value == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(even.samples, 1, rtol=0, atol=1e-5)
    nobody = outlier_masses(np.zeros((20, 12), bool), maps, Bootstrap(20, 200))
    assert nobody.keys() == {"mass", "share_of_patch_mass"}
    assert nobody["mass"].value == 0


def test_the_outliers_part_is_pooled_over_the_images():
    generator = np.random.default_rng(3)
    maps = generator.random((9, 6)).astype(np.float32)
    is_outlier = generator.random((9, 6)) < 0.4
    bootstrap = Bootstrap(9, 50)
    found = outlier_masses(is_outlier, maps, bootstrap)["share_of_patch_mass"]
    counts = 9 * bootstrap.means(np.eye(9))  # how often each resample holds each image
    for sample, times in zip(found.samples, counts, strict=True):
        places = np.repeat(np.arange(9), times.round().astype(int))
        expected = maps[places][is_outlier[places]].sum() / maps[places].sum()
        assert sample == pytest.approx(expected, abs=1e-6)
