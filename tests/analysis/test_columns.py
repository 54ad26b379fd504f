"""Do rows come back as they were stored, after a stop too?"""

import numpy as np
import pytest

from regvit_jax.analysis.engine.columns import Columns, StoredColumns


@pytest.fixture
def opened(tmp_path):
    """Opens the columns of a folder; their files are closed at the end."""
    found = []

    def open_it():
        found.append(StoredColumns(tmp_path))
        return found[-1]

    yield open_it
    for store in found:
        for file in store._files.values():
            file.close()


def rows(start, stop):
    generator = np.random.default_rng(0)
    norms = generator.random((20, 2, 3)).astype(np.float32)
    pixels = generator.integers(0, 256, (20, 5)).astype(np.uint8)
    return {"norms": norms[start:stop], "pixels": pixels[start:stop]}


def test_rows_come_back_whole_in_blocks_and_at_random(opened):
    store, expected = opened(), rows(0, 11)
    store.append(rows(0, 4))
    store.append(rows(4, 11))
    for columns in (store, Columns(expected)):
        assert columns.num_rows == 11
        assert "norms" in columns
        assert "tokens" not in columns
        np.testing.assert_array_equal(columns.read("norms"), expected["norms"])
        np.testing.assert_array_equal(columns.read("pixels", 3, 20), expected["pixels"][3:])
        blocks = list(columns.blocks("norms", "pixels", rows=4))
        assert [len(block[0]) for block in blocks] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), expected["pixels"])
        some = np.array(columns.mapped("pixels")[[7, 2]])
        np.testing.assert_array_equal(some, expected["pixels"][[7, 2]])
    assert store.row_bytes == 6 * 4 + 5


def test_rows_that_do_not_fit_are_refused(opened):
    store = opened()
    store.append(rows(0, 4))
    for wrong in (
        {"norms": rows(0, 2)["norms"]},
        rows(0, 2) | {"pixels": rows(0, 3)["pixels"]},
        rows(0, 2) | {"pixels": np.zeros((2, 5), np.float32)},
    ):
        with pytest.raises(ValueError, match="do not fit"):
            store.append(wrong)
    np.testing.assert_array_equal(store.read("norms"), rows(0, 4)["norms"])


def test_what_was_not_saved_is_cut_off_and_what_was_goes_on(opened, tmp_path):
    store = opened()
    store.append(rows(0, 4), {"sum": np.array([4.0])})
    store.done, store.skipped = 3, ["b.png"]
    store.save()
    store.append(rows(4, 9), {"sum": np.array([9.0])})  # never saved: the process is killed
    for file in store._files.values():
        file.flush()
    again = opened()
    assert (again.num_rows, again.done, again.skipped) == (4, 3, ["b.png"])
    np.testing.assert_array_equal(again.folded["sum"], [4.0])
    again.append(rows(4, 6), {"sum": np.array([6.0])})
    again.close()
    whole = opened()
    for name, expected in rows(0, 6).items():
        np.testing.assert_array_equal(whole.read(name), expected)
    np.testing.assert_array_equal(whole.folded["sum"], [6.0])
    assert len(list(tmp_path.glob("*-fold.npz"))) == 1


@pytest.mark.parametrize("damage", ["state", "rows", "fold"])
def test_an_attempt_that_is_not_whole_counts_as_none(tmp_path, opened, damage):
    store = opened()
    store.append(rows(0, 4), {"sum": np.array([4.0])})
    store.close()
    name = {"state": "state.json", "rows": "norms.rows", "fold": "4-fold.npz"}[damage]
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    again = opened()
    assert (again.num_rows, again.done) == (0, -1)
    again.append(rows(0, 9))
    np.testing.assert_array_equal(again.read("norms"), rows(0, 9)["norms"])


def test_columns_without_rows_are_empty(opened):
    assert Columns({}).num_rows == 0
    store = opened()
    store.append(rows(0, 0))
    store.close()
    assert opened().read("norms").shape == (0, 2, 3)
    assert not list(store.blocks("norms"))
