#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of margin_softmax: arcface and cosface."""
import math

import torch
import torch.nn.functional as F

from contrast import log_softmax, scores_back
from oracle import F64, NAN, same, stated
from pairs import REDUCTIONS, bare, column, eps_of
from vectors import Closed, Loss, given, mean, reduce, unit, upstream


class Margin:
    def __init__(self, x, inputs, options):
        self.x, self.w = x["embeddings"], x["prototypes"]
        self.cosface = options.get("kind", "arcface") == "cosface"
        self.m = float(options.get("margin", "0.35" if self.cosface else "0.5"))
        self.scale = float(options.get("scale", "64"))
        eps = eps_of(options)
        self.hs = unit(self.x, eps), unit(self.w, eps)
        y = inputs.get("targets").to(torch.int64)
        self.counted = y != int(options.get("ignore_index", "-100"))
        self.y = torch.where(self.counted, y, torch.zeros_like(y))
        self.c = self.hs[0] @ self.hs[1].T
        self.hot = torch.zeros(self.c.shape, dtype=torch.bool)
        self.hot[torch.arange(len(y)), self.y] = True
        self.own = (self.c * self.hot).sum(1) if len(y) else self.c.sum(1)
        self.turn = math.cos(math.pi - self.m)

    def moved(self):
        """f and f' of the target's cosine."""
        c, m = self.own, self.m
        if self.cosface:
            return c - m, torch.ones_like(c)
        sine = torch.sqrt((1 - c**2).clamp(min=0))
        near = c > self.turn
        f = torch.where(near, c * math.cos(m) - sine * math.sin(m), c - m * math.sin(m))
        slope = math.cos(m) + c * math.sin(m) / sine.clamp(min=1e-6)
        return f, torch.where(near, slope, torch.ones_like(c))

    def logits(self):
        return self.scale * torch.where(self.hot, column(self.moved()[0]), self.c)


def margin_definition(x, inputs, options):
    counted = Margin(x, inputs, options).counted
    held = torch.where(counted[:, None], x["embeddings"], torch.ones_like(x["embeddings"]))
    e = Margin({**x, "embeddings": held}, inputs, options)
    each = -(log_softmax(e.logits()) * e.hot).sum(1) if len(e.y) else e.c.sum(1)
    if len(e.y):
        near = F.cross_entropy(e.logits(), e.y, reduction="none")
        assert same(each.detach(), near.detach(), 1e-11)
    each = torch.where(counted, each, torch.zeros_like(each))
    if options.get("reduction", "mean") == "mean":
        return *mean(each, counted.to(F64), options), {}
    loss, share = reduce(each, options)
    return loss, share * counted, {}


def margin_closed(x, inputs, options, up):
    counted = Margin(x, inputs, options).counted
    held = torch.where(counted[:, None], x["embeddings"], torch.ones_like(x["embeddings"]))
    e = Margin({**x, "embeddings": held}, inputs, options)
    out = Closed(eps_of(options))
    p, slope = torch.exp(log_softmax(e.logits())), e.moved()[1]
    steep = torch.where(e.hot, column(slope), torch.ones_like(p))
    k = e.scale * column(up)
    g, size = k * (p - e.hot.to(F64)) * steep, k.abs() * (p + e.hot.to(F64)) * steep.abs()
    scores_back(out, ("embeddings", held), ("prototypes", e.w), e.hs, g, size, 1.0)
    out.grads["embeddings"] = torch.where(counted[:, None], out.grads["embeddings"],
                                          torch.zeros_like(held))
    if not e.cosface:
        out.need((e.own.abs() < 0.98).all())
        out.need(((e.own - e.turn).abs() > 0.01).all())
    return out


MARGIN = Loss("margin_softmax", ("embeddings", "prototypes"), margin_definition, margin_closed,
              lambda inputs, options: max(1.0, float(options.get("scale", "64"))))


def margin_fill(n, classes, width, options, extra=(), kind="float", itype="i64", away=0,
                ignored=()):
    """away: 1 puts every target in the far branch of arcface, -1 none, 0 does not mind."""
    def fill(draw, inputs):
        x, w = draw.normal((n, width), 1.0), draw.normal((classes, width), 1.0)
        c = unit(x) @ unit(w).T
        y = draw.integers((n,), 0, classes)
        if away and n:
            y = c.argmin(1) if away > 0 else c.argmax(1)
        for i in ignored:
            y[i] = int(options.get("ignore_index", "-100"))
        inputs.put("embeddings", x)
        inputs.put("prototypes", w)
        inputs.put("targets", y, itype)
        if "grad_output" in extra:
            upstream(draw, inputs, options, n, kind)
    return fill


def margin_softmax():
    put, draw = MARGIN.write, MARGIN.draw
    checked = given({"embeddings": [[2.0, 1.0], [1.0, 2.0]],
                     "prototypes": [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]}, "f64",
                    targets=([0, 1], "i64"))
    out = put("check/arcface", checked, {"scale": "4"})
    stated(out["loss"], 0.478051863, "arcface")
    stated(out["grad.embeddings"], [[-0.2601048699, 0.5202097397], [0.5202097397, -0.2601048699]],
           "arcface grad.embeddings")
    out = put("check/cosface", checked, {"scale": "4", "kind": "cosface"})
    stated(out["loss"], 0.519020541, "cosface")

    for kind in ("arcface", "cosface"):
        for reduction in REDUCTIONS:
            for go in ((), ("grad_output",)):
                what = f"{reduction}{'-up' * len(go)}"
                o = {"kind": kind, "scale": "8", "reduction": reduction}
                draw(f"{kind}/{what}", margin_fill(3, 5, 3, o, go), o)
                draw(f"{kind}/{what}-i32", margin_fill(3, 5, 3, o, go, itype="i32"), o)
        for scale in ("0.5", "1", "16", "64"):
            o = {"kind": kind, "scale": scale, "reduction": "none"}
            draw(f"{kind}/scale-{scale}", margin_fill(3, 4, 3, o), o)
        o = {"kind": kind, "scale": "4", "num_items": "7"}
        draw(f"{kind}/num-items", margin_fill(3, 4, 3, o), o)
        draw(f"{kind}/num-items-up", margin_fill(3, 4, 3, o, ("grad_output",), "f32"), o)
        o = {"kind": kind, "scale": "4"}
        for n, classes, width in ((1, 2, 2), (5, 17, 3), (2, 4, 33), (17, 5, 3), (2, 70, 3)):
            draw(f"{kind}/shape-{n}x{classes}x{width}", margin_fill(n, classes, width, o), o)
        draw(f"{kind}/shape-40x3x5", margin_fill(40, 3, 5, o), o, ("loss", "grad.prototypes"))
    draw("shape/1x1100x2", margin_fill(1, 1100, 2, {}), {"reduction": "none", "scale": "4"},
         ("loss", "grad.embeddings"))
    draw("shape/1x3x400", margin_fill(1, 3, 400, {}), {"scale": "4"}, ("loss", "grad.embeddings"))
    draw("plain", margin_fill(3, 4, 3, {}), {})
    # Targets on either side of cos(pi - margin).
    for margin, what in (("0", "near"), ("0.25", "near"), ("1", "near"), ("2", "near"),
                         ("0.75", "far"), ("1", "far"), ("2", "far"), ("3", "far")):
        o = {"margin": margin, "scale": "4", "reduction": "none"}
        draw(f"arcface/margin-{margin}-{what}",
             margin_fill(3, 4, 2, o, away=1 if what == "far" else -1), o)
    for margin in ("0", "0.25", "1", "3"):
        o = {"kind": "cosface", "margin": margin, "scale": "4", "reduction": "none"}
        draw(f"cosface/margin-{margin}", margin_fill(3, 4, 3, o), o)
    for kind in ("f64", "f32", "f16", "bf16"):
        o = {"scale": "4", "reduction": "none"}
        draw(f"type/{kind}", margin_fill(2, 3, 3, o, ("grad_output",), kind), o)
    o = {"scale": "4"}
    draw("want/loss", margin_fill(3, 4, 3, o), o, ("loss",))
    draw("want/embeddings", margin_fill(3, 4, 3, o), o, ("grad.embeddings",))
    draw("want/prototypes", margin_fill(3, 4, 3, o), o, ("grad.prototypes",))

    one = given({"embeddings": [[1.0, 2.0], [0.5, -1.0]], "prototypes": [[2.0, 1.0]]},
                targets=([0, 0], "i64"))
    for kind in ("arcface", "cosface"):
        put(f"edge/one-class-{kind}", one, {"kind": kind, "reduction": "none"})
    # A target at angle 0 or pi, where the sine is 0.
    lined = {"embeddings": [[2.0, 0.0], [0.0, 4.0]],
             "prototypes": [[0.5, 0.0], [0.0, -1.0], [0.0, 3.0], [0.0, 2.0]]}
    for what, targets in (("same", [0, 2]), ("opposite", [1, 1])):
        for kind in ("arcface", "cosface"):
            inputs = given(lined, targets=(targets, "i64"))
            put(f"edge/{what}-{kind}", inputs, {"kind": kind, "scale": "4", "reduction": "none"},
                kink=True)
    small = {"embeddings": [[0.0, 0.0], [0.25, 0.25], [1.0, 0.5]],
             "prototypes": [[1.0, 2.0], [0.25, -0.125], [-2.0, 1.0]]}
    for kind in ("arcface", "cosface"):
        put(f"cos-eps/{kind}", given(small, targets=([0, 2, 1], "i64")),
            {"kind": kind, "scale": "4", "cos_eps": "0.5"}, kink=True)
    for kind in ("f64", "f32"):
        zero = given({"embeddings": [[0.0, 0.0], [1.0, -2.0]],
                      "prototypes": [[1.0, 2.0], [0.0, 0.0]]}, kind, targets=([0, 1], "i64"))
        put(f"zero/{kind}", zero, {"scale": "4"})
    bad = given({"embeddings": [[1.0, NAN], [1.0, 2.0]],
                 "prototypes": [[2.0, 1.0], [-1.0, 0.5], [1.5, 0.5]]}, targets=([0, 2], "i64"))
    for reduction in REDUCTIONS:
        for kind in ("arcface", "cosface"):
            put(f"nonfinite/{kind}-{reduction}", bad,
                {"kind": kind, "scale": "4", "reduction": reduction}, kink=True)
    ignored()
    for mode in ("zero", "nan"):
        nothing = bare({"embeddings": torch.zeros(0, 3), "prototypes": torch.ones(2, 3)},
                       targets=(torch.zeros(0, dtype=torch.int64), "i64"))
        for reduction in REDUCTIONS:
            put(f"empty/{mode}-{reduction}", nothing,
                {"reduction": reduction, "empty_mean": mode})
        put(f"empty/{mode}-num-items", nothing, {"num_items": "4", "empty_mean": mode})
    MARGIN.finish()


def ignored():
    """Rows whose target is ignore_index."""
    for kind in ("arcface", "cosface"):
        for reduction in REDUCTIONS:
            o = {"kind": kind, "scale": "4", "reduction": reduction}
            MARGIN.draw(f"ignored/{kind}-{reduction}", margin_fill(4, 3, 3, o, ignored=(1, 2)), o)
            o["ignore_index"] = "-1"
            MARGIN.draw(f"ignored/{kind}-{reduction}-up",
                        margin_fill(4, 3, 3, o, ("grad_output",), ignored=(0,)), o)
    o = {"scale": "4", "ignore_index": "1"}
    MARGIN.draw("ignored/a-class", margin_fill(4, 3, 3, o, ignored=(3,)), o)
    o = {"scale": "4", "num_items": "6"}
    MARGIN.draw("ignored/num-items", margin_fill(4, 3, 3, o, ignored=(3,)), o)
    unread = given({"embeddings": [[1.0, NAN], [1.0, 2.0]],
                    "prototypes": [[2.0, 1.0], [-1.0, 0.5], [1.5, 0.5]]},
                   targets=([-100, 2], "i64"))
    MARGIN.write("ignored/not-read", unread, {"scale": "4"})
    for mode in ("zero", "nan"):
        all_of = given({"embeddings": [[1.0, NAN], [1.0, 2.0]],
                        "prototypes": [[2.0, 1.0], [-1.0, 0.5]]}, targets=([-100, -100], "i32"))
        MARGIN.write(f"ignored/all-{mode}", all_of, {"scale": "4", "empty_mean": mode})


if __name__ == "__main__":
    margin_softmax()
