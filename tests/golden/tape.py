# SPDX-License-Identifier: MIT
"""Golden cases without any library: numbers that remember what they were computed from (so that a definition
gives its gradients), random numbers that every float type holds, and the writer of cases.

A case is one JSON object on one line; inputs of type "float" are evaluated by the test as f64, f32, f16 and bf16.
"""
import json
import math
import pathlib
import random

NAN, INF = math.nan, math.inf


class Num:
    """A number with what it was computed from, each with the slope by it."""

    __slots__ = ("v", "of", "grad", "mass")

    def __init__(self, v, of=()):
        self.v, self.of, self.grad, self.mass = float(v), of, 0.0, 0.0

    def __add__(self, o):
        o = num(o)
        return Num(self.v + o.v, ((self, 1.0), (o, 1.0)))

    def __sub__(self, o):
        o = num(o)
        return Num(self.v - o.v, ((self, 1.0), (o, -1.0)))

    def __mul__(self, o):
        o = num(o)
        return Num(self.v * o.v, ((self, o.v), (o, self.v)))

    def __truediv__(self, o):
        o = num(o)
        return Num(self.v / o.v, ((self, 1 / o.v), (o, -self.v / o.v / o.v)))

    def __neg__(self):
        return Num(-self.v, ((self, -1.0),))

    def __rsub__(self, o):
        return num(o) - self

    __radd__, __rmul__ = __add__, __mul__


def num(x):
    return x if isinstance(x, Num) else Num(x)


def exp(x):
    e = math.exp(x.v) if x.v < 700 else INF
    return Num(e, ((x, e),))


def log(x):
    return Num(math.log(x.v) if x.v > 0 else -INF, ((x, 1 / x.v if x.v else INF),))


def log1p(x):
    return Num(math.log1p(x.v), ((x, 1 / (1 + x.v)),))


def sqrt(x):
    r = math.sqrt(x.v)
    return Num(r, ((x, 0.5 / r if r else 0.0),))


def absolute(x):
    return Num(abs(x.v), ((x, math.copysign(1, x.v) if x.v else 0.0),))


def total(terms):
    """The exact sum, rounded once."""
    terms = [num(t) for t in terms]
    values = [t.v for t in terms]
    fine = all(map(math.isfinite, values))
    return Num(math.fsum(values) if fine else sum(values), tuple((t, 1.0) for t in terms))


def softplus(x):
    e = math.exp(-abs(x.v))
    return Num(max(x.v, 0) + math.log1p(e), ((x, 1 / (1 + e) if x.v >= 0 else e / (1 + e)),))


def lse(terms):
    """log of the sum of exponentials; -inf among them is nothing."""
    m = max((t.v for t in terms), default=-INF)
    if any(t.v != t.v for t in terms):
        return Num(NAN)
    if m == -INF:
        return Num(-INF)
    top = [t for t in terms if t.v == m][0]
    rest = [t for t in terms if t is not top]
    s = total([exp(t - top) for t in rest if t.v > -INF])
    return top + log1p(s)


def dot(a, b):
    return total([x * y for x, y in zip(a, b)])


def unit(v, eps=1e-8):
    n = sqrt(dot(v, v))
    return [x / (n if n.v > eps else eps) for x in v]


def back(output, upstream=1.0):
    """Add the slopes of a number to `grad` of all that it was computed from; `mass` sums the sizes of the terms."""
    order, seen, stack = [], set(), [(output, False)]
    while stack:
        n, done = stack.pop()
        if done:
            order.append(n)
        elif id(n) not in seen:
            seen.add(id(n))
            stack.append((n, True))
            stack.extend((p, False) for p, _ in n.of)
    for n in order:
        if n.of:
            n.grad = n.mass = 0.0
    output.grad, output.mass = upstream, abs(upstream)
    for n in reversed(order):
        for p, slope in n.of:
            p.grad += n.grad * slope if n.grad else 0.0
            p.mass += n.mass * abs(slope) if n.mass else 0.0


class Tensor:
    """A shape, and its numbers one after another."""

    def __init__(self, shape, data, dtype="float"):
        self.shape, self.data, self.dtype = list(shape), list(data), dtype
        assert len(self.data) == math.prod(self.shape), self.shape

    def __getitem__(self, index):
        """The numbers at a leading index: one, or a list of those of the axes that are left."""
        index = index if isinstance(index, tuple) else (index,)
        at, step = 0, len(self.data)
        for i, n in zip(index, self.shape):
            step = step // n
            at += i * step
        return self.data[at] if len(index) == len(self.shape) else self.data[at:at + step]

    def cut(self, n):
        """The first n of each last axis."""
        width = self.shape[-1]
        rows = [self.data[i:i + n] for i in range(0, len(self.data), width)]
        return Tensor([*self.shape[:-1], n], [x for row in rows for x in row], self.dtype)

    def leaves(self):
        return Tensor(self.shape, [Num(x) for x in self.data], self.dtype)

    def json(self):
        return {"shape": self.shape, "data": [word(x) for x in self.data]}


def word(x):
    x = x.v if isinstance(x, Num) else x
    if isinstance(x, (bool, int)):
        return x
    if math.isnan(x):
        return "nan"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    return int(x) if x == int(x) and abs(x) < 2**31 and math.copysign(1, x) > 0 else x


def nested(data, dtype="f64"):
    """A tensor of nested lists."""
    shape, flat = [], data
    while isinstance(flat, list):
        shape.append(len(flat))
        flat = flat[0] if flat else None
    flat = data
    for _ in shape[1:]:
        flat = [x for part in flat for x in part]
    return Tensor(shape, flat if shape else [data], dtype)


def short(x):
    """The nearest number of 8 significant bits; 0 for what is below 2^-10."""
    if x == 0 or not math.isfinite(x):
        return x
    m, e = math.frexp(x)
    x = math.ldexp(round(m * 256) / 256, e)
    return x if abs(x) >= 2**-10 else 0.0


class Draw:
    """Random numbers that depend on the case's name alone, so that cases do not move each other."""

    def __init__(self, name):
        self.random = random.Random(name)

    def normal(self, *shape, spread=1.5, dtype="float"):
        return Tensor(shape, [short(self.random.gauss(0, spread)) for _ in range(math.prod(shape))], dtype)

    def between(self, low, high, *shape, dtype="float"):
        return Tensor(shape, [short(self.random.uniform(low, high)) for _ in range(math.prod(shape))], dtype)

    def integers(self, low, high, *shape, dtype="i64"):
        return Tensor(shape, [self.random.randrange(low, high) for _ in range(math.prod(shape))], dtype)

    def flags(self, *shape, share=0.7, dtype="bool"):
        data = [self.random.random() < share for _ in range(math.prod(shape))]
        return Tensor(shape, data if dtype == "bool" else [int(x) for x in data], dtype)


def counted(inputs, name, index):
    return name not in inputs or bool(inputs[name][index])


def reduce(rows, options, denominator):
    """The loss of rows, as a tensor of no axis or of all rows' shape."""
    shape, values = rows
    reduction, items = options.get("reduction", "mean"), options.get("num_items")
    if reduction == "none":
        return Tensor(shape, values)
    value = total(values)
    if reduction != "sum":
        d = float(items) if items is not None else denominator
        value = value / d if d else empty(value, options)
    return Tensor([], [value])


def prefixed(definition, embeddings):
    """The definition with `dims` and `dim_weights`: a weighted sum over the first components of the embeddings."""

    def whole(x, options):
        if "dims" not in options:
            return definition(x, options)
        dims = [int(d) for d in options["dims"].split(",")]
        weights = [float(w) for w in options.get("dim_weights", ",".join("1" * len(dims))).split(",")]
        alone = {k: v for k, v in options.items() if k not in ("dims", "dim_weights")}
        sums = None
        for d, w in zip(dims, weights):
            out = definition({n: t.cut(d) if n in embeddings else t for n, t in x.items()}, alone)
            part = [num(v) * w if w else num(0) for v in out["loss"].data]
            sums = [a + b for a, b in zip(sums, part)] if sums else part
        return {**out, "loss": Tensor(out["loss"].shape, sums)}

    return whole


def empty(value, options):
    return value * 0 + (NAN if options.get("empty_mean") == "nan" else 0)


class Golden:
    """The cases of a loss. `definition(inputs, options)` gives its outputs from tensors, of which the differentiable
    ones hold Nums; `scale(inputs, options)` the Z of the tolerances, or None."""

    def __init__(self, loss, differentiable, definition, scale=lambda inputs, options: None):
        self.loss, self.differentiable, self.definition, self.scale = loss, differentiable, definition, scale
        self.lines, self.names = [], set()

    def evaluate(self, inputs, options):
        """Outputs, and by which part the terms of the gradients' rows are larger than these."""
        x = {n: t.leaves() if n in self.differentiable else t for n, t in inputs.items()}
        outputs = self.definition(x, options)
        loss, up, worst = outputs["loss"], inputs.get("grad_output"), 1.0
        weights = up.data if up else [1.0] * len(loss.data)
        back(total([num(value) * w if w else num(0) for value, w in zip(loss.data, weights)]))
        for name in self.differentiable:
            if name not in x:
                continue
            t = x[name]
            outputs["grad." + name] = Tensor(t.shape, [n.grad for n in t.data])
            width = t.shape[-1] if t.shape else 1
            for at in range(0, len(t.data), width or 1):
                row = t.data[at:at + width]
                mass = max(n.mass for n in row)
                worst = min(worst, max(abs(n.grad) for n in row) / mass) if mass > 0 else worst
        return outputs, worst

    def put(self, name, inputs, options=None, want=None, **expected):
        """A case of given numbers; `expected` are those of the contract's tables, to ten digits."""
        options = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in (options or {}).items()}
        outputs, _ = self.evaluate(inputs, options)
        for output, digits in expected.items():
            got = outputs[output.replace("grad_", "grad.")]
            stated = nested(digits).data
            assert len(got.data) == len(stated), (name, output)
            for a, b in zip(got.data, stated):
                a = a.v if isinstance(a, Num) else a
                assert abs(a - b) <= 1e-9 * max(1, abs(b)), (self.loss, name, output, a, b)
        return self.add(name, inputs, options, outputs, want)

    def draw(self, name, fill, options=None, want=None, least=0.1):
        """A case of random numbers, drawn again until no row of a gradient is mostly rounding errors."""
        options = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in (options or {}).items()}
        for attempt in range(2000):
            inputs = fill(Draw(f"{self.loss} {name} {attempt}"))
            outputs, worst = self.evaluate(inputs, options)
            if worst >= least:
                return self.add(name, inputs, options, outputs, want)
        raise AssertionError((self.loss, name))

    def add(self, name, inputs, options, outputs, want):
        assert name not in self.names, name
        self.names.add(name)
        chosen = want or list(outputs)
        case = {"case": name, "loss": self.loss,
                "inputs": {k: {"dtype": t.dtype, **t.json()} for k, t in inputs.items()},
                "options": options,
                "outputs": {k: outputs[k].json() for k in chosen},
                "exact": True}
        z = self.scale(inputs, options)
        if z is not None:
            case["scale"] = z
        self.lines.append(json.dumps(case, separators=(",", ":"), allow_nan=False))
        return outputs

    def finish(self):
        path = pathlib.Path(__file__).with_name(self.loss + ".jsonl")
        path.write_text("".join(line + "\n" for line in self.lines), encoding="ascii")
        print(f"{self.loss}: {len(self.lines)} cases, {path.stat().st_size} bytes")
