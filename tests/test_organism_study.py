"""Are the runs of the organism measured rightly, and are their table and figure made of them?"""

import numpy as np
import pytest
from PIL import Image

from benchmarks import organism, organism_figure
from benchmarks.organism_measures import measure

BY_COUNT = {
    0: {"verdict": "found", "last": "found", "background": 3.0, "on_registers": 0.0},
    4: {"verdict": "not found", "last": "not found", "background": 1.1, "on_registers": 0.8},
}
OTHERS = {"on_background": 0.1, "on_cls": 0.05, "cls_on_background": 0.02, "accuracy": 1.0}


@pytest.fixture
def rows():
    """Three runs a side, whose norms are a little apart."""
    return [
        {"registers": count, "seed": seed, **OTHERS, **row, "background": norm, "cpu_seconds": 1.0}
        for count, row in BY_COUNT.items()
        for seed, norm in enumerate(row["background"] + np.array([0.0, 0.1, 0.2]))
    ]


def test_shares_of_attention_are_shares_and_the_pair_names_the_framed_digit():
    found = measure("organism-reg4", 20)
    parts = [found["on_background"], found["on_registers"], found["on_cls"]]
    assert min(parts) >= 0
    assert 0.5 < sum(parts) <= 1 + 1e-5
    assert found["on_registers"] > 0.5
    assert found["accuracy"] == 1
    assert found["last"] == found["blocks"][-1]
    assert found["background"] == max(found["background_by_block"])


def test_the_table_has_means_with_intervals_over_seeds(rows):
    head, _, *lines = organism.lines(rows)
    assert head.count("|") == lines[0].count("|") == 11
    values = [row["background"] for row in rows if row["registers"] == 0]
    half = 4.303 * np.std(values, ddof=1) / 3**0.5  # Student's t of 2 degrees of freedom
    middle = np.mean(values)
    assert f"{middle:.2f} ({middle - half:.2f} to {middle + half:.2f})" in lines[0]
    assert lines[0].startswith("| 0 | 3 | 3 | 3 |")
    assert lines[1].startswith("| 4 | 3 | 0 | 0 |")


def test_finished_runs_are_read_and_not_trained_again(rows, tmp_path):
    for row in rows:
        folder = tmp_path / f"seed{row['seed']}-reg{row['registers']}"
        folder.mkdir()
        (folder / organism.MEASURED).write_text(organism.json.dumps(row, indent=2))
    again = list(organism.study([0, 4], [0, 1, 2], tmp_path))
    assert [(row["seed"], row["registers"]) for row in again] == [
        (seed, count) for seed in range(3) for count in (0, 4)
    ]


def test_the_figure_is_drawn(rows, tmp_path):
    organism_figure.draw(rows, tmp_path / "figures" / "sweep.png")
    with Image.open(tmp_path / "figures" / "sweep.png") as image:
        assert image.width > 1000
