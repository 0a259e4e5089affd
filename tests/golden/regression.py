#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of mse, mae and smooth_l1: torch's own functions, differentiated by torch."""
import itertools
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated

ALL = ("loss", "grad.a", "grad.b")


def each_of(loss, a, b, options):
    if loss == "mse":
        return F.mse_loss(a, b, reduction="none")
    if loss == "mae":
        return F.l1_loss(a, b, reduction="none")
    return F.smooth_l1_loss(a, b, reduction="none", beta=float(options.get("beta", "1")))


def slope_of(loss, r, options):
    if loss == "mse":
        return 2 * r
    beta = float(options.get("beta", "1")) if loss == "smooth_l1" else 0.0
    return torch.where(r.abs() < beta, r / beta if beta else r, torch.sign(r))


def evaluate(loss, inputs, options):
    reduction, items = options.get("reduction", "mean"), options.get("num_items")
    a0, b0 = inputs.get("a").to(F64), inputs.get("b").to(F64)
    mask, weight = inputs.get("mask"), inputs.get("sample_weight")
    counted = torch.ones(a0.shape, dtype=torch.bool) if mask is None else mask != 0
    w = torch.ones(a0.shape, dtype=F64) if weight is None else weight.to(F64)
    w = torch.where(counted, w, torch.zeros_like(w))
    zero = torch.zeros((), dtype=F64)
    a, b = a0.clone().requires_grad_(True), b0.clone().requires_grad_(True)
    left, right = torch.where(counted, a, zero), torch.where(counted, b, zero)
    rows = each_of(loss, left, right, options) * w
    share = w
    if reduction == "none":
        value = rows
    elif reduction == "sum":
        value = rows.sum()
    else:
        d = float(items) if items is not None else w.sum().item()
        share = w / d if d else w * 0
        value = rows.sum() / d if d else rows.sum() * 0
        if d == 0 and options.get("empty_mean") == "nan":
            value = value + NAN
    go = inputs.get("grad_output")
    go = torch.ones(value.shape, dtype=F64) if go is None else go.to(F64).reshape(value.shape)
    diff = (left - right).detach()
    g = torch.where(w != 0, go * share * slope_of(loss, diff, options), zero)
    g = torch.where(torch.isnan(diff) & (w != 0), diff, g)
    auto = torch.autograd.grad((go * value).sum(), (a, b), allow_unused=True)
    # torch 1.13 differs from the contract at the kink, and gives sign(NaN) as 0
    smooth = (diff != 0) & counted & ~torch.isnan(diff)
    assert same(torch.where(smooth, auto[0], zero), torch.where(smooth, g, zero))
    assert same(torch.where(smooth, auto[1], zero), torch.where(smooth, -g, zero))
    return {"loss": value.detach(), "grad.a": g, "grad.b": torch.where(w != 0, -g, zero)}


def write(book, name, inputs, options=None, want=ALL):
    options = {k: str(v) for k, v in (options or {}).items()}
    out = evaluate(book.loss, inputs, options)
    book.add(name, inputs, options, {k: out[k] for k in want})
    return out


def build(book, name, shape, options=None, extra=(), want=ALL, kind="float"):
    draw, inputs = Draw(book.loss + name), Inputs()
    inputs.put("a", draw.normal(shape))
    inputs.put("b", draw.normal(shape))
    if "mask" in extra:
        inputs.put("mask", draw.flags(shape), "u8" if len(shape) == 2 else "bool")
    if "sample_weight" in extra:
        inputs.put("sample_weight", draw.between(shape, 0.25, 2), kind)
    if "grad_output" in extra:
        none = (options or {}).get("reduction") == "none"
        inputs.put("grad_output", draw.normal(shape if none else (), 1), kind)
    write(book, name, inputs, options, want)


def given(a, b, dtype="float"):
    inputs = Inputs()
    inputs.put("a", torch.tensor(a, dtype=F64), dtype)
    inputs.put("b", torch.tensor(b, dtype=F64), dtype)
    return inputs


def cases(loss):
    book = Book(loss)
    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("sample_weight",), ("grad_output",),
                      ("mask", "sample_weight", "grad_output")):
            name = f"{reduction}/{'-'.join(extra) or 'plain'}"
            build(book, name, (5, 7), {"reduction": reduction}, extra)
    for shape in ((1,), (16,), (17,), (33,), (3, 4, 5), (515,)):
        build(book, "shape/" + "x".join(map(str, shape)), shape)
    build(book, "scalar", (), {"reduction": "none"})
    build(book, "num_items", (9,), {"num_items": "4.5"}, ("sample_weight",))
    for kind in ("f64", "f32", "f16", "bf16"):
        build(book, f"weights-{kind}", (9,), {}, ("sample_weight", "grad_output"), kind=kind)
    build(book, "only-loss", (9,), {}, want=("loss",))
    build(book, "only-b", (9,), {}, want=("grad.b",))
    for nan in ("zero", "nan"):
        build(book, f"empty/none-{nan}", (0, 3), {"empty_mean": nan})
        inputs = given([NAN, 1.0], [0.0, INF])
        inputs.put("mask", torch.tensor([0, 0]), "u8")
        write(book, f"empty/masked-{nan}", inputs, {"empty_mean": nan})
    inputs = given([1.0, 2.0, 3.0], [0.0, 0.5, 0.25])
    inputs.put("sample_weight", torch.tensor([0.0, 0.0, 0.0]))
    write(book, "empty/weightless", inputs)
    write(book, "ties", given([1.0, -2.0, 0.0], [1.0, -2.0, 0.0]), {"reduction": "none"})
    write(book, "nan", given([NAN, 1.0], [0.0, 0.5]), {"reduction": "none"})
    if loss == "smooth_l1":
        for beta, reduction in itertools.product((0, 0.25, 0.5, 2, 8), ("none", "mean")):
            build(book, f"beta/{beta}-{reduction}", (11,), {"beta": beta, "reduction": reduction})
        r = [-2.0, -0.5, 0.0, 0.3, 1.0, 3.0]
        one = write(book, "check/1", given(r, [0.0] * 6, "f64"), {"reduction": "none"})
        stated(one["loss"], [1.5, 0.125, 0, 0.045, 0.5, 2.5], "beta 1")
        stated(one["grad.a"], [-1, -0.5, 0, 0.3, 1, 1], "beta 1")
        half = write(book, "check/half", given(r, [0.0] * 6, "f64"), {"reduction": "none", "beta": 0.5})
        stated(half["loss"], [1.75, 0.25, 0, 0.09, 0.75, 2.75], "beta 0.5")
        stated(half["grad.a"], [-1, -1, 0, 0.6, 1, 1], "beta 0.5")
        write(book, "beta/0-at-0", given([0.0, 1.0], [0.0, 0.0]), {"beta": 0, "reduction": "none"})
    book.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), loss + ".jsonl"))
    print(loss, len(book.lines))


for every in ("mse", "mae", "smooth_l1"):
    cases(every)
