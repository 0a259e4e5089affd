#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of ctc and pointer_generator.

ctc: torch's own ctc_loss, differentiated by torch, wherever it is right; the recursions of the
contract where it is not (no path, infinite logits), and against each other everywhere else. Small
cases are also summed over every path there is.

pointer_generator: the definition in f64 and the closed form of its gradient, which must agree with
torch's autograd on every case whose probabilities are not 0.

Plain f32 must be able to meet the contract's tolerances (for ctc: f32 log-probabilities), or a case
would ask for more than the type can give: a draw that does not is drawn again.
"""
import itertools
import math
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated

CTC = Book("ctc")
POINTER = Book("pointer_generator")
LIMIT = 0.7


def largest(x):
    """The largest finite |x| of all."""
    x = x[torch.isfinite(x)]
    return x.abs().max().item() if x.numel() else 0.0


def strain(got, exact, scale):
    """The worst error of f32 rows of a gradient, as a share of what the contract allows."""
    size = exact.abs().amax(-1)
    error = (got.to(F64) - exact).abs().amax(-1)
    allowed = (1e-6 + 2**-22 * scale) * size
    if bool(((size == 0) & (error > 0)).any()):
        return INF
    seen = torch.isfinite(size) & (size > 0)
    return (error / allowed)[seen].max().item() if bool(seen.any()) else 0.0


def value_strain(got, exact, scale):
    allowed = 2e-6 * (1 + exact.abs()) + 2**-23 * scale
    seen = torch.isfinite(exact)
    return ((got.to(F64) - exact).abs() / allowed)[seen].max().item() if bool(seen.any()) else 0.0


def lse(values):
    m = max(values)
    if m == -INF:
        return -INF
    return m + math.log(sum(math.exp(v - m) for v in values))


def ctc_example(l, labels, blank):
    """log P and gamma [T,C] of one example's log-probabilities l [T,C], by the recursions."""
    e = [blank]
    for label in labels:
        e += [label, blank]
    steps, u = len(l), len(e)
    skip = [s > 1 and e[s] != blank and e[s] != e[s - 2] for s in range(u)]
    alpha = [[-INF] * u for _ in range(steps)]
    alpha[0][0] = l[0][blank]
    if u > 1:
        alpha[0][1] = l[0][e[1]]
    for t in range(1, steps):
        for s in range(u):
            ways = [alpha[t - 1][s]]
            if s > 0:
                ways.append(alpha[t - 1][s - 1])
            if skip[s]:
                ways.append(alpha[t - 1][s - 2])
            alpha[t][s] = l[t][e[s]] + lse(ways)
    log_p = lse(alpha[-1][-2:])
    gamma = torch.zeros(steps, len(l[0]), dtype=F64)
    if log_p == -INF:
        return log_p, gamma
    beta = [[-INF] * u for _ in range(steps)]
    for s in range(max(u - 2, 0), u):
        beta[-1][s] = 0.0
    for t in range(steps - 2, -1, -1):
        for s in range(u):
            ways = [beta[t + 1][s] + l[t + 1][e[s]]]
            if s + 1 < u:
                ways.append(beta[t + 1][s + 1] + l[t + 1][e[s + 1]])
            if s + 2 < u and skip[s + 2]:
                ways.append(beta[t + 1][s + 2] + l[t + 1][e[s + 2]])
            beta[t][s] = lse(ways)
    for t in range(steps):
        for s in range(u):
            gamma[t, e[s]] += math.exp(alpha[t][s] + beta[t][s] - log_p)
    return log_p, gamma


def ctc_enumerated(l, labels, blank):
    """log P as the sum over every sequence of classes that collapses to the labels."""
    ways = []
    for path in itertools.product(range(len(l[0])), repeat=len(l)):
        short = [k for i, k in enumerate(path) if i == 0 or path[i - 1] != k]
        if [k for k in short if k != blank] == labels:
            ways.append(sum(l[t][k] for t, k in enumerate(path)))
    return lse(ways) if ways else -INF


class Ctc:
    """One call of ctc."""

    def __init__(self, inputs, options):
        x = inputs.get("logits")
        self.b, self.steps, self.classes = x.shape
        targets = inputs.get("targets").to(torch.int64)
        t_len = inputs.get("input_lengths").to(torch.int64).tolist()
        n_len = inputs.get("target_lengths").to(torch.int64).tolist()
        blank = int(options.get("blank", "0"))
        zero_infinity = options.get("zero_infinity", "false") == "true"
        self.scale = torch.zeros(self.b, dtype=F64)
        self.worst = 0.0
        self.confirmed = 0
        values = torch.zeros(self.b, dtype=F64)
        slopes = torch.zeros(x.shape, dtype=F64)
        for b in range(self.b):
            assert 1 <= t_len[b] <= self.steps and 0 <= n_len[b] <= targets.shape[1]
            rows, labels = x[b, : t_len[b]], targets[b, : n_len[b]].tolist()
            assert all(0 <= k < self.classes and k != blank for k in labels)
            self.scale[b] = largest(rows)
            self.fill(b, rows, labels, blank, values, slopes)
        if zero_infinity:
            values = torch.where(values == INF, torch.zeros_like(values), values)
        reduction = options.get("reduction", "mean")
        weight = torch.ones(self.b, dtype=F64)
        if reduction == "none":
            loss = values
        elif reduction == "sum":
            loss = values.sum()
        elif self.b == 0:
            loss = torch.tensor(NAN if options.get("empty_mean") == "nan" else 0.0, dtype=F64)
        else:
            weight = 1 / (torch.tensor(n_len, dtype=F64).clamp(min=1) * self.b)
            loss = (values * weight).sum()
        go = inputs.get("grad_output")
        go = torch.ones(loss.shape, dtype=F64) if go is None else go.to(F64).reshape(loss.shape)
        grad = (weight * go).reshape(-1)[:, None, None] * slopes
        self.outputs = {"loss": loss, "grad.logits": grad}
        self.check_torch(x, targets, t_len, n_len, blank, reduction, zero_infinity, go)

    def fill(self, b, rows, labels, blank, values, slopes):
        broken = torch.isnan(rows).any(1) | (rows == INF).any(1) | (rows == -INF).all(1)
        if bool(broken.any()):
            values[b] = slopes[b, : len(rows)] = NAN
            return
        z = rows.clone().requires_grad_(True)
        l = F.log_softmax(z, 1)
        log_p, gamma = ctc_example(l.tolist(), labels, blank)
        values[b] = -log_p
        if self.classes ** len(rows) <= 1100:
            assert abs(lse([ctc_enumerated(l.tolist(), labels, blank), -1e4])
                       - lse([log_p, -1e4])) < 1e-12 * (1 + abs(log_p))
        if log_p == -INF:
            return
        closed = torch.exp(l.detach()) - gamma
        assert closed.sum(1).abs().max() < 1e-12 * (1 + abs(log_p))
        slopes[b, : len(rows)] = closed
        if bool(torch.isfinite(rows).all()):
            own = F.ctc_loss(l[:, None], torch.tensor([labels], dtype=torch.int64).reshape(1, -1),
                             [len(rows)], [len(labels)], blank, "sum")
            assert same(own.detach(), values[b])
            grad = torch.autograd.grad(own, z)[0]
            assert same(grad, closed, 1e-11), (grad - closed).abs().max()
            assert same(grad, closed, 1e-12 * (1 + abs(log_p)))
            slopes[b, : len(rows)] = grad
            self.confirmed += 1
        f = F.log_softmax(rows.float(), 1)
        log_f, gamma_f = ctc_example(f.tolist(), labels, blank)
        scale = self.scale[b]
        self.worst = max(self.worst, strain(torch.exp(f) - gamma_f, slopes[b, : len(rows)], scale),
                         value_strain(-torch.tensor([log_f]), values[b : b + 1], scale))

    def check_torch(self, x, targets, t_len, n_len, blank, reduction, zero_infinity, go):
        """The whole call in torch, where all examples are read to the end."""
        if not self.confirmed == self.b or self.b == 0 or targets.shape[1] == 0:
            return
        filler = (blank + 1) % max(self.classes, 2)
        targets = targets.clone()
        x = x.clone()
        for b in range(self.b):
            targets[b, n_len[b] :] = filler
            x[b, t_len[b] :] = 0
        z = x.requires_grad_(True)
        loss = F.ctc_loss(F.log_softmax(z, 2).transpose(0, 1), targets, t_len, n_len, blank,
                          reduction, zero_infinity)
        assert same(loss.detach(), self.outputs["loss"], 1e-11)
        grad = torch.autograd.grad((loss * go).sum(), z)[0]
        assert same(grad, self.outputs["grad.logits"], 1e-11)


CTC_ALL = ("loss", "grad.logits")


def write_ctc(name, inputs, options=None, want=CTC_ALL):
    options = {k: str(v) for k, v in (options or {}).items()}
    call = Ctc(inputs, options)
    assert call.worst <= LIMIT or inputs.dtypes["logits"] == "f64", (name, call.worst)
    CTC.add(name, inputs, options, {k: call.outputs[k] for k in want}, call.scale)
    return call.outputs


def build_ctc(name, b=2, t=5, c=4, s=2, options=None, extra=(), lengths="full", integer="i64",
              repeats=False, spread=1.5, kind="float"):
    options = {k: str(v) for k, v in (options or {}).items()}
    blank = int(options.get("blank", "0"))
    for attempt in range(100):
        draw = Draw("ctc " + name + (f" {attempt}" if attempt else ""))
        inputs = Inputs()
        inputs.put("logits", draw.normal((b, t, c), spread))
        labels = [k for k in range(c) if k != blank]
        targets = torch.tensor([draw.random.choice(labels) for _ in range(b * s)],
                               dtype=torch.int64).reshape(b, s)
        if repeats:
            targets[:, 1::2] = targets[:, : 2 * (s // 2) : 2]
        inputs.put("targets", targets, integer)
        t_len = torch.full((b,), t) if lengths == "full" else draw.integers((b,), max(t // 2, 1),
                                                                            t + 1)
        n_len = torch.full((b,), s) if lengths == "full" else draw.integers((b,), 0, s + 1)
        inputs.put("input_lengths", t_len, integer)
        inputs.put("target_lengths", n_len, integer)
        if "grad_output" in extra:
            none = options.get("reduction", "mean") == "none"
            inputs.put("grad_output", draw.normal((b,) if none else (), 1.0), kind)
        call = Ctc(inputs, options)
        if call.worst <= LIMIT:
            return write_ctc(name, inputs, options)
    raise AssertionError((name, call.worst))


def given_ctc(logits, targets, t_len, n_len, dtype="float", integer="i64", **others):
    inputs = Inputs()
    inputs.put("logits", torch.tensor(logits, dtype=F64), dtype)
    inputs.put("targets", torch.tensor(targets, dtype=torch.int64), integer)
    inputs.put("input_lengths", torch.tensor(t_len, dtype=torch.int64), integer)
    inputs.put("target_lengths", torch.tensor(n_len, dtype=torch.int64), integer)
    for name, value in others.items():
        inputs.put(name, torch.tensor(value, dtype=F64))
    return inputs


def ctc_checks():
    none = {"reduction": "none"}
    out = write_ctc("check/two-steps", given_ctc([[[0.1, 0.6, 0.1, 0.1, 0.1],
                                                   [0.1, 0.1, 0.6, 0.1, 0.1]]], [[1, 2]], [2], [2],
                                                 "f64"), none)
    stated(out["loss"], [2.462858391546743], "ctc")
    ones = torch.ones(2, 20, 4).tolist()
    out = write_ctc("check/ones", given_ctc(ones, [[2, 1, 0], [3, 2, 2]], [20, 20], [2, 3]), none)
    stated(out["loss"] / 10, [1.882820491, 1.650581719], "ctc ones")
    steps = [[.633766, .221185, .0917319, .0129757, .0142857, .0260553],
             [.111121, .588392, .278779, .0055756, .00569609, .010436],
             [.0357786, .633813, .321418, .00249248, .00272882, .0037688],
             [.0663296, .643849, .280111, .00283995, .0035545, .00331533],
             [.458235, .396634, .123377, .00648837, .00903441, .00623107]]
    x = [[math.log(p) for p in row] for row in steps]
    for reduction in ("none", "sum", "mean"):
        out = write_ctc(f"check/graves-{reduction}",
                        given_ctc([x], [[0, 1, 2, 1, 0]], [5], [5], "f64"),
                        {"blank": "5", "reduction": reduction})
        share = 5 if reduction == "mean" else 1
        stated((out["loss"] * share).reshape(1), [3.342112585], "graves")
        expected = F.softmax(torch.tensor(x, dtype=F64), 1)
        for t, k in enumerate((0, 1, 2, 1, 0)):
            expected[t, k] -= 1
        assert same(out["grad.logits"][0] * share, expected)


def ctc_cases():
    """Every option of ctc, and the corners of section 10.3."""
    ctc_checks()
    for reduction in ("none", "sum", "mean"):
        some = {"reduction": reduction}
        build_ctc(f"plain/{reduction}", 3, 5, 4, 2, some)
        build_ctc(f"lengths/{reduction}", 4, 7, 4, 3, some, lengths="any", integer="i32")
        build_ctc(f"grad-output/{reduction}", 3, 5, 4, 3, some, ("grad_output",), lengths="any")
        build_ctc(f"repeats/{reduction}", 2, 7, 4, 4, some, repeats=True)
        build_ctc(f"zero-infinity/{reduction}", 3, 5, 4, 2, {**some, "zero_infinity": "true"},
                  ("grad_output",), integer="i32")
        build_ctc(f"no-rows/{reduction}", 0, 5, 4, 2, some)
        for blank in (0, 1, 3):
            build_ctc(f"blank/{blank}-{reduction}", 2, 5, 4, 2, {**some, "blank": blank},
                      lengths="any" if blank == 1 else "full", integer="i32" if blank else "i64")
        build_ctc(f"no-labels/{reduction}", 3, 4, 3, 0, some, ("grad_output",))
    for value in ("zero", "nan"):
        build_ctc(f"no-rows/empty-mean-{value}", 0, 3, 3, 1, {"empty_mean": value})
        build_ctc(f"plain/empty-mean-{value}", 2, 3, 3, 1, {"empty_mean": value})
    build_ctc("options/zero-infinity-false", 2, 4, 3, 2,
              {"zero_infinity": "false", "blank": "2", "reduction": "sum"}, integer="i32")
    for kind in ("f64", "f32", "f16", "bf16"):
        build_ctc(f"type/grad-output-{kind}", 2, 4, 3, 2, {"reduction": "none"}, ("grad_output",),
                  kind=kind)
    for t in (1, 2, 3, 4):
        build_ctc(f"size/one-label-{t}", 2, t, 3, 1, {"reduction": "none"})
    build_ctc("size/two-classes", 2, 6, 2, 2, {"reduction": "none"}, lengths="full")
    build_ctc("size/no-slack", 2, 4, 5, 4, {"reduction": "none", "blank": "4"}, repeats=False,
              spread=1)
    build_ctc("size/40-classes", 1, 6, 40, 3, {"reduction": "none"})
    build_ctc("size/600-classes", 1, 1, 600, 1, {"blank": "599"}, spread=2)
    build_ctc("size/17-examples", 17, 3, 3, 2, {"reduction": "none"}, lengths="any")
    build_ctc("size/40-examples", 40, 3, 3, 1, {}, ("grad_output",), integer="i32")
    build_ctc("size/40-steps", 1, 40, 6, 12, {"reduction": "none"})
    build_ctc("size/40-steps-repeats", 1, 40, 4, 14, {}, repeats=True)
    build_ctc("size/70-steps", 1, 70, 5, 20, {"reduction": "none"}, integer="i32")
    build_ctc("size/70-steps-one-label", 1, 70, 3, 1, {"reduction": "sum"}, spread=1)
    build_ctc("size/labels-5-steps-40", 2, 40, 5, 5, {}, ("grad_output",), lengths="any")

    none = {"reduction": "none"}
    x = [[1.0, -0.5, 0.25, 2.0], [0.5, 0.5, -1.5, 0.0], [-1.0, 3.0, 0.0, 1.5],
         [0.25, -2.0, 1.0, 0.5]]
    y = [[-0.5, 1.5, 0.25, 0.0], [2.0, 0.5, -0.5, 1.0], [0.0, -1.0, 1.25, 0.5],
         [1.0, 0.75, -0.25, -1.5]]
    # Exactly as many steps as the labels need, and one fewer.
    write_ctc("path/only-one", given_ctc([x, y], [[1, 2, 3, 1], [2, 2, 3, 0]], [4, 4], [4, 3]),
              none)
    for reduction in ("none", "sum", "mean"):
        for mode in ("false", "true"):
            options = {"reduction": reduction, "zero_infinity": mode}
            write_ctc(f"path/none-{reduction}-{mode}",
                      given_ctc([x, y, x], [[1, 2, 3], [2, 2, 3], [1, 1, 1]], [2, 4, 4],
                                [3, 3, 3]), options)
            write_ctc(f"path/none-at-all-{reduction}-{mode}",
                      given_ctc([x, y], [[1, 2, 3], [2, 2, 2]], [2, 4], [3, 3]), options)
    write_ctc("path/none-grad-output",
              given_ctc([x, y], [[1, 2, 3], [2, 1, 3]], [2, 4], [3, 3], grad_output=[2.0, -0.5]),
              {"reduction": "none"})
    write_ctc("path/none-grad-output-zero-infinity",
              given_ctc([x, y], [[1, 2, 3], [2, 1, 3]], [2, 4], [3, 3], grad_output=[2.0, -0.5]),
              {"reduction": "none", "zero_infinity": "true"})
    # What lies beyond the lengths is not read.
    bad_x = x[:2] + [[NAN, INF, 0.0, -INF], [-INF] * 4]
    bad_y = y[:3] + [[INF, NAN, NAN, 1.0]]
    for reduction in ("none", "mean"):
        write_ctc(f"unread/logits-{reduction}",
                  given_ctc([bad_x, bad_y], [[1, 2], [3, 1]], [2, 3], [1, 2]),
                  {"reduction": reduction})
        write_ctc(f"unread/targets-{reduction}",
                  given_ctc([x, y], [[1, 0, -1], [-100, 99, 2**31 - 1]], [4, 3], [1, 0],
                            integer="i32"), {"reduction": reduction})
    write_ctc("unread/targets-beyond-i32",
              given_ctc([x, y], [[1, 2**40, -2**40], [2, 3, 0]], [4, 4], [1, 2]), none)
    # Impossible classes: off every path, on some paths, on all of them.
    off = [[1.0, -0.5, -INF, 2.0], [-INF, 0.5, -1.5, 0.0], [-1.0, 3.0, -INF, 1.5], x[3]]
    for mode in ("false", "true"):
        options = {"reduction": "none", "zero_infinity": mode}
        write_ctc(f"infinite/off-path-{mode}", given_ctc([off], [[1, 3]], [4], [2]), options)
        write_ctc(f"infinite/some-paths-{mode}", given_ctc([off], [[3, 2]], [4], [2]), options)
        shut = [x[0], [0.5, -INF, -1.5, -INF], x[2], x[3]]
        write_ctc(f"infinite/all-paths-{mode}",
                  given_ctc([[x[0], [-INF, 0.5, 1.0, -INF], [-INF, -1.0, -0.5, -INF]], x[:3]],
                            [[3, 3], [1, 2]], [3, 3], [2, 2]), options)
        write_ctc(f"infinite/shut-labels-{mode}", given_ctc([shut], [[1, 3, 1]], [4], [3]),
                  options)
        write_ctc(f"infinite/no-labels-{mode}",
                  given_ctc([[x[0], [-INF, 0.5, 1.0, 0.0]], x[:2]], [[1], [2]], [2, 2], [0, 0]),
                  options)
    # NaN, +inf and a row of -inf: the loss alone, because the extent of the NaN is the example.
    for name, row in (("nan", [0.5, NAN, 0.0, 1.0]), ("inf", [0.5, 0.0, INF, 1.0]),
                      ("all-minus-inf", [-INF] * 4)):
        write_ctc(f"nan/{name}", given_ctc([[x[0], row, x[2]], y[:3]], [[1, 3], [3, 2]], [3, 3],
                                           [2, 2]), none, ("loss",))
    big = [[80.0, -80.0, 79.0, 0.0], [-80.0, 80.0, 80.5, 1.0], [-80.0, 79.0, 78.0, 79.5]]
    write_ctc("large/likely", given_ctc([big], [[2, 1]], [3], [2]), none)
    write_ctc("large/unlikely", given_ctc([[[-80.0, 0.0, 80.0, 79.0], [80.0, -80.0, 79.0, 80.5],
                                            [-80.0, 1.0, 80.0, 79.0]]], [[1]], [3], [1]), none)
    write_ctc("edge/grad-output-one-element",
              given_ctc([x, y], [[1, 2], [3, 3]], [4, 4], [2, 2], grad_output=[0.5]), {})
    write_ctc("edge/grad-output-0",
              given_ctc([x, y], [[1, 2], [3, 3]], [4, 4], [2, 2], grad_output=[0.0, -1.0]), none)
    write_ctc("edge/equal-logits", given_ctc(torch.zeros(2, 4, 3).tolist(), [[1, 2], [2, 2]],
                                             [3, 4], [2, 2]), none)


FORMS = ("vocab_logits", "vocab_probs", "attn_logits", "attn_probs", "p_gen_logit", "p_gen")
STATE = ("nll", "coverage", "copy_share")


def softmax(x):
    m = x.detach().amax(-1, keepdim=True)
    e = torch.exp(x - m)
    return e / e.sum(-1, keepdim=True)


class Pointer:
    """One call of pointer_generator."""

    def __init__(self, inputs, options, with_coverage=False):
        self.inputs, self.options = inputs, options
        self.names = [n for n in FORMS if inputs.get(n) is not None]
        assert len(self.names) == 3 and [n[:2] for n in self.names] == ["vo", "at", "p_"]
        vocab, attn = inputs.get(self.names[0]), inputs.get(self.names[1])
        self.b, self.t, self.v = vocab.shape
        self.s = attn.shape[2]
        self.lam = float(options.get("coverage_weight", "0"))
        self.eps = float(options.get("eps", "0"))
        self.ids = inputs.get("source_ids").to(torch.int64)
        self.y = inputs.get("targets").to(torch.int64)
        self.marks()
        given = [inputs.get(n).to(F64) for n in self.names]
        self.weights()
        wanted = [x.clone().requires_grad_(True) for x in given]
        row, parts = self.rows(*self.read(*wanted))
        self.finish(row.detach(), parts)
        closed = self.closed(self.read(*given), self.rho)
        for name, grad in zip(self.names, closed):
            self.outputs["grad." + name] = grad
        self.check_autograd(row, wanted, closed)
        self.scales(with_coverage)
        self.strain(given)

    def marks(self):
        """Which steps count, which are read, which source positions are real."""
        get = self.inputs.get
        real = torch.ones(self.b, self.s, dtype=torch.bool)
        if get("source_mask") is not None:
            real &= get("source_mask") != 0
        if get("source_lengths") is not None:
            assert get("source_mask") is None
            real &= torch.arange(self.s)[None] < get("source_lengths").to(torch.int64)[:, None]
        counted = self.y != int(self.options.get("ignore_index", "-100"))
        if get("target_mask") is not None:
            counted &= get("target_mask") != 0
        if get("target_lengths") is not None:
            assert get("target_mask") is None
            counted &= torch.arange(self.t)[None] < get("target_lengths").to(torch.int64)[:, None]
        # A step is read if it counts or if a later one does.
        later = torch.flip(torch.cumsum(torch.flip(counted.to(torch.int64), [1]), 1), [1])
        self.real, self.counted, self.reads = real, counted, later > 0
        top = int(self.ids.max()) + 1 - self.v if self.ids.numel() else 0
        oov = int(self.options.get("num_oov", max(top, 0)))
        assert self.ids.numel() == 0 or 0 <= int(self.ids.min()) and top <= oov
        y = self.y[counted]
        assert bool(((y >= 0) & (y < self.v + oov)).all())
        self.hit = real[:, None, :] & (self.ids[:, None, :] == self.y[:, :, None])
        self.hit &= counted[:, :, None]
        self.inside = counted & (self.y < self.v)
        assert self.eps > 0 or bool((self.inside | self.hit.any(2) | ~counted).all())
        self.index = torch.where(self.inside, self.y, torch.zeros_like(self.y))

    def read(self, vocab, attn, gate):
        """P, a, g and 1 - g, made of nothing that is not read."""
        zero = torch.zeros((), dtype=vocab.dtype)
        vocab = torch.where(self.counted[:, :, None], vocab, zero)
        gate = torch.where(self.counted, gate, zero)
        seen = self.real[:, None, :] & self.reads[:, :, None]
        if self.names[0] == "vocab_logits":
            vocab = softmax(vocab)
        if self.names[1] == "attn_logits":
            # A row with nothing to attend to is given one position, which is then taken away.
            none = ~seen.any(2, keepdim=True)
            attn = torch.where(seen, attn, torch.full_like(attn, -INF))
            attn = softmax(torch.where(none, torch.zeros_like(attn), attn)) if self.s else attn
        attn = torch.where(seen, attn, zero)
        if self.names[2] == "p_gen_logit":
            return vocab, attn, torch.sigmoid(gate), torch.sigmoid(-gate)
        return vocab, attn, gate, 1 - gate

    def rows(self, p, a, g, h):
        """row_t, and its parts."""
        p_y = torch.gather(p, 2, self.index[:, :, None])[:, :, 0]
        p_y = torch.where(self.inside, p_y, torch.zeros_like(p_y))
        share = torch.where(self.hit, a, torch.zeros_like(a)).sum(2)
        d = g * p_y + h * share + self.eps
        d = torch.where(self.counted, d, torch.ones_like(d))
        nll = -torch.log(d)
        c = torch.cat([torch.zeros_like(a[:, :1]), torch.cumsum(a, 1)[:, :-1]], 1)
        cov = torch.minimum(a, c).sum(2)
        cov = torch.where(self.counted, cov, torch.zeros_like(cov))
        row = nll + self.lam * cov
        copied = torch.where(d > 0, h * share / torch.where(d > 0, d, torch.ones_like(d)),
                             torch.zeros_like(d))
        copied = torch.where(self.counted, copied, torch.zeros_like(d))
        return row, {"nll": nll.detach(), "coverage": cov.detach(), "d": d.detach(),
                     "copy_share": copied.detach(), "p_y": p_y.detach(), "A": share.detach(),
                     "c": c.detach()}

    def weights(self):
        """The reduction's weight of every step, times grad_output."""
        reduction = self.options.get("reduction", "mean_of_sequence_means")
        items = self.options.get("num_items")
        n = self.counted.sum(1, keepdim=True).to(F64)
        w = self.counted.to(F64)
        self.empty = False
        if reduction == "mean":
            d = n.sum().item() if items is None else float(items)
            self.empty = d == 0
            w = w / (d or 1)
        elif reduction == "mean_of_sequence_means":
            some = (n > 0).sum().item()
            self.empty = some == 0
            w = w / (n.clamp(min=1) * (some or 1))
        self.weight = w
        none = reduction == "none"
        go = self.inputs.get("grad_output")
        shape = (self.b, self.t) if none else ()
        go = torch.ones(shape, dtype=F64) if go is None else go.to(F64).reshape(shape)
        self.rho = w * go
        self.reduced = not none

    def finish(self, row, parts):
        total = torch.where(self.weight > 0, row * self.weight, torch.zeros_like(row))
        if self.reduced:
            total = total.sum()
            if self.empty and self.options.get("empty_mean") == "nan":
                total = total + NAN
        self.outputs = {"loss": total}
        for name in STATE:
            self.outputs[name] = parts[name]

    def closed(self, read, rho):
        """The contract's gradients of the three inputs."""
        p, a, g, h = read
        rho = rho.to(p.dtype)
        _, parts = self.rows(p, a, g, h)
        d, share, p_y, c = parts["d"], parts["A"], parts["p_y"], parts["c"]
        fine = d > 0
        over = torch.where(fine, 1 / torch.where(fine, d, torch.ones_like(d)), torch.zeros_like(d))
        r_v, r_c = g * p_y * over, h * share * over
        at = F.one_hot(self.index, self.v).bool() & self.inside[:, :, None]
        zero = torch.zeros((), dtype=p.dtype)
        if self.names[0] == "vocab_logits":
            others = torch.where(at, zero, p)
            grad_v = (rho * r_v)[:, :, None] * torch.where(
                at, -others.sum(2, keepdim=True).expand_as(p), p)
        else:
            grad_v = torch.where(at, (-rho * g * over)[:, :, None], zero)
        if self.names[2] == "p_gen_logit":
            grad_g = rho * (g * r_c - h * r_v)
        else:
            grad_g = -rho * (p_y - share) * over
        kept = torch.where(a < c, 1.0, torch.where(a == c, 0.5, 0.0)).to(p.dtype)
        spill = rho[:, :, None] * (1 - kept)
        later = torch.cat([torch.flip(torch.cumsum(torch.flip(spill, [1]), 1), [1])[:, 1:],
                           torch.zeros_like(spill[:, :1])], 1)
        dd = self.lam * (rho[:, :, None] * kept + later)
        if self.names[1] == "attn_probs":
            grad_a = dd - torch.where(self.hit, (rho * h * over)[:, :, None], zero)
        else:
            part = torch.where(share > 0, share, torch.ones_like(share))
            drawn = torch.where(self.hit, a / part[:, :, None], zero)
            first = torch.where((share > 0)[:, :, None], drawn - a, zero)
            grad_a = -(rho * r_c)[:, :, None] * first
            grad_a = grad_a + a * (dd - (a * dd).sum(2, keepdim=True))
        seen = self.real[:, None, :] & self.reads[:, :, None]
        return grad_v, torch.where(seen, grad_a, zero), grad_g

    def check_autograd(self, row, wanted, closed):
        if not bool(torch.isfinite(row).all()):
            return
        grads = torch.autograd.grad((row * self.rho).sum(), wanted)
        for name, got, own in zip(self.names, grads, closed):
            assert same(got, own), (name, (got - own).abs().max())

    def scales(self, with_coverage):
        """Z of every step: the logits it is made of; coverage is made of all the example's."""
        if not any("logit" in n for n in self.names):
            self.scale = None
            return
        self.scale = torch.zeros(self.b, self.t, dtype=F64)
        vocab, attn, gate = (self.inputs.get(n).to(F64) for n in self.names)
        coupled = self.lam > 0 or with_coverage
        for b, t in itertools.product(range(self.b), range(self.t)):
            z = []
            if self.counted[b, t]:
                z += [vocab[b, t]] if self.names[0] == "vocab_logits" else []
                z += [gate[b, t].reshape(1)] if self.names[2] == "p_gen_logit" else []
            if self.names[1] == "attn_logits" and (coupled or self.counted[b, t]):
                steps = self.reads[b] if coupled else torch.arange(self.t) == t
                z += [attn[b][steps][:, self.real[b]].reshape(-1)]
            self.scale[b, t] = max([largest(x) for x in z], default=0.0)

    def strain(self, given):
        """How far f32 is from the f64 numbers; see the head of this file."""
        read = self.read(*[x.float() for x in given])
        row, parts = self.rows(*read)
        scale = self.scale if self.scale is not None else torch.zeros(self.b, self.t, dtype=F64)
        closed = self.closed(read, self.rho)
        worst = 0.0
        for name, got in zip(self.names, closed):
            exact = self.outputs["grad." + name]
            if name.startswith("p_"):
                got, exact = got[:, :, None], exact[:, :, None]
            if exact.numel():
                worst = max(worst, strain(got, exact, scale))
        for name in STATE:
            if self.counted.numel():
                worst = max(worst, value_strain(parts[name], self.outputs[name], scale))
        self.worst = worst
        # A kink next to which f32 and f64 take different sides is no golden.
        a, c = self.read(*given)[1], self.rows(*self.read(*given))[1]["c"]
        gap = (a - c).abs()
        whole = (self.names[1] == "attn_probs") | (self.real.sum(1) <= 1)[:, None, None]
        exact = (gap == 0) & (whole | (a == 0))
        self.clear = bool((exact | (gap > 1e-4)).all()) or self.lam == 0


def pointer_wants(call_names, state):
    return ("loss",) + tuple("grad." + n for n in call_names) + tuple(state)


def write_pointer(name, inputs, options=None, state=(), want=None, plain=True):
    options = {k: str(v) for k, v in (options or {}).items()}
    call = Pointer(inputs, options, "coverage" in state)
    assert call.clear, name
    only_f64 = "f64" in [inputs.dtypes[n] for n in call.names]
    assert call.worst <= LIMIT or only_f64 or not plain, (name, call.worst)
    want = want or pointer_wants(call.names, state)
    POINTER.add(name, inputs, options, {k: call.outputs[k] for k in want},
                None if call.scale is None else call.scale.reshape(-1))
    return call.outputs


def build_pointer(name, forms="lll", b=2, t=3, v=5, s=4, oov=2, options=None, extra=(), state=(),
                  integer="i64", kind="float", spread=1.0):
    """A case of random numbers. forms: l or p each for vocabulary, attention and p_gen."""
    options = {k: str(text) for k, text in (options or {}).items()}
    eps = float(options.get("eps", "0"))
    ignore = int(options.get("ignore_index", "-100"))
    for attempt in range(300):
        draw = Draw("pointer " + name + (f" {attempt}" if attempt else ""))
        inputs = Inputs()
        if forms[0] == "l":
            inputs.put("vocab_logits", draw.normal((b, t, v), spread))
        else:
            probs = draw.shares(b * t, v) if "zeros" in extra else draw.between((b * t, v), 0.05,
                                                                                0.4)
            inputs.put("vocab_probs", probs.reshape(b, t, v))
        if forms[1] == "l":
            inputs.put("attn_logits", draw.normal((b, t, s), spread))
        else:
            probs = draw.shares(b * t, s) if "zeros" in extra else draw.between((b * t, s), 0.05,
                                                                                0.5)
            inputs.put("attn_probs", probs.reshape(b, t, s))
        if forms[2] == "l":
            inputs.put("p_gen_logit", draw.normal((b, t), 1.0))
        else:
            inputs.put("p_gen", draw.between((b, t), 0.125, 0.875))
        ids = draw.integers((b, s), 0, v + oov)
        real = torch.ones(b, s, dtype=torch.bool)
        if "source_mask" in extra:
            real = draw.flags((b, s), 0.7)
            inputs.put("source_mask", real, "bool" if integer == "i64" else "u8")
        if "source_lengths" in extra:
            lengths = draw.integers((b,), 1, s + 1)
            real = torch.arange(s)[None] < lengths[:, None]
            inputs.put("source_lengths", lengths, integer)
        targets = torch.zeros(b, t, dtype=torch.int64)
        for i, j in itertools.product(range(b), range(t)):
            copied = ids[i][real[i]].tolist()
            choice = draw.random.random()
            if copied and choice < 0.55:
                targets[i, j] = draw.random.choice(copied)
            else:
                targets[i, j] = draw.random.randrange(0, v + oov if eps else v)
            if "ignore" in extra and draw.random.random() < 0.35:
                targets[i, j] = ignore
        inputs.put("source_ids", ids, integer)
        inputs.put("targets", targets, integer)
        if "target_mask" in extra:
            inputs.put("target_mask", draw.flags((b, t), 0.6), "u8" if integer == "i64" else "bool")
        if "target_lengths" in extra:
            lengths = draw.integers((b,), 0, t + 1)
            if b > 1:
                lengths[-1] = t
            inputs.put("target_lengths", lengths, integer)
        if "grad_output" in extra:
            none = options.get("reduction") == "none"
            inputs.put("grad_output", draw.normal((b, t) if none else (), 1.0), kind)
        if oov and b and "num_oov" not in options and int(ids.max()) < v:
            continue
        try:
            call = Pointer(inputs, options, "coverage" in state)
        except AssertionError:
            # A target beyond the largest id of the source.
            if attempt < 250 and oov:
                continue
            raise
        if call.worst <= LIMIT and call.clear:
            return write_pointer(name, inputs, options, state)
    raise AssertionError((name, call.worst, call.clear))


def given_pointer(vocab, attn, gate, ids, targets, forms="ppp", dtype="float", integer="i64",
                  **others):
    inputs = Inputs()
    names = (("vocab_logits", "vocab_probs"), ("attn_logits", "attn_probs"),
             ("p_gen_logit", "p_gen"))
    for value, form, pair in zip((vocab, attn, gate), forms, names):
        value = value if torch.is_tensor(value) else torch.tensor(value, dtype=F64)
        inputs.put(pair["lp".index(form)], value, dtype)
    inputs.put("source_ids", torch.tensor(ids, dtype=torch.int64), integer)
    inputs.put("targets", torch.tensor(targets, dtype=torch.int64), integer)
    for name, value in others.items():
        kind = {"source_mask": "bool", "target_mask": "bool", "source_lengths": integer,
                "target_lengths": integer}.get(name, "float")
        if isinstance(value, tuple):
            value, kind = value
        inputs.put(name, torch.tensor(value, dtype=F64 if kind == "float" else None), kind)
    return inputs


def pointer_checks():
    """The table of the contract, and the two means of its list of errata."""
    p = [[[.2, .4, .4]] * 3]
    a = [[[.6, .3, .1], [.1, .8, .1], [.2, .3, .5]]]
    gate = [[.7, .7, .7]]
    ids = [[2, 1, 3]]
    rows = {("2-1-0", 0): [0.7765287895, 0.6539264674, 1.966112856],
            ("2-1-0", 1): [0.7765287895, 1.153926467, 2.666112856],
            ("2-1-3", 0): [0.7765287895, 0.6539264674, 1.897119985],
            ("2-1-3", 1): [0.7765287895, 1.153926467, 2.597119985]}
    for (targets, lam), expected in rows.items():
        y = [[int(k) for k in targets.split("-")]]
        out = write_pointer(f"check/{targets}-{lam}",
                            given_pointer(p, a, gate, ids, y, dtype="f64"),
                            {"reduction": "none", "coverage_weight": lam, "num_oov": 1}, STATE)
        stated(out["loss"], [expected], targets)
        for reduction in ("mean", "mean_of_sequence_means"):
            mean = write_pointer(f"check/{targets}-{lam}-{reduction}",
                                 given_pointer(p, a, gate, ids, y, dtype="f64"),
                                 {"reduction": reduction, "coverage_weight": lam})
            assert abs(mean["loss"].item() - sum(expected) / 3) < 1e-9
            if targets == "2-1-0":
                assert abs(mean["loss"].item() - (1.132189, 1.532189)[lam]) < 1e-6
    stated(out["grad.p_gen"], [[0.4347826087, 0.7692307692, 3.333333333]], "p_gen")
    stated(out["grad.attn_probs"], [[[-0.652173913, 1, 1.5], [1, -0.5769230769, 1.5],
                                     [1, 1, -2]]], "attn_probs")
    expected = torch.zeros(1, 3, 3, dtype=F64)
    expected[0, 0, 2], expected[0, 1, 1] = -1.52173913, -1.346153846
    stated(out["grad.vocab_probs"], expected.tolist(), "vocab_probs")

    a = [[[.6, .3, .1], [.1, .75, .15], [.2, .3, .5]]]
    log_p, log_a = torch.tensor(p, dtype=F64).log(), torch.tensor(a, dtype=F64).log()
    logit = torch.logit(torch.tensor(gate, dtype=F64))
    for lam, loss in ((0, 1.118948541), (1, 1.535615208)):
        out = write_pointer(f"check/logits-{lam}",
                            given_pointer(log_p, log_a, logit, ids, [[2, 1, 3]], "lll", "f64"),
                            {"reduction": "mean", "coverage_weight": lam}, STATE)
        stated(out["loss"], loss, "logits")
        stated(out["grad.p_gen_logit"], [[0.0304347826, 0.0485148515, 0.2333333333]], "p_gen_logit")
        stated(out["grad.vocab_logits"], [[[0.0405797101, 0.0811594203, -0.1217391304],
                                           [0.0369636964, -0.1108910891, 0.0739273927],
                                           [0, 0, 0]]], "vocab_logits")
    stated(out["grad.attn_logits"], [[[-0.152173913, 0.0891304348, 0.0630434783],
                                      [0.0398514851, -0.0996287129, 0.0597772277],
                                      [0.1, 0.15, -0.25]]], "attn_logits")


REDUCTIONS = ("none", "sum", "mean", "mean_of_sequence_means")


def pointer_random():
    """Every form, option and optional input, on random numbers."""
    forms = ["".join(f) for f in itertools.product("lp", repeat=3)]
    turn = itertools.cycle(REDUCTIONS)
    for i, f in enumerate(forms):
        for lam in ("0", "1.25"):
            reduction = next(turn)
            if i % 2:
                next(turn)
            options = {"reduction": reduction, "coverage_weight": lam}
            integer = "i32" if i % 2 else "i64"
            build_pointer(f"forms/{f}-{lam}", f, 2, 3, 4, 3, options=options, integer=integer,
                          state=STATE if lam == "0" else ("coverage",))
            build_pointer(f"forms/{f}-{lam}-everything", f, 2, 3, 3, 3,
                          options={**options, "eps": "0.01"},
                          extra=("source_mask", "target_mask", "ignore", "grad_output"),
                          integer=integer)
    for f, lam in (("lll", "0.5"), ("ppp", "1")):
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, "coverage_weight": lam}
            name = f"{f}-{reduction}"
            build_pointer(f"reduction/{name}", f, 2, 3, 3, 3, options=options,
                          extra=("target_lengths",))
            build_pointer(f"reduction/{name}-grad-output", f, 2, 3, 3, 3, options=options,
                          extra=("target_mask", "grad_output"), integer="i32")
    build_pointer("reduction/default", "lll", 3, 4, 4, 3, extra=("target_lengths",))
    for f in ("lll", "ppp"):
        for items in ("0.5", "7"):
            build_pointer(f"num-items/{f}-{items}", f, 2, 3, 3, 3, options={
                "reduction": "mean", "num_items": items, "coverage_weight": "1"},
                extra=("target_mask",))
        for one in ("source_mask", "source_lengths", "target_mask", "target_lengths", "ignore"):
            build_pointer(f"with/{f}-{one}", f, 2, 3, 3, 4, extra=(one,), options={
                "reduction": "none", "coverage_weight": "1"})
        build_pointer(f"with/{f}-lengths", f, 3, 4, 3, 3, extra=("source_lengths",
                                                                "target_lengths", "ignore"),
                      options={"coverage_weight": "0.75"}, integer="i32")
        for eps in ("0.001", "0.25", "1"):
            build_pointer(f"eps/{f}-{eps}", f, 1, options={"eps": eps, "reduction": "none"},
                          state=("nll", "copy_share"))
        build_pointer(f"ignore-index/{f}", f, 2, 4, extra=("ignore",),
                      options={"ignore_index": "2", "coverage_weight": "1"})
        build_pointer(f"ignore-index/{f}-minus-1", f, 2, 4, extra=("ignore",), integer="i32",
                      options={"ignore_index": "-1", "reduction": "sum"})
        build_pointer(f"num-oov/{f}", f, 1, oov=1, options={"num_oov": "5", "reduction": "mean"})
        build_pointer(f"num-oov/{f}-0", f, 1, oov=0, options={"num_oov": "0"})
        build_pointer(f"num-oov/{f}-none-in-source", f, oov=0)
        for kind in ("f64", "f32", "f16", "bf16"):
            if f == "lll" or kind == "f32":
                build_pointer(f"type/{f}-{kind}", f, 1, 3, options={"reduction": "none"},
                              extra=("grad_output",), kind=kind)
        for b, t in ((0, 3), (1, 1), (1, 7), (5, 2)):
            build_pointer(f"size/{f}-{b}x{t}", f, b, t, 3, 3, oov=0 if b == 0 else 1,
                          options={"coverage_weight": "1"})
        for reduction in ("none", "sum", "mean"):
            build_pointer(f"size/{f}-0-{reduction}", f, 0, 3, 3, 3, oov=0,
                          options={"reduction": reduction})
        build_pointer(f"size/{f}-one-source", f, 2, 3, 4, 1, oov=1,
                      options={"reduction": "none"})
    build_pointer("zeros/ppp", "ppp", extra=("zeros",), options={
        "coverage_weight": "1", "eps": "0.0625", "reduction": "none"}, state=STATE)
    build_pointer("zeros/ppp-mean", "ppp", 3, 5, 6, 5, extra=("zeros",), options={
        "coverage_weight": "0.5", "eps": "0.03125"})
    build_pointer("zeros/lpl", "lpl", 2, 5, 4, 6, extra=("zeros", "target_mask"), options={
        "coverage_weight": "1", "reduction": "sum"}, state=("coverage",))
    build_pointer("size/vocab-600", "lll", 1, 1, 600, 5, options={"coverage_weight": "1"})
    build_pointer("size/source-70", "lll", 1, 2, 4, 70, oov=8, options={"coverage_weight": "1"})
    build_pointer("size/source-70-probs", "ppp", 1, 2, 4, 70, oov=8, extra=("zeros",),
                  options={"eps": "0.5"})
    build_pointer("size/20-steps", "lpl", 1, 20, 3, 4, options={"coverage_weight": "1",
                                                               "reduction": "none"})
    build_pointer("size/12-steps-logits", "lll", 1, 12, 3, 4, options={"coverage_weight": "1"})
    build_pointer("size/9-examples", "lll", 9, 2, 3, 3, options={"coverage_weight": "1"},
                  extra=("target_lengths",))


def pointer_edges():
    """The corners of section 5."""
    none = {"reduction": "none", "coverage_weight": "1"}
    p = [[[0.25, 0.5, 0.25], [0.125, 0.25, 0.625], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]]
    a = [[[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5], [0.5, 0.125, 0.375]]]
    z = [[[1.0, -0.5, 2.0], [0.5, 0.25, -1.0], [-0.75, 1.5, 0.0], [0.25, 1.0, 0.5]]]
    w = [[[0.5, 1.5, -0.25], [1.0, -1.0, 0.75], [-0.5, 0.25, 2.0], [1.25, 0.0, -0.5]]]
    g = [[0.75, 0.5, 0.25, 0.625]]
    q = [[1.0, -0.5, 0.25, 0.75]]
    ids = [[2, 1, 3]]
    lll = (z, w, q)
    ppp = (p, a, g)

    # Ties of a and c: half to each side. All are exact in every type.
    ties = [[[0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.5, 0.75, 0.0], [0.0, 0.5, 0.5]]]
    for lam, reduction in (("1", "none"), ("0.5", "sum"), ("1", "mean_of_sequence_means")):
        write_pointer(f"tie/some-{reduction}", given_pointer(p, ties, g, ids, [[2, 1, 0, 3]]),
                      {"reduction": reduction, "coverage_weight": lam}, ("coverage",))
    same_step = [[[0.25, 0.5, 0.25]] * 2 + [[0.5, 0.0, 0.5]] * 2]
    write_pointer("tie/equal-steps", given_pointer(p, same_step, g, ids, [[2, 1, 0, 0]]), none,
                  ("coverage",))
    write_pointer("tie/zero-attention", given_pointer(p, [[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0],
                                                           [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]], g,
                                                      ids, [[1, 1, 0, 0]]), none, ("coverage",))
    write_pointer("tie/ignored-steps", given_pointer(p, ties, g, ids, [[2, -100, 0, 1]]), none)

    # The same word several times, in the vocabulary and outside it.
    for f, three in (("lll", lll), ("ppp", ppp)):
        for name, source, y in (("inside", [[1, 1, 0]], [[1, 0, 2, 1]]),
                                ("outside", [[3, 4, 3]], [[3, 4, 0, 3]])):
            write_pointer(f"repeat/{f}-{name}", given_pointer(*three, source, y, f), none, STATE)
        # Out of the vocabulary: P is 0 and the vocabulary gets no gradient.
        write_pointer(f"oov/{f}", given_pointer(*three, [[3, 5, 4]], [[3, 4, 5, 3]], f), none,
                      STATE)
        # Not in the source: A is 0.
        write_pointer(f"absent/{f}", given_pointer(*three, [[3, 5, 4]], [[0, 1, 2, 0]], f), none,
                      STATE)
        # Where eps > 0 even an unreachable word is a legal target.
        write_pointer(f"unreachable/{f}-eps",
                      given_pointer(*three, [[3, 5, 4]], [[3, 6, 5, 1]], f),
                      {**none, "eps": "0.125", "num_oov": "4"}, STATE)
        write_pointer(f"unreachable/{f}-masked",
                      given_pointer(*three, [[3, 5, 4]], [[3, 4, 5, 3]], f,
                                    source_mask=[[True, False, True]]), {**none, "eps": "0.125"},
                      STATE)
        write_pointer(f"unreachable/{f}-ignored",
                      given_pointer(*three, ids, [[2, 9, 3, 1]], f,
                                    target_mask=[[True, False, True, True]]), none)
        # No source at all.
        write_pointer(f"no-source/{f}-mask",
                      given_pointer(*three, ids, [[0, 1, 2, 1]], f,
                                    source_mask=([[0, 0, 0]], "u8")), none, STATE)
        write_pointer(f"no-source/{f}-length",
                      given_pointer(*three, ids, [[0, 1, 2, 1]], f, source_lengths=[0]),
                      {"coverage_weight": "2"}, STATE)
        write_pointer(f"no-source/{f}-eps",
                      given_pointer(*three, ids, [[0, 3, 2, 1]], f, source_lengths=[0]),
                      {"eps": "0.5"}, STATE)
        write_pointer(f"one-source/{f}",
                      given_pointer(*three, ids, [[0, 1, 1, 2]], f,
                                    source_mask=[[False, True, False]]), none,
                      STATE, want=None if f == "ppp" else ("loss", "grad.vocab_logits") + STATE)
        write_pointer(f"edge/{f}-grad-output-one-element",
                      given_pointer(*three, ids, [[2, 1, 0, 3]], f, grad_output=[0.5]), {})
        write_pointer(f"edge/{f}-grad-output-0",
                      given_pointer(*three, ids, [[2, 1, 0, 3]], f,
                                    grad_output=[[0.0, 1.0, -2.0, 0.0]]), none)
        write_pointer(f"edge/{f}-num-items",
                      given_pointer(*three, ids, [[2, 1, -100, 3]], f),
                      {"reduction": "mean", "num_items": "9", "coverage_weight": "1"})
        for value in ("zero", "nan"):
            for reduction in ("mean", "mean_of_sequence_means"):
                write_pointer(f"empty/{f}-{reduction}-{value}",
                              given_pointer(*three, ids, [[2, 1, 0, 3]], f, target_lengths=[0]),
                              {"empty_mean": value, "reduction": reduction})
            write_pointer(f"empty/{f}-num-items-{value}",
                          given_pointer(*three, ids, [[-100] * 4], f),
                          {"empty_mean": value, "reduction": "mean", "num_items": "2"})
        for reduction in ("none", "sum"):
            write_pointer(f"empty/{f}-{reduction}",
                          given_pointer(*three, ids, [[-100] * 4], f),
                          {"reduction": reduction, "coverage_weight": "1"})

    # Nothing after the last counted step is read, nor the vocabulary and the gate of a step that
    # does not count; the attention of a step between counts for the coverage of later ones.
    for f, three in (("lll", lll), ("ppp", ppp)):
        v, s, h = (torch.tensor(x, dtype=F64) for x in three)
        v, s, h = v.clone(), s.clone(), h.clone()
        v[0, 3], s[0, 3], h[0, 3] = NAN, NAN, NAN
        write_pointer(f"unread/{f}-after-last", given_pointer(v, s, h, ids, [[2, 1, 0, -100]], f),
                      none)
        write_pointer(f"unread/{f}-after-length",
                      given_pointer(v, s, h, ids, [[2, 1, 0, 77]], f, target_lengths=[3]),
                      {"coverage_weight": "1"})
        v[0, 1], h[0, 1] = NAN, NAN
        write_pointer(f"unread/{f}-between", given_pointer(v, s, h, ids, [[2, -100, 0, -100]], f),
                      none)
        write_pointer(f"unread/{f}-between-mean",
                      given_pointer(v, s, h, ids, [[2, 1, 3, 1]], f,
                                    target_mask=([[9, 0, 1, 0]], "u8")),
                      {"coverage_weight": "0.5", "reduction": "mean"})
        s[0, :, 1] = NAN
        write_pointer(f"unread/{f}-masked-source",
                      given_pointer(v, s, h, ids, [[2, -100, 0, -100]], f,
                                    source_mask=[[True, False, True]]), none)
        two = [torch.cat([torch.full_like(x, NAN), x]) for x in
               (torch.tensor(y, dtype=F64) for y in three)]
        write_pointer(f"unread/{f}-example",
                      given_pointer(*two, ids + ids, [[-100] * 4, [2, 1, 0, 3]], f),
                      {"coverage_weight": "1"})
        write_pointer(f"first-not-counted/{f}",
                      given_pointer(*three, ids, [[-100, -100, 0, 3]], f), none)

    # Probabilities of 0 and 1.
    write_pointer("edge/p-gen-0-1", given_pointer(p, a, [[0.0, 1.0, 0.0, 1.0]], ids,
                                                  [[2, 1, 3, 0]]), none, STATE)
    sure = [[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]
    write_pointer("edge/vocab-0-1", given_pointer(sure, a, g, ids, [[2, 1, 3, 1]]), none, STATE)
    for reduction in REDUCTIONS:
        # D = 0: the loss is infinite, only the coverage has a gradient there.
        write_pointer(f"d-0/ppp-{reduction}",
                      given_pointer(sure, a, g, ids, [[0, 0, 3, 1]]),
                      {"reduction": reduction, "coverage_weight": "1"}, STATE)
    write_pointer("d-0/p-gen", given_pointer(p, a, [[1.0, 0.5, 0.0, 0.25]], ids, [[3, 1, 0, 2]]),
                  none, STATE)
    write_pointer("d-0/p-gen-no-coverage",
                  given_pointer(p, a, [[1.0, 0.5, 0.0, 0.25]], ids, [[3, 1, 0, 2]]),
                  {"reduction": "mean"}, STATE)
    write_pointer("d-0/eps", given_pointer(sure, a, [[1.0, 0.5, 0.0, 0.25]], ids, [[3, 0, 0, 2]]),
                  {**none, "eps": "0.0625"}, STATE)
    shut = [[[1.0, -0.5, -INF], [0.5, 0.25, -1.0], [-INF, 1.5, 0.0], [0.25, 1.0, 0.5]]]
    write_pointer("infinite/vocab-target", given_pointer(shut, w, q, [[1, 1, 3]], [[2, 1, 0, 3]],
                                                         "lll"), none, STATE)
    write_pointer("infinite/vocab-copied", given_pointer(shut, w, q, ids, [[2, 1, 1, 3]], "lll"),
                  none, STATE)
    dark = [[[0.5, 1.5, -INF], [1.0, -1.0, 0.75], [-INF, 0.25, 2.0], [1.25, 0.0, -INF]]]
    write_pointer("infinite/attention", given_pointer(z, dark, q, ids, [[2, 1, 2, 1]], "lll"),
                  none, STATE)
    write_pointer("infinite/attention-target", given_pointer(z, dark, q, ids, [[3, 1, 3, 1]],
                                                             "lll"), none, STATE)
    write_pointer("infinite/attention-no-coverage",
                  given_pointer(z, dark, q, ids, [[3, 1, 2, 0]], "lll"), {"reduction": "sum"})
    write_pointer("infinite/attention-masked",
                  given_pointer(z, [[[0.5, 1.5, -INF], [1.0, -1.0, -INF], [-0.5, 0.25, -INF],
                                     [1.25, 0.0, -INF]]], q, ids, [[2, 1, 2, 1]], "lll",
                                source_lengths=[2]), none, STATE)
    # Far apart: no product of the probabilities may underflow.
    far = [[[100.0, -100.0, 0.0], [-80.0, 80.0, 79.0], [-100.0, 100.0, 99.0], [0.0, 60.0, 61.0]]]
    wide = [[[-100.0, 20.0, 100.0], [80.0, 79.0, -80.0], [100.0, 98.0, 97.0], [0.0, 60.0, 61.0]]]
    write_pointer("large/unlikely", given_pointer(far, wide, [[20.0, -30.0, 40.0, 0.0]], ids,
                                                  [[1, 0, 3, 0]], "lll"), {"reduction": "none"},
                  ("nll",), want=("loss", "nll"), plain=False)
    write_pointer("large/both", given_pointer(far, wide, [[1.0, -0.5, 0.25, 0.0]], ids,
                                              [[0, 2, 1, 2]], "lll"), {"reduction": "none"},
                  ("nll", "copy_share"), want=("loss", "nll", "copy_share"),
                  plain=False)
    write_pointer("large/gate", given_pointer(z, w, [[60.0, -60.0, 20.0, -16.0]], ids,
                                              [[3, 0, 2, 1]], "lll"), {"reduction": "none"},
                  ("nll",), want=("loss", "nll", "grad.p_gen_logit"))


def write_files():
    for book in (CTC, POINTER):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), book.loss + ".jsonl")
        if book.lines:
            book.write(path)
            print(f"{book.loss}: {len(book.lines)} cases, {os.path.getsize(path)} bytes")


def main():
    ctc_cases()
    pointer_checks()
    pointer_random()
    pointer_edges()
    write_files()


if __name__ == "__main__":
    main()
