"""Do the rules on accuracy say what hand-made results make true?"""

import pytest

from tests.analysis.handmade import PAIR, SHAPE, evaluated, judged, seeded


@pytest.mark.parametrize(
    ("share", "answer"),
    [
        (0.8105, "supported"),
        (0.79, "not supported"),
        (0.8152, "supported"),
        (0.816, "not supported"),
    ],
)
def test_published_accuracy_is_met_within_a_margin(share, answer):
    assert judged(6, models=[evaluated(0, share)]).answer == answer


def test_published_accuracy_is_for_the_published_model_and_images_only():
    others = [evaluated(0, 0.8105, 2000), evaluated(0, 0.8105, variant="base")]
    others.append(evaluated(0, 0.8105, model=SHAPE | {"num_classes": 10}))
    for changed in others:
        found = judged(6, models=[changed])
        assert found.answer == "cannot tell"
        assert "regvit-train eval" in found.why
        assert found.numbers


@pytest.mark.parametrize(
    ("registers", "share", "answer"),
    [
        (8, 0.8080, PAIR),
        (8, 0.70, PAIR),
        (8, 0.8010, "cannot tell"),
        (4, 0.8080, "cannot tell"),  # the claim names 2, 8 and 16
    ],
)
def test_the_number_of_registers_matters_little_within_a_margin(registers, share, answer):
    assert judged(7, models=[evaluated(0, 0.8105), evaluated(registers, share)]).answer == answer


def test_accuracies_on_other_images_are_not_compared():
    other = evaluated(8, 0.8080)
    other["metrics"] = other["metrics"] | {"data": "imagenette"}
    found = judged(7, models=[evaluated(0, 0.8105), other])
    assert (found.answer, found.numbers) == ("cannot tell", ())


def test_accuracies_of_three_runs_a_side_are_told_whatever_the_images():
    tops = {0: (0.811, 0.812, 0.810), 8: (0.812, 0.811, 0.8105)}
    models = [
        seeded(registers, seed) | {"metrics": evaluated(registers, top, 3000)["metrics"]}
        for registers, values in tops.items()
        for seed, top in enumerate(values)
    ]
    assert judged(7, models=models).answer == "supported"
    assert judged(7, models=models[:2] + models[3:]).answer != "supported"
