#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses on rows of vectors that go together: cosine_similarity,
cosine_embedding, triplet and contrastive."""
import itertools
import sys

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Inputs, same, short, stated
from vectors import COS_EPS, Closed, Loss, cosines, given, norms, reduce, unit, upstream

REDUCTIONS = ("none", "sum", "mean")
A, B = [[1.0, 0.0], [1.0, 2.0]], [[1.0, 1.0], [2.0, 1.0]]


def eps_of(options):
    return float(options.get("cos_eps", COS_EPS))


def column(values):
    return values[:, None]


# cosine_similarity


def similarity_form(inputs, options):
    return options.get("form", "distance" if inputs.get("target") is None else "mse")


def similarity_definition(x, inputs, options):
    s = cosines(x["a"], x["b"], eps_of(options))
    mse = similarity_form(inputs, options) == "mse"
    loss, share = reduce((s - x["target"]) ** 2 if mse else 1 - s, options)
    if options.get("cos_eps") is None:
        near = torch.cosine_similarity(x["a"], x["b"], dim=1)
        assert same(s.detach(), near.detach(), 1e-7)
    return loss, share, {"similarity": s}


def similarity_closed(x, inputs, options, up):
    eps = eps_of(options)
    out = Closed(eps)
    ha, hb = unit(x["a"], eps), unit(x["b"], eps)
    s = (ha * hb).sum(1)
    g = -up
    if similarity_form(inputs, options) == "mse":
        far = s - x["target"]
        g = 2 * up * far
        out.put("target", -g)
        out.need((far.abs() > 0.25).all())
    out.through_unit("a", x["a"], column(g) * hb)
    out.through_unit("b", x["b"], column(g) * ha)
    return out


SIMILARITY = Loss("cosine_similarity", ("a", "b", "target"), similarity_definition,
                  similarity_closed, lambda inputs, options: 1.0)


def similarity_fill(rows, width, options, extra=(), kind="float", spread=1.5):
    def fill(draw, inputs):
        inputs.put("a", draw.normal((rows, width), spread))
        inputs.put("b", draw.normal((rows, width), spread))
        if "target" in extra:
            away = draw.between((rows,), 0.3, 1) * (2 * draw.integers((rows,), 0, 2) - 1)
            y = cosines(inputs.get("a"), inputs.get("b"), eps_of(options)) + away
            inputs.put("target", torch.tensor([short(v) for v in y.tolist()], dtype=F64))
        if "grad_output" in extra:
            upstream(draw, inputs, options, rows, kind)
    return fill


def similarity():
    put, draw = SIMILARITY.write, SIMILARITY.draw
    out = put("check/mse", given({"a": A, "b": B}, "f64", target=([1.0, 0.5], "f64")))
    stated(out["loss"], 0.08789321881, "cosine_similarity")
    stated(out["grad.a"], [[0, -0.2071067812], [0.072, -0.036]], "cosine_similarity grad.a")
    stated(out["grad.b"], [[-0.1035533906, 0.1035533906], [-0.036, 0.072]],
           "cosine_similarity grad.b")
    for reduction in REDUCTIONS:
        for form, extra in (("mse", ("target",)), ("distance", ())):
            for named in (False, True):
                for go in ((), ("grad_output",)):
                    options = {"reduction": reduction}
                    if named:
                        options["form"] = form
                    name = f"{form}/{reduction}{'-named' * named}{'-up' * len(go)}"
                    draw(name, similarity_fill(3, 4, options, extra + go), options)
    for rows, width in ((1, 2), (5, 17), (2, 33), (40, 6), (1, 600)):
        for extra in ((), ("target",)):
            if width == 600 and not extra:
                continue
            options = {"reduction": "none"}
            draw(f"shape/{rows}x{width}{'-target' * len(extra)}",
                 similarity_fill(rows, width, options, extra), options)
    for items in ("0.5", "7", "1000"):
        for extra in ((), ("target",), ("target", "grad_output")):
            options = {"num_items": items}
            draw(f"num-items/{items}-{'-'.join(extra) or 'plain'}",
                 similarity_fill(3, 4, options, extra), options)
    for kind in ("f64", "f32", "f16", "bf16"):
        for reduction in ("none", "mean"):
            options = {"reduction": reduction}
            draw(f"type/{kind}-{reduction}",
                 similarity_fill(3, 4, options, ("grad_output",), kind), options)
    options = {}
    draw("want/loss", similarity_fill(3, 4, options), options, ("loss",))
    draw("want/similarity", similarity_fill(3, 4, options, ("target",)), options, ("similarity",))
    draw("want/target", similarity_fill(3, 4, options, ("target",)), options, ("grad.target",))
    draw("want/b", similarity_fill(3, 4, options), options, ("grad.b",))

    # Vectors no longer than cos_eps are divided by it and not projected.
    small = {"a": [[0.0, 0.0], [0.25, 0.25], [0.5, 0.0], [1.0, 2.0]],
             "b": [[1.0, 2.0], [-2.0, 1.0], [0.5, 0.5], [0.25, 0.125]]}
    for reduction in REDUCTIONS:
        options = {"cos_eps": "0.5", "reduction": reduction}
        put(f"cos-eps/all-{reduction}", given(small), options, kink=True)
        put(f"cos-eps/all-target-{reduction}", given(small, target=[0.5, 1.0, -0.25, -0.5]),
            options, kink=True)
    options = {"cos_eps": "0.75"}
    draw("cos-eps/some", similarity_fill(5, 3, options, ("target",), spread=0.5), options)
    for kind in ("f64", "f32"):
        zero = given({"a": [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]],
                      "b": [[1.0, 2.0, 0.25], [0.0, 0.0, 0.0]]}, kind)
        put(f"zero/{kind}", zero, {"reduction": "none"})
        put(f"zero/both-{kind}", given({"a": [[0.0, 0.0]], "b": [[0.0, 0.0]]}, kind), {})
    same_way = {"a": [[2.0, 0.0], [0.0, -3.0], [0.0, 1.0]],
                "b": [[0.5, 0.0], [0.0, 5.0], [4.0, 0.0]]}
    put("aligned/distance", given(same_way), {"reduction": "none"}, weak=True)
    put("aligned/mse", given(same_way, target=[1.0, -1.0, 0.0]), {"reduction": "none"}, weak=True)
    put("one-wide/distance", given({"a": [[2.0], [-4.0]], "b": [[0.5], [1.0]]}), {}, weak=True)
    lengths = {"a": [[100.0, -80.0, 0.0], [0.00390625, 0.001953125, 0.0]],
               "b": [[0.0078125, 0.00390625, 0.0078125], [64.0, -112.0, 96.0]]}
    put("lengths/far-apart", given(lengths), {"reduction": "none"}, want=("loss", "similarity"))
    put("lengths/far-apart-grads", given(lengths, "f64"), {"reduction": "none"})

    for reduction in REDUCTIONS:
        for what, bad in (("nan", NAN), ("inf", INF)):
            inputs = given({"a": [[1.0, bad, 0.5], [1.0, 2.0, -0.5]],
                            "b": [[2.0, 1.0, 1.0], [-1.0, 0.5, 1.5]]})
            put(f"nonfinite/{what}-{reduction}", inputs, {"reduction": reduction}, kink=True)
    put("nonfinite/target", given({"a": A, "b": B}, target=[NAN, -0.5]), {}, kink=True)

    for mode in ("zero", "nan"):
        nothing = {"a": torch.zeros(0, 3), "b": torch.zeros(0, 3)}
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, "empty_mean": mode}
            put(f"empty/{mode}-{reduction}", bare(nothing), options)
        put(f"empty/{mode}-num-items", bare(nothing), {"num_items": "4", "empty_mean": mode})
        put(f"empty/{mode}-target", bare({**nothing, "target": torch.zeros(0)}),
            {"empty_mean": mode})
    SIMILARITY.finish()


def bare(tensors, **others):
    """Inputs that are tensors already: a list could not say the shape of nothing."""
    inputs = Inputs()
    for name, value in tensors.items():
        inputs.put(name, value)
    for name, (value, kind) in others.items():
        inputs.put(name, value, kind)
    return inputs


# cosine_embedding


def embedding_eps(options):
    return None if options.get("norm") == "added" else eps_of(options)


def embedding_definition(x, inputs, options):
    margin = float(options.get("margin", "0"))
    y = inputs.get("target").to(torch.int64)
    s = cosines(x["a"], x["b"], embedding_eps(options))
    over = torch.where(torch.isnan(s), s, (s - margin).clamp(min=0))
    loss, share = reduce(torch.where(y == 1, 1 - s, over), options)
    if options.get("cos_eps") is None and len(y):
        near = F.cosine_embedding_loss(x["a"], x["b"], y, margin, reduction="none")
        long = (norms(x["a"]) > 0.001) & (norms(x["b"]) > 0.001)
        added = options.get("norm") == "added"
        long = (long[:, 0] | added) & torch.isfinite(s)
        # PyTorch's 1e-12 is a float, which is 4e-9 less.
        assert same(torch.where(y == 1, 1 - s, over)[long].detach(), near[long].detach(),
                    1e-8 if added else 1e-10)
    return loss, share, {}


def embedding_closed(x, inputs, options, up):
    margin, eps = float(options.get("margin", "0")), embedding_eps(options)
    y = inputs.get("target").to(torch.int64)
    out = Closed(eps)
    ha, hb = unit(x["a"], eps), unit(x["b"], eps)
    s = (ha * hb).sum(1)
    g = torch.where(y == 1, -torch.ones_like(s), (s > margin).to(F64))
    g = up * torch.where(torch.isnan(s), s, g)
    out.need(((s - margin).abs() > 0.01).all())
    out.through_unit("a", x["a"], column(g) * hb)
    out.through_unit("b", x["b"], column(g) * ha)
    return out


EMBEDDING = Loss("cosine_embedding", ("a", "b"), embedding_definition, embedding_closed,
                 lambda inputs, options: 1.0)


def embedding_fill(rows, width, options, extra=(), kind="float", ttype="i64", signs=None):
    def fill(draw, inputs):
        inputs.put("a", draw.normal((rows, width)))
        inputs.put("b", draw.normal((rows, width)))
        y = draw.integers((rows,), 0, 2) * 2 - 1
        inputs.put("target", torch.full((rows,), signs) if signs else y, ttype)
        if "grad_output" in extra:
            upstream(draw, inputs, options, rows, kind)
    return fill


def embedding():
    put, draw = EMBEDDING.write, EMBEDDING.draw
    out = put("check/margin", given({"a": A, "b": B}, "f64", target=([1, -1], "i64")),
              {"margin": "0.5"})
    stated(out["loss"], 0.2964466094, "cosine_embedding")
    stated(out["grad.a"], [[0, -0.3535533906], [0.12, -0.06]], "cosine_embedding grad.a")
    for reduction in REDUCTIONS:
        for margin in ("-1", "-0.5", "0", "0.25", "1"):
            options = {"reduction": reduction, "margin": margin}
            draw(f"margin/{margin}-{reduction}", embedding_fill(4, 3, options, (), "float", "i32"),
                 options)
            draw(f"margin/{margin}-{reduction}-up", embedding_fill(4, 3, options, ("grad_output",)),
                 options)
        options = {"reduction": reduction}
        draw(f"plain/{reduction}", embedding_fill(5, 4, options), options)
        draw(f"plain/{reduction}-positive", embedding_fill(3, 4, options, signs=1), options)
        draw(f"plain/{reduction}-negative", embedding_fill(3, 4, options, signs=-1), options)
    for rows, width in ((1, 2), (5, 17), (2, 33), (40, 6), (1, 600)):
        options = {"reduction": "none", "margin": "-0.25"}
        draw(f"shape/{rows}x{width}", embedding_fill(rows, width, options), options)
    for items in ("0.5", "9"):
        options = {"num_items": items}
        draw(f"num-items/{items}", embedding_fill(3, 4, options), options)
        draw(f"num-items/{items}-up", embedding_fill(3, 4, options, ("grad_output",), "f32"),
             options)
    for kind in ("f64", "f32", "f16", "bf16"):
        options = {"reduction": "none"}
        draw(f"type/{kind}", embedding_fill(3, 4, options, ("grad_output",), kind), options)
    options = {}
    draw("want/loss", embedding_fill(3, 4, options), options, ("loss",))
    draw("want/a", embedding_fill(3, 4, options), options, ("grad.a",))
    for ttype in ("f64", "f32", "f16", "bf16"):
        for kind in ("f64", "f32", "f16", "bf16"):
            options = {"reduction": "none"}
            draw(f"target/{ttype}-{kind}",
                 embedding_fill(3, 4, options, ("grad_output",), kind, ttype), options)
    for reduction in REDUCTIONS:
        for go in ((), ("grad_output",)):
            options = {"reduction": reduction, "norm": "added", "margin": "-0.25"}
            draw(f"added/{reduction}{'-up' * len(go)}", embedding_fill(5, 4, options, go), options)
    for rows, width in ((3, 17), (2, 33), (1, 600)):
        options = {"reduction": "none", "norm": "added", "margin": "-1"}
        draw(f"added/{rows}x{width}", embedding_fill(rows, width, options), options)
    tiny = 2.0**-20  # 0.95e-6, near the root of what is added
    near = {"a": [[0.0, 0.0], [tiny, 2 * tiny], [3 * 2.0**-28, -(2.0**-28)], [0.0, 0.0], [2.0**-13, 2.0**-12]],
            "b": [[1.0, 2.0], [0.5, -1.25], [tiny / 8, tiny / 2], [0.0, 0.0], [2.0, tiny]]}
    target = ([1, -1, 1, -1, -1], "i32")
    for kind in ("f64", "f32"):
        for reduction in REDUCTIONS:
            put(f"added/near-{reduction}-{kind}", given(near, kind, target=target),
                {"norm": "added", "reduction": reduction, "margin": "-1"})

    apart = {"a": [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [4.0, 0.0]],
             "b": [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [0.0, -2.0]]}
    target = ([-1, 1, -1, 1], "i64")
    for margin in ("0", "1"):
        put(f"kink/margin-{margin}", given(apart, target=target),
            {"margin": margin, "reduction": "none"}, kink=True)
    small = {"a": [[0.0, 0.0], [0.25, 0.25], [0.5, 0.0], [1.0, 2.0], [0.0, 0.0]],
             "b": [[1.0, 2.0], [2.0, 1.0], [0.5, 0.5], [0.25, 0.125], [1.0, 1.0]]}
    target = ([1, -1, 1, -1, -1], "i32")
    for reduction in REDUCTIONS:
        put(f"cos-eps/{reduction}", given(small, target=target),
            {"cos_eps": "0.5", "reduction": reduction}, kink=True)
    for kind in ("f64", "f32"):
        zero = given({"a": [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]],
                      "b": [[1.0, 2.0, 0.25], [0.0, 0.0, 0.0]]}, kind, target=([1, -1], "i64"))
        put(f"zero/{kind}", zero, {"margin": "-0.5"})
    for reduction in REDUCTIONS:
        for y in (1, -1):
            inputs = given({"a": [[1.0, NAN, 0.5], [1.0, 2.0, -0.5]],
                            "b": [[2.0, 1.0, 1.0], [1.0, 0.5, 1.5]]}, target=([y, y], "i64"))
            put(f"nonfinite/{reduction}{y:+}", inputs, {"reduction": reduction}, kink=True)
    for mode in ("zero", "nan"):
        nothing = bare({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3)},
                       target=(torch.zeros(0, dtype=torch.int64), "i64"))
        for reduction in REDUCTIONS:
            put(f"empty/{mode}-{reduction}", nothing,
                {"reduction": reduction, "empty_mean": mode})
        put(f"empty/{mode}-num-items", nothing, {"num_items": "4", "empty_mean": mode})
    EMBEDDING.finish()


# triplet


def distance(kind, x, y, e, eps):
    """Row by row; e is added to the difference where the contract has it."""
    if kind == "l2":
        return norms(x - y + e)[:, 0]
    if kind == "l1":
        return (x - y + e).abs().sum(1)
    if kind == "squared_l2":
        return ((x - y) ** 2).sum(1)
    assert kind == "cosine"
    return 1 - cosines(x, y, eps)


def distance_back(out, kind, pair, g, e):
    """Adds the gradients of a distance, times g, to those of the two inputs."""
    (left, x), (right, y) = pair
    if kind == "cosine":
        out.through_unit(left, x, column(-g) * unit(y, out.eps))
        out.through_unit(right, y, column(-g) * unit(x, out.eps))
        return
    difference = x - y + (0 if kind == "squared_l2" else e)
    d = norms(difference)
    slope = {
        "l2": torch.where(d == 0, torch.zeros_like(difference), difference / d),
        "l1": torch.sign(difference),
        "squared_l2": 2 * difference,
    }[kind]
    out.put(left, column(g) * slope)
    out.put(right, column(-g) * slope)


def flag(options, name):
    return {"true": True, "false": False}[options.get(name, "false")]


class TripletOptions:
    def __init__(self, options):
        self.kind = options.get("distance", "l2")
        self.margin = float(options.get("margin", "1"))
        self.swap, self.soft = flag(options, "swap"), flag(options, "soft")
        self.e = float(options.get("pairwise_eps", "1e-6"))
        self.eps = eps_of(options)

    def distances(self, x):
        a, p, n = x["anchor"], x["positive"], x["negative"]
        return [distance(self.kind, u, v, self.e, self.eps) for u, v in ((a, p), (a, n), (p, n))]


def triplet_definition(x, inputs, options):
    o = TripletOptions(options)
    ap, an, pn = o.distances(x)
    u = ap - (torch.minimum(an, pn) if o.swap else an) + o.margin
    each = u.clamp(min=0)
    if o.soft:
        each = each + torch.log1p(torch.exp(-u.abs()))
    if o.kind in ("l1", "l2") and not o.soft and len(u):
        near = F.triplet_margin_loss(x["anchor"], x["positive"], x["negative"], o.margin,
                                     1 if o.kind == "l1" else 2, o.e, o.swap, reduction="none")
        assert same(each.detach(), near.detach())
    loss, share = reduce(each, options)
    return loss, share, {}


def triplet_closed(x, inputs, options, up):
    o = TripletOptions(options)
    out = Closed(o.eps)
    ap, an, pn = o.distances(x)
    to_an = torch.ones_like(an)
    if o.swap:
        to_an = torch.where(an < pn, to_an, torch.where(an == pn, to_an / 2, to_an * 0))
    u = ap - (torch.minimum(an, pn) if o.swap else an) + o.margin
    kappa = torch.sigmoid(u) if o.soft else torch.where(torch.isnan(u), u, (u > 0).to(F64))
    g = up * kappa
    a, p, n = [(k, x[k]) for k in ("anchor", "positive", "negative")]
    distance_back(out, o.kind, (a, p), g, o.e)
    distance_back(out, o.kind, (a, n), -g * to_an, o.e)
    distance_back(out, o.kind, (p, n), -g * (1 - to_an), o.e)
    top = torch.stack([ap, an, pn]).amax(0) + o.margin
    if o.swap:
        out.need(((an - pn).abs() > 0.01 * top).all())
    if not o.soft:
        out.need((u.abs() > 0.05 * top).all())
    # One gradient less another of the same length: not when they point the same way.
    for name in ("anchor", "positive", "negative"):
        size = column(g.abs()).expand(x[name].shape)
        if o.kind in ("l1", "l2", "squared_l2") and x[name].shape[1] > 1:
            out.judge(name, out.grads[name], size / x[name].shape[1] ** 0.5)
    return out


def triplet_scale(inputs, options):
    o = TripletOptions(options)
    if o.kind == "cosine":
        return 1.0
    if not o.soft:
        return None
    d = torch.cat(o.distances({k: v.to(F64) for k, v in inputs.tensors.items()}))
    return max([o.margin, 1.0] + d.tolist())


TRIPLET = Loss("triplet", ("anchor", "positive", "negative"), triplet_definition, triplet_closed,
               triplet_scale)
KINDS = ("l2", "l1", "squared_l2", "cosine")


def triplet_fill(rows, width, options, extra=(), kind="float", spread=1.0):
    def fill(draw, inputs):
        for name in ("anchor", "positive", "negative"):
            inputs.put(name, draw.normal((rows, width), spread))
        if "grad_output" in extra:
            upstream(draw, inputs, options, rows, kind)
    return fill


def three(a, p, n):
    return {"anchor": a, "positive": p, "negative": n}


def triplet():
    put, draw = TRIPLET.write, TRIPLET.draw
    checked = three(A, B, [[0.0, 1.0], [-1.0, 1.0]])
    out = put("check/l2", given(checked, "f64"), {"reduction": "none"})
    stated(out["loss"], [0.5857854376, 0.1781442432], "triplet")
    for kind in KINDS:
        for swap, soft in itertools.product(("false", "true"), repeat=2):
            for reduction in REDUCTIONS:
                options = {"distance": kind, "swap": swap, "soft": soft, "reduction": reduction}
                what = kind + "-swap" * (swap == "true") + "-soft" * (soft == "true")
                draw(f"{what}/{reduction}", triplet_fill(2, 3, options), options)
                options["margin"] = "0.25"
                draw(f"{what}/{reduction}-up", triplet_fill(2, 3, options, ("grad_output",)),
                     options)
        for margin in ("0", "5"):
            options = {"distance": kind, "margin": margin, "reduction": "none"}
            draw(f"margin/{kind}-{margin}", triplet_fill(4, 3, options), options)
        for e in ("0", "0.125"):
            options = {"distance": kind, "pairwise_eps": e, "reduction": "none", "swap": "true"}
            draw(f"pairwise-eps/{kind}-{e}", triplet_fill(4, 3, options), options)
        options = {"distance": kind, "reduction": "none", "margin": "40"}
        draw(f"shape/{kind}-1x70", triplet_fill(1, 70, options, spread=0.25), options,
             ("loss", "grad.anchor"))
        options = {"distance": kind}
        draw(f"shape/{kind}-2x17", triplet_fill(2, 17, options, spread=0.5), options)
        options = {"distance": kind, "num_items": "10"}
        draw(f"num-items/{kind}", triplet_fill(2, 4, options), options)
        draw(f"num-items/{kind}-up", triplet_fill(3, 4, options, ("grad_output",), "f32"), options)
    draw("shape/1x400", triplet_fill(1, 400, {}, spread=0.25), {"margin": "40"},
         ("loss", "grad.positive"))
    draw("shape/40x3", triplet_fill(40, 3, {}), {}, ("loss", "grad.anchor"))
    draw("shape/2x1", triplet_fill(2, 1, {}), {"distance": "squared_l2", "margin": "7"})
    draw("plain", triplet_fill(3, 4, {}), {})
    draw("want/loss", triplet_fill(3, 4, {}), {}, ("loss",))
    draw("want/negative", triplet_fill(3, 4, {}), {}, ("grad.negative",))
    for kind in ("f64", "f32", "f16", "bf16"):
        options = {"reduction": "none"}
        draw(f"type/{kind}", triplet_fill(2, 4, options, ("grad_output",), kind), options)

    # a = p: with pairwise_eps the difference is its sign, without it l2 and l1 have no slope.
    meet = three([[1.0, 2.0], [0.5, -1.0]], [[1.0, 2.0], [0.5, -1.0]], [[1.5, 2.0], [0.5, -3.0]])
    for kind in ("l2", "l1", "squared_l2"):
        for e in ("0", "0.5"):
            put(f"meet/{kind}-{e}", given(meet),
                {"distance": kind, "pairwise_eps": e, "margin": "4", "reduction": "none"},
                kink=True)
    put("meet/l1-default", given(meet), {"distance": "l1", "margin": "4"}, weak=True)
    put("meet/all", given(three([[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]])),
        {"pairwise_eps": "0", "swap": "true"}, kink=True)
    # The components of some differences are exactly -e.
    put("kink/l1-sign", given(three([[1.0, 2.0, 0.0]], [[1.5, 1.0, 0.0]], [[1.5, 2.5, -3.0]])),
        {"distance": "l1", "pairwise_eps": "0.5", "margin": "8", "reduction": "none"}, kink=True)
    # The hinge exactly at 0, just above and below.
    hinge = three([[0.0, 0.0]] * 3, [[1.0, 1.0], [1.0, 1.5], [1.0, 0.5]], [[2.0, 2.0]] * 3)
    for reduction in REDUCTIONS:
        put(f"kink/hinge-l1-{reduction}", given(hinge),
            {"distance": "l1", "pairwise_eps": "0", "margin": "2", "reduction": reduction},
            kink=True)
    put("kink/hinge-squared", given(hinge),
        {"distance": "squared_l2", "margin": "6", "reduction": "none"}, kink=True)
    put("kink/hinge-l2", given(three([[0.0, 0.0]], [[3.0, 4.0]], [[6.0, 8.0]])),
        {"pairwise_eps": "0", "margin": "5"}, kink=True)
    put("kink/hinge-cosine", given(three([[2.0, 0.0]], [[0.5, 0.0]], [[0.0, 4.0]])),
        {"distance": "cosine", "margin": "1"}, kink=True)
    put("kink/soft-at-0", given(three([[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 2.0]])),
        {"distance": "l1", "pairwise_eps": "0", "margin": "2", "soft": "true"}, kink=True)
    # The negative as far from the anchor as from the positive: half to each.
    ties = three([[0.0, 0.0], [1.0, 0.0]], [[4.0, 0.0], [1.0, 4.0]], [[2.0, 1.0], [0.0, 2.0]])
    for kind in ("l2", "l1", "squared_l2"):
        for soft in ("false", "true"):
            put(f"tie/{kind}{'-soft' * (soft == 'true')}", given(ties),
                {"distance": kind, "pairwise_eps": "0", "margin": "4", "swap": "true",
                 "soft": soft, "reduction": "none"}, weak=True, kink=kind == "l1")
    put("tie/cosine", given(three([[1.0, 0.0]], [[-2.0, 0.0]], [[0.0, 3.0]])),
        {"distance": "cosine", "swap": "true", "margin": "2"}, kink=True)
    far = three([[100.0, -100.0]], [[-100.0, 100.0]], [[100.0, -96.0]])
    put("soft/large", given(far), {"soft": "true", "margin": "0"})
    put("soft/small", given(three(far["anchor"], far["negative"], far["positive"])),
        {"soft": "true", "margin": "0"}, want=("loss",))
    put("soft/large-squared", given(three([[0.0, 100.0]], [[96.0, 4.0]], [[1.0, 100.0]])),
        {"soft": "true", "distance": "squared_l2"})
    small = three([[0.0, 0.0], [0.5, 0.0]], [[1.0, 2.0], [0.25, 0.25]],
                  [[0.25, -0.25], [2.0, -1.0]])
    for swap in ("false", "true"):
        put(f"cos-eps/swap-{swap}", given(small),
            {"distance": "cosine", "cos_eps": "0.5", "swap": swap, "margin": "2"}, kink=True)
    for reduction in REDUCTIONS:
        for kind in KINDS:
            bad = three([[1.0, 2.0], [1.0, -0.5]], [[2.0, 0.5], [-1.0, 0.25]],
                        [[0.5, NAN], [2.0, 0.75]])
            put(f"nonfinite/{kind}-{reduction}", given(bad),
                {"distance": kind, "reduction": reduction, "margin": "4"}, kink=True)
    bad = three([[NAN, 2.0], [1.0, -0.5]], [[2.0, 0.5], [-1.0, NAN]], [[0.5, 1.0], [2.0, 0.75]])
    put("nonfinite/others", given(bad), {"reduction": "none"}, kink=True)
    put("nonfinite/swap-soft", given(bad), {"reduction": "none", "swap": "true", "soft": "true"},
        kink=True)
    for mode in ("zero", "nan"):
        zeros = [torch.zeros(0, 3)] * 3
        for reduction in REDUCTIONS:
            put(f"empty/{mode}-{reduction}", bare(three(*zeros)),
                {"reduction": reduction, "empty_mean": mode})
        put(f"empty/{mode}-num-items", bare(three(*zeros)),
            {"num_items": "4", "empty_mean": mode, "distance": "cosine"})
    TRIPLET.finish()


# contrastive


def contrastive_parts(x, options):
    kind, margin = options.get("distance", "cosine"), float(options.get("margin", "0.5"))
    d = distance(kind, x["a"], x["b"], 0, eps_of(options))
    return kind, margin, options.get("squared", "true") == "true", d


def contrastive_definition(x, inputs, options):
    _, margin, squared, d = contrastive_parts(x, options)
    y = inputs.get("target").to(F64)
    h = torch.where(torch.isnan(d), d, (margin - d).clamp(min=0))
    each = (y * d**2 + (1 - y) * h**2) / 2 if squared else y * d + (1 - y) * h
    loss, share = reduce(each, options)
    return loss, share, {}


def contrastive_closed(x, inputs, options, up):
    kind, margin, squared, d = contrastive_parts(x, options)
    y = inputs.get("target").to(F64)
    out = Closed(eps_of(options))
    h = torch.where(torch.isnan(d), d, (margin - d).clamp(min=0))
    if squared:
        slope = y * d - (1 - y) * h
    else:
        slope = y - (1 - y) * (d < margin).to(F64)
    slope = torch.where(torch.isnan(d), d, slope)
    distance_back(out, kind, (("a", x["a"]), ("b", x["b"])), up * slope, 0)
    steep = d > (0.3 if kind == "cosine" else 0)
    far = (margin - d).abs() > 0.15 * torch.clamp(d, min=margin)
    out.need(torch.where(y == 1, steep, far).all())
    return out


CONTRASTIVE = Loss("contrastive", ("a", "b"), contrastive_definition, contrastive_closed,
                   lambda inputs, options: 1.0 if options.get("distance") != "l2" else None)


def contrastive_fill(rows, width, options, extra=(), kind="float", ttype="i64", only=None):
    def fill(draw, inputs):
        inputs.put("a", draw.normal((rows, width), 1.0))
        inputs.put("b", draw.normal((rows, width), 1.0))
        y = draw.integers((rows,), 0, 2)
        inputs.put("target", y if only is None else torch.full((rows,), only), ttype)
        if "grad_output" in extra:
            upstream(draw, inputs, options, rows, kind)
    return fill


def contrastive():
    put, draw = CONTRASTIVE.write, CONTRASTIVE.draw
    out = put("check/l2", given({"a": A, "b": B}, "f64", target=([1, 0], "i64")),
              {"distance": "l2", "margin": "2"})
    stated(out["loss"], 0.3357864376, "contrastive")
    stated(out["grad.a"], [[0, -0.5], [0.2071067812, -0.2071067812]], "contrastive grad.a")
    for kind in ("cosine", "l2"):
        for squared in ("true", "false"):
            for reduction in REDUCTIONS:
                options = {"distance": kind, "squared": squared, "reduction": reduction,
                           "margin": "1.25" if kind == "cosine" else "3"}
                what = f"{kind}-{'squared' if squared == 'true' else 'plain'}"
                draw(f"{what}/{reduction}", contrastive_fill(4, 3, options), options)
                draw(f"{what}/{reduction}-up",
                     contrastive_fill(4, 3, options, ("grad_output",), ttype="i32"), options)
            for ttype in ("i64", "i32", "bool"):
                for only in (0, 1):
                    options = {"distance": kind, "squared": squared, "margin": "1.5",
                               "reduction": "none"}
                    draw(f"{what}/{ttype}-{only}",
                         contrastive_fill(3, 4, options, ttype=ttype, only=only), options)
            for margin in ("0", "0.5", "1", "4"):
                options = {"distance": kind, "squared": squared, "margin": margin,
                           "reduction": "none"}
                draw(f"{what}/margin-{margin}", contrastive_fill(4, 3, options), options)
            options = {"distance": kind, "squared": squared, "num_items": "6"}
            draw(f"{what}/num-items", contrastive_fill(3, 3, options, ("grad_output",), "f32"),
                 options)
        options = {"distance": kind, "reduction": "none", "margin": "1.5"}
        draw(f"shape/{kind}-5x17", contrastive_fill(5, 17, options), options)
        options = {"distance": kind, "margin": "60"}
        draw(f"shape/{kind}-1x600", contrastive_fill(1, 600, options, only=0), options)
    draw("shape/40x5", contrastive_fill(40, 5, {}, ttype="bool"), {"distance": "l2", "margin": "2"})
    draw("plain", contrastive_fill(4, 3, {}), {})
    draw("plain/bool", contrastive_fill(4, 3, {}, ttype="bool"), {})
    draw("want/loss", contrastive_fill(4, 3, {}), {}, ("loss",))
    draw("want/b", contrastive_fill(4, 3, {}), {}, ("grad.b",))
    for kind in ("f64", "f32", "f16", "bf16"):
        options = {"reduction": "none"}
        draw(f"type/{kind}", contrastive_fill(3, 4, options, ("grad_output",), kind), options)

    meet = {"a": [[1.0, 2.0], [0.5, -1.0]], "b": [[1.0, 2.0], [0.5, -1.0]]}
    edge = {"a": [[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]], "b": [[0.0, 4.0], [3.0, 4.0], [4.0, 5.0]]}
    right = {"a": [[3.0, 0.0], [0.0, 2.0]], "b": [[0.0, 4.0], [-5.0, 0.0]]}
    level = {"a": [[3.0, 0.0], [0.0, 2.0]], "b": [[2.0, 0.0], [0.0, 5.0]]}
    for squared in ("true", "false"):
        options = {"squared": squared, "reduction": "none"}
        for y in (0, 1):
            put(f"kink/meet-l2-{squared}-{y}", given(meet, target=([y, y], "i64")),
                {**options, "distance": "l2"}, kink=True)
            put(f"kink/margin-l2-{squared}-{y}", given(edge, target=([y] * 3, "bool")),
                {**options, "distance": "l2", "margin": "5"}, kink=True)
            put(f"kink/margin-cosine-{squared}-{y}", given(right, target=([y, y], "i32")),
                {**options, "margin": "1"}, kink=True)
            put(f"kink/level-cosine-{squared}-{y}", given(level, target=([y, y], "i32")),
                {**options, "margin": "0"}, kink=True)
    small = {"a": [[0.0, 0.0], [0.25, 0.25], [0.5, 0.0], [1.0, 2.0], [0.0, 0.0]],
             "b": [[1.0, 2.0], [2.0, 1.0], [0.5, 0.5], [0.25, 0.125], [1.0, 1.0]]}
    for reduction in REDUCTIONS:
        put(f"cos-eps/{reduction}", given(small, target=([1, 0, 1, 0, 0], "i64")),
            {"cos_eps": "0.5", "margin": "1.5", "reduction": reduction}, kink=True)
    for kind in ("f64", "f32"):
        zero = given({"a": [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]],
                      "b": [[1.0, 2.0, 0.25], [0.0, 0.0, 0.0]]}, kind, target=([1, 0], "i64"))
        put(f"zero/{kind}", zero, {"margin": "2"})
    for kind in ("cosine", "l2"):
        for squared in ("true", "false"):
            for y in (0, 1):
                inputs = given({"a": [[1.0, NAN, 0.5], [1.0, 2.0, -0.5]],
                                "b": [[2.0, 1.0, 1.0], [1.5, -2.0, 1.5]]},
                               target=([y, y], "i64"))
                put(f"nonfinite/{kind}-{squared}-{y}", inputs,
                    {"distance": kind, "squared": squared, "reduction": "none", "margin": "2"},
                    kink=True)
    for mode in ("zero", "nan"):
        nothing = bare({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3)},
                       target=(torch.zeros(0, dtype=torch.int64), "bool"))
        for reduction in REDUCTIONS:
            put(f"empty/{mode}-{reduction}", nothing,
                {"reduction": reduction, "empty_mean": mode})
        put(f"empty/{mode}-num-items", nothing, {"num_items": "4", "empty_mean": mode})
    CONTRASTIVE.finish()


LOSSES = {
    "cosine_similarity": similarity,
    "cosine_embedding": embedding,
    "triplet": triplet,
    "contrastive": contrastive,
}



def main():
    for name in sys.argv[1:] or LOSSES:
        LOSSES[name]()


if __name__ == "__main__":
    main()
