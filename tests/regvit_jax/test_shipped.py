"""Do the models that come with the package open by their names, wherever one is named?"""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from regvit_jax import InputError, load
from regvit_jax.checkpoint import read_info, resolve
from regvit_jax.convert.families import to_text
from regvit_jax.convert.inspection import inspect
from regvit_jax.shipped import FOLDER, MODELS


@pytest.mark.parametrize(("name", "count"), [("organism-reg0", 0), ("organism-reg4", 4)])
def test_a_name_opens_its_model_without_a_network(name, count, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    model, params = load(name)
    assert model.config.num_registers == count
    assert all(np.isfinite(leaf).all() for leaf in params["norm"].values())
    assert read_info(name).source["recipe"]["data"]["data"] == "cues"


def test_both_models_are_one_recipe_and_one_seed():
    first, second = (read_info(name).source["recipe"] for name in MODELS)
    assert first["model"].pop("num_registers") == 0
    assert second["model"].pop("num_registers") == 4
    assert first == second


def test_the_weights_fill_less_than_a_megabyte():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1e6


def test_a_folder_of_the_same_name_comes_first_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER / "organism-reg4", "organism-reg0")
    with pytest.warns(UserWarning, match="organism-reg0 is taken for the folder of that name here"):
        assert resolve("organism-reg0") == tmp_path / "organism-reg0"


def test_a_name_that_nothing_has_is_met_with_those_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"come with regvit_jax: organism-reg0, organism-reg4\."):
        load("organism-reg8")
    with pytest.raises(InputError) as error:
        load("runs/reg8")
    assert "come with" not in str(error.value)


def test_the_converter_knows_and_lists_them():
    assert inspect(Path("organism-reg4"))["kind"] == "checkpoint directory"
    assert all(f"  {name} " in to_text() for name in MODELS)
