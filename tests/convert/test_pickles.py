import argparse
import collections
import io
import os
import pickle
import subprocess

import pytest

from regvit_jax import InputError
from regvit_jax.convert import machine, pickles


class Hostile:
    """A pickle that runs a command when it is opened by Python's own reader."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], tuple(self.call[1:])


def load(data: bytes):
    return pickles.load(data, "file.pth")


def storage_pickle(numel: int, offset: int, shape: tuple, strides: tuple, dtype="FloatStorage"):
    """A tensor's pickle, as torch writes it, with numbers of our choice."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

        def save_global(self, value, name=None):
            self.write(value.reference)

        dispatch = pickle._Pickler.dispatch | {type: save_global}

    class Float:
        reference = b"ctorch\n" + dtype.encode() + b"\n"

    buffer = io.BytesIO()
    buffer.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
    body = io.BytesIO()
    Pickler(body, 2).dump((("storage", Float, "0", "cpu", numel), offset, shape, strides, False))
    return buffer.getvalue() + body.getvalue()[2:-1] + b"R."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch hacked"), "system"),
        ((eval, "1 + 1"), "eval"),
        ((io.open, "hacked", "w"), "open"),
        ((subprocess.Popen, "touch hacked"), "Popen"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_by_name(
    protocol, call, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"file\.pth asks for \w+\.{name}, .*Nothing was run"):
        load(pickle.dumps({"model": Hostile(*call)}, protocol))
    assert not list(tmp_path.iterdir())


def test_the_old_way_to_name_a_class_is_refused_too():
    with pytest.raises(InputError, match=r"asks for posix\.system"):
        load(b"(S'touch hacked'\niposix\nsystem\n.")


def test_what_a_pickle_may_call_cannot_be_changed_by_it():
    change = pickle.dumps((None, {"function": 1}), 2)[2:-1]
    for name in (b"ctorch._utils\n_rebuild_parameter\n", b"cargparse\nNamespace\n"):
        with pytest.raises(InputError, match="is damaged"):
            load(b"\x80\x02" + name + change + b"b.")


def test_a_namespace_is_read_as_a_bag_of_values():
    found = load(pickle.dumps(argparse.Namespace(lr=0.5), 2)).content
    assert vars(found) == {"lr": 0.5}
    assert not isinstance(found, argparse.Namespace)


def test_ordered_dictionaries_keep_their_order_and_attributes():
    ordered = collections.OrderedDict(b=1, a=2)
    ordered._metadata = collections.OrderedDict(version=1)
    assert list(load(pickle.dumps(ordered, 2)).content) == ["b", "a"]


@pytest.mark.parametrize(
    ("numel", "offset", "shape", "strides"),
    [
        (6, 0, (2, 3), (3, 2)),  # reaches one value too far
        (6, 1, (2, 3), (3, 1)),
        (6, 6, (1,), (1,)),
        (6, 1, (1000, 6), (0, 1)),
        (6, 0, (2, 3), (3,)),
        (6, 0, (2, -3), (3, 1)),
        (6, -1, (2,), (1,)),
        (6, 0, (2,), (-1,)),
        (6, 0, (2.0,), (1,)),
        (2**70, 0, (2,), (1,)),
    ],
)
def test_a_tensor_may_not_reach_beyond_its_storage(numel, offset, shape, strides):
    with pytest.raises(InputError, match="is damaged"):
        load(storage_pickle(numel, offset, shape, strides))


def test_a_tensor_that_repeats_its_values_is_left_unread():
    found = load(storage_pickle(6, 0, (1000, 1000), (0, 0))).content  # a million out of six
    assert type(found).__name__.startswith("expanded tensor")


def test_a_tensor_inside_its_storage_is_described():
    tensor = load(storage_pickle(7, 1, (2, 3), (3, 1))).content
    assert tensor == (("float32", "0", 7), 1, (2, 3), (3, 1))


def test_the_type_of_every_storage_of_torch_is_named():
    tensor = load(storage_pickle(7, 1, (2, 3), (3, 1), dtype="QInt8Storage")).content
    assert tensor.storage.dtype == "qint8"


def test_storages_of_unknown_type_are_refused_by_name():
    with pytest.raises(InputError, match=r"the unknown type torch\.FutureStorage"):
        load(storage_pickle(7, 1, (2, 3), (3, 1), dtype="FutureStorage"))


@pytest.mark.parametrize(
    "data", [b"", b".", b"\x80\x02", b"\x80\x02}q", b"no pickle", b"\x80\x7f."]
)
def test_bytes_that_are_no_pickle_are_called_damaged(data):
    with pytest.raises(InputError, match=r"file\.pth is damaged"):
        load(data)


@pytest.mark.parametrize(
    "body",
    {
        "a deep tuple as a key": b"}" + b")" + b"\x85" * 50_000 + b"K\x01s",
        "a key with 2^100 leaves": b"})" + b"q\x00h\x00\x86" * 100 + b"K\x01s",
        "2^60 bytes": b"\x8e" + (2**60).to_bytes(8, "little"),
        "a number of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "a list in itself": b"]q\x00h\x00a",
        "2^60 lists": b"]q\x00" + b"0]q\x01(h\x00h\x00eq\x00" * 60,
        "a dictionary copied for ever": b"ccollections\nOrderedDict\nq\x01}q\x02("
        + b"".join(b"M" + i.to_bytes(2, "little") + b"N" for i in range(20_000))
        + b"u"
        + b"0h\x01h\x02\x85R" * 2_000,
        "many instructions": b"N0" * 60_000,
        "deep lists": b"]" * 40_000 + b"a" * 39_999,
    }.items(),
    ids=lambda item: item[0],
)
def test_pickles_made_to_crash_or_hang_are_refused_or_read_in_bounds(body, monkeypatch):
    monkeypatch.setattr(machine, "MAX_STEPS", 100_000)
    try:
        said = [repr(key) for key in load(b"\x80\x02" + body[1] + b".").content]
    except InputError as error:
        said = [str(error)]
    assert said == ["<key that is a tuple>"] or len(said[0]) < 400
