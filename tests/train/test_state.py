"""Does a saved state come back exactly, and is a damaged one found out?"""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from regvit_jax.errors import InputError
from regvit_jax.train.state import StateStore, TrainState


@pytest.fixture
def state():
    """A state after one step, so that the optimiser remembers something."""
    params = {"head": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}
    optimizer = optax.adam(0.1)
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    return TrainState(jnp.asarray(7, jnp.int32), params, opt_state)


def with_step(state, step):
    return state._replace(step=jnp.asarray(step, jnp.int32))


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_a_state_comes_back_as_it_was(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    store.save(state)
    store.wait()
    assert_same(store.restore(state).state, jax.tree.map(np.asarray, state))


def test_the_newest_two_are_kept(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    for step in (1, 2, 10):
        store.save(with_step(state, step))
        store.wait()
    assert store.steps() == [2, 10]


def test_nothing_saved_means_no_state(state, tmp_path):
    assert StateStore(tmp_path / "steps").restore(state) is None


@pytest.mark.parametrize("damage", ["truncated", "emptied"])
def test_a_damaged_state_is_left_out_for_the_one_before(state, tmp_path, damage, caplog):
    store = StateStore(tmp_path / "steps")
    for step in (1, 2):
        store.save(with_step(state, step))
        store.wait()
    files = [p for p in (tmp_path / "steps" / "2").rglob("*") if p.is_file()]
    for file in files:
        size = file.stat().st_size if damage == "truncated" else 0
        file.write_bytes(file.read_bytes()[: size // 2])
    restored = store.restore(state).state
    assert int(restored.step) == 1
    assert store.steps() == [1]
    assert "step 2 is damaged" in caplog.text
    kept = [p for p in (tmp_path / "steps" / "2.damaged").rglob("*") if p.is_file()]
    assert len(kept) == len(files)


def test_a_folder_that_was_being_written_is_not_a_state(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    store.save(with_step(state, 1))
    store.wait()
    (tmp_path / "steps" / ".2.partial-77").mkdir()
    assert store.steps() == [1]


def test_what_is_saved_is_a_copy(state, tmp_path):
    weights = np.ones(2)
    store = StateStore(tmp_path / "steps")
    store.save(state._replace(params={"a": weights}))
    weights[:] = 5.0
    store.wait()
    restored = store.restore(state._replace(params={"a": weights})).state
    np.testing.assert_array_equal(restored.params["a"], 1.0)


def test_a_flipped_bit_is_noticed(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    for step in (1, 2):
        store.save(with_step(state, step))
    store.wait()
    files = [path for path in (tmp_path / "steps" / "2").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-1] ^= 1
    largest.write_bytes(data)
    assert int(store.restore(state).state.step) == 1


def test_the_state_of_another_model_is_refused_and_kept(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    store.save(state)
    store.wait()
    other = state._replace(params={"head": {"kernel": jnp.zeros((2, 4)), "bias": jnp.ones(3)}})
    with pytest.raises(InputError, match=r"params/head/kernel: expected .*2, 4.* found .*2, 3"):
        store.restore(other)
    assert store.steps() == [7]


def test_a_full_disk_is_told_and_leaves_nothing_half_written(state, tmp_path, monkeypatch):
    def write(folder, arrays):
        (folder / "part").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    store = StateStore(tmp_path / "steps")
    store.save(with_step(state, 1))
    store.wait()
    monkeypatch.setattr("regvit_jax.train.state.write_arrays", write)
    store.save(with_step(state, 2))
    with pytest.raises(OSError, match=r"No space left.*newest whole state is of step 1"):
        store.wait()
    assert [p.name for p in (tmp_path / "steps").iterdir()] == ["1"]


def test_losses_that_no_line_tells_yet_come_back_exactly(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    losses = [0.1 + 0.2, 1e-300, 3.0]
    store.save(state, losses)
    store.wait()
    assert store.restore(state).losses == losses


def read_error(*_):
    raise OSError(errno.EIO, "Input/output error", "disk")


@pytest.mark.parametrize("name", ["read_arrays", "describe_arrays"])
def test_a_read_error_is_no_damage_nothing_is_touched(state, tmp_path, monkeypatch, name):
    store = StateStore(tmp_path / "steps")
    for step in (1, 2):
        store.save(with_step(state, step))
    store.wait()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(f"regvit_jax.train.state.{name}", read_error)
    with pytest.raises(InputError, match=r"step 2 cannot be read \(Input/output error"):
        store.restore(state)
    assert sorted(tmp_path.rglob("*")) == before


def test_where_all_states_are_damaged_the_run_does_not_start_anew(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    store.save(with_step(state, 1))
    store.wait()
    for path in (tmp_path / "steps" / "1" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"rubbish")
    for _ in range(2):  # also at the next start
        with pytest.raises(InputError, match=r"No saved state .* damaged are 1\.damaged"):
            store.restore(state)
    assert (tmp_path / "steps" / "1.damaged" / "params").is_dir()


def test_a_folder_that_cannot_be_listed_is_told(state, tmp_path):
    (tmp_path / "steps").write_text("a file")
    with pytest.raises(OSError, match="Not a directory"):
        StateStore(tmp_path / "steps").restore(state)
