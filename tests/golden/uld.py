#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of uld."""
from tape import INF, NAN, Golden, Num, Tensor, absolute, counted, exp, lse, nested, num, reduce, total


def definition(x, options):
    student = x["student_logits"]
    *lead, V = student.shape
    tau = float(options.get("temperature", 1))
    teacher_tau = float(options.get("teacher_temperature", tau))
    rows, count = [], 0
    indices = [()]
    for n in lead:
        indices = [i + (k,) for i in indices for k in range(n)]
    for i in indices:
        if not counted(x, "mask", i):
            rows.append(Num(0))
            continue
        count += 1
        z = [v / tau for v in (student[i] if i else student.data)]
        order = sorted(range(V), key=lambda k: (-z[k].v, k))
        norm = lse(z)
        p = [exp(z[k] - norm) if z[k].v > -INF else Num(0) for k in order]
        if "teacher_probs" in x:
            q = x["teacher_probs"][i] if i else x["teacher_probs"].data
        else:
            y = [num(v) / teacher_tau for v in (x["teacher_logits"][i] if i else x["teacher_logits"].data)]
            norm = lse(y)
            q = [exp(v - norm).v for v in y]
        q = sorted(q, reverse=True)
        n = max(len(p), len(q))
        p, q = p + [num(0)] * (n - len(p)), q + [0.0] * (n - len(q))
        rows.append(total([absolute(a - b) for a, b in zip(p, q)]))
    return {"loss": reduce((lead, rows), options, count)}


def largest(inputs, options):
    """Z of every row."""
    tau = min(float(options.get("temperature", 1)), float(options.get("teacher_temperature", 1e9)))
    x = inputs["student_logits"]
    return max([abs(v) for t in inputs.values() if t.dtype in ("float", "f64", "f32", "f16", "bf16")
                for v in t.data if abs(v) < INF], default=0) / min(tau, 1)


G = Golden("uld", ("student_logits",), definition, largest)
X, T = [1.2, -0.8, -0.5], [0.5, 0.1, -0.4, 1.0]


def some(lead, V, W, *others, kind="float", reduction="mean"):
    def fill(d):
        inputs = {"student_logits": d.normal(*lead, V, dtype=kind)}
        if "probs" in others:
            shares = d.integers(0, 256 // W, *lead, W).data
            inputs["teacher_probs"] = Tensor([*lead, W], [v / 256 for v in shares], kind)
        else:
            inputs["teacher_logits"] = d.normal(*lead, W, dtype="float" if kind == "float" else "f32")
        if "mask" in others:
            inputs["mask"] = d.flags(*lead, dtype="u8" if V % 2 else "bool")
        if "up" in others:
            inputs["grad_output"] = d.between(0.25, 2, *(lead if reduction == "none" else ()))
        return inputs
    return fill


G.put("check", {"student_logits": nested([X]), "teacher_logits": nested([T])}, {}, loss=0.632354726,
      grad_student_logits=[[0.3661335996, -0.1558108931, -0.2103227064]])
for reduction in ("none", "sum", "mean"):
    o = {"reduction": reduction}
    G.draw(f"logits/{reduction}", some((3,), 4, 6), o)
    G.draw(f"logits/{reduction}-all", some((2, 2), 5, 3, "mask", "up", reduction=reduction),
           {**o, "temperature": 2, "teacher_temperature": 0.5})
    G.draw(f"probs/{reduction}-all", some((3, 2), 4, 5, "probs", "mask", "up", reduction=reduction),
           {**o, "temperature": 1.5})
G.draw("rank-1", some((), 4, 4), {})
G.draw("items", some((3,), 4, 5, "mask"), {"num_items": 7})
for V, W in ((1, 3), (17, 16), (16, 33), (70, 64), (100, 300)):
    G.draw(f"size/{V}-{W}", some((1,), V, W, "up"), {}, least=0.01 if V > 1 else 0)
for kind in ("f32", "f16", "bf16"):
    G.draw(f"type/{kind}", some((2,), 4, 5, "up", kind=kind), {})
G.put("equal-scores", {"student_logits": nested([[0.5, 1.0, 0.5, 0.5]]), "teacher_logits": nested([[0.25, 2.0, -1.0, 0.75]])},
      {})
G.put("impossible", {"student_logits": nested([[0.5, -INF, 1.0]], "float"), "teacher_logits": nested([[0.25, 2.0, -INF, 0.75]])})
masked = {"student_logits": nested([X, [NAN, INF, 0.0]]), "teacher_logits": nested([T, [NAN] * 4]), "mask": nested([1, 0], "u8")}
G.put("masked/not-read", masked, {"reduction": "none"})
for how in ("zero", "nan"):
    G.put(f"empty/masked-{how}", {**masked, "mask": nested([0, 0], "u8")}, {"empty_mean": how})
    G.put(f"empty/no-rows-{how}", {"student_logits": Tensor([0, 3], [], "f64"), "teacher_logits": Tensor([0, 2], [], "f64")},
          {"empty_mean": how})
G.put("weight-0", {"student_logits": nested([X, X]), "teacher_logits": nested([T, T]), "grad_output": nested([0.0, 1.0])},
      {"reduction": "none"})
for name, row in (("nan", [0.5, NAN, 1.0]), ("inf", [0.5, INF, 1.0]), ("all-impossible", [-INF] * 3)):
    inputs = {"student_logits": nested([[0.5, 0.25, 1.0], row], "float"), "teacher_logits": nested([[1.0, 2.0], [0.5, 1.0]])}
    fine = {**inputs, "student_logits": nested([[0.5, 0.25, 1.0], [0.5, 0.25, 1.0]], "float")}
    outputs, _ = G.evaluate(fine, {"reduction": "none"})
    outputs["loss"].data[1], outputs["grad.student_logits"].data[3:] = NAN, [NAN] * 3
    G.add(name, inputs, {"reduction": "none"}, outputs, None)
G.finish()
