#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of policy_gradient.

The loss is written out in f64 and differentiated by torch; the closed form of the contract must
agree and is what is written. No random ratio lies next to a bound, where rounding would choose the
branch, and positions whose f32 result strays are drawn again.
"""
import itertools
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
         "kl_weight", "aggregation", "max_length", "num_items", "entropy_weight", "entropy_aggregation"}


def spread_out(x, shape):
    return (x if x.dim() == 2 else x[:, None]).expand(shape)


def formula(inputs, o, dtype):
    """Everything about one call in one float type. `slack` is how far the ratios are from where
    the branches change; 0 is on the spot."""
    assert set(o) <= KNOWN
    leaf = inputs.get("logprobs").to(dtype).clone().requires_grad_(True)
    shape = leaf.shape
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    mask = inputs.get("mask")
    live = torch.ones(shape, dtype=torch.bool) if mask is None else mask != 0
    m = live.to(dtype)
    lp = torch.where(live, leaf, zero)

    def constant(name, default):
        x = inputs.get(name)
        x = default if x is None else spread_out(x.to(dtype), shape)
        return torch.where(live, x, zero)

    old = constant("old_logprobs", lp.detach())
    ref = constant("ref_logprobs", lp.detach())
    adv = constant("advantages", None)
    kappa = constant("is_weights", one.expand(shape))
    objective, level = o.get("objective", "clip"), o.get("level", "token")
    low, high = 1 - float(o.get("eps_low", "0.2")), 1 + float(o.get("eps_high", "0.2"))
    if objective == "cispo":
        assert "eps_low" not in o and "eps_high" not in o
        low, high = float(o.get("ratio_low", "0")), float(o.get("ratio_high", "5").replace("off", "inf"))
    delta = float(o.get("delta", "inf"))
    n = m.sum(1, keepdim=True)
    per_row = torch.clamp(n, min=1)
    ratio = lp - old
    if level == "sequence":
        assert objective == "clip"
        ratio = ((m * ratio).sum(1, keepdim=True) / per_row).expand(shape)
    w = torch.exp(ratio)
    w0 = w.detach()
    slack = []
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
    elif objective == "cispo":
        bound = torch.clamp(w0, min=low, max=high)
        value = -bound * adv * lp
        slope = -bound * adv
        slack += [w0 - low, w0 - high]
    else:
        assert objective == "sapo"
        tau = torch.where(adv > 0, float(o.get("sapo_tau_pos", "1")) * one,
                          float(o.get("sapo_tau_neg", "1.05")) * one)
        gate = tau * (w - 1)
        value = -(4 / tau) * torch.sigmoid(gate) * adv
        gate = gate.detach()
        slope = -4 * torch.sigmoid(gate) * torch.sigmoid(-gate) * adv * w0
    gap = ref - lp
    kl = torch.exp(gap) - gap - 1
    kl_slope = -torch.expm1(gap.detach())

    aggregation = o.get("aggregation", "token_mean")
    total = m.sum()
    if total == 0:
        share = m
    elif aggregation == "token_mean":
        share = m / total
    elif aggregation == "sequence_mean":
        share = m / (shape[0] * per_row)
    elif aggregation == "max_length":
        share = m / (shape[0] * int(o["max_length"]))
    else:
        assert aggregation == "num_items"
        share = m / float(o["num_items"])
    beta = float(o.get("kl_weight", "0"))
    assert beta == 0 or inputs.get("ref_logprobs") is not None
    term = kappa * value
    slope = share * kappa * slope
    if level == "sequence":
        slope = m / per_row * slope.sum(1, keepdim=True)
    if beta:
        term = term + beta * kl
        slope = slope + share * beta * kl_slope
    loss = (share * torch.where(live, term, zero)).sum()
    out = {"leaf": leaf, "grad": torch.where(live, slope, zero), "live": live,
           "slack": [torch.where(live, s, one) for s in slack]}
    if inputs.get("entropy") is not None:
        out["entropy"] = inputs.get("entropy").to(dtype).clone().requires_grad_(True)
        alone = o.get("entropy_aggregation", "same") == "token_mean" and total
        part = float(o.get("entropy_weight", "0")) * (m / total if alone else share)
        loss = loss - (part * torch.where(live, out["entropy"], zero)).sum()
        out["entropy grad"] = torch.where(live, -part, zero)
    out["loss"] = loss
    if total:
        moved = ((w0 > high) & (adv > 0)) | ((w0 < low) & (adv < 0))
        if objective == "cispo":
            moved = (w0 > high) | (w0 < low)
        out["ratio_mean"] = (m * w0).sum() / total
        out["clip_fraction"] = (live & moved).sum() / total
        out["kl"] = (m * kl.detach()).sum() / total
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
    if options.get("level") == "sequence":
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
        outputs["grad.logprobs"] = grads
    if "entropy" in e:
        outputs["grad.entropy"] = go * e["entropy grad"]
        assert same(outputs["grad.entropy"], by_torch[1]), name
    for key in want:
        assert options.get("aggregation", "token_mean") == "token_mean"
        if options.get("level") == "sequence":
            assert len(set(e["live"].sum(1).tolist())) == 1
        if key == "clip_fraction":
            assert "delta" not in options and bool((inputs.get("advantages") != 0).all())
            assert options.get("objective", "clip") in ("clip", "cispo")
        if key == "kl":
            assert inputs.get("ref_logprobs") is not None and "kl_weight" in options
        outputs[key] = e[key].to(F64)
    BOOK.add(name, inputs, options, outputs)
    return outputs


def position(draw, spread):
    """One position's three log-probabilities and its weight."""
    old = -draw.random.uniform(0.25, 4.0)
    return {"logprobs": short(min(old + draw.random.gauss(0, spread), -0.0625)),
            "old_logprobs": short(old),
            "ref_logprobs": short(min(old + draw.random.gauss(0, spread), -0.0625)),
            "is_weights": short(draw.random.uniform(0.25, 2.0))}


def build(name, shape, options=None, extra=("old_logprobs", "mask"), want=(), kinds=None,
          adv="row", weights="position", spread=0.3, masked=0.75, sign=None, grad=True):
    """A case of random numbers. `adv` is row, position; `weights` the same for is_weights."""
    options = {k: str(v) for k, v in (options or {}).items()}
    draw = Draw("policy_gradient " + name)
    rows, columns = shape
    kinds = kinds or {}
    advantages = draw.normal((rows,) if adv == "row" else shape, 1.0)
    advantages = torch.where(advantages == 0, torch.ones((), dtype=F64), advantages)
    if sign:
        advantages = sign * advantages.abs()
    mask = draw.flags(shape, masked)
    if columns > 1:
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
        for key in ("logprobs", "old_logprobs", "ref_logprobs", "is_weights"):
            if key == "logprobs" or key in extra:
                table = [[cell[key] for cell in row] for row in cells]
                table = torch.tensor(table, dtype=F64).reshape(shape)
                if key == "is_weights" and weights == "row":
                    table = factors
                inputs.put(key, table, kinds.get(key, "float"))
        inputs.put("advantages", advantages, kinds.get("advantages", "float"))
        if "mask" in extra:
            inputs.put("mask", mask, kinds.get("mask", "bool"))
        if "entropy" in extra:
            inputs.put("entropy", entropy, kinds.get("entropy", "float"))
        if "grad_output" in extra:
            inputs.put("grad_output", short(draw.random.gauss(0, 1)) * torch.ones((), dtype=F64),
                       kinds.get("grad_output", "float"))
        bad = ~steady(inputs, options)
        if not bool(bad.any()):
            return write(name, inputs, options, want, grad)


def given(name, options, want=(), dtype="float", grad=True, **values):
    inputs = Inputs()
    for key, value in values.items():
        kind = dtype
        if key == "mask":
            kind = "u8" if any(v not in (0, 1) for row in value for v in row) else "bool"
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


def main():
    checks()
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
