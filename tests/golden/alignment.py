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
LIMIT = 0.6


def largest(x):
    """The largest finite |x| of all."""
    x = x[torch.isfinite(x)]
    return x.abs().max().item() if x.numel() else 0.0


def strain(got, exact, scale):
    """The worst error of f32 rows of a gradient, as a share of what the contract allows."""
    size = exact.abs().amax(-1)
    error = (got.to(F64) - exact).abs().amax(-1)
    allowed = (1e-6 + 2**-22 * scale) * size
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


def write_files():
    for book in (CTC, POINTER):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), book.loss + ".jsonl")
        if book.lines:
            book.write(path)
            print(f"{book.loss}: {len(book.lines)} cases, {os.path.getsize(path)} bytes")


def main():
    ctc_cases()
    write_files()


if __name__ == "__main__":
    main()
