"""How does the study's reconstruction probe become arrays that `regvit-analyze` reads?

The study saved two dense layers, which map a token to the pixels of its patch (`protocols.md` 6.1);
they are no model, and become one `.npz` file: `fc1/kernel`, `fc1/bias`, `fc2/kernel`, `fc2/bias`
in float32, kernels (in, out), and `info`, a JSON text that says where they come from.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regvit_jax.convert.importing import as_float32, hash_files
from regvit_jax.convert.weights import Weights
from regvit_jax.errors import InputError
from regvit_jax.whole import appearing

PROBE_TENSORS = frozenset({"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"})
"""What the study saved of the network that reconstructs patches from tokens."""
SUFFIX = ".npz"


def is_probe(weights: Weights) -> bool:
    """Whether these tensors are the study's reconstruction probe."""
    return weights.tensors.keys() == PROBE_TENSORS


def import_probe(weights: Weights, source: Path, target: Path) -> tuple[int, int, int]:
    """Writes the probe as an `.npz` file; its input, hidden and output widths.

    Raises:
      InputError: If the target exists or is no `.npz`, the layers do not fit, or hold values that
        are not finite.
    """
    if target.suffix != SUFFIX:
        raise InputError(
            f"{source} is the study's reconstruction probe, which becomes one file. Name it: "
            f"`regvit-convert import {source} {target.with_suffix(SUFFIX)}`."
        )
    if target.exists():
        raise InputError(f"{target} exists already. Choose another name, or remove it first.")
    _check(weights, source)
    tensors = {name: as_float32(weights.tensors[name].read()) for name in sorted(PROBE_TENSORS)}
    if broken := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
        raise InputError(f"{source} holds values that are not finite: {', '.join(broken)}.")
    arrays = dict(_to_ours(tensors))
    info = weights.about | {
        "kind": "reconstruction probe of the study",
        "file": source.name,
        "sha256": hash_files(weights.files, source.is_dir()),
    }
    with appearing(target) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, info=np.array(json.dumps(info)))
    (inputs, hidden), outputs = arrays["fc1/kernel"].shape, arrays["fc2/kernel"].shape[1]
    return inputs, hidden, outputs


def _check(weights: Weights, source: Path) -> None:
    """Raises unless the second layer reads what the first one writes."""
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    first, second = shapes["fc1.weight"], shapes["fc2.weight"]
    fits = len(first) == len(second) == 2 and second[1] == first[0]
    if not fits or shapes["fc1.bias"] != first[:1] or shapes["fc2.bias"] != second[:1]:
        found = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
        raise InputError(
            f"{source} is no reconstruction probe: expected fc1.weight (hidden, in), fc2.weight "
            f"(out, hidden) and their biases, found {found}."
        )


def _to_ours(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for layer in ("fc1", "fc2"):
        yield f"{layer}/kernel", np.ascontiguousarray(tensors[f"{layer}.weight"].T)
        yield f"{layer}/bias", tensors[f"{layer}.bias"]
