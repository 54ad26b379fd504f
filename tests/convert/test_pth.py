import subprocess
import sys
import zipfile

import numpy as np
import pytest

from regvit_jax import InputError
from regvit_jax.convert import pth
from regvit_jax.convert.torch_types import Tensor

DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8"]


def values(file, tensor):
    assert isinstance(tensor, Tensor)
    return file.stored(tensor).read()


@pytest.fixture(params=[True, False], ids=["zip", "before-1.6"])
def save(request, torch, tmp_path):
    def save(content):
        path = tmp_path / "file.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return save


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
def test_values_of_every_type_are_those_that_torch_reads(torch, save, dtype):
    tensor = (10 * torch.randn(3, 5)).to(getattr(torch, dtype))
    path = save({"a": tensor})
    file = pth.read(path)
    found = values(file, file.content["a"])
    assert found.dtype.name == dtype
    expected = torch.load(path)["a"]
    np.testing.assert_array_equal(found.astype(np.float64), expected.to(torch.float64).numpy())


def test_views_and_shared_storages_come_back_as_they_were(torch, save):
    base = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "base": base,
        "transposed": base.transpose(0, 2),
        "slice": base[1:, ::2, 3],
        "scalar": base[2, 1, 0],
        "empty": base[:, :0],
        "parameter": torch.nn.Parameter(base[0]),
    }
    file = pth.read(save(tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(values(file, file.content[name]), tensor.detach().numpy())


def test_everything_beside_the_tensors_is_read_too(torch, save):
    import argparse

    content = {
        "args": argparse.Namespace(lr=0.1, names=["a", None], nested={"b": (1, True)}),
        "loss": np.float64(0.25),
        "count": np.int64(7),
        "size": torch.Size([2, 3]),
        "big": 2**70,
    }
    found = pth.read(save(content)).content
    assert vars(found["args"]) == vars(content["args"])
    assert found["loss"] == 0.25
    assert found["count"] == 7
    assert found["size"] == (2, 3)
    assert found["big"] == 2**70


def test_the_file_is_mapped_rather_than_copied(torch, save):
    file = pth.read(save({"a": torch.zeros(1000)}))
    array = values(file, file.content["a"])
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_reading_needs_no_torch(torch, save):
    path = save({"model": {"a": torch.ones(2, dtype=torch.bfloat16)}})
    code = (
        "import sys, pathlib; from regvit_jax.convert import pth; "
        f"file = pth.read(pathlib.Path({str(path)!r})); "
        "print(file.stored(file.content['model']['a']).read().sum(), 'torch' in sys.modules, "
        "'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False", "False"]


def test_a_file_cut_short_anywhere_is_refused_by_name(torch, save):
    path = save({"a": torch.randn(100), "b": torch.randn(50)})
    whole = path.read_bytes()
    for size in (30, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"file\.pth is (cut short|damaged)"):
            pth.read(path)


def test_a_flipped_bit_in_the_values_is_noticed(torch, tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"a": torch.full((64,), 3.25)}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(np.float32(3.25).tobytes()) + 1] ^= 4
    path.write_bytes(whole)
    file = pth.read(path)
    with pytest.raises(InputError, match=r"the checksum of file/data/0 does not match"):
        values(file, file.content["a"])


def test_a_file_written_without_checksums_is_read(torch, tmp_path):
    path = tmp_path / "file.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    file = pth.read(path)
    np.testing.assert_array_equal(values(file, file.content["a"]), np.ones(3))


def repacked(path, **options):
    """A file of torch's after another program has unpacked it and packed it anew."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    with zipfile.ZipFile(path, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        archive.mkdir("file")
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_an_archive_that_was_packed_anew_is_read_as_torch_reads_it(torch, tmp_path):
    base = torch.arange(6000.0).reshape(2, 3000)
    tensors = {"base": base, "row": base[1], "other": torch.randn(100, 3).to(torch.bfloat16)}
    tensors["late"] = base[:, ::7]
    torch.save(tensors, tmp_path / "file.pth")
    path = repacked(tmp_path / "file.pth")
    expected, file = torch.load(path, weights_only=True), pth.read(path)
    assert path.stat().st_size < base.nbytes
    for name, tensor in expected.items():
        found = values(file, file.content[name])
        np.testing.assert_array_equal(found.astype(np.float32), tensor.float().numpy())
        assert not found.flags.writeable


def test_an_archive_that_was_packed_anew_and_damaged_is_refused(torch, tmp_path):
    torch.save({"a": torch.arange(3000.0)}, tmp_path / "file.pth")
    path = repacked(tmp_path / "file.pth")
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for case in range(200):
        place, size = int(generator.integers(len(whole))), int(generator.integers(1, 40))
        changed = whole[:place] + generator.bytes(size) + whole[place + size * (case % 2) :]
        path.write_bytes(changed)
        try:
            file = pth.read(path)
            found = values(file, file.content["a"])
        except InputError:
            continue
        np.testing.assert_array_equal(found, np.arange(3000.0))


def test_archives_that_would_exhaust_the_memory_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**8))
    with pytest.raises(InputError, match=r"unpacks from \d+ to 100000000 bytes"):
        pth.read(path)
    data = path.read_bytes()
    path.write_bytes(data.replace((10**8).to_bytes(4, "little"), (10**4).to_bytes(4, "little")))
    with pytest.raises(InputError, match="data.pkl does not unpack to 10000 bytes"):
        pth.read(path)


def test_archives_that_torch_does_not_read_either_are_refused_with_what_helps(torch, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "file.pth")
    path = repacked(tmp_path / "file.pth", compression=zipfile.ZIP_BZIP2)
    with pytest.raises(InputError, match=r"by method 12, .* zip -0 -r FILE FOLDER"):
        pth.read(path)
    repacked(path)
    data = bytearray(path.read_bytes())
    for place in (6, data.index(b"PK\x01\x02") + 8):
        data[place] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted"):
        pth.read(path)


def test_of_two_checkpoints_in_one_archive_none_is_taken_unsaid(torch, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "file.pth")
    with zipfile.ZipFile(tmp_path / "file.pth", "a") as archive:
        archive.writestr("other/data.pkl", archive.read("file/data.pkl"))
    with pytest.raises(InputError, match="holds more than one checkpoint: file/data.pkl, other/"):
        pth.read(tmp_path / "file.pth")


def test_zip_archives_of_another_kind_are_called_by_their_name(torch, tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="is a zip archive of NumPy arrays"):
        pth.read(tmp_path / "arrays.npz")


def test_bytes_too_many_or_missing_are_noticed_wherever_they_are(torch, save):
    path = save({"a": torch.arange(300.0), "b": torch.arange(200.0)})
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        place, size = int(generator.integers(len(whole))), int(generator.integers(1, 64))
        inserted = whole[:place] + generator.bytes(size) + whole[place:]
        for changed in (inserted, whole[:place] + whole[place + size :], whole + bytes(size)):
            path.write_bytes(changed)
            try:
                file = pth.read(path)
                found = {name: values(file, file.content[name]) for name in ("a", "b")}
            except (InputError, KeyError, AssertionError):
                continue
            np.testing.assert_array_equal(found["a"], np.arange(300.0))
            np.testing.assert_array_equal(found["b"], np.arange(200.0))


def test_harmless_things_beside_the_weights_are_left_unread(torch, save):
    import argparse
    import collections
    import enum
    import functools
    import pathlib

    content = {
        "weight": torch.ones(2),
        "counter": collections.Counter([1, 1, 2]),
        "default": collections.defaultdict(list, a=[1]),
        "things": [{1, 2}, frozenset("a"), pathlib.PurePosixPath("a/b"), torch.device("cpu")],
        "dtype": torch.float32,
        "generator": np.random.default_rng(0).bit_generator.state,
        "legacy": np.random.RandomState(0).get_state(),
        "array": np.zeros(3),
        "partial": functools.partial(print, "a"),
        "kind": enum.Enum,
        "args": argparse.Namespace(path=pathlib.PurePosixPath("a")),
        "eight_bits": torch.ones(2).to(torch.float8_e4m3fn),
        ("a", "tuple"): 1,
    }
    file = pth.read(save(content))
    np.testing.assert_array_equal(values(file, file.content["weight"]), [1, 1])
    assert file.content["counter"] == {1: 2, 2: 1}
    assert file.content["default"] == {"a": [1]}
    assert repr(file.content["dtype"]) == "<torch.float32>"
    assert file.content["eight_bits"].storage.dtype == "float8_e4m3fn"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_tensor_that_is_not_what_its_bytes_say_is_left_unread(torch, save):
    tensors = {
        "negated": torch._neg_view(torch.ones(2)),
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "array": np.ones(2),
    }
    words = {
        "negated": "still to be negated",
        "sparse": "to_dense",
        "quantised": "dequantize",
        "array": "from_numpy",
    }
    found = pth.read(save(tensors)).content
    for name, word in words.items():
        assert not isinstance(found[name], Tensor)
        assert word in type(found[name]).__name__


def test_programs_of_torch_are_called_by_their_name(torch, tmp_path):
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/archive_format", "pt2")
        archive.writestr("file/data/sample_inputs/model.pt", b"")
    with pytest.raises(InputError, match=r"torch\.export.*torch\.export\.load\(FILE\)"):
        pth.read(path)
