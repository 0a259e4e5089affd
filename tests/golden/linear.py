#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses with a linear head: the head by torch.autograd in f64, in front of the definitions
that sequence.py writes out."""
import math
import os

import torch

from oracle import F64, NAN, Book, Draw, Inputs, same, stated
from sequence import ROW_OPTIONS, named, number_of, sequence, token_logprobs

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


# linear_token_logprobs


def linear_token_logprobs(inputs, options):
    head = Head(inputs, options)
    lead, classes = head.x.shape[:-1], head.x.shape[-1]
    flat = len(lead) != 2
    rows = with_scores(inputs, head, (lead.numel(), 1, classes) if flat else head.x.shape)
    for name in ("targets", "mask", "grad_logprobs", "grad_entropy"):
        if flat and name in rows.tensors:
            rows.tensors[name] = rows.tensors[name].reshape(-1, 1)
    outputs, _ = token_logprobs(rows, options)
    e = outputs.pop("grad.logits").reshape(head.x.shape)
    if flat:
        outputs = {k: v.reshape(lead) if k in ("logprobs", "entropy") else v for k, v in outputs.items()}
    outputs.update(head.back(e))
    return outputs, head.scale() * number_of(options, "logit_scale", 1)


def token_cases():
    book = Book("linear_token_logprobs")
    rows, sequences = ["loss", "logprobs", "entropy", *GRADS], ["sequence_logprobs", "mean_logprobs"]
    every = ("grad_output", "grad_logprobs", "grad_entropy", "grad_sequence_logprobs", "grad_mean_logprobs")

    def build(name, lead, classes, depth, options=None, extra=(), floats=("float",) * 4, kind="i64"):
        draw, inputs, options = Draw("linear token " + name), Inputs(), options or {}
        draw_head(draw, inputs, lead, classes, depth, extra, floats)
        y = draw.integers(lead, 0, int(options.get("vocab_size", classes)))
        ignored = int(options.get("ignore_index", "-100"))
        inputs.put("targets", torch.where(draw.flags(lead, 0.2), torch.full_like(y, ignored), y), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags(lead), "bool")
        shapes = {"grad_output": (), "grad_logprobs": lead, "grad_entropy": lead,
                  "grad_sequence_logprobs": lead[:1], "grad_mean_logprobs": lead[:1]}
        for one in every:
            if one in extra:
                inputs.put(one, draw.normal(shapes[one], 1))
        put(book, linear_token_logprobs, name, inputs, options, rows + (sequences if len(lead) == 2 else []))

    for options in ({}, {"shift": "1"}, {"logit_scale": "0.5"}, {"softcap": "3"}, {"ignore_index": "1"}, {"vocab_size": "5"},
                    {"shift": "2", "logit_scale": "2", "softcap": "8"}):
        for extra in (("bias",), ("norm_weight", "mask", *every)):
            build(f"{named(options)}/{'-'.join(extra[:2])}", (2, 4), 6, 5, options, extra)
    for one in every:
        build("only/" + one, (3, 4), 5, 7, {"shift": "1"}, (one,))
    for lead in ((5,), (1,), (2, 2, 3), ()):
        build(f"rows/{'x'.join(map(str, lead)) or 'one'}", lead, 4, 3, {}, ("bias", "grad_logprobs", "grad_entropy"))
    for classes, depth in ((1, 1), (2, 1), (17, 16), (515, 33), (33, 130)):
        build(f"shape/{classes}-{depth}", (2, 3), classes, depth, {}, ("grad_logprobs", "grad_entropy"))
    for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16")):
        build("types/" + "-".join(floats), (2, 3), 35, 18, {}, ("bias", "norm_weight", "grad_logprobs"), floats)
    inputs = check_head()
    inputs.put("targets", torch.tensor([0, 2]), "i64")
    got = put(book, linear_token_logprobs, "contract/logprobs", inputs, {}, rows)
    stated(got["logprobs"], [-0.4522650696, -0.8619948041], "logprobs")
    stated(got["grad.hidden"], [[0.1358593521, -0.2393208433], [-0.3776812017, 0.2087536824]], "grad.hidden")
    inputs.put("grad_entropy", torch.tensor([1.0, -2.0], dtype=F64))
    got = put(book, linear_token_logprobs, "contract/entropy", inputs, {}, rows)
    stated(got["grad.hidden"], [[-0.1406459572, 0.190092509], [-0.1312249271, 0.1837148979]], "grad.hidden")
    stated(got["grad.bias"], [-0.5309695852, 0.2548413065, 0.2761282787], "grad.bias")
    book.write(os.path.join(HERE, "linear_token_logprobs.jsonl"))
    print("linear_token_logprobs", len(book.lines))


# linear_kl


def divergence(p, q, kind, beta):
    """d of rows, from log-probabilities of student and teacher."""
    if kind == "forward_kl" or (kind == "jsd" and beta == 0):
        return (q.exp() * (q - p)).sum(-1)
    if kind == "reverse_kl" or (kind == "jsd" and beta == 1):
        return (p.exp() * (p - q)).sum(-1)
    m = torch.logaddexp(math.log(beta) + q, math.log(1 - beta) + p)
    return beta * (q.exp() * (q - m)).sum(-1) + (1 - beta) * (p.exp() * (p - m)).sum(-1)


def linear_kl(inputs, options):
    head = Head(inputs, options)
    teacher = Head(inputs, options, "teacher_", False)
    lead = head.x.shape[:-1]
    tau = number_of(options, "temperature", 1)
    classes = int(number_of(options, "vocab_size", head.x.shape[-1]))

    def logs(x, cap, t):
        x = cap * torch.tanh(x / cap) if cap else x
        return torch.log_softmax(x[..., :classes] / t, -1)

    x = head.x.detach().requires_grad_(True)
    p = logs(x, number_of(options, "softcap", None), tau)
    q = logs(teacher.x, number_of(options, "teacher_softcap", None), number_of(options, "teacher_temperature", tau))
    d = divergence(p, q, options.get("divergence", "forward_kl"), number_of(options, "beta", 0.5))
    if options.get("scale_by_t2", "true") == "true":
        d = d * tau * tau
    counted = torch.ones(lead, dtype=torch.bool)
    if inputs.get("mask") is not None:
        counted &= inputs.get("mask").bool()
    if inputs.get("targets") is not None:
        counted &= inputs.get("targets") != int(options.get("ignore_index", "-100"))
    d = torch.where(counted, d, torch.zeros_like(d))
    reduction = options.get("reduction", "mean")
    items = number_of(options, "num_items", max(int(counted.sum()), 1))
    value = d if reduction == "none" else d.sum() if reduction == "sum" else d.sum() / items
    up = inputs.get("grad_output")
    up = torch.ones_like(value) if up is None else up.to(F64).reshape(value.shape)
    e, = torch.autograd.grad((up * value).sum(), x)
    return {"loss": value.detach(), **head.back(e)}, (head.scale() + teacher.scale()) / tau


def kl_cases():
    book = Book("linear_kl")

    def build(name, lead, classes, depth, options=None, extra=(), floats=("float",) * 4, theirs=None):
        draw, inputs, options = Draw("linear kl " + name), Inputs(), options or {}
        draw_head(draw, inputs, lead, classes, depth, extra, floats)
        inputs.put("teacher_hidden", draw.normal((*lead, depth + 2), 1), floats[1])
        inputs.put("teacher_weight", draw.normal((theirs or classes, depth + 2), 2 / math.sqrt(depth)), floats[2])
        if "teacher_bias" in extra:
            inputs.put("teacher_bias", draw.normal((theirs or classes,), 1), floats[3])
        if "mask" in extra:
            inputs.put("mask", draw.flags(lead), "bool")
        if "targets" in extra:
            inputs.put("targets", draw.integers(lead, 0, 3), "i64")
        if "grad_output" in extra:
            loss = linear_kl(inputs, options)[0]["loss"]
            inputs.put("grad_output", draw.normal(tuple(loss.shape), 1))
        put(book, linear_kl, name, inputs, options, FEW)

    for kind in ({}, {"divergence": "reverse_kl"}, {"divergence": "jsd"}, {"divergence": "jsd", "beta": "0.1"},
                 {"divergence": "jsd", "beta": "1"}):
        build(f"{named(kind)}/plain", (5,), 7, 6, kind)
        build(f"{named(kind)}/all", (2, 3), 7, 6, dict(kind, temperature="2", reduction="none"),
              ("bias", "teacher_bias", "norm_weight", "mask", "grad_output"))
        build(f"{named(kind)}/caps", (4,), 9, 5, dict(kind, softcap="2", teacher_softcap="3", teacher_temperature="0.5"), ("bias",))
        build(f"{named(kind)}/cut", (4,), 9, 5, dict(kind, vocab_size="6", scale_by_t2="false", temperature="1.5"), ("teacher_bias",), theirs=7)
        build(f"{named(kind)}/wide", (3,), 515, 33, kind, ("bias",))
    build("sum", (4,), 5, 4, {"reduction": "sum", "ignore_index": "1"}, ("targets", "grad_output"))
    build("num_items", (4,), 5, 4, {"num_items": "7.5"}, ("mask",))
    for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16")):
        build("types/" + "-".join(floats), (6,), 35, 18, {}, ("bias", "norm_weight", "teacher_bias"), floats)
    for kind, loss in (("forward_kl", 0.1534051599), ("reverse_kl", 0.1596039896), ("jsd", 0.03894911665)):
        inputs = check_head()
        for name, data in (("teacher_hidden", [[0.5, 1], [-1, 0.3]]), ("teacher_weight", [[0.2, 0.1], [-0.3, 0.5], [0.4, -0.6]])):
            inputs.tensors[name], inputs.dtypes[name] = torch.tensor(data, dtype=F64), "f64"
        got = put(book, linear_kl, "contract/" + kind, inputs, {"divergence": kind, "temperature": "2"}, FEW)
        stated(got["loss"], loss, kind)
        if kind == "forward_kl":
            stated(got["grad.hidden"], [[0.06524296236, -0.09343633139], [-0.09278269149, 0.07463935116]], kind)
        if kind == "jsd":
            stated(got["grad.weight"], [[0.02387414154, -0.0739153716], [-0.02459064111, -0.007665432771],
                                        [0.0007164995707, 0.08158080437]], kind)
    book.write(os.path.join(HERE, "linear_kl.jsonl"))
    print("linear_kl", len(book.lines))


if __name__ == "__main__":
    cross_entropy_cases()
    token_cases()
    kl_cases()
