"""The parts of a composite, from the text that lossd takes, and what lossd says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lossd import tensors
from lossd.errors import error_of

from .binding import encoded, lib

MEMBERS: dict[str, tuple[Any, str]] = {
    "loss": (str, "the name of a loss"),
    "name": (str, "a string"),
    "weight": ((int, float), "a number"),
    "inputs": (dict, "an object"),
    "options": (dict, "an object"),
}


def add(call: Any, option: str, text: str, descriptions: Mapping[str, Any]) -> None:
    """To a call, from an option's text."""
    try:
        parts = json.loads(text, object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise _invalid(f"option {option}: {error}") from error
    if not isinstance(parts, list):
        raise _invalid(f"option {option} must be an array of parts")
    for k, part in enumerate(parts):
        _add_one(call, f"parts[{k}]", part, descriptions)


def _add_one(call: Any, where: str, part: Any, descriptions: Mapping[str, Any]) -> None:
    if not isinstance(part, dict):
        raise _invalid(f"{where} must be an object with loss, name, weight, inputs and options")
    for name, value in part.items():
        if name not in MEMBERS:
            members = "loss, name, weight, inputs and options"
            raise _invalid(f'{where} has a member "{name[:40]}"; a part has {members}')
        kinds, must_be = MEMBERS[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise _invalid(f"{where}.{name} must be {must_be}")
    if "loss" not in part:
        raise _invalid(f"{where}.loss must be there")
    loss = part["loss"]
    if "weight" in part:
        call.do(lib.lk_call_part, encoded(loss), part["weight"])
    else:
        call.do(lib.lk_call_part_unweighted, encoded(loss))
    if "name" in part:
        call.do(lib.lk_call_part_name, encoded(part["name"]))
    for name, tensor in part.get("inputs", {}).items():
        if tensor is not None and not isinstance(tensor, str):
            raise _invalid(f"{where}.inputs must be an object of names of tensors, or null")
        call.do(lib.lk_call_part_input, encoded(name), None if tensor is None else encoded(tensor))
    types = {one["name"]: one["type"] for one in descriptions[loss]["options"]}
    for name, value in part.get("options", {}).items():
        items, item = LISTS.get(types.get(name, ""), (None, None))
        if isinstance(value, dict) or (isinstance(value, list) and not (item and all(map(item, value)))):
            forms = f"an array of {items}" if item else "a number, true, false"
            raise _invalid(f"{where}.options.{name} must be {forms}, a string or null")
        call.do(lib.lk_call_part_option, encoded(name), encoded(tensors.option_text(value)))


def _invalid(detail: str) -> Exception:
    return error_of(422, {"code": "option_invalid", "detail": detail})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


LISTS = {"list": ("numbers", _is_number), "reals": ("numbers", _is_number), "choices": ("words", _is_word)}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate object key")
    return found
