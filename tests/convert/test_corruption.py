"""Whatever happens to a file, it is refused with a sentence or read correctly, and never hangs."""

import json
import struct

import numpy as np
import pytest

from regvit_jax import InputError, ViTConfig
from regvit_jax.convert import pth_writing, safetensors
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.exporting import to_theirs
from regvit_jax.convert.importing import to_ours
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.rules import our_shapes
from regvit_jax.convert.weights import read_weights

CONFIG = ViTConfig(
    embed_dim=24, depth=1, num_heads=3, patch_size=4, image_size=8, num_registers=2, num_classes=3
)
FORMATS = ("zip", "before-1.6", "ours", "safetensors", "msgpack")
CORRUPTIONS_PER_FORMAT = 20  # `python -m benchmarks.fuzz` tries a thousand


@pytest.fixture(scope="module")
def params():
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in our_shapes(CONFIG).items()
    }


@pytest.fixture(scope="module")
def real_files(torch, params, tmp_path_factory):
    """The same model in every format that can be read."""
    from flax import serialization

    folder = tmp_path_factory.mktemp("real")
    tensors = to_theirs(params, DIALECTS["deit"], CONFIG)
    state = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in tensors.items()}
    content = {"model": state, "epoch": 3}
    torch.save(content, folder / "zip")
    torch.save(content, folder / "before-1.6", _use_new_zipfile_serialization=False)
    with (folder / "ours").open("wb") as file:
        pth_writing.write(file, tensors, "model")
    with (folder / "safetensors").open("wb") as file:
        safetensors.write(file, tensors, {})
    tree = {"model": {name: np.ascontiguousarray(v) for name, v in tensors.items()}}
    (folder / "msgpack").write_bytes(serialization.msgpack_serialize(tree))
    return folder


def read_back(path):
    """The parameters in a file; raises an InputError where it does not fit."""
    weights = read_weights(path)
    match = recognise(weights.tensors, known={"num_heads": 3})
    match.check(str(path))
    return to_ours(weights.tensors, match.dialect, match.config, str(path))


def read_or_refuse(path):
    """The parameters in a file, or None and what the refusal says."""
    try:
        return read_back(path), ""
    except InputError as error:
        return None, str(error)


def corrupted(data: bytes, generator: np.random.Generator) -> bytes:
    """The bytes of a file after one of the things that happen to files."""
    kind, place = generator.integers(6), int(generator.integers(len(data)))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[place + int(generator.integers(1, 100)) :]
    if kind == 2:
        return data[:place] + generator.bytes(int(generator.integers(1, 100))) + data[place:]
    changed = bytearray(data)
    if kind == 3:  # a block of zeros, as a bad disk gives it
        end = min(len(data), place + 512)
        changed[place:end] = bytes(end - place)
    elif kind == 4:
        changed[place] ^= 1 << int(generator.integers(8))
    else:  # in the description of the tensors rather than in their values
        place = int(generator.integers(min(len(data), 4000)))
        changed[place] = int(generator.integers(256))
    return bytes(changed)


@pytest.mark.parametrize("file_format", FORMATS)
def test_corrupted_bytes_end_in_a_clear_error_or_a_correct_load(
    file_format, real_files, params, tmp_path
):
    data = (real_files / file_format).read_bytes()
    assert read_back(real_files / file_format).keys() == params.keys()
    generator = np.random.default_rng(FORMATS.index(file_format))
    has_checksums, path = file_format in ("zip", "ours"), tmp_path / "file"
    num_loaded = 0
    for _ in range(CORRUPTIONS_PER_FORMAT):
        path.write_bytes(corrupted(data, generator))
        found, message = read_or_refuse(path)
        if found is None:
            assert str(path) in message
            assert len(message) < 20_000
            continue
        num_loaded += 1
        assert {k: v.shape for k, v in found.items()} == our_shapes(CONFIG)
        if has_checksums:
            assert all(np.array_equal(found[name], params[name]) for name in params)
    assert num_loaded < CORRUPTIONS_PER_FORMAT / 2 or not has_checksums


def test_corrupted_tensors_end_in_a_clear_error_or_a_correct_load(torch, real_files, tmp_path):
    """Well-formed files with tensors renamed, left out, cut, reshaped, retyped or made infinite."""
    state = torch.load(real_files / "zip")["model"]
    generator = np.random.default_rng(99)
    for _ in range(CORRUPTIONS_PER_FORMAT):
        changed = dict(state)
        for _ in range(int(generator.integers(1, 4))):
            name = str(generator.choice(list(changed)))
            tensor = changed.pop(name)
            kind = generator.integers(7)
            if kind == 0:
                continue
            if kind == 1:
                name = name[::-1] if generator.random() < 0.5 else f"blocks.10{name}"
            elif kind == 2:
                tensor = tensor.flatten()
            elif kind == 3:
                tensor = tensor[..., : tensor.shape[-1] // 2]
            elif kind == 4:
                tensor = tensor.to(getattr(torch, str(generator.choice(["int64", "bool"]))))
            elif kind == 5:
                tensor = torch.full_like(tensor, float(generator.choice([np.nan, np.inf])))
            else:
                tensor = tensor.to(torch.float16)  # the one change that is none
            changed[name] = tensor
        torch.save({"model": changed}, tmp_path / "file")
        same = changed.keys() == state.keys() and all(
            changed[k].shape == v.shape
            and changed[k].is_floating_point()
            and bool(changed[k].isfinite().all())
            for k, v in state.items()
        )
        if same:
            read_back(tmp_path / "file")
        else:
            with pytest.raises(InputError, match="file"):
                read_back(tmp_path / "file")


def test_a_safetensors_header_may_lie_about_nothing(real_files, tmp_path):
    data = (real_files / "safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    path = tmp_path / "file"
    for change in (
        {"shape": [10**9, 10**9]},
        {"shape": [-1, 24]},
        {"shape": [2.5]},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": [100, 0]},
        {"dtype": "F8_E4M3"},
        {"dtype": 7},
    ):
        lying = header | {"norm.bias": header["norm.bias"] | change}
        text = json.dumps(lying).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        with pytest.raises(InputError, match="file"):
            read_back(path)


def test_a_killed_import_leaves_no_directory_behind(convert, study_file, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ocp.Checkpointer, "save", interrupted)
    with pytest.raises(SystemExit) as ended:
        convert("import", study_file, tmp_path / "out", "--num-heads", 3)
    assert ended.value.code == 130
    assert not list(tmp_path.iterdir())
