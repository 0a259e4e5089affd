"""Tensors in files: .safetensors, and NumPy's .npy and .npz."""

from __future__ import annotations

import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import tensors


def load(path: str | os.PathLike[str]) -> Any:
    """The tensors of a .safetensors or .npz file by name; the array of a .npy file. Nothing of it is run: a .npy file
    of Python objects is a ValueError, as are another ending and what is no such file."""
    kind = pathlib.Path(path).suffix
    if kind == ".safetensors":
        try:
            return tensors.read(np.fromfile(path, np.uint8))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, struct.error) as e:
            raise ValueError(f"{path} cannot be read as .safetensors: {e}") from e
    if kind == ".npy":
        return np.load(path, allow_pickle=False)
    if kind == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    raise _unknown(path)


def save(path: str | os.PathLike[str], values: Any) -> None:
    """Write what a call returned, or any tensors by name, as .safetensors or .npz; one array as .npy. NumPy has no
    bfloat16: such tensors are a TypeError but in .safetensors."""
    kind = pathlib.Path(path).suffix
    if kind == ".npy":
        np.save(path, _numpy(pathlib.Path(path).stem, values))
        return
    if not isinstance(values, Mapping):
        raise TypeError(f"{path}: a {kind} file holds tensors by name, not a {type(values).__name__}")
    if kind == ".safetensors":
        pieces = tensors.write({name: tensors.as_tensor(value) for name, value in values.items()}, {})
        with open(path, "wb") as file:
            file.writelines(pieces)
    elif kind == ".npz":
        with open(path, "wb") as file:
            np.savez(file, **{name: _numpy(name, value) for name, value in values.items()})
    else:
        raise _unknown(path)


def _numpy(name: str, value: Any) -> np.ndarray:
    tensor = tensors.as_tensor(value)
    if isinstance(tensor, tensors.BF16):
        raise TypeError(f"{name} is bfloat16, which NumPy's files cannot hold; write .safetensors, or its float32()")
    return tensor


def _unknown(path: str | os.PathLike[str]) -> ValueError:
    return ValueError(f"{path} ends with none of .safetensors, .npy and .npz")
