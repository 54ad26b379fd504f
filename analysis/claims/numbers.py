"""Which numbers stand beside claims that no rule can judge?"""

from regvit_jax.analysis.claims.evidence import Evidence, in_percent, in_units, number_of
from regvit_jax.analysis.statistics.bootstrap import Estimate


def probe_accuracies(evidence: Evidence) -> list[str]:
    """Accuracy by kind of token, with its sd over the draws."""
    shown = []
    for _, model in evidence.measured("probe"):
        for kind in ("cls", "normal_patch", "outlier_patch", "mean_register"):
            place = f"probe/{kind}/logistic"
            if (accuracy := number_of(model, f"{place}/accuracy")) is None:
                continue
            name = f"{model['label']}, {kind.replace('cls', 'CLS').replace('_', ' ')}"
            sd = number_of(model, f"{place}/sd_over_draws")
            spread = "" if sd is None else f", sd over draws {100 * sd.value:.2f}"
            shown.append(in_percent(name, accuracy) + spread)
    return shown


def low_tails(evidence: Evidence) -> list[str]:
    """The lower tail of the norms."""
    return [
        in_percent(
            f"{model['label']}, patches below a third of the median",
            number_of(model, "norm_extremes/share_below_third"),
        )
        for _, model in evidence.measured("norms")
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


def _map_cosines(evidence: Evidence, name: str, words: str) -> list[str]:
    return [
        in_units(f"{model['label']}, {words}", number_of(model, f"registers/{name}"))
        for _, model in evidence.measured("attention", lambda m: m["num_registers"] > 1)
    ]
