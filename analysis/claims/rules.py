"""By which rules is a claim judged? One function a claim, each on numbers of results.json alone.

A verdict needs an interval that excludes the null: wholly beyond it on the claimed side is
"supported", wholly beyond it on the other side "not supported", anything else "cannot tell". A
claim that two things are alike needs an interval wholly within (or wholly outside) a stated
margin. What is said of outliers needs outliers: a model in which `norms` finds none cannot show
what outliers do.

A rule returns what each model, pair of models, or set of training runs says; or a sentence on what
is missing. What is said of registers needs at least 3 training runs a side, and an interval over
runs: two runs of the same recipe differ by more than their images say.
"""

from collections.abc import Callable

from regvit_jax.analysis.claims.evidence import (
    Answer,
    Evidence,
    Finding,
    Findings,
    Json,
    Pair,
    images,
    in_percent,
    in_units,
    number_of,
)
from regvit_jax.analysis.claims.verdicts import (
    direction,
    undecided,
    unless_unlike,
    unless_without_outliers,
    within,
)
from regvit_jax.analysis.engine.recipes import place_of
from regvit_jax.analysis.statistics.bootstrap import Estimate

WARM_UP_EPOCHS = 5
"""The study's, where a checkpoint's recipe is not known."""
CONTROLS = {
    "normal_patch_beside": "a normal patch of the same images",
    "outliers_neighbour": "its neighbour",
    "outlier_in_block_0": "the same patch after block 0",
}
"""What an outlier patch must know more of the class than."""
RATIO_MARGIN = 0.05
"""Errors whose ratio is this near to 1 count as alike."""
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
    """Registers lower the share of outliers, by the cut of the model without."""

    def numbers(pair: Pair) -> tuple[str, ...]:
        largest = pair.differences.get("norm_extremes/largest_over_median")
        return (
            in_percent("outliers, by one cut", pair.differences.get(key), "points"),
            in_units("largest norm / median", largest, 2),
            "outliers: " + " → ".join(model["verdict"]["answer"] for model in pair[:2]),
        )

    key = "outliers_by_one_cut/share"
    return by_pair(evidence, "norms", key, _falls, numbers, needs_outliers=True)


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

    def numbers(pair: Pair) -> tuple[str, ...]:
        entropy = pair.differences.get("attention_last_block/CLS/entropy")
        return (
            in_percent(
                "CLS's attention on outliers, by one cut", pair.differences.get(key), "points"
            ),
            in_units("entropy of CLS's map", entropy, 4),
        )

    key = "attention_by_one_cut/share_of_patch_mass"
    return by_pair(evidence, "attention", key, _falls, numbers, needs_outliers=True)


def register_maps_part(evidence: Evidence) -> Findings:
    """During training after warm-up, the registers' maps become less alike."""
    found = []
    for pair in evidence.stage_pairs("attention"):
        change = pair.differences.get("registers/centred_cosine")
        answer, reason = _falls(change)
        numbers = (
            in_units("centred cosine of the registers' maps, later minus earlier", change, 4),
        )
        finding = Finding((pair.first, pair.second), images(pair.results), numbers, answer, reason)
        if not _after_warm_up(pair):
            finding = undecided(finding, "the earlier stage is still within the warm-up")
        found.append(finding)
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
        auc = number_of(model, "similarity/labels/group/auc")
        other = number_of(model, "similarity/labels/quantile_98/auc")
        low, high = 0.5 - AUC_MARGIN, 0.5 + AUC_MARGIN
        answer, reason = within(auc, low, high, "the AUC", f"{low:g} to {high:g}")
        numbers = (
            in_units("AUC of the outliers found", auc),
            in_units("AUC of the largest 2 %", other),
        )
        finding = Finding((model,), images(results), numbers, answer, reason)
        found.append(unless_without_outliers(evidence, finding))
    return found or _missing_plain(evidence, "similarity")


def detail_is_lost(evidence: Evidence) -> Findings:
    """Outliers are reconstructed worse than normal patches of the same pixel variance."""
    found = []
    for results, model in evidence.measured("reconstruction", _is_plain):
        matched = number_of(model, "matched/group/own_l2/ratio")
        one_probe = number_of(model, "matched/group/linear_l2/ratio")
        low, high = 1 - RATIO_MARGIN, 1 + RATIO_MARGIN
        answer, reason = within(matched, low, high, "the ratio", f"{low:g} to {high:g}")
        if answer == "supported":
            answer, reason = "not supported", f"{reason}: as much detail as normal patches"
        elif answer == "not supported" and matched is not None and matched.value > 1:
            answer = "supported"
        numbers = (
            in_units("pixel error, outliers / normal patches, a probe of their own each", matched),
            in_units("the same with one probe for both", one_probe),
        )
        finding = Finding((model,), images(results), numbers, answer, reason)
        found.append(unless_without_outliers(evidence, finding))
    return found or _missing_plain(evidence, "reconstruction")


def outliers_know_more(evidence: Evidence) -> Findings:
    """The class is told better by one outlier patch than by its controls, on the same images."""
    found = []
    for results, model in evidence.measured("probe", _is_plain):
        changes = {
            words: number_of(model, f"between_kinds/{kind}/outlier_patch/logistic/difference")
            for kind, words in CONTROLS.items()
        }
        told = [
            direction(change, 0.0, +1, f"the difference to {words}")
            for words, change in changes.items()
        ]
        answer, reason = told[0]
        weak = [why for each, why in told[1:] if each != "supported"]
        if answer == "supported" and weak:
            answer, reason = "cannot tell", f"{reason}, but {weak[0]}"
        numbers = tuple(
            in_percent(f"accuracy, outlier minus {words}", change, "points")
            for words, change in changes.items()
        )
        finding = Finding((model,), images(results), numbers, answer, reason)
        found.append(unless_without_outliers(evidence, finding))
    return found or _missing_plain(evidence, "probe")


def _falls(change: Estimate | None) -> tuple[Answer, str]:
    return direction(change, 0.0, -1, "the change")


def rises(change: Estimate | None) -> tuple[Answer, str]:
    """Whether a difference lies above zero, as claimed."""
    return direction(change, 0.0, +1, "the change")


def _after_warm_up(pair: Pair) -> bool:
    """Whether the earlier of two stages of a run lies behind the warm-up of the learning rate."""
    recipe = (pair.first.get("source") or {}).get("recipe")
    places = place_of(pair.first), place_of(pair.second)
    if None in places:
        return False
    if not recipe:
        return places[0] + 1 >= WARM_UP_EPOCHS  # type: ignore[operator]
    part = recipe["optim"]["warmup_epochs"] / recipe["epochs"]
    return places[0] >= part * places[1]  # type: ignore[operator]


def by_pair(
    evidence: Evidence,
    analysis: str,
    key: str,
    decide: Callable[[Estimate | None], tuple[Answer, str]],
    numbers: Callable[[Pair], tuple[str, ...]],
    needs_outliers: bool = False,
    keep: Callable[[Json], bool] = lambda _: True,
    data: str = "",
    warn: Callable[[Pair], str] = lambda _: "",
) -> Findings:
    """What training runs without and with registers say, and every pair of models.

    Args:
      evidence: The results.
      analysis: Whose.
      key: The difference that decides.
      decide: What it says.
      numbers: Of a pair, in words.
      needs_outliers: Whether models without registers must have some.
      keep: Which of them count.
      data: Of the command that is missing.
      warn: What else must be said of a pair.
    """
    pairs = [pair for pair in evidence.register_pairs(analysis) if keep(pair.first)]
    found = []
    for sides, results, over in evidence.over_runs(pairs, key):
        n = min((pair.differences[key].n for pair in pairs if key in pair.differences), default=0)
        change = Estimate(over.value, n, over.low, over.high)
        answer, reason = decide(change)
        models = (*sides.without, *sides.having)
        told = (in_percent(f"change over {sides.words}", change, "points"),)
        reason = f"{reason}, over {sides.words}"
        found.append(Finding(models, images(results), told, answer, reason, "runs"))
    for pair in pairs:
        answer, reason = decide(pair.differences.get(key))
        given = ((pair.first, pair.second), images(pair.results), numbers(pair), answer)
        found.append(unless_unlike(Finding(*given, reason + warn(pair), "pair")))
    if needs_outliers:
        found = [unless_without_outliers(evidence, finding) for finding in found]
    if found:
        return found
    if evidence.of(analysis):
        return (
            "These results compare no model without registers with one of the same shape that has "
            f"some. Run {evidence.command(analysis, 'WITHOUT WITH', data)}."
        )
    return f"Run {evidence.command(analysis, data=data)}."


def _lost(evidence: Evidence, keep: Callable[[Json], bool]) -> Findings:
    key = "lost/corloc"

    def numbers(pair: Pair) -> tuple[str, ...]:
        return (
            in_percent("CorLoc without", number_of(pair.first, key)),
            in_percent("with", number_of(pair.second, key)),
            in_percent("change", pair.differences.get(key), "points"),
        )

    runs = evidence.of("lost")
    if runs and all(number_of(m, key) is None for r in runs for m in r["models"]):
        command = evidence.command("lost", data="VOCdevkit")
        return f"No image had an annotated object. Run {command}."
    return by_pair(
        *(evidence, "lost", key, rises, numbers),
        keep=keep,
        data="VOCdevkit",
        warn=_below_baseline,
    )


def _below_baseline(pair: Pair) -> str:
    """A warning where a box that looks at nothing does better than both models."""
    corloc = [number_of(model, "lost/corloc") for model in (pair.first, pair.second)]
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
