#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of the losses with a linear head: the head by torch.autograd in f64, in front of the definitions
that sequence.py writes out."""
import math
import os

import torch

from oracle import F64, NAN, Book, Draw, Inputs, same, short, stated
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
    packed = "offsets" in inputs.tensors
    flat = len(lead) != 2 and not packed
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


def shard(inputs, options, others):
    """A part of the classes: `others` are the weight, bias and place of the rest, (weight, bias, below), of which
    `below` classes come before those of the inputs. Returns lse of all, what the first call gives, and the shares."""
    head = Head(inputs, options)
    weight, bias, below = others
    start, stop = below, below + head.x.shape[-1]
    rest = head.multiplied.detach() @ weight.T + (0 if bias is None else bias)
    total = stop - start + weight.shape[0]
    x = head.x.detach().requires_grad_(True)

    def bent(u):
        cap = number_of(options, "softcap", None)
        return number_of(options, "logit_scale", 1) * (cap * torch.tanh(u / cap) if cap else u)

    z, elsewhere = bent(x), bent(rest)
    everything = torch.cat([elsewhere[..., :below], z.detach(), elsewhere[..., below:]], -1)
    lse = inputs.get("lse")
    lse = torch.logsumexp(everything, -1) if lse is None else lse.to(F64)
    y = inputs.get("targets")
    counted = y != int(options.get("ignore_index", "-100"))
    if inputs.get("mask") is not None:
        counted &= inputs.get("mask").bool()
    w = inputs.get("class_weight")
    w = torch.ones(total, dtype=F64) if w is None else w.to(F64)
    eps, lam = number_of(options, "label_smoothing", 0), number_of(options, "z_loss", 0)
    hot = torch.nn.functional.one_hot(torch.where(counted, y, 0), total).to(F64)
    if options.get("smoothing_mode") == "others":
        q = (1 - eps) * hot + eps / (total - 1) * (1 - hot)
    else:
        q = (1 - eps) * hot + eps / total
    m = inputs.get("sample_weight")
    m = counted.to(F64) * (1 if m is None else m.to(F64))
    reduction = options.get("reduction", "mean")
    by = (m * w[torch.where(counted, y, 0)]).sum() if reduction == "mean" else 1
    by_z = m.sum() if reduction == "mean" else 1
    here = (y >= start) & (y < stop) & counted
    l = z.detach()[..., :] - lse[..., None]
    own = slice(start, stop)
    p = l.exp()
    main = -(w[own] * q[..., own] * l).sum(-1)
    square = torch.where(here, lam * lse * lse, 0.0)
    main_rho, zeta = m / by, m / by_z
    value = main_rho * main + zeta * square
    loss = value if reduction == "none" else value.sum()
    up = inputs.get("grad_output")
    up = torch.ones(y.shape, dtype=F64) if up is None else up.to(F64).expand(y.shape)
    mass = (w * q).sum(-1, keepdim=True)
    e = (up * main_rho)[..., None] * (mass * p - w[own] * q[..., own]) + (up * zeta * 2 * lam * lse)[..., None] * p
    slope, = torch.autograd.grad(z, x, e)
    zero = torch.zeros((), dtype=F64)
    outputs = {"loss": loss, "lse": torch.where(counted, lse, zero), "count": counted.sum(),
               "nll": torch.where(here, lse - everything.gather(-1, torch.where(counted, y, 0)[..., None])[..., 0], zero),
               "entropy": torch.where(counted, -(p * l).sum(-1), zero), **head.back(slope)}
    asked = {"lse": torch.where(counted, torch.logsumexp(z.detach(), -1), zero),
             "target_logit": torch.where(here, everything.gather(-1, torch.where(counted, y, 0)[..., None])[..., 0], zero)}
    return lse, asked, outputs, head.scale() * number_of(options, "logit_scale", 1)


def listed_row(x, ids, logprobs, options):
    """One row of scores against a teacher that lists some classes."""
    tau, tail = number_of(options, "temperature", 1), options.get("tail", "renormalize")
    floor = number_of(options, "logprob_floor", None)
    present = ids >= 0
    ids, lq = ids[present], logprobs[present]
    l = torch.log_softmax(x / tau, -1)
    over = torch.log_softmax(x[ids] / tau, -1) if tail == "conditional" and len(ids) else l[ids]
    q, lp, rest = lq.exp(), over, torch.ones_like(l, dtype=torch.bool)
    rest[ids] = False
    if tail in ("renormalize", "conditional"):
        if not q.sum() > 0:
            return 0 * torch.nan_to_num(l, 0, 0, 0).sum()
        lq = lq - lq.logsumexp(-1)
        q = lq.exp()
    if floor is not None:
        lp = torch.where(lp < floor, torch.full_like(lp, floor), lp)
    some = q > 0
    value = (q[some] * (lq[some] - lp[some])).sum()
    if tail == "tail" and rest.any():
        beyond = 1 - q.sum()
        value = value + (beyond * (beyond.log() - l[rest].logsumexp(-1)) if beyond > 0 else 0)
    return value * (tau * tau if options.get("scale_by_t2", "true") == "true" else 1)


def linear_listed(inputs, options):
    """linear_cross_entropy against a teacher that lists some classes."""
    lead, width = inputs.get("hidden").shape[:-1], inputs.get("weight").shape[0]
    classes = int(number_of(options, "vocab_size", width))
    n, shift = lead.numel(), int(options.get("shift", 0))

    def flat(name, otherwise):
        tensor = inputs.get(name)
        return otherwise if tensor is None else tensor.reshape(-1, *tensor.shape[len(lead):])

    ids, logprobs = flat("teacher_ids", None), flat("teacher_logprobs", None).to(F64)
    targets, ignored = flat("targets", None), int(options.get("ignore_index", "-100"))
    mask = flat("mask", torch.ones(n, dtype=torch.bool))
    weight = flat("sample_weight", flat("position_weight", torch.ones(n, dtype=F64))).to(F64)
    offsets, lengths = inputs.get("offsets"), inputs.get("lengths")
    if offsets is not None:
        ends = offsets.tolist()
    else:
        ends = list(range(0, n + 1, lead[1] if len(lead) == 2 else 1))
    place, sequence = [-1] * n, [0] * n
    for b, (first, end) in enumerate(zip(ends, ends[1:])):
        stop = end if lengths is None else first + int(lengths[b])
        for i in range(first, end):
            sequence[i], at = b, i + shift
            if at < stop and mask[at] and (targets is None or targets[at] != ignored):
                place[i] = at
    read = Inputs()
    read.tensors = dict(inputs.tensors)
    counted = torch.tensor([at >= 0 for at in place], dtype=torch.bool).reshape(*lead, 1)
    read.tensors["hidden"] = torch.where(counted, inputs.get("hidden"), torch.zeros_like(inputs.get("hidden")))
    head = Head(read, options)
    x = head.x.detach().reshape(n, width).requires_grad_(True)
    zero = torch.zeros((), dtype=F64)
    terms = [zero if at < 0 else listed_row(x[i, :classes], ids[at], logprobs[at], options) for i, at in enumerate(place)]
    m = [0.0 if at < 0 else float(weight[at]) for at in place]
    sequences = len(ends) - 1
    total = [sum(m[i] for i in range(n) if sequence[i] == b) for b in range(sequences)]
    sums = [sum((m[i] * terms[i] for i in range(n) if sequence[i] == b), zero) for b in range(sequences)]
    items = number_of(options, "num_items", None)
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        value = torch.stack([m[i] * terms[i] for i in range(n)]).reshape(lead) if n else torch.zeros(lead, dtype=F64)
    elif reduction == "sum":
        value = sum(sums, zero)
    elif reduction == "mean":
        by = sum(total) if items is None else items
        value = sum(sums, zero) / by if by else zero
    elif reduction == "sequence_sum":
        value = torch.stack(sums)
    elif reduction == "mean_of_sequence_sums":
        value = sum(sums, zero) / (sequences if items is None else items)
    else:
        means = [s / d if d else zero for s, d in zip(sums, total)]
        some = sum(d > 0 for d in total)
        value = torch.stack(means) if reduction == "sequence_mean" else sum(means, zero) / (items or some or 1)
    up = inputs.get("grad_output")
    up = torch.ones_like(value) if up is None else up.to(F64).reshape(value.shape)
    if value.requires_grad:
        e, = torch.autograd.grad((up * value).sum(), x)
    else:
        e = torch.zeros_like(x)
    outputs = {"loss": value.detach(), "count": counted.sum(),
               "denominator": torch.tensor(float(items or sum(total)), dtype=F64), **head.back(e.reshape(head.x.shape))}
    return outputs, head.scale() / number_of(options, "temperature", 1)


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


TAILS = ("renormalize", "truncated", "conditional", "tail")


def listed_cases(book):
    def build(name, lead, classes, depth, listed, options=None, extra=(), floats=("float",) * 4, ends=None, spoil=None):
        draw, inputs, options = Draw("linear listed " + name), Inputs(), options or {}
        draw_head(draw, inputs, lead, classes, depth, extra, floats)
        rows, some = math.prod(lead), int(options.get("vocab_size", classes))
        ids = torch.tensor([draw.random.sample(range(some), listed) for _ in range(rows)], dtype=torch.int64)
        if "absent" in extra:
            ids = torch.where(draw.flags(ids.shape, 0.3), torch.full_like(ids, -1), ids)
        inputs.put("teacher_ids", ids.reshape(*lead, listed), "i32" if "i32" in extra else "i64")
        least = math.log(listed)
        logprobs = torch.tensor([short(-least - draw.random.uniform(0, 3)) for _ in range(rows * listed)], dtype=F64)
        inputs.put("teacher_logprobs", logprobs.reshape(*lead, listed))
        if "targets" in extra:
            y = draw.integers(lead, 0, 2 * classes)  # which may be no classes: they only tell what to ignore
            ignored = int(options.get("ignore_index", "-100"))
            inputs.put("targets", torch.where(draw.flags(lead, 0.3), torch.full_like(y, ignored), y), "i64")
        if "mask" in extra:
            inputs.put("mask", draw.flags(lead), "bool")
        for weight in ("sample_weight", "position_weight"):
            if weight in extra:
                inputs.put(weight, draw.between(lead, 0.25, 2))
        if "lengths" in extra:
            inputs.put("lengths", draw.integers(lead[:1], 0, lead[1] + 1), "i64")
        if ends:
            inputs.put("offsets", torch.tensor(ends), "i64")
        if spoil:
            spoil(inputs)
        if "grad_output" in extra:
            loss = linear_listed(inputs, options)[0]["loss"]
            inputs.put("grad_output", draw.normal(tuple(loss.shape), 1))
        put(book, linear_listed, "teacher/" + name, inputs, options, FEW + ["count", "denominator"])

    for tail in TAILS:
        base = {"tail": tail}
        for reduction in ("none", "sum", "mean"):
            build(f"{tail}/{reduction}", (5,), 9, 4, 3, {**base, "reduction": reduction}, ("bias", "targets", "grad_output"))
        build(f"{tail}/temperature", (4,), 7, 3, 2, {**base, "temperature": "2.5", "reduction": "none"}, ("norm_weight", "mask"))
        build(f"{tail}/no-t2", (4,), 7, 3, 4, {**base, "temperature": "0.5", "scale_by_t2": "false"}, ("absent", "i32"))
        build(f"{tail}/cut", (4,), 9, 3, 3, {**base, "vocab_size": "5"}, ("bias", "sample_weight"))
        build(f"{tail}/wide", (1,), 530, 1, 60, base, ("bias", "absent"))
        build(f"{tail}/all", (3,), 5, 4, 5, base, ("bias", "grad_output"))
        for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16")):
            build(f"{tail}/types-{'-'.join(floats)}", (3,), 19, 9, 4, base, ("bias", "norm_weight"), floats)
    for tail in TAILS[:2]:
        build(f"{tail}/floor", (5,), 9, 4, 3, {"tail": tail, "logprob_floor": "-2", "temperature": "1.5"}, ("bias", "grad_output"))
    for reduction in ("none", "mean", "sequence_sum", "sequence_mean", "mean_of_sequence_means", "mean_of_sequence_sums"):
        build(f"sequences/{reduction}", (3, 4), 6, 5, 2, {"reduction": reduction, "shift": "1"},
              ("lengths", "position_weight", "targets", "grad_output"))
        build(f"packed/{reduction}", (8,), 6, 5, 2, {"reduction": reduction, "shift": "1", "tail": "tail"},
              ("bias", "mask", "position_weight", "grad_output"), ends=[0, 3, 3, 7, 8])
    build("num_items", (5,), 6, 3, 2, {"num_items": "7.5"}, ("mask", "sample_weight"))
    for lead in ((1,), (2, 1, 3), ()):
        build(f"shape/{'x'.join(map(str, lead)) or 'one'}", lead, 5, 3, 2, {}, ("bias", "mask"))

    def unread(inputs):
        """Rows that are ignored hold what would be refused, or spread."""
        inputs.put("targets", torch.tensor([-100, 0, -100]), "i64")
        inputs.tensors["hidden"][0] = NAN
        inputs.tensors["teacher_ids"][2] = 77
        inputs.tensors["teacher_logprobs"][0] = NAN
        inputs.tensors["teacher_logprobs"][2] = 5

    def sure(inputs):
        """All of the teacher's mass on one class, others impossible."""
        inputs.tensors["teacher_logprobs"][:] = torch.tensor([0, -math.inf], dtype=F64)

    for tail in TAILS:
        build(f"{tail}/unread", (3,), 6, 4, 2, {"tail": tail}, ("bias",), spoil=unread)
        build(f"{tail}/sure", (3,), 6, 4, 2, {"tail": tail}, ("bias",), spoil=sure)
    inputs = check_head()
    inputs.put("teacher_ids", torch.tensor([[0, 1], [2, 0]]), "i64")
    inputs.tensors["teacher_logprobs"] = torch.tensor([[0.6, 0.3], [0.5, 0.5]], dtype=F64).log()
    inputs.dtypes["teacher_logprobs"] = "f64"
    got = put(book, linear_listed, "contract/teacher", inputs, {"tail": "truncated"}, FEW)
    stated(got["loss"], 0.3390994853, "loss")
    stated(got["grad.hidden"], [[-0.03113670845, 0.01769437948], [-0.01115939913, 0.09562315878]], "grad.hidden")


def cross_entropy_cases():
    book = Book("linear_cross_entropy")

    def build(name, lead, classes, depth, options=None, extra=(), want=FEW, floats=("float",) * 4, kind="i64", ends=None):
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
        if ends:
            inputs.put("offsets", torch.tensor(ends), kind)
        if "grad_output" in extra:
            loss = linear_cross_entropy(inputs, options)[0]["loss"]
            inputs.put("grad_output", draw.normal(tuple(loss.shape), 1))
        put(book, linear_cross_entropy, name, inputs, options, want)

    def shards(name, lead, classes, start, depth, options=None, extra=(), floats=("float",) * 4):
        """The part of some classes from `start` on, of classes[0] in all."""
        draw, inputs, options = Draw("linear shard " + name), Inputs(), dict(options or {})
        draw_head(draw, inputs, lead, classes[1], depth, extra, floats)
        count = classes[0] - classes[1]
        others = (draw.normal((count, depth), 2 / math.sqrt(depth)),
                  draw.normal((count,), 1) if "bias" in extra else None, start)
        y = draw.integers(lead, 0, classes[0])
        inputs.put("targets", torch.where(draw.flags(lead, 0.2), torch.full_like(y, -100), y), "i64")
        if "mask" in extra:
            inputs.put("mask", draw.flags(lead), "bool")
        if "class_weight" in extra:
            inputs.put("class_weight", draw.between((classes[0],), 0.25, 2))
        if "sample_weight" in extra:
            inputs.put("sample_weight", draw.between(lead, 0.25, 2))
        options.update(vocab_total=classes[0], vocab_start=start)
        lse, asked, _, scale = shard(inputs, options, others)
        book.add(name + "/ask", inputs, options, asked, scale)
        inputs.put("lse", torch.tensor([short(v) for v in lse.reshape(-1).tolist()], dtype=F64).reshape(lse.shape))
        if "grad_output" in extra:
            inputs.put("grad_output", draw.normal(lead if options.get("reduction") == "none" else (), 1))
        _, _, outputs, scale = shard(inputs, options, others)
        book.add(name, inputs, options, outputs, scale)

    for reduction in ("none", "sum", "mean"):
        for extra in ((), ("bias",), ("norm_weight", "mask"), ("bias", "norm_weight", "class_weight", "sample_weight"),
                      ("bias", "mask", "grad_output")):
            build(f"{reduction}/{'-'.join(extra) or 'plain'}", (5,), 6, 5, {"reduction": reduction}, extra)
    for reduction in ("none", "mean", "sequence_sum", "sequence_mean", "mean_of_sequence_means", "mean_of_sequence_sums"):
        build(f"sequences/{reduction}", (3, 4), 6, 5, {"reduction": reduction, "shift": "1", "z_loss": "0.125"},
              ("bias", "lengths", "position_weight", "grad_output"))
    for options in ROW_OPTIONS:
        build("option/" + named(options), (5,), 7, 4, options, ("norm_weight",))
    build("diagnostics/rows", (7,), 6, 4, {}, ("bias",),
          ["loss", "nll", "lse", "entropy", "predicted", "count", "accuracy", "perplexity", "nll_sum"])
    build("diagnostics/text", (2, 5), 6, 4, {"shift": "1", "num_bytes": "9", "num_words": "3"}, (),
          ["loss", "nll", "entropy", "bits_per_token", "bits_per_byte", "byte_perplexity", "word_perplexity"])
    for lead, classes, depth in (((1,), 1, 1), ((1,), 2, 1), ((2,), 1, 3), ((33,), 5, 16), ((2,), 515, 1), ((2,), 2, 129), ((300,), 3, 1), ((2, 2, 3), 5, 4), ((), 5, 4)):
        build(f"shape/{'x'.join(map(str, lead)) or 'one'}-{classes}-{depth}", lead, classes, depth, {}, ("bias",))
    for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16"), ("bf16", "bf16", "bf16", "bf16")):
        build("types/" + "-".join(floats), (3,), 19, 9, {"norm_eps": "0.001"}, ("bias", "norm_weight"), floats=floats)
    build("num_items", (5,), 4, 3, {"num_items": "7.5"}, ("sample_weight",))
    for reduction in ("none", "mean", "sequence_sum", "sequence_mean", "mean_of_sequence_means", "mean_of_sequence_sums"):
        for shift in ("0", "1"):
            build(f"packed/{reduction}-{shift}", (8,), 6, 5, {"reduction": reduction, "shift": shift},
                  ("bias", "position_weight", "grad_output"), ends=[0, 3, 3, 7, 8])
    build("packed/rows", (5,), 4, 3, {"shift": "4"}, ("mask",), ends=[0, 5])
    shards("shard/first", (5,), (9, 4), 0, 3)
    shards("shard/last", (5,), (9, 4), 5, 3, {"reduction": "none"}, ("bias", "grad_output"))
    shards("shard/middle", (6,), (9, 3), 4, 4, {"reduction": "sum", "label_smoothing": "0.25"}, ("norm_weight",))
    shards("shard/others", (6,), (9, 3), 1, 4, {"label_smoothing": "0.25", "smoothing_mode": "others"}, ("class_weight",))
    shards("shard/weighted", (7,), (12, 5), 2, 4, {"z_loss": "0.125", "label_smoothing": "0.125", "logit_scale": "0.5"},
           ("bias", "class_weight", "sample_weight", "mask", "grad_output"))
    shards("shard/capped", (4,), (7, 6), 1, 3, {"softcap": "3", "z_loss": "0.5"}, ("bias", "norm_weight"))
    shards("shard/one", (4,), (5, 1), 3, 3, {"label_smoothing": "0.5"})
    shards("shard/wide", (1,), (600, 530), 40, 1)
    shards("shard/types", (5,), (40, 35), 3, 6, {}, ("bias", "norm_weight"), ("f32", "bf16", "f16", "f32"))
    listed_cases(book)
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
    whole = check_head()
    whole.put("targets", torch.tensor([0, 2]), "i64")
    share = 0
    for name, first, last, loss in (("low", 0, 2, 0.2261325348), ("high", 2, 3, 0.430997402)):
        inputs, options = check_head(), {"vocab_total": 3, "vocab_start": first}
        weight, bias = whole.get("weight"), whole.get("bias")
        inputs.tensors["weight"], inputs.tensors["bias"] = weight[first:last], bias[first:last]
        inputs.put("targets", torch.tensor([0, 2]), "i64")
        others = (torch.cat([weight[:first], weight[last:]]), torch.cat([bias[:first], bias[last:]]), first)
        lse, asked, _, scale = shard(inputs, options, others)
        stated(asked["lse"], [0.9411538747, 1.163261688] if first == 0 else [-1.2, 0.85], "lse of a part")
        book.add(f"contract/shard-{name}-ask", inputs, options, asked, scale)
        inputs.tensors["lse"], inputs.dtypes["lse"] = lse, "f64"
        _, _, outputs, scale = shard(inputs, options, others)
        stated(outputs["loss"], loss, "loss of a part")
        if first == 0:
            stated(outputs["grad.hidden"], [[-0.04163948652, 0.08811219419], [0.04442030044, 0.0689275193]], "grad.hidden")
        share = share + outputs["grad.hidden"]
        book.add(f"contract/shard-{name}", inputs, options, outputs, scale)
    stated(share, [[-0.06792967605, 0.1196604216], [0.1888406009, -0.1043768412]], "grad.hidden of both parts")
    book.write(os.path.join(HERE, "linear_cross_entropy.jsonl"))
    print("linear_cross_entropy", len(book.lines))


# linear_token_logprobs


def linear_token_logprobs(inputs, options):
    head = Head(inputs, options)
    lead, classes = head.x.shape[:-1], head.x.shape[-1]
    flat = len(lead) != 2 and "offsets" not in inputs.tensors
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
    rows, by_sequence = ["loss", "logprobs", "entropy", *GRADS], ["sequence_logprobs", "mean_logprobs"]
    every = ("grad_output", "grad_logprobs", "grad_entropy", "grad_sequence_logprobs", "grad_mean_logprobs")

    def build(name, lead, classes, depth, options=None, extra=(), floats=("float",) * 4, kind="i64", ends=None):
        draw, inputs, options = Draw("linear token " + name), Inputs(), options or {}
        draw_head(draw, inputs, lead, classes, depth, extra, floats)
        y = draw.integers(lead, 0, int(options.get("vocab_size", classes)))
        ignored = int(options.get("ignore_index", "-100"))
        inputs.put("targets", torch.where(draw.flags(lead, 0.2), torch.full_like(y, ignored), y), kind)
        if "mask" in extra:
            inputs.put("mask", draw.flags(lead), "bool")
        sequences = lead[:1]
        if ends:
            inputs.put("offsets", torch.tensor(ends), kind)
            sequences = (len(ends) - 1,)
        shapes = {"grad_output": (), "grad_logprobs": lead, "grad_entropy": lead,
                  "grad_sequence_logprobs": sequences, "grad_mean_logprobs": sequences}
        for one in every:
            if one in extra:
                inputs.put(one, draw.normal(shapes[one], 1))
        put(book, linear_token_logprobs, name, inputs, options, rows + (by_sequence if len(lead) == 2 or ends else []))

    for options in ({}, {"shift": "1"}, {"logit_scale": "0.5"}, {"softcap": "3"}, {"ignore_index": "1"}, {"vocab_size": "5"},
                    {"shift": "2", "logit_scale": "2", "softcap": "8"}):
        for extra in (("bias",), ("norm_weight", "mask", *every)):
            build(f"{named(options)}/{'-'.join(extra[:2])}", (2, 4), 6, 5, options, extra)
    for one in every:
        build("only/" + one, (3, 4), 5, 7, {"shift": "1"}, (one,))
    for lead in ((5,), (1,), (2, 2, 3), ()):
        build(f"rows/{'x'.join(map(str, lead)) or 'one'}", lead, 4, 3, {}, ("bias", "grad_logprobs", "grad_entropy"))
    for shift in ("0", "1", "3"):
        build(f"packed/{shift}", (8,), 5, 4, {"shift": shift}, ("bias", "mask", *every), ends=[0, 3, 3, 7, 8])
    for classes, depth in ((1, 1), (2, 1), (17, 16), (515, 2), (5, 130)):
        build(f"shape/{classes}-{depth}", (2, 3), classes, depth, {}, ("grad_logprobs", "grad_entropy"))
    for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16")):
        build("types/" + "-".join(floats), (2, 3), 19, 9, {}, ("bias", "norm_weight", "grad_logprobs"), floats)
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

    def build(name, lead, classes, depth, options=None, extra=(), floats=("float",) * 4, theirs=None, want=FEW):
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
        put(book, linear_kl, name, inputs, options, want)

    for kind in ({}, {"divergence": "reverse_kl"}, {"divergence": "jsd"}, {"divergence": "jsd", "beta": "0.1"},
                 {"divergence": "jsd", "beta": "1"}):
        build(f"{named(kind)}/plain", (5,), 7, 6, kind)
        build(f"{named(kind)}/all", (2, 3), 7, 6, dict(kind, temperature="2", reduction="none"),
              ("bias", "teacher_bias", "norm_weight", "mask", "grad_output"))
        build(f"{named(kind)}/caps", (4,), 9, 5, dict(kind, softcap="2", teacher_softcap="3", teacher_temperature="0.5"), ("bias",))
        build(f"{named(kind)}/cut", (4,), 9, 5, dict(kind, vocab_size="6", scale_by_t2="false", temperature="1.5"), ("teacher_bias",), theirs=7)
        build(f"{named(kind)}/wide", (3,), 35, 5, kind, ("bias",))
    for kind in ({}, {"divergence": "jsd"}):
        build(f"{named(kind)}/wider", (2,), 515, 1, kind, want=["loss", "grad.hidden"])
    build("deep", (3,), 3, 130, {}, ("bias",))
    build("sum", (4,), 5, 4, {"reduction": "sum", "ignore_index": "1"}, ("targets", "grad_output"))
    build("num_items", (4,), 5, 4, {"num_items": "7.5"}, ("mask",))
    for floats in (("f32", "bf16", "f16", "f32"), ("bf16", "f32", "bf16", "f16"), ("f16", "bf16", "f32", "bf16")):
        build("types/" + "-".join(floats), (3,), 19, 9, {}, ("bias", "norm_weight", "teacher_bias"), floats)
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
