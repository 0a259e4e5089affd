#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses on pairs and on single labelled completions.

Each loss is one function that states, per row, the value and the closed form of its gradients;
torch differentiates the value and must agree with the closed form wherever the row is smooth and
finite. The closed form is what is written: it keeps its relative precision in saturated rows, and
it has the contract's choice at a kink.

The same function evaluated in f32 must stay near the f64 result. Random rows that do not (their
terms cancel) are drawn again: such a row would measure rounding and not the loss.
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


def like_torch(u, target, value):
    """The logistic losses are torch's own binary cross entropy of u."""
    fine = torch.isfinite(u)
    own = F.binary_cross_entropy_with_logits(u, torch.full_like(u, target), reduction="none")
    assert u.dtype != F64 or same(own[fine], value[fine])


# ---------------------------------------------------------------- dpo

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
              "apo_zero", "apo_down", "sigmoid_norm")
SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
NEWER = ("aot", "aot_unpaired", "discopop")


def bent(o, t):
    """phi of 17.6 and its slope."""
    kind, alpha = o.get("f_divergence", "reverse_kl"), float(o.get("f_alpha", "0.5"))
    t0 = t.detach()
    if kind == "forward_kl":
        return -torch.exp(-t), torch.exp(-t0)
    if kind == "js":
        return logsigma(t), sigma(-t0)
    if kind == "alpha" and alpha != 1:
        return torch.exp((alpha - 1) * t) / (alpha - 1), torch.exp((alpha - 1) * t0)
    return t, torch.ones_like(t0)


def ranked(x, o, beta, eps):
    """The aot types: the differences of what has the same rank."""
    c, r = x["chosen_logps"], x["rejected_logps"]
    c0 = x.get("ref_chosen_logps", torch.zeros_like(c))
    r0 = x.get("ref_rejected_logps", torch.zeros_like(r))
    unpaired = o["loss_type"] == "aot_unpaired"
    first, second = (c - c0, r - r0) if unpaired else (c - r, c0 - r0)
    at = torch.sort(first.detach(), stable=True).indices
    other = torch.sort(second.detach(), stable=True).indices
    u = beta * (first[at] - second[other])
    by_rank = -(1 - eps) * logsigma(u)
    slope_by_rank = (beta * (sigma(u) - (1 - eps))).detach()
    if eps:
        by_rank = by_rank - eps * logsigma(-u)
    value, gc, gr = torch.zeros_like(c), torch.zeros_like(c), torch.zeros_like(c)
    value = value.scatter(0, at, by_rank)
    gc = gc.detach().scatter(0, at, slope_by_rank)
    gr = gr.detach().scatter(0, other if unpaired else at, -slope_by_rank)
    up = torch.arange(len(c)).scatter(0, other, at) if unpaired else torch.arange(len(c))
    return {"value": value, "grads": {"chosen_logps": gc, "rejected_logps": gr}, "up": {"rejected_logps": up},
            "coupled": True, **rewards(beta, c - c0, r - r0)}


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
    if kind in ("aot", "aot_unpaired"):
        assert "pair_weight" not in x and o.get("f_divergence", "reverse_kl") == "reverse_kl"
        return ranked(x, o, beta, eps)
    told = rewards(beta, c, r)
    (c, bend_c), (r, bend_r) = bent(o, c), bent(o, r)
    u = beta * (c - r)
    bc, br = beta * c, beta * r
    if kind == "sigmoid":
        value = -(1 - eps) * logsigma(u)
        if eps:
            value = value - eps * logsigma(-u)
        like_torch(u, 1 - eps, value)
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
    elif kind == "discopop":
        tau = float(o.get("discopop_tau", "0.05"))
        t, rest = sigma(u / tau), sigma(-u / tau)
        hard = torch.exp(logsigma(u / tau) - u)
        value = rest * F.softplus(-u, threshold=1000) + hard
        gc = beta * (-rest * sigma(-u) - hard + rest / tau * hard - t * rest / tau * F.softplus(-u, threshold=1000))
        gr = -gc
    else:
        assert kind == "sigmoid_norm"
        v = beta * (c / nc - r / nr)
        value = -logsigma(v)
        gc, gr = -beta * sigma(-v) / nc, beta * sigma(-v) / nr
    assert eps == 0 or kind in SMOOTHED
    weight = x.get("pair_weight", one)
    grads = {"chosen_logps": weight * bend_c * gc.detach(), "rejected_logps": weight * bend_r * gr.detach()}
    return {"value": weight * value, "grads": grads, **told}


# ---------------------------------------------------------------- cpo, simpo, orpo

def shifted(x, o, beta, gamma):
    c, r = x["chosen_logps"], x["rejected_logps"]
    beta, shape = float(o.get("beta", beta)), float(o.get("shape", "0"))
    told, kind = rewards(beta, c, r), o.get("loss_type", "sigmoid")
    bend_c = bend_r = torch.ones_like(c.detach())
    if shape:
        bend_c, bend_r = torch.exp(-shape * c.detach()), torch.exp(-shape * r.detach())
        c, r = (1 - torch.exp(-shape * c)) / shape, (1 - torch.exp(-shape * r)) / shape
    u, eps = beta * (c - r) - float(o.get("gamma", gamma)), float(o.get("label_smoothing", "0"))
    if kind == "sigmoid":
        value = -(1 - eps) * logsigma(u) - (eps * logsigma(-u) if eps else 0)
        like_torch(u, 1.0 - eps, value)
        slope = (-beta * ((1 - eps) * sigma(-u) - eps * sigma(u))).detach()
    elif kind == "hinge":
        value, slope = torch.relu(1 - u), -beta * step(u.detach() < 1, u)
    else:
        h = c - r - 1 / (2 * beta)
        value, slope = h * h, 2 * h.detach()
    slack = [(u.detach() - 1) / (1 + u.detach().abs())] if kind == "hinge" else []
    if "chosen_nll" in x:
        value = value + float(o.get("alpha", "1")) * x["chosen_nll"]
    grads = {"chosen_logps": slope * bend_c, "rejected_logps": -slope * bend_r}
    return {"value": value, "grads": grads, "slack": slack, **told}


def cpo(x, o):
    return shifted(x, o, "0.1", "0")


def simpo(x, o):
    return shifted(x, o, "2", "0.5")


def log1mexp(x):
    """log(1 - e^x) for x <= 0; each branch sees only what it is made for."""
    near = x > -math.log(2)
    half = torch.full_like(x, -0.5)
    a = torch.log(-torch.expm1(torch.where(near, x, half)))
    b = torch.log1p(-torch.exp(torch.where(near, half - 1, x)))
    return torch.where(near, a, b)


def orpo(x, o):
    c, r = x["chosen_logps"], x["rejected_logps"]
    beta = float(o.get("beta", "0.1"))
    certain = (r == 0).detach()  # of the rejected completion: the odds have no end
    odds = (c - r) - (log1mexp(c) - log1mexp(r))
    value = -beta * logsigma(odds)
    value = torch.where(certain, torch.full_like(value, INF), value)
    if "chosen_nll" in x:
        value = value + x["chosen_nll"]
    c1, r1, odds1 = c.detach(), r.detach(), odds.detach()
    omega = torch.exp(r1) / -torch.expm1(r1)
    gc = -beta * omega / (torch.exp(c1) - omega * torch.expm1(c1))
    gr = beta * sigma(-odds1) / -torch.expm1(r1)
    nothing = torch.full_like(gc, NAN)
    grads = {"chosen_logps": torch.where(certain, nothing, gc),
             "rejected_logps": torch.where(certain, nothing, gr)}
    return {"value": value, "grads": grads, "smooth": (c1 < 0) & (r1 < 0) & torch.isfinite(r1),
            **rewards(beta, c, r)}


# ---------------------------------------------------------------- kto, pairwise_logistic

def kto(x, o):
    beta = float(o.get("beta", "0.1"))
    gap = x["logps"] - x["ref_logps"]
    good = x["labels"] != 0
    z0 = torch.zeros((), dtype=gap.dtype)
    if o.get("loss_type", "kto") == "kto" and "kl" in x:
        z0 = torch.clamp(x["kl"], min=0)
    weight = torch.where(good, torch.tensor(float(o.get("desirable_weight", "1")), dtype=gap.dtype),
                         torch.tensor(float(o.get("undesirable_weight", "1")), dtype=gap.dtype))
    v = torch.where(good, beta * (gap - z0), beta * (z0 - gap))
    value = weight * sigma(-v)  # 1 - sigma(v)
    slope = (weight * beta * sigma(v) * sigma(-v)).detach()
    if o.get("loss_type") == "bco":
        assert "kl" not in x
        shift = x.get("reward_shift", torch.zeros((), dtype=gap.dtype))
        v = torch.where(good, beta * gap - shift, shift - beta * gap)
        value = weight * -logsigma(v)
        slope = (weight * beta * sigma(-v)).detach()
    return {"value": value, "grads": {"logps": torch.where(good, -slope, slope)},
            "rewards": (beta * gap).detach()}


def pairwise_logistic(x, o):
    assert set(o) <= {"reduction", "empty_mean", "nonfinite", "centre"}
    centre = float(o.get("centre", "0"))
    c, r = x["chosen_scores"], x["rejected_scores"]
    u = c - r
    if "margin" in x:
        u = u - x["margin"]
    slope = sigma(-u).detach()
    like_torch(u, 1.0, -logsigma(u))
    pull = 2 * centre * (c + r).detach() if centre else 0
    value = -logsigma(u) + (centre * (c + r) ** 2 if centre else 0)
    return {"value": value, "grads": {"chosen_scores": pull - slope, "rejected_scores": pull + slope},
            **rewards(1.0, c, r)}


# ---------------------------------------------------------------- value_clip

def value_clip(x, o):
    eps = float(o.get("eps", "0.2").replace("off", "inf"))
    live = x["mask"] != 0 if "mask" in x else torch.ones(x["values"].shape, dtype=torch.bool)
    zero = torch.zeros((), dtype=x["values"].dtype)
    if eps == INF:
        x = {**x, "old_values": x["values"].detach() * 0}
    v, old, target = (torch.where(live, x[n], zero) for n in ("values", "old_values", "returns"))
    low, high = old - eps, old + eps
    clipped = torch.minimum(torch.maximum(v.detach(), low), high)
    inside = (v.detach() >= low) & (v.detach() <= high)
    delta = float(o.get("delta", "10")) if o.get("base") == "huber" else INF

    def h(u):
        far = delta * (u.abs() - delta / 2) if delta < INF else u.abs()
        return torch.where(u.abs() <= delta, u * u / 2, far)

    def bounded(u):
        return torch.clamp(u, -delta, delta)

    first = h(v - target)
    second = h(torch.where(inside, v, clipped) - target)
    value = torch.maximum(first, second)
    a, b = bounded(v.detach() - target), torch.where(inside, bounded(clipped - target), zero)
    one, two = first.detach(), second.detach()
    slope = torch.where(one > two, a, torch.where(two > one, b, (a + b) / 2))
    slope = torch.where(torch.isnan(one), one, slope)
    size = 1 + one + v.detach().abs()
    slack = [(v.detach() - low) / size, (v.detach() - high) / size, (one - two) / size]
    slack += [((v.detach() - target).abs() - delta) / size, ((clipped - target).abs() - delta) / size]
    return {"value": value, "grads": {"values": torch.where(live, slope, zero)}, "live": live,
            "slack": slack}


# ---------------------------------------------------------------- all

FORMULAS = {"dpo": dpo, "cpo": cpo, "simpo": simpo, "orpo": orpo, "kto": kto,
            "pairwise_logistic": pairwise_logistic, "value_clip": value_clip}
PAIR = ("chosen_logps", "rejected_logps")
DIFFERENTIABLE = {"dpo": PAIR, "cpo": PAIR, "simpo": PAIR, "orpo": PAIR, "kto": ("logps",),
                  "pairwise_logistic": ("chosen_scores", "rejected_scores"),
                  "value_clip": ("values",)}
DIAGNOSTICS = {"dpo": REWARDS, "cpo": REWARDS, "simpo": REWARDS, "orpo": REWARDS,
               "kto": ("rewards",), "pairwise_logistic": REWARDS, "value_clip": ()}
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
        good &= ((a - b).abs() <= 4e-7 * b.abs() + 1e-44) | torch.isnan(b)
    if "margins" in wide:
        good &= (wide["margins"] == 0) | ~(wide["margins"].abs() < 1e-4)
    for slack in wide.get("slack", ()):
        good &= (slack == 0) | ~(slack.abs() < 1e-4)
    return good.all().expand(good.shape) if "coupled" in wide else good


def evaluate(inputs, options):
    """Everything the loss can be asked for."""
    loss = BOOK.loss
    x = converted(inputs, F64)
    names = DIFFERENTIABLE[loss]
    for name in names:
        x[name] = x[name].clone().requires_grad_(True)
    rows = FORMULAS[loss](x, options)
    value = rows["value"]
    live = rows.get("live", torch.ones(value.shape, dtype=torch.bool))
    value = torch.where(live, value, torch.zeros_like(value))
    count = int(live.sum())
    assert value.dim() == 1
    reduction = options.get("reduction", "mean")
    share = live.to(F64)
    if reduction == "none":
        total = value
    elif reduction == "sum":
        total = value.sum()
    elif "num_items" in options:
        assert BOOK.loss == "value_clip"
        items = float(options["num_items"])
        total, share = value.sum() / items, share / items
    elif count:
        total, share = value.sum() / count, share / count
    else:
        total = value.sum() * 0 + (NAN if options.get("empty_mean") == "nan" else 0)
    go = inputs.get("grad_output")
    go = torch.ones(total.shape, dtype=F64) if go is None else go.to(F64).reshape(total.shape)
    by_torch = torch.autograd.grad((go * total).sum(), [x[name] for name in names])
    out = {"loss": total.detach()}
    for name, other in zip(names, by_torch):
        factor = (go * share).expand(value.shape)
        grad = factor[rows.get("up", {}).get(name, slice(None))] * rows["grads"][name]
        grad = torch.where(live, grad, torch.zeros_like(grad))
        fine = rows.get("smooth", live) & torch.isfinite(value.detach())
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


def row_of_scores(draw, setting):
    spread = setting.get("spread", 1.5)
    return {"chosen_scores": short(draw.random.gauss(0.5, spread)),
            "rejected_scores": short(draw.random.gauss(0, spread)),
            "margin": short(draw.random.uniform(-0.5, 1.5))}


def row_of_one(draw, setting):
    middle = -draw.random.uniform(10.0, 50.0)
    spread = setting.get("spread", 5.0)
    return {"logps": log_probability(draw, middle, spread),
            "ref_logps": log_probability(draw, middle, spread),
            "labels": draw.random.random() < 0.5}


def row_of_means(draw, setting):
    """Log-probabilities per token."""
    low, high = setting.get("range", (0.0078125, 4.0))
    return {"chosen_logps": short(-draw.random.uniform(low, high)),
            "rejected_logps": short(-draw.random.uniform(low, high)),
            "chosen_nll": short(draw.random.uniform(0.25, 3.0))}


def row_of_values(draw, setting):
    old = draw.random.gauss(0, 1.5)
    near = setting.get("near", 0.4)
    return {"values": short(old + draw.random.gauss(0, near)), "old_values": short(old),
            "returns": short(old + draw.random.gauss(0, 1.0)), "mask": draw.random.random() < 0.7}


def row_of_sums(draw, setting):
    """Policy and reference are near each other, as they are in training."""
    spread = setting.get("spread", 5.0)
    row = {"chosen_nll": short(draw.random.uniform(0.25, 3.0))}
    for side in ("chosen", "rejected"):
        middle = -draw.random.uniform(*setting.get("range", (10.0, 50.0)))
        row[side + "_logps"] = log_probability(draw, middle, spread)
        row["ref_" + side + "_logps"] = log_probability(draw, middle, spread)
        row[side + "_lengths"] = draw.random.randrange(1, 12)
    if "pair_weight" in setting.get("names", ()):
        row["pair_weight"] = short(draw.random.uniform(-1.0, 2.0))
    return row


ROWS = {"dpo": row_of_sums, "cpo": row_of_sums, "simpo": row_of_means, "orpo": row_of_means,
        "kto": row_of_one, "pairwise_logistic": row_of_scores, "value_clip": row_of_values}


def build(name, count, options=None, names=(), want=(), kinds=None, upstream=None, shared=None,
          **setting):
    """A case of `count` random rows; `upstream` is the dtype of a grad_output."""
    options = {k: str(v) for k, v in (options or {}).items()}
    kinds, shared = kinds or {}, shared or {}
    draw = Draw(BOOK.loss + " " + name)
    names = list(DIFFERENTIABLE[BOOK.loss]) + [n for n in names if n not in shared]
    rows = []
    bad = range(count)
    tries = 0
    while True:
        for i in bad:
            row = ROWS[BOOK.loss](draw, {**setting, "names": names})
            rows[i : i + 1] = [{n: row[n] for n in names}]
        inputs = tensors({n: [row[n] for row in rows] for n in names} | shared, kinds)
        good = steady(BOOK.loss, inputs, options)
        bad = [i for i in range(count) if not good[i]]
        tries += 1
        assert tries < 50, name
        if not bad:
            break
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
    dpo_newer()
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
        # apo_down's gradient is a difference: of nothing but rounding where beta is small.
        for beta in ("0.05" if kind == "apo_down" else "0.01", "0.5", "2"):
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


def dpo_newer():
    """Divergences, ranked and discovered types, weights of pairs."""
    c, r = [-10.0, -12.0], [-11.0, -9.0]
    c0, r0 = [-10.5, -11.0], [-10.0, -9.5]
    values = {"chosen_logps": c, "rejected_logps": r, "ref_chosen_logps": c0, "ref_rejected_logps": r0}
    kinds = {k: "f64" for k in (*values, "pair_weight")}
    for name, options, others, loss, grads in (
            ("forward_kl", {"f_divergence": "forward_kl"}, {}, 0.6987112196, ([-0.01356813769, -0.07510591702],)),
            ("js", {"f_divergence": "js"}, {}, 0.6940272111, ()),
            ("alpha", {"f_divergence": "alpha"}, {}, 0.696926226, ()),
            ("discopop", {"loss_type": "discopop"}, {}, 0.8194161597, ([-0.03126015101, -0.01069361242],)),
            ("aot", {"loss_type": "aot"}, {}, 0.6959570478, ()),
            ("aot_unpaired", {"loss_type": "aot_unpaired"}, {}, 0.6931471806, ()),
            ("aot_unpaired-smoothed", {"loss_type": "aot_unpaired", "label_smoothing": "0.1"},
             {"chosen_logps": [-10.0, -13.0]}, 0.7137719203,
             ([-0.02, -0.02124895937], [0.02124895937, 0.02])),
            ("pair_weight", {}, {"pair_weight": [0.5, -1.0]}, -0.2302392619, ())):
        out = given("all", "check/" + name, options, kinds, **{**values, **others})
        stated(out["loss"], loss, name)
        for key, grad in zip(("grad.chosen_logps", "grad.rejected_logps"), grads):
            stated(out[key], grad, name)
    for kind in NEWER:
        for reduction in REDUCTIONS:
            build(f"newer/{kind}-{reduction}", 5, {"loss_type": kind, "reduction": reduction}, REFS, "all")
            build(f"newer/{kind}-{reduction}-upstream", 6, {"loss_type": kind, "reduction": reduction}, REFS, (),
                  None, "float")
        build(f"newer/{kind}-no-reference", 4, {"loss_type": kind, "beta": "0.25"}, (), "all")
        for beta in ("0.01", "0.5"):
            build(f"newer/{kind}-beta-{beta}", 4, {"loss_type": kind, "beta": beta, "reduction": "none"}, REFS, "all",
                  spread=2.0)
        for count in (0, 1, 17):
            build(f"newer/{kind}-rows-{count}", count, {"loss_type": kind}, REFS, "all")
        if kind != "discopop":
            for eps in ("0.125", "0.5"):
                build(f"newer/{kind}-smoothing-{eps}", 5, {"loss_type": kind, "label_smoothing": eps,
                                                           "reduction": "none"}, REFS, "all")
            given("all", f"newer/{kind}-ties", {"loss_type": kind, "reduction": "none"},
                  chosen_logps=[-2.0, -3.0, -2.0, -4.0], rejected_logps=[-3.0, -4.0, -3.0, -4.0],
                  ref_chosen_logps=[-2.5, -3.0, -2.5, -3.0], ref_rejected_logps=[-2.0, -3.0, -3.0, -3.0])
    for tau in ("0.05", "0.5", "1", "4"):
        build(f"newer/discopop-tau-{tau}", 5, {"loss_type": "discopop", "discopop_tau": tau, "reduction": "none"}, REFS,
              "all", spread=3.0)
    given((), "newer/discopop-saturated", {"loss_type": "discopop", "beta": "0.5", "reduction": "none"},
          chosen_logps=[-90.0, -70.0, -30.0, -20.0, -10.0], rejected_logps=[-10.0, -30.0, -32.0, -80.0, -128.0])
    divergences = [("forward_kl", {}), ("js", {}), ("alpha", {}), ("alpha", {"f_alpha": "1"}), ("alpha", {"f_alpha": "-0.5"}),
                   ("alpha", {"f_alpha": "1.25"}), ("reverse_kl", {"f_alpha": "3"})]
    for divergence, more in divergences:
        name = "-".join([divergence, *more.values()])
        for kind in LOSS_TYPES + ("discopop",):
            if kind in ("apo_zero", "apo_down"):
                continue
            lengths = LENGTHS if kind in ("sigmoid_norm", "ipo") else ()
            build(f"divergence/{name}-{kind}", 4, {"loss_type": kind, "f_divergence": divergence, **more,
                  "reduction": "none"}, REFS + lengths, "all",
                  {"chosen_lengths": "i64", "rejected_lengths": "i64"}, spread=1.0)
        build(f"divergence/{name}-mean", 5, {"f_divergence": divergence, **more, "label_smoothing": "0.125"}, REFS,
              (), None, "float", spread=1.5)
    for kind in LOSS_TYPES + ("discopop",):
        lengths = LENGTHS if kind in ("sigmoid_norm", "ipo") else ()
        for reduction in ("none", "mean"):
            build(f"weight/{kind}-{reduction}", 4, {"loss_type": kind, "reduction": reduction},
                  REFS + lengths + ("pair_weight",), "all", {"chosen_lengths": "i64", "rejected_lengths": "i64"}, "float")
    build("weight/js", 4, {"f_divergence": "js"}, REFS + ("pair_weight",), "all", {"pair_weight": "f32"})


def frame(names, kinds=None):
    """What every loss on rows has: reductions, upstream gradients, sizes, empty batches, dtypes."""
    constants = [n for n in names if (kinds or {}).get(n, "float") == "float"]
    for reduction in REDUCTIONS:
        build(f"reduction/{reduction}", 4, {"reduction": reduction}, names, "all", kinds)
        build(f"grad-output/{reduction}", 4, {"reduction": reduction}, names, (), kinds, "float")
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"dtype/{kind}", 3, {"reduction": "none"}, names, "all",
              (kinds or {}) | {n: kind for n in constants}, kind)
    for count in (1, 8, 17, 40):
        build(f"rows/{count}", count, {}, names, "all", kinds)
    build("rows/33", 33, {"reduction": "none"}, names, (), kinds, "float")
    for reduction in REDUCTIONS:
        build(f"empty/{reduction}", 0, {"reduction": reduction}, names, "all", kinds)
    for value in ("zero", "nan"):
        build(f"empty/mean-{value}", 0, {"empty_mean": value}, names, (), kinds)
        build(f"empty/filled-{value}", 2, {"empty_mean": value}, names, (), kinds)
    build("empty/grad-output", 0, {"empty_mean": "nan"}, names, (), kinds, "float")


def shifted_main():
    simpo_too = BOOK.loss == "simpo"
    if simpo_too:
        out = given("all", "check/mean", {"beta": "2", "gamma": "0.5"},
                    {"chosen_logps": "f64", "rejected_logps": "f64"},
                    chosen_logps=[-0.5, -1.0], rejected_logps=[-1.5, -0.7])
        stated(out["loss"], 0.7943743015, "simpo")
        stated(out["grad.chosen_logps"], [-0.1824255238, -0.7502601056], "simpo grad")
        out = given("all", "check/defaults", {}, {"chosen_logps": "f64", "rejected_logps": "f64"},
                    chosen_logps=[-0.5, -1.0], rejected_logps=[-1.5, -0.7])
        stated(out["loss"], 0.7943743015, "simpo")
    kinds = {"chosen_logps": "f64", "rejected_logps": "f64"}
    values = {"chosen_logps": [-0.5, -1.0], "rejected_logps": [-1.5, -0.7]}
    if simpo_too:
        out = given("all", "check/shape", {"shape": "0.25"}, kinds, **values)
        stated(out["loss"], 0.8071017992, "shape")
        stated(out["grad.chosen_logps"], [-0.126432109, -0.9963428162], "shape grad c")
        stated(out["grad.rejected_logps"], [0.1623420415, 0.9243505579], "shape grad r")
    else:
        out = given("all", "check/hinge", {"loss_type": "hinge", "beta": "0.1"}, kinds, **values)
        stated(out["loss"], 0.965, "hinge")
        out = given("all", "check/ipo", {"loss_type": "ipo", "beta": "0.1"}, kinds, **values)
        stated(out["loss"], 22.045, "ipo")
    for kind in ("sigmoid", "hinge") if simpo_too else ("sigmoid", "hinge", "ipo"):
        for shape in ("0", "0.25", "1"):
            # sums of log-probabilities would be beyond all bounds: means for both here
            options = {"loss_type": kind, "shape": shape, "reduction": "none"}
            more = {"range": (0.25, 4.0), "spread": 0.5}
            build(f"newer/{kind}-{shape}", 5, options, (), "all", **more)
            build(f"newer/{kind}-{shape}-upstream", 5, {**options, "reduction": "mean"}, ("chosen_nll",), (), None, "float",
                  **more)
            build(f"newer/{kind}-{shape}-gamma", 5, {**options, "gamma": "0.375", "beta": "0.5"}, (), "all", **more)
            if kind == "sigmoid":
                build(f"newer/{kind}-{shape}-smoothing", 5, {**options, "label_smoothing": "0.125"}, (), "all", **more)
        for count in (0, 1, 17):
            build(f"newer/{kind}-rows-{count}", count, {"loss_type": kind}, (), "all")
    frame(())
    for beta in ("0.01", "0.5", "1", "2.5"):
        for gamma in ("0", "0.25", "1.5"):
            build(f"options/beta-{beta}-gamma-{gamma}", 3,
                  {"beta": beta, "gamma": gamma, "reduction": "none"}, (), "all",
                  spread=1.0 if float(beta) > 0.5 else 5.0)
    build("options/gamma-negative", 3, {"gamma": "-0.5", "reduction": "none"}, ())
    for reduction in REDUCTIONS:
        build(f"nll/rows-{reduction}", 4, {"reduction": reduction}, ("chosen_nll",), "all")
    for alpha in ("0", "0.5", "2"):
        build(f"nll/alpha-{alpha}", 4, {"alpha": alpha, "reduction": "none"}, ("chosen_nll",))
        build(f"nll/one-alpha-{alpha}", 4, {"alpha": alpha}, shared={"chosen_nll": 1.25})
    build("nll/one-mean", 3, {}, (), "all", shared={"chosen_nll": 0.75})
    build("nll/one-none", 3, {"reduction": "none"}, (), "all", shared={"chosen_nll": 0.75})
    build("nll/grad-output", 3, {"reduction": "none"}, ("chosen_nll",), (), None, "float")
    build("nll/rows-empty", 0, {}, ("chosen_nll",))
    build("nll/rows-24", 24, {}, ("chosen_nll",))
    given("all", "saturated/none", {"beta": "0.5", "gamma": "0.25", "reduction": "none"},
          chosen_logps=[-90.0, -70.0, -31.0, -20.0, -10.0],
          rejected_logps=[-10.0, -30.0, -30.0, -80.0, -128.0])
    given("all", "equal/none", {"reduction": "none"}, chosen_logps=[-4.0, -8.0],
          rejected_logps=[-4.0, -7.0])
    given((), "nonfinite/impossible-chosen", {"reduction": "none"}, chosen_logps=[-INF, -3.0],
          rejected_logps=[-4.0, -5.0])
    given((), "nonfinite/impossible-chosen-mean", {}, chosen_logps=[-INF, -3.0],
          rejected_logps=[-4.0, -5.0])
    given((), "nonfinite/impossible-rejected", {"reduction": "none"}, chosen_logps=[-4.0, -3.0],
          rejected_logps=[-INF, -5.0])
    given((), "nonfinite/nan", {"reduction": "none", "nonfinite": "propagate"},
          chosen_logps=[NAN, -3.0, -6.0], rejected_logps=[-4.0, -5.0, NAN])
    given((), "nonfinite/nan-mean", {}, chosen_logps=[NAN, -3.0], rejected_logps=[-4.0, -5.0])


def orpo_main():
    kinds = {"chosen_logps": "f64", "rejected_logps": "f64"}
    values = {"chosen_logps": [-0.5, -1.0], "rejected_logps": [-1.5, -0.7]}
    out = given("all", "check/mean", {}, kinds, **values)
    stated(out["loss"], 0.05811234014, "orpo")
    stated(out["grad.chosen_logps"], [-0.01995832296, -0.04974830649], "orpo chosen")
    stated(out["grad.rejected_logps"], [0.01010849922, 0.06246724129], "orpo rejected")
    frame(())
    for beta in ("0.01", "0.25", "1", "2.5"):
        for reduction in REDUCTIONS:
            build(f"options/beta-{beta}-{reduction}", 3, {"beta": beta, "reduction": reduction}, (),
                  "all")
    for reduction in REDUCTIONS:
        build(f"nll/rows-{reduction}", 4, {"reduction": reduction}, ("chosen_nll",), "all")
    build("nll/one-mean", 3, {}, (), "all", shared={"chosen_nll": 0.75})
    build("nll/one-none", 3, {"reduction": "none"}, (), "all", shared={"chosen_nll": 0.75})
    build("nll/grad-output", 3, {"reduction": "none"}, ("chosen_nll",), (), None, "float")
    build("nll/rows-empty", 0, {}, ("chosen_nll",))
    build("range/near-0", 6, {"reduction": "none"}, (), range=(0.001, 0.0625))
    build("range/middle", 6, {"reduction": "none"}, (), range=(0.5, 0.9))
    build("range/far", 6, {"reduction": "none"}, (), range=(5.0, 30.0))
    # sigma(-o) of a large o is e^-o, with the absolute rounding of o: too coarse in f32.
    given((), "range/wide", {"reduction": "none"}, kinds,
          chosen_logps=[-0.0009765625, -30.0, -0.0078125, -60.0],
          rejected_logps=[-30.0, -0.0009765625, -60.0, -0.0078125])
    given((), "range/wide-losing", {"reduction": "none"}, chosen_logps=[-30.0, -60.0, -16.0],
          rejected_logps=[-0.0009765625, -0.0078125, -1.0])
    for reduction in REDUCTIONS:
        given((), f"certain/chosen-{reduction}", {"reduction": reduction},
              chosen_logps=[0.0, -1.0, 0.0], rejected_logps=[-1.5, -0.75, -0.0078125])
        given((), f"certain/rejected-{reduction}", {"reduction": reduction},
              chosen_logps=[-0.5, -1.0], rejected_logps=[0.0, -0.75])
    given(("chosen_rewards", "rejected_rewards"), "certain/chosen-rewards", {"beta": "0.5"},
          chosen_logps=[0.0, -1.0], rejected_logps=[-1.5, -0.75])
    given("all", "equal/none", {"reduction": "none"}, chosen_logps=[-0.5, -2.0],
          rejected_logps=[-0.5, -1.0])
    given((), "nonfinite/impossible-chosen", {"reduction": "none"}, chosen_logps=[-INF, -3.0],
          rejected_logps=[-4.0, -5.0])
    given((), "nonfinite/impossible-rejected", {"reduction": "none"}, chosen_logps=[-4.0, -3.0],
          rejected_logps=[-INF, -5.0])
    given((), "nonfinite/nan", {"reduction": "none"}, chosen_logps=[NAN, -3.0, -6.0],
          rejected_logps=[-4.0, -5.0, NAN])


def kto_main():
    flags = {"labels": "bool"}
    exact = {"logps": "f64", "ref_logps": "f64", "labels": "bool", "kl": "f64"}
    out = given("all", "check/mean", {}, exact, logps=[-10.0, -12.0], ref_logps=[-10.5, -11.0],
                labels=[True, False], kl=0.2)
    stated(out["loss"], 0.4812682553, "kto")
    stated(out["grad.logps"], [-0.01249718792, 0.01245510778], "kto grad")
    names = ("ref_logps", "labels")
    out = given("all", "check/bco", {"loss_type": "bco", "beta": "0.1"},
                {"logps": "f64", "ref_logps": "f64", "labels": "bool", "reward_shift": "f64"},
                logps=[-10.0, -12.0], ref_logps=[-10.5, -11.0], labels=[True, False], reward_shift=0.02)
    stated(out["loss"], 0.656602889, "bco")
    stated(out["grad.logps"], [-0.02462502812, 0.02350179741], "bco grad")
    for reduction in REDUCTIONS:
        for shift in (None, 0.0, 0.5, -2.0):
            build(f"bco/{reduction}-{shift}", 5, {"loss_type": "bco", "reduction": reduction}, names, "all", flags,
                  shared=None if shift is None else {"reward_shift": shift})
        build(f"bco/{reduction}-weights", 5, {"loss_type": "bco", "reduction": reduction, "desirable_weight": "0.5",
              "undesirable_weight": "1.5", "beta": "0.5"}, names, "all", flags, "float", shared={"reward_shift": 0.25})
    for count in (0, 1, 17):
        build(f"bco/rows-{count}", count, {"loss_type": "bco"}, names, "all", flags)
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"bco/{kind}", 4, {"loss_type": "bco"}, names, (), flags | {"reward_shift": kind}, shared={"reward_shift": 0.5})
    given("all", "bco/saturated", {"loss_type": "bco", "beta": "0.5", "reduction": "none"}, flags,
          logps=[-90.0, -90.0, -10.0, -10.0], ref_logps=[-10.0, -10.0, -100.0, -100.0], labels=[True, False, True, False])
    given((), "bco/impossible", {"loss_type": "bco", "reduction": "none"}, flags, logps=[-INF, -8.0],
          ref_logps=[-4.0, -6.0], labels=[True, True])
    given("all", "bco/other-type", {"loss_type": "kto"}, flags, logps=[-3.0, -8.0], ref_logps=[-4.0, -6.0],
          labels=[True, False], reward_shift=5.0)
    frame(names, kinds=flags)
    for kind in ("kto", "apo_zero_unpaired"):
        for reduction in REDUCTIONS:
            for weights in (("1", "1"), ("1.5", "1"), ("1", "0.25"), ("0.75", "1.25")):
                build(f"type/{kind}-{reduction}-{weights[0]}-{weights[1]}", 4,
                      {"loss_type": kind, "reduction": reduction, "desirable_weight": weights[0],
                       "undesirable_weight": weights[1]}, names, "all", {"labels": "u8"},
                      shared={"kl": 0.75} if kind == "kto" else None)
    for beta in ("0.01", "0.5", "2"):
        build(f"options/beta-{beta}", 4, {"beta": beta, "reduction": "none"}, names, "all", flags,
              shared={"kl": 1.5}, spread=1.0)
    for kl in (0.0, 0.25, 4.0, -0.5, -3.0):
        for reduction in ("none", "mean"):
            build(f"kl/{kl}-{reduction}", 4, {"reduction": reduction}, names, "all", flags,
                  shared={"kl": kl})
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"kl/{kind}", 4, {"reduction": "none"}, names, (), flags | {"kl": kind},
              shared={"kl": 1.25})
    build("kl/grad-output", 4, {"reduction": "none"}, names, (), flags, "float",
          shared={"kl": 1.25})
    build("kl/empty", 0, {}, names, "all", flags, shared={"kl": 1.25})
    for label in (True, False):
        given("all", f"labels/all-{label}".lower(), {"reduction": "none"}, flags,
              logps=[-3.0, -8.0, -5.0], ref_logps=[-4.0, -6.0, -5.0], labels=[label] * 3)
    given("all", "labels/any-not-0", {}, {"labels": "u8"}, logps=[-3.0, -8.0, -5.0],
          ref_logps=[-4.0, -6.0, -5.0], labels=[255, 0, 2])
    given("all", "saturated/none", {"beta": "0.5", "reduction": "none"}, flags,
          logps=[-90.0, -90.0, -70.0, -10.0, -10.0, -12.0],
          ref_logps=[-10.0, -10.0, -64.0, -100.0, -100.0, -12.0],
          labels=[True, False, True, True, False, False], kl=0.5)
    for label in (True, False):
        given((), f"nonfinite/impossible-{label}".lower(), {"reduction": "none"}, flags,
              logps=[-INF, -8.0], ref_logps=[-4.0, -6.0], labels=[label, True])
    given((), "nonfinite/nan", {"reduction": "none"}, flags, logps=[NAN, -8.0, NAN],
          ref_logps=[-4.0, -6.0, -3.0], labels=[True, False, False])
    given((), "nonfinite/nan-mean", {}, flags, logps=[NAN, -8.0], ref_logps=[-4.0, -6.0],
          labels=[True, False])


def pairwise_main():
    out = given("all", "check/centre", {"centre": "0.01"}, {"chosen_scores": "f64", "rejected_scores": "f64"},
                chosen_scores=[1.0, -0.5], rejected_scores=[0.2, 0.3])
    stated(out["loss"], 0.7785006659, "centre")
    stated(out["grad.chosen_scores"], [-0.1430127594, -0.3469872406], "centre grad")
    for centre in ("0", "0.01", "0.5", "4"):
        for reduction in REDUCTIONS:
            build(f"centre/{centre}-{reduction}", 5, {"centre": centre, "reduction": reduction}, (), "all", None, "float")
        build(f"centre/{centre}-margin", 5, {"centre": centre, "reduction": "none"}, ("margin",), "all")
        for count in (0, 1, 17):
            build(f"centre/{centre}-rows-{count}", count, {"centre": centre}, (), "all")
    frame(("margin",))
    for reduction in REDUCTIONS:
        build(f"margin/absent-{reduction}", 4, {"reduction": reduction}, (), "all")
        for margin in (0.0, 0.5, -1.25):
            build(f"margin/one-{margin}-{reduction}", 4, {"reduction": reduction}, (), "all",
                  shared={"margin": margin})
        build(f"margin/one-grad-output-{reduction}", 3, {"reduction": reduction}, (), (), None,
              "float", shared={"margin": 0.75})
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"margin/one-{kind}", 3, {}, (), (), {"margin": kind}, shared={"margin": 0.75})
    build("margin/one-empty", 0, {}, (), (), shared={"margin": 0.75})
    build("margin/absent-empty", 0, {}, (), ())
    build("margin/absent-29", 29, {}, (), "all")
    given("all", "saturated/none", {"reduction": "none"},
          chosen_scores=[-40.0, -20.0, 0.0, 0.5, 20.0, 40.0, 64.0],
          rejected_scores=[40.0, 20.0, 0.0, -0.25, -20.0, -30.0, -16.0])
    # ln 2 = 0.6931471805599453 where nothing separates the two; margins are those of the scores
    out = given("all", "equal/none", {"reduction": "none"}, chosen_scores=[1.5, -2.0],
                rejected_scores=[1.5, -3.0], margin=[0.0, 1.0])
    stated(out["loss"], [math.log(2)] * 2, "pairwise_logistic")
    stated(out["grad.chosen_scores"], [-0.5] * 2, "pairwise_logistic grad")
    given((), "nonfinite/impossible-chosen", {"reduction": "none"}, chosen_scores=[-INF, 1.0],
          rejected_scores=[0.5, 2.0])
    given((), "nonfinite/impossible-rejected", {"reduction": "none"}, chosen_scores=[0.5, 1.0],
          rejected_scores=[-INF, 2.0])
    given((), "nonfinite/nan", {"reduction": "none"}, chosen_scores=[NAN, 1.0, 2.0],
          rejected_scores=[0.5, 2.0, NAN])
    given((), "nonfinite/nan-margin", {"reduction": "none"}, chosen_scores=[0.5, 1.0],
          rejected_scores=[0.5, 2.0], margin=[0.0, NAN])


def value_clip_main():
    names = ("old_values", "returns")
    flags = {"mask": "bool"}
    kinds = {"values": "f64", "old_values": "f64", "returns": "f64"}
    values = {"values": [1.0, 2.0, -0.5], "old_values": [0.5, 2.1, 0.0], "returns": [2.0, 1.0, 0.2]}
    out = given((), "check/none", {"reduction": "none"}, kinds, **values)
    stated(out["loss"], [0.845, 0.5, 0.245], "value_clip")
    stated(out["grad.values"], [0, 1, -0.7], "value_clip grad")
    out = given((), "check/huber", {"base": "huber", "delta": "0.5"}, kinds, **values)
    stated(out["loss"], 0.375, "huber")
    for base in ("mse", "huber"):
        for reduction in REDUCTIONS:
            for eps in ("0.2", "off", "1"):
                options = {"base": base, "reduction": reduction, "eps": eps, "delta": "0.75"}
                build(f"newer/{base}-{reduction}-{eps}", 6, options, names)
                build(f"newer/{base}-{reduction}-{eps}-mask", 6, options, names + ("mask",), (), flags, "float")
            build(f"newer/{base}-{reduction}-alone", 6, {"base": base, "reduction": reduction, "eps": "off", "delta": "0.75"},
                  ("returns",))
        for items in ("0.5", "7"):
            build(f"newer/{base}-items-{items}", 6, {"base": base, "num_items": items}, names + ("mask",), (), flags)
        for delta in ("0.25", "2", "10"):
            build(f"newer/{base}-delta-{delta}", 12, {"base": base, "delta": delta}, names, near=2.0)
    given((), "newer/unread", {"eps": "off"}, values=[0.5, 1.0], old_values=[NAN, INF], returns=[0.25, 2.0])
    for eps in ("0.01", "0.1", "0.2", "0.25", "0.5", "1", "10"):
        build(f"eps/{eps}", 6, {"eps": eps}, names)
        build(f"eps/{eps}-mask", 6, {"eps": eps}, names + ("mask",), (), flags)
    build("grad-output/plain", 5, {}, names, (), None, "float")
    build("grad-output/mask", 5, {}, names + ("mask",), (), {"mask": "u8"}, "float")
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"dtype/{kind}", 5, {}, names + ("mask",), (),
              {"mask": "bool", "old_values": kind, "returns": kind}, kind)
    for count in (1, 2, 8, 17, 40, 70):
        build(f"rows/{count}", count, {}, names + ("mask",) if count > 2 else names, (), flags)
    build("rows/near", 12, {}, names, near=0.05)
    build("rows/far", 12, {}, names, near=2.0)
    build("empty/plain", 0, {}, names)
    build("empty/mask", 0, {}, names + ("mask",), (), flags)
    given((), "empty/masked", {}, {"mask": "bool"}, values=[0.5, NAN], old_values=[1.0, 2.0],
          returns=[0.25, 1.0], mask=[False, False])
    given((), "mask/nan", {}, {"mask": "u8"}, values=[0.5, NAN, INF, 1.0, 2.0],
          old_values=[1.0, 2.0, 0.5, NAN, 2.25], returns=[0.25, 1.0, -INF, 2.0, 1.0],
          mask=[1, 0, 0, 0, 255])
    # The ends of the interval count as inside; half a gradient where both squares are equal and
    # one of them is clipped: v = 1 clipped to 0.5 about 0.75, and its mirror image.
    out = given((), "kink/ends", {"eps": "0.5"}, values=[1.5, 0.5, 1.5, 0.5],
                old_values=[1.0] * 4, returns=[4.0, 4.0, -4.0, -4.0])
    stated(out["grad.values"], [-0.625, -0.875, 1.375, 1.125], "value_clip ends")
    out = given((), "kink/equal", {"eps": "0.5"}, values=[1.0, -1.0, 0.25],
                old_values=[0.0, 0.0, 0.0], returns=[0.75, -0.75, 0.25])
    stated(out["loss"], (0.0625 + 0.0625) / 6, "value_clip equal")
    stated(out["grad.values"], [0.25 / 6, -0.25 / 6, 0], "value_clip equal grad")
    # One of each branch: inside; clipped with the unclipped square larger; with the other larger.
    for name, v in (("inside", 0.125), ("above", 1.5), ("below", -1.5)):
        for target in (-3.0, 3.0):
            given((), f"branch/{name}-{target}", {}, values=[v], old_values=[0.0],
                  returns=[target])
    given((), "nonfinite/nan", {}, values=[NAN, 1.0], old_values=[0.5, 0.75], returns=[0.5, 2.0])
    given((), "nonfinite/nan-return", {}, values=[1.0, 1.0], old_values=[0.5, 0.75],
          returns=[NAN, 2.0])


MAINS = {"dpo": dpo_main, "cpo": shifted_main, "simpo": shifted_main, "orpo": orpo_main,
         "kto": kto_main, "pairwise_logistic": pairwise_main, "value_clip": value_clip_main}


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
