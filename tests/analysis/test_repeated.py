"""Does an option that is given twice add its values or end the command, never replace unsaid?"""

import pytest

from regvit_jax.analysis.repeated import gathered
from regvit_jax.errors import InputError
from tests.analysis.test_cli import call, results_of


def test_values_are_gathered_and_a_second_single_value_is_refused():
    arguments = ["norms", "--checkpoint", "a", "--data", "d", "--checkpoint=b", "--no-twin"]
    expected = ["norms", "--checkpoint", "a", "b", "--data", "d", "--no-twin"]
    assert gathered(arguments, {"--checkpoint"}) == expected
    with pytest.raises(InputError, match="--data is given twice"):
        gathered(["norms", "--data", "a", "--data", "b"], {"--checkpoint"})


def test_checkpoints_of_two_options_are_both_analysed(
    tmp_path, checkpoints, pictures, monkeypatch, capsys
):
    plain, registers = checkpoints["plain"], checkpoints["registers"]
    arguments = (
        *("norms", "--data", pictures, "--out", tmp_path / "out", "--num-images", 4, "--no-twin"),
        *("--bootstrap", 100, "--checkpoint", plain, "--checkpoint"),
    )
    assert call(monkeypatch, *arguments, registers) == 0
    assert [m["label"] for m in results_of(tmp_path / "out")["models"]] == ["plain", "registers"]
    assert call(monkeypatch, *arguments, plain) == 2
    assert "twice" in capsys.readouterr().err
