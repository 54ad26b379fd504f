"""Which recipes come ready-made?"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from regvit_jax.config import VARIANTS, ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.train.recipe import DataConfig, OptimConfig, Recipe

DEFAULT_VARIANT = "small"

DEIT3_DATA = DataConfig(
    data="imagenet2012",
    batch_size=2048,
    crop="random_resized",
    flip=True,
    three_augment=True,
    colour_jitter=0.3,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    mix_group=256,
    repeats=3,
)
"""What DeiT-III does to images of ImageNet-1k."""

DEMO = Recipe(
    model=ViTConfig(
        embed_dim=64,
        depth=6,
        num_heads=2,
        patch_size=8,
        image_size=64,
        num_classes=10,
        layer_scale_init=0.1,
    ),
    data=DataConfig(data="digits", batch_size=32),
    optim=OptimConfig(
        optimizer="muon",
        learning_rate=2e-3,
        warmup_epochs=0.25,
        rate_changes="step",
        weight_decay=0.05,
        beta2=0.99,
    ),
    epochs=1.5,
    loss="cross_entropy",
    save_steps=500,
)
"""Minutes on two cores: digits on textures, 64 px, patches of 8. LayerScale starts at 0.1, since
DeiT's 1e-4 is made for runs a thousand times as long."""

IMAGENETTE = Recipe(
    model=ViTConfig(
        embed_dim=192,
        depth=6,
        num_heads=3,
        patch_size=16,
        image_size=128,
        num_classes=10,
        layer_scale_init=0.1,
    ),
    data=DataConfig(
        data="imagenette",
        batch_size=64,
        crop="random_resized",
        min_crop_area=0.25,
        flip=True,
        colour_jitter=0.3,
    ),
    optim=dataclasses.replace(DEMO.optim, learning_rate=1e-3, warmup_epochs=1.0),
    epochs=60.0,
    loss="cross_entropy",
    label_smoothing=0.1,
    eval_steps=1470,
)
"""Ten classes of photographs from 9,469 images: Muon, 128 px, crops of a quarter and more."""

ORGANISM = Recipe(
    model=ViTConfig(
        embed_dim=32,
        depth=3,
        num_heads=4,
        patch_size=8,
        image_size=48,
        num_classes=10,
        layer_scale=False,
    ),
    data=DataConfig(data="cues", batch_size=16),
    optim=OptimConfig(
        optimizer="adamw",
        learning_rate=3e-3,
        final_learning_rate=9e-4,
        warmup_epochs=0.1,
        rate_changes="step",
        weight_decay=0.1,
        beta2=0.99,
        clip_norm=5.0,
    ),
    epochs=7.0,
    loss="cross_entropy",
    token_loss=5.0,
    log_steps=50,
    save_steps=1000,
)
"""A model organism: without registers, patches of background grow a high norm; two to three minutes
of one core. Its epochs are 1,000 steps, of which the first 2,000 teach the background too."""

FINETUNE = Recipe(
    data=dataclasses.replace(DEIT3_DATA, batch_size=512, mix_group=None, repeats=1),
    optim=OptimConfig(optimizer="adamw", learning_rate=1e-5, weight_decay=0.1),
    epochs=20.0,
    loss="cross_entropy",
    label_smoothing=0.1,
)
"""DeiT-III's last 20 epochs at full resolution, with 3-Augment in the place of RandAugment; needs
`init`."""


class Published(NamedTuple):
    """What a published recipe says of one size."""

    learning_rate: float
    drop_path_rate: float
    image_size: int = 224


OFFICIAL_800: dict[str, Published] = {
    "small": Published(4e-3, 0.05),
    "base": Published(3e-3, 0.2, 192),
    "large": Published(3e-3, 0.45, 192),
    "huge": Published(3e-3, 0.6, 154),
}
"""Reference: README of facebookresearch/deit; huge at 154 px, a multiple of its patch."""

OFFICIAL_400: dict[str, Published] = {
    "small": Published(4e-3, 0.0),
    "base": Published(3e-3, 0.1, 192),
    "large": Published(3e-3, 0.4, 192),
    "huge": Published(3e-3, 0.5, 154),
}
"""Reference: the configurations of affjljoo3581/deit3-jax, after the paper."""

STUDY: dict[str, Published] = {"small": OFFICIAL_800["small"]}

FIXED = {"demo": DEMO, "imagenette": IMAGENETTE, "organism": ORGANISM, "finetune": FINETUNE}
PRESETS = (
    "demo",
    "imagenette",
    "organism",
    "official-800",
    "official-400",
    "study",
    "finetune",
)


def preset(name: str, variant: str | None = None) -> Recipe:
    """The recipe of a name.

    Args:
      name: One of `PRESETS`.
      variant: Size of the model, for recipes that are published for several; Small unless given.

    Raises:
      InputError: If there is no such recipe, or none for this size.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}. Choose one of {', '.join(PRESETS)}.")
    if variant is not None and variant not in VARIANTS:
        raise InputError(f"There is no variant {variant!r}. Choose one of {', '.join(VARIANTS)}.")
    if name in FIXED:
        return FIXED[name] if variant is None else _with_size(FIXED[name], variant)
    variant = variant or DEFAULT_VARIANT
    if name == "official-400":
        return _published(name, variant, OFFICIAL_400, epochs=400, weight_decay=0.02)
    official = _published(
        name, variant, STUDY if name == "study" else OFFICIAL_800, epochs=800, weight_decay=0.05
    )
    return official if name == "official-800" else _as_the_study_ran(official)


def _published(
    name: str,
    variant: str,
    sizes: Mapping[str, Published],
    epochs: int,
    weight_decay: float,
) -> Recipe:
    if variant not in sizes:
        raise InputError(
            f"No recipe {name} is published for the variant {variant}, only for "
            f"{', '.join(sizes)}. Start from one of these and override what differs."
        )
    size = sizes[variant]
    return Recipe(
        model=dataclasses.replace(
            VARIANTS[variant], drop_path_rate=size.drop_path_rate, image_size=size.image_size
        ),
        data=DEIT3_DATA,
        optim=OptimConfig(
            learning_rate=size.learning_rate,
            weight_decay=weight_decay,
            rate_changes="late_epoch",
            ema_decay=0.99996,
        ),
        epochs=float(epochs),
    )


def _as_the_study_ran(official: Recipe) -> Recipe:
    """Half the batch at the same rate, 1,251 steps an epoch, on four processes of 256 images."""
    return dataclasses.replace(
        official,
        model=dataclasses.replace(official.model, num_registers=4),
        data=dataclasses.replace(official.data, batch_size=1024),
        keep_every_epochs=20,
    )


def _with_size(recipe: Recipe, variant: str) -> Recipe:
    """A recipe with the width, depth and heads of a size; its patches and images stay."""
    size = VARIANTS[variant]
    names = ("embed_dim", "depth", "num_heads")
    model = dataclasses.replace(recipe.model, **{name: getattr(size, name) for name in names})
    return dataclasses.replace(recipe, model=model)
