"""Is a file of arrays read whole, or refused?"""

import zipfile

import numpy as np
import pytest

from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("text")}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_every_flip_of_a_byte_is_noticed_or_changes_nothing(tmp_path, write):
    path = tmp_path / "x.npz"
    write(path, **ARRAYS)
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 + place % 255
        path.write_bytes(changed)
        try:
            found = read_npz(path)
        except (InputError, OSError):
            continue
        for name in found.keys() & ARRAYS.keys():  # a name may be the byte that changed
            np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_a_pickle_is_not_opened(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="no whole .npz"):
        read_npz(tmp_path / "x.npz")


def test_one_array_and_no_file_are_told_apart(tmp_path):
    np.save(tmp_path / "x.npz.npy", ARRAYS["a"])
    with pytest.raises(InputError, match="one array"):
        read_npz(tmp_path / "x.npz.npy")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "nothing.npz")


def test_what_would_exhaust_the_memory_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(10**7 + 2))
    with pytest.raises(InputError, match=r"would unpack to 8\d+ bytes"):
        read_npz(tmp_path / "x.npz")


def test_an_array_fills_its_entry_and_has_its_name_alone(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(6.0))
    with zipfile.ZipFile(path) as archive:
        data = archive.read("a.npy")
    for entries in ({"a.npy": data + b"x"}, {"a.npy": data.replace(b"(6,)", b"(5,)")}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        with pytest.raises(InputError, match="bytes follow the array a.npy"):
            read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", data)
    with pytest.raises(InputError, match="a name is given twice"):
        read_npz(path)
