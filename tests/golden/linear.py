#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses with a linear head: the head by torch.autograd in f64, in front of the definitions
that sequence.py writes out."""
import math
import os

import torch

from oracle import F64, NAN, Book, Draw, Inputs, same, stated
from sequence import ROW_OPTIONS, named, number_of, sequence

HERE = os.path.dirname(os.path.abspath(__file__))
PARAMETERS = ("hidden", "weight", "bias", "norm_weight")


class Head:
    """Scores of hidden states, and the way back from the derivatives of scores."""

    def __init__(self, inputs, options, prefix="", needs=True):
        self.given = {}
        for name in PARAMETERS:
            tensor = inputs.get(prefix + name)
            if tensor is not None:
                self.given[name] = tensor.to(F64).clone().requires_grad_(needs)
        h = self.given["hidden"]
        if "norm_weight" in self.given:
            eps = number_of(options, "norm_eps", 1e-6)
            h = self.given["norm_weight"] * (h / torch.sqrt((h * h).mean(-1, keepdim=True) + eps))
        self.multiplied = h
        self.x = h @ self.given["weight"].T
        if "bias" in self.given:
            self.x = self.x + self.given["bias"]

    def back(self, e):
        found = torch.autograd.grad(self.x, list(self.given.values()), e, allow_unused=True)
        return {"grad." + name: torch.zeros_like(t) if g is None else g
                for (name, t), g in zip(self.given.items(), found)}

    def scale(self):
        """Z of the tolerances of a head."""
        if self.x.numel() == 0:
            return 0
        x, h = torch.nan_to_num(self.x.detach(), 0, 0, 0), torch.nan_to_num(self.multiplied.detach(), 0, 0, 0)
        factor = math.sqrt(h.shape[-1]) * h.abs().max().item() * self.given["weight"].abs().max().item()
        return x.abs().max().item() + 2 * factor


def with_scores(inputs, head, shape):
    """The inputs of the definition, which has the scores in place of the head."""
    rows = Inputs()
    for name, tensor in inputs.tensors.items():
        if name not in PARAMETERS:
            rows.tensors[name] = tensor
    rows.tensors["logits"] = head.x.detach().reshape(shape)
    return rows


def linear_cross_entropy(inputs, options):
    head = Head(inputs, options)
    lead, classes = head.x.shape[:-1], head.x.shape[-1]
    flat = len(lead) != 2
    rows = with_scores(inputs, head, (lead.numel(), 1, classes) if flat else head.x.shape)
    if flat:
        for name in ("targets", "mask", "grad_output"):
            if name in rows.tensors and (name != "grad_output" or options.get("reduction") == "none"):
                rows.tensors[name] = rows.tensors[name].reshape(-1, 1)
    if "sample_weight" in rows.tensors:
        rows.tensors["position_weight"] = rows.tensors.pop("sample_weight").reshape(rows.get("targets").shape)
    outputs, _ = sequence(rows, options)
    e = outputs.pop("grad.logits").reshape(head.x.shape)
    for name in ("loss", "nll", "lse", "entropy", "predicted", "z_loss"):
        if flat and name in outputs and outputs[name].dim() == 2:
            outputs[name] = outputs[name].reshape(lead)
    outputs.update(head.back(e))
    return outputs, head.scale() * number_of(options, "logit_scale", 1)


def put(book, evaluate, name, inputs, options, want):
    outputs, scale = evaluate(inputs, options)
    book.add(name, inputs, options, {k: outputs[k] for k in want if k in outputs}, scale)
    return outputs


def check_head():
    inputs = Inputs()
    for name, data in (("hidden", [[1, -1], [0.5, 2]]), ("weight", [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]]),
                       ("bias", [0.1, 0, -0.1])):
        inputs.tensors[name], inputs.dtypes[name] = torch.tensor(data, dtype=F64), "f64"
    return inputs


def draw_head(draw, inputs, lead, classes, depth, extra=(), floats=("float",) * 4):
    hidden, weight, bias, norm = floats
    inputs.put("hidden", draw.normal((*lead, depth), 1), hidden)
    inputs.put("weight", draw.normal((classes, depth), 2 / math.sqrt(depth)), weight)
    if "bias" in extra:
        inputs.put("bias", draw.normal((classes,), 1), bias)
    if "norm_weight" in extra:
        inputs.put("norm_weight", draw.between((depth,), 0.25, 2), norm)


GRADS = ["grad." + name for name in PARAMETERS]
FEW = ["loss", *GRADS]


def cross_entropy_cases():
    book = Book("linear_cross_entropy")

    def build(name, lead, classes, depth, options=None, extra=(), want=FEW, floats=("float",) * 4, kind="i64"):
        draw, inputs, options = Draw("linear " + name), Inputs(), options or {}
        draw_head(draw, inputs, lead, classes, depth, extra, floats)
        y = draw.integers(lead, 0, int(options.get("vocab_size", classes)))
        ignored = int(options.get("ignore_index", "-100"))
        inputs.put("targets", torch.where(draw.flags(lead, 0.2), torch.full_like(y, ignored), y), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags(lead), "bool")
        if "class_weight" in extra:
            inputs.put("class_weight", draw.between((classes,), 0.25, 2))
        if "sample_weight" in extra:
            inputs.put("sample_weight", draw.between(lead, 0.25, 2))
        if "position_weight" in extra:
            inputs.put("position_weight", draw.between(lead, 0.25, 2))
        if "lengths" in extra:
            inputs.put("lengths", draw.integers(lead[:1], 0, lead[1] + 1), kind)
        if "grad_output" in extra:
            loss = linear_cross_entropy(inputs, options)[0]["loss"]
            inputs.put("grad_output", draw.normal(tuple(loss.shape), 1))
        put(book, linear_cross_entropy, name, inputs, options, want)

    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("bias",), ("norm_weight", "mask"), ("bias", "norm_weight", "class_weight", "sample_weight"),
                      ("bias", "mask", "grad_output")):
            build(f"{reduction}/{'-'.join(extra) or 'plain'}", (5,), 7, 6, {"reduction": reduction}, extra)
    for reduction in ("none", "mean", "sequence_sum", "sequence_mean", "mean_of_sequence_means", "mean_of_sequence_sums"):
        build(f"sequences/{reduction}", (3, 4), 6, 5, {"reduction": reduction, "shift": "1", "z_loss": "0.125"},
              ("bias", "lengths", "position_weight", "grad_output"))
    for options in ROW_OPTIONS:
        build("option/" + named(options), (6,), 9, 5, options, ("norm_weight",))
    build("diagnostics/rows", (7,), 6, 4, {}, ("bias",),
          ["loss", "nll", "lse", "entropy", "predicted", "count", "accuracy", "perplexity", "nll_sum"])
    build("diagnostics/text", (2, 5), 6, 4, {"shift": "1", "num_bytes": "9", "num_words": "3"}, (),
          ["loss", "nll", "entropy", "bits_per_token", "bits_per_byte", "byte_perplexity", "word_perplexity"])
    for lead, classes, depth in (((1,), 1, 1), ((1,), 2, 1), ((2,), 1, 3), ((33,), 17, 16), ((3,), 515, 129), ((300,), 3, 2), ((2, 2, 3), 5, 4), ((), 5, 4)):
        build(f"shape/{'x'.join(map(str, lead)) or 'one'}-{classes}-{depth}", lead, classes, depth, {}, ("bias",))
    for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16"), ("bf16", "bf16", "bf16", "bf16")):
        build("types/" + "-".join(floats), (6,), 35, 18, {"norm_eps": "0.001"}, ("bias", "norm_weight"), floats=floats)
    build("num_items", (5,), 4, 3, {"num_items": "7.5"}, ("sample_weight",))
    for nan in ("zero", "nan"):
        inputs = Inputs()
        inputs.put("hidden", torch.tensor([[NAN, 1.0], [0.5, 1.0]], dtype=F64))
        inputs.put("weight", torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.0, 2.0]], dtype=F64))
        inputs.put("targets", torch.tensor([-100, -100]), "i64")
        head = Head(inputs, {})
        zeros = {name: torch.zeros_like(t) for name, t in head.given.items()}
        book.add(f"empty-{nan}", inputs, {"empty_mean": nan},
                 {"loss": torch.tensor(0.0 if nan == "zero" else NAN, dtype=F64), "grad.hidden": zeros["hidden"],
                  "grad.weight": zeros["weight"], "count": torch.tensor(0)}, 1)
    # The numbers of the contract.
    inputs = check_head()
    inputs.put("targets", torch.tensor([0, 2]), "i64")
    got = put(book, linear_cross_entropy, "contract/plain", inputs, {}, FEW + ["entropy", "lse"])
    stated(got["loss"], 0.6571299368, "loss")
    stated(got["grad.hidden"], [[-0.06792967605, 0.1196604216], [0.1888406009, -0.1043768412]], "grad.hidden")
    stated(got["grad.weight"], [[-0.1430666422, 0.3372696465], [0.2349065635, 0.2929919343],
                                [-0.09183992136, -0.6302615808]], "grad.weight")
    stated(got["grad.bias"], [-0.1042260413, 0.3404862631, -0.2362602218], "grad.bias")
    stated(got["entropy"], [0.8743427894, 1.017357208], "entropy")
    stated(got["lse"], [1.05226507, 1.711994804], "lse")
    inputs.tensors["norm_weight"], inputs.dtypes["norm_weight"] = torch.tensor([1, 0.5], dtype=F64), "f64"
    got = put(book, linear_cross_entropy, "contract/norm", inputs, {}, FEW)
    stated(got["loss"], 0.8602408994, "loss")
    stated(got["grad.hidden"], [[-0.006093071087, -0.00609291226], [0.1634100818, -0.040852527]], "grad.hidden")
    stated(got["grad.norm_weight"], [-0.005441953893, -0.3625333479], "grad.norm_weight")
    book.write(os.path.join(HERE, "linear_cross_entropy.jsonl"))
    print("linear_cross_entropy", len(book.lines))


if __name__ == "__main__":
    cross_entropy_cases()
