import pytest

from regvit_jax import InputError
from regvit_jax.convert.weights import read_weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<HTML>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "is compressed"),
        (b"\x80\x04\x95\x00", "is a pickle that torch.save did not write"),
        (b'{"model_type": "vit"}', "is text"),
        (b"[InternetShortcut]\nURL=http://a\n", "is text, not weights"),
        (b"UEsDBAAA" * 90, "is text, not weights"),
        (bytes(600), "starts with zeros alone"),
        (b"\xff\xd8\xff\xe0 a photograph", "is no checkpoint of a known kind"),
        (b"PK\x03\x04 cut", "is cut short or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(refused, tmp_path, content, message):
    path = tmp_path / "deit_3_small_224_1k.pth"
    path.write_bytes(content)
    for arguments in (["inspect", path], ["import", path, tmp_path / "out"]):
        assert f"{path} {message}" in refused(*arguments)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_there_is_named(refused, tmp_path):
    assert "There is no file" in refused("inspect", tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not named tensors"),
        ({}, "holds no tensors"),
        ({"a": 1}, r"holds 'a' \(int\) where named tensors were expected"),
        ({"model": {"a": "b"}}, r"holds 'model.a' \(str\)"),
    ],
)
def test_a_pytorch_file_without_tensors_is_refused(torch, tmp_path, content, message):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "file.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_models_are_taken_off(torch, tmp_path, prefix):
    torch.save({prefix + "norm.weight": torch.ones(3)}, tmp_path / "file.pth")
    assert list(read_weights(tmp_path / "file.pth").tensors) == ["norm.weight"]


def test_blocks_in_chunks_are_counted_through(torch, tmp_path):
    state = {f"blocks.{i // 2}.{i}.norm1.bias": torch.zeros(3) for i in range(4)}
    torch.save(state, tmp_path / "file.pth")
    expected = [f"blocks.{i}.norm1.bias" for i in range(4)]
    assert list(read_weights(tmp_path / "file.pth").tensors) == expected


def test_what_training_saved_beside_the_weights_is_told(study_file):
    about = read_weights(study_file).about
    assert about["epoch"] == 799
    assert about["args"] == {"model": "deit_tiny_test", "lr": 4e-3}
    assert about["has_model_ema"] is True


def test_the_moving_average_is_taken_only_where_there_is_one(torch, study_file, tmp_path):
    plain = read_weights(study_file).tensors["norm.bias"].read()
    average = read_weights(study_file, model_ema=True).tensors["norm.bias"].read()
    assert (average == 2 * plain).all()
    torch.save({"a": torch.ones(1)}, tmp_path / "flat.pth")
    with pytest.raises(InputError, match="Leave out --model-ema"):
        read_weights(tmp_path / "flat.pth", model_ema=True)
