"""Does the pair that comes with the package show what its page says?"""

import json
import sys

import pytest

from regvit_jax.analysis.cli import main
from regvit_jax.analysis.engine import written


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """What results.json says of both models, by label."""
    out = tmp_path_factory.mktemp("shipped") / "norms"
    arguments = ["--checkpoint", "organism-reg0", "organism-reg4", "--data", "cues"]
    arguments += [
        "--num-images",
        "600",
        "--bootstrap",
        "100",
        "--num-shown",
        "1",
        "--out",
        str(out),
    ]

    def empty(figure, folder, name, for_paper):  # figures are tested elsewhere, and take long
        for suffix in ("png", "svg"):
            (folder / f"{name}.{suffix}").write_bytes(b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "save_figure", empty)
        patch.setattr(sys, "argv", ["regvit-analyze", "norms", *arguments])
        main()
    return {m["label"]: m for m in json.loads((out / "results.json").read_text())["models"]}


def test_outliers_are_found_without_registers_and_not_with_four(models):
    assert models["organism-reg0"]["verdict"]["answer"] == "found"
    assert models["organism-reg4"]["verdict"]["answer"] == "not found"
