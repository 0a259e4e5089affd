#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses that compare a vector with many others: info_nce, nt_xent, supcon
and cosent."""
import sys

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, same, stated
from pairs import A, B, REDUCTIONS, bare, column, eps_of, flag
from vectors import Closed, Loss, cosines, empty, given, log_sum_exp, reduce, unit, upstream


def log_softmax(s):
    """Of every row; -inf stands for what is left out."""
    if s.numel() == 0:
        return s
    m = s.detach().amax(1, keepdim=True)
    return (s - m) - torch.log(torch.exp(s - m).sum(1, keepdim=True))


def scores_back(out, left, right, hs, g, size, tau, normalised=True):
    """From the gradient of s = h(left) h(right)^T / tau to those of both inputs."""
    (name_l, l), (name_r, r) = left, right
    hl, hr = hs
    gl, gr = g @ hr / tau, g.T @ hl / tau
    sl, sr = size @ hr.abs() / tau, size.T @ hl.abs() / tau
    if normalised:
        out.through_unit(name_l, l, gl, sl)
        out.through_unit(name_r, r, gr, sr)
    else:
        out.put(name_l, gl, sl)
        out.put(name_r, gr, sr)


# info_nce


class InfoNce:
    def __init__(self, x, inputs, options):
        self.a, self.c = x["anchors"], x["candidates"]
        b, m = len(self.a), len(self.c)
        self.tau = x.get("temperature", torch.tensor(float(options.get("temperature", "0.05")),
                                                     dtype=F64))
        assert inputs.get("temperature") is None or "temperature" not in options
        self.normalised = options.get("normalize", "true") == "true"
        self.symmetric = flag(options, "symmetric")
        self.smoothing = float(options.get("label_smoothing", "0"))
        eps = eps_of(options)
        self.hs = (unit(self.a, eps), unit(self.c, eps)) if self.normalised else (self.a, self.c)
        pos = inputs.get("positive_index")
        self.pos = torch.arange(b) if pos is None else pos.to(torch.int64)
        mask = inputs.get("candidate_mask")
        self.allowed = torch.ones(b, m, dtype=torch.bool) if mask is None else mask != 0
        if self.symmetric:
            assert b == m and pos is None and mask is None
        s = self.hs[0] @ self.hs[1].T / self.tau
        self.s = torch.where(self.allowed, s, torch.full_like(s, -INF))
        hot = torch.zeros(b, m, dtype=F64)
        hot[torch.arange(b), self.pos] = 1
        assert bool((self.allowed | (hot == 0)).all())
        many = self.allowed.sum(1, keepdim=True).clamp(min=1).to(F64)
        self.q = (1 - self.smoothing) * hot + self.smoothing * self.allowed / many

    def rows(self):
        def of(s, q):
            terms = torch.where(q == 0, torch.zeros_like(s), q * torch.where(q == 0, s * 0, s))
            return -terms.sum(1)
        rows = of(log_softmax(self.s), self.q)
        if self.symmetric:
            rows = (rows + of(log_softmax(self.s.T), self.q.T)) / 2
        return rows


def info_nce_definition(x, inputs, options):
    e = InfoNce(x, inputs, options)
    loss, share = reduce(e.rows(), options)
    if len(e.s):
        near = F.cross_entropy(e.s, e.pos, reduction="none", label_smoothing=e.smoothing)
        if e.symmetric:
            near = (near + F.cross_entropy(e.s.T, e.pos, reduction="none",
                                           label_smoothing=e.smoothing)) / 2
        if bool(e.allowed.all()) or not e.smoothing:
            assert same(e.rows().detach(), near.detach(), 1e-11)
    return loss, share, {}


def info_nce_closed(x, inputs, options, up):
    e = InfoNce(x, inputs, options)
    out = Closed(eps_of(options))
    up = up.expand(len(e.s)) if up.dim() == 0 else up
    p = torch.exp(log_softmax(e.s))
    g, size = column(up) * (p - e.q), column(up.abs()) * (p + e.q)
    if e.symmetric:
        p = torch.exp(log_softmax(e.s.T)).T
        g = (g + up[None, :] * (p - e.q)) / 2
        size = (size + up[None, :].abs() * (p + e.q)) / 2
    scores_back(out, ("anchors", e.a), ("candidates", e.c), e.hs, g, size, e.tau, e.normalised)
    if "temperature" in x:
        s = torch.where(e.allowed, e.s, torch.zeros_like(e.s))
        out.put("temperature", -(g * s).sum() / e.tau, (size * s.abs()).sum() / e.tau)
    return out


def info_nce_scale(inputs, options):
    x = {k: inputs.get(k).to(F64) for k in ("anchors", "candidates")}
    tau = inputs.get("temperature")
    tau = float(options.get("temperature", "0.05")) if tau is None else tau.item()
    scale = max(1.0, 1 / tau)
    if options.get("normalize") == "false" and x["anchors"].numel():
        scale = max(scale, (x["anchors"] @ x["candidates"].T).abs().max().item() / tau)
    return scale


INFO_NCE = Loss("info_nce", ("anchors", "candidates", "temperature"), info_nce_definition,
                info_nce_closed, info_nce_scale)


def info_nce_fill(b, m, width, options, extra=(), kind="float", itype="i64", mtype="bool", tau=0.5):
    def fill(draw, inputs):
        inputs.put("anchors", draw.normal((b, width), 1.0))
        inputs.put("candidates", draw.normal((m, width), 1.0))
        pos = torch.arange(b)
        if "positive_index" in extra:
            pos = draw.integers((b,), 0, m)
            inputs.put("positive_index", pos, itype)
        if "candidate_mask" in extra:
            mask = draw.flags((b, m))
            mask[torch.arange(b), pos] = True
            inputs.put("candidate_mask", mask, mtype)
        if "temperature" in extra:
            inputs.put("temperature", torch.tensor(tau))
        if "grad_output" in extra:
            upstream(draw, inputs, options, b, kind)
    return fill


def info_nce():
    put, draw = INFO_NCE.write, INFO_NCE.draw
    checked = given({"anchors": A, "candidates": B}, "f64")
    out = put("check/plain", checked, {"temperature": "0.5"})
    stated(out["loss"], 0.8753768793, "info_nce")
    stated(out["grad.anchors"], [[0, -0.1540074744], [-0.06513124803, 0.03256562402]],
           "info_nce grad.anchors")
    out = put("check/symmetric", checked, {"temperature": "0.5", "symmetric": "true"})
    stated(out["loss"], 0.8766008989, "info_nce symmetric")

    half = {"temperature": "0.5"}
    for reduction in REDUCTIONS:
        for go in ((), ("grad_output",)):
            what = f"{reduction}{'-up' * len(go)}"
            o = {**half, "reduction": reduction}
            draw(f"plain/{what}", info_nce_fill(3, 5, 3, o, go), o)
            for extra in (("positive_index",), ("candidate_mask",),
                          ("positive_index", "candidate_mask")):
                draw(f"{'-'.join(extra)}/{what}", info_nce_fill(3, 5, 3, o, extra + go), o)
            o = {**half, "reduction": reduction, "label_smoothing": "0.125"}
            draw(f"smoothing/{what}", info_nce_fill(3, 5, 4, o, go), o)
            draw(f"smoothing-mask/{what}",
                 info_nce_fill(3, 5, 4, o, ("candidate_mask",) + go, mtype="u8"), o)
            o = {**half, "reduction": reduction, "symmetric": "true"}
            draw(f"symmetric/{what}", info_nce_fill(4, 4, 3, o, go), o)
            o["label_smoothing"] = "0.25"
            draw(f"symmetric-smoothing/{what}", info_nce_fill(4, 4, 3, o, go), o)
            o = {"temperature": "2", "reduction": reduction, "normalize": "false"}
            draw(f"dot/{what}", info_nce_fill(3, 4, 3, o, go), o)
            o["symmetric"] = "true"
            draw(f"dot-symmetric/{what}", info_nce_fill(3, 3, 3, o, go), o)
            o = {"reduction": reduction}
            t = ("temperature",)
            draw(f"temperature-input/{what}", info_nce_fill(3, 4, 3, o, t + go), o)
            draw(f"temperature-input-all/{what}",
                 info_nce_fill(3, 4, 3, o, t + go + ("positive_index", "candidate_mask"),
                               itype="i32", tau=0.75), o)
            o = {"reduction": reduction, "symmetric": "true", "normalize": "false",
                 "label_smoothing": "0.5"}
            draw(f"temperature-input-dot/{what}", info_nce_fill(3, 3, 3, o, t + go, tau=1.5), o)
    for tau in ("0.01", "0.05", "0.25", "1", "10"):
        o = {"temperature": tau, "reduction": "none"}
        draw(f"temperature/{tau}", info_nce_fill(3, 4, 3, o), o)
    for tau in (0.0625, 0.109375, 1.0, 8.0):
        draw(f"temperature-input/{tau}", info_nce_fill(3, 4, 3, {}, ("temperature",), tau=tau), {})
    draw("temperature/default", info_nce_fill(3, 4, 3, {}), {})
    draw("temperature/default-symmetric", info_nce_fill(3, 3, 3, {}), {"symmetric": "true"})
    for smoothing in ("0.5", "1"):
        o = {**half, "label_smoothing": smoothing, "reduction": "none"}
        draw(f"smoothing/{smoothing}", info_nce_fill(3, 4, 3, o), o)
        draw(f"smoothing/{smoothing}-symmetric", info_nce_fill(3, 3, 3, o),
             {**o, "symmetric": "true"})
    for items in ("0.5", "8"):
        o = {**half, "num_items": items}
        draw(f"num-items/{items}", info_nce_fill(3, 4, 3, o), o)
        draw(f"num-items/{items}-symmetric", info_nce_fill(3, 3, 3, o, ("grad_output",), "f32"),
             {**o, "symmetric": "true"})
        draw(f"num-items/{items}-temperature",
             info_nce_fill(3, 4, 3, {"num_items": items}, ("temperature",)), {"num_items": items})
    for kind in ("f64", "f32", "f16", "bf16"):
        o = {**half, "reduction": "none"}
        draw(f"type/{kind}", info_nce_fill(2, 3, 3, o, ("grad_output",), kind), o)
    for itype in ("i64", "i32"):
        for mtype in ("bool", "u8"):
            draw(f"type/{itype}-{mtype}",
                 info_nce_fill(3, 4, 3, half, ("positive_index", "candidate_mask"), "float", itype,
                               mtype), half)
    draw("want/loss", info_nce_fill(3, 4, 3, half), half, ("loss",))
    draw("want/anchors", info_nce_fill(3, 4, 3, half), half, ("grad.anchors",))
    draw("want/candidates", info_nce_fill(3, 4, 3, half), half, ("grad.candidates",))
    draw("want/temperature", info_nce_fill(3, 4, 3, {}, ("temperature",)), {},
         ("grad.temperature",))
    for b, m, width in ((1, 2, 3), (2, 2, 2), (3, 17, 5), (17, 17, 4), (2, 70, 3), (2, 3, 40)):
        draw(f"shape/{b}x{m}x{width}", info_nce_fill(b, m, width, half), half)
    draw("shape/33x40x3", info_nce_fill(33, 40, 3, half), half)
    draw("shape/1x1100x2", info_nce_fill(1, 1100, 2, half), half, ("loss", "grad.anchors"))
    draw("shape/1x2x600", info_nce_fill(1, 2, 600, half), {"temperature": "0.25"}, ("loss",))
    o = {**half, "symmetric": "true", "reduction": "none"}
    draw("shape/symmetric-20x3", info_nce_fill(20, 20, 3, o), o)

    # One candidate allowed: nothing to tell apart.
    alone = given({"anchors": [[1.0, 2.0], [0.5, -1.0]], "candidates": [[2.0, 1.0], [1.5, 0.25]]},
                  candidate_mask=([[1, 0], [0, 1]], "bool"))
    for smoothing in ("0", "0.5"):
        put(f"edge/one-allowed-{smoothing}", alone,
            {**half, "label_smoothing": smoothing, "reduction": "none"})
        put(f"edge/one-pair-{smoothing}",
            given({"anchors": [[1.0, 2.0]], "candidates": [[2.0, 1.0]]}),
            {**half, "label_smoothing": smoothing, "symmetric": "true"})
    some = given({"anchors": [[1.0, 2.0], [0.5, -1.0]],
                  "candidates": [[2.0, 1.0], [-1.5, 0.25], [1.0, 0.5]]},
                 candidate_mask=([[1, 0, 0], [1, 1, 1]], "u8"))
    put("edge/one-row-alone", some, {**half, "label_smoothing": "0.25", "reduction": "none"})
    shared = given({"anchors": [[1.0, 2.0], [0.5, -1.0], [2.0, 0.25]],
                    "candidates": [[2.0, 1.0], [1.5, 0.25], [-1.0, 0.5]]},
                   positive_index=([2, 2, 0], "i32"))
    put("edge/shared-positive", shared, half)
    small = {"anchors": [[0.0, 0.0], [0.25, 0.25], [0.5, 0.0]],
             "candidates": [[1.0, 2.0], [-0.25, 0.125], [0.0, 0.0], [-2.0, 1.0]]}
    for reduction in REDUCTIONS:
        put(f"cos-eps/{reduction}", given(small),
            {**half, "cos_eps": "0.5", "reduction": reduction}, kink=True)
    put("cos-eps/temperature", given(small, temperature=0.5), {"cos_eps": "0.5"}, kink=True)
    for kind in ("f64", "f32"):
        zero = given({"anchors": [[0.0, 0.0], [1.0, -2.0]],
                      "candidates": [[1.0, 2.0], [0.0, 0.0]]}, kind)
        put(f"zero/{kind}", zero, half)
    bad = given({"anchors": [[1.0, NAN], [1.0, 2.0]], "candidates": [[2.0, 1.0], [-1.0, 0.5]]})
    for reduction in REDUCTIONS:
        put(f"nonfinite/anchor-{reduction}", bad, {**half, "reduction": reduction}, kink=True)
    put("nonfinite/symmetric", bad, {**half, "symmetric": "true", "reduction": "none"}, kink=True)
    bad = given({"anchors": [[1.0, -0.5], [1.0, 2.0]], "candidates": [[2.0, NAN], [-1.0, 0.5]]})
    put("nonfinite/candidate", bad, {**half, "reduction": "none"}, kink=True)
    for mode in ("zero", "nan"):
        for m in (0, 2):
            nothing = bare({"anchors": torch.zeros(0, 3), "candidates": torch.ones(m, 3)})
            for reduction in REDUCTIONS:
                put(f"empty/{mode}-{m}-{reduction}", nothing,
                    {**half, "reduction": reduction, "empty_mean": mode})
            put(f"empty/{mode}-{m}-num-items", nothing,
                {**half, "num_items": "4", "empty_mean": mode})
        put(f"empty/{mode}-temperature",
            bare({"anchors": torch.zeros(0, 3), "candidates": torch.ones(2, 3),
                  "temperature": torch.tensor(0.5)}), {"empty_mean": mode})
    INFO_NCE.finish()


# nt_xent and supcon


def square(x, options, tau):
    """s of every pair, the diagonal included, and h."""
    h = unit(x["embeddings"], eps_of(options))
    return h @ h.T / tau, h


def square_back(options, x, h, g, size, tau):
    out = Closed(eps_of(options))
    out.through_unit("embeddings", x["embeddings"], (g + g.T) @ h / tau,
                     (size + size.T) @ h.abs() / tau)
    return out


def alike(inputs):
    """Which pairs are positive and which negative."""
    y = inputs.get("labels").to(torch.int64)
    equal = y[:, None] == y[None, :]
    itself = torch.eye(len(y), dtype=torch.bool)
    return equal & ~itself, ~equal


def nt_xent_definition(x, inputs, options):
    s, _ = square(x, options, float(options.get("temperature", "0.07")))
    positive, negative = alike(inputs)
    pairs = positive.nonzero().tolist()
    one = torch.ones((), dtype=F64)
    if not pairs:
        return empty(x["embeddings"].sum(), options), one * 0, {}
    terms = [log_sum_exp(torch.cat([s[i, p, None], s[i][negative[i]]])) - s[i, p] for i, p in pairs]
    return torch.stack(terms).sum() / len(pairs), one, {}


def nt_xent_closed(x, inputs, options, up):
    tau = float(options.get("temperature", "0.07"))
    s, h = square(x, options, tau)
    positive, negative = alike(inputs)
    count = max(int(positive.sum()), 1)
    g, size = torch.zeros_like(s), torch.zeros_like(s)
    out_of = torch.logsumexp(torch.where(negative, s, torch.full_like(s, -INF)), 1)
    e = torch.logaddexp(s, out_of[:, None])
    own = torch.exp(s - e)
    g = torch.where(positive, own - 1, g)
    size = torch.where(positive, own + 1, size)
    for p in range(len(s)):
        share = torch.exp(s - e[:, p, None]) * positive[:, p, None]
        g = g + torch.where(negative, share, torch.zeros_like(s))
        size = size + torch.where(negative, share, torch.zeros_like(s))
    return square_back(options, x, h, up * g / count, up.abs() * size / count, tau)


NT_XENT = Loss("nt_xent", ("embeddings",), nt_xent_definition, nt_xent_closed,
               lambda inputs, options: max(1.0, 1 / float(options.get("temperature", "0.07"))))


def supcon_factor(options):
    tau = float(options.get("temperature", "0.1"))
    return tau, tau / float(options.get("base_temperature", tau))


def supcon_definition(x, inputs, options):
    tau, factor = supcon_factor(options)
    s, _ = square(x, options, tau)
    positive, negative = alike(inputs)
    anchors = [i for i in range(len(s)) if bool(positive[i].any())]
    one = torch.ones((), dtype=F64)
    if not anchors:
        return empty(x["embeddings"].sum(), options), one * 0, {}
    others = positive | negative
    terms = [log_sum_exp(s[i][others[i]]) - s[i][positive[i]].mean() for i in anchors]
    return factor * torch.stack(terms).sum() / len(anchors), one, {}


def supcon_closed(x, inputs, options, up):
    tau, factor = supcon_factor(options)
    s, h = square(x, options, tau)
    positive, negative = alike(inputs)
    hits = positive.sum(1, keepdim=True)
    anchor = hits > 0
    p = torch.exp(torch.log_softmax(torch.where(positive | negative, s, torch.full_like(s, -INF)),
                                    1))
    q = positive / hits.clamp(min=1).to(F64)
    zero = torch.zeros_like(s)
    k = up * factor / max(int(anchor.sum()), 1)
    return square_back(options, x, h, k * torch.where(anchor, p - q, zero),
                       k.abs() * torch.where(anchor, p + q, zero), tau)


SUPCON = Loss("supcon", ("embeddings",), supcon_definition, supcon_closed,
              lambda inputs, options: max(1.0, 1 / float(options.get("temperature", "0.1"))))


def labelled_fill(n, width, classes, extra=(), kind="float", itype="i64", labels=None):
    def fill(draw, inputs):
        inputs.put("embeddings", draw.normal((n, width), 1.0))
        y = draw.integers((n,), 0, classes) if labels is None else torch.tensor(labels)
        if labels is None and classes > 1:
            y[:3] = torch.tensor([0, 1, 0])  # a pair and something to tell it from
        inputs.put("labels", y, itype)
        if "grad_output" in extra:
            inputs.put("grad_output", draw.between((), 0.25, 2.0), kind)
    return fill


def labelled(loss, half):
    """What nt_xent and supcon have in common; `half` holds a mild temperature."""
    put, draw = loss.write, loss.draw
    for go in ((), ("grad_output",)):
        up = "-up" * len(go)
        for itype in ("i64", "i32"):
            draw(f"plain/{itype}{up}", labelled_fill(5, 4, 2, go, itype=itype), half)
        draw(f"plain/default{up}", labelled_fill(5, 4, 2, go), {})
        draw(f"labels/pairs{up}", labelled_fill(6, 3, 3, go, labels=[0, 1, 2, 0, 1, 2]), half)
        draw(f"labels/all-equal{up}", labelled_fill(4, 3, 1, go), half)
        draw(f"labels/one-pair{up}", labelled_fill(5, 3, 4, go, labels=[7, 3, 7, 1, 2]), half)
        draw(f"labels/lonely{up}", labelled_fill(6, 3, 4, go, labels=[1, 1, 1, 2, 3, 3]), half)
        draw(f"labels/negative{up}",
             labelled_fill(4, 3, 2, go, itype="i32", labels=[-100, -1, -100, -1]), half)
        draw(f"labels/wide{up}",
             labelled_fill(4, 3, 2, go, labels=[2**40, 0, 2**40, 2**32]), half)
        draw(f"labels/unsorted{up}", labelled_fill(7, 3, 3, go, labels=[5, -2, 5, 9, -2, 5, 9]),
             half)
    for tau in ("0.02", "0.25", "1", "20"):
        draw(f"temperature/{tau}", labelled_fill(5, 4, 2), {"temperature": tau})
    for kind in ("f64", "f32", "f16", "bf16"):
        draw(f"type/{kind}", labelled_fill(4, 3, 2, ("grad_output",), kind), half)
    draw("want/loss", labelled_fill(5, 4, 2), half, ("loss",))
    draw("want/grad", labelled_fill(5, 4, 2), half, ("grad.embeddings",))
    draw("shape/2x2", labelled_fill(2, 2, 1), half)
    for n, width, classes in ((3, 2, 2), (9, 17, 3), (17, 3, 4), (40, 5, 9), (3, 300, 2)):
        draw(f"shape/{n}x{width}", labelled_fill(n, width, classes), half)
    draw("shape/4x600", labelled_fill(4, 600, 2), half, ("loss",))
    draw("shape/70x2", labelled_fill(70, 2, 12), half, ("loss",))

    small = {"embeddings": [[0.0, 0.0], [0.25, 0.25], [0.5, 0.0], [-1.0, 2.0]]}
    for labels in ([0, 0, 1, 1], [1, 0, 0, 0]):
        put(f"cos-eps/{labels[0]}", given(small, labels=(labels, "i64")),
            {**half, "cos_eps": "0.5"}, kink=True)
    for kind in ("f64", "f32"):
        zero = given({"embeddings": [[0.0, 0.0], [1.0, -2.0], [0.5, 3.0]]}, kind,
                     labels=([0, 0, 1], "i64"))
        put(f"zero/{kind}", zero, half)
    bad = given({"embeddings": [[1.0, 2.0], [1.0, NAN], [0.5, 1.0], [2.0, -1.0]]},
                labels=([0, 0, 1, 1], "i64"))
    put("nonfinite/loss", bad, half, want=("loss",), kink=True)
    for mode in ("zero", "nan"):
        none = given({"embeddings": [[1.0, 2.0], [-0.5, 1.0], [2.0, 1.0]]},
                     labels=([0, 1, 2], "i32"), grad_output=2.0)
        put(f"empty/no-pairs-{mode}", none, {**half, "empty_mean": mode})
        put(f"empty/one-row-{mode}", given({"embeddings": [[1.0, 2.0]]}, labels=([3], "i64")),
            {**half, "empty_mean": mode})
        put(f"empty/no-rows-{mode}",
            bare({"embeddings": torch.zeros(0, 3)},
                 labels=(torch.zeros(0, dtype=torch.int64), "i64")), {**half, "empty_mean": mode})


Z = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]]


def nt_xent():
    for labels, loss in (([0, 0, 1, 1], 0.5359693518), ([0, 0, 0, 1], 0.5058787577)):
        name = "check/" + "".join(str(y) for y in labels)
        out = NT_XENT.write(name, given({"embeddings": Z}, "f64", labels=(labels, "i64")),
                            {"temperature": "0.5"})
        stated(out["loss"], loss, name)
    labelled(NT_XENT, {"temperature": "0.5"})
    NT_XENT.finish()


def supcon():
    out = SUPCON.write("check/0001", given({"embeddings": Z}, "f64", labels=([0, 0, 0, 1], "i64")),
                       {"temperature": "0.5"})
    stated(out["loss"], 1.098006188, "supcon")
    labelled(SUPCON, {"temperature": "0.5"})
    for base in ("0.07", "0.5", "2"):
        for go in ((), ("grad_output",)):
            up = "-up" * len(go)
            SUPCON.draw(f"base-temperature/{base}{up}", labelled_fill(5, 4, 2, go),
                        {"temperature": "0.5", "base_temperature": base})
            SUPCON.draw(f"base-temperature/{base}-default{up}", labelled_fill(5, 4, 2, go),
                        {"base_temperature": base})
    SUPCON.finish()


# cosent


def cosent_scores(x, options):
    return float(options.get("scale", "20")) * cosines(x["a"], x["b"], eps_of(options))


def cosent_definition(x, inputs, options):
    s, y = cosent_scores(x, options), inputs.get("target").to(F64)
    terms = [torch.zeros((), dtype=F64)]
    for i in range(len(y)):
        terms += [s[i] - s[j] for j in range(len(y)) if y[i] < y[j]]
    loss = log_sum_exp(torch.stack(terms))
    return loss + 0 * s.sum(), torch.ones((), dtype=F64), {}


def cosent_closed(x, inputs, options, up):
    eps = eps_of(options)
    out = Closed(eps)
    s, y = cosent_scores(x, options), inputs.get("target").to(F64)
    ha, hb = unit(x["a"], eps), unit(x["b"], eps)
    pairs = y[:, None] < y[None, :]
    difference = torch.where(pairs, s[:, None] - s[None, :], torch.full((), -INF, dtype=F64))
    total = torch.logsumexp(torch.cat([torch.zeros(1, dtype=F64), difference.reshape(-1)]), 0)
    share = torch.exp(difference - total)
    k = up * float(options.get("scale", "20"))
    g, size = k * (share.sum(1) - share.sum(0)), k * (share.sum(1) + share.sum(0))
    for name, h in (("a", hb), ("b", ha)):
        out.through_unit(name, x[name], column(g) * h, column(size) * h.abs())
    return out


COSENT = Loss("cosent", ("a", "b"), cosent_definition, cosent_closed,
              lambda inputs, options: max(1.0, float(options.get("scale", "20"))))


def cosent_fill(n, width, extra=(), kind="float", target=None, ttype="float"):
    def fill(draw, inputs):
        inputs.put("a", draw.normal((n, width), 1.0))
        inputs.put("b", draw.normal((n, width), 1.0))
        y = draw.between((n,), -1, 1) if target is None else torch.tensor(target, dtype=F64)
        inputs.put("target", y, ttype)
        if "grad_output" in extra:
            inputs.put("grad_output", draw.between((), 0.25, 2.0), kind)
    return fill


def cosent():
    put, draw = COSENT.write, COSENT.draw
    out = put("check/two", given({"a": A, "b": B}, "f64", target=([0.2, 0.9], "f64")), {})
    stated(out["loss"], 0.1449704794, "cosent")
    for go in ((), ("grad_output",)):
        up = "-up" * len(go)
        for scale in ("0.5", "1", "5", "20", "100"):
            draw(f"scale/{scale}{up}", cosent_fill(4, 3, go), {"scale": scale})
        draw(f"plain/default{up}", cosent_fill(4, 4, go), {})
        five = {"scale": "5"}
        draw(f"target/ties{up}", cosent_fill(5, 3, go, target=[0.5, 1, 0.5, 0, 1]), five)
        draw(f"target/two-levels{up}", cosent_fill(5, 3, go, target=[1, 0, 0, 1, 0]), five)
        draw(f"target/ascending{up}", cosent_fill(5, 3, go, target=[-2, -1, 0, 1, 2]), five)
        draw(f"target/descending{up}", cosent_fill(5, 3, go, target=[64, 3, 1, 0.5, -64]), five)
        draw(f"target/one-apart{up}", cosent_fill(4, 3, go, target=[2, 2, 2, 2.015625]), five)
        draw(f"target/zeros{up}", cosent_fill(3, 3, go, target=[0.0, -0.0, 1.0]), five)
    for kind in ("f64", "f32", "f16", "bf16"):
        draw(f"type/{kind}", cosent_fill(4, 3, ("grad_output",), kind, ttype=kind),
             {"scale": "2"})
    draw("want/loss", cosent_fill(4, 3), {}, ("loss",))
    draw("want/b", cosent_fill(4, 3), {}, ("grad.b",))
    draw("shape/2x2", cosent_fill(2, 2), {"scale": "2"})
    for n, width in ((3, 17), (17, 3), (40, 4), (2, 300)):
        draw(f"shape/{n}x{width}", cosent_fill(n, width), {"scale": "2"})
    draw("shape/300x2", cosent_fill(300, 2), {}, ("loss",))
    draw("shape/2x600", cosent_fill(2, 600), {}, ("loss",))

    pair = {"a": [[1.0, 2.0], [-0.5, 1.0]], "b": [[2.0, 1.0], [1.5, 0.25]]}
    put("none/equal-targets", given(pair, target=[0.5, 0.5], grad_output=2.0), {})
    put("none/one-row", given({"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}, target=[0.5]), {})
    put("none/no-rows", bare({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3),
                              "target": torch.zeros(0)}), {})
    # Far apart in the wrong and in the right order: e^100 and e^-100.
    lined = {"a": [[2.0, 0.5], [0.0, 1.0], [1.0, 1.0]], "b": [[1.0, 0.0], [0.5, -4.0], [1.0, -0.5]]}
    put("order/wrong", given(lined, target=[0.0, 1.0, 0.5]), {"scale": "50"})
    put("order/right", given(lined, target=[1.0, 0.0, 0.5]), {"scale": "50"}, want=("loss",))
    level = {"a": [[1.0, 0.0], [0.0, 2.0]], "b": [[0.0, 1.0], [0.5, 0.0]]}
    put("order/level", given(level, target=[0.0, 1.0]), {})
    small = {"a": [[0.0, 0.0], [0.25, 0.25], [0.5, 0.0], [1.0, 2.0]],
             "b": [[1.0, 2.0], [-2.0, 1.0], [0.5, 0.5], [0.25, 0.125]]}
    put("cos-eps/all", given(small, target=[0.0, 0.5, 1.0, 0.25]),
        {"cos_eps": "0.5", "scale": "4"}, kink=True)
    for kind in ("f64", "f32"):
        zero = given({"a": [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]],
                      "b": [[1.0, 2.0, 0.25], [0.0, 0.0, 0.0]]}, kind, target=[1.0, 0.0])
        put(f"zero/{kind}", zero, {})
    bad = given({"a": [[1.0, NAN], [-0.5, 1.0]], "b": [[2.0, 1.0], [1.5, 0.25]]},
                target=[0.5, 1.0])
    put("nonfinite/two", bad, {}, kink=True)
    COSENT.finish()


LOSSES = {"info_nce": info_nce, "nt_xent": nt_xent, "supcon": supcon, "cosent": cosent}


def main():
    for name in sys.argv[1:] or LOSSES:
        LOSSES[name]()


if __name__ == "__main__":
    main()
