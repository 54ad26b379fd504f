import dataclasses

import numpy as np
import pytest

from regvit_jax import VARIANTS, InputError, ViTConfig
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.infer import NUM_HEADS
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.rules import rules
from regvit_jax.convert.stored import Stored


def stored(state):
    return {
        k: Stored(tuple(v.shape), str(v.dtype).split(".")[-1], v.numpy) for k, v in state.items()
    }


def tensors_of(config, family="deit"):
    """What a file of a model must hold, by the table."""
    shapes = {}
    for rule in rules(DIALECTS[family], config):
        shapes |= rule.their_shapes()
    return {name: Stored(shape, "float32", lambda: np.zeros(0)) for name, shape in shapes.items()}


ALIKE = {"augreg": "augreg", "tips": "tips", "deit-distilled": "deit-distilled"}
"""Families whose tensors are named as those of another one, and told apart by something else."""


@pytest.mark.parametrize(
    ("family", "variant"),
    [(family, variant) for family in DIALECTS for variant in ("small", "huge")]
    + [("deit", variant) for variant in VARIANTS if variant not in ("small", "huge")],
)
@pytest.mark.parametrize("num_registers", [0, 4])
def test_every_variant_is_recognised_from_its_tensors(
    family, variant, num_registers, as_family_has_it
):
    config = dataclasses.replace(VARIANTS[variant], num_registers=num_registers)
    config = as_family_has_it(config, family)
    assert not DIALECTS[family].cannot_hold(config)
    tensors = tensors_of(config, family)
    if family in ("dinov2", "mae"):  # without it, timm's own DINOv2 is the same, and DINO
        tensors["mask_token"] = Stored((1, config.embed_dim), "float32", lambda: np.zeros(0))
    match = recognise(tensors, ALIKE.get(family))
    match.check("file.pth")
    assert (match.family, match.config) == (family, config)


@pytest.mark.parametrize("family", ["timm", "timm-dinov2", "dinov2", "hf"])
def test_the_giant_variant_is_gated(family, as_family_has_it):
    giant = ViTConfig(
        embed_dim=1536,
        depth=40,
        num_heads=24,
        patch_size=14,
        image_size=518,
        mlp="swiglu",
        mlp_ratio=4096 / 1536,
        num_classes=0,
    )
    config = as_family_has_it(giant, family)
    match = recognise(tensors_of(config, family))
    match.check("file.pth")
    assert (match.family, match.config) == (family, config)
    assert config.mlp_dim == 4096


def test_the_heads_of_all_variants_are_known():
    for config in VARIANTS.values():
        assert NUM_HEADS[config.embed_dim] == config.num_heads


def test_a_width_that_nobody_published_needs_the_number_of_heads(study_state):
    tensors = stored(study_state())
    with pytest.raises(InputError, match=r"--num-heads N"):
        recognise(tensors).check("file.pth")
    match = recognise(tensors, known={"num_heads": 3})
    match.check("file.pth")
    assert match.config.num_heads == 3


def test_all_that_does_not_fit_is_reported_at_once(torch, study_state):
    state = study_state()
    del state["norm.bias"], state["blocks.1.gamma_2"]
    state["dist_token"] = torch.zeros(1, 1, 24)
    state["pos_embed"] = torch.zeros(1, 17, 24)
    state["cls_token"] = torch.zeros(1, 1, 25)
    state["head.bias"] = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError) as error:
        recognise(stored(state)).check("file.pth")
    message = str(error.value)
    assert "DeiT-III (official, or the study's), the nearest known family (with 2 blocks" in message
    for line in (
        "missing tensor norm.bias (24,)",
        "missing tensor blocks.1.gamma_2 (24,)",
        "unexpected tensor dist_token (1, 1, 24)",
        "wrong shape: pos_embed expected (1, 16, 24), found (1, 17, 24)",
        "wrong shape: cls_token expected (1, 1, 24), found (1, 1, 25)",
        "wrong type: head.bias int64",
    ):
        assert line in message


def test_a_model_of_another_kind_is_refused_with_a_short_list(torch):
    state = {f"layer{i}.conv.weight": torch.zeros(3, 3) for i in range(500)}
    with pytest.raises(InputError, match=r"\.\.\. and 488 more") as error:
        recognise(stored(state)).check("resnet.pth")
    assert str(error.value).count("\n") < 60


def test_sizes_of_no_model_are_refused_as_such():
    tensors = tensors_of(dataclasses.replace(VARIANTS["tiny"], depth=1))
    kernel = "patch_embed.proj.weight"
    tensors[kernel] = Stored((192, 2048, 1, 1), "float32", lambda: np.zeros(0))  # of a hybrid
    with pytest.raises(InputError, match="sizes of no known model"):
        recognise(tensors)


def test_absurd_names_and_shapes_are_no_reason_to_hang():
    tensors = {f"blocks.{10**12}.norm1.weight": Stored((2**40,), "float32", lambda: np.zeros(0))}
    with pytest.raises(InputError, match="cannot be read as"):
        recognise(tensors).check("file.pth")
