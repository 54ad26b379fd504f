"""Networks are found in wrappers and under prefixes; what else a file holds is named."""

import json

import numpy as np
import pytest

from regvit_jax import InputError
from regvit_jax.convert.importing import import_checkpoint
from regvit_jax.convert.verification import verify
from regvit_jax.convert.weights import read_weights


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def doubled(state):
    return {name: 2 * value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "model.",
        "net.",
        "encoder.",
        "backbone.",
        "model.backbone.",
        "module.base_encoder.",
        "teacher.",
        "student.backbone.",
        "a.b.c.d.",
        "_orig_mod.module.model._orig_mod.",
    ],
)
def test_a_network_is_found_under_any_prefix(torch, study_state, tmp_path, prefix):
    head = {"projection.0.weight": torch.ones(3, 3), "loss.center": torch.ones(1)}
    torch.save({"state_dict": under(prefix, study_state()) | head}, tmp_path / "file.pth")
    weights = read_weights(tmp_path / "file.pth")
    assert weights.tensors.keys() == study_state().keys()
    told = " ".join(weights.left_out)
    assert "state_dict.projection (1 tensor)" in told
    assert "state_dict.loss (1 tensor)" in told


@pytest.mark.parametrize(
    "segment",
    ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module."],
)
def test_segments_of_wrappers_are_looked_through_anywhere(torch, study_state, tmp_path, segment):
    state = {
        name.replace("blocks.1.", f"blocks.1.{segment}").replace("attn.", f"attn.{segment}"): value
        for name, value in study_state().items()
    }
    torch.save({"model": under(segment, state)}, tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "out", num_heads=3)
    assert verify(tmp_path / "out", tmp_path / "file.pth").passed


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"teacher": state, "student": doubled(state)},
        lambda state: {"model": {"teacher": under("backbone.", state)}, "epoch": 3},
        lambda state: (
            under("teacher.backbone.", state) | under("student.backbone.", doubled(state))
        ),
        lambda state: {"state_dict": state, "state_dict_ema": doubled(state)},
        lambda state: {"ema": doubled(state), "net": under("module.", state)},
        lambda state: under("encoder_q.", state) | under("encoder_k.", doubled(state)),
    ],
)
def test_of_several_copies_the_usual_one_is_taken(torch, study_state, tmp_path, wrap):
    state = study_state()
    torch.save(wrap(state), tmp_path / "file.pth")
    found = read_weights(tmp_path / "file.pth").tensors["norm.bias"].read()
    np.testing.assert_array_equal(found, state["norm.bias"].numpy())


def test_the_copy_can_be_chosen_and_verify_finds_it_again(
    torch, study_state, tmp_path, convert, refused
):
    state = study_state()
    content = {"teacher": under("backbone.", state), "student": under("backbone.", doubled(state))}
    torch.save(content, tmp_path / "file.pth")
    path, choose = tmp_path / "file.pth", ("--num-heads", 3)
    printed = convert("import", path, tmp_path / "t", *choose)
    assert "Took `teacher.backbone.`" in printed
    assert f"student ({len(state)} tensors)" in printed
    printed = convert("import", path, tmp_path / "s", "--weights", "student", *choose)
    assert json.loads((tmp_path / "s/config.json").read_text())["source"]["weights"] == (
        "student.backbone"
    )
    convert("import", path, tmp_path / "p", "--prefix", "student.backbone", *choose)
    for name in "tsp":
        assert verify(tmp_path / name, path).passed
    assert "no moving average" in refused("import", path, tmp_path / "e", "--model-ema")
    message = refused("import", path, tmp_path / "e", "--prefix", "teacher.head")
    assert "Weights of a transformer lie under 'teacher.backbone.'" in message


def test_what_training_leaves_among_the_weights_is_left_out(torch, study_state, tmp_path, convert):
    """As `torch.optim.swa_utils.AveragedModel` and masked pretraining write it."""
    state = {f"module.{name}": tensor for name, tensor in study_state().items()}
    state |= {"n_averaged": torch.tensor(3), "module.mask_token": torch.zeros(1, 1, 24)}
    path = tmp_path / "swa.pth"
    torch.save(state, path)
    said = convert("import", path, tmp_path / "out", "--num-heads", 3)
    assert "Left out: mask_token, n_averaged." in said
    assert "Equal" in convert("verify", tmp_path / "out", "--against", path)


def test_two_networks_of_equal_right_are_refused(torch, study_state, tmp_path):
    torch.save(
        under("left.", study_state()) | under("right.", study_state()), tmp_path / "file.pth"
    )
    with pytest.raises(InputError, match=r"more than one network: under 'left\.', 'right\.'"):
        read_weights(tmp_path / "file.pth")
    assert read_weights(tmp_path / "file.pth", prefix="right.").prefix == "right."


def test_a_model_of_no_family_is_told_by_its_names_and_not_by_defaults(torch, tmp_path, refused):
    state = {f"backbone.layer{i}.conv.weight": torch.zeros(3, 3) for i in range(4)}
    torch.save(state, tmp_path / "resnet.pth")
    message = refused("inspect", tmp_path / "resnet.pth")
    assert "all names start with `backbone.`" in message
    assert "mmpretrain" in message
    assert "384" not in message
    assert "blocks of width" not in message


def test_names_of_mmpretrain_are_known(torch, tiny_vit, tmp_path):
    names = {"blocks.": "layers.", "norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0"}
    names |= {"mlp.fc2": "ffn.layers.1", "patch_embed.proj": "patch_embed.projection"}
    names |= {"ls1.gamma": "attn.gamma1.weight", "ls2.gamma": "ffn.gamma2.weight"}
    for family, options in {
        "mmpretrain": {"no_embed_class": False, "init_values": None},
        "mmpretrain-deit3": {},
    }.items():
        state = {}
        for name, value in tiny_vit(0, **options).state_dict().items():
            for timms, theirs in names.items():
                name = name.replace(timms, theirs)
            name = name.replace("norm.", "ln1.") if name.startswith("norm.") else name
            outer = "head.layers." if name.startswith("head.") else "backbone."
            state[outer + name] = value
        content = {"meta": {"CLASSES": tuple("abcde"), "epoch": 1}, "state_dict": state}
        torch.save(content, tmp_path / f"{family}.pth")
        imported = import_checkpoint(tmp_path / f"{family}.pth", tmp_path / family, num_heads=3)
        assert (imported.family, imported.dropped) == (family, [])
        assert imported.decision.class_names == tuple("abcde")
        assert verify(tmp_path / family, tmp_path / f"{family}.pth").passed


@pytest.mark.parametrize("kind", ["bin", "sft", "chunks", "legacy"])
def test_verify_reads_whatever_import_reads(torch, study_state, tmp_path, kind):
    state = study_state()
    if kind == "chunks":
        state = {name.replace("blocks.", "blocks.0."): value for name, value in state.items()}
        torch.save(state, tmp_path / "file")
    elif kind == "legacy":
        torch.save(state, tmp_path / "file", _use_new_zipfile_serialization=False)
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(state, tmp_path / "file")
    path = (tmp_path / "file").rename(tmp_path / f"file.{kind}")
    import_checkpoint(path, tmp_path / "out", num_heads=3)
    result = verify(tmp_path / "out", path)
    assert result.passed
    assert len(result.rows) > 5
