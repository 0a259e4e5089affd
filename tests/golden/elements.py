#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the element-wise losses that compare scores with constants, and of log_cosh and quantile.

The values are those of torch.nn.functional where it has the loss, the slopes the contract's formulas; away from
kinks they are compared with torch's autograd.
"""
import math
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated
from reduced import counted_of, flag, number, reduce, scale_of, upstream_of, weight_of

PAIRS = ("log_cosh", "quantile", "margin_ranking")
TARGETS = ("margin_ranking", "hinge_embedding", "soft_margin", "poisson_nll")


def each_of(loss, x, y, options):
    """Losses of elements; x has one or two tensors."""
    if loss == "log_cosh":
        r = (x[0] - x[1]).abs()
        return r + torch.log1p(torch.exp(-2 * r)) - math.log(2)
    if loss == "quantile":
        q = number(options, "quantile", 0.5)
        return torch.maximum(q * (x[1] - x[0]), (q - 1) * (x[1] - x[0]))
    if loss == "margin_ranking":
        return F.margin_ranking_loss(x[0], x[1], y, margin=number(options, "margin", 0), reduction="none")
    if loss == "hinge_embedding":
        return F.hinge_embedding_loss(x[0], y, margin=number(options, "margin", 1), reduction="none")
    if loss == "soft_margin":
        return F.relu(-y * x[0]) + torch.log1p(torch.exp(-(y * x[0]).abs()))
    log_input, full = flag(options, "log_input", True), flag(options, "full")
    return F.poisson_nll_loss(x[0], y, log_input=log_input, full=full, eps=number(options, "eps", 1e-8),
                              reduction="none")


def slope_of(loss, x, y, options):
    """The derivative by x[0], and where it is the only one there is."""
    if loss in PAIRS:
        r = x[0] - x[1]
    if loss == "log_cosh":
        return torch.tanh(r), torch.ones_like(r, dtype=torch.bool)
    if loss == "quantile":
        q = number(options, "quantile", 0.5)
        return torch.where(r < 0, torch.full_like(r, -q), torch.where(r > 0, 1 - q + 0 * r, 0.5 - q + 0 * r)), r != 0
    if loss == "margin_ranking":
        u = number(options, "margin", 0) - y * r
        return torch.where(u > 0, -y, torch.zeros_like(y)), u != 0
    if loss == "hinge_embedding":
        u = number(options, "margin", 1) - x[0]
        return torch.where(y > 0, torch.ones_like(y), torch.where(u > 0, -torch.ones_like(y), 0 * y)), u != 0
    if loss == "soft_margin":
        return -y * torch.sigmoid(-y * x[0]), y * x[0] != 0  # relu and abs have a kink there, their sum has none
    if flag(options, "log_input", True):
        return torch.exp(x[0]) - y, torch.ones_like(y, dtype=torch.bool)
    return 1 - y / (x[0] + number(options, "eps", 1e-8)), torch.ones_like(y, dtype=torch.bool)


def evaluate(loss, inputs, options):
    names = ("a", "b") if loss in PAIRS else ("input",)
    given = [inputs.get(name).to(F64) for name in names]
    y0 = inputs.get("target").to(F64) if loss in TARGETS else None
    counted = counted_of(inputs, given[0].shape)
    w = weight_of(inputs, counted)
    one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    leaves = [x.clone().requires_grad_(True) for x in given]
    x = [torch.where(counted, v, one) for v in leaves]
    y = None if y0 is None else torch.where(counted, y0, one)
    rows = torch.where(w != 0, each_of(loss, x, y, options) * w, zero)
    value = reduce(rows, options, w.sum())
    scale, _ = scale_of(options, w.sum())
    up = upstream_of(inputs, value)
    slope, smooth = slope_of(loss, [v.detach() for v in x], y, options)
    g = torch.where(w != 0, up * w * scale * slope, zero)
    auto = torch.autograd.grad((up * value).sum(), leaves, allow_unused=True)
    out = {"loss": value.detach()}
    for k, name in enumerate(names):
        sign = 1 if k == 0 else -1
        plain = smooth & counted & torch.isfinite(rows.detach())
        got = torch.zeros_like(g) if auto[k] is None else auto[k]
        assert same(torch.where(plain, got, zero), torch.where(plain, sign * g, zero)), (loss, name, options)
        out["grad." + name] = sign * g
    if loss == "poisson_nll":  # e^x - y cancels, and so does 1 - y/x
        large = torch.maximum(torch.exp(x[0]), y) if flag(options, "log_input", True) else torch.ones_like(y)
        out["terms"] = (up * scale * w * large.detach()).abs()
    return out


def write(book, name, inputs, options=None, want=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    out = evaluate(book.loss, inputs, options)
    terms = out.pop("terms", None)
    book.add(name, inputs, options, {k: out[k] for k in want or out}, terms=terms)
    return out


def targets(loss, draw, shape):
    if loss == "poisson_nll":
        return draw.integers(shape, 0, 5)
    return draw.integers(shape, 0, 2) * 2 - 1


def build(book, name, shape, options=None, extra=(), want=None, kind="float", target="i64"):
    loss, draw, inputs = book.loss, Draw(book.loss + name), Inputs()
    options = options or {}
    for k in ("a", "b") if loss in PAIRS else ("input",):
        positive = loss == "poisson_nll" and options.get("log_input") == "false"
        inputs.put(k, draw.between(shape, 0.25, 4) if positive else draw.normal(shape))
    if loss in TARGETS:
        inputs.put("target", targets(loss, draw, shape), target)
    if "mask" in extra:
        inputs.put("mask", draw.flags(shape), "u8" if len(shape) == 2 else "bool")
    if "sample_weight" in extra:
        inputs.put("sample_weight", draw.between(shape, -1, 2), kind)
    if "grad_output" in extra:
        inputs.put("grad_output", draw.normal(shape if options.get("reduction") == "none" else (), 1), kind)
    write(book, name, inputs, options, want)


def given(loss, x, y=None, dtype="float", target="float"):
    inputs = Inputs()
    for name, numbers in zip(("a", "b") if loss in PAIRS else ("input",), x):
        inputs.put(name, torch.tensor(numbers, dtype=F64), dtype)
    if y is not None:
        inputs.put("target", torch.tensor(y, dtype=F64), target)
    return inputs


NONE = {"reduction": "none"}
A, B, Y = [0.2, -1.0, 0.5], [0.7, -0.4, 0.5], [1.0, -1.0, 1.0]
X = [0.2, -1.0, 2.5]


def checks(book):
    """The contract's numbers."""
    loss = book.loss

    def check(name, x, y, options, values, slopes=None, leaf="input"):
        out = write(book, "check/" + name, given(loss, x, y, "f64", "f64"), {**NONE, **options})
        stated(out["loss"], values, name)
        if slopes:
            stated(out["grad." + leaf], slopes, name)

    if loss == "margin_ranking":
        check("margin", [A, B], Y, {"margin": 0.3}, [0.8, 0, 0.3])
    if loss == "log_cosh":
        check("values", [A, B], None, {}, [0.120114507, 0.1701352868, 0], [-0.4621171573, -0.537049567, 0], "a")
    if loss == "quantile":
        check("0.9", [A, B], None, {"quantile": 0.9}, [0.45, 0.54, 0], [-0.9, -0.9, -0.4], "a")
    if loss == "hinge_embedding":
        check("values", [X], [1, -1, -1], {}, [0.2, 2, 0])
    if loss == "soft_margin":
        check("values", [X], [1, -1, -1], {}, [0.5981388694, 0.3132616875, 2.578889734],
              [-0.4501660027, 0.2689414214, 0.92414182])
    if loss == "poisson_nll":
        check("full", [X], [0, 3, 1], {"full": "true"}, [1.221402758, 5.131960985, 9.682493961],
              [1.221402758, -2.632120559, 11.18249396])
        check("counts", [[0.2, 1, 2.5]], [0, 3, 1], {"log_input": "false"}, [0.2, 0.99999997, 1.583709264])


def own(book):
    """Cases of one loss alone: its options, its kinks, its ends."""
    loss = book.loss
    if loss == "log_cosh":
        write(book, "large", given(loss, [[100.0, -100.0, 0.0, 64.0], [0.0, 0.0, 0.0, 0.5]]), NONE)
        write(book, "near-one", given(loss, [[0.984375, 1.0, 1.015625, -1.0], [0.0] * 4]), NONE)
        write(book, "small", given(loss, [[1e-5, -1e-8, 1e-12, 0.0], [0.0] * 4], None, "f64"), NONE)
        write(book, "nan", given(loss, [[NAN, 1.0, INF], [0.0, 0.5, 0.0]]), NONE, ("loss",))
    if loss == "quantile":
        for q in (0.001, 0.25, 0.5, 0.75, 0.999):
            build(book, f"quantile/{q}", (11,), {"quantile": q})
        write(book, "ties", given(loss, [[1.0, -2.0], [1.0, -2.0]]), {"quantile": 0.25, **NONE})
        write(book, "nan", given(loss, [[NAN, 1.0, INF], [0.0, 0.5, 0.0]]), NONE, ("loss",))
    if loss in ("margin_ranking", "hinge_embedding"):
        for margin in (-0.5, 0.5, 2):
            build(book, f"margin/{margin}", (13,), {"margin": margin})
    if loss == "margin_ranking":
        write(book, "kinks", given(loss, [[1.0, 0.5, 0.0], [0.5, 0.0, 1.0]], [1.0, 1.0, -1.0]), {"margin": 0.5, **NONE})
        write(book, "any-target", given(loss, [[1.0, 0.5, 0.0], [0.5, 0.0, 1.0]], [2.0, 0.0, -0.5]), NONE)
        write(book, "nan", given(loss, [[NAN, 1.0], [0.0, 0.5]], [1.0, -1.0]), NONE, ("loss",))
    if loss == "hinge_embedding":
        write(book, "kinks", given(loss, [[1.0, 0.0, 1.0]], [-1.0, -1.0, 1.0]), NONE)
        write(book, "nan", given(loss, [[NAN, NAN]], [1.0, -1.0]), NONE, ("loss",))
    if loss == "soft_margin":
        write(book, "large", given(loss, [[80.0, -100.0, 120.0, 0.0]], [1.0, 1.0, -1.0, 1.0]), NONE)
        write(book, "beyond-exp", given(loss, [[1000.0, -1000.0, 710.0]], [1.0, 1.0, -1.0], "f64"), NONE)
        write(book, "any-target", given(loss, [[1.0, 0.5, 0.25]], [2.0, 0.0, -0.5]), NONE)
        write(book, "infinite", given(loss, [[INF, -INF, INF, -INF]], [1.0, 1.0, -1.0, -1.0]), NONE, ("loss",))
    if loss == "poisson_nll":
        for full in ("false", "true"):
            for log_input in ("false", "true"):
                build(book, f"options/{full}-{log_input}", (4, 5), {"full": full, "log_input": log_input})
        build(book, "eps", (9,), {"log_input": "false", "eps": 0.5})
        write(book, "zeros", given(loss, [[0.0, 1.0, 0.0]], [0.0, 0.0, 1.0]), {"log_input": "false", "eps": 0.25, **NONE})
        write(book, "large-counts", given(loss, [[4.0, 3.0, 0.5]], [100.0, 1.0, 1.0078125]), {"full": "true", **NONE})


def cases(loss):
    book = Book(loss)
    checks(book)
    own(book)
    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("sample_weight",), ("mask", "sample_weight", "grad_output")):
            build(book, f"{reduction}/{'-'.join(extra) or 'plain'}", (5, 7), {"reduction": reduction}, extra)
    for shape in ((1,), (16,), (17,), (3, 4, 5), (515,)):
        build(book, "shape/" + "x".join(map(str, shape)), shape)
    build(book, "scalar", (), NONE)
    build(book, "num_items", (9,), {"num_items": "4.5"}, ("sample_weight",))
    for kind in ("f64", "bf16"):
        build(book, f"kinds-{kind}", (9,), {}, ("sample_weight", "grad_output"), kind=kind, target=kind)
    if loss in TARGETS:
        build(book, "targets/i32", (9,), NONE, target="i32")
        build(book, "targets/float", (9,), NONE, target="float")
    for nan in ("zero", "nan"):
        build(book, f"empty/none-{nan}", (0, 3), {"empty_mean": nan})
        x = [[NAN, 1.0], [0.0, INF]][: 2 if loss in PAIRS else 1]
        inputs = given(loss, x, [1.0, 1.0] if loss in TARGETS else None)
        inputs.put("mask", torch.tensor([0, 0]), "u8")
        write(book, f"empty/masked-{nan}", inputs, {"empty_mean": nan})
    book.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), loss + ".jsonl"))
    print(loss, len(book.lines))


for every in ("log_cosh", "quantile", "margin_ranking", "hinge_embedding", "soft_margin", "poisson_nll"):
    cases(every)
