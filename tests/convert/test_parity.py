"""Every family's imports compute what its own code computes, at three sizes, one no square.

Weights are far from their start values. Bounds are those of `regvit-convert verify`.
"""

import functools

import jax
import numpy as np
import pytest

from regvit_jax import DeiT3
from regvit_jax.checkpoint import unflatten
from regvit_jax.convert.importing import to_ours
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.references_timm import tapped
from regvit_jax.convert.verification import ATTENTION_BOUND, TOKENS_BOUND
from regvit_jax.convert.weights import read_weights

SIZES = ((32, 32), (48, 48), (24, 40))


def shaken(torch, model):
    """The model, with weights far from their start values."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
            if parameter.ndim == 1:  # registers and LayerScale start near zero
                parameter += 0.1
    return model.eval()


def images_of(size):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


def traced(path, family, **known):
    """A function from images to what our model computes from the file."""
    weights = read_weights(path)
    match = recognise(weights.tensors, family, {"num_heads": 3} | weights.known | known)
    match.check(str(path))
    assert recognise(weights.tensors).family == (family or match.family)
    params = unflatten(to_ours(weights.tensors, match.dialect, match.config, str(path)))
    model = DeiT3(match.config)

    @jax.jit
    def run(images):
        trace = model.apply({"params": params}, images, method="trace")
        found = {f"tokens after block {i}": b.tokens for i, b in enumerate(trace.blocks)}
        found |= {f"attention of block {i}": b.attn for i, b in enumerate(trace.blocks)}
        return found | {"tokens after the last norm": trace.normed, "logits": trace.logits}

    return match, run


def assert_same(ours, theirs, sizes=SIZES):
    """Compares all that the other side computes, at several sizes."""
    for size in sizes:
        found, expected = ours(images_of(size)), theirs(images_of(size))
        assert len(expected) > 1
        for name, value in expected.items():
            is_attention = name.startswith("attention")
            bound = ATTENTION_BOUND if is_attention else TOKENS_BOUND * max(1.0, value.std())
            difference = np.abs(np.asarray(found[name]) - value).max()
            assert difference <= bound, (size, name, difference, bound)


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
GAP = {"class_token": False, "reg_tokens": 4, "global_pool": "avg", "init_values": 0.3}

VISION_TRANSFORMERS = {
    "timm-gap": GAP | {"no_embed_class": True, "mlp_ratio": 5.6},
    "timm-gap slots": GAP | {"fc_norm": False, "init_values": None},
    "timm-gap bare": GAP | {"no_embed_class": True, "reg_tokens": 0, "qkv_bias": False},
    "timm normed": {"no_embed_class": True, "reg_tokens": 1, "qk_norm": True},
    "deit1 pooled": {"global_pool": "avg"},
    "timm-clip": {"pre_norm": True},
}


@pytest.mark.parametrize("name", VISION_TRANSFORMERS)
def test_vision_transformers_of_timm(torch, timm, tmp_path, name):
    from timm.models.vision_transformer import VisionTransformer

    epsilon = 1e-5 if name == "timm-clip" else 1e-6
    norm = functools.partial(torch.nn.LayerNorm, eps=epsilon)
    sizes = TINY | {"num_classes": 5, "norm_layer": norm}
    model = VisionTransformer(**sizes, dynamic_img_size=True, **VISION_TRANSFORMERS[name])
    model = shaken(torch, model)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", name.split()[0])
    assert match.config.pooling == ("patches" if model.global_pool == "avg" else "cls")
    assert_same(ours, tapped(torch, model))


EVA = TINY | {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "init_values": 0.3}
EVA |= {"dynamic_img_size": True, "num_classes": 0}
DINOV3 = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True}
DINOV3 |= {"num_reg_tokens": 4, "use_fc_norm": False, "global_pool": "token"}
GATED = {"swiglu_mlp": True, "swiglu_align_to": 8}
SBB = {"class_token": False, "ref_feat_shape": (16, 16), "num_classes": 5}


def eva(torch, **options):
    """timm's model with rotary positions."""
    from timm.models.eva import Eva

    epsilon = 1e-5 if "rope_type" in options else 1e-6
    norm = functools.partial(torch.nn.LayerNorm, eps=epsilon)
    return shaken(torch, Eva(**EVA | options, norm_layer=norm))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("timm-dinov3", DINOV3 | {"qkv_bias": False}),
        ("timm-dinov3", DINOV3 | GATED),
        ("timm-rope", SBB | {"num_reg_tokens": 1}),
        ("timm-rope", SBB | {"num_reg_tokens": 4, "qkv_bias": False}),
    ],
)
def test_rotary_models_of_timm(torch, timm, tmp_path, family, options):
    model = eva(torch, **options)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", family)
    assert match.config.qkv_bias == options.get("qkv_bias", True)
    assert_same(ours, tapped(torch, model))


@pytest.mark.parametrize("is_gated", [False, True])
def test_dinov3_as_its_authors_write_it(torch, timm, tmp_path, is_gated):
    """timm's own converter reads the names; masked biases of keys count for nothing."""
    from timm.models.eva import checkpoint_filter_fn

    model = eva(torch, **DINOV3 | (GATED if is_gated else {}))
    state = {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.ones(2)}
    renamed = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    renamed |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2"}
    renamed |= {"mlp.fc2": "mlp.w3"} if is_gated else {}
    for name, tensor in model.state_dict().items():
        for theirs, official in renamed.items():
            name = name.replace(theirs, official)
        state[name] = tensor
    for i in range(2):
        query, value = (state.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        state[f"blocks.{i}.attn.qkv.bias"] = torch.cat([query, torch.full((24,), 7.0), value])
        mask = torch.cat([torch.ones(24), torch.zeros(24), torch.ones(24)])
        state[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    model.load_state_dict(checkpoint_filter_fn(dict(state), model), strict=True)
    torch.save(state, tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", "dinov3")
    assert set(match.dropped) == {"mask_token", "rope_embed.periods"}
    assert_same(ours, tapped(torch, model))


def test_clip_as_openai_and_open_clip_write_it(torch, timm, tmp_path):
    """timm's own converter reads the names."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    options = {"pre_norm": True, "norm_layer": norm, "act_layer": "quick_gelu"}
    model = VisionTransformer(**TINY, num_classes=6, dynamic_img_size=True, **options)
    model = shaken(torch, model)
    torch.nn.init.zeros_(model.head.bias)
    state, theirs = {}, model.state_dict()
    renamed = {"patch_embed.proj": "conv1", "blocks.": "transformer.resblocks."}
    renamed |= {"norm_pre": "ln_pre", "norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc"}
    renamed |= {"mlp.fc2": "mlp.c_proj", "attn.qkv.": "attn.in_proj_"}
    renamed |= {"attn.proj": "attn.out_proj"}
    for name, tensor in theirs.items():
        for ours, official in renamed.items():
            name = name.replace(ours, official)
        state[f"visual.{name}"] = tensor
    for name in ("weight", "bias"):
        state[f"visual.ln_post.{name}"] = state.pop(f"visual.norm.{name}")
    state["visual.class_embedding"] = state.pop("visual.cls_token").flatten()
    state["visual.positional_embedding"] = state.pop("visual.pos_embed")[0]
    state["visual.proj"] = state.pop("visual.head.weight").T.contiguous()
    del state["visual.head.bias"]
    loaded = checkpoint_filter_fn(dict(state), model)
    for name, tensor in theirs.items():
        assert name == "head.bias" or torch.equal(loaded[name].reshape(tensor.shape), tensor)
    torch.save(state | {"logit_scale": torch.ones(())}, tmp_path / "file.pth")
    match, run = traced(tmp_path / "file.pth", "clip", mlp="quick_gelu")
    assert (match.config.head, match.config.num_classes) == ("projection", 6)
    assert_same(run, tapped(torch, model))


def test_torchvision(torch, timm, tmp_path):
    vision = pytest.importorskip("torchvision").models.VisionTransformer
    model = shaken(torch, vision(32, 8, 2, 3, 24, 96, num_classes=5))
    torch.save(model.state_dict(), tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", "torchvision")
    seen = {}
    for i, block in enumerate(model.encoder.layers):
        name = f"tokens after block {i}"
        block.register_forward_hook(lambda *args, name=name: seen.update({name: args[2].numpy()}))

    def theirs(images):
        with torch.no_grad():
            logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
        return seen | {"logits": logits}

    assert_same(ours, theirs, SIZES[:1])  # it takes no other size


@pytest.mark.parametrize("is_big_vision", [False, True])
def test_npz_files_of_google(torch, timm, tmp_path, is_big_vision):
    """timm's own loader reads the same file."""
    from timm.models.vision_transformer import VisionTransformer

    generator = np.random.default_rng(0)
    mha, mlp, second = (0, 0, 1) if is_big_vision else (1, 3, 2)
    positions = "pos_embedding" if is_big_vision else "Transformer/posembed_input/pos_embedding"
    shapes = {"cls": (1, 1, 24), positions: (1, 17, 24), "embedding/kernel": (8, 8, 3, 24)}
    shapes |= {"embedding/bias": (24,), "head/kernel": (24, 5), "head/bias": (5,)}
    for i in range(2):
        block = f"Transformer/encoderblock_{i}"
        heads = f"{block}/MultiHeadDotProductAttention_{mha}"
        for part in ("query", "key", "value"):
            shapes |= {f"{heads}/{part}/kernel": (24, 3, 8), f"{heads}/{part}/bias": (3, 8)}
        shapes |= {f"{heads}/out/kernel": (3, 8, 24), f"{heads}/out/bias": (24,)}
        for norm in (0, second):
            shapes |= {f"{block}/LayerNorm_{norm}/{part}": (24,) for part in ("scale", "bias")}
        dense = f"{block}/MlpBlock_{mlp}/Dense"
        shapes |= {f"{dense}_0/kernel": (24, 96), f"{dense}_0/bias": (96,)}
        shapes |= {f"{dense}_1/kernel": (96, 24), f"{dense}_1/bias": (24,)}
    shapes |= {f"Transformer/encoder_norm/{part}": (24,) for part in ("scale", "bias")}
    arrays = {k: generator.normal(size=v).astype(np.float32) * 0.3 for k, v in shapes.items()}
    prefix = "params/" if is_big_vision else "opt/target/"
    np.savez(tmp_path / "file.npz", **{prefix + name: array for name, array in arrays.items()})
    act = functools.partial(torch.nn.GELU, approximate="tanh" if is_big_vision else "none")
    model = VisionTransformer(**TINY, num_classes=5, dynamic_img_size=True, act_layer=act).eval()
    model.load_pretrained(str(tmp_path / "file.npz"))
    match, ours = traced(tmp_path / "file.npz", "big_vision" if is_big_vision else "augreg-jax")
    assert match.config.num_heads == 3  # known from the axis of heads
    assert_same(ours, tapped(torch, model))


def hugging_face(torch, model, **options):
    """A function that runs a model of transformers."""

    def run(images):
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        with torch.no_grad():
            output = model(pixels, output_hidden_states=True, output_attentions=True, **options)
        tokens, attention = output.hidden_states[1:], output.attentions
        found = {f"tokens after block {i}": x.numpy() for i, x in enumerate(tokens)}
        found |= {f"attention of block {i}": x.numpy() for i, x in enumerate(attention)}
        logits = getattr(output, "image_embeds", None)
        pooled = output.pooler_output if logits is None else logits
        return found | {"logits": pooled.numpy()}

    return run


@pytest.fixture
def transformers(timm):
    return pytest.importorskip("transformers", reason="transformers is not installed")


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32}
SMALL |= {"patch_size": 8, "intermediate_size": 48, "attn_implementation": "eager"}


@pytest.mark.parametrize("is_gated", [False, True])
def test_dinov3_of_transformers(torch, transformers, tmp_path, is_gated):
    options = {"use_gated_mlp": True, "hidden_act": "silu"} if is_gated else {}
    options |= {"num_register_tokens": 4, "layerscale_value": 0.3}
    config = transformers.DINOv3ViTConfig(**SMALL | options)
    model = shaken(torch, transformers.DINOv3ViTModel(config))
    model.save_pretrained(tmp_path / "folder")
    match, ours = traced(tmp_path / "folder", "hf-dinov3")
    assert match.config.num_registers == 4
    assert_same(ours, hugging_face(torch, model))


def test_clip_of_transformers(torch, transformers, tmp_path):
    config = transformers.CLIPVisionConfig(**SMALL, projection_dim=6)
    model = shaken(torch, transformers.CLIPVisionModelWithProjection(config))
    model.save_pretrained(tmp_path / "folder")
    match, ours = traced(tmp_path / "folder", "hf-clip")
    assert match.config.mlp == "quick_gelu"
    theirs = hugging_face(torch, model, interpolate_pos_encoding=True)
    assert_same(ours, theirs)


def vit5(torch, state, images, registers=4):
    """ViT-5 in plain PyTorch, depth 2, width 24, 3 heads, trained on 4 x 4 patches.

    Written from the equations of arXiv:2602.08071 and what `models_vit5.py` and `rope.py` of
    wangf3014/ViT-5 compute: RMSNorm, no biases of query, key and value, norms of queries and keys,
    registers after the patches, rotations of patches (base 10,000) and registers (base 100).
    """

    def rms(x, name):
        return state[f"{name}.weight"] * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()

    def spin(rows, cols, trained, base):
        """Complex factors of the 4 pairs of channels of every patch of a grid."""
        slow = base ** -(torch.arange(2.0) / 2)
        row, col = torch.meshgrid(
            torch.arange(rows) * trained[0] / rows,
            torch.arange(cols) * trained[1] / cols,
            indexing="ij",
        )
        angles = torch.cat([p.reshape(-1, 1) * slow for p in (row, col)], dim=1)
        return torch.polar(torch.ones_like(angles), angles)

    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    batch, _, height, width = pixels.shape
    rows, cols = height // 8, width // 8
    conv = torch.nn.functional.conv2d
    x = conv(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 8)
    x = x.flatten(2).transpose(1, 2) + state["pos_embed"]
    ends = [state[name].expand(batch, -1, -1) for name in ("cls_token", "reg_token")]
    x = torch.cat([ends[0], x, ends[1]], dim=1)
    still = torch.ones(1, 4, dtype=torch.complex64)
    spins = [still, spin(rows, cols, (4, 4), 1e4), spin(2, 2, (2, 2), 100.0)]
    spins = torch.cat(spins)[None, :, None]
    seen = {}
    for i in range(2):
        block = f"blocks.{i}"
        qkv = rms(x, f"{block}.norm1") @ state[f"{block}.attn.qkv.weight"].T
        query, key, value = qkv.reshape(batch, -1, 3, 3, 8).unbind(2)
        query, key = (rms(z, f"{block}.attn.{n}_norm") for n, z in (("q", query), ("k", key)))
        query, key = (
            torch.view_as_real(
                torch.view_as_complex(z.reshape(*z.shape[:-1], 4, 2).contiguous()) * spins
            ).flatten(-2)
            for z in (query, key)
        )
        attn = torch.einsum("btke,bske->bkts", query, key) / 8**0.5
        attn = attn.softmax(-1)
        seen[f"attention of block {i}"] = attn.numpy()
        out = torch.einsum("bkts,bske->btke", attn, value).flatten(2)
        out = out @ state[f"{block}.attn.proj.weight"].T + state[f"{block}.attn.proj.bias"]
        x = x + state[f"{block}.gamma_1"] * out
        hidden = rms(x, f"{block}.norm2") @ state[f"{block}.mlp.fc1.weight"].T
        hidden = torch.nn.functional.gelu(hidden + state[f"{block}.mlp.fc1.bias"])
        out = hidden @ state[f"{block}.mlp.fc2.weight"].T + state[f"{block}.mlp.fc2.bias"]
        x = x + state[f"{block}.gamma_2"] * out
        seen[f"tokens after block {i}"] = x.numpy()
    x = rms(x, "norm")
    logits = x[:, 0] @ state["head.weight"].T + state["head.bias"]
    return seen | {"tokens after the last norm": x.numpy(), "logits": logits.numpy()}


def test_vit5_against_its_equations(torch, tmp_path, as_family_has_it):
    from regvit_jax import ViTConfig
    from regvit_jax.convert.dialects import DIALECTS
    from regvit_jax.convert.rules import their_shapes

    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "image_size": 32}
    config = as_family_has_it(ViTConfig(**sizes, num_classes=5), "vit5")
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.3 * torch.randn(shape, generator=generator)
        for name, shape in their_shapes(DIALECTS["vit5"], config).items()
    }
    freqs = {"blocks.0.attn.rope.freqs": torch.ones(2)}
    torch.save({"model": state | freqs}, tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", "vit5")
    assert match.config == config
    assert match.dropped == ["blocks.0.attn.rope.freqs"]
    assert_same(ours, lambda images: vit5(torch, state, images), SIZES[:1])
    # Other sizes: its own code takes none with learned positions; ours resamples these.
    resized = ours(images_of(SIZES[2]))["logits"]
    assert np.isfinite(resized).all()


def test_what_a_headless_vit_is_depends_on_what_one_says(torch, tiny_vit, convert, tmp_path):
    """DINO, MAE and augreg have the same names, and other pixels."""
    model = tiny_vit(0, no_embed_class=False, init_values=None, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    torch.save({"model": model.state_dict() | decoder}, tmp_path / "mae.pth")
    said = {
        "plain": convert("import", tmp_path / "plain.pth", tmp_path / "1", "--num-heads", 3),
        "mae": convert("import", tmp_path / "mae.pth", tmp_path / "2", "--num-heads", 3),
        "augreg": convert(
            *("import", tmp_path / "plain.pth", tmp_path / "3"),
            *("--num-heads", 3, "--family", "augreg"),
        ),
    }
    assert "a headless ViT is DINO's" in said["plain"]
    assert "--family" in said["plain"]
    assert "from MAE (the encoder)" in said["mae"]
    assert "mask_token" in said["mae"]
    assert "mean and std 0.5" in said["augreg"]


def test_a_distillation_token_is_read_as_a_register(torch, timm, tmp_path):
    from timm.models.deit import VisionTransformerDistilled

    model = shaken(torch, VisionTransformerDistilled(**TINY, num_classes=5))
    torch.save(model.state_dict(), tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", "deit-distilled")
    assert match.config.num_registers == 1
    assert len(match.dropped) == 4  # two heads
    theirs = tapped(torch, model)

    def without_heads(images):
        found = theirs(images)
        return found | {"logits": found["tokens after the last norm"][:, 0]}

    assert_same(ours, without_heads, SIZES[:1])


def test_a_rectangular_grid_of_positions_is_taken_as_it_is_given(torch, timm, tmp_path, refused):
    from timm.models.vision_transformer import VisionTransformer

    options = TINY | {"img_size": (24, 48), "num_classes": 5, "dynamic_img_size": True}
    model = shaken(torch, VisionTransformer(**options, no_embed_class=True, reg_tokens=1))
    torch.save(model.state_dict(), tmp_path / "file.pth")
    message = refused("import", tmp_path / "file.pth", tmp_path / "out", "--num-heads", 3)
    assert "give their rows and columns: --grid" in message
    match, ours = traced(tmp_path / "file.pth", None, grid=(3, 6))
    assert match.config.grid == (3, 6)
    assert_same(ours, tapped(torch, model), ((24, 48), (32, 32)))


def test_dinov2_with_its_linear_head_reads_cls_and_the_mean_patch(torch, timm, tmp_path):
    """As `torch.hub` saves `dinov2_vits14_reg_lc`: the backbone, and a head beside it."""
    from timm.models.vision_transformer import VisionTransformer

    options = TINY | {"num_classes": 0, "init_values": 0.3, "reg_tokens": 2}
    model = shaken(torch, VisionTransformer(**options, no_embed_class=True, dynamic_img_size=True))
    state = {"backbone.mask_token": torch.zeros(1, 24)}
    for name, tensor in model.state_dict().items():
        state[f"backbone.{name.replace('reg_token', 'register_tokens')}"] = tensor
    blank = torch.zeros(1, 1, 24)
    state["backbone.pos_embed"] = torch.cat([blank, state["backbone.pos_embed"]], dim=1)
    head = torch.nn.Linear(48, 5)
    state |= {f"linear_head.{k}": v for k, v in head.state_dict().items()}
    torch.save(state, tmp_path / "file.pth")
    match, ours = traced(tmp_path / "file.pth", "dinov2")
    assert match.config.pooling == "cls_and_patches"
    run = tapped(torch, model)

    def theirs(images):
        found = run(images)
        tokens = torch.from_numpy(found["tokens after the last norm"])
        pooled = torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1)
        with torch.no_grad():
            return found | {"logits": head(pooled).numpy()}

    assert_same(ours, theirs)
