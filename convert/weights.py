"""Which tensors does a file or folder hold, and what does it say about them?

A file is known by its first bytes, never by its name; what is no checkpoint is called by its name.
"""

import dataclasses
import stat
from pathlib import Path
from typing import Any

from regvit_jax.convert import addresses, archive, beside, flax_file, npz_file, pth, safetensors
from regvit_jax.convert.addresses import Role
from regvit_jax.convert.facts import Facts
from regvit_jax.convert.folder import Listing, open_folder
from regvit_jax.convert.naming import Wanted, choose
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.torch_types import Tensor
from regvit_jax.convert.unknown import EXPECTED, describe
from regvit_jax.errors import InputError

NPZ = "NumPy arrays (.npz)"


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint by name, not yet read."""

    files: tuple[Path, ...]
    format: str
    tensors: dict[str, Stored]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The numbers and words that were saved beside them, training arguments among them."""
    facts: Facts = dataclasses.field(default_factory=dict)
    """What the files say of the model and of its pixels."""
    prefix: str = ""
    """What stood before all names: wrappers and prefixes, with dots."""
    left_out: tuple[str, ...] = ()
    """What else the file or folder holds, in words."""
    passed_over: tuple[str, ...] = ()
    """Other prefixes under which such a network lies."""

    @property
    def known(self) -> dict[str, Any]:
        """Fields of `ViTConfig` that the files tell and no tensor does."""
        names = ("num_heads", "layer_norm_epsilon", "mlp")
        return {name: self.facts[name].value for name in names if name in self.facts}


@dataclasses.dataclass(frozen=True)
class _Part:
    """One file, before a network is chosen."""

    format: str
    tensors: dict[str, Stored]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    facts: Facts = dataclasses.field(default_factory=dict)
    others: dict[str, str] = dataclasses.field(default_factory=dict)
    """What is no tensor, by the name of its type."""
    groups: tuple[str, ...] = ("",)


def read_weights(
    path: Path | str,
    model_ema: bool = False,
    family: str | None = None,
    role: Role | None = None,
    prefix: str | None = None,
) -> Weights:
    """The tensors of a checkpoint.

    Args:
      path: Of the file, or of a folder as transformers or timm saves it.
      model_ema: Take the moving average of the weights, which training code saves beside them.
      family: A name in `DIALECTS`; None tries all.
      role: Which copy of the network: "teacher", "student" or "ema".
      prefix: What the names of the network start with, wrappers included.

    Raises:
      InputError: If it is no checkpoint, or a damaged one; says what it is.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    wanted = Wanted(family, "ema" if model_ema else role, prefix)
    listing = open_folder(path) if path.is_dir() else Listing((path,))
    parts = {file: _read_file(file) for file in listing.files}
    listing.check({file: part.tensors for file, part in parts.items()})
    whole = _joined(path, list(parts.values()))
    if not whole.tensors:
        raise InputError(f"{path} holds no tensors{_named(whole.others)}. {EXPECTED}.")
    return _chosen(path, listing, whole, wanted)


def _chosen(path: Path, listing: Listing, whole: _Part, wanted: Wanted) -> Weights:
    names = addresses.clean(whole.tensors, str(path))
    tensors = {short: whole.tensors[name] for short, name in names.items()}
    groups = tuple(dict.fromkeys(addresses.clean(whole.groups, str(path))))
    chosen = choose(tensors, wanted, str(path), groups)
    _check_others(path, chosen.prefix, chosen.tensors, whole.others, wanted)
    roles = {addresses.role(prefix) for prefix in (chosen.prefix, *chosen.passed_over)}
    about = dict(whole.about)
    if chosen.prefix:
        about |= {"weights": chosen.prefix.rstrip("."), "has_model_ema": "ema" in roles}
    return Weights(
        files=listing.files,
        format=f"folder of {whole.format}" if path.is_dir() else whole.format,
        tensors=chosen.tensors,
        about=about | listing.about,
        facts=whole.facts | listing.facts,
        prefix=chosen.prefix,
        left_out=(*chosen.left_out, *listing.left_out),
        passed_over=tuple(chosen.passed_over),
    )


def _check_others(
    path: Path, prefix: str, tensors: dict[str, Stored], others: dict[str, str], wanted: Wanted
) -> None:
    """Raises if something that is no tensor stands where a weight should."""
    if not (found := {n: kind for n, kind in others.items() if n.startswith(prefix)}):
        return
    missing = recognise(tensors, wanted.family).missing
    short = {addresses.clean([n], str(path)).popitem()[0].removeprefix(prefix): n for n in found}
    if wrong := [f"{short[n]!r} ({found[short[n]]})" for n in missing if n in short]:
        raise InputError(f"{path} holds {', '.join(wrong[:5])} where named tensors were expected.")


def _joined(path: Path, parts: list[_Part]) -> _Part:
    """The tensors of all files of a checkpoint."""
    tensors: dict[str, Stored] = {}
    for part in parts:
        if twice := sorted(tensors.keys() & part.tensors.keys()):
            raise InputError(f"{path} holds {twice[0]} in more than one file.")
        tensors |= part.tensors
    return dataclasses.replace(parts[0], tensors=tensors)


def _read_file(path: Path) -> _Part:
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(
            f"{path} is a pipe, a device or a socket: as a file of weights it is empty. {EXPECTED}."
        )
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(archive.ZIP_MAGIC) and npz_file.is_npz(path):
        return _Part(NPZ, npz_file.read(path))
    if head.startswith((archive.ZIP_MAGIC, pth.LEGACY_MAGIC)):
        return _from_pth(pth.read(path))
    # Before other kinds: a header of 128 bytes, say, starts as a pickle does.
    if safetensors.is_safetensors(head):
        tensors, metadata = safetensors.read(path)
        return _Part("safetensors", tensors, {"metadata": metadata} if metadata else {})
    if reason := describe(head):
        raise InputError(f"{path} {reason}. {EXPECTED}.")
    if flax_file.is_flax(head):
        return _from_flax(path)
    raise InputError(
        f"{path} is no checkpoint of a known kind (it starts with {head[:8]!r}). {EXPECTED}."
    )


def _from_pth(file: pth.PthFile) -> _Part:
    if not isinstance(file.content, dict):
        raise InputError(
            f"{file.path} holds a {type(file.content).__name__}, not named tensors. Expected what "
            "torch.save(model.state_dict()) writes."
        )
    found = addresses.find(file.content, Tensor)
    return _Part(
        format=file.format,
        tensors={name: file.stored(tensor) for name, tensor in found.tensors.items()},
        about=beside.plain(file.content),
        facts=beside.facts(file.content, str(file.path)),
        others=found.others,
        groups=found.groups or ("",),
    )


def _from_flax(path: Path) -> _Part:
    tree = flax_file.read(path)
    found = addresses.find(tree, Stored)
    return _Part(
        format="Flax msgpack",
        tensors=found.tensors,
        about=beside.plain(tree),
        facts=beside.facts(tree, str(path)),
        others=found.others,
        groups=found.groups or ("",),
    )


def _named(others: dict[str, str]) -> str:
    """What a file holds instead of tensors."""
    if not others:
        return ""
    shown = [f"{name!r} ({kind})" for name, kind in list(others.items())[:5]]
    return f": it holds {', '.join(shown)} where named tensors were expected"
