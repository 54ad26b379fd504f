"""Does a checkpoint directory compute what its source computes, in the source's own code?"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regvit_jax import strict_json
from regvit_jax.convert.choices import Choices
from regvit_jax.convert.decision import Decision, decide
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.folder import open_folder
from regvit_jax.convert.importing import as_float32, hash_files, to_ours
from regvit_jax.convert.photographs import photographs
from regvit_jax.convert.references import Reference, build_reference
from regvit_jax.convert.torch_pixels import Preparation, preparation
from regvit_jax.convert.weights import Weights, read_weights
from regvit_jax.errors import InputError
from regvit_jax.whole import write_whole

if TYPE_CHECKING:
    from PIL import Image

    from regvit_jax.checkpoint import CheckpointInfo
    from regvit_jax.preprocess import Preprocess

ONLY_WEIGHTS = "compared names, shapes, values and the file's checksum; the network was not run"

# The bounds of the specification: float32 leaves them ten times as much room as it needs, and the
# wrong GELU or the wrong epsilon breaks them.
ATTENTION_BOUND = 5e-6
TOKENS_BOUND = 5e-5
PIXELS_BOUND = 1e-6
"""After normalisation by ImageNet's numbers; wider for a smaller standard deviation."""


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
    assumed: list[str]
    """What neither side knows: both were told the same guess."""

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)


def verify(
    directory: Path | str, source: Path | str, images_folder: Path | str | None = None
) -> Verification:
    """Compares a checkpoint directory with its source, and writes the result into the directory.

    Both sides start from the same photographs; each prepares them by its own transform.

    Args:
      directory: A checkpoint directory.
      source: The file, or folder, that it was imported from.
      images_folder: Photographs to compare on; some of scikit-image's unless given.

    Raises:
      InputError: If either is no checkpoint, or the directory comes from another file.
    """
    from regvit_jax.checkpoint import flatten, load, read_info, resolve

    directory, source = Path(directory), Path(source)
    info = read_info(directory)
    _check_origin(directory, info.source, source)
    family = _family(directory, info.source)
    weights = _read_again(source, info.source, family)
    model, params = load(directory)
    decision = decide(weights, str(source), family, _choices(info))
    match = decision.match
    again = to_ours(weights.tensors, match.dialect, match.config, str(source))
    rows = [_same_values(flatten(params), again)]
    known: tuple[str, ...] = ()
    try:
        stored = {k: v for k, v in weights.tensors.items() if k not in match.foreign}
        tensors = {name: as_float32(tensor.read()) for name, tensor in stored.items()}
        reference = build_reference(source, family, match.config, tensors)
        pictures, described = photographs(Path(images_folder) if images_folder else None)
        given = set(info.source.get("given", ())) - {"num_heads", "epsilon", "activation"}
        theirs = preparation(source, decision.preprocess, not given)
        pixel_rows = _pixel_rows(info.preprocess, theirs, pictures)
    except ImportError as error:
        method = f"{ONLY_WEIGHTS}, because {error.name} is not installed"
    else:
        rows += pixel_rows
        known = theirs.knows + (reference.knows if reference else ())
        if reference is None:
            method = (
                f"{ONLY_WEIGHTS}, because no library is known here that has the family {family}; "
            )
            method += f"compared pixels with {theirs.title}, on {described}"
        else:
            method = f"Ran both networks in float32, on {described}; the other side is "
            method += f"{reference.title} after {theirs.title}"
            ours, other = _inputs(info, decision, reference, theirs, pictures)
            rows += _compare(_our_tensors(model, params, ours), reference.run(other))
    result = Verification(method, rows, _shared(info, decision, known))
    _write(resolve(directory), result)
    return result


def to_table(result: Verification) -> str:
    """The comparisons for a person, one a line, and what they mean."""
    lines = [f"{'tensor':28} {'max difference':>14} {'bound':>9}  pass"]
    lines += [
        f"{row.tensor:28} {row.difference:14.1e} {row.bound:9.1e}  {'yes' if row.passed else 'NO'}"
        for row in result.rows
    ]
    return "\n".join([*lines, f"{result.method}.", _verdict(result), ""])


def _verdict(result: Verification) -> str:
    if not result.passed:
        return "Not equal."
    if not result.assumed:
        return "Equal."
    return (
        f"Equal, given what was assumed: {', '.join(result.assumed)}. Both sides were told so, "
        "because no file says it."
    )


def _family(directory: Path, recorded: Mapping[str, Any]) -> str:
    family = recorded.get("family")
    if not isinstance(family, str) or family not in DIALECTS:
        raise InputError(
            f"{directory} records the family {str(family)[:60]}, expected one of "
            f"{', '.join(DIALECTS)}. Import its source again."
        )
    return family


def _read_again(source: Path, recorded: Mapping[str, Any], family: str) -> Weights:
    """The same network of the file as on import."""
    if isinstance(recorded.get("prefix"), str):
        return read_weights(source, family=family, prefix=recorded["prefix"])
    return read_weights(source, recorded.get("weights") in ("model_ema", "state_dict_ema"))


def _choices(info: "CheckpointInfo") -> Choices:
    """What the user said on import, as it was kept."""
    given = info.source.get("given", {"num_heads": info.model.num_heads})
    if not isinstance(given, Mapping):
        raise InputError(f"source: given is a {type(given).__name__}, expected an object.")
    return strict_json.build(Choices, given, "source: given")


def _shared(info: "CheckpointInfo", decision: Decision, known: Sequence[str]) -> list[str]:
    """What was assumed and the other side had to be told; in older directories also the heads."""
    texts = [item.text for item in decision.assumed if item.what not in known]
    return texts if "given" in info.source else [f"{info.model.num_heads} heads", *texts]


def _check_origin(directory: Path, recorded: Mapping[str, Any], source: Path) -> None:
    if not source.exists():
        raise InputError(f"There is no file {source}.")
    files = open_folder(source).files if source.is_dir() else (source,)
    hashes = hash_files(files, source.is_dir())
    if recorded.get("sha256") != hashes:
        raise InputError(
            f"{directory} was not imported from this file: it records the SHA-256 "
            f"{recorded.get('sha256')} of {recorded.get('file')}, the file has {hashes}."
        )


def _same_values(params: Mapping[str, np.ndarray], again: Mapping[str, np.ndarray]) -> Row:
    """Whether a second import gives the same parameters; any missing one counts as infinite."""
    if {k: v.shape for k, v in again.items()} != {k: v.shape for k, v in params.items()}:
        return Row("parameters", float("inf"), 0.0)
    difference = max(float(np.abs(params[name] - again[name]).max()) for name in again)
    return Row("parameters", difference, 0.0)


def _pixel_rows(
    preprocess: "Preprocess", theirs: Preparation, pictures: Sequence["Image.Image"]
) -> list[Row]:
    """Photographs as both sides see them: as numbers of 8 bits, and normalised."""
    pixels = [preprocess.pixels(picture) for picture in pictures]
    found = [theirs.prepare(picture) for picture in pictures]
    if any(a.shape != b.shape for a, b in zip(pixels, found, strict=True)):
        return [Row("pixels", float("inf"), 0.0)]
    ours, other = np.stack(pixels), np.stack(found)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    levels = np.rint((other.astype(np.float64) * std + mean) * 255)
    normalised = np.asarray(preprocess.normalise(ours))
    bound = PIXELS_BOUND * max(1.0, 0.2 / float(std.min()))
    return [
        Row("pixels (of 255)", float(np.abs(levels - ours).max()), 0.0),
        Row("pixels, normalised", float(np.abs(normalised - other).max()), bound),
    ]


def _inputs(
    info: "CheckpointInfo",
    decision: Decision,
    reference: Reference,
    theirs: Preparation,
    pictures: Sequence["Image.Image"],
) -> tuple[np.ndarray, np.ndarray]:
    """Both networks' inputs, each by its own side's preparation.

    A network that cannot resample its positions gets images of the size they were learned for.
    """
    ours = info.preprocess
    side = decision.match.config.image_size
    if not reference.is_resampling and (ours.height, ours.width) != (side, side):
        ours = _resized(ours, side)
        theirs = preparation(Path(), _resized(decision.preprocess, side), is_own=False)
    pixels = np.stack([ours.pixels(picture) for picture in pictures])
    return np.asarray(ours.normalise(pixels)), np.stack([theirs.prepare(p) for p in pictures])


def _resized(preprocess: "Preprocess", side: int) -> "Preprocess":
    """The same preparation for square images of another size."""
    short = max(side, preprocess.short_side)
    return dataclasses.replace(preprocess, height=side, width=side, short_side=short)


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
    values = strict_json.read_json(path)
    values["metrics"]["verification"] = {
        "passed": result.passed,
        "method": result.method,
        "assumed": result.assumed,
        "rows": [{**row._asdict(), "passed": row.passed} for row in result.rows],
    }
    write_whole(path, json.dumps(values, indent=2) + "\n")
