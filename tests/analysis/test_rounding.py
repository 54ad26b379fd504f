"""Are the counts of outliers the same, however batches round?"""

import jax
import numpy as np
import pytest
from PIL import Image

from regvit_jax import DeiT3
from regvit_jax.analysis.engine.extract import extract
from regvit_jax.analysis.outliers.definitions import is_above, is_below, shares, thresholds
from regvit_jax.analysis.outliers.streams import token_norms
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.batches import Batches
from regvit_jax.data import open_source
from regvit_jax.model import init_params
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import TINY


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Twenty pictures, ten and ten the same: every norm is there ten times."""
    folder = tmp_path_factory.mktemp("alike")
    coarse = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    for i in range(20):
        Image.fromarray(coarse[i % 2]).resize((32, 32)).save(folder / f"{i:02}.png")
    return open_source(str(folder))


def last_norms(trace, layout):
    return token_norms(trace, layout)[:, -2, layout.patches]


def test_batches_of_any_size_find_the_same_shares(alike):
    """In an untrained twin. The cuts of another batch size are off by rounding, too."""
    model = DeiT3(TINY)
    params = init_params(model, jax.random.key(0))
    norms = {}
    for size in (1, 7, 32):
        batches = Batches(alike, Preprocess.square(32), size)
        found = extract(model, params, batches, last_norms)
        norms[size] = np.concatenate([each for _, each in found])
    bootstrap = Bootstrap(20, 100, 0)
    for cuts in map(thresholds, norms.values()):
        first, *others = (shares(each, cuts, bootstrap) for each in norms.values())
        assert all(other == first for other in others)


def test_equal_norms_are_not_above_one_another_whatever_their_rounding():
    ulp = np.finfo(np.float32).eps
    tied = (30 * (1 + ulp * np.array([[-2, -1, 0, 1, 2]]))).astype(np.float32)
    assert not is_above(tied, 30.0).any()
    assert not is_below(tied, 30.0).any()


def test_numbers_that_are_not_tied_are_counted_as_before():
    norms = np.random.default_rng(0).lognormal(3, 0.5, (300, 196)).astype(np.float32)
    for cut in thresholds(norms).values():
        np.testing.assert_array_equal(is_above(norms, cut), norms > cut)
        np.testing.assert_array_equal(is_below(norms, cut), norms < cut)
