"""Which numbers stand beside claims that no rule can judge?"""

from regvit_jax.analysis.claims.evidence import Evidence, in_percent, in_units
from regvit_jax.analysis.comparing.headlines import find
from regvit_jax.analysis.statistics.bootstrap import Estimate


def probe_accuracies(evidence: Evidence) -> list[str]:
    """Accuracy by kind of token, with its sd over the draws."""
    shown = []
    for _, model in evidence.measured("probe"):
        for kind in model["kinds"]:
            fits = kind.get("logistic") or {}
            name = f"{model['label']}, {kind['kind'].replace('cls', 'CLS').replace('_', ' ')}"
            if kind["kind"] in ("cls", "normal_patch", "outlier_patch", "mean_register") and fits:
                sd = fits.get("sd_over_draws")
                text = in_percent(name, Estimate.of(fits.get("accuracy")))
                shown.append(text if sd is None else f"{text}, sd over draws {100 * sd:.2f}")
    return shown


def low_tails(evidence: Evidence) -> list[str]:
    """The lower tail of the norms."""
    path = ("low_tail", "share_below_third")
    return [
        in_percent(f"{m['label']}, patches below a third of the median", Estimate.of(find(m, path)))
        for _, m in evidence.measured("norms")
    ]


def register_map_cosines(evidence: Evidence) -> list[str]:
    """How alike the registers' maps are, as the study measures it."""
    return _map_cosines(evidence, "cosine", "cosine of the registers' maps")


def centred_cosines(evidence: Evidence) -> list[str]:
    """How alike the registers' maps are beyond what all attention shares."""
    return _map_cosines(evidence, "centred_cosine", "centred cosine of the registers' maps")


def accuracies(evidence: Evidence) -> list[str]:
    """Accuracy of every model's head."""
    known = [
        (m["label"], Estimate.of((m.get("metrics") or {}).get("top1"))) for m in evidence.models
    ]
    return [in_percent(f"{label}, top-1", top1) for label, top1 in known if top1 is not None]


def training_hours(evidence: Evidence) -> list[str]:
    """Hours of training."""
    return [f"{label}: {hours:.2f} h of training" for label, hours in evidence.hours.items()]


def _map_cosines(evidence: Evidence, key: str, words: str) -> list[str]:
    return [
        in_units(
            f"{m['label']}, {words}", Estimate.of(find(m, ("layers", -1, "register_maps", key)))
        )
        for _, m in evidence.measured("attention", lambda m: m["num_registers"] > 1)
    ]
