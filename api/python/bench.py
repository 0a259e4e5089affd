"""What the client costs: 128x50257 float32 cross entropy with its gradient, over a Unix socket, beside the same bytes
over a bare socket and beside PyTorch in this process. Medians of repetitions in turns, in ms.

    cd api/python && /usr/bin/python3 bench.py [REPETITIONS]
"""

from __future__ import annotations

import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

import lossd
from lossd import calls, tensors

LOSSD = os.environ.get("LOSSD", str(pathlib.Path(__file__).parents[2] / "build" / "lossd"))
ROWS, CLASSES = 128, 50257


def bare(path: str, logits: np.ndarray, targets: np.ndarray) -> Callable[[], None]:
    """The same request made ready before, its reply read into one buffer."""
    pieces = tensors.write({"logits": logits, "targets": targets}, {})
    size = sum(map(len, pieces))
    head = (
        f"POST /v1/losses/cross_entropy HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-safetensors\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, calls.UNIX_BUFFER)
    connection.connect(path)
    reply = bytearray(size + 4096)

    def once() -> None:
        for piece in (head, *pieces):
            connection.sendall(piece)
        view, got, whole = memoryview(reply), 0, None
        while whole is None or got < whole:
            got += connection.recv_into(view[got:])
            end = reply.find(b"\r\n\r\n", 0, got)
            if whole is None and end >= 0:
                whole = end + 4 + int(re.search(rb"Content-Length: (\d+)", reply[:end])[1])

    return once


def in_process(logits: np.ndarray, targets: np.ndarray) -> Callable[[], None] | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(2)
    x, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(targets)

    def once() -> None:
        x.grad = None
        torch.nn.functional.cross_entropy(x, y).backward()

    return once


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    random = np.random.default_rng(0)
    logits = random.normal(size=(ROWS, CLASSES)).astype("f4")
    targets = random.integers(0, CLASSES, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        server = subprocess.Popen([LOSSD, "--listen", f"unix:{path}"], stderr=subprocess.PIPE, text=True)
        server.stderr.readline()
        client = lossd.Client(f"unix:{path}")
        runs: dict[str, Callable[[], object] | None] = {
            "bare socket": bare(path, logits, targets),
            "lossd.Client": lambda: client.cross_entropy(logits, targets),
            "PyTorch, two threads": in_process(logits, targets),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for i in range(repetitions + 2):
            for name, run in runs.items():
                if run:
                    start = time.perf_counter()
                    run()
                    if i >= 2:
                        times[name].append(1e3 * (time.perf_counter() - start))
        client.close()
        server.terminate()
        server.wait()
    base = statistics.median(times["bare socket"])
    for name, each in times.items():
        if each:
            print(f"{name:22}{statistics.median(each):8.1f}  {statistics.median(each) / base:5.2f}x")


if __name__ == "__main__":
    main()
