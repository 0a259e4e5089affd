#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of late_interaction."""
from tape import INF, NAN, Golden, Num, Tensor, counted, dot, exp, log, lse, nested, num, prefixed, reduce, total, unit


def definition(x, options):
    q, d = x["queries"], x["documents"]
    (B, T, _), (M, U, _) = q.shape, d.shape
    form, s = options.get("form", "contrastive"), float(options.get("scale", 1))
    cosine, eps = options.get("normalize") == "true", float(options.get("cos_eps", 1e-8))
    as_is = lambda v: unit(v, eps) if cosine else v
    tokens = [[u for u in range(U) if counted(x, "document_mask", (j, u))] for j in range(M)]
    rows, scores, count = [], [], 0
    for i in range(B):
        mine = [t for t in range(T) if counted(x, "query_mask", (i, t))]
        there = [j for j in range(M) if tokens[j] and counted(x, "candidate_mask", (i, j))]
        S = {}
        for j in there:
            best = []
            for t in mine:
                near = [dot(as_is(q[i, t]), as_is(d[j, u])) for u in tokens[j]]
                order = sorted(range(len(near)), key=lambda k: (near[k].v == near[k].v, -near[k].v, k))  # NaN, then the greatest
                best.append(near[order[0]])
            S[j] = total(best) / (len(mine) or 1) if options.get("length_normalize") == "true" else total(best)
        scores += [S[j].v if j in S else 0.0 for j in range(M)]
        y = x["positive_index"].data[i] if "positive_index" in x else i
        if not mine or (form == "margin_mse" and len(there) < 2):
            rows.append(Num(0))
            continue
        count += 1
        if form == "contrastive":
            rows.append(lse([S[j] * s for j in there]) - S[y] * s)
        elif form == "distill":
            tau = float(options.get("teacher_temperature", 1))
            known = {j: num(x["teacher_scores"][i, j]) / tau for j in there}
            norms = lse(list(known.values())), lse([S[j] * s for j in there])
            logs = [(known[j] - norms[0], S[j] * s - norms[1]) for j in there]
            rows.append(total([exp(a).v * (a - b) for a, b in logs]) / (s * s))
        else:
            known = {j: x["teacher_scores"][i, j] for j in there}
            e = [S[y] - S[j] - (known[y] - known[j]) for j in there if j != y]
            rows.append(total([v * v for v in e]) / len(e))
    return {"loss": reduce(([B], rows), options, count), "scores": Tensor([B, M], scores)}


def largest(inputs, options):
    """Z: the scores' size, a sum of as many similarities as a query has tokens."""
    q, d = inputs["queries"], inputs["documents"]
    most = [max([abs(v) for v in t.data if abs(v) < INF], default=0) for t in (q, d)]
    one = 1 if options.get("normalize") == "true" else most[0] * most[1] * max(1, q.shape[2]) ** 0.5
    return max(1, float(options.get("scale", 1))) * one * max(1, q.shape[1])


EMBEDDINGS = ("queries", "documents")
G = Golden("late_interaction", EMBEDDINGS, prefixed(definition, EMBEDDINGS), largest)
Q = [[[1.6, -0.6], [-0.5, -1.1]], [[0.9, -2.3], [1.7, -0.8]]]
D = [[[0.3, -0.2], [1.5, -2.1]], [[-0.3, -0.4], [1.1, -1.1]], [[-0.2, -0.9], [0.0, 0.6]]]
Y = [[3.0, 1.0, 0.0], [2.0, 5.0, 1.0]]


def some(B, T, M, U, width, *others, kind="float", reduction="mean", teacher=False):
    def fill(d):
        inputs = {"queries": d.normal(B, T, width, dtype=kind, spread=0.75),
                  "documents": d.normal(M, U, width, dtype=kind, spread=0.75)}
        if "masks" in others:
            inputs["query_mask"] = d.flags(B, T, dtype="u8" if T % 2 else "bool")
            inputs["document_mask"] = d.flags(M, U, share=0.8, dtype="bool" if T % 2 else "u8")
            inputs["query_mask"].data[0] = inputs["document_mask"].data[0] = 1 if T % 2 else True
            for j in range(M):
                inputs["document_mask"].data[j * U + U - 1] = True if T % 2 else 1
        if "index" in others:
            inputs["positive_index"] = d.integers(0, M, B, dtype="i32" if B % 2 else "i64")
        if "candidates" in others:
            inputs["candidate_mask"] = d.flags(B, M, share=0.75)
            for i in range(B):
                y = inputs["positive_index"].data[i] if "index" in others else i
                inputs["candidate_mask"].data[i * M + y] = True
        if teacher:
            inputs["teacher_scores"] = d.normal(B, M, dtype="float" if kind == "float" else "f32")
        if "up" in others:
            inputs["grad_output"] = d.between(0.25, 2, *((B,) if reduction == "none" else ()))
        return inputs
    return fill


def given(kind="f64", **others):
    return {"queries": nested(Q, kind), "documents": nested(D, kind), **others}


G.put("check/contrastive", given(), {}, loss=2.142544513, scores=[[5.22, 3.08, 1.31], [10.41, 6.27, 2.27]],
      grad_queries=[[[-0.03565576208, 0.06227653345], [-0.03565576208, 0.06227653345]],
                    [[0.1966223057, -0.4919934146], [0.1966223057, -0.4919934146]]],
      grad_documents=[[[0.0, 0.0], [1.212690957, -1.422392993]], [[0.0, 0.0], [-1.222752285, 1.437810566]],
                      [[0.0100613279, -0.01541757324], [0.0, 0.0]]])
G.put("check/distill", given(teacher_scores=nested(Y)), {"form": "distill"}, loss=1.885380733)
G.put("check/margin_mse", given(teacher_scores=nested(Y)), {"form": "margin_mse"}, loss=12.956825)
for form in ("contrastive", "distill", "margin_mse"):
    for reduction in ("none", "sum", "mean"):
        o = {"form": form, "reduction": reduction, "scale": 0.5, "teacher_temperature": 2}
        if reduction == "none":
            G.draw(f"{form}/plain", some(2, 2, 3, 3, 3, teacher=form != "contrastive"), o, least=0.03)
        G.draw(f"{form}/{reduction}-all", some(2, 3, 4, 2, 2, "masks", "index", "candidates", "up",
                                              reduction=reduction, teacher=True),
               {**o, "length_normalize": True}, least=0.03)
    G.draw(f"{form}/cosine", some(2, 2, 2, 3, 4, "up", teacher=True),
           {"form": form, "normalize": True, "scale": 2, "num_items": 5}, least=0.03)
for form in ("contrastive", "distill", "margin_mse"):
    for n, (dims, o) in enumerate((("2,4", {"normalize": True}), ("1,3", {"dim_weights": "1,0.5"}))):
        G.draw(f"dims/{form}-{n}", some(1, 2, 3, 2, 4, "masks", "up", teacher=True),
               {"form": form, "dims": dims, "scale": 0.5, **o}, least=0.02)
G.draw("cos-eps", some(1, 2, 2, 2, 3), {"normalize": True, "cos_eps": 4}, least=0.01)
G.draw("one-of-each", some(1, 1, 1, 1, 3, teacher=True), {"form": "distill"}, least=0)
G.draw("tokens/17", some(1, 2, 2, 17, 2), {"scale": 0.5}, least=0)
G.draw("tokens/33", some(1, 17, 1, 33, 1, teacher=True), {"form": "distill"}, least=0, want=("loss", "scores"))
for kind in ("f32", "f16", "bf16"):
    G.draw(f"type/{kind}", some(2, 2, 2, 2, 2, kind=kind), {}, least=0.01)
tie = {"queries": nested([[[1.0, 0.0]]]), "documents": nested([[[0.5, 1.0], [0.5, -1.0], [0.25, 0.0]], [[0.0, 1.0], [1.0, 2.0], [1.0, 1.0]]])}
G.put("tie/lowest", tie, {})
hidden = given(query_mask=nested([[1, 0], [1, 1]], "u8"), document_mask=nested([[False, True], [True, True], [True, False]], "bool"))
hidden["queries"], hidden["documents"] = nested([[Q[0][0], [NAN, INF]], Q[1]]), nested([[[NAN, NAN], D[0][1]], D[1], [D[2][0], [INF, 1.0]]])
G.put("masked/not-read", hidden, {})
G.put("masked/a-query", given(query_mask=nested([[0, 0], [1, 1]], "u8")), {"reduction": "none"})
G.put("masked/a-document", given(document_mask=nested([[1, 1], [1, 1], [0, 0]], "u8")), {})
for how in ("zero", "nan"):
    G.put(f"empty/queries-{how}", given(query_mask=nested([[0, 0], [0, 0]], "u8")), {"empty_mean": how})
    G.put(f"empty/batch-{how}", {"queries": Tensor([0, 2, 2], [], "f64"), "documents": nested(D)}, {"empty_mean": how})
    G.put(f"empty/negatives-{how}", {"queries": nested([Q[0]]), "documents": nested([D[0]]), "teacher_scores": nested([[1.0]])},
          {"form": "margin_mse", "empty_mean": how})
G.put("empty/no-candidate", given(candidate_mask=nested([[0, 0, 0], [1, 1, 1]], "u8"), teacher_scores=nested(Y)), {"form": "distill"})
G.put("weight-0", given(grad_output=nested([0.0, 1.0])), {"reduction": "none"})
far = given()
far["documents"] = nested([D[0], [[NAN, 1.0], [1.0, 1.0]], D[2]])
G.put("nan", far, {"reduction": "none"}, want=("loss",))
G.finish()
