"""How do the fits of one kind of token outlive a stop? In a file of arrays, written when done."""

from pathlib import Path

import numpy as np

from regvit_jax.analysis.questions.probe.probe import Classified, KindResult
from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz
from regvit_jax.whole import appearing

_METHODS = ("logistic", "neighbours")


def save_kind(path: Path, result: KindResult) -> None:
    """Writes the fits of a kind.

    Keys: used (n), num_train, and for each method METHOD/is_right (draws, n), METHOD/choice
    (draws), METHOD/tried (draws, s) and, of the neighbours, METHOD/by_choice (draws, n, s).
    """
    arrays = {"used": result.used, "num_train": np.array(result.num_train)}
    for method in _METHODS:
        fits: list[Classified] = getattr(result, method)
        for name in Classified._fields:
            values = [getattr(fit, name) for fit in fits]
            if values and values[0] is not None:
                arrays[f"{method}/{name}"] = np.stack(values)
    with appearing(path, replace=True) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_kind(path: Path, kind: str) -> KindResult | None:
    """What `save_kind` wrote; None where that is not there, or not whole."""
    try:
        arrays = read_npz(path)
        logistic, neighbours = (_fits(arrays, method) for method in _METHODS)
        return KindResult(kind, int(arrays["num_train"]), arrays["used"], logistic, neighbours)
    except (OSError, InputError, KeyError):
        return None


def _fits(arrays: dict[str, np.ndarray], method: str) -> list[Classified]:
    columns = [arrays.get(f"{method}/{name}") for name in Classified._fields]
    right, choice, tried, by_choice = columns
    if right is None or choice is None or tried is None:
        return []
    return [
        Classified(
            right[i], float(choice[i]), tried[i], None if by_choice is None else by_choice[i]
        )
        for i in range(len(choice))
    ]
