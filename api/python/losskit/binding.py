"""The C library: its functions, and its structures as <losskit.h> has them."""

from __future__ import annotations

import ctypes
import os
import pathlib
from ctypes import POINTER, c_bool, c_char, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_void_p
from typing import Any

MAX_RANK = 8

# Bits of lk_field.flags, lk_input.flags, lk_output.flags and lk_description.traits.
OPEN, OFF, RANGED, OPEN_END, NONZERO = 1, 2, 4, 32, 64
OPTIONAL, DIFFERENTIABLE, GRADIENT, ROW_LOCAL = 1, 2, 4, 8
DEFAULT = 1
TRANSFORM, DYNAMIC = 8, 64


class Error(ctypes.Structure):
    _fields_ = [
        ("status", c_int),
        ("input", c_char * 32),
        ("rank", c_int),
        ("index", c_int64 * MAX_RANK),
        ("text", c_char * 240),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int), ("rank", c_int), ("shape", c_int64 * MAX_RANK)]


class Field(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("type", c_int),
        ("flags", c_uint),
        ("offset", c_size_t),
        ("fallback", c_char_p),
        ("min", c_double),
        ("max", c_double),
        ("choices", c_char_p),
        ("help", c_char_p),
    ]


class Form(ctypes.Structure):
    _fields_ = [("shape", c_char_p), ("dtypes", c_uint)]


class Input(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("forms", Form * 3),
        ("flags", c_uint),
        ("range", c_char_p),
        ("help", c_char_p),
    ]


class Output(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("shape", c_char_p),
        ("dtype", c_int),
        ("help", c_char_p),
        ("flags", c_uint),
        ("like", c_char_p),
    ]


class Description(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("title", c_char_p),
        ("formula", c_char_p),
        ("tex", c_char_p),
        ("help", c_char_p),
        ("reference", c_char_p),
        ("example", c_char_p),
        ("traits", c_uint),
        ("loss_shape", c_char_p),
        ("loss_shapes", POINTER(c_char_p)),
        ("inputs", POINTER(Input)),
        ("outputs", POINTER(Output)),
        ("options", POINTER(Field)),
    ]


_CALL, _ERROR, _TENSOR = c_void_p, POINTER(Error), POINTER(Tensor)
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "lk_version": (c_char_p, []),
    "lk_status_name": (c_char_p, [c_int]),
    "lk_dtype_name": (c_char_p, [c_int]),
    "lk_loss_count": (c_int, []),
    "lk_loss_at": (c_void_p, [c_int]),
    "lk_loss_find": (c_void_p, [c_char_p]),
    "lk_loss_describe": (POINTER(Description), [c_void_p]),
    "lk_isa_use": (c_bool, [c_char_p]),
    "lk_isa_used": (c_char_p, []),
    "lk_call_new": (_CALL, [c_void_p]),
    "lk_call_free": (None, [_CALL]),
    "lk_call_input": (c_int, [_CALL, c_char_p, _TENSOR, _ERROR]),
    "lk_call_option": (c_int, [_CALL, c_char_p, c_char_p, _ERROR]),
    "lk_call_part": (c_int, [_CALL, c_char_p, c_double, _ERROR]),
    "lk_call_part_unweighted": (c_int, [_CALL, c_char_p, _ERROR]),
    "lk_call_part_name": (c_int, [_CALL, c_char_p, _ERROR]),
    "lk_call_part_option": (c_int, [_CALL, c_char_p, c_char_p, _ERROR]),
    "lk_call_part_input": (c_int, [_CALL, c_char_p, c_char_p, _ERROR]),
    "lk_call_want": (c_int, [_CALL, c_char_p, _ERROR]),
    "lk_call_check": (c_int, [_CALL, _ERROR]),
    "lk_call_outputs": (c_int, [_CALL]),
    "lk_call_output": (c_char_p, [_CALL, c_int, _TENSOR]),
    "lk_call_in_place": (_TENSOR, [_CALL, c_int]),
    "lk_call_bind": (c_int, [_CALL, c_int, c_void_p]),
    "lk_call_plan": (c_int, [_CALL, _ERROR]),
    "lk_call_blocks": (c_int64, [_CALL]),
    "lk_call_next": (c_bool, [_CALL]),
    "lk_call_scratch": (c_size_t, [_CALL]),
    "lk_call_run": (None, [_CALL, c_int64, c_int64, c_void_p]),
    "lk_call_finish": (c_int, [_CALL, _ERROR]),
}


def _load() -> Any:
    """The library that LOSSKIT_LIBRARY names, the one that came with this package, or the system's."""
    beside = pathlib.Path(__file__).parent / "native" / "liblosskit.so.0"
    path = os.environ.get("LOSSKIT_LIBRARY") or (str(beside) if beside.exists() else beside.name)
    try:
        found = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"losskit's library cannot be loaded: {error}") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    version = found.lk_version().decode()
    if not version.startswith("0.2."):  # before 1.0 a minor version may change the structures
        raise ImportError(f"{path} is losskit {version}; this package is for 0.2")
    return found


def encoded(text: str) -> bytes:
    """For C, where a string ends at its first NUL: one within becomes U+FFFD, so that no name is taken for another."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace")


lib = _load()
