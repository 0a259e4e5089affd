#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of mask_tokens with selection=diffusion: the contract's random numbers in plain Python."""
import json
import pathlib
import random
import struct

WORD, G = 2**64 - 1, 0x9E3779B97F4A7C15
LINES = []


def mix(z):
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & WORD
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def unit(z):
    return (z >> 11) * 2.0**-53


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def row(ids, free, words, b, o):
    """One row: masked tokens, labels, probability."""
    stream = mix(o.get("seed", 0) + (o.get("row_offset", 0) + b + 1) * G & WORD)
    low = o.get("diffusion_eps", 1e-3)
    p = (1 - low) * unit(mix(stream)) + low
    first = {}
    for t in range(len(ids)):
        if free[t]:
            first.setdefault(words[t], t)
    masked, labels = list(ids), [o.get("ignore_index", -100)] * len(ids)
    for t in range(len(ids)):
        if free[t] and unit(mix(stream + (3 * first[words[t]] + 1) * G & WORD)) < p:
            masked[t], labels[t] = o["mask_token_id"], ids[t]
    return masked, labels, p


def put(name, ids, o, special=None, attention=None, words=None, itype="i64", want=None):
    width = len(ids[0])
    out = {"masked_ids": [], "labels": [], "mask_prob": []}
    for b, line in enumerate(ids):
        free = [x not in o.get("special_ids", []) for x in line]
        free = [f and not (special and special[b][t]) and not (attention and not attention[b][t])
                and not (words and words[b][t] == -1) for t, f in enumerate(free)]
        masked, labels, p = row(line, free, words[b] if words else list(range(width)), b, o)
        out["masked_ids"] += masked
        out["labels"] += labels
        out["mask_prob"].append(f32(p))
    shape = [len(ids), width]
    flat = lambda rows, dtype: {"dtype": dtype, "shape": shape, "data": [int(x) for r in rows for x in r]}
    inputs = {"input_ids": flat(ids, itype)}
    for key, rows, dtype in (("special_mask", special, "u8"), ("attention_mask", attention, "u8"), ("word_ids", words, "i64")):
        if rows:
            inputs[key] = flat(rows, dtype)
    text = lambda v: ",".join(map(str, v)) if isinstance(v, list) else str(v)
    outputs = {k: {"shape": shape if k != "mask_prob" else [len(ids)], "data": v} for k, v in out.items()}
    LINES.append(json.dumps({"case": name, "loss": "mask_tokens", "inputs": inputs,
                             "options": {"selection": "diffusion", **{k: text(v) for k, v in o.items()}},
                             "outputs": {k: outputs[k] for k in want or outputs}, "exact": True},
                            separators=(",", ":")))
    return out


CHECK = [[101, 7592, 1010, 2088, 999, 2003, 2023, 102, 0, 0], [101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 102]]
got = put("check", CHECK, {"mask_token_id": 103, "seed": 42, "special_ids": [101, 102, 0]})
assert got["masked_ids"] == [101, 103, 103, 2088, 103, 2003, 103, 102, 0, 0,
                             101, 1996, 4248, 103, 4419, 14523, 2058, 1996, 13971, 102]
assert all(abs(a - b) < 1e-7 for a, b in zip(got["mask_prob"], [0.6980386053, 0.4166393049]))
draw = random.Random("diffusion")
for k in range(12):
    rows, width = draw.randrange(1, 6), draw.choice((1, 7, 16, 40))
    ids = [[draw.randrange(5, 1000) for _ in range(width)] for _ in range(rows)]
    o = {"mask_token_id": 4, "seed": draw.randrange(2**64), "row_offset": draw.choice((0, 7, 2**40))}
    if k % 3 == 1:
        o["ignore_index"] = -1
    some = [[draw.random() < 0.2 for _ in range(width)] for _ in range(rows)]
    words = [[draw.randrange(-1, 6) for _ in range(width)] for _ in range(rows)]
    put(f"draw/{k}", ids, o, some if k % 2 else None, [[not x for x in r] for r in some] if k % 4 == 0 else None,
        words if k % 4 == 3 else None, "i32" if k % 5 == 2 else "i64")
for low in (0, 0.25, 0.9, 1):
    put(f"eps/{low}", CHECK, {"mask_token_id": 103, "seed": 1, "diffusion_eps": low})
put("want/mask_prob", CHECK, {"mask_token_id": 103, "seed": 3}, want=("mask_prob",))
put("want/labels", CHECK, {"mask_token_id": 103, "seed": 3}, want=("labels",))
put("all-special", [[0, 0, 0]], {"mask_token_id": 103, "special_ids": [0]})
path = pathlib.Path(__file__).with_name("diffusion.jsonl")
path.write_text("".join(line + "\n" for line in LINES), encoding="ascii")
print(f"diffusion: {len(LINES)} cases, {path.stat().st_size} bytes")
