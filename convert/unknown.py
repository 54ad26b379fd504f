"""What is a file that is no checkpoint, and what is there to do about it?"""

EXPECTED = (
    "Expected weights: .pth, .safetensors, .msgpack, .npz, or a folder of Hugging Face, timm or "
    "OpenCLIP"
)

_TEXTS = {
    (b"<!doctype", b"<html", b"<?xml", b"<head"): (
        "is a web page, not weights: its download has failed, most often because the address "
        "leads to a page that asks for a login or a confirmation. Download it with a browser"
    ),
    (b"version https://git-lfs",): (
        "is a Git LFS pointer, not the weights themselves. Run `git lfs pull`"
    ),
}
"""By what the text starts with, in small letters."""

_MAGICS = {
    (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd"): (
        "is compressed. Unpack it first"
    ),
    (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"): (
        "is no checkpoint of a known kind, but a picture, sound or film"
    ),
    (b"\x89HDF",): (
        "is no checkpoint of a known kind, but an HDF5 file (Keras, TensorFlow). Save its weights "
        "as safetensors"
    ),
    (b"\x93NUMPY",): "is no checkpoint of a known kind, but an array of NumPy",
    (b"GGUF", b"GGML"): "is no checkpoint of a known kind, but a file of llama.cpp (GGUF)",
    (b"\x08\x04\x12", b"\x08\x06\x12", b"\x08\x07\x12", b"\x08\x08\x12", b"\x08\x09\x12"): (
        "is no checkpoint of a known kind, but an ONNX model"
    ),
    (b"%PDF", b"\x7fELF", b"MZ"): "is no checkpoint of a known kind, but a document or a program",
    (b"\x80",): "is a pickle that torch.save did not write, or a PyTorch file that was cut short",
}
"""By a file's first bytes."""


def describe(head: bytes) -> str:
    """What a file is, from its first 512 bytes; empty if it may be a checkpoint."""
    if not head:
        return "is empty: its download or copy has failed. Get it again"
    text = head.lstrip().lower()
    for starts, meaning in _TEXTS.items():
        if text.startswith(starts):
            return meaning
    for starts, meaning in _MAGICS.items():
        if head.startswith(starts):
            return meaning
    if head[257:262] == b"ustar":
        return "is a tar archive. Unpack it first"
    if not head.strip(b"\0"):
        return "starts with zeros alone: its download or copy was begun, not finished. Get it again"
    if _is_text(head):
        return "is text, not weights"
    return ""


def _is_text(head: bytes) -> bool:
    """Whether a file starts with letters, of which the last may be cut."""
    try:
        return head[: max(len(head) - 3, 1)].decode().replace("\n", "").isprintable()
    except UnicodeDecodeError:
        return False
