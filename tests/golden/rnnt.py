#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of rnnt: the sum over all paths, one by one where there are few, else by the recursion."""
import itertools
import math

from tape import INF, NAN, Golden, Num, Tensor, empty, lse, nested, reduce, total


def paths(T, U):
    """Every path as the (t, u, is it a label?) that it goes through: U labels among T + U - 1 moves, then a blank."""
    for ups in itertools.combinations(range(T + U - 1), U):
        t = u = 0
        path = []
        for move in range(T + U - 1):
            path.append((t, u, move in ups))
            t, u = (t, u + 1) if move in ups else (t + 1, u)
        yield path + [(t, u, False)]


def log_probability(logits, b, T, U, y, blank):
    norm = {}

    def log_p(t, u, k):
        if (t, u) not in norm:
            norm[t, u] = lse(logits[b, t, u])
        return logits[b, t, u, k] - norm[t, u]

    if math.comb(T + U - 1, U) <= 200:
        return lse([total([log_p(t, u, y[u] if up else blank) for t, u, up in path]) for path in paths(T, U)])
    alpha = {}
    for t in range(T):
        for u in range(U + 1):
            come = [alpha[t - 1, u] + log_p(t - 1, u, blank)] if t else []
            come += [alpha[t, u - 1] + log_p(t, u - 1, y[u - 1])] if u else []
            alpha[t, u] = lse(come) if come else Num(0)
    return alpha[T - 1, U] + log_p(T - 1, U, blank)


def definition(x, options):
    logits, targets = x["logits"], x["targets"]
    B = logits.shape[0]
    blank, reduction = int(options.get("blank", 0)), options.get("reduction", "mean")
    rows, labels = [], 0
    for b in range(B):
        T, U = x["input_lengths"].data[b], x["target_lengths"].data[b]
        y = targets[b][:U] if targets.shape[1] else []
        row = -log_probability(logits, b, T, U, y, blank)
        if row.v == INF:
            row = Num(0 if options.get("zero_infinity") == "true" else INF)
        rows.append(row / max(U, 1) if reduction == "mean_target" else row)
        labels += U
    if reduction == "mean_volume":
        value = total(rows)
        return {"loss": Tensor([], [value / labels if labels else empty(value, options)])}
    return {"loss": reduce(([B], rows), options, B)}


def largest(inputs, options):
    x = inputs["logits"]
    return max([abs(v) for v in x.data if abs(v) < INF], default=0) + x.shape[1] + x.shape[2] - 1


G = Golden("rnnt", ("logits",), definition, largest)
X = [[[[0.1, 0.6, 0.1], [0.5, 0.1, 0.2]], [[0.3, 0.2, 0.9], [1.0, 0.4, 0.1]]]]


def some(B, T, U, V, *others, kind="float", blank=0, reduction="mean"):
    def fill(d):
        classes = [k for k in range(V) if k != blank]
        inputs = {"logits": d.normal(B, T, U + 1, V, dtype=kind),
                  "targets": Tensor([B, U], [classes[k] for k in d.integers(0, V - 1, B, U).data],
                                    "i32" if T % 2 else "i64"),
                  "input_lengths": Tensor([B], [T] * B, "i64"), "target_lengths": Tensor([B], [U] * B, "i32")}
        if "lengths" in others:
            inputs["input_lengths"] = d.integers(1, T + 1, B)
            inputs["target_lengths"] = d.integers(0, U + 1, B, dtype="i32")
        if "up" in others:
            inputs["grad_output"] = d.between(0.25, 2, *((B,) if reduction == "none" else ()))
        return inputs
    return fill


def given(x=X, y=((1,),), T=(2,), U=(1,), kind="f64", **others):
    return {"logits": nested(x, kind), "targets": nested([list(r) for r in y], "i64"),
            "input_lengths": nested(list(T), "i64"), "target_lengths": nested(list(U), "i64"), **others}


outputs = G.put("check", given(), {}, loss=2.041221595)
for got, stated in zip(outputs["grad.logits"].data, (0.01204804674, -0.2861166658, 0.2740686191)):
    assert abs(got - stated) < 1e-9
for reduction in ("none", "sum", "mean", "mean_target", "mean_volume"):
    o = {"reduction": reduction}
    G.draw(f"reduction/{reduction}", some(3, 3, 2, 4, "lengths", reduction=reduction), o, least=0)
    G.draw(f"reduction/{reduction}-up", some(2, 2, 3, 3, "lengths", "up", blank=2, reduction=reduction),
           {**o, "blank": 2}, least=0)
G.draw("items", some(2, 2, 1, 3, "up"), {"num_items": 7}, least=0)
for T, U, V in ((1, 0, 3), (1, 3, 2), (4, 0, 2), (9, 7, 2), (2, 1, 17), (1, 1, 40), (3, 2, 5)):
    G.draw(f"size/{T}-{U}-{V}", some(1, T, U, V), {}, least=0)
G.draw("blank-in-the-middle", some(1, 3, 2, 5, blank=3), {"blank": 3}, least=0)
for kind in ("f32", "f16", "bf16"):
    G.draw(f"type/{kind}", some(2, 2, 1, 3, "lengths", kind=kind), {}, least=0)
unread = [[[[0.5, 1.0], [NAN, INF]], [[NAN, NAN], [NAN, NAN]]]]
G.put("beyond/not-read", given(unread, T=(1,), U=(0,), kind="float"), {})
wall = [[[[0.5, -INF, 1.0], [0.5, 1.0, 0.25]], [[0.25, -INF, 1.0], [1.0, 0.5, 0.25]]]]
for zero in (False, True):
    for reduction in ("none", "mean"):
        G.put(f"no-path/{zero}-{reduction}", given(wall, kind="float"), {"zero_infinity": zero, "reduction": reduction})
detour = [[[[0.5, -INF, 1.0], [0.5, 1.0, 0.25]], [[0.25, 0.75, 1.0], [1.0, 0.5, 0.25]]]]
G.put("one-path", given(detour, kind="float"), {})
for name, bad in (("nan", NAN), ("inf", INF)):
    fine = given([X[0], X[0]], y=((1,), (1,)), T=(2, 2), U=(1, 1))
    outputs, _ = G.evaluate(fine, {"reduction": "none"})
    outputs["loss"].data[1], outputs["grad.logits"].data[12:] = NAN, [NAN] * 12
    fine["logits"].data[12 + 4] = bad
    G.add(f"{name}", fine, {"reduction": "none"}, outputs, None)
one = [[[[0.5, 1.0], [0.25, 2.0]]]]
for how in ("zero", "nan"):
    none = {"logits": Tensor([0, 2, 2, 3], [], "f64"), "targets": Tensor([0, 1], [], "i64"),
            "input_lengths": Tensor([0], [], "i64"), "target_lengths": Tensor([0], [], "i64")}
    G.put(f"empty/batch-{how}", none, {"empty_mean": how})
    G.put(f"empty/volume-{how}", given(one, T=(1,), U=(0,)), {"empty_mean": how, "reduction": "mean_volume"})
G.put("weight-0", given([X[0], X[0]], y=((1,), (2,)), T=(2, 2), U=(1, 1), grad_output=nested([0.0, 1.0])),
      {"reduction": "none"})
G.finish()
