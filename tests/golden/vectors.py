# SPDX-License-Identifier: MIT
"""What the golden cases of losses on vectors share: unit vectors, reductions and the two roads.

Every gradient is computed twice, by torch from the definition and by the closed form of the
contract, and the two must agree. Where they cannot, at kinks and in rows that are not finite, a
case says so and the closed form is written.
"""
import os

import torch

from oracle import F64, NAN, Book, Draw, Inputs, same

COS_EPS = 1e-8
ADDED = 1e-12  # norm=added


def norms(v):
    return torch.linalg.vector_norm(v, dim=1, keepdim=True)


def divisors(v, eps=COS_EPS):
    """What vectors are divided by; eps None: norm=added."""
    if eps is None:
        return ((v * v).sum(1, keepdim=True) + ADDED).sqrt()
    return norms(v).clamp(min=eps)


def unit(v, eps=COS_EPS):
    return v / divisors(v, eps)


def cosines(a, b, eps=COS_EPS):
    return (unit(a, eps) * unit(b, eps)).sum(1)


def log_sum_exp(z):
    """Of a vector that is not empty and holds something above -inf."""
    m = z.detach().max()
    return m + torch.log(torch.exp(z - m).sum())


class Closed:
    """Gradients in closed form, and which have a row that is little more than rounding errors."""

    def __init__(self, eps=COS_EPS):
        self.eps = eps
        self.grads = {}
        self.weak = set()
        self.unfit = False

    def judge(self, name, grad, size, least=0.05):
        """`size` bounds the terms that add up to `grad`, row by row."""
        if grad.numel() == 0:
            return
        rows = len(grad) if grad.dim() else 1
        grad = grad.abs().reshape(rows, -1).amax(1)
        size = size.reshape(rows, -1).amax(1)
        if bool(((grad < least * size) & (grad != 0)).any()):
            self.weak.add("grad." + name)

    def put(self, name, grad, size=None):
        self.grads[name] = self.grads[name] + grad if name in self.grads else grad
        if size is not None:
            self.judge(name, grad, size)

    def through_unit(self, name, v, g, size=None):
        """v's gradient from that of unit(v)."""
        n = divisors(v, self.eps)
        h = v / n
        along = (g * h).sum(1, keepdim=True) * h
        if self.eps is not None:
            along = torch.where(norms(v) <= self.eps, torch.zeros_like(along), along)
        self.put(name, (g - along) / n, (g.abs() if size is None else size) / n)

    def need(self, fine):
        """Further conditions on random numbers."""
        self.unfit |= not bool(fine)

    def fit(self, wanted):
        return not self.unfit and not self.weak.intersection(wanted)


def reduce(rows, options):
    """The loss, and what one row contributes to it."""
    reduction = options.get("reduction", "mean")
    assert reduction == "mean" or "num_items" not in options
    one = torch.ones(rows.shape, dtype=F64)
    if reduction == "none":
        return rows, one
    if reduction == "sum":
        return rows.sum(), one
    assert reduction == "mean"
    return mean(rows, one, options)


def mean(rows, weights, options):
    d = float(options["num_items"]) if "num_items" in options else weights.sum().item()
    if d == 0:
        return empty(rows.sum(), options), weights * 0
    return (rows * weights).sum() / d, weights / d


def empty(zero, options):
    """The mean of nothing; `zero` keeps torch's road to the inputs."""
    return zero * 0 + (NAN if options.get("empty_mean") == "nan" else 0)


class Loss:
    """One loss. `definition(x, inputs, options)` gives its value and the upstream weight of every
    row; `closed(x, inputs, options, up)` a Closed; x holds the differentiable inputs by name."""

    def __init__(self, name, differentiable, definition, closed, scale):
        self.name = name
        self.differentiable = differentiable
        self.definition = definition
        self.closed = closed
        self.scale = scale
        self.book = Book(name)

    def evaluate(self, inputs, options, kink=False):
        names = [n for n in self.differentiable if inputs.get(n) is not None]
        x = {n: inputs.get(n).to(F64).clone().requires_grad_(True) for n in names}
        loss, share, others = self.definition(x, inputs, options)
        go = inputs.get("grad_output")
        go = torch.ones(loss.shape, dtype=F64) if go is None else go.to(F64).reshape(loss.shape)
        total = (go * loss).sum()
        grads = torch.autograd.grad(total, list(x.values()), allow_unused=True)
        grads = [torch.zeros_like(v) if g is None else g for g, v in zip(grads, x.values())]
        plain = {n: v.detach() for n, v in x.items()}
        closed = self.closed(plain, inputs, options, go * share)
        out = {"loss": loss.detach()}
        for name, grad in zip(names, grads):
            expected = closed.grads[name]
            assert expected.shape == grad.shape, name
            if not kink:
                top = expected.abs().max().item() if expected.numel() else 0
                assert same(grad / (top or 1), expected / (top or 1)), (self.name, name)
            out["grad." + name] = expected if kink else grad
        out.update({n: v.detach() for n, v in others.items()})
        return out, closed

    def write(self, name, inputs, options=None, want=None, kink=False, weak=False):
        """One case. `kink`: torch's derivative is another one; `weak`: cancellation is the point,
        and exact in every type."""
        options = {k: str(v) for k, v in (options or {}).items()}
        outputs, closed = self.evaluate(inputs, options, kink)
        if not kink and not weak and "float" in inputs.dtypes.values():
            assert closed.fit(want or outputs), (self.name, name)
        chosen = {k: outputs[k] for k in (want or outputs)}
        self.book.add(name, inputs, options, chosen, self.scale(inputs, options))
        return outputs

    def draw(self, name, fill, options=None, want=None):
        """A case of random numbers, drawn again until no row is mostly rounding errors."""
        options = {k: str(v) for k, v in (options or {}).items()}
        for attempt in range(1000):
            inputs = Inputs()
            fill(Draw(f"{self.name} {name} {attempt}"), inputs)
            outputs, closed = self.evaluate(inputs, options)
            if closed.fit(want or outputs):
                break
        else:
            raise AssertionError((self.name, name))
        chosen = {k: outputs[k] for k in (want or outputs)}
        self.book.add(name, inputs, options, chosen, self.scale(inputs, options))
        return outputs

    def finish(self):
        here = os.path.dirname(os.path.abspath(__file__))
        path = os.path.join(here, self.name + ".jsonl")
        self.book.write(path)
        print(f"{self.name}: {len(self.book.lines)} cases, {os.path.getsize(path)} bytes")


def given(vectors, dtype="float", **others):
    """Inputs from lists. An other input may be a (values, dtype) pair; "float" by default."""
    inputs = Inputs()
    for name, value in vectors.items():
        inputs.put(name, torch.tensor(value, dtype=F64), dtype)
    for name, value in others.items():
        kind = "float"
        if isinstance(value, tuple):
            value, kind = value
        integral = kind in ("i64", "i32", "bool", "u8")
        inputs.put(name, torch.tensor(value, dtype=torch.int64 if integral else F64), kind)
    return inputs


def upstream(draw, inputs, options, rows, kind="float"):
    scalar = options.get("reduction", "mean") != "none"
    inputs.put("grad_output", draw.between(() if scalar else (rows,), 0.25, 2.0), kind)
