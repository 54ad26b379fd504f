"""Is damage told apart from an error of the system, and does a full disk leave nothing?"""

import errno
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from regvit_jax import arrays
from regvit_jax.arrays import DamagedArraysError, describe_arrays, read_arrays, write_arrays
from regvit_jax.errors import InputError

ARRAYS = {f"block{i}/w": np.arange(12.0, dtype=np.float32).reshape(3, 4) + i for i in range(3)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    write_arrays(str(folder), ARRAYS)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "arrays")


def test_arrays_come_back_bit_by_bit(folder):
    found = read_arrays(str(folder), describe_arrays(str(folder)))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"_METADATA": "x"}', b'{"/dev/zero": 1}', b'{"../checksums.json": 1}'],
)
def test_damaged_checksums_are_damage(folder, content):
    (folder / "checksums.json").write_bytes(content)
    with pytest.raises(DamagedArraysError):
        describe_arrays(folder)


@pytest.mark.parametrize("name", ["block0.w/0.0", "block0.w/.zarray", "_METADATA"])
@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_missing_file_is_damage(folder, name, is_guarded):
    (folder / "params" / name).unlink()
    if not is_guarded:
        (folder / "checksums.json").unlink()
    with pytest.raises(DamagedArraysError if is_guarded else InputError):
        read_arrays(folder, describe_arrays(folder))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_what_the_system_refuses_is_not_damage(folder, code, monkeypatch):
    real = Path.open

    def refuse(path, *args, **options):
        if path.name == "0.0":
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="block0.w") as error:
        describe_arrays(folder)
    assert error.value.errno == code


def test_errors_of_tensorstore_tell_the_systems_error(tmp_path):
    words = "PERMISSION_DENIED: Error reading: Permission denied [os_error_code='13']"
    with (
        pytest.raises(PermissionError, match=str(tmp_path)),
        arrays._told_by_the_system(tmp_path),
        arrays._misfits_are_named(tmp_path),
    ):
        raise ValueError(words)


def test_files_that_fit_their_checksums_are_not_damaged(folder):
    path = folder / "params" / "_METADATA"
    path.write_text("{}")
    checksums = arrays._checksums(folder / "params")
    (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(InputError, match="holds no arrays that this version"):
        describe_arrays(folder)


FULL = """
import sys, subprocess, time
from pathlib import Path
import numpy as np
from regvit_jax.arrays import write_arrays
folder = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder]).returncode:
    sys.exit(77)
generator = np.random.default_rng(0)
try:
    import regvit_jax.arrays
    regvit_jax.arrays._check_room = lambda *_: None  # as if the room were lost meanwhile
    write_arrays(folder, {f"a{i}/w": generator.random(4000) for i in range(60)})
except OSError as error:
    print(error.errno, error.filename)
time.sleep(0.5)
print([path.name for path in folder.iterdir()])
"""


def test_a_full_disk_is_an_error_of_the_system_and_nothing_stays(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no unshare, to mount a small file system for one process")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to mount a small file system")
    assert done.stdout == f"{errno.ENOSPC} {tmp_path}\n[]\n"
    assert "Traceback" not in done.stderr


def test_a_folder_whose_name_is_not_utf8_is_refused_by_one_sentence(folder, tmp_path):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(folder, place)
    described = describe_arrays(folder)
    for action in (
        lambda: write_arrays(place, ARRAYS),
        lambda: describe_arrays(place),
        lambda: read_arrays(place, described),
    ):
        with pytest.raises(InputError, match="has a name that is not UTF-8"):
            action()


@pytest.mark.parametrize("name", ["two\nlines", "100% $x$", "a b", "n\u0303", "[1]*?#", "x" * 255])
def test_a_folder_may_have_any_other_name(folder, tmp_path, name):
    place = shutil.copytree(folder, tmp_path / name)
    assert read_arrays(place, describe_arrays(place)).keys() == ARRAYS.keys()


def test_only_the_echoes_of_an_error_that_is_raised_too_are_kept_quiet(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable))
    for _ in range(2):
        with arrays._quietly():
            pass

    def never_caught(words):
        return types.SimpleNamespace(exc_value=RuntimeError(words))

    sys.unraisablehook(never_caught("Event loop is closed"))
    assert told == []
    sys.unraisablehook(never_caught("another"))
    assert len(told) == 1
