"""Which recipes come ready-made?"""

import dataclasses

from regvit_jax.config import VARIANTS, ViTConfig
from train.recipe import DataConfig, OptimConfig, Recipe

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

PHOTOGRAPHS = Recipe(
    model=dataclasses.replace(VARIANTS["small"], drop_path_rate=0.05),
    data=DataConfig(data="", batch_size=256, min_crop_area=0.08, flip=True),
    optim=OptimConfig(),
    epochs=100.0,
)
"""DeiT-III Small with its optimiser and loss, for a folder with train/ and val/."""

PRESETS = {"demo": DEMO, "photographs": PHOTOGRAPHS}
