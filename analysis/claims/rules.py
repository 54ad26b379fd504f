"""By which rules is a claim judged? One function a claim, each on numbers of results.json alone.

A verdict needs an interval that excludes the null: wholly beyond it on the claimed side is
"supported", wholly beyond it on the other side "not supported", anything else "cannot tell". A
claim that two things are alike needs an interval wholly within (or wholly outside) a stated
margin. What is said of outliers needs outliers: a model in which `norms` finds none cannot show
what outliers do.

A rule returns what each model, or pair of models, says; or a sentence on what is missing.
"""

from collections.abc import Callable, Iterator

from regvit_jax.analysis.claims.evidence import (
    Answer,
    Evidence,
    Finding,
    Json,
    Pair,
    images,
    in_percent,
    in_units,
    number_of,
    same_shape,
    unpaired_difference,
)
from regvit_jax.analysis.claims.verdicts import (
    direction,
    undecided,
    unless_unlike,
    unless_without_outliers,
    within,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate

Findings = list[Finding] | str

TOP1_MARGIN = 0.01
"""Accuracies this near to each other count as alike."""
PUBLISHED_TOP1 = {0: 0.81054, 4: 0.80810}
"""Top-1 accuracy of the study's models by registers, epoch 799."""
PUBLISHED_MARGIN = 0.005
"""Accuracies this near to the published one count as reproduced; a seed changes some 0.2 points."""
IMAGENET_VAL = 50_000
COUNTED_REGISTERS = (2, 8, 16)
"""The numbers of registers that the claim on them names."""
AUC_MARGIN = 0.05
"""Within this of 0.5, outliers are as like their neighbours as other patches are."""


def outliers_exist(evidence: Evidence) -> Findings:
    """Models without registers have a separate group of large norms, untrained ones have none."""
    found = []
    for results, model in evidence.measured("norms", _is_plain):
        twins = [m for m in results["models"] if m["is_twin"] and m["model"] == model["model"]]
        answer, reason = _existence(model, twins)
        group = model.get("group") or {}
        numbers = (
            in_percent("patches in a separate group", Estimate.of(group.get("share")))
            if group
            else in_percent(
                "patches above 3 x the median norm",
                number_of(model, "outliers/last/3_x_median/share"),
            ),
            in_units(
                "98 % quantile after LayerNorm",
                number_of(model, "norms_by_layer/normed/patches/q98"),
            ),
        )
        found.append(Finding((model,), images(results), numbers, answer, reason))
    return found or _missing_plain(evidence, "norms")


def outliers_shrink(evidence: Evidence) -> Findings:
    """Registers lower the share of patches above 3 x the median norm."""

    def judge(pair: Pair) -> tuple[tuple[str, ...], Answer, str]:
        share = pair.differences.get("outliers/last/3_x_median/share")
        largest = pair.differences.get("norm_extremes/largest_over_median")
        numbers = (
            in_percent("patches above 3 x the median norm", share, "points"),
            in_units("largest norm / median", largest, 2),
            "outliers: " + " → ".join(model["verdict"]["answer"] for model in pair[:2]),
        )
        return numbers, *direction(share, 0.0, -1, "the change")

    return _by_pair(evidence, "norms", judge, needs_outliers=True)


def lost_improves(evidence: Evidence) -> Findings:
    """Registers raise CorLoc."""
    return _lost(evidence, lambda model: not _is_dinov2_large(model))


def lost_improves_dinov2(evidence: Evidence) -> Findings:
    """The same in DINOv2-L."""
    found = _lost(evidence, _is_dinov2_large)
    if isinstance(found, str):
        command = evidence.command("lost", "DINOV2_L DINOV2_L_REG4", "VOCdevkit")
        return (
            f"DINOv2-L is not among these models. Convert both of its checkpoints; then {command}."
        )
    return found


def maps_are_cleaner(evidence: Evidence) -> Findings:
    """Outliers get a smaller part of CLS's attention to patches with registers."""

    def judge(pair: Pair) -> tuple[tuple[str, ...], Answer, str]:
        change = pair.differences.get("attention_on_outliers/quantile_98/share_of_patch_mass")
        entropy = pair.differences.get("attention_last_block/CLS/entropy")
        numbers = (
            in_percent("CLS's attention on the 2 % of largest norm", change, "points"),
            in_units("entropy of CLS's map", entropy, 4),
        )
        return numbers, *direction(change, 0.0, -1, "the change")

    return _by_pair(evidence, "attention", judge, needs_outliers=True)


def register_maps_part(evidence: Evidence) -> Findings:
    """During training, the registers' maps become less alike."""
    found = []
    for pair in evidence.stage_pairs("attention"):
        change = pair.differences.get("registers/cosine")
        answer, reason = direction(change, 0.0, -1, "the change")
        numbers = (in_units("cosine of the registers' maps, later minus earlier", change, 4),)
        models = (pair.first, pair.second)
        found.append(Finding(models, images(pair.results), numbers, answer, reason))
    return found or (
        "Needs at least two stages of one run with registers (`regvit-train run "
        "--keep-every-epochs N`): "
        + evidence.command("attention", "RUN/epochs/FIRST RUN/epochs/LAST")
        + "."
    )


def neighbours_are_alike(evidence: Evidence) -> Findings:
    """Outliers are as like their neighbours as other patches are."""
    found = []
    for results, model in evidence.measured("similarity", _is_plain):
        by = f"similarity/{model['labels']}"
        auc = number_of(model, f"{by}/quantile_98/auc")
        other = number_of(model, f"{by}/quantile_99_5/auc")
        low, high = 0.5 - AUC_MARGIN, 0.5 + AUC_MARGIN
        answer, reason = within(auc, low, high, "the AUC", f"{low:g} to {high:g}")
        numbers = (in_units("AUC, 98 %", auc), in_units("AUC, 99.5 %", other))
        finding = Finding((model,), images(results), numbers, answer, reason)
        found.append(unless_without_outliers(evidence, finding))
    return found or _missing_plain(evidence, "similarity")


def detail_is_lost(evidence: Evidence) -> Findings:
    """Outliers are reconstructed worse than normal patches of the same pixel variance."""
    found = []
    for results, model in evidence.measured("reconstruction", _is_plain):
        matched = number_of(model, "matched/quantile_98/linear_l2/ratio")
        plain = number_of(model, "contrast/quantile_98/linear/normalised/l2_ratio")
        answer, reason = direction(matched, 1.0, +1, "the ratio")
        numbers = (
            in_units("pixel error, outliers / normal patches of equal variance", matched),
            in_units("the same without matching", plain),
        )
        finding = Finding((model,), images(results), numbers, answer, reason)
        found.append(unless_without_outliers(evidence, finding))
    return found or _missing_plain(evidence, "reconstruction")


def outliers_know_more(evidence: Evidence) -> Findings:
    """The class is told better by one outlier patch than by one normal patch."""
    key = "between_kinds/normal_patch/outlier_patch/logistic/difference"
    found = []
    for results, model in evidence.measured("probe", _is_plain):
        change = number_of(model, key)
        answer, reason = direction(change, 0.0, +1, "the difference")
        numbers = (in_percent("accuracy, outlier minus normal patch", change, "points"),)
        finding = Finding((model,), images(results), numbers, answer, reason)
        found.append(unless_without_outliers(evidence, finding))
    return found or _missing_plain(evidence, "probe")


def top1_is_reproduced(evidence: Evidence) -> Findings:
    """DeiT-III Small with 0 and 4 registers reaches the study's accuracy on ImageNet."""
    found = []
    for model in evidence.models:
        top1 = _top1(model)
        published = PUBLISHED_TOP1.get(model["num_registers"])
        if published is None or not _is_the_studys(model, top1):
            continue
        low, high = published - PUBLISHED_MARGIN, published + PUBLISHED_MARGIN
        margin = f"{100 * PUBLISHED_MARGIN:g} points of {100 * published:.2f} %"
        answer, reason = within(top1, low, high, "the accuracy", margin)
        numbers = (in_percent("top-1", top1),)
        found.append(Finding((model,), "ImageNet's validation images", numbers, answer, reason))
    return found or (
        "No DeiT-III Small with 0 or 4 registers was evaluated on the 50,000 validation images of "
        "ImageNet. Run `regvit-train eval --checkpoint CHECKPOINT --data IMAGENET`."
    )


def count_is_minor(evidence: Evidence) -> Findings:
    """With any number of registers, accuracy stays within a point of that without."""
    found, counts = [], set()
    for first, second, change in _accuracy_pairs(evidence):
        answer, reason = within(
            change, -TOP1_MARGIN, TOP1_MARGIN, "the change", f"±{100 * TOP1_MARGIN:g} point"
        )
        counts.add(second["num_registers"])
        numbers = (
            in_percent(f"top-1, {second['num_registers']} registers minus none", change, "points"),
        )
        finding = Finding((first, second), "the validation images", numbers, answer, reason)
        found.append(unless_unlike(finding))
    if not found:
        return (
            "Needs the accuracy, on the same images, of a model without and of models with 2, 8 "
            "or 16 registers. Run `regvit-train run --num-registers 0`, the same with 2, 8 and 16, "
            "and name the runs after `--runs`."
        )
    if not counts & set(COUNTED_REGISTERS):
        named = ", ".join(map(str, sorted(counts)))
        reason = f"the claim is about 2, 8 and 16 registers, measured are {named}"
        found = [undecided(finding, reason) for finding in found]
    return found


def _by_pair(
    evidence: Evidence,
    analysis: str,
    judge: Callable[[Pair], tuple[tuple[str, ...], Answer, str]],
    needs_outliers: bool = False,
    keep: Callable[[Json], bool] = lambda _: True,
    data: str = "",
) -> Findings:
    """What every pair without and with registers says."""
    found = []
    for pair in evidence.register_pairs(analysis):
        if not keep(pair.first):
            continue
        numbers, answer, reason = judge(pair)
        models = (pair.first, pair.second)
        finding = Finding(models, images(pair.results), numbers, answer, reason)
        if needs_outliers:
            finding = unless_without_outliers(evidence, finding)
        found.append(unless_unlike(finding))
    if found:
        return found
    if evidence.of(analysis):
        return (
            "These results compare no model without registers with one of the same shape that has "
            f"some. Run {evidence.command(analysis, 'WITHOUT WITH', data)}."
        )
    return f"Run {evidence.command(analysis, data=data)}."


def _lost(evidence: Evidence, keep: Callable[[Json], bool]) -> Findings:
    def judge(pair: Pair) -> tuple[tuple[str, ...], Answer, str]:
        corloc = [number_of(model, "lost/corloc") for model in (pair.first, pair.second)]
        change = pair.differences.get("lost/corloc")
        numbers = (
            in_percent("CorLoc without", corloc[0]),
            in_percent("with", corloc[1]),
            in_percent("change", change, "points"),
        )
        answer, reason = direction(change, 0.0, +1, "the change")
        return numbers, answer, reason + _below_baseline(pair, corloc)

    runs = evidence.of("lost")
    if runs and all(number_of(m, "lost/corloc") is None for r in runs for m in r["models"]):
        command = evidence.command("lost", data="VOCdevkit")
        return f"No image had an annotated object. Run {command}."
    return _by_pair(evidence, "lost", judge, keep=keep, data="VOCdevkit")


def _below_baseline(pair: Pair, corloc: list[Estimate | None]) -> str:
    """A warning where a box that looks at nothing does better than both models."""
    boxes = [b for b in pair.results.get("baselines", ()) if b["name"] == "central_box"]
    central = Estimate.of(boxes[0]["corloc"]) if boxes else None
    if central is None or any(c is None or c.value >= central.value for c in corloc):
        return ""
    return f", but a fixed central box finds more than either ({100 * central.value:.1f} %)"


def _existence(model: Json, twins: list[Json]) -> tuple[Answer, str]:
    answer, reason = model["verdict"]["answer"], model["verdict"]["reason"].rstrip(".")
    if answer == "not found":
        return "not supported", reason
    if answer != "found":
        return "cannot tell", reason
    if any(twin["verdict"]["answer"] == "found" for twin in twins):
        return "cannot tell", "an untrained model of the same shape has such a group too"
    control = "; the untrained control has none" if twins else "; no untrained control was run"
    return "supported", reason + control


def _missing_plain(evidence: Evidence, analysis: str) -> str:
    if evidence.of(analysis):
        command = evidence.command(analysis, "WITHOUT")
        return f"No model without registers is among the models of `{analysis}`. Run {command}."
    return f"Run {evidence.command(analysis)}."


def _is_plain(model: Json) -> bool:
    return model["num_registers"] == 0


def _is_dinov2_large(model: Json) -> bool:
    shape = model["model"]
    return [shape.get(k) for k in ("embed_dim", "depth", "patch_size")] == [1024, 24, 14]


def _is_the_studys(model: Json, top1: Estimate | None) -> bool:
    """Whether a DeiT-III Small was evaluated on all of ImageNet's validation images."""
    is_small = model.get("variant") == "small" and model["model"].get("num_classes") == 1000
    return is_small and top1 is not None and top1.n == IMAGENET_VAL


def _top1(model: Json) -> Estimate | None:
    return Estimate.of((model.get("metrics") or {}).get("top1"))


def _accuracy_pairs(evidence: Evidence) -> Iterator[tuple[Json, Json, Estimate]]:
    """Models of one shape without and with registers, evaluated on the same images."""
    known = [(model, top1) for model in evidence.models if (top1 := _top1(model)) is not None]
    for first, before in known:
        for second, after in known:
            same = before.n == after.n and _evaluated_on(first) == _evaluated_on(second)
            is_pair = first["num_registers"] == 0 < second["num_registers"]
            if same and is_pair and same_shape(first, second):
                yield first, second, unpaired_difference(before, after)


def _evaluated_on(model: Json) -> str | None:
    return model["metrics"].get("data")
