#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of nll: torch.nn.functional.nll_loss, and the contract's sums where it has no such option."""
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated
from reduced import counted_of, differentiate, leaf, reduce, weight_of

BOOK = Book("nll")
X = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]


def evaluate(inputs, options):
    class_dim = int(options.get("class_dim", -1))
    ignored = int(options.get("ignore_index", -100))
    given = leaf(inputs, "logprobs")
    x = given.movedim(class_dim, -1)
    y = inputs.get("targets").to(torch.int64)
    counted = counted_of(inputs, y.shape) & (y != ignored)
    safe = torch.where(counted, y, torch.zeros_like(y))
    class_weight = inputs.get("class_weight")
    w = weight_of(inputs, counted)
    if class_weight is not None:
        w = w * class_weight.to(F64)[safe]
    zero = torch.zeros((), dtype=F64)
    picked = x.gather(-1, safe.unsqueeze(-1)).squeeze(-1)
    rows = torch.where(w != 0, -w * torch.where(w != 0, picked, zero), zero)
    value = reduce(rows, options, w.sum())
    out = differentiate(value, inputs, {"logprobs": given})
    plain = inputs.get("mask") is None and inputs.get("sample_weight") is None and x.dim() == 2
    if plain and options.get("num_items") is None and w.sum() != 0 and inputs.get("grad_output") is None:
        by_torch = F.nll_loss(x.detach(), y, class_weight.to(F64) if class_weight is not None else None,
                              ignore_index=ignored, reduction=options.get("reduction", "mean"))
        assert same(out["loss"], by_torch), options
    reduced = options.get("reduction", "mean") == "mean" and options.get("num_items") is not None
    out["count"] = counted.sum()
    out["denominator"] = torch.tensor(float(options["num_items"]), dtype=F64) if reduced else w.sum()
    finite = torch.where(torch.isfinite(x.detach()), x.detach().abs(), zero)
    scale = torch.where(counted, finite.amax(-1), zero).reshape(-1)
    return out, scale


def write(name, inputs, options=None, want=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    out, scale = evaluate(inputs, options)
    BOOK.add(name, inputs, options, {k: out[k] for k in want or out}, scale=scale)
    return out


def build(name, shape, options=None, extra=(), target="i64", ignored=0.2):
    """`shape` is that of the rows; the classes are the last number of it."""
    draw, inputs = Draw("nll" + name), Inputs()
    options = options or {}
    rows, classes = shape[:-1], shape[-1]
    x = draw.between(shape, -6, -0.0078125)
    inputs.put("logprobs", x.movedim(-1, int(options.get("class_dim", -1))).contiguous())
    y = draw.integers(rows, 0, classes)
    if target != "u8":
        mark = int(options.get("ignore_index", -100))
        y = torch.where(draw.flags(rows, ignored), torch.full_like(y, mark), y)
    inputs.put("targets", y, target)
    if "mask" in extra:
        inputs.put("mask", draw.flags(rows), "bool")
    if "class_weight" in extra:
        inputs.put("class_weight", draw.between((classes,), -1, 2))
    if "sample_weight" in extra:
        inputs.put("sample_weight", draw.between(rows, -1, 2))
    if "grad_output" in extra:
        inputs.put("grad_output", draw.normal(rows if options.get("reduction") == "none" else (), 1))
    write(name, inputs, options)


def given(x, y, dtype="float"):
    inputs = Inputs()
    inputs.put("logprobs", torch.tensor(x, dtype=F64), dtype)
    inputs.put("targets", torch.tensor(y), "i64")
    return inputs


def checks():
    inputs = Inputs()
    inputs.put("logprobs", torch.log_softmax(torch.tensor(X, dtype=F64), -1), "f64")
    inputs.put("targets", torch.tensor([0, 1]), "i64")
    inputs.put("class_weight", torch.tensor([1, 2, 0.5], dtype=F64), "f64")
    out = write("check", inputs)
    stated(out["loss"], 2.059909099, "nll")
    stated(out["grad.logprobs"], [[-0.3333333333, 0, 0], [0, -0.6666666667, 0]], "nll")


checks()
for reduction in ("none", "sum", "mean"):
    for extra in ((), ("class_weight",), ("mask", "sample_weight"), ("class_weight", "sample_weight", "grad_output")):
        build(f"{reduction}/{'-'.join(extra) or 'plain'}", (5, 4), {"reduction": reduction}, extra)
build("rank/1", (7,), {"reduction": "none"}, ignored=0)
build("rank/3", (2, 3, 5), {"reduction": "none"})
build("class_dim/2", (3, 4), {"class_dim": 1})
build("class_dim/3", (2, 3, 4), {"class_dim": 1, "reduction": "none"}, ("class_weight",))
build("class_dim/4", (2, 3, 2, 5), {"class_dim": 1}, ("mask", "sample_weight"))
build("ignore_index/inside", (9, 3), {"ignore_index": 1}, ("class_weight",))
build("targets/i32", (6, 3), target="i32")
build("targets/u8", (6, 3), target="u8")
build("num_items", (6, 3), {"num_items": 4.5}, ("class_weight",))
build("one-class", (3, 1))
write("infinite", given([[-INF, 0.0], [0.0, -INF], [-1.0, -2.0]], [0, 0, 1]), {"reduction": "none"})
write("nan-elsewhere", given([[NAN, -1.0], [-2.0, NAN]], [1, -100]), {"reduction": "none"}, ("loss", "grad.logprobs"))
write("nan", given([[NAN, -1.0], [-2.0, -0.5]], [0, 1]), {"reduction": "none"}, ("loss", "count"))
for nan in ("zero", "nan"):
    write(f"empty/{nan}", given([[-1.0, -2.0]], [-100]), {"empty_mean": nan})
inputs = given([[-1.0, -2.0], [-1.0, -0.5]], [0, 1])
inputs.put("sample_weight", torch.tensor([1.0, -1.0], dtype=F64))
write("empty/cancelled", inputs)
inputs = Inputs()
inputs.put("logprobs", torch.zeros((0, 3), dtype=F64))
inputs.put("targets", torch.zeros((0,), dtype=torch.int64), "i64")
inputs_none = inputs
BOOK.add("empty/no-rows", inputs_none, {}, {"loss": torch.zeros((), dtype=F64),
                                            "grad.logprobs": torch.zeros((0, 3), dtype=F64)})
BOOK.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), "nll.jsonl"))
print("nll", len(BOOK.lines))
