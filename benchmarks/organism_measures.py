"""What did one organism become? Its verdicts, its norms, and where its patches look."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from regvit_jax import load
from regvit_jax.analysis.engine.subjects import some_of
from regvit_jax.analysis.outliers.layers import judge_layers
from regvit_jax.checkpoint import Params, read_info
from regvit_jax.cues import BACKGROUND, CuesSource
from regvit_jax.model import DeiT3

_CHUNK = 100
"""Images of one pass."""


def measure(checkpoint: str | Path, num_images: int) -> dict[str, Any]:
    """What is known of one model.

    Args:
      checkpoint: Its directory, its run's, or its name.
      num_images: Validation mosaics, the same that `regvit-analyze norms --data cues` draws; all
        are looked at in passes of 100.
    """
    source = CuesSource.open("val")
    mosaics = [source.draw(int(i)) for i in some_of(np.arange(len(source)), num_images, 0)]
    pixels = np.stack([mosaic.pixels for mosaic in mosaics])
    is_background = np.stack([m.kinds.ravel() == BACKGROUND for m in mosaics])
    model, params = load(checkpoint)
    seen = _seen(model, params, read_info(checkpoint).preprocess.normalise(pixels), is_background)
    norms = np.moveaxis(seen["norms"], 1, 0)
    grid = model.layout(model.config.image_shape).grid
    verdict = judge_layers(norms, grid, seen["convolved"])
    ratios = [float(np.median(n[is_background]) / np.median(n)) for n in norms[1:]]
    on = {name: float(seen[name][:, -1].mean()) for name in ("on_background", "on_registers")}
    return {
        "verdict": verdict.answer,
        "last": verdict.layers[-1].answer,
        "blocks": [layer.answer for layer in verdict.layers[1:]],
        "background": max(ratios),
        "background_by_block": ratios,
        **on,
        "on_cls": float(seen["on_cls"][:, -1].mean()),
        "cls_on_background": float(seen["cls_on_background"].mean(axis=0).max()),
        "accuracy": float(np.mean(seen["answer"] == [m.label for m in mosaics])),
    }


def _seen(model: DeiT3, params: Params, images: Any, is_background: Any) -> dict[str, np.ndarray]:
    """Norms and attention of all images, with leading axes images and layers or blocks."""
    layout = model.layout(model.config.image_shape)

    @jax.jit
    def look(params: Params, images: Any, is_background: Any) -> dict[str, Any]:
        trace: Any = model.apply({"params": params}, images, method="trace")
        streams = [trace.embedded, *(block.tokens for block in trace.blocks)]
        norms = [jnp.linalg.norm(s[:, layout.patches], axis=-1) for s in streams]
        attention = jnp.stack([block.attn.mean(axis=1) for block in trace.blocks], axis=1)
        patches = attention[:, :, layout.patches].mean(axis=2)
        on_patches = jnp.where(is_background[:, None], patches[..., layout.patches], 0)
        of_cls = attention[:, :, 0, layout.patches]
        return {
            "norms": jnp.stack(norms, axis=1),
            "convolved": jnp.linalg.norm(trace.patch_embed, axis=-1),
            "on_background": on_patches.sum(axis=-1),
            "on_registers": patches[..., layout.registers].sum(axis=-1),
            "on_cls": patches[..., 0],
            "cls_on_background": jnp.where(is_background[:, None], of_cls, 0).sum(axis=-1),
            "answer": trace.logits.argmax(axis=-1),
        }

    starts = range(0, len(images), _CHUNK)
    parts = [
        jax.tree.map(
            np.asarray, look(params, images[i : i + _CHUNK], is_background[i : i + _CHUNK])
        )
        for i in starts
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
