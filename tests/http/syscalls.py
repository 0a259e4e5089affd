#!/usr/bin/env python3
"""Counts the system calls of small requests with strace: one read and one send each, an epoll_wait or a few for all
that come together, and next to nothing else. --can-trace tells whether strace is there and may trace."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from server import Lossd, receive, request, safetensors

CONNECTIONS, ROUNDS = 16, 40
READ, SEND, WAIT = {"recvfrom", "recvmsg", "read"}, {"sendmsg", "sendto", "writev"}, {"epoll_wait", "epoll_pwait"}
# The loop yields once after a turn that took long: a turn of this test always does, since strace stops it at each call.
YIELD = {"sched_yield"}
# What may come besides: blocks of the log, ids of requests, and whether a socket is empty, of which the kernel is asked
# when replies could have filled it, one of thirty such. Of a hundred requests.
OTHERS = 14
# What comes by time, not by requests, a second: sweeps, which write what the log holds, and look whether the client of
# each connection is still there.
SWEEPS = 5


TARGET = "/v1/losses/cross_entropy"
ROWS, CLASSES = 32, 128
LOGITS = struct.pack(f"<{ROWS * CLASSES}f", *(float(i % 7) for i in range(ROWS * CLASSES)))
TARGETS = struct.pack(f"<{ROWS}q", *range(ROWS))
TENSORS = safetensors([("logits", "F32", [ROWS, CLASSES], LOGITS), ("targets", "I64", [ROWS], TARGETS)], {})


def oip() -> bytes:
    described = [("logits", "FP32", [ROWS, CLASSES], LOGITS), ("targets", "INT64", [ROWS], TARGETS)]
    inputs = [
        {"name": name, "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, dtype, shape, data in described
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return request("POST", "/v2/models/cross_entropy/infer", length, head + LOGITS + TARGETS)


REQUESTS = {
    "safetensors 32x128": request("POST", TARGET, {"Content-Type": "application/x-safetensors"}, TENSORS),
    "OIP 32x128 with tensors": oip(),
    "JSON 4x3": request(
        "POST", TARGET, {}, b'{"inputs":{"logits":[[1,2,3],[2,1,3],[3,2,1],[1,3,2]],"targets":[0,1,2,0]}}'
    ),
}


def attach(pid: int, file: pathlib.Path) -> subprocess.Popen | None:
    """strace, as soon as it traces; None where it cannot."""
    if not shutil.which("strace"):
        return None
    tracer = subprocess.Popen(["strace", "-f", "-c", "-p", str(pid), "-o", file], stderr=subprocess.PIPE, text=True)
    for _ in range(200):
        if tracer.poll() is not None:
            return None
        threads = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        if all("TracerPid:\t0" not in (t / "status").read_text() for t in threads):
            return tracer
        time.sleep(0.02)
    tracer.kill()
    return None


def can_trace() -> bool:
    sleeper = subprocess.Popen(["sleep", "10"])
    tracer = attach(sleeper.pid, pathlib.Path("/dev/null"))
    if tracer:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    sleeper.kill()
    sleeper.wait()
    return tracer is not None


def count(table: str) -> dict[str, int]:
    calls = {}
    for line in table.splitlines():
        found = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)", line)
        if found and found[2] != "total":
            calls[found[2]] = int(found[1])
    return calls


def measure(path: str, one: bytes) -> tuple[dict[str, int], float] | None:
    """How often each call came, and the seconds that this took; None where strace may not trace."""
    with Lossd(path, "--workers", "1") as lossd, tempfile.TemporaryDirectory() as folder:
        sockets = [lossd.connect() for _ in range(CONNECTIONS)]

        def rounds(number: int) -> None:
            for _ in range(number):
                for s in sockets:
                    s.sendall(one)
                for s in sockets:
                    assert receive(s).status == 200

        rounds(10)  # what is made once
        file = pathlib.Path(folder) / "calls"
        start = time.monotonic()
        tracer = attach(lossd.process.pid, file)
        if not tracer:
            return None
        rounds(ROUNDS)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        seconds = time.monotonic() - start
        for s in sockets:
            s.close()
        return count(file.read_text()), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--can-trace", action="store_true")
    a = parser.parse_args()
    if a.can_trace:
        return not can_trace()
    failed = 0
    for name, one in REQUESTS.items():
        measured = measure(a.lossd, one)
        if measured is None:
            print("strace is missing, or may not trace here")
            return 1
        calls, seconds = measured
        requests = CONNECTIONS * ROUNDS
        reads, sends, waits, yields = (sum(calls.get(c, 0) for c in group) for group in (READ, SEND, WAIT, YIELD))
        others = sum(calls.values()) - reads - sends - waits - yields
        sweeps = math.ceil(seconds * SWEEPS)
        good = (
            reads <= requests + sweeps * CONNECTIONS
            and sends <= requests
            and waits <= 3 * requests
            and yields <= waits + 1  # the wait that was going on when strace came is not counted
            and others <= requests * OTHERS // 100 + sweeps
        )
        failed += not good
        print(
            f"{name}, {requests} requests in {seconds:.1f} s: {reads} reads, {sends} sends, {waits} waits, "
            f"{yields} yields, {others} others{'' if good else f': too many ({calls})'}"
        )
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
