"""Results made by hand, for the tests of the claims."""

from scipy import stats

from regvit_jax.analysis.claims.catalogue import CLAIMS
from regvit_jax.analysis.claims.evidence import Evidence
from regvit_jax.analysis.claims.judgement import Judgement, judge_claims

SHAPE = {
    **{"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16, "image_size": 224},
    "num_classes": 1000,
}
DINOV2_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 14}
JUDGED = [claim.number for claim in CLAIMS if claim.judge]


def number(low, high, n=100):
    return {"value": (low + high) / 2, "n": n, "interval": [low, high]}


def model(label, registers, shape=SHAPE, variant="small", is_twin=False, **numbers):
    return {
        "label": label,
        "checkpoint": f"/models/{label.split()[0]}",
        "is_twin": is_twin,
        "num_registers": registers,
        "model": shape | {"num_registers": registers},
        "variant": variant,
        "source": {"kind": "pth"},
        "metrics": {},
        "numbers": {},
        **numbers,
    }


def results(analysis, models, differences=None, data="photos", pair=("reg0", "reg4"), **more):
    comparisons = []
    if differences is not None:
        comparisons = [{"from": pair[0], "to": pair[1], "differences": differences}]
    return {
        "analysis": analysis,
        "configuration": {"data": data},
        "data": {"name": f"/data/{data}", "num_images": 100},
        "models": models,
        "comparisons": comparisons,
        **more,
    }


def verdict(answer):
    group = {"share": number(0.01, 0.02), "cut": 20.0} if answer == "found" else None
    return {
        "verdict": {"answer": answer, "reason": f"Outliers: {answer}."},
        "group": group,
        "numbers": {
            "outliers/last/3_x_median/share": number(0.0, 0.01),
            "norms_by_layer/6/patches/q98": number(18.0, 20.0),
            "norms_by_layer/normed/cls/q98": number(1.0, 2.0),
            "norms_by_layer/normed/patches/q98": number(62.0, 64.0),
        },
    }


def norms(answer="found", twin="not found", differences=None, **more):
    models = [model("reg0", 0, **verdict(answer)), model("reg4", 4, **verdict("not found"))]
    if twin:
        models.append(model("reg0 untrained", 0, is_twin=True, **verdict(twin)))
    return results("norms", models, differences, **more)


def shrinking(low, high):
    return norms(differences={"outliers_by_one_cut/share": number(low, high)})


def lost(low, high, shape=SHAPE, central=0.1, **more):
    models = [
        model("reg0", 0, shape, numbers={"lost/corloc": number(0.1, 0.3)}),
        model("reg4", 4, shape, numbers={"lost/corloc": number(0.2, 0.4)}),
    ]
    baselines = [{"name": "central_box", "corloc": number(central, central)}]
    return results("lost", models, {"lost/corloc": number(low, high)}, baselines=baselines, **more)


def attention(low, high):
    differences = {
        "attention_by_one_cut/share_of_patch_mass": number(low, high),
        "attention_last_block/CLS/entropy": number(0.01, 0.02),
    }
    return results("attention", [model("reg0", 0), model("reg4", 4)], differences)


def stages(low, high, first=200, second=100):
    models = [
        model("later", 4) | {"checkpoint": "/runs/a/model", "metrics": {"step": first}},
        model("earlier", 4) | {"checkpoint": "/runs/a/epochs/1", "metrics": {"step": second}},
    ]
    differences = {"registers/centred_cosine": number(low, high)}
    return results("attention", models, differences, pair=("later", "earlier"))


def similarity(low, high):
    numbers = {"similarity/labels/group/auc": number(low, high)}
    return results("similarity", [model("reg0", 0, numbers=numbers)])


def reconstruction(low, high):
    numbers = {"matched/group/own_l2/ratio": number(low, high)}
    return results("reconstruction", [model("reg0", 0, numbers=numbers)])


def probe(low, high, n=100, control=(0.05, 0.06)):
    found = {"normal_patch_beside": number(low, high, n)}
    found |= dict.fromkeys(("outliers_neighbour", "outlier_in_block_0"), number(*control))
    found |= {"cls": number(-0.9, -0.8), "normal_patch": number(-0.9, -0.8)}
    numbers = {
        f"between_kinds/{kind}/outlier_patch/logistic/difference": each
        for kind, each in found.items()
    }
    return results("probe", [model("reg0", 0, numbers=numbers)])


def ablated(condition, low, high, score="top1"):
    numbers = {f"ablate/{condition}/{score}_change": number(low, high)}
    return results("ablate", [model("reg0", 0), model("reg4", 4, numbers=numbers)])


def shifted(left=(0.0, 0.0001), change=(-0.001, 0.001), silent=(-0.2, -0.1)):
    numbers = {
        "test_time_registers/num_units": {"value": 10, "n": 100, "interval": None},
        "test_time_registers/outliers_before": number(0.02, 0.03),
        "test_time_registers/outliers": number(*left),
        "neurons/shifted/10/top1_change": number(*change),
        "neurons/zeroed/10/top1_change": number(*silent),
    }
    return results("neurons", [model("reg0", 0, numbers=numbers), model("reg4", 4)])


def segmented(low, high, **shape):
    models = [model("reg0", 0, SHAPE | shape), model("reg4", 4)]
    return results("segment", models, {"segment/linear/mean_iou": number(low, high)})


def evaluated(registers, share, n=50_000, **changes):
    ends = stats.binomtest(round(share * n), n).proportion_ci(0.95, "wilson")
    top1 = {"share": share, "low": ends.low, "high": ends.high, "n": n}
    metrics = {"top1": top1, "data": "imagenet"}
    return model(f"reg{registers}", registers) | {"metrics": metrics} | changes


def judged(claim, *folders, models=(), **more) -> Judgement:
    found = judge_claims(Evidence(folders, models, **more))
    assert [judgement.claim.number for judgement in found] == list(range(1, 28))
    return found[claim - 1]


FOUND, PAIR = norms(), "in this pair of models"


def seeded(registers, seed, answer="found", **more):
    recipe = {"seed": seed, "epochs": 2, "model": {"num_registers": registers}}
    source = {"source": {"kind": "training run", "recipe": recipe}}
    name = f"reg{registers}-seed{seed}"
    return model(name, registers, **verdict(answer)) | source | more


def over_seeds(without, having, name="lost", key="lost/corloc"):
    """Runs of one recipe with a number each, and what their pairs say."""
    models = [
        seeded(registers, seed, numbers={key: number(value - 0.001, value + 0.001)})
        for registers, values in ((0, without), (4, having))
        for seed, value in enumerate(values)
    ]
    pairs = [
        {
            "from": f"reg0-seed{i}",
            "to": f"reg4-seed{i}",
            "differences": {key: number(b - a - 0.001, b - a + 0.001)},
        }
        for i, (a, b) in enumerate(zip(without, having, strict=False))
    ]
    return results(name, models, baselines=[]) | {"comparisons": pairs}
