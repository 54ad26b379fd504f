"""Does an analysis that runs out of memory say which option asks for less?"""

import jax
import pytest

from regvit_jax.analysis.engine.extract import Extractor
from tests.analysis.conftest import write_pictures
from tests.analysis.test_cli import call

WORDS = "RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."


@pytest.mark.parametrize("name", ["norms", "lost", "probe", "reconstruction"])
def test_memory_that_runs_out_in_a_pass_names_the_batch_size(
    name, checkpoints, tmp_path, monkeypatch, capsys
):
    def run_out(self, pixels):
        raise jax.errors.JaxRuntimeError(WORDS)

    monkeypatch.setattr(Extractor, "_run", run_out)
    pictures = write_pictures(tmp_path / "pictures", 12)
    out = tmp_path / "out"
    command = (name, "--checkpoint", checkpoints["plain"], "--data", pictures, "--out", out)
    assert call(monkeypatch, *command) == 2
    said = capsys.readouterr().err
    assert "--batch-size" in said
    assert not out.exists()
