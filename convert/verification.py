"""Does a checkpoint directory compute what its source computes, in the source's own code?"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax.convert.importing import hash_files, to_ours
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.references import Reference, build_reference
from regvit_jax.convert.weights import Weights, read_weights
from regvit_jax.errors import InputError

if TYPE_CHECKING:
    from regvit_jax.checkpoint import CheckpointInfo

NUM_IMAGES = 4
"""Images that both sides see; every tensor of every block is compared on all of them."""

# The bounds of the specification: float32 leaves them ten times as much room as it needs, and the
# wrong GELU or the wrong epsilon breaks them.
ATTENTION_BOUND = 5e-6
TOKENS_BOUND = 5e-5


class Row(NamedTuple):
    """One comparison."""

    tensor: str
    difference: float
    """The largest absolute one."""
    bound: float

    @property
    def passed(self) -> bool:
        # Not a number passes no comparison.
        return self.difference <= self.bound


class Verification(NamedTuple):
    """What was compared, and how it came out."""

    method: str
    rows: list[Row]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)


def verify(directory: Path, source: Path, images_folder: Path | None = None) -> Verification:
    """Compares a checkpoint directory with its source, and writes the result into the directory.

    Args:
      directory: A checkpoint directory.
      source: The file, or folder, that it was imported from.
      images_folder: Photographs to compare on; random pixels unless given.

    Raises:
      InputError: If either is no checkpoint, or the directory comes from another file.
    """
    from regvit_jax.checkpoint import flatten, load, read_info, resolve

    info = read_info(directory)
    wrapper = info.source.get("weights")
    weights = read_weights(source, model_ema=wrapper in ("model_ema", "state_dict_ema"))
    _check_origin(directory, info.source, weights)
    model, params = load(directory)
    rows = [_same_values(flatten(params), weights, info)]
    images, described = _images(info, images_folder)
    method, reference = _reference(source, info, wrapper)
    if reference is not None:
        method += f", on {described}"
        rows += _compare(_our_tensors(model, params, images), reference(images))
    result = Verification(method, rows)
    _write(resolve(directory), result)
    return result


def to_table(result: Verification) -> str:
    """The comparisons for a person, one a line."""
    lines = [f"{'tensor':28} {'max difference':>14} {'bound':>9}  pass"]
    lines += [
        f"{row.tensor:28} {row.difference:14.1e} {row.bound:9.1e}  {'yes' if row.passed else 'NO'}"
        for row in result.rows
    ]
    return "\n".join([*lines, f"{result.method}.", ""])


def _check_origin(directory: Path, recorded: Mapping[str, Any], weights: Weights) -> None:
    hashes = hash_files(weights)
    if recorded.get("sha256") != hashes:
        raise InputError(
            f"{directory} was not imported from this file: it records the SHA-256 "
            f"{recorded.get('sha256')} of {recorded.get('file')}, the file has {hashes}."
        )


def _same_values(params: Mapping[str, np.ndarray], weights: Weights, info: "CheckpointInfo") -> Row:
    """Whether a second import gives the same parameters; any missing one counts as infinite."""
    known = weights.known | {"num_heads": info.model.num_heads}
    match = recognise(weights.tensors, info.source["family"], known)
    match.check(str(weights.files[0]))
    again = to_ours(weights.tensors, match.dialect, match.config, str(weights.files[0]))
    if {k: v.shape for k, v in again.items()} != {k: v.shape for k, v in params.items()}:
        return Row("parameters", float("inf"), 0.0)
    difference = max(float(np.abs(params[name] - again[name]).max()) for name in again)
    return Row("parameters", difference, 0.0)


def _reference(
    source: Path, info: "CheckpointInfo", wrapper: str | None
) -> tuple[str, Reference | None]:
    only_weights = "compared names, shapes, values and the file's checksum; the network was not run"
    family = info.source["family"]
    try:
        reference = build_reference(source, family, info.model, wrapper)
    except ImportError as error:
        return f"{only_weights}, because {error.name} is not installed", None
    if reference is None:
        return f"{only_weights}, because no library has the family {family}", None
    return "Ran both networks in float32", reference


def _images(
    info: "CheckpointInfo", folder: Path | None
) -> tuple[Float[np.ndarray, "b h w 3"], str]:
    """Normalised images of the size that `pos_embed` was learned for, and what they are."""
    from regvit_jax.data import Batches, open_source

    side = info.model.image_size
    preprocess = dataclasses.replace(
        info.preprocess, height=side, width=side, short_side=max(side, info.preprocess.short_side)
    )
    if folder is None:
        shape = (NUM_IMAGES, side, side, 3)
        noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return noise, f"{NUM_IMAGES} images of random pixels (--images takes photographs)"
    source = open_source(str(folder))
    # Spread over the folder, so that they do not all show the same class.
    indices = np.unique(np.linspace(0, len(source) - 1, NUM_IMAGES).astype(int))
    (batch,) = Batches(source, preprocess, len(indices), indices)
    return np.asarray(preprocess.normalise(batch.pixels)), f"{len(indices)} images of {folder}"


def _our_tensors(model: Any, params: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    import jax

    @jax.jit
    def run(params: Any, images: Any) -> dict[str, Any]:
        trace = model.apply({"params": params}, images, method="trace")
        blocks = list(enumerate(trace.blocks))
        return {
            **{f"attention of block {i}": block.attn for i, block in blocks},
            **{f"tokens after block {i}": block.tokens for i, block in blocks},
            "tokens after the last norm": trace.normed,
            "logits": trace.logits,
        }

    return {
        name: np.asarray(value) for name, value in run(params, jax.numpy.asarray(images)).items()
    }


def _compare(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> list[Row]:
    rows = []
    for name, expected in theirs.items():
        is_attention = name.startswith("attention")
        bound = ATTENTION_BOUND if is_attention else TOKENS_BOUND * max(1.0, float(expected.std()))
        rows.append(Row(name, float(np.abs(ours[name] - expected).max()), bound))
    return sorted(rows, key=lambda row: row.tensor.rstrip("0123456789"))


def _write(directory: Path, result: Verification) -> None:
    """Adds the result to the metrics of the directory's `config.json`."""
    from regvit_jax.checkpoint import CONFIG_FILE

    path = directory / CONFIG_FILE
    values = json.loads(path.read_text())
    values["metrics"]["verification"] = {
        "passed": result.passed,
        "method": result.method,
        "rows": [{**row._asdict(), "passed": row.passed} for row in result.rows],
    }
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(path)
