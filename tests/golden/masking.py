#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of mask_tokens: the contract's random numbers and selection in plain Python.

All numbers are integers and the same in every build, so the test compares them bit by bit. A
probability is compared with a number of 53 bits: both are exact in a Python float.
"""
import math
import os
import random

import torch

from oracle import Book, Inputs

BOOK = Book("mask_tokens")
WORD = 2**64 - 1
G = 0x9E3779B97F4A7C15


def mix(z):
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & WORD
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def check_raw():
    """The published first numbers of SplitMix64 from the seed 1234567."""
    got = [mix(1234567 + k * G & WORD) for k in (1, 2, 3)]
    assert got == [6457827717110365317, 3203168211198807973, 9817491932198370423]


class Row:
    """The random numbers of row b."""

    def __init__(self, seed, row_offset, b):
        self.state = mix(seed + (row_offset + b + 1) * G & WORD)

    def raw(self, t, j):
        return mix(self.state + (3 * t + j + 1) * G & WORD)

    def unit(self, t, j):
        return (self.raw(t, j) >> 11) * 2.0**-53


def words_of(eligible, word_ids):
    """Lists of positions; each begins with its first eligible position."""
    if word_ids is None:
        return [[t] for t in eligible]
    words = {}
    for t in eligible:
        words.setdefault(word_ids[t], []).append(t)
    return list(words.values())


def select(row, words, eligible, o):
    p = float(o.get("mlm_probability", "0.15"))
    if o.get("selection", "bernoulli") == "bernoulli":
        return [t for word in words if row.unit(word[0], 0) < p for t in word]
    assert o["selection"] == "fixed_count"
    count = len(eligible)
    limit = max(1, math.floor(p * count + 0.5)) if count else 0
    if "max_predictions" in o:
        limit = min(limit, int(o["max_predictions"]))
    taken = []
    for word in sorted(words, key=lambda word: (row.raw(word[0], 0), word[0])):
        if len(taken) + len(word) <= limit:
            taken += word
    return taken


def mask_row(row, ids, excluded, word_ids, o):
    special = [int(text) for text in o["special_ids"].split(",")] if o.get("special_ids") else []
    eligible = [t for t in range(len(ids)) if not excluded[t] and ids[t] not in special
                and (word_ids is None or word_ids[t] != -1)]
    chosen = select(row, words_of(eligible, word_ids), eligible, o)
    masked, labels = list(ids), [int(o.get("ignore_index", "-100"))] * len(ids)
    keep = float(o.get("mask_replace_prob", "0.8"))
    swap = float(o.get("random_replace_prob", "0.1"))
    low = int(o.get("random_low", "0"))
    assert swap == 0 or "random_high" in o
    for t in chosen:
        v = row.unit(t, 1)
        labels[t] = ids[t]
        if v < keep:
            masked[t] = int(o["mask_token_id"])
        elif v < keep + swap:
            masked[t] = low + (row.raw(t, 2) * (int(o["random_high"]) - low) >> 64)
    return masked, labels


def given(name, ids, options, dtype="i64", special=None, attention=None, words=None,
          kinds=("bool", "bool"), columns=None):
    """A case; special_mask excludes where it is not 0, attention_mask where it is."""
    o = {k: str(v) for k, v in options.items()}
    assert "mask_token_id" in o
    shape = (len(ids), len(ids[0]) if ids else columns)
    inputs = Inputs()

    def put(key, table, kind):
        inputs.put(key, torch.tensor(table, dtype=torch.int64).reshape(shape), kind)

    put("input_ids", ids, dtype)
    if special is not None:
        put("special_mask", special, kinds[0])
    if attention is not None:
        put("attention_mask", attention, kinds[1])
    if words is not None:
        put("word_ids", words, "i32" if dtype == "i64" else "i64")
    masked, labels = [], []
    for b, row_ids in enumerate(ids):
        excluded = [False] * len(row_ids)
        if special is not None:
            excluded = [e or f != 0 for e, f in zip(excluded, special[b])]
        if attention is not None:
            excluded = [e or f == 0 for e, f in zip(excluded, attention[b])]
        row = Row(int(o.get("seed", "0")), int(o.get("row_offset", "0")), b)
        one = mask_row(row, row_ids, excluded, words[b] if words is not None else None, o)
        masked.append(one[0])
        labels.append(one[1])
    if dtype == "i32":
        assert all(-(2**31) <= v < 2**31 for row in masked + labels for v in row)
    BOOK.add(name, inputs, o, {
        "masked_ids": torch.tensor(masked, dtype=torch.int64).reshape(shape),
        "labels": torch.tensor(labels, dtype=torch.int64).reshape(shape),
    })
    return masked, labels


def text(name, rows, columns, high=30522):
    """Ids of a made up text, none of them below 1000."""
    draw = random.Random("mask_tokens " + name)
    return [[draw.randrange(1000, high) for _ in range(columns)] for _ in range(rows)]


def flags(name, rows, columns, share):
    draw = random.Random("mask_tokens flags " + name)
    return [[int(draw.random() < share) for _ in range(columns)] for _ in range(rows)]


def words(name, rows, columns, none=0.1):
    """Words of one to four tokens, some positions of no word."""
    draw = random.Random("mask_tokens words " + name)
    out = []
    for _ in range(rows):
        row, word = [], 0
        while len(row) < columns:
            if draw.random() < none:
                row.append(-1)
            else:
                row += [word] * draw.randrange(1, 5)
                word += 1
        out.append(row[:columns])
    return out


BERT = {"mask_token_id": 103, "random_high": 30522}


def build(name, rows, columns, options=None, dtype="i64", **others):
    return given(name, text(name, rows, columns), BERT | (options or {}), dtype, columns=columns,
                 **others)


def checks():
    check_raw()
    ids = [[101, 7592, 1010, 2088, 999, 2003, 2023, 102, 0, 0],
           [101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 102]]
    special = [[int(v in (101, 102, 0)) for v in row] for row in ids]
    both = {"seed": 42, "mlm_probability": "0.5", **BERT}
    n = -100
    first = [101, 103, 103, 2088, 103, 2003, 2023, 102, 0, 0]
    expected = ([first, [101, 1996, 4248, 103, 4419, 14523, 2058, 1996, 13971, 102]],
                [[n, 7592, 1010, n, 999, n, n, n, n, n], [n, n, n, 2829, n, n, n, n, n, n]])
    assert given("check/mask", ids, both, special=special) == expected
    assert given("check/ids", ids, both | {"special_ids": "101,102,0"}, "i32") == expected
    masked, _ = given("check/fixed-count", ids, both | {"selection": "fixed_count"},
                      special=special)
    assert masked == [first, [101, 1996, 4248, 103, 103, 103, 103, 1996, 13971, 102]]
    units = [[-1, 0, 1, 1, 2, 3, 3, -1, -1, -1], [-1, 0, 1, 1, 2, 3, 3, 4, 4, -1]]
    masked, _ = given("check/words", ids, both, special=special, words=units)
    assert masked == [[101, 103, 103, 103, 103, 2003, 2023, 102, 0, 0], ids[1]]


def main():
    checks()
    for dtype in ("i64", "i32"):
        build(f"defaults/{dtype}", 3, 24, dtype=dtype)
        build(f"defaults/fixed-count-{dtype}", 3, 24, {"selection": "fixed_count"}, dtype)
        build(f"words/{dtype}", 3, 24, {"mlm_probability": "0.4", "seed": 5}, dtype,
              words=words(f"plain {dtype}", 3, 24))
        build(f"words/fixed-count-{dtype}", 3, 24,
              {"mlm_probability": "0.3", "selection": "fixed_count", "seed": 6}, dtype,
              words=words(f"fixed {dtype}", 3, 24))
    for p in ("0", "0.01", "0.15", "0.5", "0.9", "1"):
        for selection in ("bernoulli", "fixed_count"):
            options = {"mlm_probability": p, "selection": selection, "seed": 77}
            build(f"probability/{p}-{selection}", 3, 12, options)
            build(f"probability/{p}-{selection}-words", 3, 12, options,
                  words=words(f"{p} {selection}", 3, 12))
    for keep, swap in (("0", "0"), ("1", "0"), ("0", "1"), ("0.5", "0.5"), ("0", "0.5"),
                       ("0.25", "0.25"), ("0.8", "0.2")):
        build(f"replace/{keep}-{swap}", 2, 20,
              {"mask_replace_prob": keep, "random_replace_prob": swap, "mlm_probability": "0.7",
               "seed": 9})
    given("replace/no-range", text("no range", 2, 12),
          {"mask_token_id": 4, "random_replace_prob": "0", "mlm_probability": "0.6"})
    # The random id is the high half of a product of 128 bits, whatever the range.
    for low, high in (("0", "1"), ("1000", "1001"), ("1000", "30522"), ("0", str(2**31)),
                      ("0", str(2**40)), (str(2**40), str(2**41 + 12345)), ("0", str(2**52)),
                      ("0", str(2**62)), (str(2**62), str(2**63 - 1))):
        build(f"range/{low}-{high}", 2, 12,
              {"mask_replace_prob": "0", "random_replace_prob": "1", "mlm_probability": "0.8",
               "random_low": low, "random_high": high, "seed": 3})
    build("range/i32", 2, 12, {"mask_replace_prob": "0", "random_replace_prob": "1",
                               "mlm_probability": "1", "random_low": "1000",
                               "random_high": str(2**31 - 1)}, "i32")
    for limit in (1, 2, 3, 5, 100):
        options = {"selection": "fixed_count", "mlm_probability": "0.5", "max_predictions": limit,
                   "seed": 12}
        build(f"limit/{limit}", 3, 14, options)
        build(f"limit/{limit}-words", 3, 14, options, words=words(f"limit {limit}", 3, 14))
    for seed in ("0", "1", "42", str(2**32), str(2**63), str(2**64 - 1)):
        build(f"seed/{seed}", 2, 16, {"seed": seed, "mlm_probability": "0.5"})
    for offset in ("0", "1", "1000000", str(2**63), str(2**64 - 2), str(2**64 - 1)):
        build(f"row-offset/{offset}", 3, 16, {"row_offset": offset, "mlm_probability": "0.5"})
    # The second half of a batch, sent alone with its place, is masked as it was in the whole.
    ids = text("halves", 4, 18)
    options = BERT | {"seed": 21, "mlm_probability": "0.5"}
    whole = given("row-offset/whole", ids, options)
    half = given("row-offset/second-half", ids[2:], options | {"row_offset": 2})
    assert (whole[0][2:], whole[1][2:]) == half
    short = given("row-offset/shorter", [row[:7] for row in ids], options)
    assert short == tuple([row[:7] for row in part] for part in whole)
    for value in ("-100", "0", "-1", "2000"):
        build(f"ignore-index/{value}", 2, 12, {"ignore_index": value, "mlm_probability": "0.5"})

    half = {"mlm_probability": "0.5", "seed": 31}
    fixed = half | {"selection": "fixed_count"}
    for name, options in (("bernoulli", half), ("fixed-count", fixed)):
        for kind in ("bool", "u8"):
            build(f"special/mask-{name}-{kind}", 3, 14, options, kinds=(kind, kind),
                  special=flags(f"special {name}", 3, 14, 0.3))
            build(f"special/attention-{name}-{kind}", 3, 14, options, kinds=(kind, kind),
                  attention=flags(f"attention {name}", 3, 14, 0.7))
        build(f"special/all-{name}", 3, 20, options, "i64", kinds=("bool", "u8"),
              special=flags(f"all {name}", 3, 20, 0.2),
              attention=flags(f"all attention {name}", 3, 20, 0.8),
              words=words(f"all {name}", 3, 20))
        ids = text(f"ids {name}", 3, 12, 1006)
        given(f"special/ids-{name}", ids, BERT | options | {"special_ids": "1000,1005,7"})
        given(f"special/one-id-{name}", ids, BERT | options | {"special_ids": "1003"}, "i32")
        given(f"special/ids-words-{name}", ids, BERT | options | {"special_ids": "1000,1001"},
              words=words(f"ids {name}", 3, 12), attention=flags(f"ids {name}", 3, 12, 0.8))
        # Equal ids are one word wherever they stand; a word's draw is that of its first eligible
        # token, which special tokens and padding move.
        given(f"words/apart-{name}", text(f"apart {name}", 4, 10), BERT | options,
              words=[[0, 1, 0, 1, 0, 1, 2, 2, 0, -1], [5, 5, 3, 3, 5, 5, 3, -1, 5, 3],
                     [7, -1, 7, -1, 7, -1, 7, -1, 7, -1], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]])
        given(f"words/moved-{name}", text(f"moved {name}", 3, 8), BERT | options,
              words=[[0, 0, 0, 1, 1, 2, 2, 2]] * 3,
              special=[[1, 0, 0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1, 0, 0], [0] * 8],
              attention=[[1] * 8, [1] * 7 + [0], [0, 1, 1, 0, 1, 1, 1, 1]])
        given(f"words/one-long-{name}", text(f"long {name}", 2, 9), BERT | options,
              words=[[4] * 9, [4, 4, 4, 4, 4, 4, 4, 4, 1]])
        given(f"words/large-ids-{name}", text(f"large {name}", 2, 6), BERT | options, "i32",
              words=[[2**40, 2**40, 2**40 + 1, 2**62, 2**62, 0], [0, 2**32, 0, 2**32, 1, -1]])
        build(f"empty/no-rows-{name}", 0, 5, options)
        build(f"empty/nothing-eligible-{name}", 2, 5, options, attention=[[0] * 5] * 2)
        build(f"empty/one-row-eligible-{name}", 2, 5, options,
              special=[[1] * 5, [0, 1, 1, 1, 1]])
        build(f"empty/no-words-{name}", 2, 5, options, words=[[-1] * 5] * 2)
        build(f"shape/1x1-{name}", 1, 1, options)
        build(f"shape/12x1-{name}", 12, 1, options)
        build(f"shape/1x150-{name}", 1, 150, options)
        build(f"shape/1x150-words-{name}", 1, 150, options, words=words(f"150 {name}", 1, 150))
        build(f"shape/40x9-{name}", 40, 9, options, "i32")
    given("special/any-not-0", text("any not 0", 2, 8), BERT | {"mlm_probability": "0.7"},
          special=[[0, 255, 2, 0, 0, 1, 0, 128], [0] * 8],
          attention=[[1, 1, 255, 2, 0, 1, 7, 1], [128, 0, 1, 2, 3, 255, 0, 1]], kinds=("u8", "u8"))
    # Rounding of p * E + 1/2: exactly on the half (2.5 and 3.5), and just beside it.
    for p, columns in (("0.25", 10), ("0.5", 7), ("0.15", 10), ("0.35", 10), ("0.05", 9)):
        build(f"count/{p}-{columns}", 3, columns,
              {"mlm_probability": p, "selection": "fixed_count"})
    given("ids/any", [[-5, 2**62, 0, -(2**63), 2**63 - 1, 103]],
          BERT | {"mlm_probability": "0.6", "seed": 8})
    given("ids/mask-token-large", text("large mask", 2, 8),
          {"mask_token_id": 2**40, "random_high": 10, "mlm_probability": "0.6"})

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mask_tokens.jsonl")
    BOOK.write(path)
    print(f"{len(BOOK.lines)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
