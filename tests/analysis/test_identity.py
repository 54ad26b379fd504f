"""Are results kept for the same weights and images only, wherever they lie, whatever their age?"""

import json
import os
import shutil

import pytest

from regvit_jax.analysis.engine.identity import images_of, weights_of
from regvit_jax.analysis.questions import known
from tests.analysis.conftest import write_pictures
from tests.analysis.test_cli import call


def copy_times(source, target):
    """Gives the files of one folder the times of another's, as `cp -p` and `rsync -a` do."""
    for path in target.rglob("*"):
        other = source / path.relative_to(target)
        times = (other if other.exists() else source).stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_weights_are_known_by_content(checkpoints, tmp_path):
    shutil.copytree(checkpoints["plain"], tmp_path / "copy")
    assert weights_of(tmp_path / "copy") == weights_of(checkpoints["plain"])
    assert weights_of(tmp_path / "copy") != weights_of(checkpoints["planted"])
    without = tmp_path / "copy" / "checksums.json"
    without.unlink()
    before = weights_of(tmp_path / "copy")
    file = max((tmp_path / "copy" / "params").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert weights_of(tmp_path / "copy") != before


def test_images_are_known_by_name_size_and_content(tmp_path):
    folder = write_pictures(tmp_path / "here", 6)
    shutil.copytree(folder, tmp_path / "there")
    known = images_of(str(folder), "val", 0, 0)
    assert images_of(str(tmp_path / "there"), "val", 0, 0) == known
    file = next((tmp_path / "there").rglob("*.png"))
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(content)
    copy_times(folder, tmp_path / "there")
    assert images_of(str(tmp_path / "there"), "val", 0, 0) != known


@pytest.fixture
def analysed(tmp_path, checkpoints, monkeypatch):
    """A folder with a checkpoint, images, and the results of `all`; and the command."""
    shutil.copytree(checkpoints["plain"], tmp_path / "model")
    write_pictures(tmp_path / "images", 6)
    monkeypatch.chdir(tmp_path)
    skip = sorted(known().keys() - {"similarity"})

    def command(checkpoint="model", data="images"):
        return call(
            monkeypatch,
            *("all", "--checkpoint", checkpoint, "--data", data, "--out", "out"),
            *("--bootstrap", 100, "--skip", *skip),
        )

    assert command() == 0
    return tmp_path, command


def test_moved_and_copied_checkpoints_and_images_count_as_the_same(analysed, capsys):
    folder, command = analysed
    shutil.copytree("model", "copy")
    shutil.move("images", "moved")
    capsys.readouterr()
    assert command(folder / "copy", folder / "moved") == 0
    assert "similarity: already there, kept." in capsys.readouterr().err


def test_other_weights_of_the_same_age_do_not(analysed, checkpoints, capsys):
    folder, command = analysed
    shutil.move("model", "old")
    shutil.copytree(checkpoints["planted"], "model")
    copy_times(folder / "old", folder / "model")
    assert command() == 2
    error = capsys.readouterr().err
    assert "weights" in error
    assert "--overwrite" in error


def test_results_say_which_weights_and_images_they_rest_on(analysed):
    folder, _ = analysed
    results = json.loads((folder / "out/similarity/results.json").read_text())
    assert results["configuration"]["weights"] == [weights_of(folder / "model")]
    assert results["configuration"]["images"] == [images_of("images", "val", 1000, 0)]
