"""Which files of a folder are the model, and what do those beside them say?"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regvit_jax import strict_json
from regvit_jax.convert import hugging_face_facts, open_clip_facts, timm_facts
from regvit_jax.convert.facts import Facts
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.unknown import EXPECTED
from regvit_jax.errors import InputError

_KINDS = {
    "model.safetensors": "*.safetensors",
    "pytorch_model.bin": "pytorch_model*.bin",
}
"""A model's own file, and what may be one of its kind; in the order of preference."""
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_OTHERS = (*_OPEN_CLIP, *_ADAPTERS)
"""Files of other programs that hubs keep beside a model."""
_SHARD = re.compile(r".*-(\d+)-of-(\d+)\.\w+")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of one model."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()
    """Files that are no part of it, in words."""
    facts: Facts = dataclasses.field(default_factory=dict)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    index: Path | None = None
    weight_map: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """In which file each tensor lies, says the index."""

    def check(self, found: Mapping[Path, Mapping[str, Stored]]) -> None:
        """Does nothing if the files hold what the index says.

        Raises:
          InputError: Names the first tensor that lies elsewhere.
        """
        if self.index is None:
            return
        for name, place in self.weight_map.items():
            if name not in found[self.index.with_name(place)]:
                raise InputError(
                    f"{self.index} says that {name} lies in {place}, which does not hold it: index "
                    "and files are of different models. Download all of them again."
                )
        for file, tensors in found.items():
            if extra := [n for n in tensors if self.weight_map.get(n) != file.name]:
                raise InputError(
                    f"{file} holds {extra[0]}, which {self.index.name} does not say: index and "
                    "files are of different models. Download all of them again."
                )


def holds_weights(folder: Path) -> bool:
    """Whether a folder has files that may be weights of another program."""
    patterns = (*_KINDS.values(), *_OPEN_CLIP, "*.index.json")
    return any(any(folder.glob(pattern)) for pattern in patterns)


def open_folder(folder: Path) -> Listing:
    """The model in a folder of transformers, timm or OpenCLIP, in one file or in shards.

    Raises:
      InputError: If it has no weights, too many, or not all of them; names the files.
    """
    for own, pattern in _KINDS.items():
        found = sorted(path for path in folder.glob(pattern) if path.name not in _OTHERS)
        index = folder / f"{own}.index.json"
        if found or index.exists():
            listing = _of_kind(folder, own, found, index)
            facts, about = _said(folder)
            return dataclasses.replace(
                listing, facts=facts, about=about, left_out=_left_out(folder, listing)
            )
    for name in _OPEN_CLIP:
        if (folder / name).exists():
            path = folder / open_clip_facts.FILE
            config = strict_json.read_json(path) if path.exists() else {}
            return Listing((folder / name,), facts=open_clip_facts.folder_facts(config, str(path)))
    raise InputError(f"{folder} is a folder without weights{_hint(folder)}. {EXPECTED}.")


def _of_kind(folder: Path, own: str, found: list[Path], index: Path) -> Listing:
    weight_map = _weight_map(index) if index.exists() else {}
    listed = [folder / name for name in sorted(set(weight_map.values()))]
    if folder / own in found:
        _refuse_others(folder, own, [p for p in found if p not in (folder / own, *listed)])
        return Listing((folder / own,))
    if weight_map:
        if missing := [path.name for path in listed if not path.exists()]:
            raise InputError(
                f"{folder} lacks {', '.join(missing[:5])}, which {index.name} lists: the download "
                "is incomplete. Download what is missing."
            )
        _refuse_others(folder, index.name, [path for path in found if path not in listed])
        return Listing(tuple(listed), index=index, weight_map=weight_map)
    if len(found) > 1:
        _check_shards(folder, found)
    return Listing(tuple(found))


def _weight_map(index: Path) -> dict[str, str]:
    """Which file holds which tensor, by an index."""
    values = strict_json.read_json(index).get("weight_map")
    label = f"{index}: weight_map"
    listed = strict_json.expect(values, dict, label)
    if not listed:
        raise InputError(f"{label} is empty, expected the file of every tensor.")
    for name, place in listed.items():
        if (
            strict_json.expect(place, str, label) != Path(place).name
            or "\0" in place
            or not 0 < len(place) < 256
        ):
            raise InputError(
                f"{label} places {name[:80]} in {place[:80]!r}, which is no file of the folder."
            )
    return listed


def _refuse_others(folder: Path, own: str, others: list[Path]) -> None:
    if others:
        names = ", ".join(path.name for path in others[:5])
        raise InputError(
            f"{folder} holds {names} beside {own}, which does not list it: two models in one "
            "folder. Move what is no part of the model elsewhere, or name the file that you mean."
        )


def _check_shards(folder: Path, found: list[Path]) -> None:
    """Does nothing if files without an index are all the shards of one model."""
    names = [_SHARD.fullmatch(path.name) for path in found]
    totals = {match[2] for match in names if match}
    if None in names or len(totals) != 1:
        raise InputError(
            f"{folder} holds more than one file of weights: "
            f"{', '.join(path.name for path in found[:5])}. Name the one that you mean."
        )
    total = int(totals.pop())
    present = {int(match[1]) for match in names if match}
    if total != len(found) or present != set(range(1, total + 1)):
        raise InputError(
            f"{folder} holds {len(found)} of {total} shards (found {found[0].name}): the download "
            "is incomplete. Download what is missing."
        )


def _left_out(folder: Path, listing: Listing) -> tuple[str, ...]:
    names = [
        f"{own} and its like"
        for own, pattern in _KINDS.items()
        if _beside(folder, listing, pattern)
    ]
    return (*names, *(name for name in _OTHERS if (folder / name).exists()))


def _beside(folder: Path, listing: Listing, pattern: str) -> bool:
    found = [path for path in folder.glob(pattern) if path.name not in _OTHERS]
    return bool(found) and not set(found) & set(listing.files)


def _said(folder: Path) -> tuple[Facts, dict[str, Any]]:
    """What the configurations in a folder say."""
    path, facts, about = folder / "config.json", {}, {}
    if path.exists():
        config = strict_json.read_json(path)
        about = {
            name: config[name]
            for name in ("model_type", "architecture")
            if isinstance(config.get(name), str)
        }
        reader = (
            timm_facts.folder_facts
            if timm_facts.is_timm(config)
            else hugging_face_facts.model_facts
        )
        facts = reader(config, str(path))
    if found := pixels_config(folder):
        facts |= hugging_face_facts.pixel_facts(found[1], found[0])
    return facts, about


def pixels_config(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """What a folder says of preprocessing for transformers, and where; None if it says nothing."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        return str(path), strict_json.read_json(path)
    path = folder / "processor_config.json"
    values = strict_json.read_json(path) if path.exists() else {}
    if values.get("image_processor") is None:
        return None
    label = f"{path}: image_processor"
    return label, strict_json.expect(values["image_processor"], dict, label)


def _hint(folder: Path) -> str:
    """What may have been meant by a folder without weights."""
    if (folder / "snapshots").is_dir():
        inside = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
        named = inside[0] if inside else folder / "snapshots" / "..."
        return f": it is a cache of the Hugging Face hub. Name a folder in snapshots: {named}"
    if any((folder / name).exists() for name in _ADAPTERS):
        return (
            ": it holds an adapter alone. Merge it into its model (PEFT: merge_and_unload()) and "
            "save that"
        )
    if any(folder.glob("*.distcp")):
        return (
            ": it holds shards of torch.distributed.checkpoint. Join them where torch is "
            "installed: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
            "FILE"
        )
    if (folder / "data.pkl").exists() and (folder / "data").is_dir():
        return ": it is a PyTorch file that was unpacked. Zip it again: zip -0 -r FILE FOLDER"
    if (folder / "saved_model.pb").exists():
        return ": it is a model of TensorFlow. Save its weights as safetensors"
    if (folder / "config.json").exists() and (folder / "params").is_dir():
        return ": it is a checkpoint directory already, which needs no import"
    files = sorted(
        p.name for p in folder.iterdir() if p.suffix in (".pth", ".pt", ".ckpt", ".msgpack")
    )
    return f" of Hugging Face or timm. Name the file: {files[0]}" if files else ""
