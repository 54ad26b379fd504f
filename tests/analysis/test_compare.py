"""Does a comparison hold what the result folders say?"""

import csv
import json

import pytest

from tests.analysis.conftest import call


def model(label, registers, is_twin=False, **numbers):
    return {
        "label": label,
        "title": label,
        "checkpoint": f"/checkpoints/{label}",
        "is_twin": is_twin,
        "num_registers": registers,
        "metrics": {"top1": {"share": 0.8, "low": 0.7, "high": 0.9, "n": 50}},
        "numbers": {},
        "remarks": [],
        **numbers,
    }


LEAD = {"lost": ("lost/corloc", "LOST: CorLoc"), "norms": ("outliers/share", "patches above")}


ABSENT = {"answer": "not found", "reason": "r"}


def corloc(*ends):
    return {"lost/corloc": estimate(*ends)}


def estimate(value, low=None, high=None):
    return {"value": value, "n": 40, "interval": None if low is None else [low, high]}


def write(folder, analysis, models, comparisons):
    folder.mkdir(parents=True)
    results = {
        "format": 2,
        "analysis": analysis,
        "about": {"heading": "h", "text": "t", "verdict": "outlier tokens", "per_image": []},
        "measured": {},
        "lead": [dict(zip(("key", "title"), LEAD[analysis], strict=True)) | {"is_share": True}],
        "configuration": {},
        "data": {"name": "x", "skipped": []},
        "models": models,
        "comparisons": comparisons,
        "figures": [],
        "tables": [],
        "files": [],
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def folders(tmp_path):
    lost = write(
        tmp_path / "lost",
        "lost",
        [
            model("reg0", 0, numbers=corloc(0.2, 0.1, 0.3)),
            model("reg4", 4, numbers=corloc(0.5, 0.4, 0.6)),
        ],
        [
            {
                "from": "reg4",
                "to": "reg0",
                "paired": True,
                "differences": {"lost/corloc": estimate(-0.3, -0.4, -0.2)},
            }
        ],
    )
    norms = write(
        tmp_path / "norms",
        "norms",
        [
            model("reg0", 0, verdict={"answer": "found", "reason": "r"}),
            model("reg4", 4, verdict={"answer": "not found", "reason": "r"}),
            model(
                "reg0 untrained", 0, is_twin=True, verdict={"answer": "not found", "reason": "r"}
            ),
        ],
        [
            {
                "from": "reg0",
                "to": "reg4",
                "paired": True,
                "differences": {"outliers/share": estimate(-0.01, -0.02, 0.01)},
            },
            {"from": "reg0 untrained", "to": "reg0", "paired": True, "differences": {}},
        ],
    )
    return [lost, norms]


def read(folder):
    return json.loads((folder / "results.json").read_text())


def test_values_and_differences_are_those_of_the_folders(monkeypatch, tmp_path, folders, capsys):
    out = tmp_path / "out"
    assert call(monkeypatch, "compare", "--results", *folders, "--out", out) == 0
    results = read(out)
    assert [m["label"] for m in results["models"]] == ["reg0", "reg4"]
    numbers = {n["name"]: n for n in results["headlines"]}
    assert numbers["lost/corloc"]["values"]["reg4"] == estimate(0.5, 0.4, 0.6)
    # The folder has first minus second; the comparison is with the first model.
    assert numbers["lost/corloc"]["differences"] == {"reg4": estimate(0.3, 0.2, 0.4)}
    assert numbers["verdict"]["values"] == {"reg0": "found", "reg4": "not found"}
    assert numbers["top1"]["values"]["reg0"]["interval"] == [0.7, 0.9]
    assert len(results["comparisons"]) == 2
    printed = capsys.readouterr().out
    assert "reg4 differs from reg0 by +30 points [+20, +40]" in printed
    with (out / "compare.csv").open() as file:
        rows = {(row["quantity"], row["model"]): row for row in csv.DictReader(file)}
    assert rows["lost/corloc", "reg4"]["difference_low"] == "0.2"
    assert rows["verdict", "reg4"]["value"] == "not found"
    assert (out / "compare.png").stat().st_size > 1000


def test_two_folders_of_one_question_stay_apart(monkeypatch, tmp_path, folders):
    again = write(
        tmp_path / "other",
        "lost",
        [model("reg0", 0, numbers=corloc(0.25)), model("reg8", 8, numbers=corloc(0.35))],
        [],
    )
    status = call(monkeypatch, "compare", "--results", *folders, again, "--out", tmp_path / "out")
    assert status == 0
    results = read(tmp_path / "out")
    assert [m["label"] for m in results["models"]] == ["reg0", "reg4", "reg8"]
    questions = [n["question"] for n in results["headlines"] if n["name"] == "lost/corloc"]
    assert questions == [f"lost ({folders[0]})", f"lost ({again})"]


@pytest.mark.parametrize("case", ["nothing", "no results", "twice", "a comparison"])
def test_bad_folders_are_refused(case, monkeypatch, tmp_path, folders, capsys):
    messages = {"no results": "not a result folder", "twice": "twice", "a comparison": "itself"}
    given = {"nothing": [], "no results": [tmp_path], "twice": [folders[0]] * 2}
    if case == "a comparison":
        call(monkeypatch, "compare", "--results", folders[0], "--out", tmp_path / "first")
        given[case] = [tmp_path / "first"]
    status = call(monkeypatch, "compare", "--results", *given[case], "--out", tmp_path / "out")
    assert status == 2
    captured = capsys.readouterr()
    assert messages.get(case, "results") in captured.err + captured.out
    assert not (tmp_path / "out").exists()
