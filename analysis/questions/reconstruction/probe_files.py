"""In which file is a non-linear probe? What `--probe` names and the results hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regvit_jax.analysis.questions.reconstruction.options import ReconstructionOptions
from regvit_jax.analysis.questions.reconstruction.probes import LAYERS, Mlp
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz
from regvit_jax.strict_json import parse_json

PROBE_EXPECTED = "Expected what `regvit-convert import` makes of the study's probe."


def probe_arrays(probe: Mlp, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a non-linear probe's `.npz` file.

    Keys: fc1/kernel (in, hidden), fc1/bias, fc2/kernel (hidden, out), fc2/bias, float32, and
    "info", a JSON text that says where the probe comes from.
    """
    arrays = {f"{layer}/{name}": probe[layer][name] for layer in LAYERS for name in probe[layer]}
    return arrays | {"info": np.array(json.dumps(dict(info)))}


def save_probe(path: Path, probe: Mlp, info: Mapping[str, Any]) -> None:
    """Writes a non-linear probe, with the arrays of `probe_arrays`."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **probe_arrays(probe, info))


def load_probe(path: Path) -> tuple[Mlp, dict[str, Any]]:
    """The probe that `save_probe` or `regvit-convert import` wrote, and its info.

    Raises:
      InputError: If the file is absent, damaged or no probe.
    """
    try:
        arrays = read_npz(path)
        info = parse_json(str(arrays.pop("info", "{}")), f"{path}: info")
    except FileNotFoundError:
        raise InputError(f"There is no probe {path}. {PROBE_EXPECTED}") from None
    except InputError as error:
        raise InputError(f"{path} is no probe, or damaged ({error}) {PROBE_EXPECTED}") from error
    names = {f"{layer}/{name}" for layer in LAYERS for name in ("kernel", "bias")}
    if arrays.keys() != names:
        raise InputError(f"{path} holds {sorted(arrays)}, not {sorted(names)}. {PROBE_EXPECTED}")
    probe = {
        layer: {name: arrays[f"{layer}/{name}"] for name in ("kernel", "bias")} for layer in LAYERS
    }
    _check_probe(path, probe)
    return probe, info


def given_probe(
    options: ReconstructionOptions, config: ViTConfig
) -> tuple[Mlp, dict[str, Any]] | None:
    """The probe that the options name, and its info.

    Raises:
      InputError: If it does not fit the model.
    """
    if options.probe is None:
        return None
    probe, info = load_probe(options.probe)
    found = (probe["fc1"]["kernel"].shape[0], probe["fc2"]["kernel"].shape[1])
    expected = (config.embed_dim, config.patch_size**2 * 3)
    if found != expected:
        raise InputError(
            f"{options.probe} maps {found[0]} features to {found[1]} values; the model has "
            f"{expected[0]} features and {expected[1]} values a patch."
        )
    return probe, info


def _check_probe(path: Path, probe: Mlp) -> None:
    shapes = {k: [probe[k][name].shape for name in ("kernel", "bias")] for k in LAYERS}
    first, second = shapes["fc1"], shapes["fc2"]
    fits = len(first[0]) == len(second[0]) == 2 and first[0][1] == second[0][0]
    if not fits or any(bias != kernel[1:] for kernel, bias in shapes.values()):
        raise InputError(
            f"{path} is no probe: its layers do not fit one another ({shapes}). {PROBE_EXPECTED}"
        )
    if any(layer[name].dtype != np.float32 for layer in probe.values() for name in layer):
        raise InputError(f"{path} is no probe: expected float32 arrays. {PROBE_EXPECTED}")
