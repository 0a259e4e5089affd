#!/usr/bin/env python3
"""Cross entropy and its gradient by lossd on a Unix socket, in turns: logits and gradient in shared memory, in place, as
requests made beforehand and through the Python client; the same request carried in its body; the library alone on as
many threads as lossd has workers; and PyTorch, where it is there. Medians of the time that passes.

Then what a request costs the kernel: page faults of lossd and of the client, and the bytes of bodies.

    PYTHONPATH=api/python LOSSKIT_LIBRARY=build/release/liblosskit.so.0 tests/bench/regions.py
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import lossd
import numpy as np
from local import library_alone, step, torch
from lossd import calls, regions

THREADS = 2


@contextlib.contextmanager
def running(program: str) -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"unix:{folder}/s"
        flags = ["--listen", url, "--workers", str(THREADS), "--log-level", "warn"]
        with subprocess.Popen([program, *flags]) as process:
            with lossd.Client(url) as client:
                while not client.ready():
                    time.sleep(0.02)
            yield url, process.pid
            process.terminate()


class Raw:
    """A request made beforehand, on a connection of its own; the reply is not looked at."""

    def __init__(self, url: str, pieces: list[bytes]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, calls.UNIX_BUFFER)
        self.socket.connect(url[5:])
        size = sum(map(len, pieces))
        lines = ["POST /v1/losses/cross_entropy HTTP/1.1", "Host: bench", f"Content-Length: {size}"]
        lines += [f"Content-Type: {calls.MEDIA}"]
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + b"".join(map(bytes, pieces))
        self.reply = bytearray(size + (1 << 16))

    def __call__(self) -> None:
        self.socket.sendall(self.request)
        view, size, end = memoryview(self.reply), 0, None
        while end is None or size < end:
            size += self.socket.recv_into(view[size:])
            if end is None and (at := self.reply.find(b"\r\n\r\n", 0, min(size, 4096))) > 0:
                head = bytes(self.reply[:at]).decode().lower()
                assert " 200 " in head.split("\r\n")[0], head
                end = at + 4 + int(head.split("\ncontent-length:")[1].split("\r")[0])


def faults(pid: int | None) -> int:
    """Page faults so far; of this process if None."""
    if pid is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[7]) + int(fields[9])


def moved(client: lossd.Client) -> int:
    lines = bytes(client._call("GET", "/metrics", {}, None, None)).decode().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("lossd_received_b", "lossd_sent_b")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--url", help="of a lossd that runs already")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=50)
    a = parser.parse_args()
    there = contextlib.nullcontext((a.url, None)) if a.url else running(a.lossd)
    with there as (url, pid), lossd.Client(url) as client:
        measure(client, url, pid, a)


def measure(client: lossd.Client, url: str, pid: int | None, a: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(a.rows, a.classes)).astype("f4")
    targets = rng.integers(0, a.classes, a.rows)
    shared = [client.empty(logits.shape) for _ in range(3)]
    for region in shared:
        region.array[:] = logits
    given = {"logits": shared[0].array, "targets": targets}
    description = client.describe("cross_entropy")
    outputs = ["loss", "grad.logits"]
    called = regions.Shared(client._pool, description, given, outputs, frozenset(["logits"]))
    _, named = calls.encode_prepared(called.carried, called.places(), outputs)
    _, carried = calls.encode({"logits": logits, "targets": targets}, None, outputs)

    def by_client() -> None:
        client.cross_entropy(shared[1].array, targets, in_place=["logits"], outputs=outputs)

    ways: dict[str, Callable[[], object]] = {
        "library, in place": library_alone(shared[2].array, targets, shared[2].array, THREADS),
        "region, in place": Raw(url, named),
        "the same by the client": by_client,
        "body": Raw(url, carried),
    }
    if torch:
        torch.set_num_threads(THREADS)
        ways["PyTorch"] = step(torch.nn.functional.cross_entropy, logits, targets)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(a.rounds):
        for name, once in ways.items():
            time.sleep(0.005)  # until PyTorch's threads, which spin for a while, have let go of their processors
            begun = time.perf_counter()
            once()
            times[name].append(time.perf_counter() - begun)
    print(f"{a.rows}x{a.classes} f32, loss and gradient, Unix socket, {THREADS} workers" + (f", PyTorch {torch.__version__}" if torch else ""))
    medians = {name: statistics.median(all_of) for name, all_of in times.items()}
    for name, median in medians.items():
        beside = ", ".join(f"{median / medians[of]:.2f} x {of}" for of in medians if of != name)
        print(f"  {name:24} {median * 1e3:7.2f} ms, least {min(times[name]) * 1e3:7.2f}: {beside}")
    before = (faults(pid) if pid else 0, faults(None), moved(client))
    for _ in range(a.rounds):
        by_client()
    after = (faults(pid) if pid else 0, faults(None), moved(client))
    each = [round((y - x) / a.rounds, 1) for x, y in zip(before, after)]
    print(f"a request by the client: {each[0]} page faults of lossd, {each[1]} of the client, {each[2]} bytes of bodies")


if __name__ == "__main__":
    main()
