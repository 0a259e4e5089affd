#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of margin_mse."""
from tape import NAN, INF, Golden, Num, Tensor, counted, dot, nested, prefixed, reduce, unit


def definition(x, options):
    a, p, n = x["anchors"], x["positives"], x["negatives"]
    (B, K, _), cosine = n.shape, options.get("similarity") == "cosine"
    eps = float(options.get("cos_eps", 1e-8))
    if "target" in x:
        y = lambda b, k: x["target"][b, k]
    else:
        y = lambda b, k: x["teacher_scores"][b, 0] - x["teacher_scores"][b, k + 1]
    as_is = lambda v: unit(v, eps) if cosine else v
    rows, count = [], 0
    for b in range(B):
        for k in range(K):
            if not counted(x, "mask", (b, k)):
                rows.append(Num(0))
                continue
            s = [dot(as_is(a[b]), as_is(v)) for v in (p[b], n[b, k])]
            e = s[0] - s[1] - y(b, k)
            rows.append(e * e)
            count += 1
    return {"loss": reduce(([B, K], rows), options, count)}


def largest(inputs, options):
    if options.get("similarity") == "cosine":
        return 1
    most = [max([abs(v) for v in inputs[n].data if abs(v) < INF], default=0) for n in ("anchors", "positives", "negatives")]
    return most[0] * max(most[1:]) * max(1, inputs["anchors"].shape[1]) ** 0.5


EMBEDDINGS = ("anchors", "positives", "negatives")
G = Golden("margin_mse", EMBEDDINGS, prefixed(definition, EMBEDDINGS), largest)


def some(B, K, D, *others, kind="float", reduction="mean"):
    def fill(d):
        inputs = {"anchors": d.normal(B, D, dtype=kind), "positives": d.normal(B, D, dtype=kind),
                  "negatives": d.normal(B, K, D, dtype=kind)}
        if "scores" in others:
            inputs["teacher_scores"] = d.normal(B, K + 1, dtype="float" if kind == "float" else "f32")
        else:
            inputs["target"] = d.normal(B, K, dtype="float" if kind == "float" else "f32")
        if "mask" in others:
            inputs["mask"] = d.flags(B, K, dtype="u8" if B % 2 else "bool")
        if "up" in others:
            inputs["grad_output"] = d.between(0.25, 2, *((B, K) if reduction == "none" else ()))
        return inputs
    return fill


def given(kind="f64", **others):
    inputs = {"anchors": nested([[1.0, 0.0], [1.0, 2.0]], kind), "positives": nested([[1.0, 1.0], [2.0, 1.0]], kind),
              "negatives": nested([[[0.0, 1.0]], [[-1.0, 1.0]]], kind), "target": nested([[0.5], [2.0]], kind)}
    inputs.update(others)
    return inputs


G.put("check/dot", given(), {}, loss=0.625, grad_anchors=[[0.5, 0.0], [3.0, 0.0]])
G.put("check/cosine", given(), {"similarity": "cosine"}, loss=1.170919929)
for similarity in ("dot", "cosine"):
    for reduction in ("none", "sum", "mean"):
        o = {"similarity": similarity, "reduction": reduction}
        G.draw(f"{similarity}/{reduction}", some(2, 3, 4), o)
        G.draw(f"{similarity}/{reduction}-all", some(3, 2, 5, "scores", "mask", "up", reduction=reduction), o)
    G.draw(f"{similarity}/items", some(2, 2, 3, "up"), {"similarity": similarity, "num_items": "7"})
    G.draw(f"{similarity}/wide", some(1, 1, 19), {"similarity": similarity})
    G.draw(f"{similarity}/many", some(1, 9, 2, "mask"), {"similarity": similarity, "reduction": "none"})
for kind in ("f32", "f16", "bf16"):
    G.draw(f"type/{kind}", some(2, 2, 3, "scores", kind=kind), {})
for similarity in ("dot", "cosine"):
    for n, (dims, o) in enumerate((("2,4", {}), ("1,2,4", {"dim_weights": "1,-0.5,0.25"}), ("3", {"reduction": "none"}),
                                   ("2,3", {"dim_weights": "0,2", "reduction": "sum"}))):
        o = {"similarity": similarity, "dims": dims, **o}
        G.draw(f"dims/{similarity}-{n}", some(1, 2, 4, "mask", "up", reduction=o.get("reduction")), o)
G.draw("eps", some(2, 1, 3), {"similarity": "cosine", "cos_eps": "8"})
masked = given(mask=nested([[0], [1]], "u8"))
masked["negatives"] = nested([[[NAN, INF]], [[-1.0, 1.0]]])
G.put("masked/not-read", masked, {"reduction": "none"})
none = nested([[False], [False]], "bool")
for empty in ("zero", "nan"):
    G.put(f"empty/masked-{empty}", given(mask=none), {"empty_mean": empty})
    G.put(f"empty/no-negatives-{empty}", given(negatives=Tensor([2, 0, 2], [], "f64"), target=Tensor([2, 0], [], "f64")),
          {"empty_mean": empty})
nothing = {"anchors": Tensor([0, 2], [], "f64"), "positives": Tensor([0, 2], [], "f64"),
           "negatives": Tensor([0, 3, 2], [], "f64"), "target": Tensor([0, 3], [], "f64")}
for reduction in ("none", "sum", "mean"):
    G.put(f"empty/batch-{reduction}", nothing, {"reduction": reduction})
G.put("weight-0", given(grad_output=nested([[0.0], [1.0]])), {"reduction": "none"})
nan = given("float")
nan["positives"] = nested([[1.0, NAN], [2.0, 1.0]], "float")
outputs, _ = G.evaluate(nan, {"reduction": "none"})
outputs["grad.anchors"].data[:2] = outputs["grad.positives"].data[:2] = outputs["grad.negatives"].data[:2] = [NAN, NAN]
G.add("nan", nan, {"reduction": "none"}, outputs, None)
G.finish()
