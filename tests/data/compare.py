#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Set lossd's replies for the stored batch beside PyTorch's numbers.

    compare.py json-part BATCH ROWS              print the first rows of the batch as a JSON request
    compare.py show REPLY EXPECTED               a safetensors reply, beside EXPECTED
    compare.py show-json REPLY BATCH ROWS        the reply to json-part's request

BATCH is NAME.safetensors, EXPECTED the NAME.pytorch.safetensors beside it; train.py makes both.
The standard library is enough. Exit status: 0 when all numbers agree, 1 when one does not, 2 when a
file or a command is not understood.
"""

import json
import math
import struct
import sys

IGNORE = -100
ULP = 2.0**-23  # of an f32 in [1,2): the distance of neighbours relative to their size
FORMATS = {"F32": "f", "F64": "d", "I64": "q"}


def read_safetensors(path):
    """{name: (shape, values as one flat tuple)} of a file with F32, F64 and I64 tensors."""
    with open(path, "rb") as f:
        body = f.read()
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or length > len(body) - 8:
        raise ValueError(f"{path}: the header does not fit into the file")
    header, data = json.loads(body[8 : 8 + length]), body[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        count, code = math.prod(entry["shape"]), FORMATS[entry["dtype"]]
        if not 0 <= begin <= end <= len(data) or end - begin != count * struct.calcsize(f"<{code}"):
            raise ValueError(f"{path}: {name} is not where its shape needs it")
        tensors[name] = entry["shape"], struct.unpack(f"<{count}{code}", data[begin:end])
    return tensors


def shortest(value):
    """The number of fewest digits that reads back to the f32 value; 9 are always enough."""
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next(c for c in candidates if struct.unpack("<f", struct.pack("<f", c))[0] == value)


def print_json_part(batch, rows):
    (_, width), logits = batch["logits"]
    values = [shortest(v) for v in logits[: rows * width]]
    print(json.dumps({
        "inputs": {"logits": [values[i * width : (i + 1) * width] for i in range(rows)],
                   "targets": batch["targets"][1][:rows]},
        "options": {"reduction": "sum"},
        "outputs": ["loss", "grad.logits"]}))


def perplexity(loss):
    return math.inf if loss > 709 else math.exp(loss)  # beyond that math.exp raises


def show(loss, gradient, expected_loss, expected_gradient, width, items, loss64=None):
    """Print both sides as a table; true if they agree. The loss is a sum over items, or their mean.

    gradient and expected_gradient are rows of width numbers, flat.
    """
    def row(name, ours, theirs):
        print(f"{name:<16}{ours:>18.9g}{theirs:>18.9g}{ours - theirs:>12.1e}")

    print(f"{'':<16}{'lossd':>18}{'PyTorch':>18}{'difference':>12}")
    row("loss", loss, expected_loss)
    if loss64 is not None:
        row("loss (float64)", loss, loss64)
    row("perplexity", perplexity(loss / items), perplexity(expected_loss / items))
    by_size = sorted(range(len(expected_gradient)), key=lambda i: -abs(expected_gradient[i]))
    largest = abs(expected_gradient[by_size[0]])
    # The largest, where a target was improbable, and some on the way down to the smallest.
    for i in [*by_size[:2], *(by_size[len(by_size) * k // 4] for k in range(1, 4))]:
        row(f"grad[{i // width},{i % width}]", gradient[i], expected_gradient[i])

    # A row's loss is a difference of numbers of the logits' size, each rounded to f32: the error is
    # some 1e-7 of that size. Sums over rows may be taken in any order.
    loss_bound = 2e-6 * (1 + abs(expected_loss))

    # A gradient entry is f*p, or f*(p - 1) at the target. The difference p - 1 has the error of a
    # number near 1: hence the part with max|g|, which is about f. The two ulp are the roundings of
    # f and of the product.
    def gradient_bound(expected):
        return 1e-6 * largest + 2 * ULP * abs(expected)

    pairs = list(zip(gradient, expected_gradient))
    differences = [abs(a - b) for a, b in pairs]
    # "not <=" instead of ">": a NaN must not pass.
    wrong = [i for i, (_, b) in enumerate(pairs) if not differences[i] <= gradient_bound(b)]
    worst = max(range(len(pairs)), key=lambda i: (math.isnan(differences[i]), differences[i]))
    loss_agrees = abs(loss - expected_loss) <= loss_bound
    print(f"gradient: {len(pairs)} entries, largest difference {differences[worst]:.1e}"
          f" at [{worst // width},{worst % width}], largest entry {largest:.1e}")
    print(f"loss {'agrees' if loss_agrees else 'DIFFERS'} within {loss_bound:.1e}; gradient "
          + (f"DIFFERS in {len(wrong)} entries, first [{wrong[0] // width},{wrong[0] % width}]"
             if wrong else f"agrees within {gradient_bound(0):.1e} + 2 ulp"))
    return loss_agrees and not wrong


def show_safetensors(reply, expected):
    shape, gradient = reply["grad.logits"]
    expected_shape, expected_gradient = expected["grad.logits"]
    if shape != expected_shape or reply["loss"][0] != []:
        raise ValueError(f"grad.logits has shape {shape}, loss {reply['loss'][0]};"
                         f" expected are {expected_shape} and []")
    return show(reply["loss"][1][0], gradient, expected["loss"][1][0], expected_gradient,
                shape[1], 1, expected["loss_f64"][1][0])


def show_json(reply, batch, expected, rows):
    """PyTorch's numbers for the first rows follow from those for all: nll is per row, and the
    gradient of a sum is that of the mean times the number of counted rows.
    """
    (_, width), all_gradients = expected["grad.logits"]
    counted = sum(t != IGNORE for t in batch["targets"][1])
    got = reply["outputs"]["grad.logits"]
    if [len(r) for r in got] != [width] * rows:
        raise ValueError(f"grad.logits: expected {rows} rows of {width} numbers")
    return show(reply["outputs"]["loss"], [v for r in got for v in r],
                math.fsum(expected["nll"][1][:rows]),
                [g * counted for g in all_gradients[: rows * width]],
                width, sum(t != IGNORE for t in batch["targets"][1][:rows]))


def main(command=None, *arguments):
    if command == "json-part" and len(arguments) == 2:
        print_json_part(read_safetensors(arguments[0]), int(arguments[1]))
    elif command == "show" and len(arguments) == 2:
        return 0 if show_safetensors(*map(read_safetensors, arguments)) else 1
    elif command == "show-json" and len(arguments) == 3:
        reply, batch, rows = arguments
        with open(reply, encoding="utf-8") as f:
            values = json.load(f)
        expected = batch.removesuffix(".safetensors") + ".pytorch.safetensors"
        return 0 if show_json(values, read_safetensors(batch), read_safetensors(expected),
                              int(rows)) else 1
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"compare.py: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
