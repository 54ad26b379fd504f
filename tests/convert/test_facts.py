"""What a checkpoint's files say is used, what contradicts is refused, the rest assumed aloud."""

import argparse
import json
import shutil

import pytest

from regvit_jax import InputError
from regvit_jax.checkpoint import read_info
from regvit_jax.convert.importing import import_checkpoint
from regvit_jax.convert.verification import verify

AUGREG = {
    "input_size": [3, 32, 32],
    "fixed_input_size": True,
    "interpolation": "bilinear",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "label_names": ["a", "b", "c", "d", "e"],
}


@pytest.fixture
def timm_folder(torch, tiny_vit, tmp_path):
    """A folder as timm's hub has it; changes go into `pretrained_cfg`, `top` beside it."""
    safetensors = pytest.importorskip("safetensors.torch")

    def write(top=None, **changes):
        folder = tmp_path / "hub"
        folder.mkdir()
        model = tiny_vit(0, no_embed_class=False, init_values=None)
        safetensors.save_file(model.state_dict(), folder / "model.safetensors")
        config = {"architecture": "vit_test", "num_classes": 5, "model_args": {"num_heads": 3}}
        config |= {"pretrained_cfg": AUGREG | changes}
        (folder / "config.json").write_text(json.dumps(config | (top or {})))
        return folder

    return write


def test_the_pixels_of_a_timm_folder_are_those_of_its_configuration(timm_folder, tmp_path):
    import_checkpoint(str(timm_folder()), str(tmp_path / "out"))
    info = read_info(tmp_path / "out")
    assert info.preprocess.mean == info.preprocess.std == (0.5, 0.5, 0.5)
    assert (info.preprocess.height, info.preprocess.short_side) == (32, 35)  # floor(32 / 0.9)
    assert info.preprocess.interpolation == "bilinear"
    assert info.class_names == ("a", "b", "c", "d", "e")
    assert info.model.num_heads == 3
    told = {item["what"] for item in info.source["assumed"]}
    assert told == {"activation", "LayerNorm epsilon", "input of the head"}
    result = verify(tmp_path / "out", tmp_path / "hub")
    assert result.passed
    assert "timm's own transform" in result.method


def test_a_stretched_picture_without_normalisation_is_prepared_as_timm_does(timm_folder, tmp_path):
    folder = timm_folder(crop_mode="squash", crop_pct=1.0, mean=[0, 0, 0], std=[1, 1, 1])
    import_checkpoint(folder, tmp_path / "out")
    preprocess = read_info(tmp_path / "out").preprocess
    assert (preprocess.resize, preprocess.mean) == ("squash", (0.0, 0.0, 0.0))
    assert verify(tmp_path / "out", folder).passed


def test_a_crop_that_a_timm_folder_leaves_out_is_timms_default(timm_folder, tmp_path):
    folder = timm_folder(crop_pct=None)
    import_checkpoint(folder, tmp_path / "out")
    assert read_info(tmp_path / "out").preprocess.short_side == 36  # 32 px are 0.875 of it
    assert verify(tmp_path / "out", folder).passed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": [0.5, 0, 0.5]}, r"config\.json: pretrained_cfg\.std is 0"),
        ({"std": float("nan")}, r"pretrained_cfg\.std is nan"),
        ({"mean": "0.5"}, r"pretrained_cfg\.mean is '0\.5', expected a number"),
        ({"crop_pct": 1.5}, r"pretrained_cfg\.crop_pct is 1\.5"),
        ({"crop_pct": True}, r"pretrained_cfg\.crop_pct is True"),
        ({"interpolation": "random"}, r"interpolation is 'random'.*--interpolation"),
        ({"crop_mode": "border"}, r"crop_mode asks for a border around the image.*--crop"),
        ({"crop_mode": "squash"}, r"crop_mode asks for both sides to be resized and then a crop"),
        ({"input_size": [1, 32, 32]}, r"input_size is 1 channels"),
        ({"input_size": [3, 64, 64]}, r"image size of 64, but the tensors of .* 32"),
        ({"label_names": ["a"]}, r"names 1 classes, but the head in .* has 5 outputs"),
        ({"top": {"num_classes": 7}}, r"classes: 7, but the tensors of .* classes: 5"),
        ({"top": {"model_args": {"num_heads": 5}}}, r"says 5 heads, but .* width 24"),
        ({"top": {"model_args": {"act_layer": "relu"}}}, r"act_layer is 'relu'"),
        ({"top": {"global_pool": "map"}}, r"global_pool is 'map'"),
        (
            {"top": {"model_args": {"num_heads": 3, "global_pool": "map"}}},
            r"model_args\.global_pool is 'map'",
        ),
        (
            {"top": {"model_args": {"num_heads": 3, "act_layer": "silu"}}},
            r"act_layer says that the MLPs are gated",
        ),
        (
            {"top": {"architecture": "vit_base_patch16_rpn_224"}},
            r"architecture is vit_base_patch16_rpn_224, expected blocks whose norms come before",
        ),
        ({"top": {"pretrained_cfg": []}}, r"pretrained_cfg is a list"),
    ],
)
def test_what_cannot_be_is_refused_with_file_and_field(timm_folder, tmp_path, changes, message):
    with pytest.raises(InputError, match=f"(?s)config\\.json.*{message}|{message}"):
        import_checkpoint(timm_folder(**changes), tmp_path / "out", role=None)
    assert not (tmp_path / "out").exists()


def test_options_say_otherwise_and_verify_remembers_them(timm_folder, tmp_path, convert):
    folder = timm_folder(crop_mode="border")
    said = ("--mean", 0.1, "--std", 0.2, 0.3, 0.4, "--crop", 0.5, "--interpolation", "bicubic")
    printed = convert("import", folder, tmp_path / "out", *said)
    (read,) = (line for line in printed.splitlines() if line.startswith("Read from"))
    assert "input_size" in read
    assert not set(read[:-1].split(", ")) & {"mean", "std", "crop_pct", "crop_mode"}
    info = read_info(tmp_path / "out")
    assert (info.preprocess.mean, info.preprocess.short_side) == ((0.1, 0.1, 0.1), 64)
    assert info.preprocess.std == (0.2, 0.3, 0.4)
    assert verify(tmp_path / "out", folder).passed


def test_what_no_file_says_is_told_kept_and_repeated(torch, tiny_vit, tmp_path, convert):
    model = tiny_vit(0, embed_dim=192, num_heads=12, num_classes=0)  # MoCo's way: 12, not 3
    torch.save(model.state_dict(), tmp_path / "file.pth")
    printed = convert("import", tmp_path / "file.pth", tmp_path / "out")
    line = next(line for line in printed.splitlines() if line.startswith("Assumed: "))
    for word in ("3 heads", "ImageNet mean and std", "exact GELU", "epsilon 1e-6", "--num-heads"):
        assert word in line
    kept = read_info(tmp_path / "out").source["assumed"]
    assert {"what": "attention heads", "value": 3, "option": "--num-heads"}.items() <= kept[
        0
    ].items()
    printed = convert("verify", tmp_path / "out", "--against", tmp_path / "file.pth")
    assert "Equal, given what was assumed: 3 heads, ImageNet mean" in printed
    assert "3 heads" in convert("inspect", tmp_path / "out")


def test_training_arguments_are_read(torch, tiny_vit, tmp_path, refused):
    arguments = {"model": "deit_small_patch16_LS", "input_size": 32, "eval_crop_ratio": 0.5}
    arguments |= {"mean": [0.5, 0.5, 0.5], "std": [0.25], "interpolation": None}
    state = tiny_vit(0, embed_dim=384, num_heads=6).state_dict()
    path = tmp_path / "file.pth"
    torch.save({"model": state, "args": argparse.Namespace(**arguments)}, path)
    import_checkpoint(path, tmp_path / "out")
    info = read_info(tmp_path / "out")
    assert (info.preprocess.height, info.preprocess.short_side) == (32, 64)
    assert (info.preprocess.mean, info.preprocess.std) == ((0.5,) * 3, (0.25,) * 3)
    told = {item["what"] for item in info.source["assumed"]}
    assert not told & {"attention heads", "mean and std", "crop"}
    for name, value, message in (("input_size", 64, "64, but the"), ("std", [0.0], "std is 0")):
        changed = argparse.Namespace(**arguments | {name: value})
        torch.save({"model": state, "args": changed}, path)
        assert message in refused("import", path, tmp_path / "other")


def test_a_model_that_timm_builds_by_name_needs_no_assumption(torch, timm, tmp_path, convert):
    safetensors = pytest.importorskip("safetensors.torch")
    folder = tmp_path / "hub"
    folder.mkdir()
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    safetensors.save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 32}}
    config |= {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "config.json").write_text(json.dumps(config))
    assert "crop_pct (timm's default)" in convert("import", folder, tmp_path / "out")
    printed = convert("verify", tmp_path / "out", "--against", folder)
    assert "timm's vit_tiny_patch16_224 after timm's own transform" in printed
    assert "\nEqual.\n" in printed


def test_moco_has_twelve_heads(torch, tiny_vit, tmp_path):
    state = tiny_vit(0, embed_dim=384, num_heads=12, num_classes=0).state_dict()
    named = {f"module.base_encoder.{name}": value for name, value in state.items()}
    named |= {f"module.momentum_encoder.{name}": value for name, value in state.items()}
    torch.save({"arch": "vit_small", "state_dict": named}, tmp_path / "moco.pth")
    imported = import_checkpoint(tmp_path / "moco.pth", tmp_path / "out")
    assert imported.config.num_heads == 12
    assert imported.weights.prefix == "state_dict.base_encoder."
    assert imported.weights.passed_over == ("state_dict.momentum_encoder.",)


PROCESSORS = {
    "ViT": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "Bit": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 51},
        "crop_size": {"height": 40, "width": 40},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "unscaled": {
        "image_processor_type": "ViTImageProcessor",
        "size": 32,
        "resample": 3,
        "do_rescale": False,
        "image_mean": [127.5, 127.5, 127.5],
        "image_std": [127.5, 127.5, 127.5],
    },
    "raw": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "do_normalize": False,
        "resample": 2,
    },
}


@pytest.fixture
def transformers_folder(torch, timm, tmp_path, capsys):
    """A folder of transformers with an image processor and class names."""
    transformers = pytest.importorskip("transformers")

    def write(processor, model="ViT", **changes):
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
        sizes |= {"image_size": 32, "patch_size": 8}
        folder = tmp_path / "folder"
        if model == "ViT":
            names = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
            config = transformers.ViTConfig(**sizes, **names)
            transformers.ViTForImageClassification(config).save_pretrained(folder)
        else:
            transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        capsys.readouterr()  # transformers' progress
        return folder

    return write


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_image_processor(transformers_folder, tmp_path, name):
    folder = transformers_folder(PROCESSORS[name], "Dinov2" if name == "Bit" else "ViT")
    import_checkpoint(folder, tmp_path / "out")
    result = verify(tmp_path / "out", folder)
    assert "transformers' own image processor" in result.method
    assert [row for row in result.rows if not row.passed] == []
    assert not result.assumed
    if name != "Bit":
        assert read_info(tmp_path / "out").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 7}, "says 7 heads, but"),
        ({"num_attention_heads": "3"}, "num_attention_heads is '3'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
        ({"hidden_size": 48}, "tokens of width 48, but the tensors of"),
        ({"image_size": [32, 64]}, "image_size is 32 x 64 px"),
        ({"hidden_act": ["gelu"]}, "hidden_act is a list"),
        ({"hidden_act": "relu"}, "non-linearity 'relu'"),
        ({"model_type": "beit"}, "type 'beit', which is not supported; known are vit"),
        ({"model_type": 3}, "model_type is 3"),
        ({"id2label": ["a", "b"]}, "id2label is a list"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": {"0": "a", "1": None}}, "id2label.1 is null"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "classes: 3, but the tensors"),
        ({"qkv_bias": False}, "qkv_bias is false"),
        ({"intermediate_size": 48}, "MLPs of width 48, but the tensors of"),
        ({"intermediate_size": None, "mlp_ratio": 2}, "MLPs of width 48, but the tensors of"),
    ],
)
def test_a_damaged_configuration_of_transformers_is_one_sentence(
    transformers_folder, tmp_path, refused, changes, message
):
    folder = transformers_folder(PROCESSORS["ViT"], **changes)
    assert message in refused("import", folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": [0, 1, 1]}, "image_std is 0"),
        ({"image_std": None, "image_mean": "x"}, "image_mean is 'x'"),
        ({"size": {"width": 32}}, "size is ['width']"),
        ({"size": {"height": 32, "width": 16}}, "size is 32 x 16 px"),
        ({"size": {"height": 64, "width": 64}}, "says 64 px, but the positions are those of 32"),
        ({"resample": 1}, "'lanczos'; known here are bicubic and bilinear"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"do_resize": False}, "do_resize asks for images that are not resized"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is true, expected false"),
        ({"offset": True}, "offset is true, expected false: no such step is known here"),
        ({"size": {"shortest_edge": 20}, "crop_size": 32}, "crop_size is 32 px, expected at most"),
    ],
)
def test_a_damaged_image_processor_is_one_sentence(
    transformers_folder, tmp_path, refused, changes, message
):
    folder = transformers_folder(PROCESSORS["ViT"] | changes)
    assert message in refused("import", folder, tmp_path / "out")


def test_the_processor_of_newer_folders_is_read_from_their_own_file(transformers_folder, tmp_path):
    folder = transformers_folder({})
    (folder / "preprocessor_config.json").unlink()
    processor = {"image_processor": PROCESSORS["Bit"] | {"size": {"shortest_edge": 36}}}
    processor["image_processor"] |= {"crop_size": {"height": 32, "width": 32}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    import_checkpoint(folder, tmp_path / "out")
    assert read_info(tmp_path / "out").preprocess.short_side == 36
    result = verify(tmp_path / "out", folder)
    assert result.passed
    assert "transformers' own image processor" in result.method


def test_a_processor_that_works_on_tensors_only_is_not_the_judge(
    transformers_folder, tmp_path, capsys
):
    folder = transformers_folder({"image_processor_type": "DINOv3ViTImageProcessor", "size": 32})
    import_checkpoint(folder, tmp_path / "out")
    capsys.readouterr()
    result = verify(tmp_path / "out", folder)
    assert "torchvision's transforms" in result.method
    assert result.passed
    assert capsys.readouterr().err == ""


def test_a_folder_that_does_not_say_its_type_is_verified_as_it_was_understood(
    transformers_folder, tmp_path
):
    folder = transformers_folder({"size": 32}, mlp_ratio=4)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    import_checkpoint(folder, tmp_path / "out")
    assert verify(tmp_path / "out", folder).passed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adapter_model.safetensors", "it holds an adapter alone. Merge it"),
        ("__0_0.distcp", "dcp_to_torch FOLDER FILE"),
        ("saved_model.pb", "it is a model of TensorFlow"),
        ("data.pkl", "it is a PyTorch file that was unpacked. Zip it again: zip -0"),
    ],
)
def test_folders_of_other_kinds_are_called_by_their_name(tmp_path, refused, name, message):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "data").mkdir()
    assert message in refused("import", tmp_path, tmp_path / "out")


def test_other_weights_in_the_folder_are_named(transformers_folder, tmp_path, refused):
    folder = transformers_folder(PROCESSORS["ViT"])
    shutil.copy(folder / "model.safetensors", folder / "old.safetensors")
    assert "holds old.safetensors beside model.safetensors" in refused(
        "import", folder, tmp_path / "out"
    )
    (folder / "old.safetensors").rename(folder / "pytorch_model.bin")  # a name proves nothing
    import_checkpoint(folder, tmp_path / "out")
    assert "pytorch_model.bin and its like" in read_info(tmp_path / "out").source["left_out"]
    (folder / "model.safetensors").unlink()
    import_checkpoint(folder, tmp_path / "bin")
    assert verify(tmp_path / "bin", folder).passed


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model-00001-of-00002.safetensors"}, "lacks model-00001-of-00002.safetensors"),
        ({"a": "../../model.safetensors"}, "which is no file of the folder"),
        ({"a": 3}, "weight_map is 3, expected a text"),
        ([], "weight_map is a list"),
        ({"a": "weights.safetensors"}, "says that a lies in weights.safetensors"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    transformers_folder, tmp_path, refused, weight_map, message
):
    folder = transformers_folder(PROCESSORS["ViT"])
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert message in refused("import", folder, tmp_path / "out")


@pytest.mark.parametrize(("said", "pooling"), [("avg", "patches"), ("token", "cls")])
def test_what_a_headless_folder_pools_is_what_it_says(torch, timm, tmp_path, said, pooling):
    """timm gives DINOv3 the mean of the patches, its authors CLS."""
    safetensors = pytest.importorskip("safetensors.torch")
    from timm.models.eva import Eva

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    options = {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_rotate_half": True}
    options |= {"rope_type": "dinov3", "rope_temperature": 100, "init_values": 0.3}
    model = Eva(**sizes, **options, num_reg_tokens=4, num_classes=0, use_fc_norm=False)
    folder = tmp_path / "hub"
    folder.mkdir()
    safetensors.save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_test", "num_classes": 0, "global_pool": said}
    config |= {"pretrained_cfg": AUGREG, "model_args": {"num_heads": 3}}
    (folder / "config.json").write_text(json.dumps(config))
    import_checkpoint(folder, tmp_path / "out")
    assert read_info(tmp_path / "out").model.pooling == pooling
    assert verify(tmp_path / "out", folder).passed


@pytest.fixture
def open_clip_folder(torch, tmp_path):
    """A folder as OpenCLIP's hub has it: both towers in one file, and its configuration."""
    from regvit_jax import ViTConfig
    from regvit_jax.convert.dialects import DIALECTS
    from regvit_jax.convert.rules import their_shapes

    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "image_size": 32}
    config = ViTConfig(
        **sizes,
        num_classes=6,
        head="projection",
        norm_pre=True,
        patch_bias=False,
        layer_scale=False,
    )
    shapes = their_shapes(DIALECTS["clip"], config)

    def write(quick_gelu=True, **preprocess):
        folder = tmp_path / "clip"
        folder.mkdir()
        state = {f"visual.{name}": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
        state |= {"positional_embedding": torch.zeros(77, 16), "logit_scale": torch.ones(())}
        torch.save(state, folder / "open_clip_pytorch_model.bin")
        tower = {"image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 8}
        values = {"model_cfg": {"embed_dim": 6, "vision_cfg": tower, "quick_gelu": quick_gelu}}
        pixels = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic"}
        values |= {"preprocess_cfg": pixels | preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(values))
        return folder

    return write


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_folder_of_open_clip_tells_all_of_its_image_tower(
    timm, open_clip_folder, tmp_path, quick_gelu
):
    folder = open_clip_folder(quick_gelu)
    imported = import_checkpoint(folder, tmp_path / "out")
    info = read_info(tmp_path / "out")
    assert info.model.mlp == ("quick_gelu" if quick_gelu else "gelu")
    assert (info.model.num_heads, info.preprocess.mean) == (3, (0.4, 0.5, 0.6))
    assert not imported.decision.assumed or {a.what for a in imported.decision.assumed} == {
        "LayerNorm epsilon"
    }
    assert "positional_embedding" in " ".join(imported.dropped)
    assert verify(tmp_path / "out", folder).passed


def test_a_damaged_configuration_of_open_clip_is_one_sentence(open_clip_folder, tmp_path):
    folder = open_clip_folder(resize_mode="longest")
    with pytest.raises(InputError, match="resize_mode is 'longest', expected 'shortest'"):
        import_checkpoint(folder, tmp_path / "out")
