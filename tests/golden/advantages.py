#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of gae and group_advantages, in plain Python from the papers' formulas."""
import math
import os
import statistics

import torch

from oracle import F64, NAN, Book, Draw, Inputs, Sequences, stated


def flat(inputs, name):
    tensor = inputs.get(name)
    return None if tensor is None else tensor.to(F64).reshape(-1).tolist()


def gae(inputs, options):
    """By the definition of A as a sum of errors, over the counted positions of each episode."""
    gamma, lam = float(options.get("gamma", 1)), float(options.get("lambda", 0.95))
    r, v, mask, dones = (flat(inputs, n) for n in ("rewards", "values", "mask", "dones"))
    last, lengths = flat(inputs, "last_values"), flat(inputs, "lengths")
    shape = inputs.get("rewards").shape
    at, advantages, returns, counted = 0, [0.0] * len(r), [0.0] * len(r), []
    for b, places in enumerate(Sequences(inputs, shape).rows):
        here = list(range(at, at + len(places)))
        at += len(places)
        if lengths is not None:
            here = here[: int(lengths[b])]
        here = [i for i in here if mask is None or mask[i]]
        counted += here
        ends = [k for k, i in enumerate(here) if dones is not None and dones[i]]
        for k, i in enumerate(here):
            end = next((e for e in ends if e >= k), None)  # the episode's last position
            stop = len(here) - 1 if end is None else end
            total = 0.0
            for j in range(k, stop + 1):
                following = v[here[j + 1]] if j < stop else 0.0 if end is not None else last[b] if last else 0.0
                total += (gamma * lam) ** (j - k) * (r[here[j]] + gamma * following - v[here[j]])
            advantages[i] = total
            returns[i] = total + v[i]
    if options.get("whiten") == "true" and counted:
        some = [advantages[i] for i in counted]
        mean = math.fsum(some) / len(some)
        if not all(math.isfinite(x) for x in some):
            mean = NAN
        var = math.fsum((x - mean) ** 2 for x in some) / (len(some) - 1) if len(some) > 1 else 0
        for i in counted:
            advantages[i] = (advantages[i] - mean) / math.sqrt(var + 1e-8) if len(some) > 1 else 0.0
    return {"advantages": torch.tensor(advantages, dtype=F64).reshape(shape),
            "returns": torch.tensor(returns, dtype=F64).reshape(shape)}


def spread_of(x, ddof):
    if len(x) <= ddof:
        return 0.0
    return statistics.stdev(x) if ddof == 1 else statistics.pstdev(x)


def groups(inputs, options):
    r, mask, ids = (flat(inputs, n) for n in ("rewards", "mask", "group_ids"))
    if ids is None:
        ids = [i // int(options["group_size"]) for i in range(len(r))]
    ddof, eps = int(options.get("ddof", 1)), float(options.get("eps", 1e-4))
    counted = [i for i in range(len(r)) if mask is None or mask[i]]
    out = {name: [0.0] * len(r) for name in ("advantages", "group_mean", "group_std")}
    for i in counted:
        own = [r[k] for k in counted if ids[k] == ids[i]]
        mean, std = statistics.fmean(own), spread_of(own, ddof)
        rest = [r[k] for k in counted if ids[k] == ids[i] and k != i]
        base = {"mean": mean, "leave_one_out": statistics.fmean(rest) if rest else r[i], "none": 0.0}
        over = {"group": std, "batch": spread_of([r[k] for k in counted], ddof), "none": 0.0}
        a = r[i] - base[options.get("baseline", "mean")]
        by = over[options.get("scale", "group")] + eps
        if options.get("scale") != "none":
            a = a / by if by != 0 else 0.0
        out["advantages"][i], out["group_mean"][i], out["group_std"][i] = a, mean, std
    return {name: torch.tensor(x, dtype=F64) for name, x in out.items()}


def write(book, name, inputs, options=None):
    options = {k: str(v) for k, v in (options or {}).items()}
    out = (gae if book.loss == "gae" else groups)(inputs, options)
    book.add(name, inputs, options, out)
    return out


def save(book):
    book.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), book.loss + ".jsonl"))
    print(book.loss, len(book.lines))


def gaes():
    book = Book("gae")

    def build(name, shape, options=None, extra=(), offsets=None, kind="float"):
        draw, inputs = Draw("gae" + name), Inputs()
        rows = shape[0] if offsets is None else len(offsets) - 1
        inputs.put("rewards", draw.normal(shape), kind)
        inputs.put("values", draw.normal(shape), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags(shape), "bool")
        if "lengths" in extra:
            inputs.put("lengths", draw.integers((rows,), 0, shape[1] + 1), "i64")
        if offsets is not None:
            inputs.put("offsets", torch.tensor(offsets), "i32")
        if "dones" in extra:
            inputs.put("dones", draw.flags(shape, 0.25), "u8")
        if "last_values" in extra:
            inputs.put("last_values", draw.normal((rows,)), kind)
        write(book, name, inputs, options)

    inputs = Inputs()
    inputs.put("rewards", torch.tensor([[0, 0, 1], [0, 1, 9]], dtype=F64), "f64")
    inputs.put("values", torch.tensor([[0.5, 0.6, 0.7], [0.2, 0.4, 9]], dtype=F64), "f64")
    inputs.put("mask", torch.tensor([[1, 1, 1], [1, 1, 0]]), "bool")
    options = {"gamma": 0.9, "lambda": 0.8}
    out = write(book, "check/plain", inputs, options)
    stated(out["advantages"], [[0.21712, 0.246, 0.3], [0.592, 0.6, 0]], "gae")
    stated(out["returns"], [[0.71712, 0.846, 1], [0.792, 1, 0]], "gae")
    out = write(book, "check/whiten", inputs, {**options, "whiten": "true"})
    stated(out["advantages"], [[-0.917758977, -0.7653479959, -0.4803690147], [1.06062844, 1.102847548, 0]], "whiten")
    for whiten in ("false", "true"):
        o = {"whiten": whiten, "gamma": 0.9}
        for extra in ((), ("mask",), ("lengths",), ("dones", "last_values"),
                      ("mask", "lengths", "dones", "last_values")):
            build(f"whiten-{whiten}/{'-'.join(extra) or 'plain'}", (3, 6), o, extra)
        build(f"whiten-{whiten}/packed", (9,), o, ("mask", "dones", "last_values"), [0, 0, 4, 5, 9])
    build("defaults", (2, 7))
    build("gamma-0", (2, 4), {"gamma": 0})
    build("lambda-0", (2, 4), {"lambda": 0, "gamma": 0.75})
    build("lambda-1", (2, 9), {"lambda": 1})
    build("f64", (2, 5), {"whiten": "true"}, ("last_values",), kind="f64")
    build("packed/one", (5,), {}, ("last_values",), [0, 5])
    build("packed/none", (0,), {}, (), [0, 0])
    build("whiten/one", (1, 1), {"whiten": "true"})
    build("empty/no-rows", (0, 3), {"whiten": "true"})
    build("empty/no-positions", (3, 0))
    inputs = Inputs()
    inputs.put("rewards", torch.tensor([[1, NAN, 2]], dtype=F64))
    inputs.put("values", torch.tensor([[0.5, NAN, 0.25]], dtype=F64))
    inputs.put("mask", torch.tensor([[1, 0, 1]]), "u8")
    write(book, "skipped-nan", inputs)
    inputs = Inputs()
    inputs.put("rewards", torch.tensor([[1, NAN, 2], [1, 2, 3]], dtype=F64))
    inputs.put("values", torch.tensor([[0.5, 1, 0.25], [1, 1, 1]], dtype=F64))
    write(book, "nan", inputs)
    save(book)


def advantages():
    book = Book("group_advantages")

    def build(name, n, options=None, ids=None, mask=False, kind="float", rewards=None):
        draw, inputs = Draw("group" + name), Inputs()
        inputs.put("rewards", draw.normal((n,)) if rewards is None else torch.tensor(rewards, dtype=F64), kind)
        if ids is not None:
            inputs.put("group_ids", ids if torch.is_tensor(ids) else draw.integers((n,), 0, ids), "i64")
        if mask:
            inputs.put("mask", draw.flags((n,)), "bool")
        return write(book, name, inputs, options)

    r = [1, 0, 0.5, 2, 2, 2]
    for name, options, expected in (
            ("plain", {}, [0.99980004, -0.99980004, 0, 0, 0, 0]),
            ("leave-one-out", {"baseline": "leave_one_out", "scale": "none"}, [0.75, -0.75, 0, 0, 0, 0]),
            ("batch", {"scale": "batch"}, [0.5678973254, -0.5678973254, 0, 0, 0, 0])):
        stated(build("check/" + name, 6, {"group_size": 3, **options}, kind="f64", rewards=r)["advantages"],
               expected, name)
    for baseline in ("mean", "leave_one_out", "none"):
        for scale in ("group", "batch", "none"):
            o = {"baseline": baseline, "scale": scale}
            build(f"{baseline}-{scale}/size", 8, {"group_size": 4, **o})
            build(f"{baseline}-{scale}/ids", 9, o, 3, True)
    build("ddof-0", 6, {"group_size": 3, "ddof": 0})
    build("eps", 6, {"group_size": 2, "eps": 0.5})
    build("eps-0", 6, {"group_size": 3, "eps": 0}, rewards=[1, 1, 1, 0.5, 0.25, 0.25])
    build("alone", 5, {}, torch.tensor([7, -3, 2**62, 0, -(2**63)]))
    build("alone-none", 4, {"baseline": "none", "scale": "none"}, torch.tensor([7, -3, 7, 0]))
    build("one-group", 17, {"group_size": 17})
    build("sizes-of-1", 3, {"group_size": 1})
    build("mixed", 40, {}, 9, True)
    build("equal", 6, {"group_size": 3, "eps": 0}, kind="f64", rewards=[0.1, 0.1, 0.1, 0.7, 0.7, 0.7])
    build("close", 6, {"group_size": 3, "scale": "none"}, rewards=[100, 100.5, 101, -64, -65, -64.5])
    build("empty", 0, {"group_size": 4})
    build("empty-ids", 0, {}, torch.zeros((0,), dtype=torch.int64))
    save(book)


gaes()
advantages()
