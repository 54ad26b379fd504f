"""Do rows come back as they were stored?"""

import numpy as np
import pytest

from regvit_jax.analysis.engine.store import ColumnStore


def test_rows_come_back_whole_in_blocks_and_at_random(tmp_path):
    generator = np.random.default_rng(0)
    norms = generator.random((11, 2, 3)).astype(np.float32)
    pixels = generator.integers(0, 256, (11, 5)).astype(np.uint8)
    with ColumnStore({"norms": (6, np.float32), "pixels": (5, np.uint8)}, tmp_path) as store:
        store.append({"norms": norms[:4], "pixels": pixels[:4]})
        store.append({"norms": norms[4:], "pixels": pixels[4:]})
        assert store.num_rows == 11
        np.testing.assert_array_equal(store.read("norms"), norms.reshape(11, 6))
        np.testing.assert_array_equal(store.read("pixels", 3, 20), pixels[3:])
        blocks = list(store.blocks("norms", "pixels", rows=4))
        assert [len(block[0]) for block in blocks] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), pixels)
        np.testing.assert_array_equal(store.mapped("pixels")[[7, 2]], pixels[[7, 2]])
        store.append({"norms": norms[:1], "pixels": pixels[:1]})
        assert store.read("norms", 11).shape == (1, 6)
        with pytest.raises(ValueError, match="Expected columns"):
            store.append({"norms": norms})
        with pytest.raises(ValueError, match="different lengths"):
            store.append({"norms": norms, "pixels": pixels[:2]})
    assert not list(tmp_path.iterdir())


def test_an_empty_store_has_no_rows():
    with ColumnStore({"a": (2, np.float32)}) as store:
        assert store.read("a").shape == (0, 2)
        assert store.mapped("a").shape == (0, 2)
        assert not list(store.blocks("a"))
