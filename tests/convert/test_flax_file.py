"""Flax's own reader is the other side."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from regvit_jax import InputError
from regvit_jax.arrays import flatten
from regvit_jax.convert import flax_file
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.weights import read_weights

GENERATOR = np.random.default_rng(0)
TREE = {
    "model": {f"layer_{i}": {"kernel": GENERATOR.normal(size=(3, 4))} for i in range(20)},
    "step": 7,
    "rate": 0.5,
    "name": "tiny",
    "is_best": True,
    "nothing": None,
}
LIES = {
    "cut": (b"\x81\xa5model\x83\xa5embed", "cut short"),
    "followed": (b"\x81\xa1a\x01\x01", "1 bytes follow its tree"),
    "the same name twice": (b"\x82\xa1a\x01\xa1a\x02", "the name 'a' twice"),
    "a number as a name": (b"\x81\x01\x01", "a name that is no text"),
    "2^32 names": (b"\xdf\xff\xff\xff\xff", "cut short"),
    "2^32 values": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "a list of"),
    "many values": (b"\x81\xa1a\xdd\x00\x04\x93\xe0" + b"\x01" * 300_000, "a list of"),
    "deep": (b"\x81\xa1a" * 100_000 + b"\x01", "trees inside trees"),
    "deep lists": (b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01", "trees inside trees"),
    "a text of 4 GB": (b"\x81\xdb\xff\xff\xff\xff", "cut short"),
    "an array without an end": (b"\x81\xa1a\xc9\x7f\xff\xff\xff\x01\x93", "cut short"),
    "bytes that are no array": (b"\x81\xa1a\xc4\x01\x01", "bytes that are no array"),
    "a reserved byte": (b"\x81\xa1a\xc1", "starts no value"),
    "a name that is not UTF-8": (b"\x81\xa1\xff\x01", "not UTF-8"),
    "a shape too large": (
        b"\x81\xa1a\xc7\x0f\x01\x93\x92\xcd\xff\xff\x02\xa4int8\xc4\x02\x01\x02",
        "2 bytes for int8 of shape",
    ),
    "an unknown type": (
        b"\x81\xa1a\xc7\x0b\x01\x93\x91\x02\xa3<U2\xc4\x02\x01\x02",
        "type '<U2'",
    ),
    "objects": (b"\x81\xa1a\xc7\x0d\x01\x93\x91\x02\xa6object\xc4\x01\x01", "type 'object'"),
}


def arrays(tree, kind):
    """The arrays in a tree, by name; those of ours are read."""
    found = {name: leaf for name, leaf in flatten(tree).items() if isinstance(leaf, kind)}
    return {name: leaf.read() if isinstance(leaf, Stored) else leaf for name, leaf in found.items()}


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        found[k].dtype == x.dtype
        and found[k].shape == x.shape
        and found[k].tobytes() == x.tobytes()
        for k, x in expected.items()
    )


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "file.msgpack"
        is_bytes = isinstance(content, bytes)
        path.write_bytes(content if is_bytes else serialization.msgpack_serialize(content))
        return path

    return write


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"],
)
def test_arrays_of_every_type_are_those_that_flax_reads(written, dtype):
    tree = {"a": {"b": GENERATOR.normal(size=(2, 3)).astype(jnp.dtype(dtype)), "c": np.zeros(0)}}
    path = written(tree)
    expected = serialization.msgpack_restore(path.read_bytes())
    assert equal(arrays(flax_file.read(path), Stored), arrays(expected, np.ndarray))


def test_what_lies_beside_arrays_is_read_too(written):
    found = flax_file.read(written({**TREE, "names": ["a", "b"], "negative": [-5, -(2**40)]}))
    assert (found["step"], found["rate"], found["name"]) == (7, 0.5, "tiny")
    assert (found["is_best"], found["nothing"]) == (True, None)
    assert (found["names"], found["negative"]) == (["a", "b"], [-5, -(2**40)])


def test_lists_that_hold_arrays_are_trees(written):
    found = flax_file.read(written({"moments": [np.ones(2), {"a": np.zeros(3)}]}))
    assert list(flatten(found)) == ["moments/0", "moments/1/a"]


def test_arrays_in_pieces_are_joined(written, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    tree = {"a": np.arange(60.0).reshape(3, 20), "b": np.ones(2)}
    path = written(tree)
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    assert equal(arrays(flax_file.read(path), Stored), tree)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\x03", b"\x02", 1))
    with pytest.raises(InputError, match="is damaged"):
        flax_file.read(path)


def test_arrays_are_mapped_rather_than_copied(written):
    path = written({"a": np.zeros(10**6)})
    tracemalloc.start()
    array = flax_file.read(path)["a"].read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not array.flags.owndata
    assert peak < 10**6  # bytes, of 8 x 10^6


def test_where_flax_refuses_we_refuse_and_what_is_read_equals_what_flax_reads(written):
    path = written(TREE)
    whole, generator = path.read_bytes(), np.random.default_rng(1)
    num_read = 0
    for case in range(200):
        place, size = int(generator.integers(len(whole))), int(generator.integers(1, 60))
        changed = {
            0: whole[:place],
            1: whole[:place] + whole[place + size :],
            2: whole[:place] + generator.bytes(size) + whole[place:],
            3: whole[:place] + bytes([int(generator.integers(256))]) + whole[place + 1 :],
        }[case % 4]
        path.write_bytes(changed)
        try:
            found = arrays(flax_file.read(path), Stored) if changed else {}
        except InputError:
            continue
        assert changed == whole or case % 4 == 3 or not changed, "shifted data"
        if changed:
            num_read += 1
            expected = serialization.msgpack_restore(changed)
            assert equal(found, arrays(expected, np.ndarray))
    assert num_read > 10


@pytest.mark.parametrize("kind", LIES)
def test_trees_that_lie_or_are_made_to_exhaust_the_memory_are_refused(written, kind):
    content, message = LIES[kind]
    with pytest.raises(InputError, match="is damaged: it is no Flax msgpack file") as refused:
        flax_file.read(written(content))
    assert message in str(refused.value)


def test_the_model_is_found_beside_what_training_saved(written):
    tree = {"model": {"embed": {"cls_token": np.zeros(2), "wpe": np.ones(2)}}, "step": 7}
    weights = read_weights(written({**tree, "optimiser": {"m": {"a": np.zeros(2)}}}))
    assert list(weights.tensors) == ["embed.cls_token", "embed.wpe"]
    assert (weights.prefix, weights.about["step"]) == ("model.", 7)
    assert weights.left_out == ("optimiser (1 tensor)",)
    with pytest.raises(InputError, match="holds 'step' \\(int\\) where named tensors"):
        read_weights(written({"step": 1}))
