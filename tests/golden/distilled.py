#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of options of distillation (teacher_temperature, vocab_size) and of topk_distillation (divergence, beta,
logprob_floor)."""
import math
import pathlib

from tape import INF, NAN, Golden, Num, Tensor, absolute, counted, exp, log, lse, nested, reduce, total

X = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]


def log_softmax(z):
    top = lse(z)
    return [v - top for v in z]


def kl(p, lp, lq):
    """sum p (log p - log q); terms with p = 0 are 0."""
    return total([a * (b - c) for a, b, c in zip(p, lp, lq) if a.v > 0])


def mix(beta, lq, lp):
    return [lse([a + math.log(beta), b + math.log(1 - beta)]) for a, b in zip(lq, lp)]


def divergence(kind, beta, lp, lq):
    """Of the student's distribution p from the teacher's q."""
    p, q = [exp(v) for v in lp], [exp(v) for v in lq]
    if kind == "jsd" and beta in (0, 1):
        kind = "reverse_kl" if beta else "forward_kl"
    if kind == "forward_kl":
        return kl(q, lq, lp)
    if kind == "reverse_kl":
        return INF_NUM if any(a.v > 0 and b.v == -INF for a, b in zip(p, lq)) else kl(p, lp, lq)
    if kind == "mixed":
        return kl(q, lq, lp) * beta + kl(p, lp, lq) * (1 - beta)
    if kind == "tvd":
        return total([absolute(a - b) for a, b in zip(p, q)]) * 0.5
    lm = mix(beta, lq, lp)
    if kind == "skew_forward_kl":
        return kl(q, lq, lm)
    return kl(q, lq, lm) * beta + kl(p, lp, lm) * (1 - beta)


INF_NUM = Num(INF)


def rows_of(x, o, value):
    """The loss of rows, those that a mask leaves out 0."""
    shape = x["student_logits"].shape[:-1]
    rows, count = [], 0
    for i in range(math.prod(shape)):
        index = []
        for n in reversed(shape):
            index.insert(0, i % n if not index else i // math.prod(shape[len(shape) - len(index):]) % n)
        if not counted(x, "mask", tuple(index)):
            rows.append(Num(0))
            continue
        count += 1
        rows.append(value(tuple(index)))
    return {"loss": reduce((shape, rows), o, count)}


def distillation(x, o):
    tau = float(o.get("temperature", 1))
    other = float(o.get("teacher_temperature", tau))
    factor = tau * tau if o.get("scale_by_t2", "true") == "true" else 1.0
    kind, beta = o.get("divergence", "forward_kl"), float(o.get("beta", 0.5))
    n = int(o.get("vocab_size", x["student_logits"].shape[-1]))

    def value(i):
        s = x["student_logits"][i][:n]
        if kind == "mse_logits":
            t = x["teacher_logits"][i][:n]
            return total([(a - b) * (a - b) for a, b in zip(s, t)]) / n
        if "teacher_logits" in x:
            lq = log_softmax([Num(v) / other for v in x["teacher_logits"][i][:n]])
        elif "teacher_logprobs" in x:
            lq = [Num(v) for v in x["teacher_logprobs"][i]]
        else:
            lq = [log(Num(v)) for v in x["teacher_probs"][i]]
        return divergence(kind, beta, log_softmax([v / tau for v in s]), lq) * factor

    return rows_of(x, o, value)


def topk_distillation(x, o):
    tau, tail = float(o.get("temperature", 1)), o.get("tail", "renormalize")
    factor = tau * tau if o.get("scale_by_t2", "true") == "true" else 1.0
    kind, beta = o.get("divergence", "forward_kl"), float(o.get("beta", 0.5))

    def value(i):
        l = log_softmax([v / tau for v in x["student_logits"][i]])
        ids, given = x["teacher_ids"][i], x["teacher_logprobs"][i]
        listed = [(j, Num(v)) for j, v in zip(ids, given) if j >= 0]
        if not listed:
            return Num(0)
        mass = lse([v for _, v in listed])
        if tail in ("renormalize", "conditional"):
            listed = [(j, v - mass) for j, v in listed]
        lq, lp = [v for _, v in listed], [l[j] for j, _ in listed]
        if "logprob_floor" in o:
            f = float(o["logprob_floor"])
            return total([exp(a) * (a - (b if b.v >= f else f)) for a, b in zip(lq, lp)]) * factor
        if tail == "conditional":
            top = lse(lp)
            lp = [v - top for v in lp]
        rest = [v for j, v in enumerate(l) if j not in ids]
        if tail == "tail" and rest:
            lp = lp + [lse(rest)]
            lq = lq + [log(1 - exp(mass))]
        return divergence(kind, beta, lp, lq) * factor

    return rows_of(x, o, value)


def scale(inputs, o):
    most = max([abs(v) for k, t in inputs.items() if k.endswith("logits") for v in t.data if abs(v) < INF], default=1)
    return max(1.0, most / min(1.0, float(o.get("temperature", 1)), float(o.get("teacher_temperature", 1))))


FULL = Golden("distillation", ("student_logits",), distillation, scale)
TOP = Golden("topk_distillation", ("student_logits",), topk_distillation, scale)
KINDS = ("forward_kl", "reverse_kl", "jsd", "tvd", "skew_forward_kl")


def full(lead, v, u, teacher="teacher_logits", kind="float", reduction="mean", mask=False):
    def fill(d):
        inputs = {"student_logits": d.normal(*lead, v, dtype=kind)}
        own = kind if kind != "float" else "f64"
        t = d.normal(*lead, u, dtype="float" if kind == "float" else kind)
        if teacher != "teacher_logits":
            rows = []
            for at in range(0, len(t.data), u):
                l = [n.v for n in log_softmax([Num(x) for x in t.data[at:at + u]])]
                rows += l if teacher == "teacher_logprobs" else [math.exp(x) for x in l]
            t = Tensor(t.shape, rows, "f64")
        inputs[teacher] = t
        if mask:
            inputs["mask"] = d.flags(*lead)
        inputs["grad_output"] = d.between(0.25, 2, *(lead if reduction == "none" else ()))
        return inputs
    return fill


def draw(golden, name, fill, options, want=None):
    """Terms of a mixture's slopes always cancel: as little as can be had."""
    hard = any(word in name for word in ("jsd", "skew", "wide", "all"))
    for least in (0,) if hard else (0.05, 0.01, 0):
        try:
            return golden.draw(name, fill, options, want, least)
        except AssertionError:
            continue
    raise AssertionError(name)


def distillations():
    FULL.put("vocab/check", {"student_logits": nested(X), "teacher_logits": nested([[0.5, 0.1, -0.4, 2.0], [1.5, -0.2, 0.3, 0.0]])},
             {"vocab_size": "2", "temperature": "2", "teacher_temperature": "1"}, loss=0.145807734,
             grad_student_logits=[[0.1323709185, -0.1323709185, 0.0], [-0.1047598357, 0.1047598357, 0.0]])
    for kind in KINDS:
        for reduction in ("none", "mean"):
            o = {"divergence": kind, "reduction": reduction}
            draw(FULL, f"teacher-temperature/{kind}/{reduction}", full((3,), 4, 4, reduction=reduction),
                      {**o, "temperature": "2", "teacher_temperature": "0.5"})
            draw(FULL, f"vocab/{kind}/{reduction}", full((2, 2), 5, 7, reduction=reduction, mask=True), {**o, "vocab_size": "4"})
        draw(FULL, f"teacher-temperature/{kind}/default", full((2,), 5, 5), {"divergence": kind, "teacher_temperature": "2"})
        draw(FULL, f"teacher-temperature/{kind}/wide", full((1,), 67, 67),
                  {"divergence": kind, "teacher_temperature": "3", "temperature": "1.5", "scale_by_t2": "false"})
        draw(FULL, f"vocab/{kind}/wide", full((2,), 90, 71), {"divergence": kind, "vocab_size": "70"})
        draw(FULL, f"vocab/{kind}/same", full((3,), 5, 5), {"divergence": kind, "vocab_size": "3", "beta": "0.25"})
        draw(FULL, f"vocab/{kind}/logprobs", full((2,), 6, 4, "teacher_logprobs", "f64"), {"divergence": kind, "vocab_size": "4"})
        draw(FULL, f"vocab/{kind}/probs", full((2,), 6, 4, "teacher_probs", "f64"), {"divergence": kind, "vocab_size": "4"})
    draw(FULL, "vocab/mse", full((2,), 5, 4), {"divergence": "mse_logits", "vocab_size": "3"})
    draw(FULL, "vocab/all", full((2,), 4, 4), {"vocab_size": "4"})
    draw(FULL, "vocab/one", full((2,), 4, 4), {"vocab_size": "1"}, want=("loss",))
    for kind in ("f32", "f16", "bf16"):
        draw(FULL, f"teacher-temperature/{kind}", full((2,), 5, 5, kind=kind), {"teacher_temperature": "0.5"})
        draw(FULL, f"vocab/{kind}", full((2,), 5, 40, kind=kind), {"vocab_size": "5"})
    beyond = {"student_logits": nested([[1.0, 2.0, NAN]], "float"), "teacher_logits": nested([[0.5, -1.0, INF, NAN]], "float")}
    FULL.put("vocab/not-read", beyond, {"vocab_size": "2"})


def top(lead, v, k, kind="float", reduction="mean", mask=False, absent=False):
    def fill(d):
        rows = math.prod(lead)
        ids, given = [], []
        for _ in range(rows):
            l = [n.v for n in log_softmax([Num(x) for x in d.normal(v).data])]
            chosen = d.random.sample(range(v), k)
            ids += [-1 if absent and d.random.random() < 0.3 else j for j in chosen]
            given += [l[j] for j in chosen]
        inputs = {"student_logits": d.normal(*lead, v, dtype=kind), "teacher_ids": Tensor([*lead, k], ids, "i64"),
                  "teacher_logprobs": Tensor([*lead, k], given, "f64")}
        if kind == "float":
            inputs["teacher_logprobs"] = Tensor([*lead, k], [math.floor(x * 16) / 16 for x in given], "float")
        if mask:
            inputs["mask"] = d.flags(*lead)
        inputs["grad_output"] = d.between(0.25, 2, *(lead if reduction == "none" else ()))
        return inputs
    return fill


def topks():
    row = {"student_logits": nested(X[:1]), "teacher_ids": nested([[0, 1]], "i64"),
           "teacher_logprobs": nested([[-0.7308714408, -1.1308714408]])}
    for tail, kind, value in (("conditional", "reverse_kl", 0.1953625661), ("conditional", "jsd", 0.05388919684),
                              ("conditional", "mixed", 0.2256875343), ("tail", "jsd", 0.04796685164)):
        TOP.put(f"check/{tail}-{kind}", row, {"tail": tail, "divergence": kind}, loss=value)
    TOP.put("check/tail-reverse_kl", row, {"tail": "tail", "divergence": "reverse_kl"}, loss=0.1795686722,
            grad_student_logits=[[0.2087777971, -0.1360343477, -0.07274344934]])
    TOP.put("check/floor", row, {"tail": "truncated", "logprob_floor": "-2"}, loss=0.06155962939,
            grad_student_logits=[[-0.1161763595, 0.04943971916, 0.06673664035]])
    for tail in ("conditional", "tail"):
        for kind in ("reverse_kl", "jsd", "mixed"):
            o = {"tail": tail, "divergence": kind}
            for reduction in ("none", "mean"):
                draw(TOP, f"{tail}/{kind}/{reduction}", top((3,), 6, 3, reduction=reduction), {**o, "reduction": reduction})
            for beta in ("0", "0.125", "1"):
                draw(TOP, f"{tail}/{kind}/beta-{beta}", top((2,), 5, 3), {**o, "beta": beta, "temperature": "2"})
            draw(TOP, f"{tail}/{kind}/absent", top((2, 2), 6, 4, mask=True, absent=True), o)
            draw(TOP, f"{tail}/{kind}/wide", top((2,), 70, 5), {**o, "scale_by_t2": "false", "temperature": "0.5"})
            draw(TOP, f"{tail}/{kind}/f32", top((2,), 5, 2, "f32"), o)
            draw(TOP, f"{tail}/{kind}/all", top((2,), 3, 3, "f64"), o)
    for tail in ("renormalize", "truncated"):
        for floor in ("-0.5", "-1.5", "-2.5", "-20"):
            o = {"tail": tail, "logprob_floor": floor}
            draw(TOP, f"floor/{tail}{floor}", top((3,), 6, 4), o)
            draw(TOP, f"floor/{tail}{floor}/none", top((3,), 9, 3, reduction="none", absent=True),
                     {**o, "reduction": "none", "temperature": "2"})
        draw(TOP, f"floor/{tail}/wide", top((1,), 67, 5), {"tail": tail, "logprob_floor": "-4"})
        draw(TOP, f"floor/{tail}/bf16", top((2,), 5, 3, "bf16"), {"tail": tail, "logprob_floor": "-1"})


distillations()
topks()
path = pathlib.Path(__file__).with_name("distilled.jsonl")
path.write_text("".join(line + "\n" for g in (FULL, TOP) for line in g.lines), encoding="ascii")
print(f"distilled: {len(FULL.lines) + len(TOP.lines)} cases, {path.stat().st_size} bytes")
