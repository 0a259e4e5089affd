#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's own test samples through lossd: the samples of its operators (OpInfo), modules (ModuleInfo) and
criteria, for every function that a loss here answers to. Each goes to lossd as safetensors in F64 and as JSON
in f32; loss and gradients must be PyTorch's. on_purpose says which samples mean something else here, and why.

    tests/golden/pytorch_samples.py --url http://127.0.0.1:8080     of a lossd that is running

Needs PyTorch (2.14 was tried) and the expecttest that its test modules want; not part of `make test`.
"""
import argparse
import http.client
import inspect
import json
import struct
import sys
import urllib.parse
from collections import Counter

import torch
import torch.nn.functional as F
from torch.testing._internal import common_nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

F64_TOLERANCE, F32_TOLERANCE = 1e-9, 2e-5


class Skip(Exception):
    """This sample is not for us; the text says why."""


def plain(**options):
    """Options as lossd spells them; those that are None are left out."""
    return {k: v for k, v in options.items() if v is not None}


def reduced(p, **more):
    if p.get("size_average") is not None or p.get("reduce") is not None:
        raise Skip("size_average and reduce, which PyTorch itself gives up")
    return plain(reduction=p["reduction"], **more)


def cross_entropy(p):
    x, y = p["input"], p["target"]
    if torch.is_floating_point(y) and y.shape != x.shape:
        raise Skip("probabilities of another shape")
    inputs = {"logits": "input", "targets": "target"}
    if p["weight"] is not None:
        inputs["class_weight"] = "weight"
    options = reduced(p, label_smoothing=float(p["label_smoothing"]), class_dim=1 if x.dim() > 2 else None)
    if not torch.is_floating_point(y):
        options["ignore_index"] = int(p["ignore_index"])
    return "cross_entropy", inputs, options


def bce_with_logits(p):
    inputs = {"logits": "input", "targets": "target"}
    for name in ("weight", "pos_weight"):
        if p[name] is not None:
            inputs[name] = name
    return "bce_with_logits", inputs, reduced(p)


def pair(loss, **options):
    def adapt(p):
        if p.get("weight") is not None:
            raise Skip("weight: sample_weight here, whose mean divides by the weights")
        if p["input"].shape != p["target"].shape:
            raise Skip("operands that broadcast to each other")
        return loss, {"a": "input", "b": "target"}, reduced(p, **{ours: float(p[theirs]) for ours, theirs in options.items()})
    return adapt


def kl_div(p):
    if p["input"].shape != p["target"].shape:
        raise Skip("operands that broadcast to each other")
    return "kl_div", {"input": "input", "target": "target"}, reduced(p, log_target=bool(p["log_target"]))


def cosine_embedding(p):
    if p["input1"].shape != p["input2"].shape:
        raise Skip("operands that broadcast to each other")
    return ("cosine_embedding", {"a": "input1", "b": "input2", "target": "target"},
            reduced(p, margin=float(p["margin"])))


def triplet(p):
    if len({p[n].shape for n in ("anchor", "positive", "negative")}) > 1:
        raise Skip("operands that broadcast to each other")
    if p["p"] not in (1, 2):
        raise Skip(f"the norm p={p['p']}")
    return ("triplet", {n: n for n in ("anchor", "positive", "negative")},
            reduced(p, margin=float(p["margin"]), pairwise_eps=float(p["eps"]), swap=bool(p["swap"]),
                    distance="l1" if p["p"] == 1 else "l2"))


ADAPTERS = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy_with_logits": bce_with_logits,
    "mse_loss": pair("mse"),
    "l1_loss": pair("mae"),
    "smooth_l1_loss": pair("smooth_l1", beta="beta"),
    "huber_loss": pair("huber", delta="delta"),
    "kl_div": kl_div,
    "cosine_embedding_loss": cosine_embedding,
    "triplet_margin_loss": triplet,
}
FUNCTIONS = {name: getattr(F, name) for name in ADAPTERS}


def on_purpose(name, p, error, got):
    """Why lossd answers another thing on purpose (LOSSES.md), or None. Nothing else may differ."""
    detail = (error or {}).get("detail", "")
    nothing = not error and all(bool((t == 0).all()) for t in got.values())
    if nothing and name == "cross_entropy" and not torch.is_floating_point(p["target"]):
        weight, y, ignore = p["weight"], p["target"], p["ignore_index"]
        counted = y[y != ignore] if y.dim() else y.reshape(1)[(y != ignore).reshape(1)]
        if p["reduction"] == "mean" and (counted.numel() == 0 or (weight is not None and weight[counted].sum() == 0)):
            return "the mean of nothing is 0, not NaN (0.3)"
    if nothing and p.get("input") is not None and p["input"].numel() == 0 and p.get("reduction") in ("mean", "batchmean"):
        return "the mean of nothing is 0, not NaN (0.3)"
    if name == "binary_cross_entropy_with_logits" and "it must be in [0,1]" in detail:
        return "targets outside [0, 1] are an error (16.2)"
    if name == "kl_div" and "it must be >=0" in detail:
        return "targets below 0 are an error (8.1)"
    return None


# Sending.

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL",
          torch.uint8: "U8"}


def raw(t):
    return t.detach().contiguous().numpy().tobytes()


class Lossd:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def post(self, loss, body, media):
        self.connection.request("POST", f"/v1/losses/{loss}", body, {"Content-Type": media})
        reply = self.connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            return None, json.loads(data)
        return data, None

    def safetensors(self, loss, tensors, options, outputs):
        header, blob = {}, b""
        for name, t in tensors.items():
            part = raw(t)
            header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape),
                            "data_offsets": [len(blob), len(blob) + len(part)]}
            blob += part
        header["__metadata__"] = {"outputs": ",".join(outputs), **{k: text(v) for k, v in options.items()}}
        head = json.dumps(header).encode()
        data, error = self.post(loss, struct.pack("<Q", len(head)) + head + blob, "application/x-safetensors")
        if error:
            return None, error
        size = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8:8 + size])
        got = {}
        for name in outputs:
            begin, end = head[name]["data_offsets"]
            kind = torch.float64 if head[name]["dtype"] == "F64" else torch.float32
            part = bytearray(data[8 + size + begin:8 + size + end])
            flat = torch.frombuffer(part, dtype=kind) if part else torch.empty(0, dtype=kind)
            got[name] = flat.reshape(head[name]["shape"]).double()
        return got, None

    def json(self, loss, tensors, options, outputs):
        request = {"inputs": {}, "options": options, "outputs": outputs}
        for name, t in tensors.items():
            request["inputs"][name] = {"shape": list(t.shape), "data": t.detach().reshape(-1).tolist()}
            if t.dtype in (torch.int64, torch.int32):
                request["inputs"][name]["dtype"] = "i64"
        data, error = self.post(loss, json.dumps(request).encode(), "application/json")
        if error:
            return None, error
        got = {}
        for name, value in json.loads(data)["outputs"].items():
            shape = value.get("shape") if isinstance(value, dict) else None
            t = torch.tensor(value["data"] if shape is not None else value, dtype=torch.float64)
            got[name] = t.reshape(shape) if shape is not None else t
        return got, None


def text(value):
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


# Samples.

def of_operators():
    for op in op_db:
        short = op.name.rpartition(".")[2]
        if op.name == f"nn.functional.{short}" and short in ADAPTERS:
            for s in op.sample_inputs("cpu", torch.float64, requires_grad=True):
                yield short, (s.input, *s.args), s.kwargs


def called_by(run):
    """The calls of our functions that `run` makes."""
    calls = []

    def recorder(name):
        def record(*args, **kwargs):
            calls.append((name, args, kwargs))
            return FUNCTIONS[name](*args, **kwargs)
        return record

    for name in FUNCTIONS:
        setattr(F, name, recorder(name))
    try:
        run()
    except Exception:  # a sample that PyTorch itself refuses, or whose module is not there
        pass
    finally:
        for name, function in FUNCTIONS.items():
            setattr(F, name, function)
    return calls


def of_modules():
    for m in module_db:
        if not m.name.endswith("Loss"):
            continue
        for s in m.module_inputs_func(m, device="cpu", dtype=torch.float64, requires_grad=True, training=True):
            def run(m=m, s=s):
                module = m.module_cls(*s.constructor_input.args, **s.constructor_input.kwargs).double()
                module(*s.forward_input.args, **s.forward_input.kwargs)
            yield from called_by(run)


def of_criteria():
    for parameters in common_nn.criterion_tests:
        def run(parameters=parameters):
            test = common_nn.CriterionTest(**parameters)
            module = test.constructor(*test.constructor_args).double()
            x = test._get_input()
            x = tuple(t.double() for t in x) if isinstance(x, tuple) else x.double()
            y = test._get_target()
            y = y.double() if torch.is_tensor(y) and y.is_floating_point() else y
            module(*(x if isinstance(x, tuple) else (x,)), y, *test.extra_args)
        yield from called_by(run)


# Comparing.

def theirs(function, p, inputs):
    """PyTorch's loss and gradients for `inputs` (ours: name of theirs)."""
    leaves = {}
    for ours, name in inputs.items():
        t = p[name]
        if t.is_floating_point() and (ours not in ("weight", "pos_weight", "class_weight", "target", "targets") or
                                      (function == "kl_div" and ours == "target")):
            leaves[ours] = p[name] = t.detach().clone().requires_grad_(True)
        elif torch.is_tensor(t):
            p[name] = t.detach()
    loss = FUNCTIONS[function](**p)
    grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    want = {"loss": loss.detach()}
    for (ours, leaf), g in zip(leaves.items(), grads):
        want[f"grad.{ours}"] = torch.zeros_like(leaf) if g is None else g
    return want


def difference(got, want, tolerance):
    for name, w in want.items():
        g = got[name]
        if g.shape != w.shape:
            return f"{name} has shape {list(g.shape)}, PyTorch's {list(w.shape)}"
        both = torch.isnan(g) & torch.isnan(w) | (g == w)
        scale = torch.where(torch.isfinite(w), w.abs(), torch.zeros_like(w))
        scale = scale.max() if scale.numel() else torch.zeros(())
        wrong = ~both & ~((g - w).abs() <= tolerance * (scale + w.abs()) + 1e-30)
        if wrong.any():
            at = wrong.reshape(-1).nonzero()[0].item()
            return f"{name}[{at}] is {g.reshape(-1)[at].item()!r}, PyTorch's {w.reshape(-1)[at].item()!r}"
    return None


def describe(function, p):
    return f"{function}(" + ", ".join(
        f"{k}={list(v.shape)}" if torch.is_tensor(v) else f"{k}={v!r}" for k, v in p.items() if v is not None) + ")"


def check(lossd, function, args, kwargs, counts, failures):
    bound = inspect.signature(FUNCTIONS[function]).bind(*args, **kwargs)
    bound.apply_defaults()
    p = dict(bound.arguments)
    try:
        loss, inputs, options = ADAPTERS[function](p)
    except Skip as skip:
        counts[f"{function}: left out: {skip}"] += 1
        return
    want = theirs(function, p, inputs)
    tensors = {ours: p[name].detach() for ours, name in inputs.items()}
    for way, tolerance in ((lossd.safetensors, F64_TOLERANCE), (lossd.json, F32_TOLERANCE)):
        got, error = way(loss, tensors, options, list(want))
        wrong = error["detail"] if error else difference(got, want, tolerance)
        reason = wrong and on_purpose(function, p, error, got)
        if not wrong:
            counts[f"{function}: agrees"] += 1
        elif reason:
            counts[f"{function}: differs on purpose: {reason}"] += 1
        else:
            counts[f"{function}: DIFFERS"] += 1
            failures.append(f"{describe(function, p)} as {way.__name__}: {wrong}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where lossd is")
    lossd = Lossd(parser.parse_args().url)
    torch.manual_seed(0)
    counts, failures = Counter(), []
    for source in (of_operators, of_modules, of_criteria):
        for function, args, kwargs in source():
            check(lossd, function, args, kwargs, counts, failures)
    for line in sorted(counts):
        print(f"{counts[line]:5}  {line}")
    for line in failures:
        print(line)
    print(f"{sum(n for k, n in counts.items() if 'DIFFERS' not in k)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
