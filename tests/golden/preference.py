#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses on pairs and on single labelled completions.

Each loss is one function that states, per row, the value and the closed form of its gradients; torch
differentiates the value and must agree with the closed form wherever the row is smooth and finite.
The closed form is what is written: it keeps its relative precision in saturated rows, and it has the
contract's choice at a kink.

The same function evaluated in f32 must stay near the f64 result. Random rows that do not (their terms
cancel) are drawn again: such a row would measure rounding and not the loss.
"""
import math
import os
import sys

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, short, stated

F32 = torch.float32
REDUCTIONS = ("none", "sum", "mean")
PER_ROW = ("chosen_rewards", "rejected_rewards", "margins", "rewards")
REWARDS = ("chosen_rewards", "rejected_rewards", "margins", "accuracy")
sigma = torch.sigmoid
logsigma = F.logsigmoid


def step(condition, like):
    return condition.to(like.dtype)


def rewards(beta, c, r):
    c, r = beta * c.detach(), beta * r.detach()
    return {"chosen_rewards": c, "rejected_rewards": r, "margins": c - r}


# ---------------------------------------------------------------- dpo

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
              "apo_zero", "apo_down", "sigmoid_norm")
SMOOTHED = ("sigmoid", "robust", "exo_pair")


def dpo(x, o):
    kind = o.get("loss_type", "sigmoid")
    beta = float(o.get("beta", "0.1"))
    eps = float(o.get("label_smoothing", "0.001" if kind == "exo_pair" else "0"))
    c, r = x["chosen_logps"], x["rejected_logps"]
    one = torch.ones_like(c)
    if "ref_chosen_logps" in x:
        c = c - x["ref_chosen_logps"]
    if "ref_rejected_logps" in x:
        r = r - x["ref_rejected_logps"]
    nc, nr = x.get("chosen_lengths", one), x.get("rejected_lengths", one)
    u = beta * (c - r)
    bc, br = beta * c, beta * r
    if kind == "sigmoid":
        value = -(1 - eps) * logsigma(u)
        if eps:
            value = value - eps * logsigma(-u)
        gc = beta * (eps * sigma(u) - (1 - eps) * sigma(-u))
        gr = -gc
    elif kind == "hinge":
        value = torch.relu(1 - u)
        gc = -beta * step(u < 1, u)
        gr = -gc
    elif kind == "ipo":
        h = c / nc - r / nr - 1 / (2 * beta)
        value = h**2
        gc, gr = 2 * h / nc, -2 * h / nr
    elif kind == "robust":
        value = (-(1 - eps) * logsigma(u) + eps * logsigma(-u)) / (1 - 2 * eps)
        gc = -beta * ((1 - eps) * sigma(-u) + eps * sigma(u)) / (1 - 2 * eps)
        gr = -gc
    elif kind == "exo_pair":
        value = sigma(u) * (logsigma(u) - math.log(1 - eps))
        value = value + sigma(-u) * (logsigma(-u) - math.log(eps))
        gc = beta * sigma(u) * sigma(-u) * (u - math.log((1 - eps) / eps))
        gr = -gc
    elif kind == "nca_pair":
        value = -logsigma(bc) - logsigma(-bc) / 2 - logsigma(-br) / 2
        gc = beta * (sigma(bc) / 2 - sigma(-bc))
        gr = beta * sigma(br) / 2
    elif kind == "bco_pair":
        value = -logsigma(bc) - logsigma(-br)
        gc, gr = -beta * sigma(-bc), beta * sigma(br)
    elif kind == "sppo_hard":
        value = (c - 1 / (2 * beta)) ** 2 + (r + 1 / (2 * beta)) ** 2
        gc, gr = 2 * (c - 1 / (2 * beta)), 2 * (r + 1 / (2 * beta))
    elif kind == "apo_zero":
        value = sigma(-bc) + sigma(br)
        gc = -beta * sigma(bc) * sigma(-bc)
        gr = beta * sigma(br) * sigma(-br)
    elif kind == "apo_down":
        value = sigma(bc) + sigma(-u)
        gr = beta * sigma(u) * sigma(-u)
        gc = beta * sigma(bc) * sigma(-bc) - gr
    else:
        assert kind == "sigmoid_norm"
        v = beta * (c / nc - r / nr)
        value = -logsigma(v)
        gc, gr = -beta * sigma(-v) / nc, beta * sigma(-v) / nr
    assert eps == 0 or kind in SMOOTHED
    grads = {"chosen_logps": gc.detach(), "rejected_logps": gr.detach()}
    return {"value": value, "grads": grads, **rewards(beta, c, r)}


# ---------------------------------------------------------------- all

FORMULAS = {"dpo": dpo}
DIFFERENTIABLE = {"dpo": ("chosen_logps", "rejected_logps")}
DIAGNOSTICS = {"dpo": REWARDS}
SHARED = ("kl", "margin", "chosen_nll")
BOOK = None


def converted(inputs, dtype):
    return {name: inputs.get(name).to(dtype) for name in inputs.tensors if name != "grad_output"}


def steady(loss, inputs, options):
    """Whether f32 leads to the same result, per row."""
    wide = FORMULAS[loss](converted(inputs, F64), options)
    near = FORMULAS[loss](converted(inputs, F32), options)
    good = torch.ones(wide["value"].shape, dtype=torch.bool)
    for name in ("value",) + PER_ROW:
        if name in wide:
            a, b = near[name].to(F64), wide[name]
            good &= ((a - b).abs() <= 1e-6 * (1 + b.abs())) | (a == b) | torch.isnan(b)
    for name in wide["grads"]:
        a, b = near["grads"][name].to(F64), wide["grads"][name]
        good &= ((a - b).abs() <= 5e-7 * b.abs() + 1e-44) | torch.isnan(b)
    if "margins" in wide:
        good &= (wide["margins"] == 0) | ~(wide["margins"].abs() < 1e-4)
    return good


def evaluate(inputs, options):
    """Everything the loss can be asked for."""
    loss = BOOK.loss
    x = converted(inputs, F64)
    names = DIFFERENTIABLE[loss]
    for name in names:
        x[name] = x[name].clone().requires_grad_(True)
    rows = FORMULAS[loss](x, options)
    value = rows["value"]
    count = value.numel()
    assert value.dim() == 1
    reduction = options.get("reduction", "mean")
    share = torch.ones(count, dtype=F64)
    if reduction == "none":
        total = value
    elif reduction == "sum":
        total = value.sum()
    elif count:
        total, share = value.sum() / count, share / count
    else:
        total = value.sum() + (NAN if options.get("empty_mean") == "nan" else 0)
    go = inputs.get("grad_output")
    go = torch.ones(total.shape, dtype=F64) if go is None else go.to(F64).reshape(total.shape)
    by_torch = torch.autograd.grad((go * total).sum(), [x[name] for name in names])
    out = {"loss": total.detach()}
    for name, other in zip(names, by_torch):
        grad = go * share * rows["grads"][name]
        fine = rows.get("smooth", torch.tensor(True)) & torch.isfinite(value.detach())
        assert same(grad[fine], other[fine]), (name, grad, other)
        out["grad." + name] = grad
    for name in PER_ROW:
        if name in rows:
            out[name] = rows[name]
    if "margins" in rows and count:
        out["accuracy"] = (rows["margins"] > 0).to(F64).mean()
    return out


def write(name, inputs, options=None, want=()):
    """A case with the loss, all gradients and the diagnostics named; want="all" names them all."""
    options = {k: str(v) for k, v in (options or {}).items()}
    outputs = evaluate(inputs, options)
    exact = [inputs.dtypes[n] == "float" for n in DIFFERENTIABLE[BOOK.loss]]
    assert not any(exact) or bool(steady(BOOK.loss, inputs, options).all()), name
    keys = ["loss"] + ["grad." + n for n in DIFFERENTIABLE[BOOK.loss]]
    diagnostics = DIAGNOSTICS[BOOK.loss] if want == "all" else want
    if want == "all" and not len(inputs.get(DIFFERENTIABLE[BOOK.loss][0])):
        diagnostics = [n for n in diagnostics if n != "accuracy"]
    keys += list(diagnostics)
    BOOK.add(name, inputs, options, {k: outputs[k] for k in keys})
    return outputs


def tensors(values, kinds):
    """Inputs out of lists; kinds has the dtypes that are not float."""
    inputs = Inputs()
    for name, value in values.items():
        kind = kinds.get(name, "float")
        dtype = torch.int64 if kind in ("i64", "i32", "bool", "u8") else F64
        inputs.put(name, torch.tensor(value, dtype=dtype), kind)
    return inputs


def given(want=(), name=None, options=None, kinds=None, **values):
    return write(name, tensors(values, kinds or {}), options, want)


def log_probability(draw, middle, spread):
    return short(min(draw.random.gauss(middle, spread), -0.25))


def one_row(draw, names, setting):
    """One row's numbers. Policy and reference are near each other, as they are in training."""
    spread = setting.get("spread", 5.0)
    row = {}
    for side in ("chosen", "rejected"):
        middle = -draw.random.uniform(*setting.get("range", (10.0, 50.0)))
        row[side + "_logps"] = log_probability(draw, middle, spread)
        row["ref_" + side + "_logps"] = log_probability(draw, middle, spread)
        row[side + "_lengths"] = draw.random.randrange(1, 12)
    return {name: row[name] for name in names}


def build(name, count, options=None, names=(), want=(), kinds=None, upstream=None, shared=None,
          **setting):
    """A case of `count` random rows; `upstream` is the dtype of a grad_output."""
    options = {k: str(v) for k, v in (options or {}).items()}
    kinds, shared = kinds or {}, shared or {}
    draw = Draw(BOOK.loss + " " + name)
    names = list(DIFFERENTIABLE[BOOK.loss]) + [n for n in names if n not in shared]
    columns = {n: [] for n in names}
    tries = 0
    while len(columns[names[0]]) < count:
        row = one_row(draw, names, setting)
        tries += 1
        assert tries < 50 * count, name
        if bool(steady(BOOK.loss, tensors({n: [v] for n, v in row.items()} | shared, kinds),
                       options).all()):
            for n, v in row.items():
                columns[n].append(v)
    inputs = tensors(columns | shared, kinds)
    if upstream:
        shape = (count,) if options.get("reduction", "mean") == "none" else ()
        inputs.put("grad_output", draw.normal(shape, 1.0), upstream)
    return write(name, inputs, options, want)


REFS = ("ref_chosen_logps", "ref_rejected_logps")
LENGTHS = ("chosen_lengths", "rejected_lengths")


def dpo_checks():
    c, r = [-10.0, -12.0], [-11.0, -9.0]
    c0, r0 = [-10.5, -11.0], [-10.0, -9.5]
    kinds = {"chosen_logps": "f64", "rejected_logps": "f64", "ref_chosen_logps": "f64",
             "ref_rejected_logps": "f64", "chosen_lengths": "i64", "rejected_lengths": "i32"}
    printed = {
        "sigmoid": ("0", 0.6959570478), "hinge": ("0", 1), "ipo": ("0", 25.87236111),
        "robust": ("0.1", 0.6959570478), "exo_pair": ("0.1", 0.5136302333),
        "nca_pair": ("0", 1.387856308), "bco_pair": ("0", 1.387856308), "sppo_hard": ("0", 51.25),
        "apo_zero": ("0", 1), "apo_down": ("0", 0.9937591045), "sigmoid_norm": ("0", 0.6970501228),
    }
    slopes = {"sigmoid": [-0.02312850773, -0.02687149227],
              "robust": [-0.02937850773, -0.03312149227]}
    for kind, (eps, expected) in printed.items():
        options = {"loss_type": kind}
        if eps != "0":
            options["label_smoothing"] = eps
        values = {"chosen_logps": c, "rejected_logps": r, "ref_chosen_logps": c0,
                  "ref_rejected_logps": r0}
        if kind in ("ipo", "sigmoid_norm"):
            values |= {"chosen_lengths": [5, 4], "rejected_lengths": [6, 3]}
        out = given("all", "check/" + kind, options, kinds, **values)
        stated(out["loss"], expected if kind != "ipo" else out["loss"].item(), kind)
        if kind == "ipo":  # printed to eight decimals
            assert abs(out["loss"].item() - expected) < 5e-9
        if kind in slopes:
            stated(out["grad.chosen_logps"], slopes[kind], kind)
            stated(out["grad.rejected_logps"], [-g for g in slopes[kind]], kind)


def dpo_main():
    dpo_checks()
    for kind in LOSS_TYPES:
        lengths = LENGTHS if kind == "sigmoid_norm" else ()
        for reduction in REDUCTIONS:
            build(f"type/{kind}-{reduction}", 4, {"loss_type": kind, "reduction": reduction},
                  REFS + lengths, "all", {"chosen_lengths": "i64", "rejected_lengths": "i64"})
        build(f"type/{kind}-no-reference", 3, {"loss_type": kind, "beta": "0.25"}, lengths, "all",
              {"chosen_lengths": "i32", "rejected_lengths": "i32"})
        build(f"type/{kind}-grad-output", 3, {"loss_type": kind, "reduction": "none"},
              REFS + lengths, (), {"chosen_lengths": "i64", "rejected_lengths": "i32"}, "float")
        build(f"type/{kind}-loss-scale", 3, {"loss_type": kind}, REFS + lengths, (),
              {"chosen_lengths": "i64", "rejected_lengths": "i64"}, "float")
        for beta in ("0.01", "0.5", "2"):
            build(f"beta/{kind}-{beta}", 3, {"loss_type": kind, "beta": beta, "reduction": "none"},
                  REFS + lengths, "all", {"chosen_lengths": "i64", "rejected_lengths": "i64"},
                  spread=1.0 if beta == "2" else 4.0)
    kinds = {"chosen_lengths": "i64", "rejected_lengths": "i32"}
    for reduction in REDUCTIONS:
        build(f"lengths/ipo-{reduction}", 4, {"loss_type": "ipo", "reduction": reduction},
              REFS + LENGTHS, "all", kinds)
    build("lengths/ipo-no-reference", 3, {"loss_type": "ipo", "beta": "0.3"}, LENGTHS, (), kinds)
    build("reference/chosen-only", 3, {}, REFS[:1], "all")
    build("reference/rejected-only", 3, {}, REFS[1:], "all")
    for eps in ("0.05", "0.25", "0.5"):
        for reduction in REDUCTIONS:
            build(f"smoothing/sigmoid-{eps}-{reduction}", 3,
                  {"label_smoothing": eps, "reduction": reduction}, REFS)
    for eps in ("0", "0.05", "0.25", "0.45"):
        build(f"smoothing/robust-{eps}", 3, {"loss_type": "robust", "label_smoothing": eps,
                                             "reduction": "none"}, REFS)
    for eps in ("0.001", "0.1", "0.5", "0.9", "0.999"):
        build(f"smoothing/exo-{eps}", 3, {"loss_type": "exo_pair", "label_smoothing": eps,
                                          "reduction": "none"}, REFS)
    for kind in LOSS_TYPES:
        lengths = LENGTHS if kind == "sigmoid_norm" else ()
        options = {"loss_type": kind}
        build(f"empty/{kind}", 0, options, REFS + lengths, "all", kinds)
    build("empty/sum", 0, {"reduction": "sum"}, REFS)
    build("empty/none", 0, {"reduction": "none"}, REFS, "all")
    build("empty/nan", 0, {"empty_mean": "nan"}, REFS)
    build("empty/zero", 0, {"empty_mean": "zero"}, REFS)
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"dtype/{kind}", 3, {"reduction": "none"}, REFS, "all",
              {name: kind for name in REFS}, kind)
    for count in (1, 8, 17, 40):
        build(f"rows/{count}", count, {}, REFS, "all")
    build("rows/sigmoid-norm-33", 33, {"loss_type": "sigmoid_norm", "reduction": "none"},
          REFS + LENGTHS, (), kinds)
    build("rows/apo-down-19", 19, {"loss_type": "apo_down"}, REFS)

    # u from -40 to 60 in steps that every type holds: the saturated ends keep their precision.
    wide = {"chosen_logps": [-90.0, -70.0, -40.0, -31.0, -30.0, -20.0, -10.0],
            "rejected_logps": [-10.0, -30.0, -40.0, -30.0, -32.0, -80.0, -128.0]}
    for kind in LOSS_TYPES:
        if kind == "sigmoid_norm":
            continue
        given((), f"saturated/{kind}", {"loss_type": kind, "beta": "0.5", "reduction": "none"},
              **wide)
        half = {"ref_chosen_logps": [-40.0] * 7, "ref_rejected_logps": [-40.0] * 7}
        given("all", f"saturated/{kind}-reference",
              {"loss_type": kind, "beta": "0.5", "reduction": "none"}, **wide, **half)
    # hinge at u = 1 has slope 0; its neighbours on both sides.
    kink = {"chosen_logps": [-4.0, -4.0, -4.0, -4.0], "rejected_logps": [-6.0, -6.03125, -5.96875,
                                                                       -4.0]}
    for reduction in REDUCTIONS:
        given("all", f"kink/hinge-{reduction}",
              {"loss_type": "hinge", "beta": "0.5", "reduction": reduction}, **kink)
    # equal pairs: a margin of exactly 0 is no success.
    equal = {"chosen_logps": [-10.0, -8.0, -3.0], "rejected_logps": [-11.0, -6.0, -5.0],
             "ref_chosen_logps": [-2.0, -14.0, -4.0], "ref_rejected_logps": [-3.0, -12.0, -4.0]}
    for kind in LOSS_TYPES:
        if kind != "sigmoid_norm":
            given("all", f"equal/{kind}", {"loss_type": kind, "beta": "0.5"}, **equal)
    for eps in ("0", "0.25"):
        for reduction in ("none", "mean"):
            given((), f"nonfinite/impossible-chosen-{eps}-{reduction}",
                  {"label_smoothing": eps, "reduction": reduction},
                  chosen_logps=[-INF, -3.0], rejected_logps=[-4.0, -5.0])
        given((), f"nonfinite/nan-{eps}", {"label_smoothing": eps, "reduction": "none"},
              chosen_logps=[NAN, -3.0, -6.0], rejected_logps=[-4.0, -5.0, NAN])
    given((), "nonfinite/impossible-rejected", {"reduction": "none"},
          chosen_logps=[-4.0, -3.0], rejected_logps=[-INF, -5.0])
    given((), "nonfinite/nan-reference", {"reduction": "none", "nonfinite": "propagate"},
          chosen_logps=[-4.0, -3.0], rejected_logps=[-5.0, -5.0], ref_chosen_logps=[NAN, -2.0])


MAINS = {"dpo": dpo_main}


def main():
    global BOOK
    for loss in sys.argv[1:] or MAINS:
        BOOK = Book(loss)
        MAINS[loss]()
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), loss + ".jsonl")
        BOOK.write(path)
        print(f"{loss}: {len(BOOK.lines)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
