"""Are results whole, and nothing else lost, wherever a command is killed while it moves them?"""

import json
import os
import subprocess
import sys

import pytest

from regvit_jax.analysis.engine.placing import ARRIVING
from regvit_jax.analysis.engine.results import RESULTS_FILE, ResultFolder, has_results, read_results
from regvit_jax.errors import InputError

NEW = ("a.txt", "b.txt", "d.txt")
OLD = ("a.txt", "b.txt", "c.txt")

# Kills itself before the n-th change of a file's name, of each kind that Python reports.
_KILLED = """
import os, shutil, sys
from pathlib import Path
from regvit_jax.analysis.engine.results import ResultFolder

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}

def write(out, files, seed, kill_at=None):
    seen = 0
    def hook(event, _):
        nonlocal seen
        if event in CHANGES and kill_at is not None:
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), 9)
    with ResultFolder(out, "norms", {"seed": seed}, overwrite=True) as folder:
        for name in files:
            folder.path(name).write_text(f"{name} {seed}")
        sys.addaudithook(hook)
        folder.finish({"models": []})
    return seen

root, new, old = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
for kill_at in range(1, 100):
    out = root / f"{kill_at:02d}" / "out"
    if old:
        write(out, old, 0)
        (out / "notes.txt").write_text("mine")
        (out / "kept").mkdir()
    child = os.fork()
    if not child:
        write(out, new, 1, kill_at)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        shutil.rmtree(out.parent)
        break
"""


def write(out, files, seed, overwrite=False):
    with ResultFolder(out, "norms", {"seed": seed}, overwrite=overwrite) as folder:
        for name in files:
            folder.path(name).write_text(f"{name} {seed}")
        folder.finish({"models": []})


def assert_old_new_or_a_sentence(out):
    if (out / ARRIVING).is_dir():
        with pytest.raises(InputError, match="run the same analysis again"):
            read_results(out)
        return
    seed = read_results(out)["configuration"]["seed"]
    for name in NEW if seed else OLD:
        assert (out / name).read_text() == f"{name} {seed}"


@pytest.mark.parametrize("old", [OLD, ()], ids=["over older results", "where nothing was"])
def test_after_a_kill_at_any_step_the_same_command_succeeds_and_nothing_else_is_lost(old, tmp_path):
    command = [sys.executable, "-c", _KILLED, str(tmp_path), " ".join(NEW), " ".join(old)]
    subprocess.run(command, check=True, timeout=120)
    killed = sorted(tmp_path.iterdir())
    assert len(killed) >= (6 if old else 1)
    for folder in killed:
        out = folder / "out"
        if out.is_dir():  # a reader finds the old, the new, or a sentence; never a mix
            assert_old_new_or_a_sentence(out)
        write(out, NEW, 1, overwrite=True)
        mine = ["notes.txt", "kept"] if old else []
        assert sorted(os.listdir(out)) == sorted([*NEW, RESULTS_FILE, *mine])
        assert os.listdir(folder) == ["out"]
        for name in NEW:
            assert (out / name).read_text() == f"{name} 1"
        if old:
            assert (out / "notes.txt").read_text() == "mine"


def test_a_move_cut_short_is_ended_before_results_are_judged(tmp_path):
    out = tmp_path / "out"
    write(out, OLD, 0)
    (tmp_path / "new").mkdir()
    arriving = tmp_path / "new" / "out"
    write(arriving, NEW, 1)
    (arriving / ".replaced.json").write_text(json.dumps({"files": ["c.txt"]}))
    arriving.rename(out / ARRIVING)
    assert has_results(out, "norms", {"seed": 1})
    assert sorted(os.listdir(out)) == sorted([*NEW, RESULTS_FILE])


@pytest.mark.parametrize("exists", [False, True])
def test_a_second_command_with_the_same_out_is_refused_while_the_first_one_runs(exists, tmp_path):
    out = tmp_path / "out"
    if exists:
        write(out, OLD, 1)
    with ResultFolder(out, "norms", {"seed": 1}) as first:
        first.path("a.txt").write_text("first")
        second = ResultFolder(out, "norms", {"seed": 1})
        with pytest.raises(InputError, match="Another command"), second:
            pass
        first.finish({"models": []})
    assert (out / "a.txt").read_text() == "first"
    write(out, NEW, 1)
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    write(tmp_path / "out", NEW, 1)
    write(tmp_path / "out", OLD, 1)
    assert "no locks" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*OLD, RESULTS_FILE])
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_where_a_file_belongs_loses_nothing(tmp_path):
    out = tmp_path / "out"
    write(out, OLD, 1)
    (out / "d.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        write(out, NEW, 1)
    assert (out / "a.txt").read_text() == "a.txt 1"
    assert sorted(os.listdir(out)) == sorted([*OLD, "d.txt", RESULTS_FILE])
