"""Is the model the one that PyTorch runs? Compared with timm's DeiT-III, on photographs.

The bounds are those of the project's design: tokens 5e-5 of their own standard deviation (or 5e-5),
attention 5e-6. Weights are far from their start values: LayerScale near 0.3, norms and biases
random.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from regvit_jax import DeiT3, ViTConfig
from regvit_jax.checkpoint import unflatten
from regvit_jax.image_folder import FolderSource
from regvit_jax.preprocess import Preprocess

TOKENS_BOUND = 5e-5  # measured: logits 5e-6, tokens after block 12 1.4e-5 of their deviation
ATTENTION_BOUND = 5e-6  # measured: 1.2e-6


def randomised(model, seed=0):
    """Every parameter of a torch model, moved away from its start value."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "ls1" in name or "ls2" in name:
                parameter.copy_(0.3 + 0.1 * noise)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(0.04 * noise)
    return model.eval()


def to_flax(model, num_registers):
    """The parameters of a timm DeiT-III under our names, without the project's converter."""
    tensors = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    leaves = {}
    for name, value in tensors.items():
        name = (
            name.replace("blocks.", "blocks_")
            .replace(".gamma", "")
            .replace("reg_token", "reg_tokens")
        )
        name = name.replace("patch_embed.proj", "patch_embed").replace(".", "/")
        if name.endswith("weight"):
            kind = "scale" if value.ndim == 1 else "kernel"
            name = name.removesuffix("weight") + kind
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        leaves[name] = jnp.asarray(value)
    assert ("reg_tokens" in leaves) == (num_registers > 0)
    return unflatten(leaves)


def torch_trace(model, images):
    """What every block of a timm model computes, by hooks; attention is recomputed from qkv."""
    import torch

    found = {"tokens": [], "qkv": [], "after_attn": [], "hidden": []}
    hooks = []
    for block in model.blocks:
        hooks += [
            block.register_forward_hook(lambda _, __, out: found["tokens"].append(out)),
            block.attn.qkv.register_forward_hook(lambda _, __, out: found["qkv"].append(out)),
            block.norm2.register_forward_pre_hook(lambda _, i: found["after_attn"].append(i[0])),
            block.mlp.act.register_forward_hook(lambda _, __, out: found["hidden"].append(out)),
        ]
    embedded = []
    hooks.append(model.blocks[0].register_forward_pre_hook(lambda _, i: embedded.append(i[0])))
    normed = []
    hooks.append(model.norm.register_forward_hook(lambda _, __, out: normed.append(out)))
    with torch.inference_mode():
        logits = model(images)
        heads = model.blocks[0].attn.num_heads
        blocks = []
        for i, qkv in enumerate(found["qkv"]):
            b, t, _ = qkv.shape
            query, key, value = qkv.reshape(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
            attn = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
            taps = {"query": query, "key": key, "value": value, "attn": attn}
            taps |= {name: found[name][i] for name in ("tokens", "after_attn", "hidden")}
            blocks.append(taps)
    for hook in hooks:
        hook.remove()
    return {"embedded": embedded[0], "normed": normed[0], "logits": logits, "blocks": blocks}


def assert_close(got, want, bound, name):
    want = want.numpy()
    limit = bound if bound == ATTENTION_BOUND else max(bound * want.std(), bound)
    difference = np.abs(np.asarray(got) - want).max()
    assert difference <= limit, f"{name}: {difference:.2e} > {limit:.2e}"


def assert_same(trace, expected):
    for name in ("embedded", "normed", "logits"):
        assert_close(getattr(trace, name), expected[name], TOKENS_BOUND, name)
    for i, (block, taps) in enumerate(zip(trace.blocks, expected["blocks"], strict=True)):
        for name, want in taps.items():
            bound = ATTENTION_BOUND if name == "attn" else TOKENS_BOUND
            assert_close(getattr(block, name), want, bound, f"blocks[{i}].{name}")


def run_both(timm, images, num_registers, **changes):
    import torch

    torch_model = randomised(
        timm.create_model("deit3_small_patch16_224", reg_tokens=num_registers, **changes)
    )
    expected = torch_trace(torch_model, torch.tensor(images).permute(0, 3, 1, 2))
    model = DeiT3(ViTConfig(num_registers=num_registers))
    variables = {"params": to_flax(torch_model, num_registers)}
    trace = jax.jit(functools.partial(model.apply, method="trace"))
    return trace(variables, jnp.asarray(images)), expected


@pytest.mark.parametrize("num_registers", [0, 4])
def test_every_step_of_deit3_small_equals_timm(timm, textures, num_registers):
    assert_same(*run_both(timm, textures[:2], num_registers))


@pytest.mark.parametrize("num_registers", [0, 4])
def test_a_wide_image_equals_timm(timm, textures, num_registers):
    """192 x 288 px: 12 x 18 patches, so positions are resampled and no square hides a swap."""
    wide = np.concatenate([textures[:1], textures[1:2]], axis=2)[:, 16:208, 80:368]
    assert_same(*run_both(timm, wide, num_registers, dynamic_img_size=True))


def test_imagenette_photographs_equal_timm(timm, photographs):
    source, preprocess = FolderSource.open(photographs), Preprocess()
    chosen = range(0, len(source), len(source) // 6)
    pixels = np.stack([preprocess.pixels(source[i].image) for i in chosen])
    assert_same(*run_both(timm, np.asarray(preprocess.normalise(pixels)), 4))


@pytest.mark.parametrize(
    ("mean", "size", "interpolation"), [(False, 224, "bicubic"), (True, 249, "bilinear")]
)
def test_preprocessing_equals_torchvision(timm, mean, size, interpolation):
    """On odd sizes, where rounding of the long side and of the crop's corner shows."""
    from torchvision import transforms

    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(short_side=size, interpolation=interpolation)
    if mean:
        preprocess = Preprocess(short_side=size, interpolation=interpolation, mean=half, std=half)
    reference = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(224),
            transforms.PILToTensor(),
        ]
    )
    generator = np.random.default_rng(0)
    for height, width in ((375, 500), (501, 333), (257, 1023), (224, 224), (225, 226)):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
        expected = reference(image)
        pixels = preprocess.pixels(image)
        np.testing.assert_array_equal(pixels, expected.permute(1, 2, 0).numpy())
        normalise = transforms.Normalize(preprocess.mean, preprocess.std)
        normalised = normalise(expected.float() / 255).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(preprocess.normalise(pixels), normalised, rtol=0, atol=1e-6)
