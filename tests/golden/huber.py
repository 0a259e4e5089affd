#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of huber: torch's own huber_loss, differentiated by torch, times the weights."""
import itertools
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated

BOOK = Book("huber")
ALL = ("loss", "grad.a", "grad.b")


def evaluate(inputs, options):
    """loss, grad.a and grad.b, and how they compare with the definition of the contract."""
    delta = float(options.get("delta", "1"))
    reduction = options.get("reduction", "mean")
    items = options.get("num_items")
    a0, b0 = inputs.get("a").to(F64), inputs.get("b").to(F64)
    mask, weight = inputs.get("mask"), inputs.get("sample_weight")
    counted = torch.ones(a0.shape, dtype=torch.bool) if mask is None else mask != 0
    r = torch.ones(a0.shape, dtype=F64) if weight is None else weight.to(F64)
    r = torch.where(counted, r, torch.zeros_like(r))
    a, b = a0.clone().requires_grad_(True), b0.clone().requires_grad_(True)
    zero = torch.zeros((), dtype=F64)
    left, right = torch.where(counted, a, zero), torch.where(counted, b, zero)
    each = F.huber_loss(left, right, reduction="none", delta=delta) * r
    if reduction == "none":
        loss, share = each, r
    elif reduction == "sum":
        loss, share = each.sum(), r
    else:
        d = float(items) if items is not None else r.sum().item()
        if d == 0:
            loss = each.sum() * 0
            share = r * 0
            if options.get("empty_mean") == "nan":
                loss = loss + NAN
        else:
            loss, share = each.sum() / d, r / d
    go = inputs.get("grad_output")
    go = torch.ones(loss.shape, dtype=F64) if go is None else go.to(F64).reshape(loss.shape)
    grads = torch.autograd.grad((go * loss).sum(), (a, b))
    grads = [torch.where(counted, g, zero) for g in grads]

    diff = (left - right).detach()
    size = diff.abs()
    value = torch.where(size <= delta, diff**2 / 2, delta * (size - delta / 2))
    value = torch.where(torch.isnan(diff), diff, value)
    assert same((value * r), each.detach())
    assert same(go * share * diff.clamp(-delta, delta), grads[0])
    assert same(-grads[0], grads[1])
    if reduction == "sum" and weight is None and bool(counted.all()):
        assert same(F.huber_loss(a0, b0, reduction="sum", delta=delta), loss.detach())
    if reduction == "mean" and weight is None and items is None and a0.numel():
        if bool(counted.all()):
            assert same(F.huber_loss(a0, b0, delta=delta), loss.detach())
    return {"loss": loss.detach(), "grad.a": grads[0], "grad.b": grads[1]}


def write(name, inputs, options=None, want=ALL):
    options = options or {}
    outputs = evaluate(inputs, options)
    BOOK.add(name, inputs, options, {k: outputs[k] for k in want})
    return outputs


def build(name, shape, options=None, extra=(), kind="float", spread=1.5, want=ALL):
    """A case of random numbers; `extra` names the optional inputs."""
    options = {k: str(v) for k, v in (options or {}).items()}
    draw = Draw("huber " + name)
    inputs = Inputs()
    inputs.put("a", draw.normal(shape, spread))
    inputs.put("b", draw.normal(shape, spread))
    if "mask" in extra:
        inputs.put("mask", draw.flags(shape), "bool")
    if "sample_weight" in extra:
        inputs.put("sample_weight", draw.between(shape, 0.25, 2.0), kind)
    if "grad_output" in extra:
        none = options.get("reduction", "mean") == "none"
        inputs.put("grad_output", draw.normal(shape if none else (), 1.0), kind)
    return write(name, inputs, options, want)


def given(a, b, dtype="float", **others):
    inputs = Inputs()
    inputs.put("a", torch.tensor(a, dtype=F64), dtype)
    inputs.put("b", torch.tensor(b, dtype=F64), dtype)
    for name, value in others.items():
        kind = "bool" if name == "mask" else "float"
        if isinstance(value, tuple):
            value, kind = value
        inputs.put(name, torch.tensor(value, dtype=None if kind in ("bool", "u8") else F64), kind)
    return inputs


def checks():
    """The table of the contract; .3 has no short binary form, so this case is f64."""
    r = [-2.0, -0.5, 0.0, 0.3, 1.0, 3.0]
    out = write("check/none", given(r, [0.0] * 6, "f64"), {"reduction": "none", "delta": "1"})
    stated(out["loss"], [1.5, 0.125, 0, 0.045, 0.5, 2.5], "huber")
    stated(out["grad.a"], [-1, -0.5, 0, 0.3, 1, 1], "huber grad.a")
    stated(out["grad.b"], [1, 0.5, 0, -0.3, -1, -1], "huber grad.b")
    out = write("check/mean", given(r, [0.0] * 6, "f64"), {})
    stated(out["loss"], (1.5 + 0.125 + 0.045 + 0.5 + 2.5) / 6, "huber mean")


def main():
    checks()
    for delta in ("0.001", "0.1", "0.5", "1", "2", "1000"):
        for reduction in ("none", "sum", "mean"):
            build(f"delta/{delta}-{reduction}", (7,), {"delta": delta, "reduction": reduction})
    for shape in ((), (1,), (2, 3), (2, 1, 4), (2, 2, 3, 2), (0,), (3, 0), (17,), (64,), (5, 13),
                  (3, 43)):
        text = "x".join(str(n) for n in shape) or "one"
        for reduction in ("none", "mean"):
            build(f"shape/{text}-{reduction}", shape, {"reduction": reduction},
                  ("mask", "grad_output") if reduction == "none" else ())
    build("shape/empty-sum", (0,), {"reduction": "sum"})
    inputs = ("mask", "sample_weight", "grad_output")
    for count in (1, 2, 3):
        for extra in itertools.combinations(inputs, count):
            for reduction in ("none", "sum", "mean"):
                build(f"with/{'-'.join(extra)}-{reduction}", (2, 5),
                      {"reduction": reduction, "delta": "0.75"}, extra)
    for items in ("0.5", "1", "12", "1000"):
        build(f"num-items/plain-{items}", (2, 3), {"num_items": items})
        build(f"num-items/all-{items}", (2, 3), {"num_items": items, "delta": "0.5"}, inputs)
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"type/{kind}", (6,), {"reduction": "none"}, inputs, kind)
        build(f"type/{kind}-mean", (6,), {}, inputs, kind)
    build("want/loss", (5,), {}, (), want=("loss",))
    build("want/grad-b", (5,), {}, ("mask",), want=("grad.b",))
    build("want/grad-a-loss", (5,), {"reduction": "none"}, (), want=("grad.a", "loss"))

    kink = [0.5, -0.5, 0.0, 1.5, -1.5, 0.5]
    for reduction in ("none", "sum", "mean"):
        write(f"kink/{reduction}", given(kink, [0.0, 0.0, 0.0, 1.0, -1.0, 0.25]),
              {"delta": "0.5", "reduction": reduction})
    write("kink/equal", given([1.25, -3.0], [1.25, -3.0]), {})
    write("kink/beside", given([0.5, 0.50390625, 0.498046875, -0.50390625], [0.0] * 4),
          {"delta": "0.5", "reduction": "none"})
    write("kink/large", given([100.0, -128.0, 64.0], [-100.0, 128.0, 0.0009765625]),
          {"delta": "200", "reduction": "none"})

    a, b = [1.0, NAN, -2.0, INF, 0.5], [0.5, 1.0, NAN, -INF, 2.0]
    mask = [True, False, False, False, True]
    for reduction in ("none", "sum", "mean"):
        write(f"nonfinite/masked-{reduction}", given(a, b, mask=mask), {"reduction": reduction})
        write(f"nonfinite/nan-{reduction}", given([1.0, NAN, -2.0], [0.5, 1.0, 0.25]),
              {"reduction": reduction})
    write("nonfinite/nan-weighted", given([1.0, NAN, -2.0], [0.5, 1.0, NAN],
                                          sample_weight=[0.5, 1.0, 2.0]), {"reduction": "none"})
    write("nonfinite/mask-u8", given(a, b, mask=([255, 0, 0, 0, 2], "u8")), {})

    for value in ("zero", "nan"):
        mode = {"empty_mean": value}
        write(f"empty/masked-{value}", given([1.0, NAN], [0.0, 2.0], mask=[False, False]), mode)
        write(f"empty/weights-0-{value}", given([1.0, 2.0], [0.0, 2.5], sample_weight=[0.0, 0.0]),
              mode)
        write(f"empty/no-elements-{value}", given([], []), mode)
        write(f"empty/masked-num-items-{value}",
              given([1.0, 2.0], [0.0, 2.5], mask=[False, False]), {**mode, "num_items": "2"})
    write("edge/weights-some-0", given([1.0, 2.0, -4.0], [0.0, 2.5, 1.0],
                                       sample_weight=[0.0, 1.0, 0.5]), {})
    write("edge/grad-output-one-element", given([1.0, 2.0], [0.0, 2.5], grad_output=[0.5]), {})
    write("edge/grad-output-0", given([1.0, 2.0], [0.0, 2.5], grad_output=[0.0, -1.0]),
          {"reduction": "none"})

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "huber.jsonl")
    BOOK.write(path)
    print(f"{len(BOOK.lines)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
