#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of masked_lm, sequence_cross_entropy, sliding_window_cross_entropy and token_logprobs:
the definitions written out position by position, differentiated by torch.autograd."""
import math
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, Sequences, same, stated

HERE = os.path.dirname(os.path.abspath(__file__))
LN2 = math.log(2)


def number_of(options, name, default):
    text = options.get(name)
    return default if text in (None, "off") else float(text)


def scores(x, options):
    cap, scale = number_of(options, "softcap", None), number_of(options, "logit_scale", 1)
    u = cap * torch.tanh(x / cap) if cap else x
    z = scale * u
    classes = int(number_of(options, "vocab_size", z.shape[-1]))
    return z[..., :classes]


def token_loss(z, y, w, options):
    """main and L^2 of one row against class y."""
    eps, mode = number_of(options, "label_smoothing", 0), options.get("smoothing_mode", "uniform")
    gamma, poly = number_of(options, "focal_gamma", 0), number_of(options, "poly1", 0)
    ell = F.log_softmax(z, -1)
    classes = z.shape[-1]
    q = torch.full_like(z, eps / classes if mode == "uniform" else eps / max(classes - 1, 1))
    q[y] = 1 - eps + (eps / classes if mode == "uniform" else 0)
    rest = torch.cat((ell[:y], ell[y + 1:]))
    miss = torch.exp(rest).sum()
    scaling = number_of(options, "target_scaling", 0)
    if gamma > 0:
        main = -w[y] * miss ** gamma * ell[y]
    elif scaling > 0:
        assert eps == 0 and poly == 0
        main = -w[y] * torch.exp(ell[y].detach()) ** scaling * ell[y]
    else:
        main = -(w * q * ell)[q > 0].sum()
    main = main + poly * w[y] * miss
    if options.get("subtract_entropy") == "true":
        main = main + (w * q * torch.log(q))[q > 0].sum()
    return main, torch.logsumexp(z, -1) ** 2


class Rows:
    """Counted rows with their losses and what the diagnostics need."""

    def __init__(self, options):
        self.options, self.at = options, {}
        self.lam = number_of(options, "z_loss", 0)

    def add(self, key, x, y, w):
        z = scores(x, self.options)
        main, square = token_loss(z, y, w[: z.shape[-1]], self.options)
        ell = F.log_softmax(z, -1).detach()
        self.at[key] = {"main": main, "z": self.lam * square, "y": y, "w": w[y].item(),
                        "nll": -ell[y].item(), "lse": torch.logsumexp(z, -1).item(),
                        "entropy": -(ell.exp() * ell)[ell.exp() > 0].sum().item(),
                        "predicted": int(z.argmax())}

    def diagnostics(self, shape):
        out = {}
        for name in ("nll", "lse", "entropy", "predicted"):
            kind = torch.int64 if name == "predicted" else F64
            out[name] = torch.full(shape, -1 if name == "predicted" else 0, dtype=kind)
            for key, row in self.at.items():
                out[name][key] = row[name]
        n = len(self.at)
        nll = sum(r["nll"] for r in self.at.values())
        out["count"] = torch.tensor(n)
        out["accuracy"] = torch.tensor(sum(r["predicted"] == r["y"] for r in self.at.values()) / max(n, 1), dtype=F64)
        out["perplexity"] = torch.tensor(math.exp(nll / max(n, 1)), dtype=F64)
        return out, nll

    def text(self, nll):
        n, out = len(self.at), {"nll_sum": nll, "bits_per_token": nll / max(len(self.at), 1) / LN2}
        if "num_bytes" in self.options:
            out["bits_per_byte"] = nll / float(self.options["num_bytes"]) / LN2
            out["byte_perplexity"] = math.exp(nll / float(self.options["num_bytes"]))
        if "num_words" in self.options:
            out["word_perplexity"] = math.exp(nll / float(self.options["num_words"]))
        return {k: torch.tensor(v, dtype=F64) for k, v in out.items()}


def mean_of(parts, weights, options, zero):
    """Sum of parts over sum of weights; what to do without."""
    d = options["_items"] if options.get("_items") else sum(weights)
    if d != 0:
        return sum(parts, zero) / d
    return zero + (NAN if options.get("empty_mean") == "nan" else 0)


def finish(inputs, value, x, outputs):
    go = inputs.get("grad_output")
    go = torch.ones(value.shape, dtype=F64) if go is None else go.to(F64).reshape(value.shape)
    seen = torch.where(torch.isnan(value), torch.zeros_like(value), value)
    grad = torch.zeros_like(x)
    if seen.requires_grad:
        grad = torch.autograd.grad((go * seen).sum(), x, allow_unused=True)[0]
        grad = torch.zeros_like(x) if grad is None else grad
    outputs["loss"] = value.detach()
    outputs["grad.logits"] = grad
    return outputs


def scale_of(x, options):
    if x.numel() == 0:
        return torch.zeros(math.prod(x.shape[:-1]), dtype=F64)
    z = scores(torch.nan_to_num(x.detach(), 0, 0, 0), options).abs()
    return z.reshape(-1, z.shape[-1]).max(-1).values


# masked_lm and sequence_cross_entropy


def masked_lm(inputs, options):
    x = inputs.get("logits").to(F64).clone().requires_grad_(True)
    y, mask = inputs.get("targets").to(torch.int64), inputs.get("mask")
    r, w = inputs.get("sample_weight"), inputs.get("class_weight")
    w = torch.ones(x.shape[-1], dtype=F64) if w is None else w.to(F64)
    zero, rows, options = torch.zeros((), dtype=F64), Rows(options), dict(options)
    options["_items"] = number_of(options, "num_items", None)
    ignore, reduction = int(options.get("ignore_index", "-100")), options.get("reduction", "mean")
    weights = {}
    for key in [tuple(i.tolist()) for i in torch.ones(y.shape).nonzero()]:
        if y[key] == ignore or (mask is not None and mask[key] == 0):
            continue
        rows.add(key, x[key], int(y[key]), w)
        weights[key] = 1.0 if r is None else r[key].item()
    outputs, _ = rows.diagnostics(tuple(y.shape))
    main = {k: weights[k] * v["main"] for k, v in rows.at.items()}
    square = {k: weights[k] * v["z"] for k, v in rows.at.items()}
    d = [weights[k] * v["w"] for k, v in rows.at.items()]
    if reduction == "none":
        flat = {k: main[k] + square[k] for k in main}
        value = torch.stack([flat.get(tuple(i.tolist()), zero) for i in torch.ones(y.shape).nonzero()] or
                            [zero])[: y.numel()].reshape(y.shape)
    elif reduction == "sum":
        value = sum(main.values(), zero) + sum(square.values(), zero)
    else:
        value = (mean_of(main.values(), d, options, zero)
                 + mean_of(square.values(), list(weights.values()), options, zero))
    if reduction != "mean" or options["_items"] is None:
        outputs["denominator"] = torch.tensor(sum(d), dtype=F64)
        if reduction != "mean":
            del outputs["denominator"]
    return finish(inputs, value, x, outputs), scale_of(x, options)


def sequence(inputs, options):
    x = inputs.get("logits").to(F64).clone().requires_grad_(True)
    y, mask, lengths = inputs.get("targets").to(torch.int64), inputs.get("mask"), inputs.get("lengths")
    pi, w = inputs.get("position_weight"), inputs.get("class_weight")
    w = torch.ones(x.shape[-1], dtype=F64) if w is None else w.to(F64)
    zero, rows, options = torch.zeros((), dtype=F64), Rows(options), dict(options)
    options["_items"] = number_of(options, "num_items", None)
    ignore, reduction = int(options.get("ignore_index", "-100")), options.get("reduction", "mean")
    shift, of_b, m = int(options.get("shift", "0")), {}, {}
    sequences = Sequences(inputs, y.shape).rows
    B = len(sequences)
    for b, places in enumerate(sequences):
        for t, at in enumerate(places):
            s = t + shift
            if s >= (len(places) if lengths is None else int(lengths[b])) or y[places[s]] == ignore:
                continue
            if mask is not None and mask[places[s]] == 0:
                continue
            rows.add(at, x[at], int(y[places[s]]), w)
            of_b[at] = b
            m[at] = 1.0 if pi is None else (pi[s] if pi.dim() < y.dim() else pi[places[s]]).item()
    outputs, nll = rows.diagnostics(tuple(y.shape))
    outputs.update(rows.text(nll))
    main = {k: m[k] * v["main"] for k, v in rows.at.items()}
    square = {k: m[k] * v["z"] for k, v in rows.at.items()}
    omega = {k: m[k] * v["w"] for k, v in rows.at.items()}

    def of(b, table):
        return [v for k, v in table.items() if of_b[k] == b]

    if reduction == "none":
        places = [at for row in sequences for at in row]
        value = torch.stack([main.get(at, zero) + square.get(at, zero) for at in places]
                            or [zero])[: len(places)].reshape(y.shape)
    elif reduction == "sum":
        value = sum(main.values(), zero) + sum(square.values(), zero)
    elif reduction == "mean":
        value = (mean_of(main.values(), omega.values(), options, zero)
                 + mean_of(square.values(), m.values(), options, zero))
    elif reduction == "sequence_sum":
        value = torch.stack([sum(of(b, main), zero) + sum(of(b, square), zero) for b in range(B)])
    elif reduction == "sequence_mean":
        value = torch.stack([mean_of(of(b, main), of(b, omega), options, zero)
                             + mean_of(of(b, square), of(b, m), options, zero) for b in range(B)])
    elif reduction == "mean_of_sequence_means":
        value = zero
        for table, by in ((main, omega), (square, m)):
            full = [b for b in range(B) if sum(of(b, by)) > 0]
            value = value + mean_of([sum(of(b, table), zero) / sum(of(b, by)) for b in full],
                                    [1.0] * len(full), options, zero)
    else:
        value = (sum(main.values(), zero) + sum(square.values(), zero)) / B
    return finish(inputs, value, x, outputs), scale_of(x, options)


ROW_OPTIONS = [{"label_smoothing": "0.1"}, {"label_smoothing": "0.2", "smoothing_mode": "others"},
               {"logit_scale": "0.5"}, {"softcap": "3"}, {"z_loss": "0.25"}, {"focal_gamma": "2"},
               {"poly1": "0.5"}, {"target_scaling": "1"}, {"target_scaling": "0.5", "z_loss": "0.25"},
               {"target_scaling": "2.5", "logit_scale": "0.75"}, {"vocab_size": "5"}, {"ignore_index": "2"},
               {"label_smoothing": "0.1", "subtract_entropy": "true"},
               {"label_smoothing": "0.1", "z_loss": "0.125", "logit_scale": "2", "softcap": "8"}]
REDUCTIONS = ("none", "sum", "mean", "sequence_sum", "sequence_mean", "mean_of_sequence_means",
              "mean_of_sequence_sums")


def named(options):
    return ",".join(f"{k}={v}" for k, v in options.items()) or "plain"


def put(book, evaluate, name, inputs, options, want=None):
    outputs, scale = evaluate(inputs, options)
    book.add(name, inputs, options, {k: outputs[k] for k in want or outputs}, scale)
    return outputs


def upstream(draw, inputs, evaluate, options):
    value = evaluate(inputs, options)[0]["loss"]
    inputs.put("grad_output", draw.normal(tuple(value.shape), 1))


def masked_cases():
    book = Book("masked_lm")

    def build(name, shape, options=None, extra=(), kind="i64", want=None):
        draw, inputs, options = Draw("mlm " + name), Inputs(), options or {}
        inputs.put("logits", draw.normal(shape))
        classes = int(options.get("vocab_size", shape[-1]))
        y = draw.integers(shape[:-1], 0, classes)
        inputs.put("targets", torch.where(draw.flags(shape[:-1], 0.6), torch.full_like(y, int(options.get("ignore_index", "-100"))), y), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags(shape[:-1]), "bool")
        if "class_weight" in extra:
            inputs.put("class_weight", draw.between(shape[-1:], 0.25, 2))
        if "sample_weight" in extra:
            inputs.put("sample_weight", draw.between(shape[:-1], 0.25, 2))
        if "grad_output" in extra:
            upstream(draw, inputs, masked_lm, options)
        put(book, masked_lm, name, inputs, options, want)

    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("mask",), ("class_weight",), ("sample_weight",),
                      ("mask", "class_weight", "sample_weight", "grad_output")):
            build(f"{reduction}/{'-'.join(extra) or 'plain'}", (2, 5, 7), {"reduction": reduction}, extra)
    for options in ROW_OPTIONS:
        build("option/" + named(options), (2, 6, 7), options)
        build("option/weighted-" + named(options), (2, 6, 7), options, ("class_weight", "sample_weight"), "i32")
    for shape in ((6, 9), (1, 4, 17), (3, 2, 33), (8, 515)):
        build("shape/" + "x".join(map(str, shape)), shape, {"reduction": "sum"}, ("grad_output",))
    build("num_items", (2, 5, 7), {"num_items": "7.5"}, ("class_weight",))
    build("empty", (0, 5), {}, want=("loss", "grad.logits", "count"))
    book.write(os.path.join(HERE, "masked_lm.jsonl"))
    print("masked_lm", len(book.lines))


def sequence_cases():
    book = Book("sequence_cross_entropy")
    few = ("loss", "grad.logits")

    def build(name, shape, options=None, extra=(), kind="i64", want=None):
        draw, inputs, options = Draw("seq " + name), Inputs(), options or {}
        B, T, V = shape
        inputs.put("logits", draw.normal(shape))
        y = draw.integers((B, T), 0, int(options.get("vocab_size", V)))
        inputs.put("targets", torch.where(draw.flags((B, T), 0.2), torch.full_like(y, int(options.get("ignore_index", "-100"))), y), kind)
        if "lengths" in extra:
            inputs.put("lengths", draw.integers((B,), 0, T + 1), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags((B, T)), "u8")
        if "class_weight" in extra:
            inputs.put("class_weight", draw.between((V,), 0.25, 2))
        if "position_weight" in extra:
            inputs.put("position_weight", draw.between((B, T), 0.25, 2))
        if "position_weight_T" in extra:
            inputs.put("position_weight", draw.between((T,), 0.25, 2))
        if "grad_output" in extra:
            upstream(draw, inputs, sequence, options)
        put(book, sequence, name, inputs, options, want)

    for reduction in REDUCTIONS:
        for shift in ("0", "1"):
            for extra in ((), ("lengths",), ("mask", "class_weight"), ("position_weight",),
                          ("position_weight_T", "lengths"),
                          ("lengths", "mask", "class_weight", "position_weight", "grad_output")):
                options = {"reduction": reduction, "shift": shift}
                if len(extra) > 2:
                    options["z_loss"] = "0.125"
                build(f"{reduction}/shift-{shift}/{'-'.join(extra) or 'plain'}", (3, 5, 4), options, extra, want=few)
        build(f"{reduction}/empty", (2, 3, 4), {"reduction": reduction, "ignore_index": "1", "vocab_size": "1"}, want=few) \
            if False else None
    for options in ROW_OPTIONS:
        build("option/" + named(options), (2, 4, 7), dict(options, shift="1"), want=few)
    for options in ({}, {"num_bytes": "17.5"}, {"num_words": "4"}, {"num_bytes": "9", "num_words": "3", "shift": "2"}):
        build("diagnostics/" + named(options), (2, 5, 6), options, ("lengths",),
              want=[k for k in ("loss", "grad.logits", "nll", "lse", "entropy", "predicted", "count", "accuracy",
                                "perplexity", "nll_sum", "bits_per_token")] +
              (["bits_per_byte", "byte_perplexity"] if "num_bytes" in options else []) +
              (["word_perplexity"] if "num_words" in options else []))
    for shape in ((1, 1, 3), (2, 3, 17), (33, 2, 3), (2, 3, 515)):
        build("shape/" + "x".join(map(str, shape)), shape, {}, ("grad_output",), "i32", few)
    build("num_items", (2, 5, 4), {"num_items": "6"}, ("position_weight",), want=few)
    for nan in ("zero", "nan"):
        for reduction in REDUCTIONS:
            inputs = Inputs()
            inputs.put("logits", torch.tensor([[[1.0, 0.5]], [[NAN, 2.0]]], dtype=F64))
            inputs.put("targets", torch.tensor([[1], [0]]), "i64")
            inputs.put("lengths", torch.tensor([1, 0]), "i64")
            put(book, sequence, f"empty/{reduction}-{nan}", inputs,
                {"reduction": reduction, "empty_mean": nan}, few)
    def packed(name, ends, V, options=None, extra=(), kind="i64"):
        draw, inputs, options = Draw("packed " + name), Inputs(), options or {}
        P = ends[-1]
        inputs.put("logits", draw.normal((P, V)))
        y = draw.integers((P,), 0, V)
        inputs.put("targets", torch.where(draw.flags((P,), 0.2), torch.full_like(y, -100), y), kind)
        inputs.put("offsets", torch.tensor(ends), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags((P,)), "u8")
        if "class_weight" in extra:
            inputs.put("class_weight", draw.between((V,), 0.25, 2))
        if "position_weight" in extra:
            inputs.put("position_weight", draw.between((P,), 0.25, 2))
        if "grad_output" in extra:
            upstream(draw, inputs, sequence, options)
        put(book, sequence, name, inputs, options, few if P == 0 else None)

    for reduction in REDUCTIONS:
        for shift in ("0", "1", "3"):
            packed(f"packed/{reduction}-{shift}", [0, 3, 3, 7, 8], 4, {"reduction": reduction, "shift": shift},
                   ("grad_output",), "i32")
            packed(f"packed/{reduction}-{shift}-weighted", [0, 0, 5, 9], 3,
                   {"reduction": reduction, "shift": shift, "z_loss": "0.125"},
                   ("mask", "class_weight", "position_weight", "grad_output"))
    packed("packed/none-at-all", [0], 3)
    packed("packed/empty-rows", [0, 0, 0], 3, {"reduction": "sequence_sum"})
    packed("packed/long", [0, 2, 33, 40], 17, {"shift": "1", "label_smoothing": "0.1"})
    inputs = Inputs()
    inputs.put("logits", torch.tensor([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], dtype=F64), "f64")
    inputs.put("targets", torch.tensor([2, 1]), "i64")
    inputs.put("offsets", torch.tensor([0, 0, 2]), "i64")
    out = put(book, sequence, "check/packed", inputs, {"shift": "1", "reduction": "sum"}, few)
    stated(out["loss"], 2.276129706, "packed")
    # The two identities that the contract names.
    draw, inputs = Draw("identity"), Inputs()
    inputs.put("logits", draw.normal((2, 4, 5)))
    inputs.put("targets", draw.integers((2, 4), 0, 5), "i64")
    x, y = inputs.get("logits"), inputs.get("targets")
    assert same(put(book, sequence, "identity/torch", inputs, {}, few)["loss"], F.cross_entropy(x.transpose(1, 2), y))
    causal = F.cross_entropy(x[:, :-1].reshape(-1, 5), y[:, 1:].reshape(-1))
    assert same(put(book, sequence, "identity/causal", inputs, {"shift": "1"}, few)["loss"], causal)
    book.write(os.path.join(HERE, "sequence_cross_entropy.jsonl"))
    print("sequence_cross_entropy", len(book.lines))


# sliding_window_cross_entropy


def sliding(inputs, options):
    x = inputs.get("logits").to(F64).clone().requires_grad_(True)
    w = inputs.get("class_weight")
    w = torch.ones(x.shape[-1], dtype=F64) if w is None else w.to(F64)
    zero, rows = torch.zeros((), dtype=F64), Rows(options)
    items, ignore = number_of(options, "num_items", None), int(options.get("ignore_index", "-100"))
    if options.get("mode", "strided") == "strided":
        tokens = inputs.get("tokens").to(torch.int64)
        J, L, _ = x.shape
        S, K, seen = tokens.shape[0], int(options["stride"]), 0
        for j in range(J):
            begin, end = j * K, min(j * K + L, S)
            for token in range(max(seen, begin + 1), end):
                if tokens[token] != ignore:
                    rows.add((j, token - begin - 1), x[j, token - begin - 1], int(tokens[token]), w)
            seen = end
        outputs, nll = rows.diagnostics((J, L))
        each = {k: v["main"] + v["z"] for k, v in rows.at.items()}
        reduction = options.get("reduction", "mean")
        if reduction == "none":
            value = torch.stack([each.get((j, i), zero) for j in range(J) for i in range(L)]).reshape(J, L)
        elif reduction == "sum":
            value = sum(each.values(), zero)
        else:
            options = dict(options, _items=items)
            value = (mean_of([v["main"] for v in rows.at.values()], [v["w"] for v in rows.at.values()], options, zero)
                     + mean_of([v["z"] for v in rows.at.values()], [1.0] * len(each), options, zero))
    else:
        y, mask = inputs.get("targets").to(torch.int64), inputs.get("mask")
        T, W, K = x.shape[0], int(options["window"]), int(options.get("stride", "1"))
        for t in range(T):
            if y[t] != ignore and (mask is None or mask[t] != 0):
                rows.add((t,), x[t], int(y[t]), w)
        starts, s = [], 0
        while s <= max(T - W, 0):
            starts.append(s)
            s += K
        windows = [range(s, min(s + W, T)) for s in starts]
        if windows[-1].stop < T:
            windows.append(range(T - W, T))
        means, squares, covered = [], [], set()
        for window in windows:
            inside = [rows.at[(t,)] for t in window if (t,) in rows.at]
            covered |= set(window)
            weight = sum(r["w"] for r in inside)
            if weight != 0:
                means.append(sum((r["main"] for r in inside), zero) / weight)
            if inside:
                squares.append(sum((r["z"] for r in inside), zero) / len(inside))
        rows.at = {k: v for k, v in rows.at.items() if k[0] in covered}
        outputs, nll = rows.diagnostics((T,))
        options = dict(options, _items=None)
        value = (mean_of(means, [1.0] * len(means), options, zero)
                 + mean_of(squares, [1.0] * len(squares), options, zero))
    outputs.update(rows.text(nll))
    return finish(inputs, value, x, outputs), scale_of(x, options)


def sliding_cases():
    book = Book("sliding_window_cross_entropy")
    few = ("loss", "grad.logits", "count", "perplexity", "nll", "nll_sum", "bits_per_token")

    def weigh(draw, inputs, V, weighted):
        if weighted:
            inputs.put("class_weight", draw.between((V,), 0.25, 2) * (draw.flags((V,), 0.7).to(F64) * 2 - 1))

    def strided(name, S, L, K, V=5, options=None, grad=False, kind="i64", want=few, weighted=False):
        draw, inputs = Draw("strided " + name), Inputs()
        options = dict(options or {}, stride=str(K))
        J = 1 if S <= L else 1 + -(-(S - L) // K)
        inputs.put("logits", draw.normal((J, L, V)))
        inputs.put("tokens", draw.integers((S,), 0, int(options.get("vocab_size", V))), kind)
        weigh(draw, inputs, V, weighted)
        if grad:
            upstream(draw, inputs, sliding, options)
        put(book, sliding, name, inputs, options, want)

    def mean(name, T, W, K=None, V=5, options=None, mask=False, grad=False, kind="i64", weighted=False):
        draw, inputs = Draw("mean " + name), Inputs()
        options = dict(options or {}, mode="mean", window=str(W))
        if K:
            options["stride"] = str(K)
        inputs.put("logits", draw.normal((T, V)))
        inputs.put("targets", draw.integers((T,), 0, V), kind)
        if mask:
            inputs.put("mask", draw.flags((T,), 0.6), "bool")
        weigh(draw, inputs, V, weighted)
        if grad:
            upstream(draw, inputs, sliding, options)
        put(book, sliding, name, inputs, options, few if T else ("loss", "grad.logits", "count"))

    for S, L, K in ((9, 4, 2), (9, 4, 4), (9, 4, 1), (3, 4, 2), (4, 4, 4), (1, 3, 1), (17, 5, 3), (10, 4, 3), (0, 2, 1)):
        strided(f"strided/{S}-{L}-{K}", S, L, K, want=few if S > 1 else ("loss", "grad.logits", "count"))
    for reduction in ("none", "sum", "mean"):
        strided(f"strided/{reduction}", 8, 4, 2, options={"reduction": reduction}, grad=True, kind="i32")
    for options in ROW_OPTIONS:
        strided("strided/" + named(options), 8, 4, 2, 7, options)
    strided("strided/num_items", 8, 4, 3, options={"num_items": "5"})
    strided("strided/bytes", 8, 4, 3, options={"num_bytes": "20", "num_words": "3"},
            want=("loss", "bits_per_byte", "byte_perplexity", "word_perplexity"))
    strided("strided/wide", 6, 3, 2, 515)
    for T, W, K in ((6, 2, None), (6, 2, 1), (7, 3, 2), (7, 3, 3), (7, 2, 5), (5, 5, 1), (5, 9, 2), (5, 1, 1), (5, 1, 3), (0, 2, 1), (1, 1, 1), (40, 7, 4)):
        mean(f"mean/{T}-{W}-{K}", T, W, K)
        if T > 1:
            mean(f"mean/masked-{T}-{W}-{K}", T, W, K, mask=True, grad=True, kind="i32")
    mean("mean/options", 7, 3, 2, options={"label_smoothing": "0.1", "z_loss": "0.25"}, mask=True)
    for options in ({}, {"z_loss": "0.25"}, {"label_smoothing": "0.1", "vocab_size": "4"}):
        strided("strided/weighted-" + named(options), 17, 5, 3, 5, dict(options, ignore_index="0"), True, weighted=True)
        for W, K in ((3, 1), (4, 3), (2, 5), (9, 2), (40, 1)):
            few_classes = dict(options, vocab_size="5") if "vocab_size" in options else options
            mean(f"mean/weighted-{W}-{K}-" + named(options), 23, W, K, 5, few_classes, True, True, weighted=True)
    for nan in ("zero", "nan"):
        inputs = Inputs()
        inputs.put("logits", torch.tensor([[NAN, 1.0], [0.5, 1.0]], dtype=F64))
        inputs.put("targets", torch.tensor([-100, -100]), "i64")
        put(book, sliding, f"mean/empty-{nan}", inputs,
            {"mode": "mean", "window": "2", "empty_mean": nan}, ("loss", "grad.logits", "count"))
    book.write(os.path.join(HERE, "sliding_window_cross_entropy.jsonl"))
    print("sliding_window_cross_entropy", len(book.lines))


# token_logprobs


def token_logprobs(inputs, options):
    x = inputs.get("logits").to(F64).clone().requires_grad_(True)
    y, mask = inputs.get("targets").to(torch.int64), inputs.get("mask")
    shift, ignore = int(options.get("shift", "0")), int(options.get("ignore_index", "-100"))
    zero = torch.zeros((), dtype=F64)
    sequences = Sequences(inputs, y.shape).rows
    ell = {at: zero for row in sequences for at in row}
    entropy = dict(ell)
    count, sums = [0] * len(sequences), [zero] * len(sequences)
    for b, places in enumerate(sequences):
        for at, target in zip(places, places[shift:]):
            if y[target] == ignore or (mask is not None and mask[target] == 0):
                continue
            logp = F.log_softmax(scores(x[at], options), -1)
            ell[at] = logp[int(y[target])]
            entropy[at] = -(logp.exp() * logp)[logp.exp() > 0].sum()
            count[b] += 1
            sums[b] = sums[b] + ell[at]

    def stacked(values, shape):
        return torch.stack(values).reshape(shape) if values else torch.zeros(shape, dtype=F64)

    out = {"logprobs": stacked(list(ell.values()), y.shape), "entropy": stacked(list(entropy.values()), y.shape),
           "sequence_logprobs": stacked(sums, (len(sums),)),
           "mean_logprobs": stacked([s / max(n, 1) for s, n in zip(sums, count)], (len(sums),))}
    out["loss"] = out["logprobs"].sum()
    names = ("logprobs", "entropy", "sequence_logprobs", "mean_logprobs")
    sent = [n for n in names if inputs.get("grad_" + n) is not None]
    go = inputs.get("grad_output")
    objective = out["loss"] * (go.to(F64).reshape(()) if go is not None else 0.0 if sent else 1.0)
    for n in sent:
        objective = objective + (inputs.get("grad_" + n).to(F64) * out[n]).sum()
    grad = torch.zeros_like(x)
    if objective.requires_grad:
        found = torch.autograd.grad(objective, x, allow_unused=True)[0]
        grad = grad if found is None else found
    out = {k: v.detach() for k, v in out.items()}
    out["grad.logits"] = grad
    return out, scale_of(x, options)


def token_cases():
    book = Book("token_logprobs")

    def build(name, shape, options=None, extra=(), kind="i64", floats="float"):
        draw, inputs, options = Draw("token " + name), Inputs(), options or {}
        B, T, V = shape
        inputs.put("logits", draw.normal(shape))
        y = draw.integers((B, T), 0, V)
        inputs.put("targets", torch.where(draw.flags((B, T), 0.2), torch.full_like(y, int(options.get("ignore_index", "-100"))), y), kind)
        shapes = {"grad_output": (), "grad_logprobs": (B, T), "grad_entropy": (B, T),
                  "grad_sequence_logprobs": (B,), "grad_mean_logprobs": (B,)}
        for n in extra:
            if n == "mask":
                inputs.put("mask", draw.flags((B, T)), "bool")
            else:
                inputs.put(n, draw.normal(shapes[n], 1), floats)
        put(book, token_logprobs, name, inputs, options)

    every = ("grad_output", "grad_logprobs", "grad_entropy", "grad_sequence_logprobs", "grad_mean_logprobs")
    for options in ({}, {"shift": "1"}, {"logit_scale": "0.5"}, {"softcap": "3"}, {"ignore_index": "1"},
                    {"shift": "2", "logit_scale": "2", "softcap": "8"}):
        for extra in ((), ("mask",), ("mask",) + every):
            build(f"{named(options)}/{'-'.join(extra[:2]) or 'plain'}", (2, 4, 6), options, extra)
    for one in every:
        build("only/" + one, (3, 4, 5), {"shift": "1"}, (one,))
    for kind in ("f64", "f32", "f16", "bf16"):
        build("cotangents-" + kind, (2, 3, 5), {}, every, "i32", kind)
    for shape in ((1, 1, 2), (2, 2, 17), (33, 2, 3), (1, 2, 515)):
        build("shape/" + "x".join(map(str, shape)), shape, {}, every)
    for ends in ([0, 3, 3, 7], [0, 0, 1, 6, 6], [0, 20], [0]):
        for shift in ("0", "1", "4"):
            for extra in ((), ("mask",), every, ("grad_mean_logprobs",), ("grad_sequence_logprobs", "mask")):
                name = f"packed/{'-'.join(map(str, ends))}-{shift}-{'-'.join(extra[:2]) or 'plain'}"
                draw, inputs, P = Draw("token " + name), Inputs(), ends[-1]
                inputs.put("logits", draw.normal((P, 5)))
                y = draw.integers((P,), 0, 5)
                inputs.put("targets", torch.where(draw.flags((P,), 0.2), torch.full_like(y, -100), y), "i64")
                inputs.put("offsets", torch.tensor(ends), "i32")
                shapes = {"grad_output": (), "grad_logprobs": (P,), "grad_entropy": (P,),
                          "grad_sequence_logprobs": (len(ends) - 1,), "grad_mean_logprobs": (len(ends) - 1,)}
                for n in extra:
                    if n == "mask":
                        inputs.put("mask", draw.flags((P,)), "bool")
                    else:
                        inputs.put(n, draw.normal(shapes[n], 1))
                put(book, token_logprobs, name, inputs, {"shift": shift})
    inputs = Inputs()
    inputs.put("logits", torch.tensor([[[NAN, 1.0], [-INF, 2.0], [0.5, -INF]]], dtype=F64))
    inputs.put("targets", torch.tensor([[-100, 1, 0]]), "i64")
    put(book, token_logprobs, "unread-and-certain", inputs, {},
        ("loss", "logprobs", "entropy", "sequence_logprobs", "mean_logprobs"))
    book.write(os.path.join(HERE, "token_logprobs.jsonl"))
    print("token_logprobs", len(book.lines))


if __name__ == "__main__":
    masked_cases()
    sequence_cases()
    sliding_cases()
    token_cases()
