"""Are statements about registers made over training runs, where there are enough?"""

import pytest

from tests.analysis.handmade import PAIR, judged, over_seeds


@pytest.mark.parametrize(
    ("without", "having", "answer"),
    [
        ((0.30, 0.31, 0.32), (0.40, 0.41, 0.42), "supported"),
        ((0.40, 0.41, 0.42), (0.30, 0.31, 0.32), "not supported"),
        ((0.30, 0.40, 0.35), (0.36, 0.41, 0.39), "cannot tell"),  # seeds differ as much
        ((0.30, 0.31), (0.40, 0.41), PAIR),
        ((0.30,), (0.40,), PAIR),
    ],
)
def test_registers_are_spoken_of_by_three_training_runs_a_side(without, having, answer):
    found = judged(8, over_seeds(without, having))
    assert found.answer == answer
    if answer == PAIR:
        assert "Another seed may say otherwise" in found.why
    elif answer != "cannot tell":
        assert "over 3 + 3 training runs (0 and 4 registers)" in found.why


def test_numbers_that_only_pairs_have_are_compared_seed_by_seed():
    key = "outliers_by_one_cut/share"
    folder = over_seeds((0.02, 0.021, 0.022), (0.001, 0.001, 0.002), "norms", key)
    for each in folder["models"]:
        each["numbers"] = {}
    assert judged(2, folder).answer == "supported"
    folder["models"][1]["verdict"] = {"answer": "not found", "reason": "None."}
    found = judged(2, folder)
    assert found.answer == "cannot tell"
    assert "reg0-seed1" in found.why
