#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of router_balance and router_z: the contract's formulas, gradients by torch's autograd."""
import os

import torch

from oracle import F64, INF, NAN, Book, Draw, Inputs, stated
from reduced import counted_of, differentiate, flag, leaf, reduce

X = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]
ZERO, ONE = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)


def score_of(x, kind):
    if kind == "softmax":
        return torch.softmax(x, -1)
    r = torch.sigmoid(x) if kind == "sigmoid" else torch.sqrt(torch.logaddexp(x, torch.zeros_like(x)))
    return r / r.sum(-1, keepdim=True)


def chosen_of(x, k):
    """The k largest, ties to the lowest index."""
    order = sorted(range(len(x)), key=lambda e: (-x[e], e))
    return order[:k]


def balance_of(x, chosen, options, counts, items):
    """Of the tokens of one group: x [n,E], and lists of the experts chosen."""
    n, experts, k = x.shape[0], x.shape[1], len(chosen[0]) if chosen else int(options.get("top_k", 2))
    f = torch.zeros(experts, dtype=F64)
    if counts is not None:
        f, n = counts / (k * items), items
    else:
        for token in chosen:
            for e in token:
                f[e] += 1 / (k * n)
    p = score_of(x, options.get("score", "softmax")).sum(0) / n
    value = experts * (f * p).sum()
    return value if flag(options, "divide_by_k", True) else value * k


def balance(inputs, options):
    given = leaf(inputs, "router_logits")
    layers = options.get("layers", "off")
    x = given if layers != "off" else given.unsqueeze(0)
    shape = x.shape[1:-1]
    counted = counted_of(inputs, shape)
    index = inputs.get("expert_index")
    if index is not None:
        index = index if layers != "off" else index.unsqueeze(0)
    counts, items = inputs.get("expert_counts"), float(options.get("num_items", "nan"))
    groups = {}
    for l in range(x.shape[0]):
        for place in torch.nonzero(counted, as_tuple=False).tolist():
            row = x[(l, *place)]
            k = int(options.get("top_k", 2))
            chosen = index[(l, *place)].tolist() if index is not None else chosen_of(row.detach().tolist(), k)
            key = (l if layers == "separate" else 0, place[0] if options.get("scope") == "sequence" else 0)
            groups.setdefault(key, []).append((row, chosen))
    values = [balance_of(torch.stack([r for r, _ in g]), [c for _, c in g], options, counts, items)
              for g in groups.values()]
    if not values or items == 0:
        value = given.sum() * 0 if torch.isfinite(given).all() else ZERO.clone()
        value = value * 0 + (NAN if options.get("empty_mean") == "nan" else 0)
    else:
        value = torch.stack(values).mean()
    return differentiate(value, inputs, {"router_logits": given})


def z(inputs, options):
    given = leaf(inputs, "router_logits")
    counted = counted_of(inputs, given.shape[:-1])
    x = torch.where(counted.unsqueeze(-1), given, ONE)
    lost = torch.isnan(x).any(-1) | (x == INF).any(-1) | (x == -INF).all(-1)
    rows = torch.where(counted, torch.where(lost, NAN * ONE, torch.logsumexp(x, -1) ** 2), ZERO)
    return differentiate(reduce(rows, options, counted.sum()), inputs, {"router_logits": given})


def write(book, name, inputs, options=None, want=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    out = (z if book.loss == "router_z" else balance)(inputs, options)
    x = inputs.get("router_logits").to(F64)
    if "mask" in inputs.tensors and book.loss == "router_balance":
        out["grad.router_logits"] = torch.where(torch.isnan(out["grad.router_logits"]), ZERO, out["grad.router_logits"])
    scale = torch.where(torch.isfinite(x), x.abs(), ZERO).amax(-1).reshape(-1) if x.numel() else None
    if options.get("score") in ("sigmoid", "sqrtsoftplus") or book.loss == "router_balance":
        scale = None if scale is None else scale.max().expand(scale.shape)
    terms = score_of(x, "softmax") / x.shape[0] if name == "all-experts" else None  # equal shares: they cancel
    book.add(name, inputs, options, {k: out[k] for k in want or out}, scale=scale, terms=terms)
    return out


def build(book, name, shape, options=None, extra=()):
    draw, inputs, options = Draw(book.loss + name), Inputs(), options or {}
    inputs.put("router_logits", draw.normal(shape, 2))
    inner = shape[1:-1] if options.get("layers", "off") != "off" else shape[:-1]
    if "mask" in extra:
        inputs.put("mask", draw.flags(inner), "bool")
    if "expert_index" in extra:
        inputs.put("expert_index", draw.integers((*shape[:-1], 3), 0, shape[-1]), "i32")
    if "expert_counts" in extra:
        inputs.put("expert_counts", draw.integers((shape[-1],), 0, 40).to(F64))
    if "grad_output" in extra:
        inputs.put("grad_output", draw.normal(shape[:-1] if options.get("reduction") == "none" else (), 1))
    write(book, name, inputs, options)


def given(x, dtype="float", mask=None):
    inputs = Inputs()
    inputs.put("router_logits", torch.tensor(x, dtype=F64), dtype)
    if mask is not None:
        inputs.put("mask", torch.tensor(mask), "u8")
    return inputs


def save(book):
    book.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), book.loss + ".jsonl"))
    print(book.loss, len(book.lines))


def balances():
    book = Book("router_balance")
    out = write(book, "check/softmax", given(X, "f64"))
    stated(out["loss"], 1.383805136, "softmax")
    stated(out["grad.router_logits"], [[0.05842908493, -0.06910311607, 0.01067403114],
                                       [0.01671782666, -0.03713702626, 0.02041919959]], "softmax")
    out = write(book, "check/sigmoid", given(X, "f64"), {"score": "sigmoid"})
    stated(out["loss"], 1.237750015, "sigmoid")
    stated(out["grad.router_logits"], [[0.01950940681, -0.08672097225, 0.02577249186],
                                       [0.01245162511, -0.068043079, 0.0113530706]], "sigmoid")
    stated(write(book, "check/sqrtsoftplus", given(X, "f64"), {"score": "sqrtsoftplus"})["loss"], 1.18058973, "sqrt")
    stated(write(book, "check/top-1", given(X, "f64", [1, 0]), {"top_k": 1})["loss"], 2.276143545, "top-1")
    for score in ("softmax", "sigmoid", "sqrtsoftplus"):
        build(book, score + "/plain", (6, 5), {"score": score})
        build(book, score + "/mask", (2, 4, 5), {"score": score, "top_k": 3}, ("mask", "grad_output"))
        build(book, score + "/index", (5, 4), {"score": score}, ("expert_index",))
        build(book, score + "/sequence", (3, 4, 4), {"score": score, "scope": "sequence"}, ("mask",))
        build(book, score + "/counts", (5, 4), {"score": score, "num_items": 20}, ("expert_counts", "mask"))
    for layers in ("separate", "joint"):
        build(book, layers + "/batch", (3, 4, 4), {"layers": layers, "divide_by_k": "false"}, ("mask",))
        build(book, layers + "/of-sequences", (2, 2, 3, 4), {"layers": layers}, ("expert_index",))
        build(book, layers + "/sequence", (2, 3, 3, 4), {"layers": layers, "scope": "sequence"}, ("mask",))
    build(book, "one-token", (5,), {"top_k": 2})
    build(book, "all-experts", (4, 3), {"top_k": 3})
    build(book, "one-expert", (3, 1), {"top_k": 1})
    build(book, "many-experts", (9, 67), {"top_k": 8})
    write(book, "ties", given([[1.0, 1.0, 1.0, 0.5], [0.25, 0.5, 0.5, 0.5]]), {"top_k": 2})
    write(book, "impossible", given([[1.0, -INF, 0.5], [0.25, 0.5, -INF]]), {"top_k": 1})
    write(book, "ignored-nan", given([[1.0, 0.5, 2.0], [NAN, 0.5, 1.0]], mask=[1, 0]))
    write(book, "nan", given([[1.0, NAN, 0.5], [0.25, 0.5, 1.0]]), None, ("loss",))
    write(book, "far", given([[-1000.0, -800.0, -900.0], [-1000.0, 3.0, 2.0]], "f64"), {"top_k": 1})
    for nan in ("zero", "nan"):
        write(book, f"empty/{nan}", given(X, "f64", [0, 0]), {"empty_mean": nan})
    inputs = Inputs()
    inputs.put("router_logits", torch.zeros((0, 3), dtype=F64))
    write(book, "empty/no-tokens", inputs)
    save(book)


def zs():
    book = Book("router_z")
    out = write(book, "check", given(X, "f64"))
    stated(out["loss"], 2.623878964, "z")
    stated(out["grad.router_logits"], [[1.119961033, 0.1515702437, 0.2045984284],
                                       [0.7473993344, 0.09152385297, 0.9128756085]], "z")
    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("mask", "grad_output")):
            build(book, f"{reduction}/{'-'.join(extra) or 'plain'}", (5, 4), {"reduction": reduction}, extra)
    for shape in ((1, 1), (1, 2), (6,), (2, 3, 4), (17, 3), (3, 65), (2, 129)):
        build(book, "shape/" + "x".join(map(str, shape)), shape, {"reduction": "none"})
    build(book, "num_items", (5, 3), {"num_items": 3.5}, ("mask",))
    write(book, "near-zero", given([[-0.6875, -0.6953125], [-1.0, -0.4609375]]), {"reduction": "none"})
    write(book, "impossible", given([[1.0, -INF, 0.5], [0.25, 0.5, -INF]]), {"reduction": "none"})
    write(book, "large", given([[100.0, 99.0, 0.5], [-128.0, -127.0, -64.0]]), {"reduction": "none"})
    write(book, "nan", given([[NAN, 1.0], [INF, 0.5], [-INF, -INF], [1.0, 0.5]]), {"reduction": "none"}, ("loss",))
    for nan in ("zero", "nan"):
        write(book, f"empty/{nan}", given(X, "f64", [0, 0]), {"empty_mean": nan})
    save(book)


balances()
zs()
