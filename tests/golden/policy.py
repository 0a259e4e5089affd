#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of policy_gradient.

The loss is written out in f64 and differentiated by torch; the closed form of the contract must
agree and is what is written. No random ratio lies next to a bound, where rounding would choose the
branch, and positions whose f32 result strays are drawn again.
"""
import itertools
import math
import os

import torch

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, short, stated

BOOK = Book("policy_gradient")
AGGREGATIONS = {
    "token_mean": {},
    "sequence_mean": {"aggregation": "sequence_mean"},
    "max_length": {"aggregation": "max_length", "max_length": "16"},
    "num_items": {"aggregation": "num_items", "num_items": "12.5"},
}
OBJECTIVES = {
    "clip": {},
    "clip-sequence": {"level": "sequence"},
    "cispo": {"objective": "cispo", "ratio_high": "1.25"},
    "sapo": {"objective": "sapo"},
}
KNOWN = {"objective", "eps_low", "eps_high", "delta", "ratio_low", "ratio_high", "level", "sapo_tau_pos", "sapo_tau_neg",
         "kl_weight", "aggregation", "max_length", "num_items", "entropy_weight", "entropy_aggregation", "count_empty",
         "dro_beta", "delta_low", "delta_high", "ratio_max", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg",
         "vespo_lambda_neg", "is_mode", "is_level", "is_low", "is_high", "off_policy_mask", "kl_estimator",
         "kl_gradient"}
POSITIONS = ("logprobs", "old_logprobs", "ref_logprobs", "sampling_logprobs", "mask", "entropy")


def spread_out(x, shape):
    return (x if x.dim() == 2 else x[:, None]).expand(shape)


def padded(inputs):
    """The inputs with packed sequences padded, which positions are real, and what packs a result again."""
    offsets = inputs.get("offsets")
    if offsets is None:
        shape = inputs.get("logprobs").shape
        return inputs.tensors, torch.ones(shape, dtype=torch.bool)
    ends, P = offsets.tolist(), inputs.get("logprobs").shape[0]
    lengths = [b - a for a, b in zip(ends, ends[1:])]
    shape = (len(lengths), max(lengths, default=0))
    real = torch.zeros(shape, dtype=torch.bool)
    for b, n in enumerate(lengths):
        real[b, :n] = True
    out = {k: v for k, v in inputs.tensors.items() if k != "offsets"}
    for name, tensor in out.items():
        if name in POSITIONS or name == "is_weights" or (name == "advantages" and tensor.shape == (P,)):
            wide = torch.zeros(shape, dtype=tensor.dtype)
            wide[real] = tensor
            out[name] = wide
    return out, real


def k_of(o, d, w):
    """The penalty of 17.4: what the loss adds, so that autograd gives the stated derivative, and the estimate."""
    kind, how = o.get("kl_estimator", "k3"), o.get("kl_gradient", "direct")
    k = {"k1": d, "k2": d * d / 2, "k3": torch.expm1(-d) + d, "abs": d.abs()}[kind]
    half = d * d / 2
    value = {"direct": k, "k2": k.detach() + half - half.detach(), "ratio": w * k}[how]
    d0, w0 = d.detach(), w.detach()
    slope = {"k1": torch.ones_like(d0), "k2": d0, "k3": -torch.expm1(-d0), "abs": torch.sign(d0)}[kind]
    if how == "k2":
        slope = d0
    if how == "ratio":
        slope = w0 * (d0 if kind == "k3" else k.detach() + slope)
    return value, slope, k.detach()


def formula(inputs, o, dtype):
    """Everything about one call in one float type. `slack` is how far the ratios are from where
    the branches change; 0 is on the spot."""
    assert set(o) <= KNOWN
    tensors, real = padded(inputs)
    packed = inputs.get("offsets") is not None
    leaf = tensors["logprobs"].to(dtype).clone().requires_grad_(True)
    shape = leaf.shape
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    mask = tensors.get("mask")
    live = real if mask is None else real & (mask != 0)
    m = live.to(dtype)
    lp = torch.where(live, leaf, zero)

    def constant(name, default):
        x = tensors.get(name)
        x = default if x is None else spread_out(x.to(dtype), shape)
        return torch.where(live, x, zero)

    objective, level = o.get("objective", "clip"), o.get("level", "token")
    old = lp.detach() if objective == "reinforce" else constant("old_logprobs", lp.detach())
    ref = constant("ref_logprobs", lp.detach())
    mu = constant("sampling_logprobs", old)
    adv = constant("advantages", None)
    eps = "0.4" if objective == "gmpo" else "0.2"
    eps_low, eps_high = float(o.get("eps_low", eps)), float(o.get("eps_high", eps))
    low, high = 1 - eps_low, 1 + eps_high
    if objective == "cispo":
        assert "eps_low" not in o and "eps_high" not in o
        low, high = float(o.get("ratio_low", "0")), float(o.get("ratio_high", "5").replace("off", "inf"))
    delta = float(o.get("delta", "inf"))
    n = m.sum(1, keepdim=True)
    per_row = torch.clamp(n, min=1)
    slack = []

    # the correction for the sampler
    gap = old - mu
    rho = torch.exp(gap)
    whole = (m * gap).sum(1, keepdim=True).expand(shape)
    r = {"token": rho, "sequence": torch.exp(whole), "geometric": torch.exp(whole / per_row)}[o.get("is_level", "token")]
    lo, hi = float(o.get("is_low", "0")), float(o.get("is_high", "inf").replace("off", "inf"))
    within = ((r >= lo) & (r <= hi)).to(dtype)
    mode = o.get("is_mode", "off")
    correction = {"off": torch.ones_like(rho), "truncate": torch.clamp(r, lo, hi), "mask": r * within,
                  "mask_only": rho * within}[mode]
    if mode != "off":
        assert "sampling_logprobs" in tensors
        slack += [r - lo, r - hi]
    kappa = constant("is_weights", one.expand(shape)) * correction

    ratio = lp - old
    w0 = torch.exp(ratio.detach())
    mean = ((m * ratio).sum(1, keepdim=True) / per_row).expand(shape)
    w = torch.exp(mean if level == "sequence" else ratio)
    if level == "gspo_token":
        assert objective == "clip"
        w = torch.exp(mean.detach() + lp - lp.detach())
    if level != "token":
        assert objective in ("clip", "sapo")
        w0 = w.detach()
    moved = torch.zeros(shape, dtype=torch.bool)
    if objective == "clip":
        capped = torch.where(w0 > delta, torch.full_like(w, delta), w)
        first = capped * adv
        second = torch.clamp(w, low, high) * adv
        value = -torch.minimum(first, second)
        a, b = first.detach(), second.detach()
        unsaturated = (w0 <= delta).to(dtype), ((w0 >= low) & (w0 <= high)).to(dtype)
        taken = torch.where(a < b, unsaturated[0], torch.where(b < a, unsaturated[1],
                                                               sum(unsaturated) / 2))
        slope = -adv * taken * w0
        slack += [w0 - low, w0 - high, w0 - delta]
        moved = ((w0 > high) & (adv > 0)) | (((w0 < low) | (w0 > delta)) & (adv < 0))
    elif objective == "cispo":
        bound = torch.clamp(w0, min=low, max=high)
        value = -bound * adv * lp
        slope = -bound * adv
        slack += [w0 - low, w0 - high]
        moved = (w0 > high) | (w0 < low)
    elif objective == "sapo":
        tau = torch.where(adv > 0, float(o.get("sapo_tau_pos", "1")) * one,
                          float(o.get("sapo_tau_neg", "1.05")) * one)
        gate = tau * (w - 1)
        value = -(4 / tau) * torch.sigmoid(gate) * adv
        gate = gate.detach()
        slope = -4 * torch.sigmoid(gate) * torch.sigmoid(-gate) * adv * w0
    elif objective == "importance":
        value, slope = -w * adv, -w0 * adv
    elif objective == "reinforce":
        value, slope = -adv * lp, -adv
    elif objective == "dro":
        beta = float(o["dro_beta"])
        value = -(adv * lp - beta * ratio * ratio / 2)
        slope = -adv + beta * ratio.detach()
    elif objective in ("dppo_tv", "dppo_kl"):
        default = "0.2" if objective == "dppo_tv" else "0.05"
        far_low, far_high = float(o.get("delta_low", default)), float(o.get("delta_high", default))
        cap = float(o.get("ratio_max", "inf").replace("off", "inf"))
        pi, was = torch.exp(lp.detach()), torch.exp(old)
        change = pi - was
        if objective == "dppo_tv":
            far = change.abs()
        else:
            heads = was * (old - lp.detach())
            tails = (1 - was) * (torch.log1p(-was) - torch.log1p(-pi))
            far = torch.where(old == 0, -lp.detach(), heads + tails)
        moved = torch.where(adv > 0, (far > far_high) & (change > 0), (far > far_low) & (change < 0))
        held = torch.where(moved, zero, torch.clamp(w0, max=cap))
        value = -held * torch.exp(lp - lp.detach()) * adv
        slope = -held * adv
        slack += [far - far_high, far - far_low, w0 - cap]
    elif objective == "gmpo":
        assert tensors["advantages"].dim() == 1
        x0 = ratio.detach()
        y = torch.where(adv > 0, torch.clamp(ratio, max=eps_high),
                        torch.where(adv < 0, torch.clamp(ratio, min=-eps_low), torch.zeros_like(ratio)))
        g = torch.exp((m * y).sum(1, keepdim=True) / per_row)
        value = (-g * adv).expand(shape)
        slope = value.detach()
        reach = ((adv > 0) & (x0 <= eps_high)) | ((adv < 0) & (x0 >= -eps_low))
        moved = (adv != 0) & ~reach
        slack += [x0 - eps_high, x0 + eps_low]
    else:
        assert objective == "vespo"
        least, most = math.log(1e-8), 20.0
        omega = (m * torch.clamp(ratio.detach(), -most, most)).sum(1, keepdim=True)
        omega = omega + (m * torch.clamp(torch.log(kappa), least, most)).sum(1, keepdim=True)
        omega = torch.clamp(omega, least, most)
        gain = adv >= 0
        k = torch.where(gain, float(o.get("vespo_k_pos", "2")) * one, float(o.get("vespo_k_neg", "3")) * one)
        lam = torch.where(gain, float(o.get("vespo_lambda_pos", "3")) * one,
                          float(o.get("vespo_lambda_neg", "2")) * one)
        phi = torch.exp(lam + k * omega - lam * torch.exp(omega))
        value, slope = -phi * adv * lp, -phi * adv
    nothing = (adv == 0) & torch.tensor(objective != "dro")
    value, slope = torch.where(nothing, value * 0, value), torch.where(nothing, zero, slope)
    if "off_policy_mask" in o:
        stale = (m * (mu - lp.detach())).sum(1, keepdim=True) / per_row
        drop = (adv < 0) & (stale > float(o["off_policy_mask"]))
        value, slope = torch.where(drop, zero, value), torch.where(drop, zero, slope)
        slack += [(stale - float(o["off_policy_mask"])).expand(shape)]
    kl, kl_slope, estimate = k_of(o, lp - ref, torch.exp(lp - old))

    aggregation = o.get("aggregation", "sequence_mean" if objective == "gmpo" else "token_mean")
    total = m.sum()
    rows = float(shape[0]) if o.get("count_empty", "true") == "true" else float((n > 0).sum())
    if aggregation in ("sequence_mean", "max_length"):
        rows = float(o.get("num_items", rows))
    if total == 0 or rows == 0:
        share = m * 0
    elif aggregation == "token_mean":
        assert "num_items" not in o
        share = m / total
    elif aggregation == "sequence_mean":
        share = m / (rows * per_row)
    elif aggregation == "max_length":
        share = m / (rows * int(o["max_length"]))
    else:
        assert aggregation == "num_items"
        share = m / float(o["num_items"])
    beta = float(o.get("kl_weight", "0"))
    assert beta == 0 or "ref_logprobs" in tensors
    weight = torch.ones_like(kappa) if objective == "vespo" else kappa
    term = weight * value
    slope = share * weight * slope
    if level == "sequence" or objective == "gmpo":
        slope = m / per_row * slope.sum(1, keepdim=True)
        if objective == "gmpo":
            slope = torch.where(reach, slope, zero)
    if beta:
        term = term + beta * kl
        slope = slope + share * beta * kl_slope
    loss = (share * torch.where(live, term, zero)).sum()

    def pack(x):
        return x[real] if packed else x

    out = {"leaf": leaf, "grad": torch.where(live, slope, zero), "live": live, "pack": pack,
           "slack": [torch.where(live, s, one) for s in slack]}
    if "entropy" in tensors:
        out["entropy"] = tensors["entropy"].to(dtype).clone().requires_grad_(True)
        alone = o.get("entropy_aggregation", "same") == "token_mean" and total
        part = float(o.get("entropy_weight", "0")) * (m / total if alone else share)
        loss = loss - (part * torch.where(live, out["entropy"], zero)).sum()
        out["entropy grad"] = torch.where(live, -part, zero)
    out["loss"] = loss
    if total:
        out["ratio_mean"] = (m * w0).sum() / total
        out["clip_fraction"] = (live & moved).sum() / total
        out["kl"] = (m * estimate).sum() / total
        out["is_mean"] = (m * correction).sum() / total
        out["is_masked"] = (live & (correction == 0)).sum() / total
    return out


def steady(inputs, options):
    """Whether a position's numbers are the same in f32, and how far it is from every bound."""
    wide, near = formula(inputs, options, F64), formula(inputs, options, torch.float32)
    a, b = near["grad"].to(F64), wide["grad"]
    good = ((a - b).abs() <= 4e-7 * b.abs()) | torch.isnan(b)
    for slack in wide["slack"]:
        good &= (slack == 0) | ~(slack.abs() < 1e-3)
    level = abs(near["loss"].item() - wide["loss"].item()) > 1e-6 * (1 + abs(wide["loss"].item()))
    assert not level
    if options.get("level", "token") != "token" or options.get("objective") in ("gmpo", "vespo") or "is_level" in options:
        good = good.all(1, keepdim=True).expand(good.shape)
    return good


def write(name, inputs, options=None, want=(), grad=True):
    """A case with the loss, the gradient and the diagnostics named. Those are only asked for where
    every way to average them is the same: equal weights for all counted positions."""
    options = {k: str(v) for k, v in (options or {}).items()}
    e = formula(inputs, options, F64)
    go = inputs.get("grad_output")
    go = torch.ones((), dtype=F64) if go is None else go.to(F64).reshape(())
    leaves = [e["leaf"]] + ([e["entropy"]] if "entropy" in e else [])
    by_torch = torch.autograd.grad(go * e["loss"], leaves)
    grads = torch.where(e["live"], go * e["grad"], torch.zeros((), dtype=F64))
    if torch.isfinite(e["loss"]):
        assert same(grads, by_torch[0]), name
    if inputs.dtypes["logprobs"] == "float":
        assert bool(steady(inputs, options).all()), name
    outputs = {"loss": e["loss"].detach()}
    if grad:
        outputs["grad.logprobs"] = e["pack"](grads)
    if "entropy" in e:
        assert same(go * e["entropy grad"], by_torch[1]), name
        outputs["grad.entropy"] = e["pack"](go * e["entropy grad"])
    for key in want:
        outputs[key] = e[key].to(F64)
    BOOK.add(name, inputs, options, outputs)
    return outputs


def position(draw, spread):
    """One position's three log-probabilities and its weight."""
    old = -draw.random.uniform(0.25, 4.0)
    return {"logprobs": short(min(old + draw.random.gauss(0, spread), -0.0625)),
            "old_logprobs": short(old),
            "ref_logprobs": short(min(old + draw.random.gauss(0, spread), -0.0625)),
            "is_weights": short(draw.random.uniform(0.25, 2.0)),
            "sampling_logprobs": short(min(old + draw.random.gauss(0, spread), -0.0625))}


def build(name, shape, options=None, extra=("old_logprobs", "mask"), want=(), kinds=None,
          adv="row", weights="position", spread=0.3, masked=0.75, sign=None, grad=True, ends=None):
    """A case of random numbers. `adv` is row, position; `weights` the same for is_weights."""
    options = {k: str(v) for k, v in (options or {}).items()}
    draw = Draw("policy_gradient " + name)
    rows, columns = shape
    kinds = kinds or {}
    advantages = draw.normal((len(ends) - 1 if ends else rows,) if adv == "row" else shape, 1.0)
    advantages = advantages[0] if ends and adv != "row" else advantages
    advantages = torch.where(advantages == 0, torch.ones((), dtype=F64), advantages)
    if sign:
        advantages = sign * advantages.abs()
    mask = draw.flags(shape, masked)
    if columns > 1 and not ends:
        mask[:, 0] |= ~mask.any(1)
    factors = torch.tensor([position(draw, spread)["is_weights"] for _ in range(rows)],
                           dtype=F64).reshape(rows, 1)
    entropy = Draw("policy_gradient entropy " + name).between(shape, 0, 4)
    cells = [[None] * columns for _ in range(rows)]
    bad = torch.ones(shape, dtype=torch.bool)
    for attempt in itertools.count():
        assert attempt < 100, name
        for b, t in bad.nonzero().tolist():
            cells[b][t] = position(draw, spread)
        inputs = Inputs()
        for key in ("logprobs", "old_logprobs", "ref_logprobs", "is_weights", "sampling_logprobs"):
            if key == "logprobs" or key in extra:
                table = [[cell[key] for cell in row] for row in cells]
                table = torch.tensor(table, dtype=F64).reshape(shape)
                table = table[0] if ends else table
                if key == "is_weights" and weights == "row":
                    table = factors
                inputs.put(key, table, kinds.get(key, "float"))
        inputs.put("advantages", advantages, kinds.get("advantages", "float"))
        if ends:
            inputs.put("offsets", torch.tensor(ends), "i32")
        if "mask" in extra:
            inputs.put("mask", mask[0] if ends else mask, kinds.get("mask", "bool"))
        if "entropy" in extra:
            inputs.put("entropy", entropy[0] if ends else entropy, kinds.get("entropy", "float"))
        if "grad_output" in extra:
            inputs.put("grad_output", short(draw.random.gauss(0, 1)) * torch.ones((), dtype=F64),
                       kinds.get("grad_output", "float"))
        bad = ~steady(inputs, options)
        if ends: # of packed sequences the positions in their order
            bad = bad[padded(inputs)[1]].reshape(shape)
        if not bool(bad.any()):
            return write(name, inputs, options, want, grad)


def given(name, options, want=(), dtype="float", grad=True, **values):
    inputs = Inputs()
    for key, value in values.items():
        kind = dtype
        if key == "offsets":
            inputs.put(key, torch.tensor(value), "i64")
            continue
        if key == "mask":
            kind = "u8" if torch.tensor(value).gt(1).any() else "bool"
            inputs.put(key, torch.tensor(value, dtype=torch.int64), kind)
            continue
        inputs.put(key, torch.tensor(value, dtype=F64), kind)
    return write(name, inputs, options, want, grad)


def checks():
    values = {
        "logprobs": [[-1, -0.5, -2], [-0.3, -1.2, -0.1]],
        "old_logprobs": [[-1.2, -0.4, -1.5], [-0.6, -1, -0.1]],
        "ref_logprobs": [[-1.1, -0.6, -1.9], [-0.4, -1.3, -0.2]],
        "advantages": [1, -0.5],
        "mask": [[1, 1, 1], [1, 1, 0]],
    }
    printed = {"sequence_mean": -0.1806252645, "token_mean": -0.3252184948,
               "max_length": -0.2032615592, "num_items": -0.1626092474}
    more = {"max_length": {"max_length": "4"}, "num_items": {"num_items": "10"}}
    for aggregation, expected in printed.items():
        options = {"aggregation": aggregation, "kl_weight": "0.04", **more.get(aggregation, {})}
        want = ("ratio_mean", "clip_fraction", "kl") if aggregation == "token_mean" else ()
        out = given("check/" + aggregation, options, want, "f64", **values)
        stated(out["loss"], expected, aggregation)
        if aggregation == "sequence_mean":
            stated(out["grad.logprobs"], [[0.0006344172131, -0.1501718191, -0.1017895827],
                                          [0.1696839768, 0.10329297, 0]], "policy_gradient grad")
    del values["ref_logprobs"]
    out = given("check/sequence", {"aggregation": "sequence_mean", "level": "sequence"}, (), "f64",
                **values)
    stated(out["loss"], -0.1747688854, "sequence")
    items = {"objective": "cispo", "aggregation": "num_items", "num_items": "10"}
    out = given("check/cispo", {**items, "ratio_high": "1.1"}, (), "f64", **values)
    stated(out["loss"], 0.2109241577, "cispo")
    out = given("check/cispo-defaults", items, (), "f64", **values)
    stated(out["loss"], 0.2193165514, "cispo, defaults")
    out = given("check/cispo-bounds", {**items, "ratio_low": "1", "ratio_high": "1.1"}, (), "f64",
                **values)
    stated(out["loss"], 0.2835, "cispo, bounds")
    stated(out["grad.logprobs"], [[-0.11, -0.1, -0.1], [0.055, 0.05, 0]], "cispo, bounds, grad")


NEWER = {
    "importance": {"objective": "importance"},
    "reinforce": {"objective": "reinforce"},
    "dro": {"objective": "dro", "dro_beta": "0.5"},
    "dppo_tv": {"objective": "dppo_tv", "delta_low": "0.0625", "delta_high": "0.03125"},
    "dppo_kl": {"objective": "dppo_kl", "delta_low": "0.0078125", "delta_high": "0.015625"},
    "gmpo": {"objective": "gmpo", "eps_low": "0.25", "eps_high": "0.1875"},
    "vespo": {"objective": "vespo"},
    "sapo-sequence": {"objective": "sapo", "level": "sequence"},
    "gspo_token": {"level": "gspo_token", "eps_low": "0.0625", "eps_high": "0.09375"},
}
DIAGNOSED = ("ratio_mean", "clip_fraction", "is_mean", "is_masked")


def more_checks():
    values = {
        "logprobs": [[-1, -0.5, -2], [-0.3, -1.2, -0.1]],
        "old_logprobs": [[-1.2, -0.4, -1.5], [-0.6, -1, -0.1]],
        "advantages": [1, -0.5],
        "mask": [[1, 1, 1], [1, 1, 0]],
    }
    items = {"aggregation": "num_items", "num_items": "10"}
    means = {"aggregation": "sequence_mean"}
    table = [
        ("importance", {**items, "objective": "importance"}, {}, -0.1648476056, None),
        ("reinforce", {**items, "objective": "reinforce"}, {}, 0.275, None),
        ("dro", {**items, "objective": "dro", "dro_beta": "0.5"}, {}, 0.28575,
         [[-0.09, -0.105, -0.125], [0.065, 0.04, 0]]),
        ("dppo_tv", {**items, "objective": "dppo_tv", "delta_low": "0.05", "delta_high": "0.05"}, {}, -0.0836438674,
         [[0, -0.0904837418, -0.06065306597], [0.06749294038, 0, 0]]),
        ("dppo_kl", {**items, "objective": "dppo_kl"}, {}, -0.1648476056, None),
        ("dppo_kl-cut", {**items, "objective": "dppo_kl", "delta_low": "0.005", "delta_high": "0.005"}, {},
         -0.0836438674, None),
        ("gmpo", {**means, "objective": "gmpo", "eps_low": "0.15", "eps_high": "0.15"}, {}, -0.1608829505,
         [[0, -0.1434513294, -0.1434513294], [0.1347355189, 0, 0]]),
        ("gmpo-default", {"objective": "gmpo", "eps_low": "0.15", "eps_high": "0.15"}, {}, -0.1608829505, None),
        # The gradient of vespo is -phi A/10.
        ("vespo", {**items, "objective": "vespo"}, {}, 0.3407961639,
         [[-0.1208089108] * 3, [0.05469001595, 0.05469001595, 0]]),
        ("gspo_token", {**means, "level": "gspo_token", "eps_low": "0.05", "eps_high": "0.02"},
         {"advantages": [[1, -1, 0.5], [-0.5, 0.25, 2]]}, 0.00719889062,
         [[-0.1458622198, 0, -0.07293110992], [0.131408887, 0, 0]]),
        ("sapo-sequence", {**means, "objective": "sapo", "level": "sequence"}, {}, -0.4486624201,
         [[-0.1452954968, -0.1452954968, -0.1452954968], [0.1313137217, 0.1313137217, 0]]),
        ("luspo", {"level": "sequence", "aggregation": "max_length", "max_length": "1"}, {}, -0.7871244304, None),
        ("sequence-items", {**means, "num_items": "10", "kl_weight": "0.04"},
         {"ref_logprobs": [[-1.1, -0.6, -1.9], [-0.4, -1.3, -0.2]]}, -0.0361250529, None),
    ]
    drawn = {"sampling_logprobs": [[-1, -0.5, -1.6], [-0.5, -1.1, -0.3]]}
    stale = {"sampling_logprobs": [[-1, -0.5, -1.6], [-0.1, -0.9, -0.3]]}
    table += [
        ("is-truncate", {**items, "is_mode": "truncate", "is_high": "1.1"}, drawn, -0.1583978496,
         [[0, -0.09953211598, -0.06671837257], [0.06107013791, 0.04503019142, 0]]),
        ("is-mask", {**items, "is_mode": "mask", "is_low": "0.85", "is_high": "1.15"}, drawn, -0.06071999579, None),
        ("is-mask-only", {**items, "is_mode": "mask_only", "is_level": "geometric", "is_low": "0.9", "is_high": "1.1"},
         drawn, -0.1589676862, None),
        ("off-policy-mask", {**items, "off_policy_mask": "0.1"}, stale, -0.2711368078, None),
    ]
    ref = {"ref_logprobs": [[-1.1, -0.6, -1.9], [-0.4, -1.3, -0.2]], "advantages": [0, 0]}
    for name, options, value in (("k1", {"kl_estimator": "k1"}, 0.06), ("k2", {"kl_estimator": "k2"}, 0.005),
                                 ("k3", {}, 0.004904118044), ("abs", {"kl_estimator": "abs"}, 0.1)):
        table.append(("kl-" + name, {"kl_weight": "1", **options}, ref, value, None))
    table.append(("kl-ratio", {"kl_weight": "1", "kl_gradient": "ratio"}, ref, 0.004782441436,
                  [[0.02442805516, 0.01809674836, -0.01213061319], [0.02699717615, 0.01637461506, 0]]))
    for name, options, others, loss, grad in table:
        want = ("ratio_mean", "clip_fraction", "is_mean", "is_masked")
        out = given("check/" + name, options, want, "f64", **{**values, **others})
        stated(out["loss"], loss, name)
        if grad:
            stated(out["grad.logprobs"], grad, name + " grad")
    third = {k: v + ([0.25] if k == "advantages" else [[0, 0, 0]] if k == "mask" else [[-0.5, -1, -2]])
             for k, v in values.items()}
    two = given("check/two-rows", means, (), "f64", **values)["loss"]
    less = given("check/count-empty-false", {**means, "count_empty": "false"}, (), "f64", **third)["loss"]
    more = given("check/count-empty", means, (), "f64", **third)["loss"]
    assert same(less, two) and same(more, two * 2 / 3)
    length = {"aggregation": "max_length", "max_length": "4"}
    given("check/count-empty-max-length", {**length, "count_empty": "false"}, (), "f64", **third)
    flat = {k: (v[0] + v[1] if k != "advantages" else v) for k, v in values.items()}
    packed = given("check/packed", means, (), "f64", offsets=[0, 3, 6], **flat)
    assert same(packed["loss"], two)


def newer():
    """Objectives, levels, the sampler's correction, estimators of the divergence, packed sequences."""
    more_checks()
    old = ("old_logprobs", "mask")
    for (objective, first), (aggregation, second) in itertools.product(NEWER.items(), AGGREGATIONS.items()):
        options = {**first, **second}
        position = "row" if objective == "gmpo" else "position"
        build(f"newer/{objective}-{aggregation}", (2, 4), options, old, DIAGNOSED)
        build(f"newer/{objective}-{aggregation}-kl", (3, 4), {**options, "kl_weight": "0.0625"},
              old + ("ref_logprobs",), DIAGNOSED + ("kl",), adv=position)
        build(f"newer/{objective}-{aggregation}-everything", (2, 4),
              {**options, "kl_weight": "0.25", "is_mode": "truncate", "is_high": "1.25", "entropy_weight": "0.125"},
              old + ("ref_logprobs", "is_weights", "sampling_logprobs", "entropy", "grad_output"), DIAGNOSED)
    for objective, options in NEWER.items():
        for sign in (1, -1):
            build(f"newer/{objective}-sign-{sign}", (3, 5), options, old, DIAGNOSED, sign=sign, spread=0.6)
        build(f"newer/{objective}-without-old", (2, 4), options, ("mask",), DIAGNOSED)
        build(f"newer/{objective}-without-mask", (2, 4), options, ("old_logprobs",), DIAGNOSED)
        build(f"newer/{objective}-long", (2, 70), options, old, DIAGNOSED, spread=0.2)
        given(f"newer/{objective}-nothing-to-gain", options, DIAGNOSED, advantages=[0.0, -1.0],
              logprobs=[[-1.0, -2.0], [-0.5, -0.25]], old_logprobs=[[-2.0, -1.0], [-0.5, -1.0]])
        given(f"newer/{objective}-masked", options, (), advantages=[0.5, -1.0], logprobs=[[-1.0, NAN], [-INF, -0.5]],
              old_logprobs=[[-1.5, INF], [-2.0, NAN]], mask=[[0, 0], [0, 0]])
        given(f"newer/{objective}-partly-masked", options, (), advantages=[0.5, -1.0],
              logprobs=[[-1.0, NAN, -0.5], [-INF, -0.5, -0.75]],
              old_logprobs=[[-1.5, -1, -0.25], [NAN, -0.25, -1.25]], mask=[[1, 0, 1], [0, 255, 1]])
    for name, options in (("default", {}), ("ratio-max", {"ratio_max": "1.125"}), ("narrow", {"delta_low": "0"}),
                          ("wide", {"delta_high": "4", "delta_low": "4"}), ("high", {"delta_high": "0"})):
        for objective in ("dppo_tv", "dppo_kl"):
            for sign in (1, -1, None):
                build(f"dppo/{objective}-{name}-{sign or 'both'}", (2, 5), {"objective": objective, **options}, old,
                      DIAGNOSED, adv="position", sign=sign, spread=0.5)
    given("dppo/certain", {"objective": "dppo_kl"}, DIAGNOSED, advantages=[1.0, -1.0],
          logprobs=[[-0.5, -1.0, -0.25], [-0.5, -1.0, -0.25]], old_logprobs=[[0.0, -1.0, -0.5], [0.0, -1.0, -0.5]])
    for pos, neg in ((("2", "3"), ("3", "2")), (("1", "1"), ("0.5", "2")), (("0.5", "0.25"), ("4", "1"))):
        build(f"vespo/{'-'.join(pos + neg)}", (3, 4), {
            "objective": "vespo", "vespo_k_pos": pos[0], "vespo_lambda_pos": pos[1], "vespo_k_neg": neg[0],
            "vespo_lambda_neg": neg[1]}, old + ("is_weights",), DIAGNOSED, adv="position")
    build("vespo/rows", (3, 4), {"objective": "vespo"}, old + ("is_weights",), DIAGNOSED, weights="row")
    for eps in ("0", "0.0625", "1"):
        build(f"gmpo/eps-{eps}", (3, 4), {"objective": "gmpo", "eps_low": eps, "eps_high": eps}, old, DIAGNOSED)
    build("gmpo/default", (3, 4), {"objective": "gmpo"}, old, DIAGNOSED, spread=0.7)
    for beta in ("0.01", "2"):
        build(f"dro/{beta}", (3, 4), {"objective": "dro", "dro_beta": beta}, old, DIAGNOSED, adv="position")
    drawn = old + ("sampling_logprobs",)
    for mode, level in itertools.product(("truncate", "mask", "mask_only"), ("token", "sequence", "geometric")):
        for name, bounds in (("off", {}), ("usual", {"is_low": "0.75", "is_high": "1.25"}), ("low", {"is_low": "0.875"})):
            options = {"is_mode": mode, "is_level": level, **bounds}
            build(f"is/{mode}-{level}-{name}", (3, 4), options, drawn, DIAGNOSED)
            build(f"is/{mode}-{level}-{name}-weighted", (2, 4), {**options, "kl_weight": "0.25", "level": "sequence"},
                  drawn + ("is_weights", "ref_logprobs", "grad_output"), DIAGNOSED + ("kl",), weights="row")
        build(f"is/{mode}-{level}-without-old", (2, 4), {"is_mode": mode, "is_level": level, "is_high": "1.5"},
              ("mask", "sampling_logprobs"), DIAGNOSED)
        build(f"is/{mode}-{level}-reinforce", (2, 4), {"is_mode": mode, "is_level": level, "is_high": "1.5",
              "objective": "reinforce"}, drawn, DIAGNOSED)
        build(f"is/{mode}-{level}-vespo", (2, 4), {"is_mode": mode, "is_level": level, "is_high": "1.5",
              "objective": "vespo"}, drawn + ("is_weights",), DIAGNOSED)
    for delta in ("0.03125", "0.125", "4"):
        for objective in ("clip", "vespo", "gmpo", "reinforce"):
            options = {"off_policy_mask": delta, "objective": objective}
            build(f"off-policy/{objective}-{delta}", (6, 4), options, drawn, DIAGNOSED)
            build(f"off-policy/{objective}-{delta}-old", (6, 4), options, old, DIAGNOSED)
        build(f"off-policy/position-{delta}", (6, 4), {"off_policy_mask": delta}, drawn, DIAGNOSED, adv="position")
    for estimator, how in itertools.product(("k1", "k2", "k3", "abs"), ("direct", "k2", "ratio")):
        options = {"kl_weight": "0.25", "kl_estimator": estimator, "kl_gradient": how}
        for level in ("token", "sequence"):
            build(f"kl/{estimator}-{how}-{level}", (2, 4), {**options, "level": level}, old + ("ref_logprobs",), ("kl",))
        build(f"kl/{estimator}-{how}-without-old", (2, 4), options, ("mask", "ref_logprobs"), ("kl",))
        build(f"kl/{estimator}-{how}-weighted", (2, 4), {**options, "is_mode": "truncate", "is_high": "1.125"},
              drawn + ("ref_logprobs", "is_weights", "entropy", "grad_output"), ("kl",))
    given("kl/equal", {"kl_weight": "1", "kl_estimator": "abs"}, ("kl",), advantages=[0.0], logprobs=[[-1.0, -2.0]],
          ref_logprobs=[[-1.0, -1.0]])
    given("cispo/nothing-to-gain", {"objective": "cispo", "ratio_high": "1.5"}, DIAGNOSED, advantages=[0.0, -1.0],
          logprobs=[[-1.0, -2.0], [-0.5, -0.25]], old_logprobs=[[-2.0, -1.0], [-0.5, -1.0]])
    for aggregation in ("sequence_mean", "max_length"):
        for items in ("0.5", "7", "0"):
            build(f"items/{aggregation}-{items}", (3, 4), {**AGGREGATIONS[aggregation], "num_items": items}, old)
        for count in ("true", "false"):
            given(f"count-empty/{aggregation}-{count}", {**AGGREGATIONS[aggregation], "count_empty": count,
                  "entropy_weight": "0.5"}, (), advantages=[0.5, -1.0, 2.0],
                  logprobs=[[-1.0, -0.5], [-2.0, NAN], [-0.25, -0.75]],
                  old_logprobs=[[-1.25, -0.5], [-2.0, -1.0], [-0.5, -1.0]],
                  entropy=[[0.5, 1.0], [NAN, 2.0], [0.25, 0.5]], mask=[[1, 1], [0, 0], [1, 0]])
    for ends in ([0, 3, 3, 7, 8], [0, 0, 5], [0, 9]):
        for (objective, first), (aggregation, second) in itertools.product(
                {**OBJECTIVES, **NEWER}.items(), AGGREGATIONS.items()):
            if aggregation in ("num_items", "max_length") and ends[1] != 3:
                continue
            options = {**first, **second, "kl_weight": "0.125"}
            adv = "position" if ends[1] == 0 and objective != "gmpo" else "row"
            build(f"packed/{'-'.join(map(str, ends))}-{objective}-{aggregation}", (1, ends[-1]), options,
                  old + ("ref_logprobs", "grad_output"), DIAGNOSED + ("kl",), ends=ends, adv=adv)
        build(f"packed/{'-'.join(map(str, ends))}-everything", (1, ends[-1]),
              {"is_mode": "mask", "is_level": "sequence", "is_high": "1.75", "entropy_weight": "0.25",
               "aggregation": "sequence_mean", "count_empty": "false"},
              drawn + ("is_weights", "entropy", "grad_output"), DIAGNOSED, ends=ends)
    given("packed/nothing", {}, (), logprobs=[], advantages=[], offsets=[0])
    given("packed/as-many-as-sequences", {"aggregation": "sequence_mean"}, (), logprobs=[-1.0, -0.5, -2.0],
          old_logprobs=[-1.25, -0.25, -1.5], advantages=[0.5, -1.0, 2.0], offsets=[0, 2, 2, 3])


def main():
    checks()
    newer()
    every = ("old_logprobs", "ref_logprobs", "mask")
    for (objective, first), (aggregation, second) in itertools.product(OBJECTIVES.items(),
                                                                      AGGREGATIONS.items()):
        options = {**first, **second}
        build(f"all/{objective}-{aggregation}", (2, 4), options)
        build(f"all/{objective}-{aggregation}-kl", (2, 4), {**options, "kl_weight": "0.0625"},
              every)
        build(f"all/{objective}-{aggregation}-everything", (2, 4), {**options, "kl_weight": "0.25"},
              every + ("is_weights", "grad_output"))
    for objective, options in OBJECTIVES.items():
        build(f"advantages/{objective}-position", (2, 4), options, adv="position")
        build(f"advantages/{objective}-positive", (2, 4), options, sign=1)
        build(f"advantages/{objective}-negative", (2, 4), options, sign=-1)
        for shape in ("row", "position"):
            build(f"is-weights/{objective}-{shape}", (2, 4), options,
                  ("old_logprobs", "mask", "is_weights"), weights=shape)
            build(f"is-weights/{objective}-{shape}-kl", (2, 4), {**options, "kl_weight": "0.125"},
                  every + ("is_weights",), weights=shape, adv="position")
        build(f"mask/{objective}-none", (2, 5), options, ("old_logprobs",), ("ratio_mean",))
        build(f"mask/{objective}-none-kl", (2, 5), {**options, "kl_weight": "0.5"},
              ("old_logprobs", "ref_logprobs"), ("ratio_mean", "kl"))
        build(f"old/{objective}-absent", (2, 5), options, ("mask",))
        build(f"old/{objective}-absent-kl", (2, 5), {**options, "kl_weight": "0.125"},
              ("mask", "ref_logprobs"))
        build(f"reference/{objective}-without-weight", (2, 4), options, every)
    ratios = ("ratio_mean", "clip_fraction")
    for name, extra in (("masked", ("old_logprobs", "mask")), ("plain", ("old_logprobs",))):
        for spread in (0.1, 0.3, 0.8):
            build(f"diagnostics/{name}-{spread}", (3, 5), {}, extra, ratios, spread=spread)
    build("diagnostics/sequence", (3, 5), {"level": "sequence"}, ("old_logprobs",), ratios)
    build("diagnostics/kl", (3, 5), {"kl_weight": "0.25"}, every,
          ("ratio_mean", "clip_fraction", "kl"), adv="position")

    for low, high in (("0", "0"), ("0.1", "0.3"), ("0.25", "0.125"), ("0.5", "2"), ("0.2", "0.28")):
        for level in ("token", "sequence"):
            build(f"eps/{level}-{low}-{high}", (2, 4),
                  {"eps_low": low, "eps_high": high, "level": level}, adv="position", spread=0.5)
    for delta in ("1.25", "1.5", "3"):
        for level in ("token", "sequence"):
            for sign in (1, -1, None):
                build(f"delta/{level}-{delta}-{sign or 'both'}", (2, 4),
                      {"delta": delta, "level": level}, adv="position", spread=0.7, sign=sign)
    build("delta/kl", (2, 4), {"delta": "1.5", "kl_weight": "0.125"}, every, spread=0.7)
    for high in (None, "0.5", "1", "1.28", "5", "off"):
        options = {"objective": "cispo"}
        if high:
            options["ratio_high"] = high
        build(f"cispo/{high or 'default'}", (2, 4), options, adv="position", spread=0.5)
    for low, high in (("0.75", "1.25"), ("1", "1"), ("1.125", "off")):
        build(f"cispo/{low}-{high}", (2, 4),
              {"objective": "cispo", "ratio_low": low, "ratio_high": high}, adv="position",
              want=("clip_fraction",), spread=0.5)
    for pos, neg in (("1", "1"), ("0.5", "2"), ("2", "0.5"), ("4", "4")):
        build(f"sapo/{pos}-{neg}", (2, 4),
              {"objective": "sapo", "sapo_tau_pos": pos, "sapo_tau_neg": neg}, adv="position",
              spread=0.25)
    for items in ("0.5", "1", "1000"):
        build(f"num-items/{items}", (2, 4), {"aggregation": "num_items", "num_items": items})
    for length in ("4", "5", "128"):
        build(f"max-length/{length}", (2, 4), {"aggregation": "max_length", "max_length": length})
    for weight in ("0", "0.001", "1", "10"):
        build(f"kl/{weight}", (2, 4), {"kl_weight": weight}, every)
        build(f"kl/sequence-{weight}", (2, 4), {"kl_weight": weight, "level": "sequence"}, every)
    for (aggregation, options), entropy_aggregation in itertools.product(
            AGGREGATIONS.items(), ("same", "token_mean")):
        for weight in ("0", "0.0625", "-1"):
            build(f"entropy/{aggregation}-{entropy_aggregation}-{weight}", (2, 4),
                  {**options, "entropy_weight": weight, "entropy_aggregation": entropy_aggregation,
                   "kl_weight": "0.125"}, every + ("entropy", "is_weights", "grad_output"))
    build("entropy/sequence", (3, 4), {"level": "sequence", "entropy_weight": "0.25"},
          ("old_logprobs", "entropy"))
    for kind in ("f64", "f32", "f16", "bf16"):
        kinds = {name: kind for name in ("old_logprobs", "ref_logprobs", "advantages",
                                         "is_weights", "grad_output")}
        kinds["mask"] = "u8"
        build(f"dtype/{kind}", (2, 3), {"kl_weight": "0.25"}, every + ("is_weights", "grad_output"),
              kinds=kinds)
    for rows, columns in ((1, 1), (4, 1), (1, 7), (2, 17), (3, 33), (40, 2), (1, 300)):
        name = f"shape/{rows}x{columns}"
        extra = ("old_logprobs",) if columns == 1 else ("old_logprobs", "mask")
        build(name, (rows, columns), {"aggregation": "sequence_mean"}, extra)
        if rows * columns < 100:
            build(name + "-sequence", (rows, columns), {"level": "sequence"}, extra)
    for aggregation, options in AGGREGATIONS.items():
        build(f"empty/no-rows-{aggregation}", (0, 3), options)
        build(f"empty/no-rows-{aggregation}-everything", (0, 3), {**options, "kl_weight": "0.25"},
              every + ("is_weights", "grad_output"))
        values = {"logprobs": [[-1.0, NAN], [-2.0, -0.5]], "old_logprobs": [[-1.5, -1], [-2, NAN]],
                  "advantages": [0.5, -1.0], "mask": [[0, 0], [0, 0]]}
        given(f"empty/masked-{aggregation}", options, **values)
        given(f"empty/masked-sequence-{aggregation}", {**options, "level": "sequence"}, **values)
        given(f"empty/one-row-masked-{aggregation}", options, logprobs=[[-1.0, -2.0], [NAN, -0.5]],
              old_logprobs=[[-1.25, -1.0], [-2.0, INF]], advantages=[0.5, -1.0],
              mask=[[1, 2], [0, 0]])
        given(f"empty/one-row-masked-sequence-{aggregation}", {**options, "level": "sequence"},
              logprobs=[[-1.0, -2.0], [NAN, -0.5]], old_logprobs=[[-1.25, -1.0], [-2.0, INF]],
              advantages=[0.5, -1.0], mask=[[1, 2], [0, 0]])
    hidden = {"logprobs": [[-1.0, NAN, -2.0], [-INF, -0.5, -1.0]],
              "old_logprobs": [[-1.5, -1.0, -1.75], [NAN, -0.25, -1.5]],
              "ref_logprobs": [[-1.25, INF, -2.25], [-1.0, -0.75, -0.5]],
              "advantages": [0.5, -1.0], "mask": [[1, 0, 1], [0, 255, 1]]}
    for objective, options in OBJECTIVES.items():
        given(f"nonfinite/masked-{objective}", {**options, "kl_weight": "0.25"}, **hidden)
    # What the rows of a call with a NaN have for a gradient is not asked.
    for objective, options in OBJECTIVES.items():
        given(f"nonfinite/counted-{objective}", options, (), "float", False,
              logprobs=[[-1.0, NAN]], old_logprobs=[[-1.5, -1.0]], advantages=[0.5])

    # Ratios of exactly 1, on the bound where both are 0: half of each of two equal branches.
    tie = {"logprobs": [[-1.0, -0.5], [-3.0, -0.25]], "old_logprobs": [[-1.0, -0.5], [-3.0, -0.25]]}
    for level in ("token", "sequence"):
        for low, high in (("0", "0"), ("0", "0.2"), ("0.2", "0"), ("0.2", "0.2")):
            given(f"tie/{level}-{low}-{high}", {"eps_low": low, "eps_high": high, "level": level},
                  advantages=[1.0, -0.5], **tie)
    given("tie/cispo", {"objective": "cispo", "ratio_high": "1"}, advantages=[1.0, -0.5], **tie)
    given("tie/sapo", {"objective": "sapo"}, advantages=[1.0, -0.5], **tie)
    # Without an advantage nothing but the divergence is left.
    away = {"logprobs": [[-1.0, -0.5], [-3.0, -0.25]], "old_logprobs": [[-2.0, -0.5], [-1.0, -1.0]]}
    for objective, options in OBJECTIVES.items():
        given(f"advantages/{objective}-0", options, advantages=[0.0, 0.0], **away)
        given(f"advantages/{objective}-0-kl", {**options, "kl_weight": "0.5"},
              advantages=[0.0, 0.0], ref_logprobs=[[-1.5, -0.5], [-2.0, -1.0]], **away)
    # Saturated or not, for both signs and both sides.
    for name, sign in (("gain", 1.0), ("loss", -1.0)):
        given(f"sides/{name}", {}, advantages=[sign], logprobs=[[-1.0, -1.0, -1.0, -1.0, -1.0]],
              old_logprobs=[[-3.0, -1.5, -1.0, -0.5, -0.25]])
        given(f"sides/{name}-delta", {"delta": "2"}, advantages=[sign],
              logprobs=[[-1.0, -1.0, -1.0, -1.0, -1.0]],
              old_logprobs=[[-3.0, -1.5, -1.0, -0.5, -0.25]])

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "policy_gradient.jsonl")
    BOOK.write(path)
    print(f"{len(BOOK.lines)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
