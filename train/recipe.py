"""What does a training run do? The recipe, as data."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, Literal

from regvit_jax import strict_json
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError

Trainable = Literal["all", "registers", "head", "registers_and_head"]

PLACES = frozenset({"data.data", "init"})
"""Fields that may name a folder."""
HARMLESS = frozenset(
    {
        "data.skip_unreadable",
        "log_steps",
        "save_steps",
        "eval_steps",
        "kept_states",
        "keep_every_epochs",
    }
)
"""Fields that leave the parameters as they are: a run may go on with others."""


def _check_finite(options: Any) -> None:
    """Raises if a number among the options is infinite or none."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{field.name} must be a finite number, got {value}.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What the model is trained and evaluated on."""

    data: str = "digits"
    """"digits" (embedded), a folder with train/ and val/ and one folder a class in each, or a data
    set of TensorFlow Datasets that is prepared: imagenet2012, name@folder, or its folder."""
    batch_size: int = 256
    """Images of one step on all devices together."""
    crop: Literal["evaluation", "random_resized", "simple"] = "evaluation"
    """Part of a photograph that is trained on. "evaluation": what evaluation sees;
    "random_resized": a random part of random size; "simple": the short side resized, 4 px of
    mirrored edge added, a random square (DeiT-III's for ImageNet-21k)."""
    min_crop_area: float = 0.08
    """Smallest part of a photograph that "random_resized" takes."""
    flip: bool = False
    """Mirror every other training image."""
    three_augment: bool = False
    """Make each image grey, solarised or blurred: DeiT-III's 3-Augment."""
    colour_jitter: float = 0.0
    """Change brightness, contrast and saturation by up to this part; DeiT-III's is 0.3."""
    mixup_alpha: float = 0.0
    """Blend images with a share drawn from Beta(alpha, alpha); 0 never does. DeiT-III's is 0.8."""
    cutmix_alpha: float = 0.0
    """Paste a rectangle of one image into another, its area drawn likewise. DeiT-III's is 1."""
    cutmix_rate: float = 0.5
    """How often it is a rectangle, where both alphas are above 0."""
    mix_group: int | None = None
    """Images that share one draw of mixup or cutmix; the whole batch unless given. 256 is one
    process of the published runs."""
    repeats: int = 1
    """Times that an epoch shows an image, each changed in its own way, of correspondingly fewer
    images: repeated augmentation. DeiT-III's is 3."""
    decoder: Literal["pillow", "opencv"] = "pillow"
    """"pillow" gives torchvision's pixels; "opencv" is faster, and resizes in another way."""
    skip_unreadable: bool = False
    """Train on the next readable image in place of one that cannot be read."""

    @property
    def is_mixed(self) -> bool:
        """Whether every image is made from two."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    @property
    def group_size(self) -> int:
        """Images that share one draw of mixup or cutmix."""
        return self.batch_size if self.mix_group is None else self.mix_group

    def __post_init__(self) -> None:
        _check_finite(self)
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}.")
        if self.repeats < 1:
            raise InputError(f"repeats must be at least 1, got {self.repeats}.")
        if not 0.0 < self.min_crop_area <= 1.0:
            raise InputError(f"min_crop_area must be in (0, 1], got {self.min_crop_area}.")
        if not 0.0 <= self.colour_jitter < 1.0:
            raise InputError(f"colour_jitter must be in [0, 1), got {self.colour_jitter}.")
        if not 0.0 <= self.cutmix_rate <= 1.0:
            raise InputError(f"cutmix_rate must be in [0, 1], got {self.cutmix_rate}.")
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0:
            raise InputError("mixup_alpha and cutmix_alpha must not be negative.")
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Raises unless the images of a batch can be mixed two by two within their groups."""
        size = self.group_size
        if self.is_mixed and (size < 2 or size % 2):
            raise InputError(
                f"Mixup and cutmix need an even number of images, got groups of {size} (mix_group, "
                "or batch_size where that is not given)."
            )
        if self.is_mixed and self.batch_size % size:
            raise InputError(
                f"A batch of {self.batch_size} images cannot be divided into groups of {size} for "
                "mixup and cutmix. Choose a --mix-group that divides it."
            )


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
    rate_changes: Literal["step", "epoch", "late_epoch"] = "epoch"
    """"epoch": constant within an epoch; "late_epoch": the same an epoch late, as DeiT's loop ran
    (the first two epochs at the start's rate); "step": moves in every step."""
    weight_decay: float = 0.05
    """Weight decay, on parameters of two or more dimensions."""
    beta1: float = 0.9
    """Memory of the mean gradient."""
    beta2: float = 0.999
    """Memory of the mean squared gradient."""
    epsilon: float = 1e-8
    """Added to the root of the mean squared gradient."""
    clip_norm: float = 1.0
    """Longer gradients, over all tensors, are shortened to this."""
    ema_decay: float = 0.0
    """Keep a moving average of the parameters, of which each step leaves this part (DeiT: 0.99996),
    and evaluate it too; 0 keeps none."""

    def __post_init__(self) -> None:
        _check_finite(self)
        for name in ("learning_rate", "clip_norm", "epsilon"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")
        if not 0.0 <= self.ema_decay < 1.0:
            raise InputError(f"ema_decay must be in [0, 1), got {self.ema_decay}.")
        if self.warmup_epochs < 0 or self.weight_decay < 0:
            raise InputError("warmup_epochs and weight_decay must not be negative.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what a run computes; a run directory keeps it as `recipe.json`."""

    model: ViTConfig = dataclasses.field(default_factory=ViTConfig)
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    epochs: float = 10.0
    """Number of epochs."""
    loss: Literal["bce", "cross_entropy"] = "bce"
    """One yes-or-no question a class (DeiT-III), or one question among all classes."""
    label_smoothing: float = 0.0
    """Part of the target spread over all classes; only for cross-entropy."""
    token_loss: float = 0.0
    """Weight of the loss of patches, beside the image's with weight 1: each patch is to tell its
    target, where the data have such (cues), through a linear layer that no checkpoint keeps; 0
    computes none."""
    init: str = ""
    """Checkpoint whose weights the run starts from; its model then is this run's, but for the
    options given. Added registers, a head for other classes and positions of another image size
    start as they do in a new model, or resampled."""
    trainable: Trainable = "all"
    """What learns; the rest stays as it is."""
    accumulation_steps: int = 1
    """Parts of a batch that are computed one after the other, for an accelerator with too little
    memory; the result is the same."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products' inputs; all else is float32."""
    seed: int = 0
    """Seed of the start values, the order of the images and every random choice."""
    log_steps: int = 10
    """Steps between lines of `metrics.jsonl`."""
    save_steps: int = 500
    """Steps between the states that an interrupted run continues from."""
    eval_steps: int = 5000
    """Steps between evaluations, which also write `model/`; the last step always has one."""
    kept_states: int = 2
    """Newest states to keep."""
    keep_every_epochs: int = 0
    """Epochs between weights that are kept for good, in `epochs/`: with 20, those after epochs 0,
    19, 39 and so on, counted from 0, as the study did; 0 keeps none."""

    def __post_init__(self) -> None:
        _check_finite(self)
        if self.model.num_channels != 3 or self.model.grid[0] != self.model.grid[1]:
            height, width, channels = self.model.image_shape
            raise InputError(
                f"Training makes square images of 3 channels; the model takes {height} x {width} "
                f"px of {channels}."
            )
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed must be in [0, 2^31), got {self.seed}.")
        if not 0 < self.epochs <= 1e6:
            raise InputError(f"epochs must be above 0 and at most 1e6, got {self.epochs}.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if self.loss == "bce" and self.label_smoothing:
            raise InputError(
                "Label smoothing does not go with bce, whose targets are 0 or 1. Use --loss "
                "cross_entropy, or --label-smoothing 0."
            )
        if self.token_loss < 0:
            raise InputError(f"token_loss must not be negative, got {self.token_loss}.")
        if self.token_loss and self.data.crop != "evaluation":
            raise InputError(
                f"Targets of patches do not follow a crop {self.data.crop!r}. With --token-loss, "
                "use --crop evaluation."
            )
        if self.keep_every_epochs < 0:
            raise InputError(f"keep_every_epochs must be 0 or more, got {self.keep_every_epochs}.")
        if self.data.batch_size % max(1, self.accumulation_steps):
            raise InputError(
                f"A batch of {self.data.batch_size} images cannot be divided into "
                f"{self.accumulation_steps} equal parts (accumulation_steps)."
            )
        counts = ("log_steps", "save_steps", "eval_steps", "accumulation_steps", "kept_states")
        for name in counts:
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

    def keeps_epoch(self, epoch: int) -> bool:
        """Whether the weights after an epoch, counted from 0, are kept for good."""
        every = self.keep_every_epochs
        return every > 0 and (epoch == 0 or (epoch + 1) % every == 0)

    def to_json(self) -> dict[str, Any]:
        """What `recipe.json` holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], label: str = "The recipe") -> "Recipe":
        """The recipe that `to_json` described.

        Args:
          values: As JSON has them.
          label: What error messages call them.

        Raises:
          InputError: If a name is not a field of this version, or a value of another type.
        """
        return strict_json.build(cls, values, label)


def differences(before: Recipe, now: Recipe) -> list[str]:
    """What changed between two recipes, one sentence each.

    The same folder is the same by whichever path.
    """
    old, new = _leaves(before.to_json()), _leaves(now.to_json())
    return [
        f"{name}: {old[name]!r} before, {new[name]!r} now"
        for name in old
        if old[name] != new[name] and not (name in PLACES and _is_same(old[name], new[name]))
    ]


def is_binding(difference: str) -> bool:
    """Whether a difference decides what a run computes, so that it would be another run."""
    return difference.partition(":")[0] not in HARMLESS


def located(recipe: Recipe) -> Recipe:
    """The recipe with whole paths in place of those that depend on the working directory."""
    data = dataclasses.replace(recipe.data, data=_located(recipe.data.data))
    return dataclasses.replace(recipe, data=data, init=_located(recipe.init))


def describe(recipe: Recipe) -> str:
    """Every value of a recipe, one part of it a line."""
    values = recipe.to_json()
    parts = {name: value for name, value in values.items() if isinstance(value, dict)}
    parts["run"] = {name: value for name, value in values.items() if name not in parts}
    lines = [
        f"{part}: " + ", ".join(f"{name} {value!r}" for name, value in fields.items())
        for part, fields in parts.items()
    ]
    return "\n".join(lines) + "\n"


def _leaves(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            {f"{name}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def _located(name: str) -> str:
    """The whole path that a name means; other names stay as they are."""
    before, folder = _split(name)
    return before + os.path.abspath(folder) if name and folder.exists() else name


def _is_same(first: str, second: str) -> bool:
    """Whether two names mean one folder."""
    (one, here), (other, there) = _split(first), _split(second)
    try:
        return one == other and here.samefile(there)
    except OSError:
        return False


def _split(name: str) -> tuple[str, Path]:
    """The folder that a name means, and what stands before it, such as `cifar10@`."""
    whole = Path(name).expanduser()
    before, at, folder = name.rpartition("@")
    return ("", whole) if whole.exists() or not at else (before + at, Path(folder).expanduser())
