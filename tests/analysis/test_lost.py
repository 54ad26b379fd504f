"""Does LOST find the boxes of the published algorithm?

The other side is written here in plain PyTorch and scipy from the published description, with ties
broken by the lowest index: the whole Gram matrix, row by row sums, `scipy.ndimage.label`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from regvit_jax.analysis.discovery import lost as lost_module
from regvit_jax.analysis.discovery.features import patch_features
from regvit_jax.analysis.discovery.lost import centred, lost
from regvit_jax.errors import InputError

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

GRIDS = [(14, 14), (1, 7), (30, 19)]
# The last one has more patches than a block of the Gram matrix.


def published(features, grid, bias=0.0, k=100):
    """Box, seed, degrees and mask of one image; no box where the seed is in the background."""
    features = torch.as_tensor(features)
    gram = features @ features.T + bias
    links = gram.clone()
    links.fill_diagonal_(0)
    links[links < 0] = 0
    degrees = (links > 0).sum(dim=1)
    order = torch.argsort(degrees, stable=True)
    seed, lonely = order[0], order[:k]
    similar = lonely[gram[seed, lonely] > 0]
    mask = (gram[similar].sum(dim=0) > 0).reshape(grid).numpy()
    pieces, _ = scipy.ndimage.label(mask)
    row, col = divmod(int(seed), grid[1])
    if pieces[row, col] == 0:
        return None, int(seed), degrees.numpy(), mask
    rows, cols = np.where(pieces == pieces[row, col])
    box = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
    return box, int(seed), degrees.numpy(), mask


def random_features(grid, seed, count=6, dim=12, smoothness=0.0, shift=0.0):
    """Features in sixteenths: their products and sums are exact in float32, in any order."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, *grid, dim))
    if smoothness:
        values = scipy.ndimage.gaussian_filter(values, (0, smoothness, smoothness, 0))
        values /= values.std()
    values = (values + shift * generator.normal(size=(count, 1, 1, dim))).clip(-4, 4)
    return (np.round(values * 16) / 16).reshape(count, -1, dim).astype(np.float32)


def assert_equal(features, grid, bias=0.0, k=100):
    found = jax.tree.map(np.asarray, lost(jnp.asarray(features), grid, bias, k))
    for i, image in enumerate(features):
        box, seed, degrees, mask = published(image, grid, bias, k)
        np.testing.assert_array_equal(found.degrees[i], degrees)
        assert found.seeds[i] == seed
        np.testing.assert_array_equal(found.mask[i], mask)
        assert found.in_mask[i] == (box is not None)
        if box is not None:
            assert found.boxes[i].tolist() == box
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_everything_equals_the_published_algorithm(grid):
    maps = ((0.0, 0.0), (1.5, 0.0), (2.0, 0.5), (0.0, 0.3), (1.0, 1.5))
    features = np.concatenate([random_features(grid, i, 4, 12, *m) for i, m in enumerate(maps)])
    for bias in (0.0, 13 / 256, -0.75, 2.0):
        assert_equal(features, grid, bias)


def test_many_ties_and_products_of_exactly_zero():
    """Features of -1, 0 and 1: most degrees are shared, and many products are exactly 0."""
    generator = np.random.default_rng(2)
    features = generator.integers(-1, 2, (40, 14 * 14, 4)).astype(np.float32)
    found = assert_equal(features, (14, 14))
    assert not found.in_mask.all()  # a patch of zeros resembles nothing, not even itself


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_any_number_of_patches_may_join(k):
    assert_equal(random_features((14, 14), 3, smoothness=1.0), (14, 14), k=k)


@pytest.mark.parametrize("rows", [1, 64, 10_000])
def test_blocks_of_the_gram_matrix_do_not_matter(rows, monkeypatch):
    features = random_features((9, 23), 4, smoothness=1.0, count=2)
    monkeypatch.setattr(lost_module, "_BLOCK_ROWS", rows)
    found = jax.jit(lambda f: jax.vmap(lost_module._degrees, (0, None))(f, 0.25))(features)
    for i, image in enumerate(features):
        np.testing.assert_array_equal(found[i], published(image, (9, 23), 0.25)[2])


def test_a_large_map_is_formed_in_blocks():
    """28 x 37 patches of 384 channels: float32 rounds, so products near 0 may change side."""
    generator = np.random.default_rng(5)
    values = scipy.ndimage.gaussian_filter(generator.normal(size=(3, 28, 37, 384)), (0, 2, 2, 0))
    features = (values / values.std()).reshape(3, -1, 384).astype(np.float32)
    found = jax.tree.map(np.asarray, lost(jnp.asarray(features), (28, 37)))
    for i, image in enumerate(features):
        gram = image.astype(np.float64) @ image.T.astype(np.float64)
        is_clear = np.abs(gram) > 1e-4  # measured: float32 is off by 2e-5 at most
        np.fill_diagonal(gram, 0)
        doubtful = (~is_clear).sum(axis=1)
        assert (np.abs(found.degrees[i] - (gram > 0).sum(axis=1)) <= doubtful).all()
        box, seed, *_ = published(image, (28, 37))
        assert found.seeds[i] == seed
        assert found.boxes[i].tolist() == box


def snake(grid):
    """Features whose mask is a winding path: every second row, joined at alternating ends."""
    rows, cols = grid
    path = np.zeros(grid, bool)
    path[::2] = True
    for row in range(1, rows, 2):
        path[row, 0 if row // 2 % 2 else cols - 1] = True
    return path


def test_a_winding_component_is_followed_to_its_end():
    path = snake((15, 11))
    start = jnp.zeros((15, 11), bool).at[0, 0].set(True)
    np.testing.assert_array_equal(lost_module._connected(start, jnp.asarray(path)), path)
    broken = path.copy()
    broken[7] = False
    pieces, _ = scipy.ndimage.label(broken)
    found = lost_module._connected(start, jnp.asarray(broken))
    np.testing.assert_array_equal(found, pieces == pieces[0, 0])


def test_diagonal_neighbours_are_apart():
    features = np.full((1, 9, 2), (-1.0, 0.0), np.float32)
    features[0, [0, 4]] = (1.0, 0.0)
    found = lost(jnp.asarray(features), (3, 3))
    assert found.mask[0].sum() == 2
    assert found.boxes[0].tolist() == [0, 0, 1, 1]


def test_a_seed_outside_its_mask_gives_its_own_patch():
    features = np.ones((1, 6, 3), np.float32)
    features[0, 4] = 0.0
    found = lost(jnp.asarray(features), (2, 3))
    assert published(features[0], (2, 3))[0] is None
    assert not found.in_mask[0]
    assert found.boxes[0].tolist() == [1, 1, 2, 2]


def test_centred_features_equal_torch():
    features = np.random.default_rng(0).normal(1.0, 1.0, (2, 30, 8)).astype(np.float32)
    features[1, 3] = features[1].mean(axis=0)
    shifted = torch.tensor(features) - torch.tensor(features).mean(dim=1, keepdim=True)
    expected = torch.nn.functional.normalize(shifted, dim=2).numpy()
    # Measured 1.2e-7; the patch at the mean has no direction.
    np.testing.assert_allclose(centred(features)[0], expected[0], rtol=0, atol=1e-6)
    assert np.isfinite(np.asarray(centred(features))).all()


def test_wrong_grids_are_refused():
    features = jnp.zeros((1, 12, 4))
    with pytest.raises(InputError, match="3 x 3 holds 9 patches, got features of 12"):
        lost(features, (3, 3))
    with pytest.raises(InputError, match="k must be at least 1"):
        lost(features, (3, 4), k=0)


@pytest.mark.parametrize("feature", ["query", "key", "value"])
def test_features_are_the_fused_product_of_the_patches(traced, feature):
    config, params, trace, layout = traced
    block = params["blocks_1"]
    stream = np.asarray(trace.blocks[0].tokens, np.float64)
    mean, variance = stream.mean(-1, keepdims=True), stream.var(-1, keepdims=True)
    normed = (stream - mean) / np.sqrt(variance + 1e-6)
    normed = normed * np.asarray(block["norm1"]["scale"]) + np.asarray(block["norm1"]["bias"])
    qkv = block["attn"]["qkv"]
    fused = normed @ np.asarray(qkv["kernel"], np.float64) + np.asarray(qkv["bias"])
    place = ["query", "key", "value"].index(feature) * config.embed_dim
    expected = fused[:, 1 + config.num_registers :, place : place + config.embed_dim]
    found = patch_features(trace, layout, 1, feature)
    # Measured 4e-6, for values of about 1.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


def test_a_block_left_out_of_the_trace_is_named(traced):
    _, _, trace, layout = traced
    blocks = (None, *trace.blocks[1:])
    with pytest.raises(ValueError, match="no block 0"):
        patch_features(trace._replace(blocks=blocks), layout, 0, "key")
