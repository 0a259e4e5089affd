#!/usr/bin/env python3
"""Send every input of every loss, in every form and element type of its description, in every body format.

Alone and as the part of a composite, the outcome must be the same everywhere: the numbers of the loss, or the
refusal. The other inputs are those of api/examples or of a request below; one that is not among them is made of ones, in the
shape that the others give to its letters. Each must be taken with each of its types at least once.
"""

from __future__ import annotations

import argparse
import base64
import json
import pathlib
import struct
import sys
from typing import Any, Iterator, NamedTuple

from server import Lossd, pack, receive, request, unpack

EXAMPLES = pathlib.Path(__file__).parents[2] / "api" / "examples"
FLOATS = ("f64", "f32", "f16", "bf16")
COMPOSITE = "/v1/losses/composite"
OIP = {"f64": "FP64", "f32": "FP32", "f16": "FP16", "i64": "INT64", "i32": "INT32", "u8": "UINT8"}

# Requests that take what excludes the inputs of the example.
ROW, PAIR = [[0.25, 0.5, 0.25]], {"a": [0.5, 3.0], "b": [0.0, 0.0]}
HUBERS = [{"loss": "huber"}, {"loss": "mse"}]
PACKED = {"logits": [[0.2, 0.4, 0.4], [0.1, 0.3, 0.6], [0, 0, 0]], "targets": [2, 0, 1], "offsets": [0, 2, 3]}
HEAD = {"hidden": [[[1, -1], [0.5, 2]]], "targets": [[0, 2]], "weight": [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]]}
HEADS = {**HEAD, "hidden": HEAD["hidden"][0], "targets": [0, 2], "offsets": [0, 1, 2]}
VECTORS = {"anchors": [[1, 0], [1, 2]], "candidates": [[1, 1], [2, 1]]}
MORE: dict[str, list[dict]] = {
    "composite": [
        {"inputs": {**PAIR, "weights": [1, 2]}, "options": {"parts": HUBERS}},
        {"inputs": {**PAIR, "log_vars": [0, 1]}, "options": {"parts": HUBERS, "combine": "uncertainty"}},
    ],
    "cross_entropy": [{"inputs": {"logits": [[0.2, 0.4, 0.4]], "targets": ROW}}],
    "distillation": [
        {"inputs": {"student_logits": [[1.2, -0.8, -0.5]], "teacher_probs": ROW}},
        {"inputs": {"student_logits": [[1.2, -0.8, -0.5]], "teacher_logprobs": [[-1.5, -1, -1]]}},
    ],
    "gae": [{"inputs": {"rewards": [0, 1, 2], "values": [0.5, 0.5, 1], "offsets": [0, 2, 3]}}],
    "group_advantages": [{"inputs": {"rewards": [1, 0, 0.5], "group_ids": [7, 7, 7]}}],
    "info_nce": [
        {"inputs": {**VECTORS, "temperature": 0.5}},
        {"inputs": {**VECTORS, "group": [0, 1]}},
        {"inputs": {**VECTORS, "guide_anchors": [[1, 0], [0, 1]], "guide_candidates": [[1, 0], [0, 1]]}},
    ],
    "linear_cross_entropy": [
        {"inputs": {**HEAD, "lengths": [1]}},
        {"inputs": {**HEAD, "position_weight": [[1, 1]]}},
        {"inputs": {**HEAD, "position_weight": [1, 1]}},
        {"inputs": HEADS},
        {"inputs": {**HEAD, "class_weight": [1, 2, 1]}},
        {"inputs": {**HEAD, "lse": [[1.25, 2]]}, "options": {"vocab_total": 4, "vocab_start": 1}},
        {"inputs": {**HEAD, "teacher_ids": [[[0, 1], [2, 0]]], "teacher_logprobs": [[[-1, -1], [-0.5, -2]]]}},
    ],
    "linear_token_logprobs": [{"inputs": HEAD}, {"inputs": HEADS}],
    "margin_mse": [
        {
            "inputs": {
                "anchors": [[1, 0]],
                "positives": [[1, 1]],
                "negatives": [[[0, 1]]],
                "teacher_scores": [[2, 1]],
            }
        }
    ],
    "pointer_generator": [
        {
            "inputs": {
                "vocab_probs": [ROW],
                "attn_probs": [[[0.5, 0.5]]],
                "p_gen": [[0.5]],
                "source_ids": [[1, 2]],
                "source_lengths": [2],
                "targets": [[2]],
            }
        }
    ],
    "policy_gradient": [
        {
            "inputs": {
                "logprobs": [-1, -0.5, -0.3],
                "old_logprobs": [-1.2, -0.4, -0.6],
                "advantages": [1, -0.5],
                "offsets": [0, 2, 3],
            }
        }
    ],
    "router_balance": [
        {"inputs": {"router_logits": [[1.2, -0.8], [0.9, -1.2]], "expert_index": [[0], [1]]}},
        {"inputs": {"router_logits": [[1.2, -0.8]], "expert_counts": [3, 1]}, "options": {"num_items": 2}},
        {"inputs": {"router_logits": [[[1.2, -0.8]], [[0.9, -1.2]]], "mask": [1]}, "options": {"layers": "joint"}},
    ],
    "sequence_cross_entropy": [{"inputs": PACKED}],
    "sigmoid_focal": [{"inputs": {"logits": [-1.5, 2], "targets": [0, 1]}, "options": {"reduction": "sum"}}],
    "sliding_window_cross_entropy": [
        {
            "inputs": {"logits": [[0.2, 0.4, 0.4], [0.1, 0.3, 0.6]], "targets": [0, 2]},
            "options": {"mode": "mean", "window": 1},
        }
    ],
    "token_logprobs": [{"inputs": PACKED}],
    "uld": [{"inputs": {"student_logits": [[0.5, 1]], "teacher_probs": [[0.5, 0.25, 0.25]]}}],
}


class Tensor(NamedTuple):
    dtype: str
    shape: list[int]
    values: list[float]

    def bytes(self) -> bytes:
        return pack(self.dtype.upper(), self.values)


def flat(value: Any) -> list[float]:
    return [x for one in value for x in flat(one)] if isinstance(value, list) else [value]


def shape_of(value: Any) -> list[int]:
    return [len(value), *(shape_of(value[0]) if value else [])] if isinstance(value, list) else []


def rounded(dtype: str, values: list[float]) -> list[float] | None:
    """As that type can hold them, or None if it cannot."""
    if dtype == "bf16":
        return unpack("BF16", b"".join(struct.pack("<f", v)[2:] for v in values))
    try:
        return unpack(dtype.upper(), pack(dtype.upper(), values))
    except struct.error:
        return None


def letters(form: dict, packed: bool) -> tuple[bool, list[str]]:
    """Of "[*,C]": is there a `*`, and the sizes. The loss's own shape is that of one number. Packed rows have one axis
    where there are two of batch and time."""
    shape = form["shape"].replace("[B,T", "[P") if packed else form["shape"]
    names = [] if shape.startswith("shape") else [n for n in shape.strip("[]").split(",") if n]
    return "*" in names, [n for n in names if n != "*"]


def fits(form: dict, tensor: Tensor, packed: bool) -> bool:
    star, names = letters(form, packed)
    if (tensor.dtype in FLOATS) != (form["dtypes"][0] in FLOATS) and any(v != int(v) for v in tensor.values):
        return False
    return len(tensor.shape) >= len(names) if star else len(tensor.shape) == len(names)


class Loss:
    def __init__(self, description: dict, example: dict) -> None:
        self.name, self.path, self.inputs = description["name"], description["path"], description["inputs"]
        self.constant = {one["name"] for one in self.inputs if not one["differentiable"]}
        self.is_transform = "/transforms/" in self.path
        self.options = example.get("options", {})
        self.base: dict[str, Tensor] = {}
        self.size: dict[str, int] = {}
        self.lead: list[int] = []
        self.packed = packed = "offsets" in example["inputs"]
        known = {one["name"]: one for one in self.inputs}
        for name, value in example["inputs"].items():
            bare = Tensor("f32", shape_of(value), flat(value))
            forms = known[name]["forms"] if name in known else [{"shape": "[*]", "dtypes": ["f32"]}]
            whole = all(isinstance(v, (int, bool)) for v in bare.values)
            form = next(f for f in forms if fits(f, bare, packed) and (whole or f["dtypes"][0] in FLOATS))
            if name not in known and whole:  # of a composite's part: classes are whole in the examples
                form = {"shape": "[*]", "dtypes": ["i64"]}
            dtype = "f32" if "f32" in form["dtypes"] else form["dtypes"][0]
            self.base[name] = bare._replace(dtype=dtype, values=rounded(dtype, bare.values) or [])
            star, names = letters(form, packed)
            cut = len(bare.shape) - len(names)
            self.size.update(zip(names, bare.shape[cut:]))
            self.lead = self.lead or (bare.shape[:cut] if star else [])

    def one(self, form: dict, dtype: str) -> Tensor:
        star, names = letters(form, self.packed)
        shape = (self.lead if star else []) + [self.size.get(n, 1) for n in names]
        count = 1
        for size in shape:
            count *= size
        return Tensor(dtype, shape, [1.0] * count)

    def cases(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for one in self.inputs:
            for form in one["forms"]:
                for dtype in form["dtypes"]:
                    name, given = one["name"], dict(self.base)
                    like = given.get(name)
                    tensor = like if like and fits(form, like, self.packed) else self.one(form, dtype)
                    values = rounded(dtype, tensor.values)
                    if values is None:
                        continue
                    if one["differentiable"] and dtype in FLOATS:  # these have one type
                        for other, t in self.base.items():
                            if t.dtype in FLOATS and other not in self.constant:
                                given[other] = t._replace(dtype=dtype, values=rounded(dtype, t.values))
                    given[name] = tensor._replace(dtype=dtype, values=values)
                    yield f"{name} {dtype} {form['shape']}", given


def text_of(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(map(text_of, value))
    return value if isinstance(value, str) else json.dumps(value)


def nested(tensor: Tensor) -> Any:
    values: list[Any] = [bool(v) for v in tensor.values] if tensor.dtype == "bool" else list(tensor.values)
    for size in reversed(tensor.shape[1:]):
        values = [values[i : i + size] for i in range(0, len(values), size)]
    return values if tensor.shape else values[0]


def json_body(tensors: dict[str, Any], options: dict, outputs: list[str]) -> bytes:
    body = {"inputs": tensors, "options": options}
    return json.dumps({**body, "outputs": outputs} if outputs else body).encode()


def as_json(given: dict[str, Tensor], options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    tensors = {n: {"dtype": t.dtype, "shape": t.shape, "data": flat(nested(t))} for n, t in given.items()}
    return {}, json_body(tensors, options, outputs)


def as_words(given: dict[str, Tensor], options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    """Bools by their words alone, in one way and the other."""
    tensors: dict[str, Any] = {}
    for place, (name, t) in enumerate(given.items()):
        tensors[name] = {"shape": t.shape, "data": flat(nested(t))}
        if t.dtype != "bool":
            tensors[name]["dtype"] = t.dtype
        elif place % 2:
            tensors[name] = nested(t)
    return {}, json_body(tensors, options, outputs)


def as_base64(given: dict[str, Tensor], options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    tensors = {
        n: {"dtype": t.dtype, "shape": t.shape, "base64": base64.b64encode(t.bytes()).decode()}
        for n, t in given.items()
    }
    return {}, json_body(tensors, options, outputs)


def as_safetensors(given: dict[str, Tensor], options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    metadata = {n: text_of(v) for n, v in options.items()}
    header: dict[str, Any] = {"__metadata__": {**metadata, **({"outputs": ",".join(outputs)} if outputs else {})}}
    data = b""
    for name, t in given.items():
        begin, data = len(data), data + t.bytes()
        header[name] = {"dtype": t.dtype.upper(), "shape": t.shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    media = "application/x-safetensors"
    return {"Content-Type": media, "Accept": "application/json"}, struct.pack("<Q", len(text)) + text + data


def as_oip(given: dict[str, Tensor], options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    """16-bit floats have no form in the protocol's JSON: those are raw."""
    tensors, data = [], b""
    for name, t in given.items():
        entry = {"name": name, "shape": t.shape, "datatype": OIP.get(t.dtype, t.dtype.upper())}
        if t.dtype in ("f16", "bf16"):
            entry["parameters"] = {"binary_data_size": len(t.bytes())}
            data += t.bytes()
        else:
            entry["data"] = flat(nested(t))
        tensors.append(entry)
    return oip_body(tensors, data, options, outputs)


def as_raw_oip(given: dict[str, Tensor], options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    tensors, data = [], b""
    for name, t in given.items():
        kind = {"datatype": OIP.get(t.dtype, t.dtype.upper()), "parameters": {"binary_data_size": len(t.bytes())}}
        tensors.append({"name": name, "shape": t.shape, **kind})
        data += t.bytes()
    return oip_body(tensors, data, options, outputs)


def oip_body(tensors: list[dict], data: bytes, options: dict, outputs: list[str]) -> tuple[dict[str, str], bytes]:
    parameters = {n: text_of(v) if isinstance(v, list) else v for n, v in options.items()}
    body: dict[str, Any] = {"inputs": tensors, "parameters": parameters}
    if outputs:
        body["outputs"] = [{"name": n} for n in outputs]
    head = json.dumps(body).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + data


WIRES = {
    "json": as_json,
    "json without types": as_words,
    "json base64": as_base64,
    "safetensors": as_safetensors,
    "oip": as_oip,
    "oip raw": as_raw_oip,
}


def outcome(status: int, body: bytes) -> dict[str, list[float]] | str:
    """The outputs, or why there are none: the Open Inference Protocol has a status of its own for that."""
    reply = json.loads(body)
    if status != 200:
        return reply.get("detail", reply.get("error"))
    outputs = reply["outputs"]
    if isinstance(outputs, list):
        return {one["name"]: one["data"] for one in outputs}
    return {name: flat(value) for name, value in outputs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    arguments = parser.parse_args()
    failed = sent = taken = 0
    with Lossd(arguments.lossd) as lossd, lossd.connect() as s:

        def ask(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
            s.sendall(request(method, path, headers, body))
            reply = receive(s)
            return reply.status, reply.body

        losses = json.loads(ask("GET", "/v1/losses", {}, b"")[1])["losses"]
        for description in losses:
            name = description["name"]
            example = json.loads((EXAMPLES / f"{name}.json").read_text())
            accepted: dict[str, bool] = {}
            for loss in (Loss(description, one) for one in (example, *MORE.get(name, []))):
                for case, given, part in ((*one, part) for one in loss.cases() for part in (False, True)):
                    path, model = (COMPOSITE, "composite") if part else (loss.path, name)
                    options = {"parts": [{"loss": name, "options": loss.options}]} if part else loss.options
                    outputs = [] if loss.is_transform else ["loss"]
                    found = {}
                    for wire, encode in WIRES.items():
                        headers, body = encode(given, options, outputs)
                        to = f"/v2/models/{model}/infer" if wire.startswith("oip") else path
                        found[wire] = outcome(*ask("POST", to, headers, body))
                        sent += 1
                    first = found["json"]
                    taken += isinstance(first, dict)
                    accepted[case] = accepted.get(case, False) or (not part and isinstance(first, dict))
                    if any(one != first for one in found.values()):
                        failed += 1
                        print(f"{name}: {case}{', in a part' if part else ''}: not the same everywhere")
                        for wire, one in found.items():
                            print(f"    {wire}: {one}")
            for case in (case for case, yes in accepted.items() if not yes):
                failed += 1
                print(f"{name}: {case}: never taken")
    print(f"{sent} requests, {taken} of {sent // len(WIRES)} accepted, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
