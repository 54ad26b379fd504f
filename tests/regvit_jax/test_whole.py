"""Are files and folders whole or absent, whenever the process ends?"""

import errno
import os
import subprocess
import sys

import pytest

from regvit_jax import whole
from regvit_jax.errors import InputError
from regvit_jax.whole import appearing, remove_leftovers, untaken, vanish, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make_folder(path, content):
    path.mkdir()
    (path / "a").write_text(content)


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    write_whole(tmp_path / "new" / "f", "one")
    write_whole(tmp_path / "new" / "f", b"two")
    assert (tmp_path / "new" / "f").read_text() == "two"
    assert names(tmp_path / "new") == ["f"]


def test_what_fails_leaves_everything_as_it_was(tmp_path):
    write_whole(tmp_path / "f", "before")

    def fail():
        with appearing(tmp_path / "f", replace=True) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "f").read_text() == "before"
    assert names(tmp_path) == ["f"]


def test_nothing_is_replaced_unasked(tmp_path):
    write_whole(tmp_path / "f", "before")
    with pytest.raises(FileExistsError), appearing(tmp_path / "f") as partial:
        partial.write_text("after")
    assert (tmp_path / "f").read_text() == "before"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_swapped_for_another(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(whole, "_exchange", lambda first, second: False)
    make_folder(tmp_path / "d", "before")
    with appearing(tmp_path / "d", replace=True) as partial:
        make_folder(partial, "after")
    assert (tmp_path / "d" / "a").read_text() == "after"
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_folder_survives_a_kill_between_two_renames(tmp_path, renames):
    """Where names cannot be swapped; killed after so many renames."""
    make_folder(tmp_path / "d", "before")
    program = f"""
import os, pathlib, sys
from regvit_jax import whole
whole._exchange = lambda first, second: False
rename, done = pathlib.Path.rename, []
def counted(self, target):
    result = rename(self, target)
    done.append(1)
    if len(done) == {renames}:
        os._exit(9)
    return result
pathlib.Path.rename = counted
path = pathlib.Path(sys.argv[1])
with whole.appearing(path, replace=True) as partial:
    partial.mkdir()
    (partial / "a").write_text("after")
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "d")])
    assert done.returncode == 9
    remove_leftovers(tmp_path)
    assert (tmp_path / "d" / "a").read_text() == ("before" if renames == 1 else "after")
    assert names(tmp_path) == ["d"]


def test_leftovers_of_running_processes_and_foreign_files_stay(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = whole._HOST
    make_folder(tmp_path / f".d.partial-{host}-{gone.pid}", "x")
    make_folder(tmp_path / f".e.partial-{host}-{os.getpid()}", "x")
    make_folder(tmp_path / f".f.partial-elsewhere-{gone.pid}", "x")
    (tmp_path / ".g.partial").write_text("a user's")
    removed = remove_leftovers(tmp_path)
    assert [path.name for path in removed] == [f".d.partial-{host}-{gone.pid}"]
    assert len(names(tmp_path)) == 3


def test_a_file_system_that_cannot_sync_is_taken_at_its_word(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_whole(tmp_path / "f", "x")
    assert (tmp_path / "f").read_text() == "x"


def test_a_disk_that_is_full_when_synced_leaves_nothing(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "f", "x")
    assert names(tmp_path) == []


def test_everything_is_synced_before_it_appears(tmp_path, monkeypatch):
    synced, real = set(), os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda d: (synced.add(os.readlink(f"/proc/self/fd/{d}")), real(d))[1]
    )
    with appearing(tmp_path / "x") as partial:
        partial.mkdir()
        make_folder(partial / "deep", "text")
    parts = {partial, partial / "deep", partial / "deep" / "a", tmp_path}
    assert {str(path) for path in parts} <= synced


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    (tmp_path / "null").symlink_to(os.devnull)
    write_whole(tmp_path / "null", "text")
    assert (tmp_path / "null").is_char_device()
    with pytest.raises(InputError, match="device or a pipe"), appearing(tmp_path / "null"):
        pass


def test_what_vanishes_leaves_nothing(tmp_path):
    make_folder(tmp_path / "x", "old")
    vanish(tmp_path / "x")
    assert names(tmp_path) == []


def test_a_name_that_is_taken_is_numbered_before_its_suffix(tmp_path):
    name = str(tmp_path / "photo.2")
    for expected in ("photo.2.html", "photo.2-2.html", "photo.2-3.html"):
        path = untaken(name, ".html")
        assert path.name == expected
        path.touch()
    assert untaken(name).name == "photo.2"
