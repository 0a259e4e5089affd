#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of composite whose parts read each other.

Each step is written down once as torch would compute it in a training loop, from logits to the loss, and once as
parts; autograd gives the gradients.
"""
import json
import os

import torch
import torch.nn.functional as F

from oracle import F64, Book, Draw, Inputs, stated

BOOK = Book("composite")


def logprobs(logits, targets, mask=None):
    """Of each target, and the entropies; 0 where not counted."""
    live = targets != -100
    if mask is not None:
        live = live & mask
    l = torch.log_softmax(torch.where(live[..., None], logits, torch.zeros((), dtype=F64)), -1)
    picked = l.gather(-1, torch.where(live, targets, torch.zeros_like(targets))[..., None])[..., 0]
    zero = torch.zeros((), dtype=F64)
    return torch.where(live, picked, zero), torch.where(live, -(l.exp() * l).sum(-1), zero), live


def part(loss, name=None, weight=None, inputs=None, options=None):
    members = {"loss": loss, "name": name, "weight": weight, "inputs": inputs, "options": options}
    return {key: value for key, value in members.items() if value is not None}


def write(name, inputs, parts, loss, leaves, options=None, more=None):
    """A case with the loss, the gradients of the leaves and further outputs."""
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    outputs = {"loss": loss.detach(), **(more or {})}
    for (key, leaf), grad in zip(leaves.items(), grads):
        outputs["grad." + key] = torch.zeros_like(leaf) if grad is None else grad
    spread = max(leaf.detach().abs().max().item() for leaf in leaves.values())
    BOOK.add(name, inputs, {"parts": json.dumps(parts), **(options or {})}, outputs, spread)
    return outputs


class Case:
    """The tensors of a case, and those of them that are differentiated."""

    def __init__(self, name):
        self.draw, self.inputs, self.leaves, self.name = Draw("graph " + name), Inputs(), {}, name

    def leaf(self, name, *shape, kind="float", data=None):
        x = self.draw.normal(shape) if data is None else torch.tensor(data, dtype=F64)
        self.inputs.put(name, x, kind)
        self.leaves[name] = x.clone().requires_grad_(True)
        return self.leaves[name]

    def constant(self, name, *shape, data=None, low=None, high=None, kind="float"):
        x = torch.tensor(data, dtype=F64) if data is not None else (
            self.draw.normal(shape, 1.0) if low is None else self.draw.between(shape, low, high))
        self.inputs.put(name, x, kind)
        return x

    def tokens(self, name, B, T, V, ignored=0.2, data=None):
        y = self.draw.integers((B, T), 0, V) if data is None else torch.tensor(data)
        if data is None:
            hidden = self.draw.flags((B, T), ignored)
            hidden[:, 0] = False
            y = torch.where(hidden, torch.full_like(y, -100), y)
        self.inputs.put(name, y, "i64")
        return y


def policy(lp, entropy, live, old, ref, adv, beta, eta):
    """GRPO's surrogate with k3 and an entropy bonus, token_mean. The mask is the tokens that count."""
    w = torch.exp(lp - old)
    value = -torch.minimum(w * adv[:, None], torch.clamp(w, 0.8, 1.2) * adv[:, None])
    gap = ref - lp
    value = value + beta * (torch.exp(gap) - gap - 1) - eta * entropy
    return torch.where(live, value, torch.zeros((), dtype=F64)).sum() / live.sum()


def grpo(name, B, T, V, beta, eta, given=None):
    c = Case(name)
    x = c.leaf("logits", B, T, V, kind="f64" if given else "float", data=given and given["logits"])
    y = c.tokens("targets", B, T, V, data=given and given["targets"])
    lp, entropy, live = logprobs(x, y)
    mask = live.clone()
    if given:
        old, ref = (c.constant(k, data=given[k], kind="f64") for k in ("old_logprobs", "ref_logprobs"))
        adv = c.constant("advantages", data=given["advantages"], kind="f64")
    else:
        # Far from the bounds of the ratio, where rounding would choose the branch.
        base = lp.detach() + torch.where(c.draw.flags((B, T), 0.5), 0.05, -0.5)
        old = (base * 64).round().clamp(max=0) / 64
        old = old.to(torch.bfloat16).to(F64)
        c.inputs.put("old_logprobs", old, "float")
        # Near the policy, as it is in training: the divergence grows with the exponential of the difference.
        ref = ((lp.detach() + c.draw.normal((B, T), 0.5)) * 16).round().clamp(max=-0.0625) / 16
        c.inputs.put("ref_logprobs", ref, "float")
        adv = c.constant("advantages", B)
        c.inputs.put("mask", mask, "bool")
    loss = policy(lp, entropy, live, old, ref, adv, beta, eta)
    parts = [part("token_logprobs", "p"),
             part("policy_gradient", inputs={"logprobs": "part.p.logprobs", "entropy": "part.p.entropy"},
                  options={"kl_weight": beta, "entropy_weight": eta})]
    if not given:
        parts[0]["inputs"] = {"mask": None}
    return write(name, c.inputs, parts, loss, c.leaves)


def pair(c, B, T, V, given=None):
    """Sequence and mean log-probabilities of chosen and rejected, and the parts that compute them."""
    out, parts = [], []
    for side in ("chosen", "rejected"):
        x = c.leaf(side, B, T, V)
        y = c.tokens("y_" + side, B, T, V)
        lp, _, live = logprobs(x, y)
        out.append((lp.sum(1), lp.sum(1) / live.sum(1), lp, live))
        parts.append(part("token_logprobs", side, inputs={"logits": side, "targets": "y_" + side}))
    return out, parts


def dpo(name, B, T, V, beta):
    c = Case(name)
    (a, b), parts = pair(c, B, T, V)
    ref = c.draw.normal((B, T, V))
    c.inputs.put("ref", ref, "float")
    scored = []
    for side in ("chosen", "rejected"):
        scored.append(logprobs(ref, c.inputs.get("y_" + side))[0].sum(1))
        parts.append(part("token_logprobs", "ref_" + side, inputs={"logits": "ref", "targets": "y_" + side}))
    inputs = {f"{side}_logps": f"part.{side}.sequence_logprobs" for side in ("chosen", "rejected")}
    inputs |= {f"ref_{side}_logps": f"part.ref_{side}.sequence_logprobs" for side in ("chosen", "rejected")}
    parts.append(part("dpo", inputs=inputs, options={"beta": beta}))
    u = beta * ((a[0] - scored[0]) - (b[0] - scored[1]))
    return write(name, c.inputs, parts, F.softplus(-u).mean(), c.leaves,
                 more={"part.ref_chosen.sequence_logprobs": scored[0]})


def simpo(name, B, T, V):
    c = Case(name)
    (a, b), parts = pair(c, B, T, V)
    parts.insert(0, part("simpo", inputs={"chosen_logps": "part.chosen.mean_logprobs",
                                          "rejected_logps": "part.rejected.mean_logprobs"}))
    return write(name, c.inputs, parts, F.softplus(-(2 * (a[1] - b[1]) - 0.5)).mean(), c.leaves)


def orpo(name, B, T, V):
    """The nll of the chosen answers reads the same logits as their log-probabilities."""
    c = Case(name)
    (a, b), parts = pair(c, B, T, V)
    parts += [part("orpo", weight=0.5, inputs={"chosen_logps": "part.chosen.mean_logprobs",
                                               "rejected_logps": "part.rejected.mean_logprobs"}),
              part("sequence_cross_entropy", inputs={"logits": "chosen", "targets": "y_chosen"})]
    odds = (a[1] - b[1]) - (torch.log1p(-a[1].exp()) - torch.log1p(-b[1].exp()))
    nll = -a[2].sum() / a[3].sum()
    return write(name, c.inputs, parts, 0.5 * 0.1 * F.softplus(-odds).mean() + nll, c.leaves)


def kto(name, B, T, V):
    c = Case(name)
    x, y = c.leaf("logits", B, T, V), c.tokens("targets", B, T, V)
    ref = c.constant("ref_logps", B, low=-6, high=-1)
    labels = c.draw.flags((B,), 0.5)
    c.inputs.put("labels", labels, "bool")
    v = 0.1 * (logprobs(x, y)[0].sum(1) - ref)
    value = 1 - torch.sigmoid(torch.where(labels, v, -v))
    parts = [part("token_logprobs"), part("kto", inputs={"logps": "part.0.sequence_logprobs"})]
    return write(name, c.inputs, parts, value.mean(), c.leaves)


def order(name):
    """A part that counts and is read; the same logits twice."""
    c = Case(name)
    x = c.leaf("x", kind="f64", data=[[[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]])
    y = [c.tokens(k, 1, 2, 3, data=d) for k, d in (("y0", [[0, 1]]), ("y1", [[2, 2]]))]
    (a, _, _), (b, _, _) = logprobs(x, y[0]), logprobs(x, y[1])
    parts = [part("token_logprobs", weight=-0.5, inputs={"logits": "x", "targets": "y0"}),
             part("token_logprobs", inputs={"logits": "x", "targets": "y1"}),
             part("simpo", inputs={"chosen_logps": "part.0.mean_logprobs", "rejected_logps": "part.1.mean_logprobs"})]
    loss = -0.5 * a.sum() + F.softplus(-(2 * (a.mean(1) - b.mean(1)) - 0.5)).mean()
    return write(name, c.inputs, parts, loss, c.leaves)


def chain(name, B, T, V):
    """Losses of rows that are read in turn, three deep, and one loss that two others read."""
    c = Case(name)
    x, y = c.leaf("logits", B, T, V), c.tokens("targets", B, T, V, 0)
    goal, other = c.leaf("goal", B, T), c.leaf("other", B, T)
    nll = -logprobs(x, y)[0]
    error = (nll - goal) ** 2
    total = F.l1_loss(error, other) + 0.25 * F.mse_loss(error, nll)
    parts = [part("mae", inputs={"a": "part.error.loss", "b": "other"}),
             part("mse", weight=0.25, inputs={"a": "part.error.loss", "b": "part.nll.loss"}),
             part("mse", "error", inputs={"a": "part.nll.loss", "b": "goal"}, options={"reduction": "none"}),
             part("sequence_cross_entropy", "nll", options={"reduction": "none"})]
    return write(name, c.inputs, parts, total, c.leaves, more={"part.nll.loss": nll.detach()})


def several(name, B, T, V):
    """Three parts on the same logits, of which two are differentiated late; uncertainty weights."""
    c = Case(name)
    x, y, z = c.leaf("logits", B, T, V), c.tokens("targets", B, T, V), c.tokens("others", B, T, V)
    scores = c.constant("returns", B)
    a, _, live = logprobs(x, y)
    b, _, _ = logprobs(x, z)
    ce, reg = -a.sum() / live.sum(), ((a.sum(1) - scores) ** 2).mean()
    margin = F.softplus(-(a.sum(1) - b.sum(1))).mean()
    values = [None, ce, reg, None, margin]
    parts = [part("token_logprobs", "a"), part("sequence_cross_entropy"),
             part("mse", inputs={"a": "part.a.sequence_logprobs", "b": "returns"}),
             part("token_logprobs", "b", inputs={"targets": "others"}),
             part("pairwise_logistic", inputs={"chosen_scores": "part.a.sequence_logprobs",
                                               "rejected_scores": "part.b.sequence_logprobs"})]
    # One entry for each part; those of inner parts are not used.
    s = c.leaf("log_vars", data=[9.0, 0.5, -0.25, -9.0, 1.0])
    total = sum(scale * torch.exp(-s[k]) * v + s[k] / 2
                for k, (v, scale) in enumerate(zip(values, [1, 1, 0.5, 1, 1])) if v is not None)
    return write(name, c.inputs, parts, total, c.leaves, {"combine": "uncertainty", "scales": "1,1,0.5,1,1"})


def main():
    out = grpo("check/grpo", 1, 2, 3, 0.04, 0.01, {
        "logits": [[[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]], "targets": [[0, 1]], "old_logprobs": [[-0.4, -2.8]],
        "ref_logprobs": [[-0.3, -3]], "advantages": [1.5]})
    stated(out["loss"], -1.501116181, "grpo")
    stated(out["grad.logits"], [[[-0.2030409268, 0.08631710943, 0.1167238174],
                                 [0.2745289323, -0.610360435, 0.3358315027]]], "grpo")
    out = order("check/order")
    stated(out["loss"], 3.001299576, "order")
    stated(out["grad.x"], [[[-0.8709028481, 0.05134042188, 0.8195624263],
                            [0.2133233954, -1.224137285, 1.010813889]]], "order")
    for B, T, V in ((1, 2, 3), (2, 3, 5), (3, 4, 17)):
        shape = f"{B}x{T}x{V}"
        for beta, eta in ((0, 0), (0.04, 0), (0, 0.01), (0.25, -0.5)):
            grpo(f"grpo/{shape}-{beta}-{eta}", B, T, V, beta, eta)
        for beta in (0.1, 1):
            dpo(f"dpo/{shape}-{beta}", B, T, V, beta)
        for kind in (simpo, orpo, kto, chain, several):
            kind(f"{kind.__name__}/{shape}", B, T, V)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "composite.jsonl")
    BOOK.write(path)
    print(f"{len(BOOK.lines)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
