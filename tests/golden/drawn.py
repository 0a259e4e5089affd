#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of composite: graphs drawn at random, and their values and gradients by autograd.

A graph has up to eight parts, in any order: producers (log-probabilities from logits or from a linear head, losses
of rows, advantages), and losses that read each other's outputs or the tensors of the request, which several parts
may share. What a part computes is written down here once, as torch would in a training loop.

usage: drawn.py [--count N] [--seed WORD] [FILE]

Without arguments: the file beside this one. Others than these: drawn.py --count 2000 --seed 7 /tmp/some/drawn.jsonl,
then test_golden /tmp/some.
"""
import argparse
import json
import math
import pathlib
import random

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
F64 = torch.float64
ZERO = torch.zeros((), dtype=F64)
LARGEST = 30.0  # of any number in a case: beyond, roundings are more than the bounds of the test


class Undrawable(Exception):
    """There is nothing to give to an input, or a number is too large or too uncertain."""


# What the parts compute: from tensors and options to outputs. `loss` is there unless it is a transform.


def picked(logits, targets, mask=None, shift=0):
    """Log-probabilities and entropies of the targets, and which count; position t is scored against t + shift."""
    B, T, V = logits.shape
    y, live = torch.full((B, T), -100), torch.zeros(B, T, dtype=torch.bool)
    if shift < T:
        y[:, :T - shift] = targets[:, shift:]
        live[:, :T - shift] = True if mask is None else mask[:, shift:]
    live = live & (y != -100)
    l = torch.log_softmax(logits, -1)
    lp = l.gather(-1, y.clamp(min=0)[..., None])[..., 0]
    return torch.where(live, lp, ZERO), torch.where(live, -(l.exp() * l).sum(-1), ZERO), live, l, y


def softplus(x):
    """Without the threshold of torch.nn.functional.softplus, beyond which the tail is left out."""
    return -F.logsigmoid(-x)


def scored(x, options):
    c = options.get("softcap")
    x = x if c is None else c * torch.tanh(x / c)
    return x * options.get("logit_scale", 1)


def token_logprobs(t, o):
    lp, h, live, _, _ = picked(scored(t["logits"], o), t["targets"], t.get("mask"), o.get("shift", 0))
    count = live.sum(1)
    mean = torch.where(count > 0, lp.sum(1) / count.clamp(min=1), ZERO)
    return {"logprobs": lp, "entropy": h, "sequence_logprobs": lp.sum(1), "mean_logprobs": mean, "loss": lp.sum()}


def head(t):
    x = t["hidden"] @ t["weight"].T
    return x + t["bias"] if "bias" in t else x


def linear_token_logprobs(t, o):
    return token_logprobs({**t, "logits": head(t)}, o)


def reduced(rows, o, weights=None, divisor=None):
    rows = rows if weights is None else rows * weights
    kind = o.get("reduction", "mean")
    if kind == "none":
        return {"loss": rows}
    total = rows.sum()
    return {"loss": total if kind == "sum" else total / (rows.numel() if divisor is None else divisor)}


def sequence_cross_entropy(t, o):
    x, eps = t["logits"], o.get("label_smoothing", 0)
    lp, _, live, l, y = picked(x, t["targets"], t.get("mask"), o.get("shift", 0))
    rows = -(1 - eps) * lp - eps * torch.where(live, l.mean(-1), ZERO)
    z = torch.where(live, o.get("z_loss", 0) * torch.logsumexp(x, -1) ** 2, ZERO)
    m = live.to(F64)
    if "position_weight" in t:
        moved, shift = torch.zeros_like(m), o.get("shift", 0)
        moved[:, :m.shape[1] - shift] = t["position_weight"][:, shift:]
        m = m * moved
    kind = o.get("reduction", "mean")
    rows = torch.where(live, m * (rows + z), ZERO)
    if kind == "mean_of_sequence_means":
        n = m.sum(1)
        return {"loss": (rows.sum(1)[n != 0] / n[n != 0]).mean()}
    return reduced(rows, o, None, m.sum())


def linear_cross_entropy(t, o):
    return sequence_cross_entropy({**t, "logits": head(t)}, o)


def cross_entropy(t, o):
    weights = t.get("sample_weight")
    rows = F.cross_entropy(t["logits"], t["targets"], reduction="none")
    return reduced(rows, o, weights, None if weights is None else weights.sum())


def distillation(t, o):
    tau = o.get("temperature", 1)
    l, q = (torch.log_softmax(t[k] / tau, -1) for k in ("student_logits", "teacher_logits"))
    q = q.detach()
    if o.get("divergence") == "reverse_kl":
        rows = (l.exp() * (l - q)).sum(-1)
    else:
        rows = (q.exp() * (q - l)).sum(-1)
    return reduced(rows * tau ** 2, o)


def policy_gradient(t, o):
    lp = t["logprobs"]
    m = t["mask"].to(F64) if "mask" in t else torch.ones_like(lp)
    a = t["advantages"] if t["advantages"].dim() == 2 else t["advantages"][:, None].expand_as(lp)
    x = lp - t.get("old_logprobs", lp.detach())
    w, kind = x.exp(), o.get("objective", "clip")
    if kind == "clip":
        l = -torch.minimum(w * a, w.clamp(1 - o.get("eps_low", 0.2), 1 + o.get("eps_high", 0.2)) * a)
    elif kind == "cispo":
        l = -w.clamp(0, o.get("ratio_high", 5)).detach() * a * lp
    elif kind == "importance":
        l = -w * a
    elif kind == "sapo":
        tau = torch.where(a > 0, torch.tensor(1, dtype=F64), torch.tensor(1.05, dtype=F64))
        l = -4 / tau * torch.sigmoid(tau * (w - 1)) * a
    elif kind == "dro":
        l = -(a * lp - o["dro_beta"] * x ** 2 / 2)
    else:
        l = -a * lp
    if "is_weights" in t:
        l = l * t["is_weights"]
    if "ref_logprobs" in t and o.get("kl_weight"):
        d = lp - t["ref_logprobs"]
        k = {"k1": d, "k2": d ** 2 / 2, "k3": torch.expm1(-d) + d, "abs": d.abs()}[o.get("kl_estimator", "k3")]
        l = l + o["kl_weight"] * k
    if "entropy" in t:
        l = l - o.get("entropy_weight", 0) * t["entropy"]
    n, kind = m.sum(1), o.get("aggregation", "token_mean")
    if kind == "sequence_mean":
        return {"loss": ((l * m).sum(1) / n.clamp(min=1)).mean()}
    return {"loss": (l * m).sum() / (o["num_items"] if kind == "num_items" else m.sum())}


def dpo(t, o):
    c, r = t["chosen_logps"] - t.get("ref_chosen_logps", 0), t["rejected_logps"] - t.get("ref_rejected_logps", 0)
    beta, eps, kind = o.get("beta", 0.1), o.get("label_smoothing", 0), o.get("loss_type", "sigmoid")
    u = beta * (c - r)
    rows = {"sigmoid": lambda: (1 - eps) * softplus(-u) + eps * softplus(u), "hinge": lambda: F.relu(1 - u),
            "ipo": lambda: (c - r - 1 / (2 * beta)) ** 2,
            "bco_pair": lambda: softplus(-beta * c) + softplus(beta * r),
            "apo_zero": lambda: torch.sigmoid(-beta * c) + torch.sigmoid(beta * r)}[kind]()
    return {**reduced(rows * t["pair_weight"] if "pair_weight" in t else rows, o),
            "margins": (u).detach(), "chosen_rewards": (beta * c).detach()}


def simpo(t, o):
    u = o.get("beta", 2) * (t["chosen_logps"] - t["rejected_logps"]) - o.get("gamma", 0.5)
    return reduced(softplus(-u), o)


def orpo(t, o):
    c, r = t["chosen_logps"], t["rejected_logps"]
    odds = c - r - torch.log(-torch.expm1(c)) + torch.log(-torch.expm1(r))
    return reduced(o.get("beta", 0.1) * softplus(-odds), o)


def kto(t, o):
    z = t["kl"].clamp(min=0) if "kl" in t else 0
    x, beta = t["logps"] - t["ref_logps"], o.get("beta", 0.1)
    v = torch.where(t["labels"], beta * (x - z), beta * (z - x))
    weight = torch.where(t["labels"], o.get("desirable_weight", 1.0), o.get("undesirable_weight", 1.0)).to(F64)
    return reduced(weight * (1 - torch.sigmoid(v)), o)


def pairwise_logistic(t, o):
    c, r = t["chosen_scores"], t["rejected_scores"]
    return reduced(softplus(-(c - r - t.get("margin", 0))) + o.get("centre", 0) * (c + r) ** 2, o)


def elementwise(value):
    def whole(t, o):
        r = t["a"] - t["b"]
        w = t.get("sample_weight", torch.ones_like(r))
        if "mask" in t:
            w = w * t["mask"]
        return reduced(value(r, o), o, w, w.sum())

    return whole


def soft_margin(t, o):
    return reduced(softplus(-t["target"] * t["input"]), o)


def value_clip(t, o):
    v, old, goal, eps = t["values"], t["old_values"], t["returns"], o.get("eps", 0.2)
    near = torch.minimum(torch.maximum(v, old - eps), old + eps)
    return reduced(torch.maximum((v - goal) ** 2, (near - goal) ** 2) / 2, o)


def gaussian_nll(t, o):
    v = t["var"]
    return reduced((torch.log(v) + (t["input"] - t["target"]) ** 2 / v) / 2, o)


def bce_with_logits(t, o):
    rows = F.binary_cross_entropy_with_logits(t["logits"], t["targets"], reduction="none",
                                              pos_weight=t.get("pos_weight"))
    return reduced(rows * t["weight"] if "weight" in t else rows, o)


def list_mle(t, o):
    order = torch.argsort(t["labels"], dim=-1, descending=True, stable=True)
    s = t["scores"].gather(-1, order)
    later = torch.flip(torch.logcumsumexp(torch.flip(s, [-1]), -1), [-1])
    return reduced((later - s).sum(-1), o)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def cosine_similarity(t, o):
    s = (unit(t["a"]) * unit(t["b"])).sum(-1)
    return reduced((s - t["target"]) ** 2 if "target" in t else 1 - s, o)


def info_nce(t, o):
    s = unit(t["anchors"]) @ unit(t["candidates"]).T / t["temperature"]
    return reduced(F.cross_entropy(s, torch.arange(s.shape[0]), reduction="none"), o)


def router_z(t, o):
    return reduced(torch.logsumexp(t["router_logits"], -1) ** 2, o)


def group_advantages(t, o):
    r, G = t["rewards"].reshape(-1, o["group_size"]), o["group_size"]
    base = r.mean(1, keepdim=True)
    if o.get("baseline") == "leave_one_out":
        base = (r.sum(1, keepdim=True) - r) / (G - 1)
    std = r.std(1, keepdim=True) + 1e-4 if o.get("scale") != "none" else torch.ones(())
    if std.min() < 0.05:
        raise Undrawable  # what it divides is rounding errors
    return {"advantages": ((r - base) / std).reshape(-1)}


def gae(t, o):
    r, v = t["rewards"], t["values"]
    out, after, value = torch.zeros_like(r), torch.zeros_like(r[:, 0]), torch.zeros_like(r[:, 0])
    for i in reversed(range(r.shape[1])):
        after = r[:, i] + o["gamma"] * value - v[:, i] + o["gamma"] * o["lambda"] * after
        out[:, i], value = after, v[:, i]
    return {"advantages": out, "returns": out + v}


# How parts are drawn. An input is (kind, differentiable): `rows` [B], `steps` [B,T], `one` []; others are tensors of the
# request. A kind that ends with ? may be left out.

ROWS, STEPS, ONE = "rows", "steps", "one"
REDUCED = {"reduction": ["none", "mean", "sum"]}
PAIR = {"a": ("like", True), "b": ("like", True), "sample_weight": ("like?", False), "mask": ("mask?", False)}
ELEMENT = {
    "mse": lambda r, o: r ** 2,
    "mae": lambda r, o: r.abs(),
    "huber": lambda r, o: F.huber_loss(r, torch.zeros_like(r), reduction="none", delta=o.get("delta", 1.0)),
    "smooth_l1": lambda r, o: F.smooth_l1_loss(r, torch.zeros_like(r), reduction="none", beta=o.get("beta", 1.0)),
    "log_cosh": lambda r, o: r.abs() + torch.log1p(torch.exp(-2 * r.abs())) - math.log(2),
    "quantile": lambda r, o: torch.maximum(-o.get("quantile", 0.5) * r, (1 - o.get("quantile", 0.5)) * r),
}
SCORED = {"shift": [0, 0, 1], "softcap": [None, None, 4.0], "logit_scale": [1, 1, 0.5]}
SCORES = {"reduction": ["none", "mean", "sum", "mean_of_sequence_means"], "shift": [0, 0, 1],
          "label_smoothing": [0, 0, 0.125], "z_loss": [0, 0, 0.0625]}
KINDS = {
    "token_logprobs": (token_logprobs, {"logits": ("logits", True), "targets": ("tokens", False),
                                        "mask": ("mask2?", False)}, SCORED),
    "linear_token_logprobs": (linear_token_logprobs, {
        "hidden": ("hidden", True), "weight": ("head", True), "bias": ("bias?", True), "targets": ("tokens", False),
        "mask": ("mask2?", False)}, SCORED),
    "sequence_cross_entropy": (sequence_cross_entropy, {
        "logits": ("logits", True), "targets": ("tokens", False), "mask": ("mask2?", False),
        "position_weight": ("steps?", False)}, SCORES),
    "linear_cross_entropy": (linear_cross_entropy, {
        "hidden": ("hidden", True), "weight": ("head", True), "bias": ("bias?", True),
        "targets": ("tokens", False)}, SCORES),
    "cross_entropy": (cross_entropy, {"logits": ("classes", True), "targets": ("labels", False),
                                      "sample_weight": ("rows?", False)}, REDUCED),
    "distillation": (distillation, {"student_logits": ("logits", True), "teacher_logits": ("logits", False)},
                     {**REDUCED, "divergence": ["forward_kl", "reverse_kl"], "temperature": [1, 2]}),
    "policy_gradient": (policy_gradient, {
        "logprobs": (STEPS, True), "old_logprobs": ("near?", False), "ref_logprobs": ("near?", False),
        "advantages": ("rows|steps", False), "mask": ("mask2?", False), "is_weights": ("steps?", False),
        "entropy": ("steps?", True)},
        {"objective": ["clip", "clip", "cispo", "importance", "reinforce", "dro", "sapo"],
         "kl_weight": [0, 0.25], "kl_estimator": ["k3", "k1", "k2", "abs"], "entropy_weight": [0.125, -0.5, 0],
         "aggregation": ["token_mean", "sequence_mean", "num_items"]}),
    "dpo": (dpo, {"chosen_logps": (ROWS, True), "rejected_logps": (ROWS, True), "ref_chosen_logps": ("rows?", False),
                  "ref_rejected_logps": ("rows?", False), "pair_weight": ("rows?", False)},
            {**REDUCED, "beta": [0.1, 1], "loss_type": ["sigmoid", "sigmoid", "hinge", "ipo", "bco_pair", "apo_zero"]}),
    "simpo": (simpo, {"chosen_logps": (ROWS, True), "rejected_logps": (ROWS, True)}, {**REDUCED, "beta": [0.5, 2]}),
    "orpo": (orpo, {"chosen_logps": ("mean", True), "rejected_logps": ("mean", True)}, {**REDUCED, "beta": [0.1, 1]}),
    "kto": (kto, {"logps": (ROWS, True), "ref_logps": (ROWS, False), "labels": ("flags", False), "kl": ("one?", False)},
            {**REDUCED, "beta": [0.1, 1], "desirable_weight": [1, 0.5], "undesirable_weight": [1, 2]}),
    "pairwise_logistic": (pairwise_logistic, {"chosen_scores": (ROWS, True), "rejected_scores": (ROWS, True),
                                              "margin": ("rows|one?", False)}, {**REDUCED, "centre": [0, 0.25]}),
    "soft_margin": (soft_margin, {"input": ("like", True), "target": ("like", False)}, REDUCED),
    "value_clip": (value_clip, {"values": ("like", True), "old_values": ("like", False), "returns": ("like", False)},
                   {**REDUCED, "eps": [0.2, 1]}),
    "gaussian_nll": (gaussian_nll, {"input": ("like", True), "target": ("like", False), "var": ("positive", True)},
                     REDUCED),
    "bce_with_logits": (bce_with_logits, {"logits": ("like", True), "targets": ("shares", False),
                                          "weight": ("like?", False), "pos_weight": ("one?", False)}, REDUCED),
    "list_mle": (list_mle, {"scores": (STEPS, True), "labels": (STEPS, False)}, REDUCED),
    "cosine_similarity": (cosine_similarity, {"a": ("vectors", True), "b": ("vectors", True),
                                              "target": ("rows?", True)}, REDUCED),
    "info_nce": (info_nce, {"anchors": ("vectors", True), "candidates": ("vectors", True),
                            "temperature": ("temperature", True)}, REDUCED),
    "router_z": (router_z, {"router_logits": ("classes", True)}, REDUCED),
    "group_advantages": (group_advantages, {"rewards": (ROWS, False)},
                         {"scale": ["group", "none"], "baseline": ["mean", "leave_one_out"]}),
    "gae": (gae, {"rewards": (STEPS, False), "values": (STEPS, False)}, {"gamma": [1, 0.9], "lambda": [0.95, 0.5]}),
    **{name: (elementwise(value), PAIR, {**REDUCED, **more}) for (name, value), more in zip(ELEMENT.items(), [
        {}, {}, {"delta": [1, 0.5]}, {"beta": [1, 0.5]}, {}, {"quantile": [0.5, 0.9]}])},
}
DEFAULTS = {"reduction": "mean", "objective": "clip", "aggregation": "token_mean", "kl_estimator": "k3", "shift": 0,
            "logit_scale": 1, "label_smoothing": 0, "z_loss": 0, "loss_type": "sigmoid", "divergence": "forward_kl",
            "scale": "group", "baseline": "mean", "kl_weight": 0}
CARRIED = ("loss", "logprobs", "entropy", "sequence_logprobs", "mean_logprobs")  # outputs that are differentiated
TRANSFORMS = ("gae", "group_advantages")
# Tensors that may have the name of the input that reads them: no part takes one of these unasked.
OWN = ("logits", "hidden", "logprobs", "a", "b", "chosen_logps", "rejected_logps", "scores", "input", "anchors", "candidates",
       "student_logits", "router_logits", "values", "returns", "rewards", "logps")


class Part:
    def __init__(self, loss, options, weight):
        self.loss, self.options, self.weight = loss, options, weight
        self.inputs, self.outputs, self.name = {}, {}, None


class Graph:
    def __init__(self, word):
        self.r = random.Random(word)
        r = self.r
        self.B, self.T, self.V, self.D = r.choice([2, 4]), r.randint(2, 4), r.randint(2, 6), r.randint(2, 4)
        self.tensors, self.types, self.kind_of, self.parts = {}, {}, {}, []

    # Tensors of the request.

    def normal(self, *shape, spread=1.0):
        data = [self.r.gauss(0, spread) for _ in range(math.prod(shape))]
        return torch.tensor(data, dtype=F64).reshape(shape)

    def made(self, kind):
        r, B, T, V, D = self.r, self.B, self.T, self.V, self.D
        if kind == "tokens":
            y = torch.tensor([[r.randrange(V) if r.random() < 0.8 else -100 for _ in range(T)] for _ in range(B)])
            y[:, T - 1] = r.randrange(V)  # of each row one that counts, shifted by 1 too
            return y, "i64"
        if kind in ("labels", "flags", "mask2", "mask"):
            shape = {"labels": (B,), "flags": (B,), "mask": (B,), "mask2": (B, T)}[kind]
            if kind == "labels":
                return torch.tensor([r.randrange(V) for _ in range(B)]), "i64"
            m = torch.tensor([r.random() < 0.7 for _ in range(math.prod(shape))]).reshape(shape)
            m[..., -1] = True
            return m, "bool"
        x = {"logits": lambda: self.normal(B, T, V), "hidden": lambda: self.normal(B, T, D),
             "head": lambda: self.normal(V, D), "bias": lambda: self.normal(V), "classes": lambda: self.normal(B, V),
             "vectors": lambda: self.normal(B, D), ROWS: lambda: self.normal(B), STEPS: lambda: self.normal(B, T),
             ONE: lambda: self.normal(), "near": lambda: -self.normal(B, T).abs(),
             "temperature": lambda: torch.tensor(r.uniform(0.2, 2), dtype=F64)}[kind]()
        return x, "f64"

    def tensor(self, kind, inp):
        """The name of a tensor of that kind: one that is there, or a new one."""
        there = [n for n, k in self.kind_of.items() if k == kind]
        if there and self.r.random() < 0.6:
            return self.r.choice(there)
        name = inp if self.r.random() < 0.4 and inp in OWN and inp not in self.tensors else f"{kind}{len(self.tensors)}"
        x, self.types[name] = self.made(kind)
        self.tensors[name] = x.requires_grad_(True) if x.dtype == F64 else x
        self.kind_of[name] = kind
        return name

    def edge(self, shape, only=None):
        """An output of a part with that shape, or None."""
        ends = [(p, o) for p in self.parts for o, x in p.outputs.items()
                if tuple(x.shape) == shape and (only is None or o in only)]
        return self.r.choice(ends) if ends else None

    def source(self, inp, kind, differentiable, like):
        r = self.r
        if kind.endswith("?"):
            if r.random() < 0.5:
                return None
            kind = kind[:-1]
        kind = r.choice(kind.split("|"))
        shapes = {ROWS: (self.B,), STEPS: (self.B, self.T), ONE: (), "near": (self.B, self.T)}
        if kind in ("like", "positive", "shares"):
            shape = like
        elif kind == "mean":
            end = self.edge((self.B,), ("mean_logprobs",))
            if end is None:
                raise Undrawable
            return end
        elif kind == "mask" and like is not None:
            kind = {0: None, 1: "mask", 2: "mask2"}[len(like)]
            return kind and self.tensor(kind, inp)
        else:
            shape = shapes.get(kind)
        if kind in ("positive", "shares"):
            name = f"{kind}{len(self.tensors)}"
            x = self.normal(*like)
            x = x.abs() + 0.3 if kind == "positive" else torch.sigmoid(x)
            self.tensors[name], self.types[name], self.kind_of[name] = x.requires_grad_(True), "f64", name
            return name
        if shape is not None and r.random() < (0.75 if kind != "near" else 0.3):
            end = self.edge(shape, ("logprobs",) if kind == "near" else None)
            if end is not None:
                return end
        return self.tensor({(): ONE, (self.B,): ROWS, (self.B, self.T): STEPS}[shape] if kind == "like" else kind, inp)

    def add(self, loss):
        r, (compute, inputs, choices) = self.r, KINDS[loss]
        options = {k: v for k, v in ((k, r.choice(c)) for k, c in choices.items()) if v is not None}
        if loss == "group_advantages":
            options["group_size"] = 2
        if options.get("objective") == "dro":
            options["dro_beta"] = 0.5
        if options.get("aggregation") == "num_items":
            options["num_items"] = 7
        part = Part(loss, options, None)
        like = r.choice([(self.B,), (self.B, self.T), (self.B, self.T), ()])
        for inp, (kind, differentiable) in inputs.items():
            source = self.source(inp, kind, differentiable, like)
            if source is not None:
                part.inputs[inp] = source
        if loss == "policy_gradient":
            if "ref_logprobs" not in part.inputs:
                options.pop("kl_weight", 0)
            if "entropy" not in part.inputs:
                options.pop("entropy_weight", 0)
        values = {i: self.value(i, s, loss) for i, s in part.inputs.items()}
        if any(abs(float(values[i].sum())) < 0.05 for i in ("sample_weight", "position_weight") if i in values):
            raise Undrawable  # what it divides is rounding errors
        part.outputs = compute(values, options)
        for x in part.outputs.values():
            if not bool(torch.isfinite(x).all()) or float(x.detach().abs().max()) > LARGEST:
                raise Undrawable
        part.options = {k: v for k, v in options.items() if v != DEFAULTS.get(k) or r.random() < 0.2}
        self.parts.append(part)

    def value(self, inp, source, loss):
        x = self.tensors[source] if isinstance(source, str) else source[0].outputs[source[1]]
        carried = isinstance(source, str) or source[1] in CARRIED
        return x if KINDS[loss][1][inp][1] and carried and x.dtype == F64 else x.detach()

    # The graph as a whole.

    def is_read(self, part):
        return any(not isinstance(s, str) and s[0] is part for p in self.parts for s in p.inputs.values())

    def finish(self, word):
        r, parts = self.r, self.parts
        r.shuffle(parts)
        for k, p in enumerate(parts):
            p.name = f"{p.loss[:9]}_{k}" if r.random() < 0.5 else None
        uncertain = r.random() < 0.25
        for p in parts:
            scalar = "loss" in p.outputs and p.outputs["loss"].dim() == 0
            free = not uncertain and scalar and p.loss not in TRANSFORMS
            p.weight = r.choice([0.5, -0.25, 2, 0]) if free and r.random() < (0.3 if self.is_read(p) else 0.5) else None
        outer = [p for p in parts if p.weight is not None or not (self.is_read(p) or p.loss in TRANSFORMS)]
        if not outer or any(p.outputs["loss"].dim() > 0 for p in outer):
            raise Undrawable
        total, options = ZERO, {}
        if uncertain:
            s = self.normal(len(parts)).requires_grad_(True)
            scales = [r.choice([1, 0.5]) for _ in parts]
            self.tensors["log_vars"], self.types["log_vars"] = s, "f64"
            options = {"combine": "uncertainty", "scales": ",".join(map(str, scales))}
            for k, p in enumerate(parts):
                if p in outer:
                    total = total + scales[k] * torch.exp(-s[k]) * p.outputs["loss"] + s[k] / 2
        else:
            w = torch.ones(len(parts), dtype=F64)
            if r.random() < 0.3:
                w = self.normal(len(parts)).requires_grad_(True)
                self.tensors["weights"], self.types["weights"] = w, "f64"
            for k, p in enumerate(parts):
                if p in outer:
                    total = total + (1 if p.weight is None else p.weight) * w[k] * p.outputs["loss"]
        up = 1.0
        if r.random() < 0.3:
            up = r.gauss(0, 1)
            self.tensors["grad_output"], self.types["grad_output"] = torch.tensor(up, dtype=F64), "f64"
        return self.case(word, options, total, up, outer)

    def reached(self, outer):
        """The tensors that have a gradient: differentiated by parts that count, or that such parts read."""
        live = list(outer)
        for p in live:
            for i, s in p.inputs.items():
                if not isinstance(s, str) and KINDS[p.loss][1][i][1] and s[1] in CARRIED and s[0] not in live:
                    live.append(s[0])
        return {s for p in live for i, s in p.inputs.items() if isinstance(s, str) and KINDS[p.loss][1][i][1]}

    def case(self, word, options, total, up, outer):
        r, parts = self.r, self.parts

        def reference(source):
            part = source[0]
            k = part.name if part.name and r.random() < 0.7 else parts.index(part)
            return f"part.{k}.{source[1]}"

        told = []
        for p in parts:
            every = KINDS[p.loss][1]
            inputs = {i: s if isinstance(s, str) else reference(s) for i, s in p.inputs.items()}
            inputs = {i: s for i, s in inputs.items() if i != s or r.random() < 0.5}
            for i, (kind, _) in every.items():  # what is not given may be told to be so
                if i not in p.inputs and kind.endswith("?") and r.random() < 0.2:
                    inputs[i] = None
            more = {"name": p.name, "weight": p.weight, "inputs": inputs or None, "options": p.options or None}
            told.append({"loss": p.loss, **{k: v for k, v in more.items() if v is not None}})
        used = {s for p in parts for s in p.inputs.values() if isinstance(s, str)}
        asked = sorted(n for n in self.reached(outer) if self.types[n] == "f64")
        if not asked:
            raise Undrawable  # a composite needs a tensor that it can differentiate
        asked += [n for n in ("log_vars", "weights") if n in self.tensors]
        grads = torch.autograd.grad(total, [self.tensors[n] for n in asked], torch.tensor(up, dtype=F64),
                                    allow_unused=True)
        values = [p.outputs["loss"].detach().sum() if "loss" in p.outputs else ZERO for p in parts]
        outputs = {"loss": total.detach(), "parts": torch.stack(values)}
        for n, g in zip(asked, grads):
            outputs["grad." + n] = torch.zeros_like(self.tensors[n]) if g is None else g
        for k, p in enumerate(parts):
            for o, x in p.outputs.items():
                if r.random() < 0.2 and len(outputs) < 15:
                    outputs[f"part.{k}.{o}"] = x.detach()
        if max(float(x.abs().max()) for x in outputs.values()) > LARGEST:
            raise Undrawable
        sent = {n: x for n, x in self.tensors.items() if n in used or n in ("log_vars", "weights", "grad_output")}
        # The first tensor is one of floats: it says of which type the case is.
        sent = dict(sorted(sent.items(), key=lambda item: self.types[item[0]] != "f64"))
        return json.dumps({
            "case": f"drawn/{word}", "loss": "composite",
            "inputs": {n: {"dtype": self.types[n], **listed(x.detach())} for n, x in sent.items()},
            "options": {"parts": json.dumps(told), **options},
            "outputs": {n: listed(x) for n, x in outputs.items()}, "exact": True}, separators=(",", ":"))


def listed(x):
    return {"shape": list(x.shape), "data": x.reshape(-1).tolist()}


def drawn(word):
    """A graph that reads itself somewhere: drawn again until there is one."""
    for attempt in range(10000):
        g = Graph(f"{word} {attempt}")
        try:
            for _ in range(g.r.randint(1, 3)):
                g.add(g.r.choice(["token_logprobs", "linear_token_logprobs", "sequence_cross_entropy", "mse",
                                  "cosine_similarity", "distillation", "group_advantages"]))
            for _ in range(g.r.randint(1, 5)):
                g.add(g.r.choice(list(KINDS)))
            if any(g.is_read(p) for p in g.parts):
                return g.finish(word)
        except Undrawable:
            pass
    raise AssertionError(word)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", default="")
    parser.add_argument("file", nargs="?", default=str(pathlib.Path(__file__).with_name("drawn.jsonl")))
    args = parser.parse_args()
    lines = [drawn(f"{args.seed}{k}") for k in range(args.count)]
    pathlib.Path(args.file).write_text("".join(line + "\n" for line in lines), encoding="ascii")
    print(f"{len(lines)} graphs, {pathlib.Path(args.file).stat().st_size} bytes")


if __name__ == "__main__":
    main()
