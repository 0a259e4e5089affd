#!/usr/bin/env python3
"""losskit compared with PyTorch, alternating in one process: loss and gradient, on one thread and on two.

PyTorch computes forward and backward of its own function, as it is and, where that works, compiled by
torch.compile, or by other functions that it has for the same; losskit the same loss and the same gradients through a call, from lk_call_new to lk_call_free. The
figures are medians, and how many times faster than the better of PyTorch's two.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import platform
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("tests/bench/pytorch.py: no PyTorch here (Debian: python3-torch), nothing to compare with")
    sys.exit(0)

MAX_RANK = 8


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("rank", ctypes.c_int),
        ("shape", ctypes.c_int64 * MAX_RANK),
    ]


DTYPES = {
    torch.float64: 0,
    torch.float32: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int64: 4,
    torch.int32: 5,
}


def view(t: torch.Tensor) -> Tensor:
    shape = (ctypes.c_int64 * MAX_RANK)(*t.shape)
    return Tensor(t.data_ptr(), DTYPES[t.dtype], t.dim(), shape)


class Losskit:
    def __init__(self, path: str) -> None:
        self.lib = ctypes.CDLL(path)
        for name in ("lk_loss_find", "lk_call_new", "lk_isa_used"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.lib.lk_isa_used.restype = ctypes.c_char_p
        self.lib.lk_call_blocks.restype = ctypes.c_int64
        self.lib.lk_call_scratch.restype = ctypes.c_size_t
        self.lib.lk_call_next.restype = ctypes.c_bool
        self.scratch: list[ctypes.Array] = []
        self.pool = ThreadPoolExecutor()

    def evaluate(
        self, loss: str, inputs: dict, outputs: dict, options: dict[str, str], threads: int
    ) -> None:
        lib, error = self.lib, None
        call = ctypes.c_void_p(lib.lk_call_new(ctypes.c_void_p(lib.lk_loss_find(loss.encode()))))

        def check(status: int) -> None:
            if status != 0:
                raise RuntimeError(f"{loss}: status {status}")

        for name, text in options.items():
            check(lib.lk_call_option(call, name.encode(), text.encode(), error))
        for name, tensor in inputs.items():
            check(lib.lk_call_input(call, name.encode(), ctypes.byref(view(tensor)), error))
        for name in outputs:
            check(lib.lk_call_want(call, name.encode(), error))
        check(lib.lk_call_check(call, error))
        for i, tensor in enumerate(outputs.values()):
            check(lib.lk_call_bind(call, i, ctypes.c_void_p(tensor.data_ptr())))
        check(lib.lk_call_plan(call, error))
        need = lib.lk_call_scratch(call) + 64
        while len(self.scratch) < threads or any(len(s) < need for s in self.scratch):
            self.scratch = [ctypes.create_string_buffer(need) for _ in range(threads)]
        places = [(ctypes.addressof(s) + 63) // 64 * 64 for s in self.scratch]
        while True:
            blocks = lib.lk_call_blocks(call)
            shards = max(1, min(threads, blocks))
            cuts = [blocks * k // shards for k in range(shards + 1)]

            def run(k: int) -> None:
                count = ctypes.c_int64(cuts[k + 1] - cuts[k])
                lib.lk_call_run(call, ctypes.c_int64(cuts[k]), count, ctypes.c_void_p(places[k]))

            others = [self.pool.submit(run, k) for k in range(1, shards)]
            run(0)
            for shard in others:
                shard.result()
            if not lib.lk_call_next(call):
                break
        check(lib.lk_call_finish(call, error))
        lib.lk_call_free(call)


class Case:
    """A loss with its tensors: `leaves` are those that get a gradient."""

    def __init__(
        self,
        loss: str,
        shape: str,
        function: Callable[..., torch.Tensor],
        inputs: dict[str, torch.Tensor],
        leaves: list[str],
        **options: str,
    ) -> None:
        self.loss, self.shape, self.function, self.options = loss, shape, function, options
        self.inputs, self.leaves = inputs, leaves
        self.others: list[Callable[..., torch.Tensor]] = []  # in place of the compiled one
        self.outputs = {"loss": torch.zeros((), dtype=torch.float32)}
        for name in leaves:
            self.outputs[f"grad.{name}"] = torch.empty_like(inputs[name])

    def pytorch(self, function: Callable[..., torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
        values = {k: v.detach() for k, v in self.inputs.items()}
        for name in self.leaves:
            values[name].requires_grad_(True)
        loss = function(*values.values())
        loss.backward()
        return float(loss.detach()), [values[name].grad for name in self.leaves]

    def losskit(self, library: Losskit, threads: int) -> float:
        library.evaluate(self.loss, self.inputs, self.outputs, self.options, threads)
        return float(self.outputs["loss"])


def cross_entropy(rows: int, classes: int, dtype: torch.dtype = torch.float32) -> Case:
    logits = torch.randn(rows, classes).to(dtype)
    targets = torch.randint(classes, (rows,))
    return Case("cross_entropy", f"{rows}x{classes}", F.cross_entropy,
                {"logits": logits, "targets": targets}, ["logits"])


def vectors(rows: int, width: int, spread: float = 1.0) -> torch.Tensor:
    """Embeddings with something in common, as trained ones have."""
    return torch.randn(width) + spread * torch.randn(rows, width)


def info_nce(rows: int, width: int) -> Case:
    def function(a: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        scores = F.normalize(a) @ F.normalize(c).T / 0.05
        return F.cross_entropy(scores, torch.arange(rows))

    return Case("info_nce", f"{rows}x{width}", function,
                {"anchors": vectors(rows, width), "candidates": vectors(rows, width)},
                ["anchors", "candidates"])


def directions(rows: int, width: int) -> Case:
    """All directions of info_nce in one softmax; the fourth product is the first, turned."""

    def function(a: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        a, c = F.normalize(a), F.normalize(c)
        same = torch.eye(rows, dtype=torch.bool)
        across = a @ c.T / 0.05
        anchors = (a @ a.T / 0.05).masked_fill(same, -torch.inf)
        candidates = (c @ c.T / 0.05).masked_fill(same, -torch.inf)
        scores = torch.cat([across, anchors, across.T, candidates], 1)
        return F.cross_entropy(scores, torch.arange(rows))

    return Case("info_nce", f"{rows}x{width}, directed", function,
                {"anchors": vectors(rows, width), "candidates": vectors(rows, width)},
                ["anchors", "candidates"],
                directions="query_to_doc,query_to_query,doc_to_query,doc_to_doc")


def supcon(rows: int, width: int) -> Case:
    def function(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(x)
        others = ~torch.eye(rows, dtype=torch.bool)
        positives = (labels[:, None] == labels[None, :]) & others
        scores = unit @ unit.T / 0.1
        log_p = scores - scores.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
        count = positives.sum(1)
        means = (log_p * positives).sum(1)[count > 0] / count[count > 0]
        return -means.mean()

    return Case("supcon", f"{rows}x{width}", function,
                {"embeddings": vectors(rows, width), "labels": torch.randint(rows // 8, (rows,))},
                ["embeddings"])


def margin_softmax(rows: int, classes: int, width: int) -> Case:
    def function(x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        cosines = F.normalize(x) @ F.normalize(w).T
        margins = 0.35 * F.one_hot(targets, classes)
        return F.cross_entropy(64 * (cosines - margins), targets)

    return Case("margin_softmax", f"{rows}x{classes}", function,
                {"embeddings": vectors(rows, width), "prototypes": vectors(classes, width),
                 "targets": torch.randint(classes, (rows,))},
                ["embeddings", "prototypes"], kind="cosface")


def linear_cross_entropy(rows: int, width: int, classes: int) -> Case:
    def plain(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(h, w), y)

    case = Case("linear_cross_entropy", f"{rows}x{width}x{classes}", plain,
                {"hidden": torch.randn(rows, width), "weight": 0.05 * torch.randn(classes, width),
                 "targets": torch.randint(classes, (rows,))},
                ["hidden"])
    for policy in ("accurate", "compact") if hasattr(torch.nn, "LinearCrossEntropyOptions") else ():
        options = torch.nn.LinearCrossEntropyOptions(acc_policy=policy)
        case.others.append(lambda h, w, y, options=options: F.linear_cross_entropy(h, w, y, options=options))
    return case


def late_interaction(queries: int, tokens: int, documents: int, words: int, width: int) -> Case:
    """The similarities of all tokens as one product, or as an einsum."""

    def loss(near: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(near.max(3).values.sum(1), torch.arange(queries))

    def product(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        near = q.reshape(-1, width) @ d.reshape(-1, width).T
        return loss(near.view(queries, tokens, documents, words))

    case = Case("late_interaction", f"{queries}x{tokens}, {documents}x{words}, {width}", product,
                {"queries": F.normalize(torch.randn(queries, tokens, width), dim=2),
                 "documents": F.normalize(torch.randn(documents, words, width), dim=2)},
                ["queries", "documents"])
    case.others.append(lambda q, d: loss(torch.einsum("btd,mud->btmu", q, d)))
    return case


def rnnt(batch: int, steps: int, labels: int, classes: int) -> Case:
    """The lattice by its diagonals, whose cells do not depend on each other."""

    def function(x: torch.Tensor, y: torch.Tensor, n_x: torch.Tensor, n_y: torch.Tensor) -> torch.Tensor:
        never = -1e30  # the gradient of logaddexp of two infinities is NaN
        log_p = F.log_softmax(x, 3)
        blank = log_p[..., 0]
        words = y[:, None, :, None].expand(-1, steps, -1, 1)
        label = F.pad(log_p[:, :, :-1].gather(3, words)[..., 0], (0, 1), value=never)
        u = torch.arange(labels + 1)
        alpha = torch.full((batch, labels + 1), never)
        alpha[:, 0] = 0
        for n in range(1, steps + labels):
            t = (n - 1 - u).clamp(0, steps - 1)  # of the diagonal before
            up = F.pad((alpha + label[:, t, u])[:, :-1], (1, 0), value=never)
            here = (n - u >= 0) & (n - u < steps)
            alpha = torch.where(here, torch.logaddexp(alpha + blank[:, t, u], up), never)
        return -(alpha[:, labels] + blank[:, steps - 1, labels]).mean()

    case = Case("rnnt", f"{batch}x{steps}x{labels}x{classes}", function,
                {"logits": torch.randn(batch, steps, labels + 1, classes),
                 "targets": torch.randint(1, classes, (batch, labels)),
                 "input_lengths": torch.full((batch,), steps), "target_lengths": torch.full((batch,), labels)},
                ["logits"])
    case.others.append(function)  # hundreds of small steps: torch.compile takes minutes over them
    return case


def cases() -> list[Case]:
    n = (4096, 1024)
    a, b, v = torch.randn(n), torch.randn(n), {"batch": 4096, "width": 1024}
    name = f"{v['batch']}x{v['width']}"
    both = {"a": a, "b": b}
    p = torch.log_softmax(torch.randn(512, 32000), 1)
    q = torch.softmax(torch.randn(512, 32000), 1)
    steps, batch, classes, labels = 200, 16, 80, 30
    scores = torch.randn(batch, steps, classes)
    words = torch.randint(1, classes, (batch, labels))
    lengths, sizes = torch.full((batch,), steps), torch.full((batch,), labels)

    def focal(x, y):  # as torchvision has it
        p, rest = torch.sigmoid(x), F.binary_cross_entropy_with_logits(x, y, reduction="none")
        share = p * y + (1 - p) * (1 - y)
        return ((0.25 * y + 0.75 * (1 - y)) * rest * (1 - share) ** 2).mean()

    def weighted(x, y, w, p):
        return F.binary_cross_entropy_with_logits(x, y, weight=w, pos_weight=p)

    def ctc(x, y, n_x, n_y):
        return F.ctc_loss(F.log_softmax(x, 2).transpose(0, 1), y, n_x, n_y)

    return [
        cross_entropy(2_000_000, 2),
        cross_entropy(1_000_000, 3),
        cross_entropy(400_000, 5),
        cross_entropy(400_000, 10),
        cross_entropy(100_000, 32),
        cross_entropy(48000, 128),
        cross_entropy(6144, 1000),
        cross_entropy(192, 32000),
        cross_entropy(128, 50257),
        cross_entropy(40, 151936),
        cross_entropy(2, 6000000),
        Case("mse", name, F.mse_loss, both, ["a"]),
        Case("mae", name, F.l1_loss, both, ["a"]),
        Case("huber", name, F.huber_loss, both, ["a"]),
        Case("smooth_l1", name, F.smooth_l1_loss, both, ["a"]),
        Case("bce_with_logits", name, F.binary_cross_entropy_with_logits,
             {"logits": a, "targets": torch.rand(n)}, ["logits"]),
        Case("bce_with_logits", "both weights", weighted,
             {"logits": a, "targets": torch.rand(n), "weight": torch.rand(n), "pos_weight": torch.rand(n[1])},
             ["logits"]),
        Case("bce_with_logits", "200000x20", F.binary_cross_entropy_with_logits,
             {"logits": torch.randn(200000, 20), "targets": torch.rand(200000, 20)}, ["logits"]),
        Case("sigmoid_focal", name, focal,
             {"logits": a, "targets": torch.randint(2, n).float()}, ["logits"], reduction="mean"),
        Case("mse", "64x1024", F.mse_loss, {"a": a[:64], "b": b[:64]}, ["a"]),
        Case("kl_div", "512x32000", lambda x, y: F.kl_div(x, y, reduction="batchmean"),
             {"input": p, "target": q}, ["input"]),
        Case("cosine_embedding", name, F.cosine_embedding_loss,
             {"a": a, "b": b, "target": torch.randint(2, (4096,)) * 2 - 1}, ["a", "b"]),
        Case("triplet", name, F.triplet_margin_loss,
             {"anchor": a, "positive": b, "negative": torch.randn(n)},
             ["anchor", "positive", "negative"]),
        info_nce(1024, 768),
        directions(1024, 768),
        directions(1024, 384),
        directions(1024, 128),
        supcon(2048, 768),
        margin_softmax(256, 10000, 512),
        linear_cross_entropy(256, 768, 50257),
        Case("ctc", f"{batch}x{steps}x{classes}", ctc,
             {"logits": scores, "targets": words, "input_lengths": lengths,
              "target_lengths": sizes}, ["logits"]),
        rnnt(4, 150, 20, 1024),
        rnnt(8, 200, 30, 32),
        late_interaction(16, 32, 32, 180, 128),
        late_interaction(32, 32, 64, 180, 128),
    ]


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def compiled(case: Case) -> Callable[..., torch.Tensor] | None:
    """The case's function by torch.compile, once it has run; None where that does not work."""
    if not hasattr(torch, "compile"):
        return None
    try:
        torch._dynamo.reset()  # the number of threads is compiled in
        function = torch.compile(case.function)
        case.pytorch(function)
        return function
    except Exception as e:  # no compiler, or not for this function
        print(f"{case.loss}: not compiled: {type(e).__name__}", file=sys.stderr)
        return None


def set_threads(threads: int) -> None:
    """PyTorch's threads, and those of OpenBLAS, which does not ask PyTorch how many there are to be."""
    torch.set_num_threads(threads)
    try:
        ctypes.CDLL("libopenblas.so.0").openblas_set_num_threads(threads)
    except OSError:
        pass  # another library multiplies


def compare(case: Case, library: Losskit, threads: int, pairs: int) -> list[float | None]:
    """Seconds of PyTorch, of its best other way and of losskit. A way that takes several times as long as another one is
    not taken again."""
    much = 4
    # One thread by its processor time, which others on the machine take no part of.
    clock = time.process_time if threads == 1 else time.perf_counter
    set_threads(threads)
    functions = [case.function, *(case.others or [compiled(case)])]
    times: list[list[float]] = [[] for _ in [*functions, library]]
    for _ in range(pairs):
        fastest = min((spent[0] for spent in times[:-1] if spent), default=math.inf)
        for function, spent in zip(functions, times):
            if not function or (spent and spent[0] > much * fastest):
                continue
            time.sleep(0.005)
            start = clock()
            want, gradients = case.pytorch(function)
            spent.append(clock() - start)
        time.sleep(0.1)  # until PyTorch's threads and OpenBLAS's, which spin for a while, have let go of their processors
        start = clock()
        got = case.losskit(library, threads)
        times[-1].append(clock() - start)
    if abs(got - want) > 1e-4 * max(1, abs(want)):
        raise SystemExit(f"{case.loss}: {got}, PyTorch {want}")
    for mine, theirs in zip(list(case.outputs.values())[1:], gradients):
        if (mine - theirs).abs().max() > 1e-3 * theirs.abs().max():
            raise SystemExit(f"{case.loss}: gradients differ")
    eager, *others, mine = [statistics.median(spent) if spent else None for spent in times]
    return [eager, min((t for t in others if t is not None), default=None), mine]


def cells(eager: float, other: float | None, mine: float) -> str:
    theirs = eager if other is None else min(eager, other)
    text = "       none" if other is None else f"{other * 1e3:8.2f} ms"
    return f"{eager * 1e3:8.2f} ms {text} {mine * 1e3:8.2f} ms {theirs / mine:6.1f} x "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losskit", default="build/release/liblosskit.so.0")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--only", help="the losses to compare, separated by commas; default all")
    a = parser.parse_args()
    torch.manual_seed(1)
    library = Losskit(a.losskit)
    print(f"\nloss and gradient, f32, beside PyTorch {torch.__version__} ({processor()}, "
          f"{library.lib.lk_isa_used().decode()}, {time.strftime('%Y-%m-%d')})")
    print(f"{'':20} {'':20} {'one thread':>44} {'two threads':>44}")
    print(f"{'loss':20} {'shape':20} " + f"{'PyTorch':>11} {'otherwise':>11} {'losskit':>11} {'':>8} " * 2)
    for case in cases():
        if a.only and case.loss not in a.only.split(","):
            continue
        line = f"{case.loss:20} {case.shape:20} "
        for threads in (1, 2):
            line += cells(*compare(case, library, threads, a.pairs))
        print(line, flush=True)


main()
