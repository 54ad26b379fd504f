"""Tiny checkpoints as PyTorch programs write them; torch and timm are the other side."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

State = dict[str, "torch.Tensor"]


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def tiny_vit(torch, timm) -> Callable:
    """Builds timm's transformer, 24 wide and 2 deep, with weights far from their start values."""
    from timm.models.vision_transformer import VisionTransformer

    def build(reg_tokens: int = 4, **changes):
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        options = {"num_classes": 5, "no_embed_class": True, "init_values": 0.3, **changes}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(reg_tokens)
            model = VisionTransformer(**sizes | options, reg_tokens=reg_tokens).eval()
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        return model

    return build


def to_study(state: State) -> State:
    """timm's names as the study and DeiT-III's authors write them."""
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2", "reg_token": "reg_tokens"}
    renamed = {}
    for name, tensor in state.items():
        for theirs, studys in names.items():
            name = name.replace(theirs, studys)
        renamed[name] = tensor
    return renamed


@pytest.fixture(scope="session")
def study_state(tiny_vit) -> Callable[..., State]:
    """The tensors of a tiny model of the study's."""
    return lambda reg_tokens=4, **changes: to_study(tiny_vit(reg_tokens, **changes).state_dict())


@pytest.fixture(scope="session")
def study_file(torch, study_state, tmp_path_factory) -> Path:
    """A checkpoint as the study's training writes it, optimizer and arguments included."""
    state = study_state()
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in state.values()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base_values": [4e-3], "metric": math.nan},
        "epoch": 799,
        "model_ema": {name: 2 * tensor for name, tensor in state.items()},
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="deit_tiny_test", lr=4e-3, cutmix_minmax=None),
    }
    path = tmp_path_factory.mktemp("study") / "checkpoint_799.pth"
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def probe(torch, timm):
    """The network that reconstructs patches, as the study built it, 24 -> 12 -> 192."""
    from timm.layers import Mlp

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mlp(24, 12, 192).eval()


@pytest.fixture(scope="session")
def probe_file(torch, probe, tmp_path_factory) -> Path:
    """The probe as the study saved it."""
    path = tmp_path_factory.mktemp("probe") / "probe.pth"
    content = {"epoch": 9, "model_state_dict": probe.state_dict(), "loss": 0.5, "val_loss": 0.6}
    torch.save({**content, "checkpoint_type": "best"}, path)
    return path


@pytest.fixture
def convert(monkeypatch, capsys) -> Callable[..., str]:
    """Runs `regvit-convert` and gives what it printed."""
    from regvit_jax.convert.cli import main

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["regvit-convert", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(monkeypatch, capsys) -> Callable[..., str]:
    """Runs `regvit-convert`, which must end with status 2 and a message; gives the message."""
    from regvit_jax.convert.cli import main

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["regvit-convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        message = capsys.readouterr().err
        assert ended.value.code == 2
        assert message.startswith("Error: ")
        assert "Traceback" not in message
        return message

    return run


@pytest.fixture(scope="session")
def as_family_has_it() -> Callable:
    """The nearest configuration that a family can hold."""
    from regvit_jax.convert.dialect import parts_of
    from regvit_jax.convert.dialects import DIALECTS

    def nearest(config, family):
        dialect, wanted = DIALECTS[family], parts_of(config)
        parts = {
            part: has and (wanted[part] or part not in dialect.may_lack)
            for part, has in dialect.has.items()
        }
        registers = config.num_registers if dialect.reg_tokens else 0
        if "register_rope_base" in dialect.fixed:
            registers = 4
        classes = (config.num_classes or 9) if parts["head"] else 0
        fixed = {k: v for k, v in dialect.fixed.items() if k not in ("pooling", "grid")}
        if not parts["pos_embed"]:
            fixed["image_size"] = config.patch_size * dialect.fixed.get("grid", (14,))[0]
        if not classes:
            fixed.pop("head", None)
        is_gated = config.mlp == "swiglu" and dialect.gated_layers
        return dataclasses.replace(
            config,
            num_registers=registers,
            num_classes=classes,
            layer_scale=parts["layer_scale"],
            class_token=parts["cls_token"],
            pos_embed=parts["pos_embed"],
            patch_bias=parts["patch_bias"],
            qkv_bias=parts["qkv_bias"],
            qk_norm=parts["qk_norm"],
            norm_pre=parts["norm_pre"],
            pooled_norm=parts["fc_norm"],
            pooling="patches" if parts["fc_norm"] else dialect.pooling(parts["cls_token"], classes),
            num_heads=dialect.heads.get(config.embed_dim, config.num_heads),
            mlp="swiglu" if is_gated else dialect.non_linearity,
            layer_norm_epsilon=dialect.layer_norm_epsilon,
            pos_resampling=dialect.resampling(registers),
            **fixed,
        )

    return nearest


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Two images of 32 x 32 px, channels last."""
    return np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
