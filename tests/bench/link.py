#!/usr/bin/env python3
"""Rows of a language model over a link of 1 Gbit/s: by their logits, and by their hidden states with a head that stays in
lossd. Loss and gradient; requests in turns, medians of the time that passes.

The link is a pair of interfaces between two network namespaces of this program's own, shaped on both sides by a token
bucket of tc. It needs root, and leaves nothing behind.

    tests/bench/link.py --lossd build/release/lossd
"""

from __future__ import annotations

import argparse
import array
import contextlib
import ctypes
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from server import Lossd, receive, request, safetensors  # noqa: E402

HERE, THERE = "192.0.2.1", "192.0.2.2"
HEAD = {"Content-Type": "application/x-safetensors", "Accept": "application/x-safetensors"}


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def enter(namespace: str) -> None:
    """Sockets of this thread are from now on in that network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(namespace, "rb") as file:
        if libc.setns(file.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


@contextlib.contextmanager
def link(rate: str) -> Iterator[str]:
    """This thread is at one end of a link; gives the namespace at the other one."""
    ends = [f"losskit-{os.getpid()}-{side}" for side in ("here", "there")]
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(open("/proc/thread-self/ns/net", "rb"))
        for end in ends:
            run("ip", "netns", "add", end)
            stack.callback(run, "ip", "netns", "delete", end)
        run("ip", "-n", ends[0], "link", "add", "name", "end", "type", "veth", "peer", "name", "end", "netns", ends[1])
        for end, address in zip(ends, (HERE, THERE)):
            run("ip", "-n", end, "address", "add", f"{address}/30", "dev", "end")
            run("ip", "-n", end, "link", "set", "end", "up")
            run("tc", "-n", end, "qdisc", "add", "dev", "end", "root", "tbf", "rate", rate, "burst", "128kb", "latency", "20ms")
        stack.callback(enter, f"/proc/self/fd/{home.fileno()}")
        enter(f"/run/netns/{ends[0]}")
        yield ends[1]


def numbers(count: int, most: float) -> bytes:
    """f32, the same ones again after a while."""
    some = array.array("f", (random.uniform(-most, most) for _ in range(9973))).tobytes()
    return (some * (4 * count // len(some) + 1))[: 4 * count]


class Way:
    def __init__(self, name: str, loss: str, tensors: list, metadata: dict[str, str]) -> None:
        self.name, self.times = name, list[float]()
        body = safetensors(tensors, metadata)
        self.request = request("POST", f"/v1/losses/{loss}", HEAD, body)
        self.bytes = len(body)

    def __call__(self, connection: socket.socket) -> None:
        begun = time.perf_counter()
        connection.sendall(self.request)
        reply = receive(connection)
        self.times.append(time.perf_counter() - begun)
        if reply.status != 200:
            raise SystemExit(f"{self.name}: {reply.status} {reply.body[:200]!r}")
        self.back = len(reply.body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/release/lossd")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--rounds", type=int, default=9)
    a = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        print("tests/bench/link.py: a link of its own needs root, ip and tc (Debian: iproute2)")
        return
    random.seed(1)
    targets = ("targets", "I64", [a.rows], array.array("q", (i * 7919 % a.classes for i in range(a.rows))).tobytes())
    logits = ("logits", "F32", [a.rows, a.classes], numbers(a.rows * a.classes, 4))
    hidden = ("hidden", "F32", [a.rows, a.width], numbers(a.rows * a.width, 1.7))
    weight = ("weight", "F32", [a.classes, a.width], numbers(a.classes * a.width, 0.08))
    ways = [
        Way("logits", "cross_entropy", [logits, targets], {}),
        Way("hidden states", "linear_cross_entropy", [hidden, targets], {"region.weight": json.dumps({"region": "head/weight"})}),
    ]
    with tempfile.NamedTemporaryFile() as file, link(a.rate) as namespace:
        file.write(safetensors([weight], {}))
        file.flush()
        flags = ["--listen", f"{THERE}:0", "--region", f"head={file.name}", "--log-level", "info"]
        with Lossd("ip", "netns", "exec", namespace, a.lossd, *flags) as lossd, lossd.connect() as connection:
            for way in ways * (a.rounds + 1):
                way(connection)
    print(f"\n{a.rows} rows of {a.width}, {a.classes} classes, f32, loss and gradient over {a.rate}, {os.cpu_count()} processors")
    medians = [statistics.median(way.times[1:]) for way in ways]  # the first request of each warms up
    for way, median in zip(ways, medians):
        print(f"  by {way.name:14} {median * 1e3:7.1f} ms, least {min(way.times) * 1e3:7.1f}; {way.bytes + way.back} bytes")
    print(f"  by hidden states {medians[0] / medians[1]:.1f} times sooner")


if __name__ == "__main__":
    main()
