#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of options that losses of embeddings have: dims and dim_weights of all of them; directions, partition,
group, hardness, guides and self_margin of info_nce; similarity=angle of cosent."""
import math
import pathlib

from tape import NAN, Golden, Num, Tensor, absolute, dot, empty, exp, log1p, lse, nested, reduce, softplus, sqrt, total, unit

A, B = [[1.0, 0.0], [1.0, 2.0]], [[1.0, 1.0], [2.0, 1.0]]
VECTORS = ("a", "b", "anchor", "positive", "negative", "anchors", "candidates", "embeddings")


def eps_of(o):
    return float(o.get("cos_eps", 1e-8))


def cosine(a, b, o):
    return dot(unit(a, eps_of(o)), unit(b, eps_of(o)))


def hinge(x):
    return x if x.v > 0 else Num(0)


def mean(x, rows, o):
    return {"loss": reduce(([len(rows)], rows), o, len(rows))}


def cosine_similarity(x, o):
    s = [cosine(x["a"][i], x["b"][i], o) for i in range(x["a"].shape[0])]
    if "target" not in x:
        return mean(x, [1 - v for v in s], o)
    return mean(x, [(v - y) * (v - y) for v, y in zip(s, x["target"].data)], o)


def cosine_embedding(x, o):
    margin, rows = float(o.get("margin", 0)), []
    for i, y in enumerate(x["target"].data):
        s = cosine(x["a"][i], x["b"][i], o)
        rows.append(1 - s if y == 1 else hinge(s - margin))
    return mean(x, rows, o)


def distance(a, b, kind, o):
    if kind == "cosine":
        return 1 - cosine(a, b, o)
    shift = float(o.get("pairwise_eps", 1e-6)) if kind in ("l2", "l1") else 0.0
    d = [p - q + shift for p, q in zip(a, b)]
    if kind == "l1":
        return total([absolute(v) for v in d])
    return sqrt(dot(d, d)) if kind == "l2" else dot(d, d)


def triplet(x, o):
    kind, margin, rows = o.get("distance", "l2"), float(o.get("margin", 1)), []
    for a, p, n in zip(*[[x[k][i] for i in range(x["anchor"].shape[0])] for k in ("anchor", "positive", "negative")]):
        far = distance(a, n, kind, o)
        if o.get("swap") == "true":
            far = min(far, distance(p, n, kind, o), key=lambda d: d.v)
        u = distance(a, p, kind, o) - far + margin
        rows.append(softplus(u) if o.get("soft") == "true" else hinge(u))
    return mean(x, rows, o)


def contrastive(x, o):
    margin, rows = float(o.get("margin", 0.5)), []
    for i, y in enumerate(x["target"].data):
        if o.get("distance") == "l2":
            d = distance(x["a"][i], x["b"][i], "l2", {"pairwise_eps": 0})
        else:
            d = 1 - cosine(x["a"][i], x["b"][i], o)
        h = d if y else hinge(margin - d)
        rows.append(h * h * 0.5 if o.get("squared", "true") == "true" else h)
    return mean(x, rows, o)


def nt_xent(x, o):
    tau, y, pairs = float(o.get("temperature", 0.07)), x["labels"].data, []
    h = [unit(x["embeddings"][i], eps_of(o)) for i in range(len(y))]
    for i in range(len(y)):
        for p in range(len(y)):
            if p != i and y[p] == y[i]:
                s = dot(h[i], h[p]) / tau
                others = [dot(h[i], h[k]) / tau for k in range(len(y)) if y[k] != y[i]]
                pairs.append(lse([s] + others) - s)
    value = total(pairs)
    return {"loss": Tensor([], [value / len(pairs) if pairs else empty(value, o)])}


def supcon(x, o):
    tau, y, rows = float(o.get("temperature", 0.1)), x["labels"].data, []
    factor = tau / float(o.get("base_temperature", tau))
    h = [unit(x["embeddings"][i], eps_of(o)) for i in range(len(y))]
    for i in range(len(y)):
        s = {k: dot(h[i], h[k]) / tau for k in range(len(y)) if k != i}
        positive = [s[k] for k in s if y[k] == y[i]]
        if positive:
            rows.append((lse(list(s.values())) - total(positive) / len(positive)) * factor)
    value = total(rows)
    return {"loss": Tensor([], [value / len(rows) if rows else empty(value, o)])}


def angle(a, b, o):
    """The cosine of a and (c - d, c + d), where b is (c, d)."""
    odd = [Num(0)] if len(a) % 2 else []
    a, b = a + odd, b + odd
    half = len(b) // 2
    c, d = b[:half], b[half:]
    return cosine(a, [p - q for p, q in zip(c, d)] + [p + q for p, q in zip(c, d)], o)


def cosent(x, o):
    scale, y = float(o.get("scale", 20)), x["target"].data
    if o.get("similarity") == "angle":
        s = [absolute(angle(x["a"][i], x["b"][i], o)) * (scale * math.sqrt(2)) for i in range(len(y))]
    else:
        s = [cosine(x["a"][i], x["b"][i], o) * scale for i in range(len(y))]
    terms = [s[i] - s[j] for i in range(len(y)) for j in range(len(y)) if y[i] < y[j]]
    return {"loss": Tensor([], [lse([Num(0)] + terms)])}


class Row:
    """What anchor i is compared with: terms of its softmax, by direction."""

    def __init__(self, x, o, h, i, p, groups, guide):
        self.x, self.o, self.h, self.i, self.p, self.groups, self.guide = x, o, h, i, p, groups, guide
        self.tau = x["temperature"].data[0] if "temperature" in x else Num(float(o.get("temperature", 0.05)))
        self.positive = self.like(("a", i), ("c", p))
        self.margin = float(o["self_margin"]) if "self_margin" in o else None
        self.limit = None
        if guide:
            g, m = guide(("a", i), ("c", p)), float(o.get("guide_margin", 0))
            self.limit = g - abs(g) * m if o.get("guide_margin_mode") == "relative" else g - m

    def like(self, u, v):
        return dot(self.h[u], self.h[v])

    def excluded(self, u, v):
        if (u, v) == (("a", self.i), ("c", self.p)):
            return False
        if self.limit is not None and self.guide(u, v) > self.limit:
            return True
        return self.margin is not None and self.like(u, v).v > self.positive.v + self.margin

    def harder(self, j):
        alpha = float(self.o.get("hardness", 0))
        own = self.groups[j] == self.i
        chosen = {"in_batch": not own, "hard": own and j != self.p, "all": j != self.p}
        if alpha == 0 or not chosen[self.o.get("hardness_set", "in_batch")]:
            return 0.0
        return alpha * self.like(("a", self.i), ("c", j)).v

    def terms(self, direction):
        (b, m), i, p = (self.x["anchors"].shape[0], self.x["candidates"].shape[0]), self.i, self.p
        mask = self.x.get("candidate_mask")
        pairs = {
            "query_to_doc": [(("a", i), ("c", j)) for j in range(m) if mask is None or mask[i, j]],
            "query_to_query": [(("a", i), ("a", k)) for k in range(b) if k != i],
            "doc_to_query": [(("a", k), ("c", p)) for k in range(b)],
            "doc_to_doc": [(("c", j), ("c", p)) for j in range(m) if self.groups[j] != i],
        }[direction]
        kept = [(u, v) for u, v in pairs if not self.excluded(u, v)]
        first = direction == "query_to_doc"
        return [self.like(u, v) / self.tau + (self.harder(v[1]) if first else 0.0) for u, v in kept]

    def loss(self):
        s = self.positive / self.tau
        names = self.o.get("directions", "query_to_doc").split(",")
        lists = [self.terms(name) for name in names]
        if self.o.get("partition") == "per_direction":
            return total([lse(t) for t in lists]) / len(lists) - s
        terms = [t for one in lists for t in one]
        eps = float(self.o.get("label_smoothing", 0))
        return lse(terms) - s * (1 - eps) - total(terms) * (eps / len(terms))


def info_nce(x, o):
    b, m = x["anchors"].shape[0], x["candidates"].shape[0]
    as_is = o.get("normalize") == "false"
    h = {("a", i): x["anchors"][i] for i in range(b)} | {("c", j): x["candidates"][j] for j in range(m)}
    h = {k: v if as_is else unit(v, eps_of(o)) for k, v in h.items()}
    places = x["positive_index"].data if "positive_index" in x else list(range(b))
    groups = x["group"].data if "group" in x else [j % b for j in range(m)] if b else []
    guide = None
    if "guide_anchors" in x:
        g = {("a", i): x["guide_anchors"][i] for i in range(b)}
        g |= {("c", j): x["guide_candidates"][j] for j in range(m)}
        g = {k: unit([Num(c) for c in v], eps_of(o)) for k, v in g.items()}
        guide = lambda u, v: dot(g[u], g[v]).v
    if o.get("symmetric") == "true":
        o = {**o, "directions": "query_to_doc,doc_to_query", "partition": "per_direction"}
    return mean(x, [Row(x, o, h, i, places[i], groups, guide).loss() for i in range(b)], o)


def prefix(t, d):
    width = t.shape[-1]
    data = [v for at in range(0, len(t.data), width) for v in t.data[at:at + d]]
    return Tensor(t.shape[:-1] + [d], data, t.dtype)


def by_dims(definition):
    """The loss on the first d components of every embedding, for each d, weighted and added up."""
    def of(x, o):
        if "dims" not in o:
            return definition(x, o)
        dims = [int(d) for d in o["dims"].split(",")]
        weights = [float(w) for w in o["dim_weights"].split(",")] if "dim_weights" in o else [1.0] * len(dims)
        shape, sums = None, None
        for d, w in zip(dims, weights):
            if w == 0:
                continue
            one = definition({k: prefix(t, d) if k in VECTORS else t for k, t in x.items()}, o)["loss"]
            shape, sums = one.shape, [v * w + (0 if sums is None else sums[i]) for i, v in enumerate(one.data)]
        return {"loss": Tensor(shape, sums)}
    return of


def largest(inputs, o):
    """Z: the largest score."""
    if "scale" in o:
        return 1.5 * max(1.0, float(o["scale"]))
    tau = inputs["temperature"].data[0] if "temperature" in inputs else float(o.get("temperature", 1))
    size = 1.0
    if o.get("normalize") == "false" or o.get("distance") in ("l2", "l1", "squared_l2"):
        size = max(sum(v * v for v in t.data) for k, t in inputs.items() if k in VECTORS)
    return max(1.0, size * (1 / tau + float(o.get("hardness", 0))))


def golden(definition, *differentiable):
    return Golden(definition.__name__, differentiable, by_dims(definition), largest)


SIMILARITY = golden(cosine_similarity, "a", "b", "target")
EMBEDDING = golden(cosine_embedding, "a", "b")
TRIPLET = golden(triplet, "anchor", "positive", "negative")
CONTRASTIVE = golden(contrastive, "a", "b")
INFO_NCE = golden(info_nce, "anchors", "candidates", "temperature")
NT_XENT = golden(nt_xent, "embeddings")
SUPCON = golden(supcon, "embeddings")
COSENT = golden(cosent, "a", "b")
ALL = (SIMILARITY, EMBEDDING, TRIPLET, CONTRASTIVE, INFO_NCE, NT_XENT, SUPCON, COSENT)


def vectors(names, n, width, kind="float", up=None, **others):
    def fill(d):
        inputs = {name: d.normal(n if name != "candidates" else others.get("m", n), width, dtype=kind) for name in names}
        if "labels" in others:
            inputs["labels"] = d.integers(0, others["labels"], n, dtype="i32")
        if "target" in others:
            inputs["target"] = others["target"](d, n)
        if up:
            inputs["grad_output"] = d.between(0.25, 2, *((n,) if up == "rows" else ()))
        return inputs
    return fill


PAIR = ("a", "b")
REAL = lambda d, n: d.normal(n, spread=0.5)
SIGN = lambda d, n: Tensor([n], [1 if f else -1 for f in d.flags(n).data], "i64")
BIT = lambda d, n: d.flags(n)
ORDER = lambda d, n: d.normal(n)


def matryoshka():
    half = {"temperature": "0.5"}
    INFO_NCE.put("dims/check", {"anchors": nested(A), "candidates": nested(B)},
                 {**half, "dims": "1,2", "dim_weights": "1,0.5"}, loss=1.13083562,
                 grad_anchors=[[0.0, -0.07700373721], [-0.03256562402, 0.01628281201]])
    for dims, weights in (("5", None), ("2,5", None), ("1,3,4", "0.5,-2,0.25"), ("2,3", "0,1.5"), ("2,3", "1.5,0")):
        o = {"dims": dims} | ({"dim_weights": weights} if weights else {})
        what = dims + (":" + weights if weights else "")
        for reduction in ("none", "mean"):
            r, up = {**o, "reduction": reduction}, "rows" if reduction == "none" else "one"
            least = 0.02 if weights else 0.1
            at = f"dims/{what}/{reduction}"
            SIMILARITY.draw(at, vectors(PAIR, 3, 5, up=up, target=REAL), r, least=least)
            EMBEDDING.draw(at, vectors(PAIR, 3, 5, up=up, target=SIGN), {**r, "margin": "-0.5"}, least=least)
            TRIPLET.draw(at, vectors(("anchor", "positive", "negative"), 3, 5, up=up), {**r, "soft": "true"}, least=least)
            CONTRASTIVE.draw(at, vectors(PAIR, 3, 5, up=up, target=BIT), {**r, "margin": "2"}, least=least)
            INFO_NCE.draw(at, vectors(("anchors", "candidates"), 3, 5, up=up, m=4), {**r, **half}, least=least)
        NT_XENT.draw(f"dims/{what}", vectors(("embeddings",), 5, 5, labels=2), {**o, **half}, least=0.02)
        SUPCON.draw(f"dims/{what}", vectors(("embeddings",), 5, 5, labels=2), {**o, **half}, least=0.02)
        COSENT.draw(f"dims/{what}", vectors(PAIR, 4, 5, target=ORDER), {**o, "scale": "2"}, least=0.02)
    TRIPLET.draw("dims/l2", vectors(("anchor", "positive", "negative"), 3, 7), {"dims": "3,6", "margin": "4", "swap": "true"})
    CONTRASTIVE.draw("dims/l2", vectors(PAIR, 3, 7, target=BIT), {"dims": "3,6", "distance": "l2", "margin": "6"})
    INFO_NCE.draw("dims/symmetric", vectors(("anchors", "candidates"), 4, 6), {**half, "dims": "2,6", "symmetric": True})
    for kind in ("f32", "f16", "bf16"):
        COSENT.draw(f"dims/{kind}", vectors(PAIR, 4, 6, kind, target=ORDER), {"dims": "2,4", "scale": "2"})
        SIMILARITY.draw(f"dims/{kind}", vectors(PAIR, 2, 6, kind), {"dims": "2,4,6"})
    SUPCON.draw("dims/wide", vectors(("embeddings",), 4, 40, labels=2), {**half, "dims": "17,33", "dim_weights": "1,2"})
    nothing = {name: Tensor([0, 3], [], "f64") for name in PAIR}
    for mode in ("zero", "nan"):
        SIMILARITY.put(f"dims/empty-{mode}", nothing, {"dims": "1,3", "empty_mean": mode})
    beyond = {"a": nested([[1.0, 0.5, NAN]], "float"), "b": nested([[0.25, 1.0, 2.0]], "float")}
    outputs, _ = SIMILARITY.evaluate(beyond, {"dims": "1,2"})
    SIMILARITY.add("dims/not-read", beyond, {"dims": "1,2"}, outputs, None)


def angles():
    COSENT.put("angle/check", {"a": nested([[1.0, 0.5], [1.0, 2.0]]), "b": nested(B), "target": nested([0.2, 0.9])},
               {"scale": "2", "similarity": "angle"}, loss=0.1951032964,
               grad_a=[[-0.1793647263, 0.3587294526], [0.02836005335, -0.01418002668]],
               grad_b=[[0.2242059079, -0.2242059079], [-0.01418002668, 0.02836005335]])
    for width in (1, 2, 3, 4, 5, 16, 17, 40):
        for scale in ("1", "4"):
            COSENT.draw(f"angle/{width}-{scale}", vectors(PAIR, 4, width, up="one", target=ORDER),
                        {"scale": scale, "similarity": "angle"}, want=("loss",) if width == 1 else None,
                        least=0.02 if width > 1 else 0)  # one component: angles are 45 degrees, whatever it is
    for kind in ("f64", "f32", "f16", "bf16"):
        COSENT.draw(f"angle/{kind}", vectors(PAIR, 5, 6, kind, target=ORDER), {"scale": "2", "similarity": "angle"})
    small = {"a": nested([[0.25, 0.125], [1.0, 2.0], [0.0, 0.0]], "float"),
             "b": nested([[1.0, 1.0], [0.125, -0.25], [1.0, 2.0]], "float"), "target": nested([1.0, 0.0, 2.0], "float")}
    COSENT.put("angle/cos-eps", small, {"scale": "2", "similarity": "angle", "cos_eps": "0.5"})
    COSENT.draw("angle/dims", vectors(PAIR, 4, 6, target=ORDER), {"scale": "2", "similarity": "angle", "dims": "3,4"},
                least=0.02)
    one = {"a": nested([[1.0, 2.0]], "float"), "b": nested([[0.5, 1.0]], "float"), "target": nested([1.0], "float")}
    COSENT.put("angle/one", one, {"similarity": "angle"})


def pools(b, m, width, kind="float", up=None, *others):
    def fill(d):
        inputs = {"anchors": d.normal(b, width, dtype=kind), "candidates": d.normal(m, width, dtype=kind)}
        places = list(range(b))
        if "positive_index" in others:
            places = d.random.sample(range(m), b) if "shared" not in others else [d.random.randrange(m) for _ in range(b)]
            inputs["positive_index"] = Tensor([b], places, "i64")
        if "group" in others:
            groups = [d.random.randrange(b) for _ in range(m)]
            for i, j in enumerate(places):
                groups[j] = i
            inputs["group"] = Tensor([m], groups, "i32")
        if "candidate_mask" in others:
            mask = d.flags(b, m)
            for i, j in enumerate(places):
                mask.data[i * m + j] = True
            inputs["candidate_mask"] = mask
        if "temperature" in others:
            inputs["temperature"] = Tensor([], [0.75], kind)
        if "guides" in others:
            inputs["guide_anchors"] = d.normal(b, 3, dtype=kind if kind != "float" else "f32")
            inputs["guide_candidates"] = d.normal(m, 3, dtype=kind if kind != "float" else "f32")
        if up:
            inputs["grad_output"] = d.between(0.25, 2, *((b,) if up == "rows" else ()))
        return inputs
    return fill


FOUR = "query_to_doc,query_to_query,doc_to_query,doc_to_doc"


def directions():
    half = {"temperature": "0.5"}
    given = {"anchors": nested(A), "candidates": nested(B)}
    guides = {"guide_anchors": nested([[1.0, 0.0], [1.0, 0.0]]), "guide_candidates": nested([[1.0, 0.2], [1.0, 0.5]])}
    INFO_NCE.put("check/four", given, {**half, "directions": FOUR}, loss=1.921056878,
                 grad_anchors=[[0.0, -0.1974473465], [-0.05336904448, 0.02668452224]])
    INFO_NCE.put("check/per-direction", given, {**half, "directions": "query_to_doc,doc_to_query",
                                                "partition": "per_direction"}, loss=0.8766008989)
    INFO_NCE.put("check/hardness", given, {**half, "hardness": "9"}, loss=8.630183342,
                 grad_anchors=[[0.0, -0.2598361703], [-0.1134923835, 0.05674619173]])
    INFO_NCE.put("check/guides", {**given, **guides}, half, loss=0.4489552028)
    lists = ("query_to_doc,query_to_query", "query_to_doc,doc_to_query", "query_to_doc,doc_to_doc", FOUR,
             "doc_to_doc,query_to_doc,doc_to_query")
    for k, names in enumerate(lists):
        o = {**half, "directions": names}
        for reduction in ("none", "sum", "mean"):
            up = "rows" if reduction == "none" else "one"
            INFO_NCE.draw(f"directions/{k}/{reduction}", pools(4, 4, 3, "float", up), {**o, "reduction": reduction})
        INFO_NCE.draw(f"directions/{k}/more", pools(3, 7, 4, "float", "one", "temperature"), {"directions": names})
        INFO_NCE.draw(f"directions/{k}/placed", pools(3, 5, 4, "float", None, "positive_index", "group", "candidate_mask"),
                      o)
        INFO_NCE.draw(f"directions/{k}/guides", pools(4, 5, 3, "float", "one", "guides"), {**o, "guide_margin": "0.125"})
        INFO_NCE.draw(f"directions/{k}/self", pools(4, 5, 3, "float", "one", "temperature"),
                      {"directions": names, "self_margin": "0.1"})
        INFO_NCE.draw(f"directions/{k}/dot", pools(3, 3, 3), {"temperature": "4", "directions": names, "normalize": "false"})
        INFO_NCE.draw(f"directions/{k}/hardness", pools(3, 6, 3), {**o, "hardness": "2"})
    two = {"directions": "query_to_doc,doc_to_query", "partition": "per_direction"}
    for reduction in ("none", "mean"):
        up = "rows" if reduction == "none" else "one"
        INFO_NCE.draw(f"per-direction/{reduction}", pools(4, 6, 3, "float", up), {**half, **two, "reduction": reduction})
    INFO_NCE.draw("per-direction/one", pools(3, 4, 3), {**half, "partition": "per_direction"})
    INFO_NCE.draw("per-direction/placed", pools(4, 6, 3, "float", "one", "positive_index", "guides", "temperature"), two)
    INFO_NCE.draw("per-direction/shared", pools(3, 3, 3, "float", "one", "positive_index",
                                                                              "shared", "temperature"), two)
    for where in ("in_batch", "hard", "all"):
        INFO_NCE.draw(f"hardness/{where}", pools(3, 7, 3, "float", "one", "temperature"),
                      {"hardness": "1.5", "hardness_set": where})
        INFO_NCE.draw(f"hardness/{where}-group", pools(3, 6, 3, "float", None, "positive_index", "group"),
                      {**half, "hardness": "0.5", "hardness_set": where, "directions": "query_to_doc,query_to_query"})
    for mode in ("absolute", "relative"):
        for margin in ("-0.25", "0", "0.25"):
            o = {**half, "guide_margin": margin, "guide_margin_mode": mode}
            INFO_NCE.draw(f"guides/{mode}{margin}", pools(4, 6, 3, "float", None, "guides"), o)
    INFO_NCE.draw("guides/smoothing", pools(3, 6, 3, "float", None, "guides", "candidate_mask"),
                  {**half, "label_smoothing": "0.25"})
    INFO_NCE.draw("guides/dims", pools(3, 4, 5, "float", None, "guides"), {**half, "dims": "2,5"})
    for margin in ("0", "0.25", "2"):
        INFO_NCE.draw(f"self/{margin}", pools(4, 6, 3), {**half, "self_margin": margin, "directions": FOUR})
    for kind in ("f32", "f16", "bf16"):
        INFO_NCE.draw(f"directions/{kind}", pools(3, 5, 3, kind, None, "guides", "temperature"), {"directions": FOUR})
    INFO_NCE.draw("directions/18x20x3", pools(18, 20, 3), {**half, "directions": FOUR}, least=0)
    INFO_NCE.draw("directions/17x17x20", pools(17, 17, 20), {**half, "directions": FOUR, "self_margin": "0.5"}, least=0)
    INFO_NCE.draw("directions/1", pools(1, 3, 3), {**half, "directions": FOUR})
    nothing = {"anchors": Tensor([0, 3], [], "f64"), "candidates": nested([[1.0, 2.0, 3.0]])}
    for mode in ("zero", "nan"):
        INFO_NCE.put(f"directions/empty-{mode}", nothing, {**half, "directions": FOUR, "empty_mean": mode})


matryoshka()
angles()
directions()
path = pathlib.Path(__file__).with_name("embeddings.jsonl")
path.write_text("".join(line + "\n" for g in ALL for line in g.lines), encoding="ascii")
print(f"embeddings: {sum(len(g.lines) for g in ALL)} cases, {path.stat().st_size} bytes")
