"""Does a saved state come back exactly, and is a damaged one found out?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.state import StateStore, TrainState, to_host


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
    assert_same(store.restore(state), to_host(state))


def test_the_newest_two_are_kept(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    for step in (1, 2, 10):
        store.save(with_step(state, step))
    assert store.steps() == [2, 10]


def test_nothing_saved_means_no_state(state, tmp_path):
    assert StateStore(tmp_path / "steps").restore(state) is None


@pytest.mark.parametrize("damage", ["truncated", "emptied"])
def test_a_damaged_state_is_left_out_for_the_one_before(state, tmp_path, damage, caplog):
    store = StateStore(tmp_path / "steps")
    for step in (1, 2):
        store.save(with_step(state, step))
    files = [p for p in (tmp_path / "steps" / "2").rglob("*") if p.is_file()]
    for file in files:
        size = file.stat().st_size if damage == "truncated" else 0
        file.write_bytes(file.read_bytes()[: size // 2])
    restored = store.restore(state)
    assert int(restored.step) == 1
    assert store.steps() == [1]
    assert "step 2 is damaged" in caplog.text


def test_a_folder_that_was_being_written_is_not_a_state(state, tmp_path):
    store = StateStore(tmp_path / "steps")
    store.save(with_step(state, 1))
    (tmp_path / "steps" / "2.orbax-checkpoint-tmp").mkdir()
    assert store.steps() == [1]


def test_host_arrays_are_copies(state):
    host = to_host(TrainState(np.zeros((), np.int32), {"a": np.ones(2)}, ()))
    assert host.params["a"].flags.owndata
