#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Cases at the edges of what numbers can say, of all losses: where terms cancel, where an intermediate
leaves the range although inputs and results are in it, where a value is infinite.

Definitions are written as in textbooks and evaluated with 1500 digits, so that nothing in them cancels or
overflows, and gradients are their central differences. `relative` bounds the error of a value relative
to itself, and of a gradient relative to the largest of its row: what the other cases' bounds add to it,
and what they allow of a small value, is not allowed here.
"""
import json
import math
import pathlib
import struct

from mpmath import mp, mpf

mp.dps = 1500
TYPES = {"f64": 1e-12, "f32": 2e-6}
LINES = []
INF, NAN = mpf("inf"), mpf("nan")


def rounded(x, dtype):
    """The number that the type has for x."""
    if x in ("inf", "-inf", "nan"):
        return x
    return struct.unpack("f", struct.pack("f", x))[0] if dtype == "f32" else float(x)


def exact(x):
    return mpf(x) if isinstance(x, str) else mpf(float(x))


def flat(data):
    return [x for part in data for x in flat(part)] if isinstance(data, list) else [data]


def shape(data):
    return [len(data)] + (shape(data[0]) if data else []) if isinstance(data, list) else []


def shaped(numbers, like):
    """Numbers in the nesting of `like`, taken one after another."""
    if isinstance(like, list):
        return [shaped(numbers, part) for part in like]
    return numbers.pop(0)


def word(x):
    if mp.isnan(x):
        return "nan"
    if mp.isinf(x):
        return "inf" if x > 0 else "-inf"
    number = float(mp.nstr(x, 25, min_fixed=1, max_fixed=0))
    return number if math.isfinite(number) else word(mp.sign(x) * INF)


def slopes(loss, tensors, name):
    """d loss / d tensors[name] by central differences."""
    numbers, out = flat(tensors[name]), []
    least = min((abs(x) for x in numbers if x != 0 and mp.isfinite(x)), default=mpf(1))
    for i, x in enumerate(numbers):
        step = (abs(x) or least) * mpf(10) ** -200
        ends = []
        for move in (step, -step):
            moved = numbers[:i] + [x + move] + numbers[i + 1:]
            ends.append(loss({**tensors, name: shaped(moved, tensors[name])}))
        out.append((ends[0] - ends[1]) / (2 * step))
    return out


def case(name, loss, definition, inputs, options=None, grads=(), types=TYPES, relative=None,
         outputs=None, others=None):
    """Inputs that are floats are given in each type; `others` are (data, dtype) pairs. `definition` takes
    them as numbers of 1500 digits; `outputs` are expected as they stand."""
    for dtype in types:
        tensors = {k: shaped([rounded(x, dtype) for x in flat(v)], v) for k, v in inputs.items()}
        sent = {k: {"dtype": dtype, "shape": shape(v), "data": flat(v)} for k, v in tensors.items()}
        for k, (data, kind) in (others or {}).items():
            sent[k] = {"dtype": kind, "shape": shape(data), "data": flat(data)}
        exacts = {k: shaped([exact(x) for x in flat(v)], v) for k, v in tensors.items()}
        expected = {}
        if definition:
            expected["loss"] = {"shape": [], "data": [word(definition(exacts))]}
        for k in grads:
            numbers = [word(x) for x in slopes(definition, exacts, k)]
            expected["grad." + k] = {"shape": shape(exacts[k]), "data": numbers}
        for k, v in (outputs or {}).items():
            expected[k] = {"shape": shape(v), "data": flat(v)}
        LINES.append(json.dumps({
            "case": f"{loss}/{name}/{dtype}", "loss": loss, "inputs": sent,
            "options": {k: str(v) for k, v in (options or {}).items()}, "outputs": expected,
            "relative": relative or TYPES[dtype]}, separators=(",", ":")))


# Vectors.


def dot(x, y):
    return sum(a * b for a, b in zip(x, y))


def unit(v, eps=mpf(1e-8)):
    n = mp.sqrt(dot(v, v))
    return [x / (n if n > eps else eps) for x in v]


def cosine(x, y, eps=mpf(1e-8)):
    return dot(unit(x, eps), unit(y, eps))


def length(x, y):
    return mp.sqrt(sum((a - b) ** 2 for a, b in zip(x, y)))


def log_sum(z):
    return mp.log(sum(mp.exp(x) for x in z))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


FAR = {
    "large": ([[1e200, 0], [3e180, -1e190]], [[1, 1], [2e-3, 1e-3]]),
    "small": ([[1e-200, 3e-201], [1, 2]], [[1e-170, -2e-170], [2e-300, 1e-300]]),
    "both": ([[1e-300, 2e-300]], [[1e300, -4e299]]),
    "beyond": ([[1.5e308, 1.2e308]], [[1, 2]]),
}
WIDE_ONLY = {"f64": 1e-12}


def spoilt_tokens():
    # A token that is NaN makes its document's scores so, and with them the gradient of all its tokens.
    case("nan", "late_interaction", None,
         {"queries": [[[1, 0]], [[0, 1]]], "documents": [[["nan", 1], [1, 0]], [[1, 0], [0, 1]]]},
         {"reduction": "none"}, others={"candidate_mask": ([[1, 1], [0, 1]], "bool")},
         outputs={"loss": ["nan", 0], "grad.documents": [[["nan"] * 2] * 2, [["nan"] * 2, [0, 0]]],
                  "grad.queries": [[["nan", "nan"]], [[0, 0]]]})


def vectors():
    tiny = mpf(1e-305)
    for name, (a, b) in FAR.items():
        def distance(t):
            return mean(1 - cosine(x, y, tiny) for x, y in zip(t["a"], t["b"]))
        case(name, "cosine_similarity", distance, {"a": a, "b": b}, {"cos_eps": "1e-305"}, ("a", "b"),
             WIDE_ONLY)
        signs = [1, -1][:len(a)]

        def signed(t):
            s = [cosine(x, y, tiny) for x, y in zip(t["a"], t["b"])]
            return mean(1 - v if y == 1 else max(v + 1, mpf(0)) for v, y in zip(s, signs))
        case(name, "cosine_embedding", signed, {"a": a, "b": b}, {"cos_eps": "1e-305", "margin": -1},
             ("a", "b"), WIDE_ONLY, others={"target": (signs, "i64")})

        def added(t):
            s = [dot(x, y) / mp.sqrt((dot(x, x) + mpf(1e-12)) * (dot(y, y) + mpf(1e-12)))
                 for x, y in zip(t["a"], t["b"])]
            return mean(1 - v if y == 1 else v + 1 for v, y in zip(s, signs))
        case(f"{name}-added", "cosine_embedding", added, {"a": a, "b": b},
             {"norm": "added", "margin": -1}, ("a", "b"), WIDE_ONLY, others={"target": (signs, "f64")})

        def contrast(t):
            return mean(1 - cosine(x, y, tiny) for x, y in zip(t["a"], t["b"]))
        case(name, "contrastive", contrast, {"a": a, "b": b}, {"cos_eps": "1e-305", "squared": "false"},
             ("a", "b"), WIDE_ONLY, others={"target": ([1] * len(a), "i64")})

        def turned(t):
            s = [[cosine(x, y, tiny) / 2 for y in t["candidates"]] for x in t["anchors"]]
            return mean(log_sum(row) - row[i] for i, row in enumerate(s))
        case(name, "info_nce", turned, {"anchors": a, "candidates": b},
             {"cos_eps": "1e-305", "temperature": 2}, ("anchors", "candidates"), WIDE_ONLY)

        def prototype(t):
            z = [[4 * cosine(x, w, tiny) for w in t["prototypes"]] for x in t["embeddings"]]
            for i, row in enumerate(z):
                row[i] -= 4 * mpf(0.25)
            return mean(log_sum(row) - row[i] for i, row in enumerate(z))
        case(name, "margin_softmax", prototype, {"embeddings": a, "prototypes": b + [[1, -1]]},
             {"cos_eps": "1e-305", "kind": "cosface", "margin": 0.25, "scale": 4},
             ("embeddings", "prototypes"), WIDE_ONLY,
             others={"targets": (list(range(len(a))), "i64")})
        if len(a) == 2:
            def ranked(t):
                s = [2 * cosine(x, y, tiny) for x, y in zip(t["a"], t["b"])]
                return mp.log(1 + mp.exp(s[0] - s[1]))
            case(name, "cosent", ranked, {"a": a, "b": b}, {"cos_eps": "1e-305", "scale": 2},
                 ("a", "b"), WIDE_ONLY, others={"target": ([0, 1], "f64")})
        embeddings = a + b + [[1, 3]]
        labels = [i % 2 for i in range(len(embeddings))]

        def crossed(t):
            h, total, pairs = t["embeddings"], mpf(0), 0
            s = [[cosine(x, y, tiny) / 2 for y in h] for x in h]
            for i in range(len(h)):
                others = [s[i][k] for k in range(len(h)) if labels[k] != labels[i]]
                for p in range(len(h)):
                    if p != i and labels[p] == labels[i]:
                        total += log_sum(others + [s[i][p]]) - s[i][p]
                        pairs += 1
            return total / pairs
        case(name, "nt_xent", crossed, {"embeddings": embeddings},
             {"cos_eps": "1e-305", "temperature": 2}, ("embeddings",), WIDE_ONLY,
             others={"labels": (labels, "i64")})

        def supervised(t):
            h, rows = t["embeddings"], []
            for i, x in enumerate(h):
                s = {k: cosine(x, h[k], tiny) / 2 for k in range(len(h)) if k != i}
                positives = [s[k] for k in s if labels[k] == labels[i]]
                if positives:
                    rows.append(log_sum(s.values()) - mean(positives))
            return mean(rows)
        case(name, "supcon", supervised, {"embeddings": embeddings},
             {"cos_eps": "1e-305", "temperature": 2}, ("embeddings",), WIDE_ONLY,
             others={"labels": (labels, "i64")})

    apart = {
        "l2-large": ([[1e200, 3e199, -1e200], [1e308, 5e307, 0]], [[1e199, 0, 2e200], [-5e307, 1e300, 0]]),
        "l2-small": ([[1e-200, 3e-199, -1e-200], [1, 1, 1]], [[1e-199, 0, 2e-200], [1, 1, 1 + 2 ** -50]]),
        "l2-beside": ([[1e-163, 0, 0]], [[0, 2e-163, 0]]),
    }
    for name, (a, b) in apart.items():
        def far(t):
            return mean(length(x, y) for x, y in zip(t["a"], t["b"]))
        case(name, "contrastive", far, {"a": a, "b": b}, {"distance": "l2", "squared": "false"}, ("a", "b"),
             WIDE_ONLY, others={"target": ([1] * len(a), "i64")})

        if name != "l2-large":
            continue
        near = [[0, 0, 1e100], [1, 2, 3]]

        def triplet(t):
            rows = zip(t["anchor"], t["positive"], t["negative"])
            return mean(max(mpf(0), length(x, p) - length(x, n) + 1) for x, p, n in rows)
        case(name, "triplet", triplet, {"anchor": a, "positive": b, "negative": near},
             {"pairwise_eps": 0}, ("anchor", "positive", "negative"), WIDE_ONLY)
    small = {"anchor": [[1e-200, 0], [0, 0]], "positive": [[0, 3e-200], [1e-250, 0]],
             "negative": [[2e-200, 2e-200], [0, 3e-250]]}

    def scaled(t):
        rows = zip(t["anchor"], t["positive"], t["negative"])
        return mean(length(x, p) - length(x, n) + mpf(1e-199) for x, p, n in rows)
    case("l2-small", "triplet", scaled, small, {"pairwise_eps": 0, "margin": 1e-199},
         ("anchor", "positive", "negative"), WIDE_ONLY)
    for dtype in TYPES:
        case("zeros", "cosine_similarity", None, {"a": [[0, 0]], "b": [[0, 0]]}, {"cos_eps": "1e-200"},
             types=(dtype,), outputs={"loss": 1, "grad.a": [[0, 0]], "grad.b": [[0, 0]]})
        case("zeros", "info_nce", None, {"anchors": [[0, 0]], "candidates": [[0, 0]]},
             {"cos_eps": "5e-324"}, types=(dtype,),
             outputs={"loss": 0, "grad.anchors": [[0, 0]], "grad.candidates": [[0, 0]]})


def margins():
    """Norms that doubles have not, or not with all their digits; a target that is its embedding, where the
    cosine is 1 with and without the norm."""
    def loss(margin, scale, eps):
        def of(t):
            (x,), z = t["embeddings"], []
            for y, w in enumerate(t["prototypes"]):
                c = cosine(x, w, eps)
                turned = c * mp.cos(margin) - mp.sqrt(max(1 - c * c, mpf(0))) * mp.sin(margin)
                z.append(scale * (turned if y == 0 else c))
            return log_sum(z) - z[0]
        return of
    for name, x, scale in (("beyond", 1.2e308, 4), ("least", 3e-322, 4), ("least", 3e-322, 1e-15)):
        case(f"{name}-{scale}", "margin_softmax", loss(mpf(0.5), mpf(scale), mpf("5e-324")),
             {"embeddings": [[x, x, x / 2]], "prototypes": [[1, 1, 1], [1, -1, 0]]},
             {"cos_eps": "5e-324", "scale": scale}, ("embeddings",) if scale < 1 else (), WIDE_ONLY,
             others={"targets": ([0], "i64")})
    v = [0.6, 0.7, 0.8]
    norm = math.sqrt(sum(x * x for x in v))
    for step in (-1, 0, 1):
        eps = norm + step * math.ulp(norm)
        case(f"own{step:+}", "margin_softmax", loss(mpf(0.5), mpf(4), mpf(eps)),
             {"embeddings": [v], "prototypes": [v, [1, -1, 0]]}, {"cos_eps": repr(eps), "scale": 4},
             types=WIDE_ONLY, relative=1e-7, others={"targets": ([0], "i64")})


# Regressions.


def regressions():
    def mse(t):
        return sum((x - y) ** 2 for x, y in zip(t["a"], t["b"]))

    def items(loss, n):
        return lambda t: loss(t) / n

    case("items", "mse", items(mse, mpf(1e10)), {"a": [1e20, 3, -2e20], "b": [0, 0, 1e19]},
         {"num_items": 1e10}, ("a", "b"))
    case("items-wide", "mse", items(mse, mpf(1e100)), {"a": [1e170, 3], "b": [0, 0]},
         {"num_items": 1e100}, ("a",), WIDE_ONLY)
    weights = [mpf(1e30), mpf(2)]
    case("items-weighted", "mse", lambda t: sum(w * (x - y) ** 2 for w, x, y in
                                               zip(weights, t["a"], t["b"])) / mpf(1e30),
         {"a": [1e15, 3], "b": [0, 0]}, {"num_items": 1e30}, types={"f64": 1e-12},
         others={"sample_weight": ([1e30, 2], "f64")})

    def mae(t):
        return mean(abs(x - y) for x, y in zip(t["a"], t["b"]))
    case("mean", "mae", mae, {"a": [1.5e308, 1.5e308, 1], "b": [0, 0, 0]}, {}, ("a",), WIDE_ONLY)
    case("mean-many", "mae", mae, {"a": [1.7e308] * 1200, "b": [0] * 1200}, {}, (), WIDE_ONLY)

    def huber(t):
        d = mpf(1e20)
        rows = [abs(x - y) for x, y in zip(t["a"], t["b"])]
        return sum(r * r / 2 if r <= d else d * (r - d / 2) for r in rows) / mpf(1e12)
    case("items", "huber", huber, {"a": [1e21, 3e19, -5], "b": [0, 0, 0]},
         {"delta": 1e20, "num_items": 1e12}, ("a",), WIDE_ONLY)

    def smooth(t):
        b = mpf(2.0) ** -60
        rows = [abs(x - y) for x, y in zip(t["a"], t["b"])]
        return mean(r * r / 2 / b if r < b else r - b / 2 for r in rows)
    case("mean", "smooth_l1", smooth, {"a": [1.5e308, 1.5e308, 2.0 ** -61], "b": [0, 0, 0]},
         {"beta": 2.0 ** -60}, ("a",), WIDE_ONLY)
    case("infinite", "mse", None, {"a": ["inf", 1], "b": [0, 0]},
         outputs={"loss": "inf", "grad.a": ["inf", 1]})


# Factors of a gradient that are beyond the range of floats, though the gradient is not.


def cross(row, y):
    return log_sum(row) - row[y]


def factors():
    few = mpf(1e-50)
    for n, name in ((few, "few"), (mpf(1e50), "many")):
        # Few: rows that are sure, whose gradients are small. Many: weights that are large.
        x = [[-60, 0, -61], [2, 62, 1]] if n < 1 else [[1, 2, 3], [0.5, 0.25, 2]]
        weight, targets = ([1, 1], [1, 1]) if n < 1 else ([2.0 ** 100, 2.0 ** 101], [0, 1])
        others = {"targets": (targets, "i64"), "sample_weight": (weight, "f64")}

        def classes(t, weight=weight, targets=targets, n=n):
            rows = [cross(row, k) for row, k in zip(t["logits"], targets)]
            return sum(r * mpf(w) for r, w in zip(rows, weight)) / n
        case(f"items-{name}", "cross_entropy", classes, {"logits": x}, {"num_items": float(n)},
             ("logits",), others=others)

        def capped(t, classes=classes):
            return classes({"logits": [[70 * mp.tanh(v / 70) for v in row] for row in t["logits"]]})
        case(f"items-{name}-softcap", "cross_entropy", capped, {"logits": x},
             {"num_items": float(n), "softcap": 70}, ("logits",), others=others, relative=1e-5 if n < 1 else None)
    long = [[(-40 if k != y else 20) - k % 7 for k in range(700)] for y in (0, 3)]

    def rows(t):
        return sum(cross(row, k) for row, k in zip(t["logits"], (0, 3))) / few
    for dtype in ("f64", "f32"):
        got = {}
        tensors = {"logits": [[exact(v) for v in row] for row in long]}
        for row, k in zip(tensors["logits"], (0, 3)):
            least = log_sum(row)
            p = [mp.exp(v - least) for v in row]
            p[k] = -sum(q for i, q in enumerate(p) if i != k)
            got.setdefault("grad.logits", []).append([word(v / few) for v in p])
        case("items-long", "cross_entropy", None, {"logits": long}, {"num_items": 1e-50}, types=(dtype,),
             others={"targets": ([0, 3], "i64")}, relative=TYPES[dtype],
             outputs={"loss": word(rows(tensors)), **got})

    sure = [mp.exp(v) for v in log_softmax([mpf(62), mpf(0), mpf(-3)])]
    case("items", "pointer_generator", None,
         {"vocab_logits": [[[62, 0, -3]]], "attn_logits": [[[150, 0]]], "p_gen_logit": [[0.25]]},
         {"num_items": 1e-50, "reduction": "mean"},
         others={"source_ids": ([[1, 0]], "i64"), "targets": ([[0]], "i64")},
         outputs={"grad.vocab_logits": [[[word(v / few) for v in (-sure[1] - sure[2], sure[1], sure[2])]]]})

    def squares(t):
        return sum((x - y) ** 2 for x, y in zip(t["a"], t["b"])) / few
    small = {"a": [1e-15, 3, -2e-15], "b": [0, 3, 1e-15]}
    case("items-few", "mse", squares, small, {"num_items": 1e-50}, ("a", "b"))
    case("items-few", "mae", None, {"a": [2, 3], "b": [2, 3]}, {"num_items": 1e-50},
         outputs={"loss": 0, "grad.a": [0, 0], "grad.b": [0, 0]})

    def labels_of(t):
        return sum(mp.log(1 + mp.exp(-x)) for x in t["logits"]) / few
    case("items-few", "bce_with_logits", labels_of, {"logits": [60, 65]}, {"num_items": 1e-50}, ("logits",),
         others={"targets": ([1, 1], "f64")}, types=WIDE_ONLY)
    case("items-few", "bce_with_logits", labels_of, {"logits": [60, 65]}, {"num_items": 1e-50}, ("logits",),
         others={"targets": ([1, 1], "f32")}, types=("f32",))

    def many(t):
        return sum(mpf(2.0 ** 120) * (x - y) ** 2 for x, y in zip(t["a"], t["b"])) / mpf(1e45)
    case("items-many", "mse", many, {"a": [3, 1], "b": [0, 0.5]}, {"num_items": 1e45}, ("a", "b"),
         others={"sample_weight": ([2.0 ** 120] * 2, "f64")})

    # Weights beside which the denominator is as far on the other side of 1.
    for name, weight, a in (("large", [2.0 ** 120, 2.0 ** 121], [1000, 3000]),
                            ("small", [2.0 ** -120, 2.0 ** -119], [1e-5, 3e-5])):
        w, x = ([exact(rounded(v, "f32")) for v in data] for data in (weight, a))
        case(f"weights-{name}", "mse", None, {"a": a, "b": [0, 0]}, types=("f32",),
             others={"sample_weight": (weight, "f32")},
             outputs={"grad.a": [word(2 * v * d / sum(w)) for v, d in zip(w, x)]})

    def apart_classes(t):  # of two rows that lie side by side
        return sum(cross([v[k] for v in t["logits"][0]], 1) for k in (0, 1)) / few
    case("items-strided", "cross_entropy", apart_classes, {"logits": [[[-60, 2], [0, 62], [-61, 1]]]},
         {"num_items": 1e-50, "class_dim": 1}, ("logits",), others={"targets": ([[1, 1]], "i64")})

    # A z-loss of 1e40, which is infinite for the leading class alone.
    least = log_sum([mpf(3), mpf(-57)])
    pull = 2 * mpf(1e40) * least * mp.exp(-57 - least)
    case("pull", "cross_entropy", None, {"logits": [[3, -57]]}, {"z_loss": 1e40},
         types=("f32",), others={"targets": ([0], "i64")},
         outputs={"grad.logits": [["inf", word(pull + mp.exp(-57 - least))]]})

    start = [mp.exp(v) for v in log_softmax([mpf(-60), mpf(0), mpf(-61)])]
    up = mpf(1e35)
    case("upstream", "span", None, {"start_logits": [[-60, 0, -61]], "end_logits": [[1, 1, 1]]}, {},
         types=("f32",), others={"start_positions": ([1], "i64"), "end_positions": ([0], "i64"),
                                 "grad_output": (1e35, "f64")},
         outputs={"grad.start_logits": [[word(up * v / 2) for v in (start[0], -start[0] - start[2], start[2])]]})

    def listed(t):
        return topk("truncated", [0, 2], log_softmax(t["student_logits"][0]), t["teacher_logprobs"][0]) / mpf(1e-32)
    case("items-few", "topk_distillation", listed,
         {"student_logits": [[0, -17, -18, -20]], "teacher_logprobs": [[-1e-7, -17.5]]},
         {"num_items": 1e-32, "tail": "truncated"}, ("student_logits",), others={"teacher_ids": ([[0, 2]], "i64")})

    def student(t):
        p, q = ([mp.exp(v) for v in log_softmax(t[k][0])] for k in ("student_logits", "teacher_logits"))
        return divergence("forward_kl", mpf(0), p, q) / few
    case("items", "distillation", student, {"student_logits": [[0, -60, -62]], "teacher_logits": [[0, -61, -59]]},
         {"num_items": 1e-50}, ("student_logits",))

    def ranks(t):
        p, q = ([mp.exp(v) for v in log_softmax(t[k][0])] for k in ("student_logits", "teacher_logits"))
        q = sorted(q + [mpf(0)] * (len(p) - len(q)), reverse=True)
        return sum(abs(a - b) for a, b in zip(sorted(p, reverse=True), q)) / few
    ranked = {"student_logits": [[0, -60, -62]], "teacher_logits": [[0.5, 0.125]]}
    by = slopes(ranks, {k: [[mpf(x) for x in v[0]]] for k, v in ranked.items()}, "student_logits")
    case("items", "uld", None, ranked, {"num_items": 1e-50},
         outputs={"grad.student_logits": [[word(x) for x in by]]})

    steps = {"logits": [[[[-60, 0, -62]]]]}  # one, whose only path is the blank
    by = slopes(lambda t: -log_softmax(t["logits"][0])[1] / few, {"logits": [[mpf(-60), mpf(0), mpf(-62)]]}, "logits")
    case("items", "rnnt", None, steps, {"num_items": 1e-50, "blank": 1},
         others={"targets": ([[]], "i64"), "input_lengths": ([1], "i64"), "target_lengths": ([0], "i64")},
         outputs={"grad.logits": [[[[word(x) for x in by]]]]})

    def contrast(t, tau, n, normalise=True):
        h = [[unit(v) if normalise else v for v in t[k]] for k in ("anchors", "candidates")]
        rows = [[dot(a, c) / tau for c in h[1]] for a in h[0]]
        return sum(cross(row, i) for i, row in enumerate(rows)) / n
    apart = {"anchors": [[1, 0.25], [-1, 0.5]], "candidates": [[1, 0.5], [-1, 0.25]]}
    for dtype, relative in (("f64", 2e-11), ("f32", 1e-5)):  # scores of 50
        case("items", "info_nce", lambda t: contrast(t, mpf(0.03125), few), apart,
             {"num_items": 1e-50, "temperature": 0.03125}, ("anchors", "candidates"), (dtype,), relative)
        case("items-temperature", "info_nce", lambda t: contrast(t, t["temperature"], few),
             {**apart, "temperature": 0.03125}, {"num_items": 1e-50}, ("temperature",), (dtype,), relative)
    big = {"anchors": [[1e25, 2e25], [-1e25, 3e24]], "candidates": [[2e20, 1e20], [-3e20, 1e19]]}
    case("dots-large", "info_nce", lambda t: contrast(t, mpf(1e45), mpf(2), False), big,
         {"temperature": 1e45, "normalize": "false"}, ("anchors", "candidates"))
    case("dots-small", "info_nce", lambda t: contrast(t, mpf(1e-45), mpf(2), False),
         {"anchors": [[1e-25, 2e-25], [-1e-25, 3e-26]], "candidates": [[2e-20, 1e-20], [-3e-20, 1e-21]]},
         {"temperature": 1e-45, "normalize": "false"}, ("anchors", "candidates"))
    case("dots-larger", "info_nce", lambda t: contrast(t, mpf(1e300), mpf(2), False),
         {"anchors": [[1e200, 2e200], [-1e200, 3e199]], "candidates": [[2e100, 1e100], [-3e100, 1e99]]},
         {"temperature": 1e300, "normalize": "false"}, ("anchors", "candidates"), WIDE_ONLY)

    def margin(t):
        rows = []
        for v, k in zip(t["embeddings"], (0, 1)):
            c = [cosine(v, w) for w in t["prototypes"]]
            c[k] -= mpf(0.25)
            rows.append(cross([16 * s for s in c], k))
        return sum(rows) / mpf(1e-48)
    case("items", "margin_softmax", margin, {"embeddings": [[1, 0.125], [-2, 0.5]], "prototypes": [[3, -0.5], [-1, 0.25]]},
         {"num_items": 1e-48, "scale": 16, "kind": "cosface", "margin": 0.25}, ("embeddings", "prototypes"),
         others={"targets": ([0, 1], "i64")})


# An angle that is small, where a margin's slope is large: 1 / sin(angle), times a gradient as small as that.


def angles():
    shift = mpf(0.5)

    def arcface(t, targets):
        rows = []
        for v, k in zip(t["embeddings"], targets):
            c = [cosine(v, w, mpf(1e-40)) for w in t["prototypes"]]
            c[k] = mp.cos(mp.acos(c[k]) + shift)
            rows.append(cross([4 * s for s in c], k))
        return mean(rows)
    close = 1 + 2.0 ** -12
    for name, x, w, targets in (
            ("parallel", [[1, 2], [3, -1], [2, 4 * close]], [[close, 2], [-1, 0.25], [3, -close]], [0, 2, 0]),
            ("parallel-wide", [[1, 0.5, -2] * 7], [[0.5, 0.25, -1] * 6 + [0.5, 0.25, -close], [1, 1, 0.5] * 7], [0]),
            ("parallel-large", [[1e30, 2e30]], [[1e-30, close * 2e-30], [3, 1]], [0])):
        for dtype, relative in (("f64", 1e-11), ("f32", 2e-6)):
            case(name, "margin_softmax", lambda t: arcface(t, targets), {"embeddings": x, "prototypes": w},
                 {"scale": 4, "margin": 0.5, "cos_eps": "1e-40"}, ("embeddings", "prototypes"), (dtype,), relative,
                 others={"targets": (targets, "i64")})


# Labels: the limits at a score of -inf, which is a score like others.


def labels():
    for options, right, far in (({}, -0.25, "inf"), ({"gamma": 0.5, "alpha": "off"}, -1, "inf"),
                                ({"gamma": 0}, -0.25, "inf"), ({"gamma": 1, "alpha": 0}, 0, 0)):
        name = "-".join(f"{k}{v}" for k, v in options.items()) or "default"
        case("minus-infinity-" + name, "sigmoid_focal", None,
             {"logits": ["-inf", "-inf"], "targets": [1, 0]}, {**options, "reduction": "none"},
             outputs={"loss": [far, 0], "grad.logits": [right, 0]})
    case("minus-infinity-targets", "sigmoid_focal", None,
         {"logits": ["-inf", "-inf", "-inf"], "targets": [1, 0, 0.5]}, {"reduction": "none"},
         outputs={"grad.targets": ["inf", 0, "inf"], "grad.logits": [-0.25, 0, -0.0625]})
    case("minus-infinity", "bce_with_logits", None, {"logits": ["-inf", "-inf"], "targets": [1, 0]},
         {"reduction": "none"}, outputs={"loss": ["inf", 0], "grad.logits": [-1, 0]})
    # No token to score: the means over the tokens are empty; what is per byte is a sum.
    for empty, mean_of_none in (("zero", 0), ("nan", "nan")):
        for loss, scored, options in (("sequence_cross_entropy", {"targets": ([[-100, -100]], "i64")}, {}),
                                      ("sliding_window_cross_entropy", {"tokens": ([-100, -100], "i64")}, {"stride": 1})):
            case(f"no-token-{empty}", loss, None, {"logits": [[[0, 1], [1, 0]]]},
                 {"empty_mean": empty, "num_bytes": 3, **options}, others=scored,
                 outputs={"loss": mean_of_none, "accuracy": mean_of_none, "bits_per_token": mean_of_none,
                          "perplexity": 1 if empty == "zero" else "nan", "count": 0, "nll_sum": 0,
                          "bits_per_byte": 0, "byte_perplexity": 1, "grad.logits": [[[0, 0], [0, 0]]]})
    # A long row whose targets are mostly 0: they have no slope, as in kl_div.
    share, wide = 0.5, 130
    case("zeros-among-many", "cross_entropy", None,
         {"logits": [[0] * wide], "targets": [[share, share] + [0] * (wide - 2)]}, {"subtract_entropy": "true"},
         outputs={"grad.targets": [[word(1 + mp.log(mpf(share)) + mp.log(wide))] * 2 + [0] * (wide - 2)]})


# Distillation: distributions that agree, all but agree, or agree on one class.


def log_softmax(z):
    least = log_sum(z)
    return [x - least for x in z]


def xlogy(q, y):
    return mpf(0) if q == 0 else q * y


def divergence(kind, beta, p, q):
    m = [beta * b + (1 - beta) * a for a, b in zip(p, q)]
    if kind == "forward_kl":
        return sum(xlogy(b, mp.log(b / a)) for a, b in zip(p, q) if b)
    if kind == "reverse_kl":
        return sum(xlogy(a, mp.log(a / b)) for a, b in zip(p, q))
    if kind == "tvd":
        return sum(abs(a - b) for a, b in zip(p, q)) / 2
    to_q = sum(xlogy(b, mp.log(b / c)) for b, c in zip(q, m) if b)
    if kind == "skew_forward_kl":
        return to_q
    return beta * to_q + (1 - beta) * sum(xlogy(a, mp.log(a / c)) for a, c in zip(p, m))


KINDS = (("forward_kl", None), ("reverse_kl", None), ("jsd", 0.5), ("jsd", 1e-3), ("jsd", 1 - 2 ** -10), ("skew_forward_kl", 1 - 2 ** -10),
         ("tvd", None), ("skew_forward_kl", 0.5), ("skew_forward_kl", 1e-3))
NEAR = {
    "sure": ([[0, -17, -20]], [[0, -20, -16]]),
    "surer": ([[1, -32, -30, -36]], [[2.5, -31, -33, -29.5]]),
    "student-sure": ([[0, -25, -27]], [[0.5, 1, -0.25]]),
    "teacher-sure": ([[0.5, 1, -0.25]], [[0, -25, -27]]),
    "close": ([[1, 2, -0.5, 3], [0.5, -1, 2, 1]], [[1.0009765625, 2, -0.5, 3.001953125],
                                                   [0.5, -1.03125, 2, 0.96875]]),
    "closer": ([[1, 2, -0.5, 3]], [[1 + 2.0 ** -26, 2, -0.5 - 2.0 ** -25, 3 + 2.0 ** -27]]),
    "close-and-sure": ([[9, -8, -12]], [[9.25, -8, -12.125]]),
    "wide": ([[0, 40, -30, 12.5]], [[25, -10, 30, 12]]),
}


def distillations():
    for name, (x, y) in NEAR.items():
        for kind, beta in KINDS:
            def loss(t):
                rows = zip(t["student_logits"], t["teacher_logits"])
                return mean(divergence(kind, exact(beta or 0), [mp.exp(v) for v in log_softmax(a)],
                                       [mp.exp(v) for v in log_softmax(b)]) for a, b in rows)
            case(f"{name}-{kind}{beta or ''}", "distillation", loss,
                 {"student_logits": x, "teacher_logits": y},
                 {"divergence": kind, **({"beta": beta} if beta else {})}, ("student_logits",),
                 types=WIDE_ONLY if name == "closer" else TYPES, relative=None if name != "wide" else 1e-5)
    for kind, beta in KINDS:
        for dtype in ("f64", "f32", "f16", "bf16"):
            options = {"divergence": kind, **({"beta": beta} if beta else {}), "temperature": 1.5}
            for x in ([[3, -14, 0.5, 100, 7.25]], [[0.25 * (k % 29) for k in range(130)]]):
                zeros = [[0] * len(x[0])]
                case(f"equal-{len(x[0])}-{kind}{beta or ''}", "distillation", None,
                     {"student_logits": x, "teacher_logits": x}, options, types=(dtype,), relative=1e-12,
                     outputs={"loss": 0, "grad.student_logits": zeros})

    def by_probabilities(t):
        p = [mp.exp(v) for v in log_softmax(t["student_logits"][0])]
        return divergence("forward_kl", mpf(0), p, [mpf(1), mpf(0)])
    for given, teacher in (("teacher_probs", [[1, 0]]), ("teacher_logprobs", [[0, "-inf"]])):
        for gap in (17, 40):
            case(f"one-hot-{given}-{gap}", "distillation", by_probabilities,
                 {"student_logits": [[0, -gap]], given: teacher}, {}, ("student_logits",))

    def partial(t):
        q = t["teacher_probs"][0]
        p = [mp.exp(v) for v in log_softmax(t["student_logits"][0])]
        return divergence("forward_kl", mpf(0), p, q)
    case("part-of-the-mass", "distillation", partial,
         {"student_logits": [[0, -17, 1]], "teacher_probs": [[0.5, 0.25, 0.125]]}, {}, ("student_logits",))

    def reverse(t):
        return divergence("reverse_kl", mpf(0), [mp.exp(v) for v in log_softmax(t["student_logits"][0])],
                          t["teacher_probs"][0])
    case("part-of-the-mass-reverse", "distillation", reverse,
         {"student_logits": [[0, -17, 1]], "teacher_probs": [[0.5, 0.25, 0.125]]}, {"divergence": "reverse_kl"},
         ("student_logits",))
    # The row rule: what one side excludes and the other does not is infinite, and has no part in the
    # gradient; +inf and rows of nothing but -inf are NaN.
    y = [[0.5, 1, -1]]
    case("excluded", "distillation", None, {"student_logits": [["-inf", 1, 2]], "teacher_logits": y},
         {"divergence": "mse_logits"}, outputs={"loss": "inf", "grad.student_logits": [[0, 0, 2]]})
    case("excluded-by-both", "distillation", None,
         {"student_logits": [["-inf", 1, 2]], "teacher_logits": [["-inf", 1, -1]]},
         {"divergence": "mse_logits"}, outputs={"loss": 3, "grad.student_logits": [[0, 0, 2]]})
    for where in ("student_logits", "teacher_logits"):
        for bad in (["inf", 1, 2], ["-inf"] * 3, ["nan", 1, 2]):
            for kind in ("mse_logits", "reverse_kl"):
                sides = {"student_logits": y, "teacher_logits": y, where: [bad]}
                case(f"{kind}-{where}-{bad[0]}-{bad[1]}", "distillation", None, sides, {"divergence": kind},
                     outputs={"loss": "nan", "grad.student_logits": [["nan"] * 3]})

    falls = [mpf(0), mpf(0), mpf(0), mp.log(mpf(0.25) / mpf(0.5))]
    case("excluded-by-teacher", "distillation", None,
         {"student_logits": [[0, 0, 0, 0]], "teacher_probs": [[0, 0.25, 0.25, 0.5]]},
         {"divergence": "reverse_kl"},
         outputs={"loss": "inf", "grad.student_logits": [
             [float((r - mean(falls)) / 4) for r in falls]]})


def topk(mode, ids, l, lq):
    q = [mp.exp(v) for v in lq]
    total = sum(q)
    at = [l[i] for i in ids]
    if mode == "renormalize":
        return sum(a * (mp.log(a) - b) for a, b in zip([v / total for v in q], at))
    value = sum(a * (mp.log(a) - b) for a, b in zip(q, at))
    if mode == "conditional":
        here = log_sum(at)
        return sum(a * (mp.log(a) - b + here) for a, b in zip([v / total for v in q], at))
    if mode == "tail" and len(ids) < len(l):
        value += (1 - total) * (mp.log(1 - total) - log_sum([l[i] for i in range(len(l)) if i not in ids]))
    return value


def rankings():
    # NaN is the last of its list, so that it tells nothing of which pairs there are: two, one of each list.
    by = float(1 / (2 * mp.log(2) * (1 + mp.exp(mpf(0.5)))))
    case("nan", "lambda_rank", None, {"scores": [["nan", 1, 2], [0, 1, 0.5]], "labels": [[1, 0, 1], [1, 1, 0]]},
         {"weighting": "none", "k": 2},
         outputs={"loss": "nan", "grad.scores": [["nan"] * 3, [0, -by, by]]})
    # Far back in a long list the weights of the draws underflow: what is there is nothing, also where items that
    # cannot be drawn are all that is left. 2^(n-i) - 1 over 2^n, the first two; those of equal scores in between.
    n = 1200
    weight = [(mpf(2) ** (n - i) - 1) / (mpf(2) ** (n + 1) - 2 - n) for i in range(n)]
    left = [mpf(n - 2 - i) for i in range(n - 2)]  # sums of e^score
    value, chances, by = mpf(0), mpf(0), []
    for w, rest in zip(weight, left):
        value += w * mp.log(rest)
        chances += w / rest
        by.append(word(chances - w))
    case("weightless", "list_mle", None, {"scores": [[0] * (n - 2) + ["-inf"] * 2], "labels": [list(range(n, 0, -1))]},
         {"position_weight": "true", "reduction": "none"}, types=WIDE_ONLY,
         outputs={"loss": [word(value)], "grad.scores": [by + [0, 0]]})
    for scale in ("none", "group", "batch"):  # an answer among its equals, and one that is alone
        for dtype in TYPES:
            r = [rounded(x, dtype) for x in (-0.99, -0.99, -0.99, -1)]
            case(f"equal-{scale}", "group_advantages", None, {"rewards": r},
                 {"baseline": "leave_one_out", "scale": scale, "eps": 1e-12}, types=(dtype,),
                 others={"group_ids": ([1, 1, 1, 2], "i64")}, outputs={"advantages": [0, 0, 0, 0]})


def topk_ends():
    """Where beta leaves one side of a mixture, what the other would be has no part in it; a cell that the
    teacher excludes has none in the gradient of what it makes infinite."""
    p = [mp.exp(v) for v in log_softmax([mpf(1), mpf(0), mpf(-1)])]
    rest = 1 - p[0]
    pull = p[0] * rest * mp.log(p[0])  # p (r - sum p r) of the listed class, whose r is log p; the rest has 0
    forward = [[float(v) for v in (-rest, p[1], p[2])]]
    reverse = [[float(v) for v in (pull, -pull * p[1] / rest, -pull * p[2] / rest)]]
    half = [[(a + b) / 2 for a, b in zip(forward[0], reverse[0])]]
    sides = {"student_logits": [[1, 0, -1]], "teacher_logprobs": [[0]]}
    few = {"student_logits": [[1, "-inf", -1]], "teacher_logprobs": [[-0.7, -0.7]]}
    for kind, beta, value, grad, few_value, few_grad in (
            ("jsd", 0, float(-mp.log(p[0])), forward, "inf", [[0.5, -0.5, 0]]),
            ("mixed", 1, float(-mp.log(p[0])), forward, "inf", [[0.5, -0.5, 0]]),
            ("jsd", 1, "inf", reverse, float(mp.log(2)), [[0, 0, 0]]),
            ("mixed", 0, "inf", reverse, float(mp.log(2)), [[0, 0, 0]]),
            ("mixed", 0.5, "inf", half, "inf", [[0.25, -0.25, 0]])):
        options = {"divergence": kind, "beta": beta}
        case(f"all-of-the-mass-{kind}{beta}", "topk_distillation", None, sides, {"tail": "tail", **options},
             others={"teacher_ids": ([[0]], "i64")}, outputs={"loss": value, "grad.student_logits": grad})
        case(f"excluded-{kind}{beta}", "topk_distillation", None, few, {"tail": "conditional", **options},
             others={"teacher_ids": ([[0, 1]], "i64")},
             outputs={"loss": few_value, "grad.student_logits": few_grad})
    # All classes are listed, with less than all of the mass: there is no cell of the rest.
    for kind, beta in (("reverse_kl", 0), ("jsd", 0.25), ("mixed", 0.25)):
        def covered(t):
            l, lq = log_softmax(t["student_logits"][0]), t["teacher_logprobs"][0]
            p, q = [mp.exp(v) for v in l], [mp.exp(v) for v in lq]
            ways = {name: divergence(name, mpf(beta), p, q) for name in ("forward_kl", "reverse_kl", "jsd")}
            return beta * ways["forward_kl"] + (1 - beta) * ways["reverse_kl"] if kind == "mixed" else ways[kind]
        for name, lq in (("most", [-1.5, -2.5, -1]), ("few", [-3, -4, -2])):
            case(f"all-classes-{name}-{kind}", "topk_distillation", covered,
                 {"student_logits": [[0, -1, 2]], "teacher_logprobs": [lq]},
                 {"tail": "tail", "divergence": kind, "beta": beta}, ("student_logits",),
                 others={"teacher_ids": ([[0, 1, 2]], "i64")})
    q = [1 / (1 + mp.exp(-mpf(2.75))), 1 / (1 + mp.exp(mpf(2.75)))]
    mean = [(1 + q[0]) / 2, q[1] / 2]
    apart = (q[0] * mp.log(q[0] / mean[0]) + q[1] * mp.log(2) - mp.log(mean[0])) / 2
    for kind, value in (("reverse_kl", -mp.log(q[0])), ("jsd", apart)):  # a mask that is no -inf
        case(f"masked-{kind}", "topk_distillation", None,
             {"student_logits": [[1, -30000, -1]], "teacher_logprobs": [[-0.25, -3]]},
             {"tail": "conditional", "divergence": kind}, others={"teacher_ids": ([[0, 1]], "i64")},
             outputs={"loss": float(value), "grad.student_logits": [[0, 0, 0]]})


def masked_distillations():
    """jsd of a class that one side masks, by whatever number."""
    for side in ("student_logits", "teacher_logits"):
        for beta in (2 ** -5, 0.5, 1 - 2 ** -5):
            for mask in (-30, -30000, -1e9, "-inf"):
                row, other = [mask, 0, 1, -0.5], [2, 1, 0, 0.25]
                sides = {"student_logits": row, "teacher_logits": other}
                if side == "teacher_logits":
                    sides = {"student_logits": other, "teacher_logits": row}

                def masked(t):
                    p, q = ([mp.exp(v) for v in log_softmax(t[k][0])] for k in ("student_logits", "teacher_logits"))
                    return divergence("jsd", mpf(beta), p, q)
                grads = ("student_logits",) if side == "teacher_logits" or mask == -30 else ()
                case(f"masked-{side[:7]}-{beta}-{mask}", "distillation", masked,
                     {k: [v] for k, v in sides.items()}, {"divergence": "jsd", "beta": beta}, grads)


def betas_that_round():
    """A beta that is 0 in f32, and a share of the student's that is too small for it."""
    def skewed(beta):
        return lambda t: divergence("skew_forward_kl", mpf(beta), *(
            [mp.exp(v) for v in log_softmax(t[k][0])] for k in ("student_logits", "teacher_logits")))
    case("beta-tiny", "distillation", skewed(1e-50), {"student_logits": [[0, -1e9, 0]], "teacher_logits": [[0, 1, 2]]},
         {"divergence": "skew_forward_kl", "beta": 1e-50})
    case("beta-near-1", "distillation", skewed(0.99999999),
         {"student_logits": [[0, -85.5, 1]], "teacher_logits": [[0, -1e9, 0]]},
         {"divergence": "skew_forward_kl", "beta": 0.99999999}, ("student_logits",))


def topk_distillations():
    rows = {
        "sure": ([[0, -17, -18, -20]], [[0, 2]], [[-1e-7, -17.5]]),
        "surer": ([[0, -41, -43, -50]], [[0, 2]], [[-2e-17, -45]]),
        "only-the-rest": ([[0, -90, -91]], [[0]], [[-0.01]]),
        "only-the-rest-wide": ([[0, -800, -801.5]], [[0]], [[-0.01]]),
        "rest-sure": ([[-20, -21, 3, 2.5]], [[1, 0]], [[-21.5, -22]]),
        "all": ([[0, -1, 2]], [[0, 1, 2]], [[-1.5, -2.5, -1]]),
        "all-sure": ([[0, -18, -21]], [[2, 0, 1]], [[-20, -1e-7, -17]]),
        "close": ([[1, 2, 0.5, 0]], [[1, 0]], [[-0.5303, -1.5302]]),
        "far": ([[1.25, -0.75, -0.5]], [[0, 1]], [[-0.125, -720]]),
        "masked": ([[1.25, -0.75, -0.5]], [[0, 1]], [[-0.125, -30000]]),
    }
    for name, (x, ids, lq) in rows.items():
        for mode in ("renormalize", "truncated", "conditional", "tail"):
            if name == "only-the-rest" and mode != "tail" or name.endswith("wide") and mode != "tail":
                continue

            def loss(t):
                return topk(mode, ids[0], log_softmax(t["student_logits"][0]), t["teacher_logprobs"][0])
            case(f"{name}-{mode}", "topk_distillation", loss,
                 {"student_logits": x, "teacher_logprobs": lq}, {"tail": mode}, ("student_logits",),
                 others={"teacher_ids": (ids, "i64")}, types=WIDE_ONLY if name == "surer" else TYPES,
                 relative=4e-12 if name == "close" and mode == "conditional" else None)


# Weights of 0 beside others: nothing is left of their terms, whatever these hold.


def weightless():
    x, spoiled = [0.5, -1, 0.25], ["nan", 1, "inf"]
    for width in (3, 70):
        more = [-3] * (width - 3)
        p = [mp.exp(v) for v in log_softmax([mpf(v) for v in x + more])]
        slopes_of = [word(2 * v - (2 if k == 1 else 0)) for k, v in enumerate(p)]
        for loss in ("cross_entropy", "masked_lm", "sequence_cross_entropy"):
            def wrap(rows):
                return [rows] if loss == "sequence_cross_entropy" else rows
            case(f"weightless-{width}", loss, None,
                 {"logits": wrap([x + more, spoiled + more]), "class_weight": [0, 2, -1] + [1] * len(more)},
                 {"reduction": "sum"}, others={"targets": (wrap([1, 0]), "i64")},
                 outputs={"loss": word(-2 * mp.log(p[1])), "grad.logits": wrap([slopes_of, [0] * width])})
        # Nothing is asked of the targets themselves, and of the others by their weights: of the second row nothing.
        off = mpf(1) / (width - 1)
        l = log_softmax([mpf(v) for v in x + more])
        slopes_of = [word(2 * off * (v - (k == 1))) for k, v in enumerate(p)]
        for loss in ("cross_entropy", "masked_lm", "sequence_cross_entropy"):
            def wrap(rows):
                return [rows] if loss == "sequence_cross_entropy" else rows
            case(f"weightless-others-{width}", loss, None,
                 {"logits": wrap([x + more, spoiled + more]), "class_weight": [0, 2] + [0] * (width - 2)},
                 {"reduction": "sum", "label_smoothing": 1, "smoothing_mode": "others"},
                 others={"targets": (wrap([0, 1]), "i64")},
                 outputs={"loss": word(-2 * off * l[1]), "grad.logits": wrap([slopes_of, [0] * width])})
    for power, value, slopes_of in ((1, mpf(4.75), [1, -2, 1]), (2, mpf(11.3125), [5, -9.5, 4.5])):
        case(f"weightless-{power}", "multi_margin", None, {"logits": [x, spoiled], "class_weight": [0, 2, -1]},
             {"reduction": "sum", "p": power}, others={"targets": ([1, 0], "i64")},
             outputs={"loss": word(value * 2 / 3), "grad.logits": [[word(mpf(2) * v / 3) for v in slopes_of], [0, 0, 0]]})

    for width in (3, 70, 200):  # probabilities on classes without weight
        more, weight = [-3] * (width - 3), [0, 2, -1] + [1] * (width - 3)
        l = log_softmax([mpf(v) for v in x + more])
        pull = [mp.exp(v) - (k == 1) for k, v in enumerate(l)]
        none, sure = [0] * width, [1] + [0] * (width - 1)
        beside = [0, 0.5] + [0] * (width - 2)
        back = [word(-w * v) for w, v in zip(weight, l)]
        spoiled_back = [0 if w == 0 else "nan" for w in weight]
        case(f"weightless-soft-{width}", "cross_entropy", None,
             {"logits": [spoiled + more, x + more, x + more], "targets": [sure, sure, beside],
              "class_weight": weight}, {"reduction": "sum"},
             outputs={"loss": word(-l[1]), "grad.logits": [none, none, [word(v) for v in pull]],
                      "grad.targets": [spoiled_back, back, back]})
    for dtype in TYPES:  # a part of the classes that is all of them
        whole = rounded(float(log_sum([mpf(1), mpf(2), mpf(3)])), dtype)
        p = [mp.exp(v - exact(whole)) for v in (1, 2, 3)]
        case("weightless-part", "linear_cross_entropy", None,
             {"hidden": [[1, 2], ["nan", 1]], "weight": [[1, 0], [0, 1], [1, 1]], "class_weight": [0, 1, 1],
              "lse": [whole, "nan"]}, {"reduction": "sum", "vocab_total": 3}, types=(dtype,),
             others={"targets": ([1, 0], "i64")},
             outputs={"loss": word(exact(whole) - 2),
                      "grad.hidden": [[word(p[0] + p[2]), word(p[1] - 1 + p[2])], [0, 0]]})

    p = [mp.exp(v) for v in log_softmax([mpf(v) for v in (1, 2, 3)])]
    case("weightless-others", "linear_cross_entropy", None,
         {"hidden": [[1, 2], ["nan", 1]], "weight": [[1, 0], [0, 1], [1, 1]], "class_weight": [0, 2, 0]},
         {"reduction": "sum", "label_smoothing": 1, "smoothing_mode": "others"}, others={"targets": ([0, 1], "i64")},
         outputs={"loss": word(-mp.log(p[1])), "grad.hidden": [[word(p[0] + p[2]), word(p[1] - 1 + p[2])], [0, 0]]})

    def share(v):
        return 1 / (1 + mp.exp(-mpf(v)))
    case("weightless", "multilabel_soft_margin", None,
         {"logits": [["nan", 1, -0.5]], "weight": [0, 2, 1], "targets": [[1, 0, 1]]},
         outputs={"loss": word((-2 * mp.log(share(-1)) - mp.log(share(-0.5))) / 3),
                  "grad.logits": [[0, word(2 * share(1) / 3), word((share(-0.5) - 1) / 3)]]})
    case("weightless", "bce_with_logits", None,
         {"logits": ["nan", "inf", 1, -2], "targets": [1, 1, 0, 1], "pos_weight": [0, 0, 0, 2]}, {"reduction": "none"},
         outputs={"loss": [0, 0, word(-mp.log(share(-1))), word(-2 * mp.log(share(-2)))],
                  "grad.logits": [0, 0, word(share(1)), word(-2 * share(2))]})
    for gamma in (0, 0.5, 2):
        q = share(1)
        slope = q ** gamma * (gamma * (1 - q) * -mp.log(1 - q) + q)
        for alpha, target in ((0, 1), (1, 0)):
            case(f"weightless-{alpha}-{gamma}", "sigmoid_focal", None,
                 {"logits": ["nan", "inf", 2 * target - 1, 3], "targets": [target, target, 1 - target, target]},
                 {"reduction": "none", "alpha": alpha, "gamma": gamma},
                 outputs={"loss": [0, 0, word(q ** gamma * -mp.log(1 - q)), 0],
                          "grad.logits": [0, 0, word(slope if target else -slope), 0]})
    for mode in ("truncate", "mask", "mask_only"):
        case(f"weightless-{mode}", "policy_gradient", None,
             {"logprobs": [["nan", -1, 1000]], "sampling_logprobs": [[-1, -1, -1000]], "advantages": [[1, 2, 3]],
              "is_weights": [[0, 1, 0]]}, {"is_mode": mode, "aggregation": "num_items", "num_items": 1},
             outputs={"loss": -2, "grad.logprobs": [[0, -2, 0]]})
    case("weightless", "kto", None, {"logps": ["nan", -12], "ref_logps": [-10, -11]},
         {"loss_type": "bco", "beta": 0.125, "desirable_weight": 0, "reduction": "sum"},
         others={"labels": ([True, False], "bool")},
         outputs={"loss": word(-mp.log(share(0.125))), "grad.logps": [0, word(share(-0.125) / 8)]})


vectors()
spoilt_tokens()
margins()
regressions()
factors()
angles()
distillations()
rankings()
topk_ends()
masked_distillations()
betas_that_round()
topk_distillations()
labels()
weightless()
path = pathlib.Path(__file__).with_suffix(".jsonl")
path.write_text("".join(line + "\n" for line in LINES))
print(f"edges: {len(LINES)} cases, {path.stat().st_size} bytes")
