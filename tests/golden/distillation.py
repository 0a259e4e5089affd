#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of distillation and topk_distillation.

A row's value is the definition written out in f64. Its gradient is torch's where the row is smooth
and the closed form where it is not (infinities, ties); wherever both exist they must agree, and so
must torch's own kl_div. The same formulas in plain f32 must meet the contract's tolerances, or the
case would ask for more than the type can give: a draw that does not is drawn again.
"""
import itertools
import math
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, is_short, same, short, stated

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "tvd", "skew_forward_kl", "mse_logits")
TAILS = ("renormalize", "truncated", "conditional", "tail")
TEACHERS = ("teacher_logits", "teacher_logprobs", "teacher_probs")


def times(weight, value):
    """weight * value, where 0 times anything is 0."""
    return torch.where(weight == 0, torch.zeros_like(value), weight * value)


def log_softmax(z):
    m = z.detach().amax(1, keepdim=True)
    return (z - m) - torch.log(torch.exp(z - m).sum(1, keepdim=True))


def is_broken(x):
    """Rows without a softmax."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool)
    return torch.isnan(x).any(1) | (x == INF).any(1) | (x == -INF).all(1)


def largest(x):
    """The largest finite |x| of every row."""
    if not len(x):
        return torch.zeros(0, dtype=F64)
    return torch.where(torch.isfinite(x), x.abs(), torch.zeros_like(x)).amax(1)


def scaled(text, default):
    return default if text is None else float(text)


def strain(values, slopes, exact, scale, factor):
    """The worst error of f32 rows as a share of what the contract allows."""
    worst = 0.0
    value, grad = exact
    for i in range(len(value)):
        if torch.isfinite(value[i]):
            allowed = 2e-6 * (1 + factor * abs(value[i].item())) + 2**-23 * scale[i].item()
            worst = max(worst, factor * abs(values[i].item() - value[i].item()) / allowed)
        size = grad[i].abs().max().item()
        if size > 0 and math.isfinite(size):
            allowed = (1e-6 + 2**-22 * scale[i].item()) * size
            worst = max(worst, (slopes[i].to(F64) - grad[i]).abs().max().item() / allowed)
        elif size == 0 and bool(slopes[i].any()):
            worst = INF
    return worst


class Call:
    """What both losses share: which rows count, the reduction and the upstream gradient."""

    def __init__(self, inputs, options):
        self.inputs, self.options = inputs, options
        self.x = inputs.get("student_logits")
        self.v = self.x.shape[-1]
        self.row_shape = self.x.shape[:-1]
        self.tau = scaled(options.get("temperature"), 1.0)
        t2 = {"true": True, "false": False}[options.get("scale_by_t2", "true")]
        self.factor = self.tau**2 if t2 else 1.0
        n = math.prod(self.row_shape)
        self.counted = torch.ones(n, dtype=torch.bool)
        if inputs.get("mask") is not None:
            self.counted &= inputs.get("mask").reshape(-1) != 0
        if inputs.get("targets") is not None:
            ignored = int(options.get("ignore_index", "-100"))
            self.counted &= inputs.get("targets").reshape(-1).to(torch.int64) != ignored
        self.rows = self.x.reshape(n, self.v)
        zero = torch.zeros((), dtype=F64)
        self.rows = torch.where(self.counted[:, None], self.rows, zero)

    def finish(self, values, slopes, raw):
        """loss and grad.student_logits from every row's value and its slope.

        The slopes are those with respect to z = x / tau, or to x itself if raw."""
        if not raw:
            values, slopes = values * self.factor, slopes * (self.factor / self.tau)
        reduction = self.options.get("reduction", "mean")
        items = self.options.get("num_items")
        zero = torch.zeros((), dtype=F64)
        values = torch.where(self.counted, values, zero)
        weight = self.counted.to(F64)
        if reduction == "none":
            loss = values.reshape(self.row_shape)
        elif reduction == "sum":
            loss = values.sum()
        else:
            d = weight.sum().item() if items is None else float(items)
            if d == 0:
                empty = NAN if self.options.get("empty_mean") == "nan" else 0.0
                loss, weight = torch.tensor(empty, dtype=F64), weight * 0
            else:
                loss, weight = values.sum() / d, weight / d
        go = self.inputs.get("grad_output")
        go = torch.ones(loss.shape, dtype=F64) if go is None else go.to(F64).reshape(loss.shape)
        weight = (weight * go.reshape(-1))[:, None]
        grad = torch.where(self.counted[:, None], weight * slopes, zero)
        return {"loss": loss, "grad.student_logits": grad.reshape(self.x.shape)}


def divergence(kind, beta, z, log_q, q):
    """The value of every row."""
    l = log_softmax(z)
    p = torch.exp(l)
    if kind in ("jsd", "skew_forward_kl") and 0 < beta < 1:
        log_m = torch.logaddexp(math.log(beta) + log_q, math.log(1 - beta) + l)
    elif kind == "skew_forward_kl":
        log_m = log_q if beta == 1 else l
    if kind == "forward_kl" or (kind == "jsd" and beta == 0):
        return times(q, log_q - l).sum(1)
    if kind == "reverse_kl" or (kind == "jsd" and beta == 1):
        return times(p, l - log_q).sum(1)
    if kind == "jsd":
        return (beta * times(q, log_q - log_m) + (1 - beta) * times(p, l - log_m)).sum(1)
    if kind == "tvd":
        return (p - q).abs().sum(1) / 2
    assert kind == "skew_forward_kl"
    return times(q, log_q - log_m).sum(1)


def slope(kind, beta, z, log_q, q):
    """The contract's row gradient with respect to z."""
    l = log_softmax(z)
    p = torch.exp(l)
    if kind == "forward_kl" or (kind == "jsd" and beta == 0):
        return p - q
    if kind == "reverse_kl" or (kind == "jsd" and beta == 1):
        d = times(p, l - log_q).sum(1, keepdim=True)
        return times(p, l - log_q - d)
    if kind == "tvd":
        r = torch.sign(p - q) / 2
        return times(p, r - times(p, r).sum(1, keepdim=True))
    m = beta * q + (1 - beta) * p
    if kind == "jsd":
        r = (1 - beta) * (l - torch.log(m))
        return times(p, r - times(p, r).sum(1, keepdim=True))
    # p * r is formed before it is divided by M, so that p = 0 needs no limit.
    pr = -(1 - beta) * p * q / torch.where(m == 0, torch.ones_like(m), m)
    if beta == 0:
        pr = -q
    return pr - p * pr.sum(1, keepdim=True)


class Distillation(Call):
    """One call of distillation."""

    def __init__(self, inputs, options):
        super().__init__(inputs, options)
        kind = options.get("divergence", "forward_kl")
        beta = scaled(options.get("beta"), 0.5)
        form = [name for name in TEACHERS if inputs.get(name) is not None]
        assert len(form) == 1
        y = inputs.get(form[0]).to(F64).reshape(self.rows.shape)
        y = torch.where(self.counted[:, None], y, torch.zeros((), dtype=F64))
        self.worst = 0.0
        if kind == "mse_logits":
            assert form == ["teacher_logits"]
            diff = self.rows - y
            self.scale = torch.maximum(largest(self.rows), largest(y))
            self.outputs = self.finish((diff**2).sum(1) / self.v, 2 * diff / self.v, True)
            x = self.rows.clone().requires_grad_(True)
            each = F.mse_loss(x, y, reduction="none").mean(1)
            got = torch.autograd.grad(each.sum(), x)[0]
            assert same(self.finish(each.detach(), got, True)["loss"], self.outputs["loss"])
            assert same(got, 2 * diff / self.v)
            return
        z = self.rows / self.tau
        self.scale = largest(z)
        teacher_broken = torch.zeros(len(z), dtype=torch.bool)
        if form[0] == "teacher_logits":
            self.scale = torch.maximum(self.scale, largest(y / self.tau))
            teacher_broken = is_broken(y)
            log_q = log_softmax(y / self.tau) if len(z) else y
            q = torch.exp(log_q)
        elif form[0] == "teacher_logprobs":
            log_q, q = y, torch.exp(y)
        else:
            log_q, q = torch.log(y), y
        live = self.counted & ~is_broken(z) & ~teacher_broken
        values = torch.full((len(z),), NAN, dtype=F64)
        slopes = torch.full(z.shape, NAN, dtype=F64)
        if bool(live.any()):
            plain = z.float(), log_q.float(), q.float()
            if form[0] == "teacher_logits":
                log_f = log_softmax((y / self.tau).float())
                plain = z.float(), log_f, torch.exp(log_f)
            self.fill(kind, beta, z, log_q, q, live, values, slopes)
            got = [x[live] for x in plain]
            self.worst = strain(divergence(kind, beta, *got), slope(kind, beta, *got),
                                (values[live], slopes[live]), self.scale[live], self.factor)
        self.outputs = self.finish(values, slopes, False)

    def fill(self, kind, beta, z, log_q, q, live, values, slopes):
        z, log_q, q = z[live], log_q[live], q[live]
        assert same(q.sum(1), torch.ones(len(q), dtype=F64))
        values[live] = divergence(kind, beta, z, log_q, q)
        closed = slope(kind, beta, z, log_q, q)
        smooth = torch.isfinite(z).all(1)
        if kind == "skew_forward_kl" and beta == 1:
            assert not closed.any() and not values[live].any()
            smooth[:] = False
        if kind == "reverse_kl" or (kind == "jsd" and beta == 1):
            smooth &= torch.isfinite(log_q).all(1)
        if kind == "tvd":
            p = torch.exp(log_softmax(z))
            tied = (p == q).any(1)
            assert bool((((p - q).abs() > 1e-4 * q).all(1) | tied).all())
            smooth &= ~tied
        got = closed.clone()
        if bool(smooth.any()):
            s = z[smooth].clone().requires_grad_(True)
            each = divergence(kind, beta, s, log_q[smooth], q[smooth])
            got[smooth] = torch.autograd.grad(each.sum(), s)[0]
            assert same(got[smooth], closed[smooth]), kind
            l = F.log_softmax(s.detach(), 1)
            if kind == "forward_kl":
                own = F.kl_div(l, q[smooth], reduction="none").sum(1)
                assert same(own, values[live][smooth])
            if kind == "reverse_kl":
                own = F.kl_div(log_q[smooth], l, reduction="none", log_target=True).sum(1)
                assert same(own, values[live][smooth])
        slopes[live] = got


def tail_value(mode, z, ids, q, log_q):
    """The value of one row of topk_distillation: z [V]; ids, q, log_q [K]."""
    l = log_softmax(z[None])[0]
    total = min(q.sum().item(), 1.0)
    at = l[ids]
    if mode == "renormalize":
        return times(q / total, log_q - math.log(total) - at).sum()
    if mode == "truncated":
        return times(q, log_q - at).sum()
    if mode == "conditional":
        return times(q / total, log_q - math.log(total) - (at - torch.logsumexp(at, 0))).sum()
    assert mode == "tail"
    outside = torch.ones(len(z), dtype=torch.bool)
    outside[ids] = False
    value = times(q, log_q - at).sum()
    rest = 1 - total
    if rest > 0 and bool(outside.any()):
        value = value + rest * (math.log(rest) - torch.logsumexp(l[outside], 0))
    return value


def tail_slope(mode, z, ids, q):
    p = torch.exp(log_softmax(z[None])[0])
    total = min(q.sum().item(), 1.0)
    full = torch.zeros_like(p)
    full[ids] = q
    inside = torch.zeros(len(z), dtype=torch.bool)
    inside[ids] = True
    if mode == "renormalize":
        return p - full / total
    if mode == "truncated" or (mode == "tail" and bool(inside.all())):
        return total * p - full
    if mode == "conditional":
        p = torch.where(inside, p, torch.zeros_like(p))
        return p / p.sum() - full / total
    rest = p[~inside].sum().item()
    share = torch.where(inside, full, (1 - total) * p / (rest if rest else 1.0))
    return p - share


class TopK(Call):
    """One call of topk_distillation."""

    def __init__(self, inputs, options):
        super().__init__(inputs, options)
        mode = options.get("tail", "renormalize")
        z = self.rows / self.tau
        self.scale = largest(z)
        self.worst = 0.0
        values = torch.full((len(z),), NAN, dtype=F64)
        slopes = torch.full(z.shape, NAN, dtype=F64)
        ids = inputs.get("teacher_ids").to(torch.int64)
        log_q = inputs.get("teacher_logprobs").to(F64)
        for i in torch.nonzero(~is_broken(z)).reshape(-1).tolist():
            kept = ids[i] != -1
            at, lq = ids[i][kept], log_q[i][kept]
            assert len(set(at.tolist())) == len(at)
            q = torch.exp(lq)
            total = q.sum().item()
            assert total <= 1.001 and (total > 0 or mode in ("truncated", "tail"))
            # Which of the two sums divides q is left open above 1, and 1 - Q must not be noise.
            assert total <= 1 or mode == "tail"
            assert mode != "tail" or not 0.97 < total < 1
            values[i] = tail_value(mode, z[i], at, q, lq)
            closed = tail_slope(mode, z[i], at, q)
            slopes[i] = closed
            if bool(torch.isfinite(z[i]).all()) and math.isfinite(values[i]) and total <= 1:
                s = z[i].clone().requires_grad_(True)
                tail_value(mode, s, at, q, lq).backward()
                assert same(s.grad, closed), mode
                slopes[i] = s.grad
            f = z[i].float()
            error = strain(tail_value(mode, f, at, q.float(), lq.float())[None],
                           tail_slope(mode, f, at, q.float())[None],
                           (values[i : i + 1], slopes[i : i + 1]), self.scale[i : i + 1],
                           self.factor)
            self.worst = max(self.worst, error)
        self.outputs = self.finish(values, slopes, False)


BOOKS = {"distillation": (Book("distillation"), Distillation),
         "topk_distillation": (Book("topk_distillation"), TopK)}
ALL = ("loss", "grad.student_logits")


def write(loss, name, inputs, options=None, want=ALL):
    options = {k: str(v) for k, v in (options or {}).items()}
    book, kind = BOOKS[loss]
    call = kind(inputs, options)
    only_f64 = inputs.dtypes["student_logits"] == "f64"
    assert call.worst <= 0.7 or want == ("loss",) or only_f64, (name, call.worst)
    book.add(name, inputs, options, {k: call.outputs[k] for k in want}, call.scale)
    return call.outputs


def well_conditioned(loss, name, make, options):
    """The first draw that plain f32 can evaluate."""
    for attempt in range(200):
        inputs = make(Draw(f"{loss} {name}" + (f" {attempt}" if attempt else "")))
        try:
            if BOOKS[loss][1](inputs, options).worst <= 0.7:
                return inputs
        except AssertionError:
            if attempt == 199:
                raise
    raise AssertionError(name)


def teacher_probs(draw, rows, v, zeros):
    """Multiples of 1/64 that add up to 1, with or without zeros."""
    if zeros:
        return draw.shares(rows, v)
    assert v <= 40
    out = torch.full((rows, v), 1 / 64, dtype=F64)
    for i in range(rows):
        for _ in range(64 - v):
            out[i, min(int(draw.random.expovariate(4.0 / v)), v - 1)] += 1 / 64
        order = list(range(v))
        draw.random.shuffle(order)
        out[i] = out[i][order]
    return out


def common_extras(draw, inputs, rows, extra, options, kind, integer):
    n = math.prod(rows)
    if "targets" in extra:
        ignored = int(options.get("ignore_index", "-100"))
        targets = draw.integers(rows, 0, 3)
        skip = draw.flags(rows, 0.3)
        if n > 1:
            skip.reshape(-1)[0], skip.reshape(-1)[-1] = True, False
        inputs.put("targets", torch.where(skip, torch.tensor(ignored), targets), integer)
    if "mask" in extra:
        mask = draw.flags(rows)
        if n > 1:
            mask.reshape(-1)[-1] = True
        inputs.put("mask", mask, "bool" if integer == "i64" else "u8")
    if "grad_output" in extra:
        none = options.get("reduction", "mean") == "none"
        inputs.put("grad_output", draw.normal(rows if none else (), 1.0), kind)


def build(name, rows=(3,), v=6, options=None, extra=(), teacher="teacher_logits", spread=1.5,
          kind="float", integer="i64", zeros=False, want=ALL):
    options = {k: str(v) for k, v in (options or {}).items()}
    rows = tuple(rows)

    def make(draw):
        inputs = Inputs()
        inputs.put("student_logits", draw.normal(rows + (v,), spread))
        n = math.prod(rows)
        if teacher == "teacher_logits":
            inputs.put(teacher, draw.normal(rows + (v,), spread), kind)
        elif teacher == "teacher_logprobs":
            # No short numbers are the logarithms of numbers that add up to 1.
            y = draw.normal((n, v), spread / scaled(options.get("temperature"), 1.0))
            inputs.put(teacher, log_softmax(y).reshape(rows + (v,)), "f64")
        else:
            inputs.put(teacher, teacher_probs(draw, n, v, zeros).reshape(rows + (v,)), kind)
        common_extras(draw, inputs, rows, extra, options, kind, integer)
        return inputs

    return write("distillation", name, well_conditioned("distillation", name, make, options),
                 options, want)


def given(student, teacher, form="teacher_logits", dtype="float", **others):
    inputs = Inputs()
    inputs.put("student_logits", torch.tensor(student, dtype=F64), dtype)
    inputs.put(form, torch.tensor(teacher, dtype=F64), dtype)
    for name, value in others.items():
        kind = {"mask": "bool", "targets": "i64"}.get(name, "float")
        if isinstance(value, tuple):
            value, kind = value
        inputs.put(name, torch.tensor(value, dtype=None if kind != "float" else F64), kind)
    return inputs


X = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]
Y = [[0.5, 0.1, -0.4], [1.5, -0.2, 0.3]]


def checks():
    """The numbers of the contract."""
    table = [
        ("forward_kl", {}, 0.2456263001),
        ("reverse_kl", {}, 0.2479358901),
        ("jsd", {"beta": "0.5"}, 0.06122926442),
        ("jsd", {"beta": "0.1"}, 0.02206633733),
        ("tvd", {}, 0.6446995445),
    ]
    for kind, more, loss in table:
        options = {"divergence": kind, "temperature": "2", **more}
        name = "-".join(["check", kind, *more.values()]).replace("check-", "check/", 1)
        out = write("distillation", name, given(X, Y, dtype="f64"), options)
        stated(out["loss"], loss, name)
        if kind == "forward_kl":
            stated(out["grad.student_logits"],
                   [[0.1499050846, -0.1283975603, -0.02150752429],
                    [-0.09870090849, -0.07374377918, 0.1724446877]], name)


def options_alone():
    for kind in DIVERGENCES:
        base = {"divergence": kind}
        for reduction in ("none", "sum", "mean"):
            some = {**base, "reduction": reduction}
            build(f"plain/{kind}-{reduction}", (3,), 5, some)
        build(f"no-t2/{kind}", (3,), 5,
              {**base, "temperature": "2.5", "scale_by_t2": "false"}, spread=3.5)
        build(f"t2/{kind}", (3,), 5, {**base, "temperature": "2", "reduction": "none"}, spread=3)
        for tau in ("0.5", "4"):
            build(f"temperature/{kind}-{tau}", (2,), 4,
                  {**base, "temperature": tau, "scale_by_t2": "true"}, spread=1.5 * float(tau))
        build(f"temperature/{kind}-8", (2,), 4,
              {**base, "temperature": "8", "scale_by_t2": "false"}, spread=12)
        build(f"num-items/{kind}", (3,), 5, {**base, "num_items": "6.5"}, ("targets",))
        if kind == "mse_logits":
            continue
        for form in TEACHERS[1:]:
            build(f"teacher/{kind}-{form}-none", (2,), 5, {**base, "reduction": "none"},
                  teacher=form)
            build(f"teacher/{kind}-{form}-t2", (3,), 4, {**base, "temperature": "2"}, ("mask",),
                  teacher=form, spread=3)
    for kind, beta in itertools.product(("jsd", "skew_forward_kl"),
                                        ("0", "0.1", "0.25", "0.75", "0.9", "1")):
        options = {"divergence": kind, "beta": beta}
        build(f"beta/{kind}-{beta}", (2,), 5, options, spread=2)
        build(f"beta/{kind}-{beta}-probs", (2,), 4,
              {**options, "temperature": "2", "reduction": "none"}, spread=4,
              teacher="teacher_probs")
    for kind in ("forward_kl", "jsd", "tvd", "skew_forward_kl"):
        build(f"zeros/{kind}", (3,), 6, {"divergence": kind, "reduction": "none"},
              teacher="teacher_probs", zeros=True)


def inputs_together():
    names = ("targets", "mask", "grad_output")
    for count in (1, 2, 3):
        for extra in itertools.combinations(names, count):
            for reduction, kind in (("none", "jsd"), ("sum", "tvd"), ("mean", "forward_kl")):
                build(f"with/{'-'.join(extra)}-{reduction}", (4,), 3,
                      {"reduction": reduction, "divergence": kind}, extra, integer="i32")
    build("with/ignore-index-inside", (4,), 3, {"ignore_index": "2"}, ("targets",))
    build("with/ignore-index-minus-1", (4,), 3, {"ignore_index": "-1", "reduction": "none"},
          ("targets", "mask"))
    for kind in DIVERGENCES:
        build(f"three-axes/{kind}-none", (2, 3), 4, {"reduction": "none", "divergence": kind},
              ("targets", "mask", "grad_output"))
        build(f"three-axes/{kind}-mean", (2, 2), 4, {"temperature": "2", "divergence": kind},
              ("mask", "grad_output"), spread=3, integer="i32")
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"type/logits-{kind}", (3,), 5, {"reduction": "none"}, ("grad_output",), kind=kind)
        build(f"type/probs-{kind}", (3,), 5, {"divergence": "reverse_kl"}, ("grad_output",),
              teacher="teacher_probs", kind=kind)


def sizes():
    for v in (2, 3, 8, 17, 33):
        kind = "tvd" if v in (3, 33) else "reverse_kl"
        build(f"size/{kind}-{v}", (2,), v, {"divergence": kind}, spread=2)
    build("size/forward_kl-600", (1,), 600, {}, spread=2)
    for kind in DIVERGENCES[1:]:
        build(f"size/{kind}-66", (1,), 66, {"divergence": kind}, spread=2)
    build("size/jsd-rows", (24,), 3, {"divergence": "jsd", "reduction": "none"}, spread=1)
    for kind in DIVERGENCES:
        teacher = [[2.5], [-1.0]] if kind == "mse_logits" else [[0.0], [0.0]]
        write("distillation", f"size/one-class-{kind}", given([[3.0], [-2.0]], teacher),
              {"divergence": kind})
    for kind, reduction in itertools.product(("forward_kl", "mse_logits", "jsd"),
                                             ("none", "sum", "mean")):
        build(f"size/no-rows-{kind}-{reduction}", (0,), 4,
              {"divergence": kind, "reduction": reduction})
    build("size/no-rows-three-axes", (2, 0), 4, {"reduction": "none"}, ("mask",))


def edges():
    x = [[1.0, -0.5, 0.25, 2.0], [0.5, 0.5, -1.5, 0.0], [-1.0, 3.0, 0.0, 1.5]]
    y = [[0.0, 1.5, -1.0, 0.5], [2.0, -0.5, 0.25, 1.0], [0.5, -0.75, 1.0, 0.0]]
    bad = [[NAN, 1.0, INF, 0.5], [0.5, 0.5, -1.5, 0.0], [-INF, -INF, -INF, -INF]]
    worse = [[1.0, NAN, 0.0, 2.0], [2.0, -0.5, 0.25, 1.0], [INF, 0.0, NAN, 1.0]]
    for kind in DIVERGENCES:
        write("distillation", f"unread/{kind}-targets",
              given(bad, worse, targets=[-100, 1, -100]), {"divergence": kind})
        write("distillation", f"unread/{kind}-mask", given(bad, worse, mask=[False, True, False]),
              {"divergence": kind, "reduction": "none"})
    for value in ("zero", "nan"):
        for kind in ("forward_kl", "mse_logits"):
            options = {"divergence": kind, "empty_mean": value}
            write("distillation", f"empty/masked-{kind}-{value}",
                  given(bad, worse, mask=([0, 0, 0], "u8")), options)
            write("distillation", f"empty/ignored-num-items-{kind}-{value}",
                  given(bad, worse, targets=[-100, -100, -100]), {**options, "num_items": "3"})
        build(f"empty/no-rows-{value}", (0,), 3, {"empty_mean": value})

    # An impossible class on one side. reverse_kl and a teacher's 0 is in the loss alone: the
    # formula of its gradient is a difference of infinities.
    out = [[1.0, -INF, 0.25, 2.0], [0.5, 0.5, -1.5, 0.0], [-1.0, 3.0, 0.0, 1.5]]
    off = [[0.0, -INF, 1.5, 0.5], [2.0, -0.5, 0.25, 1.0], [0.5, -0.75, -INF, 0.0]]
    for kind in DIVERGENCES[:-1]:
        options = {"divergence": kind, "reduction": "none"}
        write("distillation", f"infinite/student-{kind}", given(out, y), options)
        want = ("loss",) if kind == "reverse_kl" else ALL
        write("distillation", f"infinite/teacher-{kind}", given(x, off), options, want)
        write("distillation", f"infinite/both-same-{kind}", given(out[:1], off[:1]), options)
        write("distillation", f"infinite/student-sum-{kind}", given(out, y),
              {**options, "reduction": "sum"})
    for kind in ("forward_kl", "jsd", "tvd", "skew_forward_kl"):
        write("distillation", f"infinite/one-hot-{kind}",
              given(x, [[0.0, -INF, -INF, -INF], [-INF, -INF, 0.0, -INF], [-INF, 0.0, -INF, -INF]],
                    "teacher_logprobs"), {"divergence": kind, "reduction": "none"})
        write("distillation", f"infinite/one-hot-probs-{kind}",
              given(x, [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]],
                    "teacher_probs"), {"divergence": kind, "temperature": "2"})
    for kind, beta in (("jsd", "0"), ("jsd", "1"), ("skew_forward_kl", "0"),
                       ("skew_forward_kl", "1")):
        options = {"divergence": kind, "beta": beta, "reduction": "none"}
        write("distillation", f"infinite/beta-student-{kind}-{beta}", given(out, y), options)
        # jsd 1 is reverse_kl, see above.
        write("distillation", f"infinite/beta-teacher-{kind}-{beta}", given(x, off), options,
              ("loss",) if (kind, beta) == ("jsd", "1") else ALL)
    for kind in DIVERGENCES[:-1]:
        options = {"divergence": kind, "reduction": "none"}
        write("distillation", f"nan/student-{kind}", given(bad, y), options)
        write("distillation", f"nan/student-mean-{kind}", given(bad, y), {"divergence": kind},
              ("loss",))
        write("distillation", f"nan/teacher-{kind}", given(x, worse), options, ("loss",))

    # sign(0) = 0; the loss of equals is 0 whatever the divergence.
    write("distillation", "tie/tvd-equal", given(x, x),
          {"divergence": "tvd", "reduction": "none"})
    write("distillation", "tie/tvd-equal-t2", given(x + y, x + x),
          {"divergence": "tvd", "temperature": "2"})
    for kind in DIVERGENCES:
        write("distillation", f"tie/equal-{kind}", given(x, x),
              {"divergence": kind, "reduction": "none"}, ("loss",))
    write("distillation", "tie/mse-equal", given(x, x), {"divergence": "mse_logits"})
    big = [[80.0, -80.0, 79.5, 79.0], [-80.0, 80.0, 81.0, 1.0], [-80.0, -80.0, -80.0, -79.0]]
    far = [[78.0, 80.0, 80.0, 0.0], [-80.0, 82.0, 80.0, 81.0], [-81.0, -80.0, -79.0, -79.5]]
    for kind in DIVERGENCES:
        write("distillation", f"large/{kind}", given(big, far),
              {"divergence": kind, "reduction": "none"})
    write("distillation", "large/forward_kl-cold", given(x, y),
          {"temperature": "0.0625", "reduction": "none"})
    write("distillation", "edge/grad-output-0", given(x, y, grad_output=[0.0, -1.0, 2.0]),
          {"reduction": "none"})
    write("distillation", "edge/grad-output-one-element", given(x, y, grad_output=[0.5]), {})
    write("distillation", "edge/num-items-small", given(x, y), {"num_items": "0.5"})
    write("distillation", "edge/mask-u8-any-byte", given(x, y, mask=([255, 0, 2], "u8")), {})


def log_probabilities(draw, n, k, total):
    """Short logarithms of probabilities that add up to no more than `total`."""
    out = torch.zeros(n, k, dtype=F64)
    for i in range(n):
        parts = [draw.random.expovariate(1.0) + 0.1 for _ in range(k)]
        scale = total * draw.random.uniform(0.6, 1.0) / sum(parts)
        out[i] = torch.tensor([short(math.log(p * scale) - 0.02) for p in parts], dtype=F64)
    return out


def build_topk(name, n=3, v=9, k=3, options=None, extra=(), absent=0.0, spread=1.5, kind="float",
               integer="i64", want=ALL):
    options = {key: str(text) for key, text in (options or {}).items()}

    def make(draw):
        inputs = Inputs()
        inputs.put("student_logits", draw.normal((n, v), spread))
        ids = torch.zeros(n, k, dtype=torch.int64)
        for i in range(n):
            ids[i] = torch.tensor(draw.random.sample(range(v), k))
            for j in range(1, k):
                if draw.random.random() < absent:
                    ids[i, j] = -1
        inputs.put("teacher_ids", ids, integer)
        inputs.put("teacher_logprobs", log_probabilities(draw, n, k, 0.93), kind)
        common_extras(draw, inputs, (n,), extra, options, kind, integer)
        return inputs

    loss = "topk_distillation"
    return write(loss, name, well_conditioned(loss, name, make, options), options, want)


def given_topk(student, ids, logprobs, dtype="float", integer="i64", **others):
    inputs = Inputs()
    inputs.put("student_logits", torch.tensor(student, dtype=F64), dtype)
    inputs.put("teacher_ids", torch.tensor(ids, dtype=torch.int64).reshape(len(ids), -1), integer)
    inputs.put("teacher_logprobs", torch.tensor(logprobs, dtype=F64), dtype)
    for name, value in others.items():
        inputs.put(name, torch.tensor(value, dtype=F64))
    return inputs


def topk():
    loss = "topk_distillation"
    values = {"renormalize": 0.3348326112, "truncated": 0.1336863093,
              "conditional": 0.2334018007, "tail": 0.2202422185}
    logprobs = [[-0.7308714408, -1.1308714408], [-0.3946587532, -1.5946587532]]
    for mode in TAILS:
        out = write(loss, f"check/{mode}", given_topk(X, [[0, 1], [0, 2]], logprobs, "f64"),
                    {"tail": mode})
        stated(out["loss"], values[mode], mode)

    for mode in TAILS:
        base = {"tail": mode}
        for reduction in ("none", "sum", "mean"):
            some = {**base, "reduction": reduction}
            build_topk(f"plain/{mode}-{reduction}", 4, 9, 3, some)
            build_topk(f"grad-output/{mode}-{reduction}", 4, 6, 3, some, ("grad_output",))
            build_topk(f"no-rows/{mode}-{reduction}", 0, 5, 2, some)
        build_topk(f"t2/{mode}", 3, 7, 2, {**base, "temperature": "2", "reduction": "none"},
                   spread=3)
        build_topk(f"no-t2/{mode}", 3, 7, 4,
                   {**base, "temperature": "2.5", "scale_by_t2": "false"}, absent=0.3,
                   integer="i32", spread=3.5)
        for tau in ("0.5", "4"):
            build_topk(f"temperature/{mode}-{tau}", 2, 8, 3,
                       {**base, "temperature": tau, "scale_by_t2": "true"},
                       spread=1.5 * float(tau))
        build_topk(f"num-items/{mode}", 3, 6, 2, {**base, "num_items": "6.5"}, ("grad_output",))
        for k in (2, 4, 5):
            build_topk(f"k/{mode}-{k}-of-6", 3, 6, k, {**base, "reduction": "none"})
        build_topk(f"absent/{mode}", 5, 8, 5, {**base, "reduction": "none"}, absent=0.5)
        build_topk(f"absent/{mode}-i32", 5, 8, 4, base, absent=0.6, integer="i32")
        build_topk(f"size/{mode}-60", 1, 60, 40, base, absent=0.2, spread=2)
        for kind in ("f64", "f32", "f16", "bf16"):
            build_topk(f"type/{mode}-{kind}", 2, 5, 2, {**base, "reduction": "none"},
                       ("grad_output",), kind=kind)
        for value in ("zero", "nan"):
            build_topk(f"empty/{mode}-{value}", 0, 4, 2, {**base, "empty_mean": value})

    build_topk("size/tail-600", 1, 600, 16, {"tail": "tail"}, spread=2)
    build_topk("size/renormalize-130", 2, 130, 16, {}, spread=2)
    for mode in ("conditional", "tail"):
        build_topk(f"size/{mode}-rows", 40, 4, 2, {"tail": mode, "reduction": "none"})

    x = [[1.0, -0.5, 0.25, 2.0], [0.5, 0.5, -1.5, 0.0], [-1.0, 3.0, 0.0, 1.5]]
    ids = [[0, 3], [2, 1], [3, 0]]
    lq = [[-1.0, -0.75], [-0.5, -2.0], [-1.5, -0.625]]
    for mode in TAILS:
        options = {"tail": mode, "reduction": "none"}
        write(loss, f"k/{mode}-one", given_topk(x, [[0], [2], [3]], [[-0.25], [-0.5], [-0.75]]),
              options, ("loss",) if mode == "conditional" else ALL)
        # All the teacher's mass on one class, the other entry impossible.
        write(loss, f"edge/{mode}-sure", given_topk(x, ids, [[0.0, -INF], [-INF, 0.0],
                                                             [0.0, -INF]]), options)
        write(loss, f"edge/{mode}-sure-one", given_topk(x, [[0], [2], [3]], [[0.0]] * 3), options,
              ("loss",) if mode == "conditional" else ALL)
        write(loss, f"edge/{mode}-absent-first",
              given_topk(x, [[-1, 3, 0], [2, -1, 1], [-1, -1, 1]],
                         [[-0.25, -1.0, -2.0], [-1.0, -0.125, -1.5], [-0.125, -0.25, -1.0]]),
              options, ALL if mode != "conditional" else ("loss",))
        bad = [[1.0, NAN, 0.25, 2.0], [0.5, 0.5, INF, 0.0], [-INF] * 4, x[0]]
        write(loss, f"nan/{mode}", given_topk(bad, ids + [[1, 0]], lq + [[-1.0, -2.0]]), options)
        write(loss, f"infinite/{mode}-outside",
              given_topk([[1.0, -0.5, -INF, 2.0], [-INF, 0.5, -1.5, 0.0], x[2]], ids, lq), options)
        write(loss, f"infinite/{mode}-inside",
              given_topk([[1.0, -0.5, 0.25, -INF], [0.5, 0.5, -INF, 0.0], x[2]], ids, lq), options)
        write(loss, f"infinite/{mode}-inside-no-mass",
              given_topk([[1.0, -0.5, 0.25, -INF], [0.5, 0.5, -INF, 0.0], x[2]], ids,
                         [[-1.0, -INF], [-INF, -0.5], [-1.5, -0.625]]), options,
              ("loss",) if mode == "conditional" else ALL)
        write(loss, f"large/{mode}",
              given_topk([[80.0, -80.0, 0.0, 79.0], [-80.0, 80.0, 81.0, 1.0],
                          [-80.0, -80.0, -80.0, -79.0]], ids, lq), options)
        write(loss, f"edge/{mode}-grad-output-one-element",
              given_topk(x, ids, lq, grad_output=[0.5]), {"tail": mode})
        write(loss, f"edge/{mode}-grad-output-0",
              given_topk(x, ids, lq, grad_output=[0.0, -1.0, 2.0]), options)
        # K = V: nothing is left for the tail.
        write(loss, f"k/{mode}-all", given_topk([row[:3] for row in x],
                                                [[0, 1, 2], [2, 0, 1], [1, 2, 0]],
                                                [[-1.0, -2.0, -1.5], [-0.75, -3.0, -1.5],
                                                 [-4.0, -0.5, -2.0]]), options)
    for mode in ("truncated", "tail"):
        write(loss, f"edge/{mode}-all-absent",
              given_topk(x, [[-1, -1], [2, 1], [-1, -1]], lq), {"tail": mode},
              ALL if mode == "truncated" else ("loss",))
    # The only class outside is impossible for the student, and the teacher's rest is not 0.
    write(loss, "infinite/tail-no-rest",
          given_topk([[1.0, -0.5, -INF], [0.5, -INF, -1.5]], [[0, 1], [2, 0]],
                     [[-1.0, -0.75], [-2.0, -0.5]]), {"tail": "tail", "reduction": "none"},
          ("loss",))
    # Q is a little above 1: it counts as 1, and nothing is left.
    above = [[-0.69140625, -1.390625, -1.3828125]]
    total = sum(math.exp(v) for v in above[0])
    assert 1 < total < 1.001 and all(is_short(v) for v in above[0]), total
    write(loss, "edge/tail-above-1", given_topk([x[0]], [[3, 0, 2]], above), {"tail": "tail"})


def main():
    checks()
    options_alone()
    inputs_together()
    sizes()
    edges()
    topk()
    for loss, (book, _) in BOOKS.items():
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), loss + ".jsonl")
        book.write(path)
        print(f"{loss}: {len(book.lines)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
