"""Are damaged files judged as the formats' own libraries judge them? torch, safetensors and ours.

Where the library refuses a safetensors file we refuse it; a tensor that is read is the one that
the library reads. torch refuses some PyTorch files that are read here, since unknown names beside
the weights are left unread: then every tensor is as it was before the damage.
"""

import io
import json
import struct
import zipfile

import numpy as np
import pytest

from regvit_jax import InputError
from regvit_jax.convert import addresses, pth, safetensors
from regvit_jax.convert.torch_types import Tensor

NUM_CASES = 120
ODD = [None, True, -1, 0, 1.5, 10**9, 10**30, "x", "F32", "F8_E4M3", [], {}, [0, 8], [[1]], 2**63]


def damaged(data: bytes, generator: np.random.Generator, head: int) -> bytes:
    """A file after one of the things that happen to files, half of them in its first bytes."""
    place = int(generator.integers(min(head, len(data)) if generator.random() < 0.5 else len(data)))
    size = int(generator.integers(1, 40))
    return (
        data[:place],
        data[:place] + data[place + size :],
        data[:place] + generator.bytes(size) + data[place:],
        data[:place] + bytes(min(size, len(data) - place)) + data[place + size :],
        data[:place] + bytes([data[place] ^ 1 << int(generator.integers(8))]) + data[place + 1 :],
        data[:place] + generator.bytes(1) + data[place + 1 :],
    )[generator.integers(6)]


def same(array: np.ndarray, shape: tuple, dtype: str, tensor) -> bool:
    """Whether an array is torch's tensor: shape, type and every bit."""
    import torch

    is_same = tuple(tensor.shape) == shape and str(tensor.dtype) == f"torch.{dtype}"
    bits = tensor.detach().contiguous().flatten().view(torch.uint8) if tensor.numel() else None
    return is_same and array.tobytes() == (b"" if bits is None else bits.numpy().tobytes())


@pytest.fixture(scope="module")
def tensors(torch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = torch.randn(5, 6)
        return {
            "a": torch.randn(3, 4),
            "transposed": base.t(),
            "slice": base[1:3, ::2],
            "bf": torch.randn(2, 2).to(torch.bfloat16),
            "half": torch.randn(3).half(),
            "empty": torch.zeros(0, 3),
            "scalar": torch.tensor(2.5),
            "truth": torch.tensor([True, False]),
            "count": torch.arange(6),
        }


def lying(header: dict, generator: np.random.Generator) -> dict:
    """A safetensors header of which one thing is no longer true."""
    changed = json.loads(json.dumps(header))
    entry = changed[str(generator.choice([name for name in changed if name != "__metadata__"]))]
    odd = ODD[generator.integers(len(ODD))]
    kind = generator.integers(7)
    if kind == 0:
        entry[str(generator.choice(["dtype", "shape", "data_offsets", "more"]))] = odd
    elif kind == 1:
        entry["data_offsets"][generator.integers(2)] += int(generator.integers(-9, 9))
    elif kind == 2:
        changed["twin"] = entry  # two names for the same bytes
    elif kind == 3:
        del changed["a"]  # bytes that belong to nobody
    elif kind == 4:
        changed["__metadata__"] = {"a": odd}
    elif kind == 5:
        entry["shape"] = [1, *entry["shape"]]  # as good as before
    else:
        del entry[str(generator.choice(list(entry)))]
    return changed


def with_header(data: bytes, text: bytes, values: bytes | None = None) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    return struct.pack("<Q", len(text)) + text + (values or data[8 + length :])


def test_where_the_library_of_safetensors_refuses_we_refuse(torch, tensors, tmp_path):
    library = pytest.importorskip("safetensors")
    from safetensors.torch import save

    whole = save({k: v.contiguous().clone() for k, v in tensors.items()}, {"format": "pt"})
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    text = whole[8 : 8 + length]
    generator = np.random.default_rng(0)
    cases = [damaged(whole, generator, length + 8) for _ in range(NUM_CASES)]
    cases += [
        with_header(whole, json.dumps(lying(header, generator)).encode()) for _ in range(NUM_CASES)
    ]
    cases += [
        struct.pack("<Q", size) + whole[8:]
        for size in (0, 1, length - 1, length + 1, len(whole), 10**8, 2**63, 2**64 - 1)
    ]
    cases += [
        with_header(whole, changed)
        for changed in (
            b" " + text,
            b"\xef\xbb\xbf" + text,
            text + b"\n ",
            text.rstrip() + b"x",
            b"[" + text.rstrip() + b"]",
            text.replace(b'"pt"', b'"\\ud800"'),
            text.replace(b'"pt"', b'"\\u00e4"'),
            text.replace(b"F32", b"f32"),
            b'{"a":' * 2000,
        )
    ]
    path, num_read = tmp_path / "file", 0
    for data in filter(None, cases):
        path.write_bytes(data)
        try:
            with library.safe_open(path, "pt") as file:
                theirs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (library.SafetensorError, TypeError):
            theirs = None
        try:
            ours = safetensors.read(path).tensors
        except InputError:
            continue
        assert theirs is not None, data[: length + 100]
        assert ours.keys() == theirs.keys()
        assert all(same(x.read(), x.shape, x.dtype, theirs[name]) for name, x in ours.items())
        num_read += 1
    assert num_read > 25


def test_a_name_that_is_given_twice_is_refused_though_the_library_takes_the_last(torch, tmp_path):
    values = np.arange(2, dtype="<f4").tobytes()
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    other = json.dumps(entry | {"data_offsets": [4, 8]})
    text = f'{{"a":{json.dumps(entry)},"b":{other},"a":{json.dumps(entry)}}}'.encode()
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    with pytest.raises(InputError, match="the name 'a' is given twice"):
        safetensors.read(path)


def tampered(data: bytes, generator: np.random.Generator) -> bytes:
    """A zip of torch's whose pickle was changed, and the checksum with it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = bytearray(source.read(entry))
            if entry.filename.endswith("data.pkl"):
                content[generator.integers(len(content))] = generator.integers(256)
            target.writestr(entry.filename, bytes(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "without checksums", "tampered", "before torch 1.6"])
def test_a_tensor_of_a_damaged_pytorch_file_is_the_one_that_torch_reads(
    torch, tensors, tmp_path, kind
):
    path = tmp_path / "file"
    torch.serialization.set_crc32_options(kind != "without checksums")
    try:
        is_zip = kind != "before torch 1.6"
        torch.save({"model": tensors}, path, _use_new_zipfile_serialization=is_zip)
    finally:
        torch.serialization.set_crc32_options(True)
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    head = whole.find(b"PK", whole.find(b"data.pkl")) if is_zip else 2000
    num_read = 0
    for _ in range(NUM_CASES):
        data = tampered(whole, generator) if kind == "tampered" else damaged(whole, generator, head)
        path.write_bytes(data)
        try:
            file = pth.read(path) if data else None
            content = file.content if file and type(file.content) is dict else {}
            found = addresses.find(content, Tensor).tensors
            stored = {name: file.stored(x) for name, x in found.items()}
            ours = {name: (x.read(), x.shape, x.dtype) for name, x in stored.items()}
        except InputError:
            continue
        try:
            theirs = torch.load(path, weights_only=True)["model"]
        except Exception:  # noqa: BLE001 - torch has no class for it
            theirs = tensors
        for name, (array, shape, dtype) in ours.items():
            tensor = theirs.get(name.removeprefix("model."))
            if theirs is not tensors or tensor is not None:  # the damage may be in a name
                assert tensor is not None, name
                assert same(array, shape, dtype, tensor), name
        num_read += bool(ours)
    assert num_read > 0
