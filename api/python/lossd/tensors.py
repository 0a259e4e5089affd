"""NumPy arrays to safetensors and back, without copying what is large."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Union

import numpy as np

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


class BF16:
    """A tensor of bfloat16, which NumPy does not have: its bits, as uint16."""

    def __init__(self, bits: np.ndarray) -> None:
        if bits.dtype != np.uint16:
            raise TypeError(f"the bits of bfloat16 are uint16, not {bits.dtype}; BF16.rounded takes floats")
        self.bits = bits

    @classmethod
    def rounded(cls, values: Any) -> BF16:
        """Rounded to nearest, ties to even."""
        wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
        up = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
        quiet = (wide >> 16) | 0x40  # a NaN must not round to infinity
        nan = (wide & 0x7FFFFFFF) > 0x7F800000
        return cls(np.where(nan, quiet, up).astype(np.uint16))

    def float32(self) -> np.ndarray:
        return (self.bits.astype(np.uint32) << 16).view(np.float32)


class Resident:
    """An input that lossd has already, of `keep` or of its flag --region: Resident("head/weight")."""

    def __init__(self, name: str) -> None:
        self.name = name


Tensor = Union[np.ndarray, BF16]


class Region:
    """`array` lies in memory that lossd reaches, too: as an input it is not sent, and its gradient may take its place.
    The memory is used again when neither this object nor any view of the array is left."""

    def __init__(self, array: Tensor) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.array, dtype) if copy else np.asarray(self.array, dtype)


def as_tensor(value: Any) -> Tensor:
    """What lossd takes: arrays as they are; Python's floats become float32, its integers int64."""
    if isinstance(value, Region):
        value = value.array
    if isinstance(value, BF16):
        return value
    array = np.asarray(value)
    if array.dtype == np.float64 and not isinstance(value, (np.ndarray, np.generic)):
        array = array.astype(np.float32)
    little = array.dtype.newbyteorder("<")
    if little in NAMES:
        return array.astype(little, copy=False)
    if array.dtype.kind in "iu" and np.can_cast(array.dtype, np.int64):
        return array.astype(np.int64)
    if array.size == 0:
        return array.astype(np.float32)
    raise TypeError(f"lossd has no element type like {array.dtype}")


def write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[Any]:
    """The pieces of a file: its header, then the tensors' own memory."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    pieces: list[Any] = [b""]
    offset = 0
    for name, tensor in tensors.items():
        array, end = bits(tensor), offset + bits(tensor).nbytes
        header[name] = {"dtype": dtype_name(tensor), "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
        if array.nbytes:
            pieces.append(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces[0] = struct.pack("<Q", len(text)) + text
    return pieces


def bits(tensor: Tensor) -> np.ndarray:
    return tensor.bits if isinstance(tensor, BF16) else tensor


def dtype_name(tensor: Tensor) -> str:
    """One of DTYPES."""
    return "BF16" if isinstance(tensor, BF16) else NAMES[tensor.dtype]


def read(body: np.ndarray) -> dict[str, Any]:
    """The tensors of a file, writable and in the file's order: views of it, but for small ones of a large file, which
    would keep all of it in memory for as long as somebody keeps them: a loss, for its curve."""
    return read_all(body)[0]


def read_all(body: np.ndarray) -> tuple[dict[str, Any], dict[str, str]]:
    """The same, and the metadata."""
    (size,) = struct.unpack_from("<Q", body)
    if size > body.nbytes - 8:
        raise ValueError(f"its header is said to have {size} bytes, of which there are {body.nbytes - 8}")
    header = json.loads(bytes(body[8 : 8 + size]))
    metadata = header.pop("__metadata__", None) or {}
    found: dict[str, Any] = {}
    for name, entry in header.items():
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{name} has elements of the type {entry['dtype']}; there are {', '.join(DTYPES)}")
        if min(entry["shape"], default=0) < 0:
            raise ValueError(f"{name} has the shape {entry['shape']}")
        begin, end = entry["data_offsets"]
        array = np.frombuffer(body, dtype, (end - begin) // dtype.itemsize, 8 + size + begin).reshape(entry["shape"])
        if array.nbytes <= body.nbytes // 8:
            array = array.copy()
        found[name] = BF16(array) if entry["dtype"] == "BF16" else array
    return found, metadata


def option_text(value: Any) -> str:
    """An option as lossd writes it. A tensor, of whichever library, is its number or a list of them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        items = list(value)
        if items and isinstance(items[0], Mapping):  # parts of a composite
            return json.dumps(items)
        return ",".join(map(option_text, items))
    if isinstance(value, int):
        return str(value)
    return repr(float(value))
