#!/usr/bin/env python3
"""losskit in a Python process beside the C library alone and beside PyTorch: cross entropy and its gradient, in turns.

The library alone is a call from lk_call_new to lk_call_free whose tensors and outputs lie ready. A step of PyTorch's
modules is the loss and its backward pass, for logits that a layer has computed; its memory is the peak of the process
during the step, logits included, in multiples of the logits. Figures are medians: of the processor's time on one thread,
which other processes disturb less, and of the time that passes on two.

    PYTHONPATH=api/python LOSSKIT_LIBRARY=build/release/liblosskit.so.0 tests/bench/local.py
"""

from __future__ import annotations

import argparse
import ctypes
import concurrent.futures
import pathlib
import statistics
import time
from collections.abc import Callable

import losskit
import numpy as np
from losskit.binding import Error, Tensor, lib

try:
    import losskit.torch
    import torch
except ImportError:
    torch = None

F32, I64 = 1, 4


def library_alone(
    logits: np.ndarray, targets: np.ndarray, gradient: np.ndarray, threads: int
) -> Callable[[], None]:
    loss, error = np.empty((), "f4"), Error()
    x = Tensor(logits.ctypes.data, F32, 2, logits.shape)
    y = Tensor(targets.ctypes.data, I64, 1, targets.shape)
    pool = concurrent.futures.ThreadPoolExecutor(max(1, threads - 1))
    places = []

    def once() -> None:
        call = lib.lk_call_new(lib.lk_loss_find(b"cross_entropy"))
        lib.lk_call_input(call, b"logits", x, error)
        lib.lk_call_input(call, b"targets", y, error)
        lib.lk_call_check(call, error)
        lib.lk_call_bind(call, 0, loss.ctypes.data)
        lib.lk_call_bind(call, 1, gradient.ctypes.data)
        lib.lk_call_plan(call, error)
        if not places:
            size = (lib.lk_call_scratch(call) + 63) // 64 * 64
            scratch = np.empty(size * threads + 64, np.uint8)
            begin = (scratch.ctypes.data + 63) // 64 * 64
            places.extend((scratch, begin + size * i) for i in range(threads))
        blocks = lib.lk_call_blocks(call)
        cuts = [blocks * k // threads for k in range(threads + 1)]

        def run(k: int) -> None:
            lib.lk_call_run(call, cuts[k], cuts[k + 1] - cuts[k], places[k][1])

        others = [pool.submit(run, k) for k in range(1, threads)]
        run(0)
        concurrent.futures.wait(others)
        if lib.lk_call_finish(call, error) != 0:
            raise RuntimeError(error.text)
        lib.lk_call_free(call)

    return once


def step(criterion: Callable, logits: np.ndarray, targets: np.ndarray) -> Callable[[], None]:
    """For logits that are no leaf: the memory is theirs, as if a layer had computed them and had kept nothing."""

    class Made(torch.autograd.Function):
        @staticmethod
        def forward(ctx, leaf):
            return torch.from_numpy(logits)

        @staticmethod
        def backward(ctx, gradient):
            return torch.zeros(())

    leaf, classes = torch.zeros((), requires_grad=True), torch.from_numpy(targets)
    return lambda: criterion(Made.apply(leaf), classes).backward()


def kilobytes(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(once: Callable[[], object], logits: np.ndarray) -> float:
    once()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    before = kilobytes("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
    once()
    return 1 + (kilobytes("VmHWM") - before) * 1024 / logits.nbytes


def timed(once: Callable[[], object], threads: int) -> float:
    clock = time.thread_time if threads == 1 else time.perf_counter
    begun = clock()
    once()
    return clock() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--turns", type=int, default=31)
    a = parser.parse_args()
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(a.rows, a.classes)).astype("f4")
    targets = rng.integers(0, a.classes, a.rows)
    print(f"{a.rows}x{a.classes} f32, loss and gradient, {lib.lk_isa_used().decode()}"
          + (f", PyTorch {torch.__version__}" if torch else ""))
    for threads in (1, 2):
        local = losskit.Local(threads=threads)
        inputs, over = ({"logits": x, "targets": targets} for x in (logits, logits.copy()))
        ways: dict[str, Callable[[], object]] = {
            "library": library_alone(logits, targets, np.empty_like(logits), threads),
            "losskit.local": lambda: local.evaluate("cross_entropy", inputs),
            "library, in place": library_alone(over["logits"], targets, over["logits"], threads),
            "losskit.local, in place": lambda: local.evaluate("cross_entropy", over, in_place=["logits"]),
        }
        steps: dict[str, Callable[[], object]] = {}
        if torch:
            torch.set_num_threads(threads)
            in_place = losskit.torch.CrossEntropyLoss(local, in_place=True)
            steps = {
                "losskit.torch": step(losskit.torch.CrossEntropyLoss(local), logits, targets),
                "losskit.torch, in place": step(in_place, over["logits"], targets),
                "PyTorch": step(torch.nn.functional.cross_entropy, logits, targets),
            }
        times: dict[str, list[float]] = {name: [] for name in (*ways, *steps)}
        for group in (ways, steps):  # each by itself, since what PyTorch frees is where NumPy allocates
            for name, once in (item for _ in range(a.turns) for item in group.items()):
                time.sleep(0.005)  # until PyTorch's threads, which spin for a while, have let go of their processors
                times[name].append(timed(once, threads))
        medians = {name: statistics.median(all_of) for name, all_of in times.items()}
        print(f"\n{threads} thread{'s' if threads > 1 else ''}")
        for name, median in medians.items():
            alone = medians["library, in place" if "in place" in name else "library"]
            line = f"  {name:24} {median * 1e3:7.2f} ms, {median / alone:5.2f} x the library"
            if torch:
                line += f", {medians['PyTorch'] / median:5.1f} x as fast as PyTorch"
            if name in steps:
                line += f", memory {peak(steps[name], logits):.2f} x the logits"
            print(line, flush=True)


if __name__ == "__main__":
    main()
