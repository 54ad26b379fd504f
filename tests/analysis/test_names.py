"""Are odd names of checkpoints and images written, drawn and printed, on whatever file system?"""

import json
import os
import shutil

import pytest

from regvit_jax.analysis.questions import known
from regvit_jax.analysis.spoken import shown
from tests.analysis.conftest import write_pictures
from tests.analysis.test_cli import call


def test_what_cannot_be_shown_is_escaped():
    assert shown("photo \udcff\n\x1b[31m ü") == "photo \\xff\\n\\x1b[31m ü"
    assert shown("two\nlines", keep="\n") == "two\nlines"


@pytest.mark.parametrize("name", [b"$x^_{$", b"<b>&amp;", b"two\nlines", b"\xff\xfe", b"_hidden"])
def test_any_name_gives_results_and_a_page(name, tmp_path, checkpoints, monkeypatch, capsys):
    odd = os.fsdecode(name)
    is_text = odd.isprintable() or "\n" in odd
    # TensorStore opens no path that is not UTF-8; images may have one.
    model = shutil.copytree(checkpoints["plain"], tmp_path / (odd if is_text else "model"))
    write_pictures(tmp_path / "images", 4, classes=("",))
    (tmp_path / "images" / "picture_000.png").rename(tmp_path / "images" / f"{odd}.png")
    skip = sorted(known().keys() - {"attention"})
    status = call(
        monkeypatch,
        *("all", "--checkpoint", os.fspath(model), "--data", tmp_path / "images"),
        *("--out", tmp_path / "out", "--bootstrap", 100, "--skip", *skip),
    )
    assert status == 0, capsys.readouterr().err
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<b>&amp;<" not in page
    assert json.loads((tmp_path / "out/attention/results.json").read_text(encoding="utf-8"))
    assert shown(model.name) in capsys.readouterr().out
