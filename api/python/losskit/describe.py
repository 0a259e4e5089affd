"""The descriptions of the losses as lossd gives them, from the library's tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from .binding import (
    DEFAULT,
    DIFFERENTIABLE,
    DYNAMIC,
    GRADIENT,
    NONZERO,
    OFF,
    OPEN,
    OPEN_END,
    OPTIONAL,
    RANGED,
    ROW_LOCAL,
    TRANSFORM,
    Field,
    lib,
)

TYPES = ("real", "integer", "unsigned", "flag", "choice", "list", "reals", "choices", "parts")
DTYPES = ("f64", "f32", "f16", "bf16", "i64", "i32", "u8", "bool")
FLOATS = 0b1111
LOSS_TYPE = "f32, or f64 with f64 inputs"


def describe_all() -> dict[str, dict[str, Any]]:
    """By name."""
    every = (_describe(lib.lk_loss_describe(lib.lk_loss_at(i)).contents) for i in range(lib.lk_loss_count()))
    return {one["name"]: one for one in every}


def _describe(loss: Any) -> dict[str, Any]:
    kind = "transforms" if loss.traits & TRANSFORM else "losses"
    name = loss.name.decode()
    return {
        "name": name,
        "path": f"/v1/{kind}/{name}",
        **{key: getattr(loss, key).decode() for key in ("title", "formula", "help", "reference")},
        "tex": loss.tex and loss.tex.decode(),
        "made_of_parts": bool(loss.traits & DYNAMIC),
        "inputs": [_input(one) for one in until_no_name(loss.inputs)],
        "options": [_option(one) for one in until_no_name(loss.options)],
        "outputs": list(_outputs(loss)),
        "example": json.loads(loss.example),
    }


def until_no_name(table: Any) -> Iterator[Any]:
    i = 0
    while table[i].name is not None:
        yield table[i]
        i += 1


def _shape(pattern: bytes) -> str:
    """For people: in words, and without "@option", which is internal."""
    if pattern == b"loss":
        return "shape of loss"
    text = pattern.decode()
    before, after = "broadcasts to " * text.startswith("~ "), " without its last axis" * ("-" in text)
    words = text.removeprefix("~ ").replace("-", "").split()
    return f"{before}[{','.join(word.split('@')[0] for word in words)}]{after}"


def _input(one: Any) -> dict[str, Any]:
    forms = [form for form in one.forms if form.shape is not None]
    described = {
        "name": one.name.decode(),
        "required": not one.flags & OPTIONAL,
        "differentiable": bool(one.flags & DIFFERENTIABLE),
        "default_gradient": bool(one.flags & GRADIENT),
        "in_place": bool(one.flags & ROW_LOCAL),
        "forms": [
            {"shape": _shape(f.shape), "dtypes": [d for i, d in enumerate(DTYPES) if f.dtypes >> i & 1]} for f in forms
        ],
    }
    if one.range is not None:
        described["range"] = one.range.decode()
    return {**described, "help": one.help and one.help.decode()}


def _fallback(field: Field) -> Any:
    """The default as a client would send it."""
    text, kind = field.fallback.decode(), TYPES[field.type]
    if field.flags & OFF and text == "off":
        return None
    if kind in ("list", "reals"):
        return []
    if kind == "choices":
        return text.split(",")
    return text if kind == "choice" else json.loads(text)


def _option(field: Field) -> dict[str, Any]:
    described = {"name": field.name.decode(), "type": TYPES[field.type], "required": field.fallback is None}
    if field.fallback is not None:
        described["default"] = _fallback(field)
    if field.flags & RANGED:
        if not math.isinf(field.min):
            described["greater_than" if field.flags & OPEN else "minimum"] = field.min
        if not math.isinf(field.max):
            described["less_than" if field.flags & OPEN_END else "maximum"] = field.max
        if field.flags & NONZERO:
            described["not"] = 0
    if field.choices is not None:
        described["choices"] = field.choices.decode().split("|")
    if field.flags & OFF:
        described["can_be_off"] = True
    return {**described, "help": field.help and field.help.decode()}


def _outputs(loss: Any) -> Iterator[dict[str, Any]]:
    def output(name: str, shape: bytes, dtype: str, is_default: Any, text: str) -> dict[str, Any]:
        return {"name": name, "shape": _shape(shape), "dtype": dtype, "default": bool(is_default), "help": text}

    if not loss.traits & TRANSFORM:
        rows = loss.loss_shape is not None
        text = "the loss: this shape with reduction none, else one number" if rows else "the loss"
        yield output("loss", loss.loss_shape or b"", LOSS_TYPE, True, text)
    for one in until_no_name(loss.inputs):
        if one.flags & DIFFERENTIABLE:
            name = one.name.decode()
            form = one.forms[0 if one.forms[0].dtypes & FLOATS else 1]
            text = f"gradient of the loss with respect to {name}"
            yield output(f"grad.{name}", form.shape, "as the input", one.flags & GRADIENT, text)
    for one in until_no_name(loss.outputs):
        kind = DTYPES[one.dtype] if one.dtype < len(DTYPES) else "as the input" if one.like else LOSS_TYPE
        yield output(one.name.decode(), one.shape, kind, one.flags & DEFAULT, one.help.decode())
