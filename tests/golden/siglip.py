#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of siglip."""
from tape import NAN, Golden, Tensor, dot, empty, nested, num, prefixed, softplus, total, unit


def definition(x, options):
    a, b = x["a"], x["b"]
    (B, _), (M, _) = a.shape, b.shape
    eps = float(options.get("cos_eps", 1e-8))
    cosine = options.get("normalize", "true") == "true"
    h = [[unit(t[i], eps) if cosine else t[i] for i in range(t.shape[0])] for t in (a, b)]
    scale = x["scale"].data[0] if "scale" in x else num(float(options.get("scale", 10)))
    bias = x["bias"].data[0] if "bias" in x else num(float(options.get("bias", -10)))
    terms = []
    for i in range(B):
        for j in range(M):
            together = x["positive"][i, j] if "positive" in x else i == j
            z = scale * dot(h[0][i], h[1][j]) + bias
            terms.append(softplus(-z if together else z))
    d = float(options.get("num_items", B))
    value = total(terms)
    return {"loss": Tensor([], [value / d if d else empty(value, options)])}


def largest(inputs, options):
    """Z: what similarities and scores are made of."""
    scale = abs(inputs["scale"].data[0] if "scale" in inputs else float(options.get("scale", 10)))
    bias = abs(inputs["bias"].data[0] if "bias" in inputs else float(options.get("bias", -10)))
    if options.get("normalize", "true") == "true":
        return scale + bias
    most = [max([abs(v) for v in inputs[n].data if v == v], default=0) for n in "ab"]
    return scale * most[0] * most[1] * inputs["a"].shape[1] ** 0.5 + bias


G = Golden("siglip", ("a", "b", "scale", "bias"), prefixed(definition, ("a", "b")), largest)
A, B = [[1.0, 0.0], [1.0, 2.0]], [[1.0, 1.0], [2.0, 1.0]]


def some(rows, columns, width, *others, kind="float", spread=1.5):
    def fill(d):
        inputs = {"a": d.normal(rows, width, dtype=kind, spread=spread),
                  "b": d.normal(columns, width, dtype=kind, spread=spread)}
        if "positive" in others:
            inputs["positive"] = d.flags(rows, columns, share=0.3, dtype="u8" if rows % 2 else "bool")
        if "scale" in others:
            inputs["scale"] = d.between(0.5, 4, dtype=kind)
        if "bias" in others:
            inputs["bias"] = d.between(-3, 0.5, dtype=kind)
        if "up" in others:
            inputs["grad_output"] = d.between(0.25, 2)
        return inputs
    return fill


learned = {"a": nested(A), "b": nested(B), "scale": nested(10.0), "bias": nested(-10.0)}
G.put("check", {"a": nested(A), "b": nested(B)}, {}, loss=2.937818791,
      grad_a=[[0.0, -2.778946009], [-0.8201326366, 0.4100663183]])
G.put("check/learned", learned, {}, grad_scale=-0.3948766617, grad_bias=-0.59873864)
mild = {"scale": 2, "bias": -1}
for n, (rows, columns, width) in enumerate(((1, 1, 3), (3, 3, 4), (2, 5, 3), (5, 2, 3), (4, 19, 2), (18, 3, 2))):
    others, least = ("positive",) if rows != columns else (), 0.1 if rows * columns < 30 else 0.02
    G.draw(f"shape/{rows}x{columns}", some(rows, columns, width, *others), mild, least=least)
    G.draw(f"shape/{rows}x{columns}-learned", some(rows, columns, width, "positive", "scale", "bias", "up"), {}, least=least)
    G.draw(f"shape/{rows}x{columns}-dot", some(rows, columns, width, "positive", "up", spread=0.75),
           {**mild, "normalize": False}, least=least)
for n, (dims, o) in enumerate((("2,4", {}), ("1,2,4", {"dim_weights": "1,0.5,0.25"}), ("3", {"normalize": False}),
                               ("2,3", {"dim_weights": "0,2", "num_items": 5}))):
    G.draw(f"dims/{n}", some(3, 2, 4, "positive", "up"), {**mild, "dims": dims, **o}, least=0.03)
    if "normalize" not in o:
        G.draw(f"dims/{n}-learned", some(2, 3, 4, "positive", "scale", "bias", "up"), {"dims": dims, **o}, least=0.03)
G.draw("scale-alone", some(3, 3, 3, "scale"), {"bias": -2})
G.draw("bias-alone", some(3, 3, 3, "bias"), {"scale": 3})
G.draw("negative-scale", some(2, 2, 3), {"scale": -2, "bias": 0.5})
G.draw("items", some(2, 2, 3, "up"), {**mild, "num_items": 7})
G.draw("wide", some(2, 2, 37), mild)
G.draw("eps", some(2, 2, 3), {**mild, "cos_eps": 4})
for kind in ("f32", "f16", "bf16"):
    G.draw(f"type/{kind}", some(2, 3, 3, "positive", "scale", "bias", kind=kind), {})
for how in ("zero", "nan"):
    G.put(f"empty/batch-{how}", {"a": Tensor([0, 2], [], "f64"), "b": Tensor([0, 2], [], "f64")}, {"empty_mean": how})
    G.put(f"empty/items-{how}", {"a": nested(A), "b": nested(B)}, {"num_items": 0, "empty_mean": how},
          want=("loss", "grad.a", "grad.b"))
G.put("empty/columns", {"a": nested(A), "b": Tensor([0, 2], [], "f64"), "positive": Tensor([2, 0], [], "bool")}, {})
G.put("weight-0", {"a": nested(A), "b": nested(B), "grad_output": nested(0.0)}, {})
G.put("nan", {"a": nested([[1.0, 2.0], [NAN, 1.0]], "float"), "b": nested(B, "float")}, mild, want=("loss",))
G.finish()
