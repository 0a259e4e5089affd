#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of multi_margin, multilabel_margin, multilabel_soft_margin and gaussian_nll: the contract's formulas,
compared with torch.nn.functional where it has the same; gradients by torch's autograd."""
import math
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated
from reduced import counted_of, differentiate, flag, leaf, number, reduce, weight_of

X = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]
ZERO = torch.zeros((), dtype=F64)


def relu(u):
    """max(0, u), NaN where u is."""
    return torch.where(torch.isnan(u) | (u > 0), u, ZERO)


def rows_of(loss, inputs, options, x, counted):
    """The losses of the rows; those that do not count are anything."""
    C = x.shape[-1]
    flat, out = x.reshape(-1, C), []
    targets = inputs.get("targets").reshape(-1, C) if loss != "multi_margin" else inputs.get("targets").reshape(-1)
    class_weight, weight = inputs.get("class_weight"), inputs.get("weight")
    weight = torch.ones(x.shape, dtype=F64) if weight is None else weight.to(F64).expand(x.shape)
    weight = weight.reshape(-1, C)
    for i, counts in enumerate(counted.reshape(-1).tolist()):
        z, terms = flat[i], []
        if not counts:
            out.append(ZERO)
            continue
        if loss == "multi_margin":
            y, p, mu = int(targets[i]), int(options.get("p", 1)), number(options, "margin", 1)
            w = 1.0 if class_weight is None else float(class_weight[y])
            terms = [w * relu(mu - z[y] + z[j]) ** p for j in range(C) if j != y]
        elif loss == "multilabel_margin":
            listed = targets[i].tolist()
            listed = listed[: listed.index(-1)] if -1 in listed else listed
            terms = [relu(1 - z[j] + z[k]) for j in listed for k in range(C) if k not in listed]
        else:
            y = targets[i].to(F64)
            minus, plus = torch.logaddexp(ZERO, -z), torch.logaddexp(ZERO, z)
            parts = weight[i] * (torch.where(y != 0, y * minus, ZERO) + torch.where(y != 1, (1 - y) * plus, ZERO))
            terms = list(parts)
        value = torch.stack(terms).sum() / C if terms else (z * 0).sum()
        out.append(value + (z * 0).sum() if not torch.isnan(value) and torch.isfinite(z).all() else value)
    return torch.stack(out).reshape(counted.shape) if out else torch.zeros(counted.shape, dtype=F64) + x.sum() * 0


def by_torch(loss, inputs, options, x):
    y = inputs.get("targets")
    if loss == "multi_margin":
        w = inputs.get("class_weight")
        return F.multi_margin_loss(x, y.long(), p=int(options.get("p", 1)), margin=number(options, "margin", 1),
                                   weight=None if w is None else w.to(F64), reduction="none")
    if loss == "multilabel_margin":
        read = (y.long() == -1).cumsum(-1) == 0
        return F.multilabel_margin_loss(x, torch.where(read, y.long(), torch.full_like(y.long(), -1)), reduction="none")
    w = inputs.get("weight")
    return F.multilabel_soft_margin_loss(x, y.to(F64), weight=None if w is None else w.to(F64), reduction="none")


def margins(loss, inputs, options):
    x = leaf(inputs, "logits")
    counted = counted_of(inputs, x.shape[:-1])
    if loss == "multi_margin":
        counted = counted & (inputs.get("targets") != int(options.get("ignore_index", -100)))
    w = weight_of(inputs, counted)
    rows = rows_of(loss, inputs, options, x, counted)
    if x.dim() == 2 and x.numel() and counted.all() and torch.isfinite(x).all():
        assert same(rows.detach(), by_torch(loss, inputs, options, x.detach())), (loss, options)
    value = reduce(torch.where(w != 0, rows * w, ZERO), options, w.sum())
    return differentiate(value, inputs, {"logits": x})


def gaussian(inputs, options):
    x, var = leaf(inputs, "input"), leaf(inputs, "var")
    counted = counted_of(inputs, x.shape)
    w = weight_of(inputs, counted)
    wide = var.unsqueeze(-1) if var.dim() < x.dim() else var
    eps = number(options, "eps", 1e-6)
    v = wide + (torch.clamp(wide, min=eps) - wide).detach()  # the gradient goes through the clamp
    y = inputs.get("target").to(F64)
    read = torch.where(counted, x, torch.ones_like(x))
    rows = (torch.log(v) + (read - y) ** 2 / v) / 2 + (math.log(2 * math.pi) / 2 if flag(options, "full") else 0)
    theirs = var.shape in (x.shape, x.shape[:-1], (*x.shape[:-1], 1)) and y.shape == x.shape
    if x.dim() > 0 and x.numel() and theirs and torch.isfinite(x).all():
        theirs = F.gaussian_nll_loss(x.detach(), y, var.detach().clone(), full=flag(options, "full"), eps=eps,
                                     reduction="none")
        assert same(torch.where(counted, rows.detach(), ZERO), torch.where(counted, theirs, ZERO)), options
    value = reduce(torch.where(w != 0, torch.where(counted, rows, ZERO) * w, ZERO), options, w.sum())
    return differentiate(value, inputs, {"input": x, "var": var})


def write(book, name, inputs, options=None, want=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    if book.loss == "gaussian_nll":
        out, scale = gaussian(inputs, options), None
    else:
        out = margins(book.loss, inputs, options)
        x = inputs.get("logits").to(F64)
        scale = torch.where(torch.isfinite(x), x.abs(), ZERO).amax(-1).reshape(-1) if x.numel() else None
    for key in [k for k in out if k.startswith("grad.")]:
        of = inputs.get(key[5:])
        if not torch.isfinite(of.to(F64)).all():  # torch has 0 * NaN where nothing is read
            out[key] = torch.where(torch.isfinite(of.to(F64)), out[key], ZERO)
    book.add(name, inputs, options, {k: out[k] for k in want or out}, scale=scale)
    return out


def targets_of(loss, draw, shape):
    rows, C = shape[:-1], shape[-1]
    if loss == "multi_margin":
        y = draw.integers(rows, 0, C)
        return torch.where(draw.flags(rows, 0.15), torch.full_like(y, -100), y) if len(rows) else y
    if loss == "multilabel_soft_margin":
        return draw.integers(shape, 0, 2).to(F64)
    y = torch.full((math.prod(rows), C), -1, dtype=torch.int64)
    for row in y:
        classes = list(range(C))
        draw.random.shuffle(classes)
        n = draw.random.randrange(0, C + 1)
        row[:n] = torch.tensor(classes[:n], dtype=torch.int64)
        if n + 1 < C:
            row[n + 1:] = 77  # not read
    return y.reshape(shape)


def build(book, name, shape, options=None, extra=(), target=None):
    loss, draw, inputs, options = book.loss, Draw(book.loss + name), Inputs(), options or {}
    inputs.put("logits", draw.normal(shape))
    kind = target or {"multi_margin": "i64", "multilabel_margin": "i64"}.get(loss, "float")
    inputs.put("targets", targets_of(loss, draw, shape), kind)
    rows = shape[:-1]
    if "class_weight" in extra:
        inputs.put("class_weight", draw.between(shape[-1:], -1, 2))
    if "weight" in extra:
        inputs.put("weight", draw.between(shape, -1, 2))
    if "mask" in extra:
        inputs.put("mask", draw.flags(rows), "bool")
    if "sample_weight" in extra:
        inputs.put("sample_weight", draw.between(rows, -1, 2))
    if "grad_output" in extra:
        inputs.put("grad_output", draw.normal(rows if options.get("reduction") == "none" else (), 1))
    write(book, name, inputs, options)


def given(x, y, dtype="float", target="i64"):
    inputs = Inputs()
    inputs.put("logits", torch.tensor(x, dtype=F64), dtype)
    inputs.put("targets", torch.tensor(y, dtype=torch.int64 if target != "float" else F64),
               dtype if target == "float" else target)
    return inputs


NONE = {"reduction": "none"}


def check(book, name, inputs, options, value, grad=None):
    out = write(book, "check/" + name, inputs, options)
    stated(out["loss"], value, name)
    if grad:
        stated(out["grad.logits"], grad, name)


def margin_cases(loss):
    book = Book(loss)
    soft = loss == "multilabel_soft_margin"
    if loss == "multi_margin":
        check(book, "none", given(X, [0, 1], "f64"), NONE, [0, 2.133333333],
              [[0, 0, 0], [0.3333333333, -0.6666666667, 0.3333333333]])
        inputs = given(X, [0, 1], "f64")
        inputs.put("class_weight", torch.tensor([1, -2, 0.5], dtype=F64), "f64")
        check(book, "squares", inputs, {"p": 2}, -6.833333333)
    if loss == "multilabel_margin":
        check(book, "none", given(X, [[0, 2, -1], [1, -1, 0]], "f64"), NONE, [0.2333333333, 2.133333333],
              [[0, 0.3333333333, -0.3333333333], [0.3333333333, -0.6666666667, 0.3333333333]])
    if soft:
        check(book, "none", given(X, [[1, 0, 1], [0, 1, 0]], "f64", "float"), NONE, [0.5361533725, 1.363923889],
              [[-0.0771584055, 0.1033418396, -0.2074864437], [0.2369831675, -0.2561749278, 0.2500867019]])
    extras = [(), ("mask",), ("sample_weight",), ("mask", "sample_weight", "grad_output")]
    for reduction in ("none", "sum", "mean"):
        for extra in extras:
            build(book, f"{reduction}/{'-'.join(extra) or 'plain'}", (5, 4), {"reduction": reduction}, extra)
    for shape in ((1, 1), (1, 2), (6,), (2, 3, 4), (3, 33)):
        build(book, "shape/" + "x".join(map(str, shape)), shape, NONE)
    build(book, "num_items", (5, 3), {"num_items": 3.5}, ("mask",))
    if loss == "multi_margin":
        for p in (1, 2):
            for margin in (-0.5, 0, 2.5):
                build(book, f"p-{p}/margin-{margin}", (4, 5), {"p": p, "margin": margin}, ("class_weight",))
        build(book, "targets/i32", (4, 3), NONE, target="i32")
        build(book, "ignore_index", (6, 3), {"ignore_index": 1})
        write(book, "kinks", given([[1.0, 0.0, 2.0]], [0]), NONE)
        write(book, "impossible", given([[1.0, -INF, 0.5], [-INF, 1.0, 0.5]], [0, 0]), NONE, ("loss",))
        write(book, "nan", given([[1.0, NAN, 0.5], [0.5, 1.0, 0.25]], [0, 1]), NONE, ("loss",))
    if loss == "multilabel_margin":
        build(book, "targets/i32", (4, 5), NONE, target="i32")
        write(book, "repeated", given([[1.0, 0.5, 0.25, 2.0]], [[1, 1, -1, 9]]), NONE)
        write(book, "nothing-listed", given([[1.0, 0.5, 0.25]], [[-1, 0, 1]]), NONE)
        write(book, "all-listed", given([[1.0, 0.5, 0.25]], [[2, 0, 1]]), NONE)
        write(book, "kinks", given([[1.0, 0.0, 0.5]], [[0, -1, -1]]), NONE)
    if soft:
        build(book, "weight", (4, 5), NONE, ("weight", "sample_weight"))
        inputs = given(X, [[1, 0, 1], [0, 1, 0]], "f64", "float")
        inputs.put("weight", torch.tensor([0.5, -1, 2], dtype=F64), "f64")
        write(book, "weight/of-classes", inputs, NONE)
        inputs = given(X, [[1, 0, 1], [0, 1, 0]], "f64", "float")
        inputs.put("weight", torch.tensor([[0.5], [2]], dtype=F64), "f64")
        write(book, "weight/of-rows", inputs)
        write(book, "any-target", given([[1.0, 0.5, -2.0]], [[2, -1, 0.25]], "float", "float"), NONE)
        write(book, "far", given([[100.0, -100.0, 64.0]], [[1, 0, 0]], "float", "float"), NONE)
        write(book, "impossible", given([[-INF, 0.5, 1.0]], [[0, 1, 0]], "float", "float"), NONE, ("loss",))
    for nan in ("zero", "nan"):
        y = [[1, 0, 1], [0, 1, 0]] if soft else [0, 1] if loss == "multi_margin" else [[0, -1, -1], [1, -1, -1]]
        inputs = given(X, y, "f64", "float" if soft else "i64")
        inputs.put("mask", torch.tensor([0, 0]), "u8")
        write(book, f"empty/{nan}", inputs, {"empty_mean": nan})
    save(book)


def gaussian_cases():
    book = Book("gaussian_nll")

    def make(x, y, var, dtype="float"):
        inputs = Inputs()
        for name, data in (("input", x), ("target", y), ("var", var)):
            inputs.put(name, data if torch.is_tensor(data) else torch.tensor(data, dtype=F64), dtype)
        return inputs

    out = write(book, "check", make([1, 2], [0.5, 3], [0.25, 0], "f64"), {"eps": 0.5, "reduction": "none"})
    stated(out["loss"], [-0.09657359028, 0.6534264097], "gaussian")
    stated(out["grad.input"], [1, -2], "gaussian")
    stated(out["grad.var"], [0.5, -1], "gaussian")

    def random(name, shape, options=None, extra=(), var=None, target=None):
        draw, options = Draw("gaussian" + name), options or {}
        inputs = make(draw.normal(shape), draw.normal(shape if target is None else target),
                      draw.between(shape if var is None else var, 0.125, 3))
        if "mask" in extra:
            inputs.put("mask", draw.flags(shape), "bool")
        if "sample_weight" in extra:
            inputs.put("sample_weight", draw.between(shape, -1, 2))
        if "grad_output" in extra:
            inputs.put("grad_output", draw.normal(shape if options.get("reduction") == "none" else (), 1))
        write(book, name, inputs, options)

    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("mask", "sample_weight", "grad_output")):
            random(f"{reduction}/{'-'.join(extra) or 'plain'}", (3, 4), {"reduction": reduction}, extra)
    for name, shape, var in (("rows", (3, 4), (3,)), ("rows-1", (3, 4), (3, 1)), ("columns", (3, 4), (1, 4)),
                             ("one", (3, 4), (1, 1)), ("square-rows", (3, 3), (3,)), ("deep", (2, 3, 4), (2, 3)),
                             ("middle", (2, 3, 4), (2, 1, 4)), ("scalar", (5,), ()), ("single", (5,), (1,))):
        random("var/" + name, shape, {"reduction": "none"}, ("mask", "grad_output"), var)
    for target in ((4,), (3, 1), (1,), ()):
        random("target/" + ("x".join(map(str, target)) or "scalar"), (3, 4), {}, ("sample_weight",), target=target)
    random("full", (7,), {"full": "true"})
    random("eps", (9,), {"eps": 0.75, "reduction": "none"})
    random("num_items", (9,), {"num_items": 4.5})
    random("scalar", (), {"reduction": "none"}, var=())
    random("long", (300,), {}, var=(1,))
    inputs = make([1.0, NAN], [0.5, 1.0], [0.25, 0.5])
    inputs.put("mask", torch.tensor([1, 0]), "u8")
    write(book, "masked-nan", inputs)
    write(book, "nan", make([1.0, NAN], [0.5, 1.0], [0.25, 0.5]), {"reduction": "none"}, ("loss",))
    write(book, "sure", make([1.0, 100.0], [1.25, 100.0], [0.0009765625, 0.5]), {"reduction": "none"})
    for nan in ("zero", "nan"):
        write(book, f"empty/{nan}", make(torch.zeros((0, 3), dtype=F64), torch.zeros((0, 3), dtype=F64),
                                         torch.ones((0,), dtype=F64)), {"empty_mean": nan})
    save(book)


def save(book):
    book.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), book.loss + ".jsonl"))
    print(book.loss, len(book.lines))


for every in ("multi_margin", "multilabel_margin", "multilabel_soft_margin"):
    margin_cases(every)
gaussian_cases()
