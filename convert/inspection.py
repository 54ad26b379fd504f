"""What is this checkpoint? One answer for directories, training runs and files of weights."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regvit_jax.config import ViTConfig, variant_name
from regvit_jax.convert.choices import Choices
from regvit_jax.convert.decision import decide, tell
from regvit_jax.convert.folder import holds_weights
from regvit_jax.convert.importing import Imported
from regvit_jax.convert.probe import is_probe
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.rules import our_shapes
from regvit_jax.convert.weights import Weights, read_weights
from regvit_jax.shipped import located

Report = dict[str, Any]
"""Facts by name, in the order in which they are read."""


def inspect(path: Path) -> Report:
    """What a checkpoint is, whatever kind it is.

    Raises:
      InputError: If it is no checkpoint, or a damaged one.
    """
    return _inspect_directory(path) if _is_ours(located(path)) else _inspect_weights(path)


def to_json(report: Report) -> str:
    """The report for a program."""
    return json.dumps(report, indent=2) + "\n"


def to_table(report: Report) -> str:
    """The report for a person: one fact a line, groups of facts indented."""
    return "".join(f"{line}\n" for line in _lines(report))


def describe_model(config: ViTConfig) -> str:
    """A model in a few words."""
    registers = f"{config.num_registers} register{'' if config.num_registers == 1 else 's'}"
    return (
        f"{variant_name(config)}, {registers}, {num_parameters(config):,} parameters, "
        f"{config.image_size} px"
    )


def num_parameters(config: ViTConfig) -> int:
    """How many numbers a model learns."""
    return sum(map(math.prod, our_shapes(config).values()))


def tell_import(imported: Imported, source: Path) -> str:
    """What else a person should know of an import: one sentence for each kind of thing."""
    decision, weights = imported.decision, imported.weights
    parts = []
    if imported.dropped:
        parts.append(f" Left out: {', '.join(imported.dropped)}.")
    if weights.passed_over:
        others = ", ".join(f"`{prefix}`" for prefix in weights.passed_over)
        parts.append(
            f" Took `{weights.prefix}`; such a network lies under {others} too "
            "(--weights, --prefix)."
        )
    if decision.said:
        parts.append(f"\n{_tell_said(decision.said)}")
    if line := tell(decision.assumed):
        parts.append(f"\n{line}")
    if source.is_file() and (source.parent / "config.json").is_file():
        parts.append(
            f"\nThe config.json beside {source.name} was not read. If it belongs to these weights, "
            f"import the folder {source.parent}."
        )
    return "".join(parts)


def _tell_said(said: Mapping[str, str]) -> str:
    """Which fields of which files were used, in one line."""
    files: dict[str, list[str]] = {}
    for where in dict.fromkeys(said.values()):
        file, _, field = where.partition(": ")
        files.setdefault(file, []).append(field.rpartition(".")[2])
    return "; ".join(f"Read from {file}: {', '.join(names)}" for file, names in files.items()) + "."


def _inspect_directory(path: Path) -> Report:
    from regvit_jax.checkpoint import read_info, resolve

    info, directory = read_info(path), resolve(path)
    is_run = directory != located(path).resolve()
    return {
        "path": str(path),
        "kind": "training run" if is_run else "checkpoint directory",
        **({"checkpoint": str(directory)} if is_run else {}),
        **_model(info.model),
        "num_class_names": len(info.class_names),
        "preprocess": dataclasses.asdict(info.preprocess),
        "source": dict(info.source),
        "metrics": dict(info.metrics),
    }


def _is_ours(path: Path) -> bool:
    """Whether a path is a folder, and not one of another program's weights."""
    return path.is_dir() and not holds_weights(path)


def _inspect_weights(path: Path) -> Report:
    weights = read_weights(path)
    if is_probe(weights):
        return _probe(path, weights)
    match = recognise(weights.tensors)
    match.check(str(path), heads=False)
    assumed: list[str] | str = "nothing can be before --num-heads is given"
    model = _model(match.config)
    if match.heads_known or "num_heads" in weights.facts:
        decision = decide(weights, str(path), None, Choices())
        match, assumed = decision.match, [item.text for item in decision.assumed]
        model = _model(match.config) | {"preprocess": dataclasses.asdict(decision.preprocess)}
    else:
        model["num_heads"] = None
    return {
        "path": str(path),
        "kind": weights.format,
        "family": match.family,
        "family_title": match.dialect.title,
        **model,
        "dtype": ", ".join(sorted({tensor.dtype for tensor in weights.tensors.values()})),
        "prefix": weights.prefix,
        "left_out": [*match.dropped, *weights.left_out],
        "said": {name: fact.where for name, fact in weights.facts.items()},
        "assumed": assumed,
        "saved_with_it": weights.about,
    }


def _probe(path: Path, weights: Weights) -> Report:
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    return {
        "path": str(path),
        "kind": f"{weights.format}: the study's reconstruction probe, two dense layers",
        "tensors": {name: " x ".join(map(str, shape)) for name, shape in shapes.items()},
        "num_parameters": sum(map(math.prod, shapes.values())),
        "saved_with_it": weights.about,
    }


def _model(config: ViTConfig) -> Report:
    return {
        "variant": variant_name(config),
        "num_parameters": num_parameters(config),
        **dataclasses.asdict(config),
    }


def _lines(report: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    width = max((len(name) for name in report), default=0)
    for name, value in report.items():
        label = f"{indent}{name.replace('_', ' '):{width}}"
        if isinstance(value, Mapping):
            lines += [label.rstrip(), *_lines(value, indent + "  ")] if value else []
        else:
            lines.append(f"{label}  {_text(value)}")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) and "text" in item for item in value):
            return ", ".join(str(item["text"]) for item in value)
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)
