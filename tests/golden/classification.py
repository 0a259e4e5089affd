#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of bce_with_logits, sigmoid_focal, kl_div and span: torch's functions where it has
them, else the definition written out; gradients by torch.autograd."""
import math
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated

HERE = os.path.dirname(os.path.abspath(__file__))
ZERO = torch.zeros((), dtype=F64)


def reduce(rows, counted, options, default="mean", divisor=None):
    """The loss of rows of which some count."""
    reduction, items = options.get("reduction", default), options.get("num_items")
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    d = float(items) if items is not None else (divisor or counted.sum().item())
    if d == 0:
        return rows.sum() * 0 + (NAN if options.get("empty_mean") == "nan" else 0)
    return rows.sum() / d


def gradients(loss, inputs, leaves):
    go = inputs.get("grad_output")
    go = torch.ones(loss.shape, dtype=F64) if go is None else go.to(F64).reshape(loss.shape)
    grads = torch.autograd.grad((go * torch.nan_to_num(loss, 0.0) if loss.numel() == 1 and
                                 torch.isnan(loss).all() else go * loss).sum(), leaves)
    return grads


# bce_with_logits and sigmoid_focal


def label(loss, inputs, options):
    x = inputs.get("logits").to(F64).clone().requires_grad_(True)
    y = inputs.get("targets").to(F64).clone().requires_grad_(True)
    mask, weight, pos = (inputs.get(n) for n in ("mask", "weight", "pos_weight"))
    counted = torch.ones(x.shape, dtype=torch.bool) if mask is None else mask != 0
    a, b = torch.where(counted, x, ZERO), torch.where(counted, y, ZERO)
    eps = float(options.get("label_smoothing", "0"))
    t = b * (1 - eps) + eps / 2
    w = torch.ones((), dtype=F64) if weight is None else weight.to(F64)
    p = torch.ones((), dtype=F64) if pos is None else pos.to(F64)
    rows = p * t * F.softplus(-a, threshold=1e9) + (1 - t) * F.softplus(a, threshold=1e9)
    if eps == 0 and torch.isfinite(a).all():
        assert same(F.binary_cross_entropy_with_logits(
            a, b, pos_weight=None if pos is None else pos.to(F64), reduction="none"), rows)
    if loss == "sigmoid_focal":
        alpha, gamma = options.get("alpha", "0.25"), float(options.get("gamma", "2"))
        q = torch.sigmoid(a) * (1 - t) + torch.sigmoid(-a) * t
        scale = 1 if alpha == "off" else float(alpha) * t + (1 - float(alpha)) * (1 - t)
        rows = rows * scale * (q ** gamma if gamma else 1)
    rows = torch.where(counted, rows * w, ZERO)
    value = reduce(rows, counted, options, "none" if loss == "sigmoid_focal" else "mean")
    grads = gradients(value, inputs, (x, y))
    return {"loss": value.detach(), "grad.logits": torch.where(counted, grads[0], ZERO),
            "grad.targets": torch.where(counted, grads[1], ZERO)}


def add(book, evaluate, name, inputs, options=None, want=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    out = evaluate(inputs, options)
    book.add(name, inputs, options, {k: out[k] for k in want or out})
    return out


def labels(loss):
    book = Book(loss)
    default = "none" if loss == "sigmoid_focal" else "mean"

    def evaluate(inputs, options):
        return label(loss, inputs, options)

    def build(name, shape, options=None, extra=(), kind="float", soft=True, **broadcast):
        draw, inputs = Draw(loss + name), Inputs()
        options = options or {}
        inputs.put("logits", draw.normal(shape, 2))
        y = draw.between(shape, 0.015625, 0.984375) if soft else draw.flags(shape, 0.5).to(F64)
        inputs.put("targets", y)
        if "mask" in extra:
            inputs.put("mask", draw.flags(shape), "bool")
        if "weight" in extra:
            inputs.put("weight", draw.between(shape, 0.25, 2), kind)
        if "weight_label" in extra:
            inputs.put("weight", draw.between(shape[-1:], 0.25, 2), kind)
        if "weight_all" in extra:
            inputs.put("weight", draw.between((), 0.25, 2), kind)
        if "pos_weight" in extra and loss == "bce_with_logits":
            inputs.put("pos_weight", draw.between(shape[-1:], 0.25, 4), kind)
        for n, smaller in broadcast.items():
            if n != "pos_weight" or loss == "bce_with_logits":
                inputs.put(n, draw.between(smaller, -1.5, 2.5), kind)
        if "grad_output" in extra:
            none = options.get("reduction", default) == "none"
            inputs.put("grad_output", draw.normal(shape if none else (), 1), kind)
        # Targets between 0 and 1, and weights of one side, make gradients that cancel: their
        # numbers are for f64 alone.
        if soft:
            exact = Inputs()
            for n, t in inputs.tensors.items():
                exact.put(n, t, "f64" if inputs.dtypes[n] == "float" else inputs.dtypes[n])
            inputs = exact
        add(book, evaluate, name, inputs, options,
            ("loss", "grad.logits") if not soft and (loss == "sigmoid_focal" or "pos_weight" in (*extra, *broadcast))
            else None)

    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("weight",), ("weight_label",), ("weight_all",),
                      ("pos_weight",), ("grad_output",), ("mask", "weight_label", "pos_weight", "grad_output")):
            for soft in (False, True):
                build(f"{reduction}/{'-'.join(extra) or 'plain'}-{'soft' if soft else 'hard'}", (3, 5),
                      {"reduction": reduction}, extra, soft=soft)
    for shape in ((1,), (16,), (17,), (2, 3, 9), (515,)):
        build("shape/" + "x".join(map(str, shape)), shape, soft=False)
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"weights-{kind}", (2, 5), {"reduction": "sum"}, ("weight", "grad_output"), kind, False)
    for smaller in ((5, 1), (1, 5), (1, 1), (5, 5), (5,), (1,), ()):
        build("broadcast/" + "x".join(map(str, smaller)), (5, 5), {"reduction": "mean"}, soft=False,
              weight=smaller, pos_weight=smaller[::-1])
    for smaller in ((3, 1, 1), (1, 2, 1), (1, 1, 7), (3, 2, 1), (3, 1, 7), (2, 7), (2, 1), (7,)):
        build("broadcast/3x2x7/" + "x".join(map(str, smaller)), (3, 2, 7), {"reduction": "none"}, ("grad_output",),
              soft=False, weight=smaller, pos_weight=(2, 1))
    build("broadcast/70x1", (70, 9), {"reduction": "sum"}, ("mask",), soft=False, weight=(70, 1), pos_weight=(9,))
    build("broadcast/1x700", (3, 700), {"reduction": "sum"}, soft=False, weight=(3, 1), pos_weight=(1, 700))
    for reduction in ("none", "mean"):
        build(f"rank-0/{reduction}", (), {"reduction": reduction}, ("grad_output",), soft=False, weight=(), pos_weight=())
    build("num_items", (4, 3), {"reduction": "mean", "num_items": "2.5"}, ("mask",), soft=False)
    for eps in ("0.1", "1"):
        build(f"smoothing/{eps}", (4, 3), {"label_smoothing": eps}, ("pos_weight",))
    build("empty", (0, 3), {"reduction": "mean"}, soft=False)
    build("empty-nan", (0, 3), {"reduction": "mean", "empty_mean": "nan"}, soft=False)
    if loss == "sigmoid_focal":
        for alpha in ("off", "0", "0.75", "1"):
            for gamma in ("0", "0.5", "1", "2", "3.5"):
                build(f"alpha-{alpha}/gamma-{gamma}", (6,), {"alpha": alpha, "gamma": gamma}, soft=False)
                build(f"alpha-{alpha}/gamma-{gamma}-soft", (6,), {"alpha": alpha, "gamma": gamma})
    inputs = Inputs()
    inputs.put("logits", torch.tensor([-INF, -100.0, 100.0, 30.0, -30.0], dtype=F64))
    inputs.put("targets", torch.tensor([0.0, 0, 1, 1, 0], dtype=F64))
    add(book, lambda i, o: {"loss": torch.where(torch.isinf(i.get("logits")), ZERO,
                                                label(loss, fixed(i), o)["loss"])},
        "large", inputs, {"reduction": "none"})
    inputs = Inputs()
    inputs.put("logits", torch.tensor([NAN, 1.0], dtype=F64))
    inputs.put("targets", torch.tensor([1.0, 0], dtype=F64))
    inputs.put("mask", torch.tensor([0, 1]), "u8")
    add(book, evaluate, "unread", inputs, {"reduction": "sum"}, ("loss", "grad.logits"))
    inputs = Inputs()
    inputs.put("logits", torch.tensor([-1.5, 0, 2], dtype=F64))
    inputs.put("targets", torch.tensor([0.0, 1, 1], dtype=F64))
    out = add(book, evaluate, "check/1", inputs, {"reduction": "none"}, ("loss", "grad.logits"))
    if loss == "bce_with_logits":
        stated(out["loss"], [0.201413278, 0.6931471806, 0.126928011], "check")
        stated(out["grad.logits"], [0.1824255238, -0.5, -0.119202922], "check")
        inputs.put("pos_weight", torch.full((3,), 2.0), "f32")
        out = add(book, evaluate, "check/2", inputs, {"reduction": "none"}, ("loss", "grad.logits"))
        stated(out["loss"], [0.201413278, 1.386294361, 0.2538560221], "check P")
        inputs = Inputs()
        inputs.put("logits", torch.tensor([[-1.5, 0, 2], [0.5, -0.5, 1]], dtype=F64), "f64")
        inputs.put("targets", torch.tensor([[0, 1, 1], [1, 0, 0.5]], dtype=F64), "f64")
        inputs.put("weight", torch.tensor([[1.0], [-2]], dtype=F64))
        inputs.put("pos_weight", torch.tensor([2.0, 1, 0.5], dtype=F64))
        out = add(book, evaluate, "check/broadcast", inputs, {"reduction": "mean"}, ("loss", "grad.logits"))
        stated(out["loss"], -0.5593883287, "check broadcast")
        stated(out["grad.logits"], [[0.03040425397, -0.08333333333, -0.009933576835],
                                    [0.2516937792, -0.1258468896, -0.09943131132]], "check broadcast")
    else:
        stated(out["loss"], [0.005027135195, 0.04332169878, 0.0004508907088], "check")
        stated(out["grad.logits"], [0.01277332892, -0.07457169878, -0.001217735049], "check")
    book.write(os.path.join(HERE, loss + ".jsonl"))
    print(loss, len(book.lines))


def fixed(inputs):
    """The same without infinities, for what is replaced afterwards."""
    out = Inputs()
    for name, tensor in inputs.tensors.items():
        out.put(name, torch.nan_to_num(tensor.to(F64), neginf=-100.0), inputs.dtypes[name])
    return out


# kl_div


def kl(inputs, options):
    x = inputs.get("input").to(F64).clone().requires_grad_(True)
    t = inputs.get("target").to(F64).clone().requires_grad_(True)
    mask, log = inputs.get("mask"), options.get("log_target") == "true"
    counted = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask != 0
    keep = counted.unsqueeze(-1).expand(x.shape) if x.dim() else counted
    rows = F.kl_div(torch.where(keep, x, ZERO), torch.where(keep, t, ZERO), reduction="none", log_target=log)
    q0 = torch.exp(t) if log else t
    some = keep & (q0 != 0)
    rows = torch.where(some, rows, ZERO)
    reduction = options.get("reduction", "batchmean")
    n = keep.sum().item()
    if reduction == "batchmean":
        n = keep.flatten(1).any(1).sum().item() if x.dim() > 1 else n if x.dim() else 1
    value = reduce(rows, counted, dict(options, reduction="mean" if reduction == "batchmean" else reduction),
                   divisor=n)
    go = inputs.get("grad_output")
    go = torch.ones(value.shape, dtype=F64) if go is None else go.to(F64).reshape(value.shape)
    share = (1 / n if n else 0) if reduction in ("mean", "batchmean") else 1
    q, lq = q0.detach(), (t if log else torch.log(t)).detach()
    gx = torch.where(some, -q * go * share, ZERO)
    gt = (q * (lq - x + 1) if log else lq + 1 - x).detach()
    gt = torch.where(some, gt * go * share, ZERO)
    finite = torch.isfinite(lq) & torch.isfinite(x.detach())
    auto = torch.autograd.grad((go * torch.nan_to_num(value)).sum(), (x, t))
    assert same(torch.where(some & finite, auto[0], ZERO), torch.where(some & finite, gx, ZERO))
    assert same(torch.where(some & finite, auto[1], ZERO), torch.where(some & finite, gt, ZERO))
    return {"loss": value.detach(), "grad.input": gx, "grad.target": gt}


def divergences():
    book = Book("kl_div")

    def build(name, n, c, options=None, extra=(), kind="float", want=("loss", "grad.input"), shape=None):
        draw, inputs = Draw("kl " + name), Inputs()
        options, shape = options or {}, (n, c) if shape is None else shape
        log = options.get("log_target") == "true"
        inputs.put("input", -draw.between(shape, 0.0625, 5))
        inputs.put("target", -draw.between(shape, 0.0625, 5) if log else draw.shares(n, c).reshape(shape))
        if "mask" in extra:
            inputs.put("mask", draw.flags(shape[:-1]), "bool")
        if "grad_output" in extra:
            none = options.get("reduction") == "none"
            inputs.put("grad_output", draw.normal(shape if none else (), 1), kind)
        add(book, kl, name, inputs, options, want)
        exact = Inputs()
        for key, tensor in inputs.tensors.items():
            exact.put(key, tensor, "f64" if inputs.dtypes[key] == "float" else inputs.dtypes[key])
        add(book, kl, name + "-target", exact, options, ("grad.target", "loss"))

    for reduction in ("none", "sum", "mean", "batchmean"):
        for log in ("false", "true"):
            for extra in ((), ("mask",), ("grad_output",), ("mask", "grad_output")):
                build(f"{reduction}/log-{log}/{'-'.join(extra) or 'plain'}", 4, 5,
                      {"reduction": reduction, "log_target": log}, extra)
    for c in (1, 16, 17, 130):
        build(f"columns/{c}", 2, c)
    build("rows/33", 33, 3)
    for shape in ((), (5,), (2, 1, 3), (3, 2, 2, 3)):
        for reduction in ("none", "mean", "batchmean"):
            for extra in ((), ("mask", "grad_output"))[:1 if shape == () else 2]:
                build(f"shape/{'x'.join(map(str, shape))}/{reduction}/{'-'.join(extra) or 'plain'}",
                      math.prod(shape[:-1]), shape[-1] if shape else 1, {"reduction": reduction}, extra, shape=shape)
    build("shape/()/log", 1, 1, {"log_target": "true"}, shape=())
    build("empty", 0, 3)
    build("empty-nan", 0, 3, {"empty_mean": "nan"}, want=("loss",))
    inputs = Inputs()
    inputs.put("input", torch.tensor([[-1.0, -INF, -2.0], [-INF, -1.0, -0.5]], dtype=F64))
    inputs.put("target", torch.tensor([[0.5, 0, 0.5], [0.0, 1, 0]], dtype=F64))
    add(book, kl, "impossible-and-unused", inputs, {}, ("loss", "grad.input"))
    inputs = Inputs()
    inputs.put("input", torch.tensor([[-1.0, -0.5]], dtype=F64))
    inputs.put("target", torch.tensor([[0.0, -INF]], dtype=F64))
    add(book, kl, "log-of-0", inputs, {"log_target": "true"}, ("loss", "grad.input"))
    inputs = Inputs()
    inputs.put("input", torch.tensor([[NAN, -0.5], [-1.0, -0.5]], dtype=F64))
    inputs.put("target", torch.tensor([[NAN, 0.5], [0.5, 0.5]], dtype=F64))
    inputs.put("mask", torch.tensor([0, 1]), "u8")
    add(book, kl, "unread", inputs, {}, ("loss", "grad.input"))
    inputs = Inputs()
    inputs.put("input", torch.log_softmax(torch.tensor([[[1.2, -0.8, -0.5]], [[0.9, -1.2, 1.1]]], dtype=F64), 2), "f64")
    inputs.put("target", torch.tensor([[[0.7, 0.2, 0.1]], [[0, 0.5, 0.5]]], dtype=F64), "f64")
    out = add(book, kl, "check", inputs, {}, ("loss", "grad.input"))
    stated(out["loss"], 0.5764813841, "check")
    book.write(os.path.join(HERE, "kl_div.jsonl"))
    print("kl_div", len(book.lines))


# span


def span(inputs, options):
    names = ("start", "end")
    logits = [inputs.get(n + "_logits").to(F64).clone().requires_grad_(True) for n in names]
    mask = inputs.get("mask")
    eps, scale = float(options.get("label_smoothing", "0")), float(options.get("logit_scale", "1"))
    lam, reduction = float(options.get("z_loss", "0")), options.get("reduction", "mean")
    out, halves, right, both = {}, [], None, None
    for n, x in zip(names, logits):
        y = inputs.get(n + "_positions").to(torch.int64)
        T = x.shape[1]
        counted = y < T
        z = x * scale
        if mask is not None:
            z = torch.where(mask != 0, z, torch.full_like(z, -INF))
        ell = F.log_softmax(z, dim=1)
        at = -ell.gather(1, y.clamp(max=T - 1)[:, None])[:, 0]
        rows = (1 - eps) * at
        if eps:
            free = torch.ones_like(ell) if mask is None else (mask != 0).to(F64)
            rows = rows + eps / free.sum(1) * -torch.where(free > 0, ell, ZERO).sum(1)
        rows = rows + lam * torch.logsumexp(z, 1) ** 2
        rows = torch.where(counted, rows, ZERO)
        halves.append(reduce(rows, counted, options))
        out[n + "_loss"] = halves[-1].detach()
        hit = (z.argmax(1) == y) & counted
        right = hit if right is None else right & hit
        both = counted if both is None else both & counted
    value = (halves[0] + halves[1]) / 2
    grads = gradients(value, inputs, logits)
    for n, g in zip(names, grads):
        g = torch.where(mask != 0, g, ZERO) if mask is not None else g
        out[f"grad.{n}_logits"] = g
    out["loss"] = value.detach()
    out["exact_match"] = torch.tensor((right & both).sum().item() / max(both.sum().item(), 1), dtype=F64)
    rows = [x.detach().abs().max(1).values * scale for x in logits]
    assert reduction in ("none", "sum", "mean")
    return out, torch.maximum(*rows)


def spans():
    book = Book("span")

    def put(name, inputs, options=None, want=None):
        options = {k: str(v) for k, v in (options or {}).items()}
        out, scale = span(inputs, options)
        book.add(name, inputs, options, {k: out[k] for k in want or out}, scale)
        return out

    def build(name, b, t, options=None, extra=(), cut=0.2, kind="i64"):
        draw, inputs = Draw("span " + name), Inputs()
        inputs.put("start_logits", draw.normal((b, t)))
        inputs.put("end_logits", draw.normal((b, t)))
        for n in ("start", "end"):
            y = draw.integers((b,), 0, t)
            inputs.put(n + "_positions", torch.where(draw.flags((b,), cut), y + t, y), kind)
        if "mask" in extra:
            mask = draw.flags((b, t), 0.8)
            for n in ("start", "end"):
                y = inputs.get(n + "_positions").to(torch.int64)
                mask[torch.arange(b), y.clamp(max=t - 1)] = True
            inputs.put("mask", mask, "bool")
        if "grad_output" in extra:
            none = (options or {}).get("reduction") == "none"
            inputs.put("grad_output", draw.normal((b,) if none else (), 1))
        put(name, inputs, options)

    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("grad_output",), ("mask", "grad_output")):
            build(f"{reduction}/{'-'.join(extra) or 'plain'}", 5, 7, {"reduction": reduction}, extra)
        build(f"{reduction}/smoothing", 4, 9, {"reduction": reduction, "label_smoothing": 0.1})
        build(f"{reduction}/smoothing-mask", 4, 9, {"reduction": reduction, "label_smoothing": 0.125}, ("mask",))
        build(f"{reduction}/z", 4, 9, {"reduction": reduction, "z_loss": 0.25, "logit_scale": 0.5}, ("mask",))
    for t in (1, 2, 16, 17, 33, 515):
        build(f"length/{t}", 3, t, {}, (), 0.2, "i32")
    build("texts/33", 33, 5)
    build("smoothing/1", 4, 7, {"label_smoothing": 1}, ("mask", "grad_output"))
    build("smoothing/600", 2, 600, {"label_smoothing": 0.25, "z_loss": 0.125}, ("mask",))
    build("all-cut", 3, 4, {}, (), 1.0)
    build("none-cut", 3, 4, {}, (), 0.0)
    inputs = Inputs()
    inputs.put("start_logits", torch.tensor([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], dtype=F64), "f64")
    inputs.put("end_logits", torch.tensor([[0.3, 0.1, -0.4], [-0.2, 0.5, 0.6]], dtype=F64), "f64")
    inputs.put("start_positions", torch.tensor([0, 1]), "i64")
    inputs.put("end_positions", torch.tensor([1, 3]), "i64")
    out = put("check", inputs)
    stated(out["loss"], 1.326755227, "span")
    stated(out["grad.start_logits"], [[-0.0603213713, 0.0256702109, 0.0346511603],
                                      [0.1066616977, -0.2369385895, 0.1302768918]], "span")
    stated(out["grad.end_logits"], [[0.2159532382, -0.3231924426, 0.1072392044], [0, 0, 0]], "span")
    book.write(os.path.join(HERE, "span.jsonl"))
    print("span", len(book.lines))


labels("bce_with_logits")
labels("sigmoid_focal")
divergences()
spans()
