# SPDX-License-Identifier: MIT
"""What the generators of golden cases share: numbers that every float type holds, and the writer.

A case is one JSON object on one line. Its inputs of type "float" are evaluated by the test as f64,
f32, f16 and bf16, so each of their values must be the same number in all four.
"""
import json
import math
import random

import torch

torch.set_num_threads(1)

F64 = torch.float64
NAN = math.nan
INF = math.inf
EXPLICIT = {
    "i64": torch.int64,
    "i32": torch.int32,
    "bool": torch.bool,
    "u8": torch.uint8,
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}


def short(value):
    """The nearest number of 8 significant bits; 0 for what is below 2^-10."""
    if value == 0 or not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    value = math.ldexp(round(mantissa * 256) / 256, exponent)
    return value if abs(value) >= 2**-10 else 0.0


def is_short(value):
    if not math.isfinite(value) or value == 0:
        return True
    if not 2**-10 <= abs(value) <= 2**7:
        return False
    one = torch.tensor(value, dtype=F64)
    return all(one.to(t).to(F64).item() == value for t in (torch.float16, torch.bfloat16))


class Draw:
    """Random numbers that depend on the case's name alone, so that cases do not move each other."""

    def __init__(self, name):
        self.random = random.Random(name)

    def normal(self, shape, spread=1.5):
        count = math.prod(shape)
        data = [short(self.random.gauss(0, spread)) for _ in range(count)]
        return torch.tensor(data, dtype=F64).reshape(shape)

    def between(self, shape, low, high):
        data = [short(self.random.uniform(low, high)) for _ in range(math.prod(shape))]
        return torch.tensor(data, dtype=F64).reshape(shape)

    def integers(self, shape, low, high):
        data = [self.random.randrange(low, high) for _ in range(math.prod(shape))]
        return torch.tensor(data, dtype=torch.int64).reshape(shape)

    def flags(self, shape, share=0.7):
        data = [self.random.random() < share for _ in range(math.prod(shape))]
        return torch.tensor(data, dtype=torch.bool).reshape(shape)

    def shares(self, rows, columns):
        """Rows of multiples of 1/64 that add up to exactly 1."""
        out = torch.zeros(rows, columns, dtype=F64)
        for i in range(rows):
            for _ in range(64):
                out[i, min(int(self.random.expovariate(4.0 / columns)), columns - 1)] += 1 / 64
            order = list(range(columns))
            self.random.shuffle(order)
            out[i] = out[i][order]
        return out


def number(value):
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 2**31 and math.copysign(1, value) > 0:
        return int(value)
    return float(value)


def array(tensor):
    return {"shape": list(tensor.shape), "data": [number(v) for v in tensor.reshape(-1).tolist()]}


class Inputs:
    """The named inputs of a case, each with its type as the file states it."""

    def __init__(self):
        self.tensors = {}
        self.dtypes = {}

    def put(self, name, tensor, dtype="float"):
        if dtype == "float":
            tensor = tensor.to(F64)
            assert all(is_short(v) for v in tensor.reshape(-1).tolist()), name
        else:
            kept = tensor.to(EXPLICIT[dtype])
            assert torch.equal(kept.to(tensor.dtype), tensor), (name, dtype)
            tensor = kept
        self.tensors[name] = tensor
        self.dtypes[name] = dtype

    def get(self, name):
        return self.tensors.get(name)

    def as_json(self):
        out = {}
        for name, tensor in self.tensors.items():
            out[name] = {"dtype": self.dtypes[name], **array(tensor)}
        return out


class Book:
    """Collects the cases of one loss and writes them.

    A case's scale is the Z of the contract's tolerances: one for every row of class scores, as a
    tensor; one number where all rows share it; None for element-wise losses. Its terms are, for each
    element of the gradients, the largest one that cancels in it.
    """

    def __init__(self, loss):
        self.loss = loss
        self.lines = []
        self.names = set()

    def add(self, name, inputs, options, outputs, scale=None, terms=None):
        assert name not in self.names, name
        self.names.add(name)
        case = {
            "case": name,
            "loss": self.loss,
            "inputs": inputs.as_json(),
            "options": {key: str(text) for key, text in options.items()},
            "outputs": {key: array(value) for key, value in outputs.items()},
            "exact": True,
        }
        if isinstance(scale, (int, float)):
            case["scale"] = number(scale)
        elif scale is not None:
            case["scale"] = [number(v) for v in scale.tolist()]
        if terms is not None:
            case["terms"] = [number(v) for v in terms.reshape(-1).tolist()]
        self.lines.append(json.dumps(case, separators=(",", ":"), allow_nan=False))

    def write(self, path):
        with open(path, "w", encoding="ascii") as out:
            for line in self.lines:
                out.write(line + "\n")


class Sequences:
    """The positions of sequences: rows of [B,T], or one after another, [P], with offsets."""

    def __init__(self, inputs, shape):
        offsets = inputs.get("offsets")
        if offsets is None:
            self.rows = [[(b, t) for t in range(shape[1])] for b in range(shape[0])]
        else:
            ends = offsets.tolist()
            assert ends[0] == 0 and ends[-1] == shape[0] and ends == sorted(ends)
            self.rows = [[(i,) for i in range(a, b)] for a, b in zip(ends, ends[1:])]


def same(got, expected, tolerance=1e-12):
    """Equal shapes; equal values, NaN and infinities included, to tolerance * (1 + |expected|)."""
    if tuple(got.shape) != tuple(expected.shape):
        return False
    return torch.allclose(got.to(F64), expected.to(F64), rtol=tolerance, atol=tolerance,
                          equal_nan=True)


def stated(got, digits, what):
    """The numbers of the contract's tables, printed there to ten digits."""
    expected = torch.tensor(digits, dtype=F64)
    assert got.shape == expected.shape, what
    worst = (got - expected).abs().max().item()
    assert worst <= 1e-9, (what, worst)
