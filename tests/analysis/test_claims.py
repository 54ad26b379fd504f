"""Do the rules on the study's claims say what hand-made results make true, and no more?"""

import dataclasses

import pytest
from scipy import stats

from regvit_jax.analysis.claims.catalogue import CLAIMS
from regvit_jax.analysis.claims.evidence import Evidence, unpaired_difference
from regvit_jax.analysis.claims.judgement import judge_claims
from regvit_jax.analysis.statistics.bootstrap import Estimate
from tests.analysis.handmade import (
    DINOV2_LARGE,
    FOUND,
    JUDGED,
    PAIR,
    SHAPE,
    ablated,
    attention,
    judged,
    lost,
    model,
    norms,
    number,
    probe,
    reconstruction,
    segmented,
    shifted,
    shrinking,
    similarity,
    stages,
)

CASES = [
    (1, [norms("found")], "supported"),
    (1, [norms("not found")], "not supported"),
    (1, [norms("cannot tell")], "cannot tell"),
    (1, [norms("found", twin="found")], "cannot tell"),
    (2, [shrinking(-0.02, -0.01)], PAIR),
    (2, [shrinking(0.01, 0.02)], PAIR),
    (2, [shrinking(-0.02, 0.01)], "cannot tell"),
    (2, [shrinking(0.0, 0.0)], "cannot tell"),
    (8, [lost(0.01, 0.02)], PAIR),
    (8, [lost(-0.02, -0.01)], PAIR),
    (8, [lost(-0.01, 0.01)], "cannot tell"),
    (9, [lost(0.01, 0.02, DINOV2_LARGE)], PAIR),
    (9, [lost(-0.02, -0.01, DINOV2_LARGE)], PAIR),
    (9, [lost(-0.01, 0.01, DINOV2_LARGE)], "cannot tell"),
    (9, [lost(0.01, 0.02)], "cannot tell"),
    (10, [FOUND, attention(-0.12, -0.08)], PAIR),
    (10, [FOUND, attention(0.08, 0.12)], PAIR),
    (10, [FOUND, attention(-0.08, 0.09)], "cannot tell"),
    (13, [stages(0.1, 0.2)], "supported"),  # earlier minus later is above 0
    (13, [stages(-0.2, -0.1)], "not supported"),
    (13, [stages(-0.1, 0.1)], "cannot tell"),
    (13, [stages(0.1, 0.2, second=200)], "cannot tell"),
    (13, [stages(0.1, 0.2, second=3)], "cannot tell"),  # within the warm-up
    (14, [FOUND, similarity(0.47, 0.52)], "supported"),
    (14, [FOUND, similarity(0.6, 0.7)], "not supported"),
    (14, [FOUND, similarity(0.3, 0.4)], "not supported"),
    (14, [FOUND, similarity(0.5, 0.6)], "cannot tell"),
    (15, [FOUND, reconstruction(1.1, 1.2)], "supported"),
    (15, [FOUND, reconstruction(0.8, 0.9)], "not supported"),
    (15, [FOUND, reconstruction(0.97, 1.03)], "not supported"),
    (15, [FOUND, reconstruction(0.9, 1.2)], "cannot tell"),
    (16, [FOUND, probe(0.1, 0.2)], "supported"),
    (16, [FOUND, probe(-0.2, -0.1)], "not supported"),
    (16, [FOUND, probe(-0.1, 0.2)], "cannot tell"),
    (16, [FOUND, probe(0.1, 0.2, n=20)], "cannot tell"),
    (16, [FOUND, probe(0.1, 0.2, control=(-0.01, 0.02))], "cannot tell"),
    (20, [ablated("registers_zeroed", -0.2, -0.1)], "supported"),
    (20, [ablated("registers_zeroed", -0.2, -0.1, "linear")], "supported"),
    (20, [ablated("registers_zeroed", 0.1, 0.2)], "not supported"),
    (20, [ablated("registers_zeroed", -0.1, 0.1)], "cannot tell"),
    *(
        case
        for claim, condition in (
            (21, "registers_mean"),
            (22, "registers_other_image"),
            (23, "patches_zeroed"),
        )
        for case in (
            (claim, [ablated(condition, -0.004, 0.003)], "supported"),
            (claim, [ablated(condition, -0.2, -0.1)], "not supported"),
            (claim, [ablated(condition, -0.02, 0.003)], "cannot tell"),
        )
    ),
    (24, [shifted(left=(0.0, 0.001))], "supported"),
    (24, [shifted(left=(0.01, 0.02))], "not supported"),
    (24, [shifted(left=(0.002, 0.003))], "cannot tell"),
    (25, [shifted(change=(-0.002, 0.003))], "supported"),
    (25, [shifted(change=(-0.05, -0.02))], "not supported"),
    (25, [shifted(change=(-0.02, 0.003))], "cannot tell"),
    (26, [shifted(silent=(-0.05, -0.02))], "supported"),
    (26, [shifted(silent=(0.02, 0.05))], "not supported"),
    (26, [shifted(silent=(-0.02, 0.01))], "cannot tell"),
    (27, [segmented(0.01, 0.02)], PAIR),
    (27, [segmented(-0.02, -0.01)], PAIR),
    (27, [segmented(-0.02, 0.01)], "cannot tell"),
    (27, [segmented(0.01, 0.02, added={"units": [[0, 1]]})], "cannot tell"),
]


@pytest.mark.parametrize(("claim", "folders", "answer"), CASES)
def test_a_rule_needs_an_interval_that_leaves_out_the_null(claim, folders, answer):
    found = judged(claim, *folders)
    assert found.answer == answer
    assert found.why.endswith(".")
    assert "custom" not in found.about


def test_every_claim_with_a_rule_has_cases_for_all_verdicts():
    seen = {(claim, answer) for claim, _, answer in CASES}
    elsewhere = {6, 7}  # on accuracies, below
    for claim in set(JUDGED) - elsewhere:
        on_registers = claim in (2, 8, 9, 10, 27)
        answers = (PAIR,) if on_registers else ("supported", "not supported")
        for answer in (*answers, "cannot tell"):
            assert (claim, answer) in seen


def test_a_comparison_is_read_from_without_to_with_registers():
    turned = lost(0.01, 0.02)
    turned["comparisons"] = [
        {"from": "reg4", "to": "reg0", "differences": {"lost/corloc": number(-0.02, -0.01)}}
    ]
    straight = judged(8, lost(0.01, 0.02))
    assert judged(8, turned) == straight
    assert straight.numbers[-1] == "change: 1.50 [1.00, 2.00] points, n 100"


def test_pairs_of_other_shapes_or_with_registers_in_both_are_left_out():
    odd = lost(0.01, 0.02)
    odd["models"][1]["model"] = SHAPE | {"depth": 6}
    assert judged(8, odd).answer == "cannot tell"
    both = lost(0.01, 0.02)
    both["models"][0] |= {"num_registers": 2}
    found = judged(8, both)
    assert found.answer == "cannot tell"
    assert "no model without registers" in found.why


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": {"recipe": {"epochs": 2, "seed": 0}}}, "only one of them"),
        ({"metrics": {"step": 7}}, "step"),
    ],
)
def test_models_that_differ_in_more_than_registers_are_not_judged(changes, reason):
    folder = lost(0.01, 0.02)
    folder["models"][1] |= changes
    found = judged(8, folder)
    assert found.answer == "cannot tell"
    assert reason in found.why


def test_recipes_may_differ_in_registers_and_seed_alone():
    folder = lost(0.01, 0.02)
    for i, one in enumerate(folder["models"]):
        one["source"] = {"recipe": {"epochs": 2, "seed": i, "model": {"num_registers": 4 * i}}}
    assert judged(8, folder).answer == PAIR
    folder["models"][1]["source"]["recipe"]["epochs"] = 3
    assert "recipes differ in epochs" in judged(8, folder).why


def test_what_outliers_do_needs_outliers():
    for claim, folder in ((15, reconstruction(1.1, 1.2)), (10, attention(-0.1, -0.1))):
        none = judged(claim, norms("not found"), folder)
        assert none.answer == "cannot tell"
        assert "finds none in reg0" in none.why
        assert none.numbers
        unknown = judged(claim, folder)
        assert unknown.answer == "cannot tell"
        assert "`regvit-analyze norms --checkpoint" in unknown.why


def test_untrained_twins_stand_for_no_model():
    folder = norms("found", twin="not found")
    folder["comparisons"] = [
        {
            "from": "reg0 untrained",
            "to": "reg4",
            "differences": {"outliers/last/3_x_median/share": number(-0.02, -0.01)},
        }
    ]
    assert judged(2, folder).answer == "cannot tell"
    assert "untrained control has none" in judged(1, folder).why
    assert "no untrained control" in judged(1, norms(twin=None)).why


def test_pairs_that_disagree_decide_nothing():
    folder = lost(0.01, 0.02)
    folder["models"].append(model("reg8", 8, numbers={"lost/corloc": number(0.0, 0.1)}))
    change = {"lost/corloc": number(-0.02, -0.01)}
    folder["comparisons"].append({"from": "reg0", "to": "reg8", "differences": change})
    found = judged(8, folder)
    assert found.answer == "cannot tell"
    assert "do not agree" in found.why
    assert "reg0 → reg8: not supported" in found.why
    assert any(line.startswith("reg0 → reg4: ") for line in found.numbers)


def test_missing_numbers_decide_nothing():
    folder = lost(0.01, 0.02)
    folder["comparisons"][0]["differences"] = {}
    assert "missing" in judged(8, folder).why
    folder = lost(0.01, 0.02)
    folder["comparisons"][0]["differences"]["lost/corloc"]["interval"] = None
    assert "no interval" in judged(8, folder).why
    empty = lost(0.01, 0.02)
    for one in empty["models"]:
        one["numbers"] = {}
    assert "No image had an annotated object" in judged(8, empty).why


def test_a_missing_analysis_names_its_command():
    models = [model("reg0", 0), model("reg 4", 4) | {"checkpoint": "/my models/reg4"}]
    commands = {2: "norms", 8: "lost", 10: "attention", 14: "similarity", 15: "reconstruction"}
    for claim, analysis in commands.items():
        found = judged(claim, models=models)
        assert found.answer == "cannot tell"
        expected = f"`regvit-analyze {analysis} --checkpoint /models/reg0 '/my models/reg4' --data"
        assert expected in found.why


def test_a_verdict_says_which_models_and_images_it_is_about():
    published = judged(8, lost(0.01, 0.02))
    assert published.about == "in reg0 and reg4 (small size), on 100 images of photos"
    parts = judged(8, lost(0.01, 0.02, data="birds/val"))
    assert parts.about.endswith("on 100 images of birds/val")
    toy = judged(8, lost(0.01, 0.02, data="digits"))
    assert toy.answer == PAIR
    assert toy.about.endswith("this says nothing about DeiT-III Small on ImageNet")
    folder = lost(0.01, 0.02)
    for one in folder["models"]:
        one["variant"] = "custom"
    assert "says nothing about DeiT-III Small" in judged(8, folder).about


def test_both_below_a_box_that_looks_at_nothing_is_said():
    assert "central box" in judged(8, lost(0.01, 0.02, central=0.5)).why
    assert "central box" not in judged(8, lost(0.01, 0.02, central=0.1)).why


def test_claims_without_a_rule_are_listed_with_the_reason():
    found = judge_claims(Evidence([], [], {"reg0": 0.5}))
    without = [judgement for judgement in found if judgement.claim.judge is None]
    assert {judgement.answer for judgement in without} == {"not judged"}
    assert all(judgement.why for judgement in without)
    assert {j.answer for j in found if j.claim.judge} == {"cannot tell"}
    assert found[18].numbers == ("reg0: 0.50 h of training",)


def test_every_claim_has_words_a_place_and_a_rule():
    for claim in CLAIMS:
        for field in ("words", "published", "where", "rule"):
            assert getattr(claim, field), (claim.number, field)
    with pytest.raises(dataclasses.FrozenInstanceError):
        CLAIMS[0].rule = "another"


def test_the_unpaired_interval_is_newcombes():
    # 56/70 and 48/80: example (a) of Newcombe (1998), method 10: 0.0524 to 0.3339.
    first, second = (
        Estimate(k / n, n, *stats.binomtest(k, n).proportion_ci(0.95, "wilson"))
        for k, n in ((48, 80), (56, 70))
    )
    found = unpaired_difference(first, second)
    assert (found.value, found.n) == (pytest.approx(0.2), 70)
    # The published digits.
    assert found.low == pytest.approx(0.0524, abs=5e-5, rel=0)
    assert found.high == pytest.approx(0.3339, abs=5e-5, rel=0)
    assert unpaired_difference(first, Estimate(0.5, 9)).low is None


def test_the_quantile_after_layernorm_comes_with_its_interval():
    assert (
        "98 % quantile after LayerNorm: 63.000 [62.000, 64.000], n 100" in judged(1, FOUND).numbers
    )
