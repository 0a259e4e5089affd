#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of lambda_rank, list_mle and adr_mse: the contract's sums over items and pairs, gradients by torch's
autograd."""
import math
import os

import torch

from oracle import F64, INF, NAN, Book, Draw, Inputs, stated
from reduced import differentiate, flag, leaf, number, reduce

S, Y = [[0.2, 1.1, -0.3, 0.6]], [[2.0, 0.0, 1.0, 1.0]]


def lists_of(inputs):
    """The scores, as leaves, and the labels of the items of each list."""
    scores = leaf(inputs, "scores")
    labels, mask = inputs.get("labels").to(F64), inputs.get("mask")
    lists = []
    for q in range(scores.shape[0]):
        there = [i for i in range(scores.shape[1]) if mask is None or mask[q, i] != 0]
        lists.append((scores[q][there], labels[q][there].tolist()))
    return scores, lists


def total(values, scores):
    return torch.stack(values).sum() if values else (torch.nan_to_num(scores) * 0).sum()


def over(value, options, count):
    o = dict(options)
    return reduce(value.reshape(1), o, count)


def lambda_rank(inputs, options):
    scores, lists = lists_of(inputs)
    weighting = options.get("weighting", "ndcg2pp")
    k = int(options["k"]) if options.get("k", "off") != "off" else None
    sigma, mu = number(options, "sigma", 1), number(options, "mu", 10)
    base = math.log(2) if options.get("log_base", "2") == "2" else 1.0

    def d(i):
        return math.log2(1 + i)

    values = []
    for s, y in lists:
        n = len(y)
        order = sorted(range(n), key=lambda i: -s[i].item())  # stable
        place = {item: rank + 1 for rank, item in enumerate(order)}
        best = sorted(y, reverse=True)[: k or n]
        ideal = sum((2**g - 1) / d(i + 1) for i, g in enumerate(best)) if weighting != "none" else 1
        for i in range(n):
            for j in range(n):
                if not y[i] > y[j] or (k is not None and max(place[i], place[j]) > k):
                    continue
                w = 1.0
                if weighting != "none":
                    gain = abs((2 ** y[i] - 1) / ideal - (2 ** y[j] - 1) / ideal)
                    by_place = abs(1 / d(place[i]) - 1 / d(place[j])) * gain
                    apart = abs(place[i] - place[j])
                    by_gap = abs(1 / d(apart) - 1 / d(apart + 1)) * gain
                    w = {"lambdarank": by_place, "ndcg2": by_gap, "ndcg2pp": mu * by_gap + by_place}[weighting]
                values.append(w * torch.nn.functional.softplus(-sigma * (s[i] - s[j]), threshold=1e9) / base)
    return differentiate(over(total(values, scores), options, len(values)), inputs, {"scores": scores})


def list_mle(inputs, options):
    scores, lists = lists_of(inputs)
    rows, counted = [], 0
    for s, y in lists:
        n = len(y)
        order = sorted(range(n), key=lambda i: -y[i])
        w = [2 ** (n - i) - 1 if flag(options, "position_weight") else 1 for i in range(n)]
        w = [x / sum(w) for x in w] if flag(options, "position_weight") else w
        counted += n > 0
        # The last item competes with none: 0, its limit, at -inf.
        sure = n if n == 0 or s[order[-1]] > -INF or s[order[-1]].isnan() else n - 1
        terms = [w[i] * (torch.logsumexp(s[order[i:]], 0) - s[order[i]]) for i in range(sure)]
        rows.append(torch.stack(terms).sum() if terms else torch.zeros((), dtype=F64))
    rows = torch.stack(rows) if rows else (scores * 0).sum(-1)
    return differentiate(reduce(rows, options, counted), inputs, {"scores": scores})


def adr_mse(inputs, options):
    scores, lists = lists_of(inputs)
    alpha = number(options, "alpha", 1)
    values, items = [], 0
    for s, y in lists:
        n = len(y)
        items += n
        for i in range(n):
            r = sum(v > y[i] for v in y) + (sum(v == y[i] for v in y) + 1) / 2
            soft = 1 + sum(torch.sigmoid(alpha * (s[j] - s[i])) for j in range(n) if j != i)
            values.append((r - soft) ** 2 / math.log2(1 + r) + 0 * s[i])
    return differentiate(over(total(values, scores), options, items), inputs, {"scores": scores})


LOSSES = {"lambda_rank": lambda_rank, "list_mle": list_mle, "adr_mse": adr_mse}


def write(book, name, inputs, options=None, want=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    out = LOSSES[book.loss](inputs, options)
    s = inputs.get("scores").to(F64)
    mask = inputs.get("mask")
    if mask is not None:  # what is not read has no gradient
        out["grad.scores"] = torch.where(mask != 0, out["grad.scores"], torch.zeros((), dtype=F64))
    known = torch.where(torch.isfinite(s), s.abs(), torch.zeros((), dtype=F64))
    scale = known.amax(-1) * number(options, "sigma", 1) * number(options, "alpha", 1) if s.numel() else None
    book.add(name, inputs, options, {k: out[k] for k in want or out}, scale=scale)
    return out


def build(book, name, shape, options=None, extra=(), levels=4, want=None):
    draw, inputs, options = Draw(book.loss + name), Inputs(), options or {}
    inputs.put("scores", draw.normal(shape))
    labels = draw.integers(shape, 0, levels).to(F64) if levels else draw.normal(shape)
    inputs.put("labels", labels)
    if "mask" in extra:
        inputs.put("mask", draw.flags(shape), "bool")
    if "grad_output" in extra:
        inputs.put("grad_output", draw.normal(shape[:1] if options.get("reduction") == "none" else (), 1))
    write(book, name, inputs, options, want)


def given(s, y, dtype="float", mask=None):
    inputs = Inputs()
    inputs.put("scores", torch.tensor(s, dtype=F64), dtype)
    inputs.put("labels", torch.tensor(y, dtype=F64), dtype)
    if mask is not None:
        inputs.put("mask", torch.tensor(mask), "u8")
    return inputs


CHECKS = {
    "lambda_rank": [
        ({"weighting": "none"}, 1.506964365, None),
        ({"weighting": "lambdarank"}, 0.2408783797, None),
        ({"weighting": "ndcg2"}, 0.1385245904, None),
        ({}, 1.626124284, [-0.7874721087, 0.5167949707, 0.1275657338, 0.1431114042]),
        ({"weighting": "none", "log_base": "e", "k": 2}, 0.9740769842, None),
    ],
    "list_mle": [
        ({}, 4.706182662, [-0.8200778207, 1.604624724, -0.757800996, -0.02674590745]),
        ({"position_weight": "true"}, 1.644954522, None),
    ],
    "adr_mse": [({}, 1.26342095, [-0.6399093873, 0.4646430478, 0.009271642739, 0.1659946968])],
}


def cases(loss):
    book = Book(loss)
    for k, (options, value, grad) in enumerate(CHECKS[loss]):
        out = write(book, f"check/{k}", given(S, Y, "f64"), options)
        stated(out["loss"], value, options)
        if grad:
            stated(out["grad.scores"], [grad], options)
    for reduction in ("none", "sum", "mean") if loss == "list_mle" else ("sum", "mean"):
        for extra in ((), ("mask",), ("mask", "grad_output")):
            build(book, f"{reduction}/{'-'.join(extra) or 'plain'}", (3, 6), {"reduction": reduction}, extra)
    if loss == "lambda_rank":
        for weighting in ("ndcg2pp", "ndcg2", "lambdarank", "none"):
            for k in ("off", 1, 3, 9):
                build(book, f"{weighting}/{k}", (2, 6), {"weighting": weighting, "k": k}, ("mask",))
        build(book, "sigma", (2, 5), {"sigma": 2.5})
        build(book, "mu", (2, 5), {"mu": 0})
        build(book, "log_base", (2, 5), {"log_base": "e"})
        build(book, "any-label", (2, 5), {"weighting": "none"}, levels=0)
        write(book, "gains", given([[0.5, 0.25, 1.0]], [[60.0, 30.0, 0.0]]))
    if loss == "list_mle":
        for n in (1, 2, 5, 17):
            build(book, f"weighted/{n}", (2, n), {"position_weight": "true"}, ("mask",) if n > 1 else ())
        build(book, "long", (1, 1100), {"position_weight": "true"}, levels=0, want=("loss",))
        build(book, "any-label", (2, 5), {}, levels=0)
        write(book, "far", given([[100.0, -100.0, 64.0]], [[0.0, 1.0, 0.5]]), {"reduction": "none"})
        for weighted in ("false", "true"):
            options = {"position_weight": weighted}
            write(book, f"impossible/last/{weighted}", given([[1.0, 0.5, -INF]], [[2.0, 1.0, 0.0]]), options)
            write(book, f"impossible/first/{weighted}", given([[-INF, 0.5, 1.0]], [[2.0, 1.0, 0.0]]), options)
            write(book, f"impossible/two/{weighted}", given([[1.0, -INF, -INF]], [[2.0, 1.0, 0.0]]), options, ("loss",))
            write(book, f"impossible/alone/{weighted}", given([[-INF], [0.5]], [[2.0], [1.0]]), options)
    if loss == "adr_mse":
        for alpha in (0.25, 1, 4):
            build(book, f"alpha/{alpha}", (2, 5), {"alpha": alpha}, ("mask",))
        for n in (1, 2, 9):
            build(book, f"items/{n}", (2, n), {})
        build(book, "any-label", (2, 5), {}, levels=0)
    build(book, "num_items", (3, 4), {"num_items": 7.5}, ("mask",))
    build(book, "ties", (3, 7), {}, levels=2)
    write(book, "tied-scores", given([[0.5, 0.5, 0.5, 0.25]], [[0.0, 1.0, 2.0, 1.0]]))
    write(book, "one-label", given([[0.5, 1.0, 0.25]], [[1.0, 1.0, 1.0]]))
    write(book, "absent-nan", given([[0.5, NAN, 0.25]], [[1.0, 2.0, 0.0]], mask=[[1, 0, 1]]))
    write(book, "nan", given([[0.5, NAN, 0.25]], [[1.0, 2.0, 0.0]]), None, ("loss",))
    build(book, "one-item", (3, 1))
    for nan in ("zero", "nan"):
        write(book, f"empty/{nan}", given(S, Y, "f64", [[0, 0, 0, 0]]), {"empty_mean": nan})
    for shape in ((0, 3), (2, 0)):
        inputs = Inputs()
        inputs.put("scores", torch.zeros(shape, dtype=F64))
        inputs.put("labels", torch.zeros(shape, dtype=F64))
        write(book, "empty/" + "x".join(map(str, shape)), inputs)
    book.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), loss + ".jsonl"))
    print(loss, len(book.lines))


for every in LOSSES:
    cases(every)
