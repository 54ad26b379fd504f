"""What does a training run do? The recipe, as data."""

import dataclasses
from typing import Any, Literal

from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What the model is trained and evaluated on."""

    data: str = "digits"
    """"digits" (embedded), or a folder with train/ and val/ and one folder a class in each."""
    batch_size: int = 256
    """Images of one step on all devices together."""
    min_crop_area: float = 1.0
    """Smallest part of a photograph that a random crop takes; 1 takes evaluation's crop instead."""
    flip: bool = False
    """Mirror every other training image."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}.")
        if not 0.0 < self.min_crop_area <= 1.0:
            raise InputError(f"min_crop_area must be in (0, 1], got {self.min_crop_area}.")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How the parameters move; the default is DeiT-III Small's for 800 epochs, without EMA."""

    optimizer: Literal["lamb", "adamw", "muon"] = "lamb"
    """LAMB scales each decayed tensor's step by its norm; otherwise it is AdamW. Muon
    (arXiv:2502.16982), in no published recipe here, learns small problems from fewer images."""
    learning_rate: float = 4e-3
    """Highest rate; not scaled with the batch."""
    warmup_learning_rate: float = 1e-6
    """Rate at the start."""
    final_learning_rate: float = 1e-5
    """Rate at the end."""
    warmup_epochs: float = 5.0
    """Rises in a straight line for so long; the cosine's clock runs from the start."""
    rate_changes: Literal["step", "epoch"] = "epoch"
    """"epoch": constant within an epoch, as DeiT; "step": moves in every step."""
    weight_decay: float = 0.05
    """Pulls the matrix-like tensors to 0."""
    beta1: float = 0.9
    """Memory of the mean gradient."""
    beta2: float = 0.999
    """Memory of the mean squared gradient."""
    epsilon: float = 1e-8
    """Added to the root of the mean squared gradient."""
    clip_norm: float = 1.0
    """Longer gradients, over all tensors, are shortened to this."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm", "epsilon"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.warmup_epochs < 0 or self.weight_decay < 0:
            raise InputError("warmup_epochs and weight_decay must not be negative.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what a run computes; a run directory keeps it as `recipe.json`."""

    model: ViTConfig = dataclasses.field(default_factory=ViTConfig)
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    epochs: float = 10.0
    """Length of the run, in passes over the training images."""
    loss: Literal["bce", "cross_entropy"] = "bce"
    """One yes-or-no question a class (DeiT-III), or one question among all classes."""
    label_smoothing: float = 0.0
    """Part of the target spread over all classes; only for cross-entropy."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products' inputs; all else is float32."""
    seed: int = 0
    """Of the start values, the order of the images and every random choice."""
    log_steps: int = 10
    """Steps between lines of `metrics.jsonl`."""
    save_steps: int = 500
    """Steps between the states that an interrupted run continues from."""
    eval_steps: int = 5000
    """Steps between evaluations, which also write `model/`; the last step always has one."""

    def __post_init__(self) -> None:
        if self.epochs <= 0:
            raise InputError(f"epochs must be above 0, got {self.epochs}.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if self.loss == "bce" and self.label_smoothing:
            raise InputError(
                "Label smoothing does not go with bce, whose targets are 0 or 1. Use --loss "
                "cross_entropy, or --label-smoothing 0."
            )
        for name in ("log_steps", "save_steps", "eval_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def steps_per_epoch(self, num_images: int) -> int:
        """Whole batches in one pass; the images left over wait for another epoch's order.

        Raises:
          InputError: If not even one batch can be filled.
        """
        if num_images < self.data.batch_size:
            raise InputError(
                f"A batch of {self.data.batch_size} cannot be filled from {num_images} training "
                "images. Choose a smaller --batch-size."
            )
        return num_images // self.data.batch_size

    def total_steps(self, num_images: int) -> int:
        """Steps of the whole run."""
        return max(1, round(self.epochs * self.steps_per_epoch(num_images)))

    def to_json(self) -> dict[str, Any]:
        """What `recipe.json` holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe that `to_json` described.

        Raises:
          InputError: If a name is not a field of this version.
        """
        parts = {
            "model": ViTConfig.from_json,
            "data": _part(DataConfig),
            "optim": _part(OptimConfig),
        }
        return _part(cls)({name: parts.get(name, _same)(value) for name, value in values.items()})


def differences(before: Recipe, now: Recipe) -> list[str]:
    """What changed between two recipes, one sentence each."""
    old, new = _leaves(before.to_json()), _leaves(now.to_json())
    return [
        f"{name}: {old[name]!r} before, {new[name]!r} now" for name in old if old[name] != new[name]
    ]


def _leaves(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            {f"{name}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def _part(kind: type) -> Any:
    def build(values: dict[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(values.keys() - known):
            raise InputError(
                f"The recipe has unknown fields {unknown}; {kind.__name__} has {sorted(known)}. It "
                "was probably written by another version of regvit_jax."
            )
        return kind(**values)

    return build


def _same(value: Any) -> Any:
    return value
