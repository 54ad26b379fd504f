"""What is a tensor in a PyTorch file before its values are read?"""

from collections.abc import Mapping
from typing import NamedTuple

STORAGE_TYPES: Mapping[str, str] = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "bytes",
}
"""torch's storage classes, by the type of their values."""

ITEM_SIZES: Mapping[str, int] = {
    **{"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4},
    **{"int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8},
    **{"complex32": 4, "complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4},
    **{"float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1},
    **{"float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1, "bytes": 1},
}
"""Bytes of a value."""


class Storage(NamedTuple):
    """A run of values somewhere in the file."""

    dtype: str
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZES[self.dtype]


class Tensor(NamedTuple):
    """A view of a storage; checked to lie inside it. Offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
