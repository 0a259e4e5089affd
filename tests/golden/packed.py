#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of linear heads whose sequences are packed: offsets of linear_cross_entropy and linear_token_logprobs."""
import math
import pathlib

from tape import Golden, Num, Tensor, dot, empty, lse, total


def log_softmax(x, i):
    scores = [dot(x["hidden"][i], x["weight"][c]) + (x["bias"].data[c] if "bias" in x else 0.0)
              for c in range(x["weight"].shape[0])]
    top = lse(scores)
    return [s - top for s in scores]


def places(x, o):
    """Of each sequence, the positions that count, each with its target's place."""
    ends, shift = x["offsets"].data, int(o.get("shift", 0))
    return [[(i, i + shift) for i in range(a, b) if i + shift < b and ("mask" not in x or x["mask"].data[i + shift])]
            for a, b in zip(ends, ends[1:])]


def linear_cross_entropy(x, o):
    weight, rows = x.get("position_weight"), [Num(0)] * x["hidden"].shape[0]
    sums, weights = [], []
    for sequence in places(x, o):
        w = [weight.data[p] if weight else 1.0 for _, p in sequence]
        nll = [-log_softmax(x, i)[x["targets"].data[p]] * v for (i, p), v in zip(sequence, w)]
        for (i, _), value in zip(sequence, nll):
            rows[i] = value
        sums.append(total(nll))
        weights.append(sum(w))
    reduction, items = o.get("reduction", "mean"), o.get("num_items")
    means = [s / w if w else Num(0) for s, w in zip(sums, weights)]
    if reduction == "none":
        return {"loss": Tensor([len(rows)], rows)}
    if reduction in ("sequence_sum", "sequence_mean"):
        return {"loss": Tensor([len(sums)], sums if reduction == "sequence_sum" else means)}
    if reduction == "sum":
        return {"loss": Tensor([], [total(rows)])}
    terms, d = {"mean": (rows, sum(weights)), "mean_of_sequence_means": (means, sum(w != 0 for w in weights)),
                "mean_of_sequence_sums": (sums, len(sums))}[reduction]
    d = float(items) if items else d
    return {"loss": Tensor([], [total(terms) / d if d else empty(total(terms), o)])}


def linear_token_logprobs(x, o):
    lp, sequences = [Num(0)] * x["hidden"].shape[0], []
    for sequence in places(x, o):
        for i, p in sequence:
            lp[i] = log_softmax(x, i)[x["targets"].data[p]]
        sequences.append(([lp[i] for i, _ in sequence]))
    out = {"loss": Tensor([], [total(lp)]), "logprobs": Tensor([len(lp)], lp)}
    out["sequence_logprobs"] = Tensor([len(sequences)], [total(s) for s in sequences])
    out["mean_logprobs"] = Tensor([len(sequences)], [total(s) / max(len(s), 1) for s in sequences])
    return out


def largest(inputs, o):
    most = {k: max((abs(v) for v in inputs[k].data), default=0) for k in ("hidden", "weight")}
    return max(1.0, inputs["hidden"].shape[1] * most["hidden"] * most["weight"])


NAMES = ("hidden", "weight", "bias")
ENTROPY = Golden("linear_cross_entropy", NAMES, linear_cross_entropy, largest)
LOGPROBS = Golden("linear_token_logprobs", NAMES, linear_token_logprobs, largest)


def packed(lengths, width, classes, *others, kind="float", up=None):
    def fill(d):
        n, ends = sum(lengths), [sum(lengths[:k]) for k in range(len(lengths) + 1)]
        inputs = {"hidden": d.normal(n, width, dtype=kind), "targets": d.integers(0, classes, n),
                  "weight": d.normal(classes, width, dtype=kind), "offsets": Tensor([len(ends)], ends, "i64")}
        if "bias" in others:
            inputs["bias"] = d.normal(classes, dtype=kind)
        if "mask" in others:
            inputs["mask"] = d.flags(n)
        if "position_weight" in others:
            inputs["position_weight"] = d.between(0.25, 2, n)
        if up:
            inputs["grad_output"] = d.between(0.25, 2, *({"rows": [n], "sequences": [len(lengths)], "one": []}[up]))
        return inputs
    return fill


for reduction in ("none", "sum", "mean", "sequence_sum", "sequence_mean", "mean_of_sequence_means", "mean_of_sequence_sums"):
    o = {"reduction": reduction}
    up = "rows" if reduction == "none" else "sequences" if reduction.startswith("sequence") else "one"
    ENTROPY.draw(f"{reduction}/shift", packed((3, 0, 1, 4), 3, 4, "bias", up=up), {**o, "shift": "1"}, least=0)
    ENTROPY.draw(f"{reduction}/weights", packed((2, 3), 2, 3, "mask", "position_weight", up=up), o, least=0)
ENTROPY.draw("items", packed((2, 4), 3, 3, "mask"), {"num_items": "7", "shift": "1"}, least=0)
ENTROPY.draw("shift-beyond", packed((2, 1, 3), 3, 3), {"shift": "2"}, least=0)
ENTROPY.draw("f64", packed((2, 2), 17, 5, kind="f64"), {}, least=0)
for kind in ("f32", "f16", "bf16"):
    ENTROPY.draw(kind, packed((2, 2), 4, 3, kind=kind), {"shift": "1"}, least=0)
for shift in ("0", "1", "2"):
    for lengths in ((3,), (2, 0, 4), (1, 1, 1), (0, 5, 0)):
        LOGPROBS.draw(f"{shift}/{'-'.join(map(str, lengths))}", packed(lengths, 3, 4, "bias", "mask"), {"shift": shift}, least=0)
for kind in ("f64", "f32", "f16", "bf16"):
    LOGPROBS.draw(kind, packed((2, 3), 4, 3, kind=kind), {}, least=0)
path = pathlib.Path(__file__).with_name("packed.jsonl")
path.write_text("".join(line + "\n" for g in (ENTROPY, LOGPROBS) for line in g.lines), encoding="ascii")
print(f"packed: {len(ENTROPY.lines) + len(LOGPROBS.lines)} cases, {path.stat().st_size} bytes")
