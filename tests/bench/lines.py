#!/usr/bin/env python3
"""A body of lines (application/x-ndjson) compared with the same requests sent one by one over 8 connections, and the
memory of lossd while a long body passes through it (--rounds 0: that alone).

    tests/bench/lines.py [--lossd build/lossd] [--client build/release/tests/client] [--rounds 5] [--gib 10]

The two ways alternate; medians count. The body's lines are the same request again and again: what takes time is the
same for both.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

here = pathlib.Path(__file__).parent
sys.path[:0] = [str(here.parent / "http"), str(here.parent / "load")]
from kit import Load, resident  # noqa: E402
from server import Lossd, request  # noqa: E402

TARGET = "/v1/losses/cross_entropy"


def line(rows: int, classes: int) -> bytes:
    draw = random.Random(1)
    row = [f"{draw.gauss(0, 2):.4f}" for _ in range(classes)]
    rows_text = ",".join("[" + ",".join(row[i % classes :] + row[: i % classes]) + "]" for i in range(rows))
    targets = ",".join(str(i % classes) for i in range(rows))
    return f'{{"inputs":{{"logits":[{rows_text}],"targets":[{targets}]}}}}'.encode()


class Passed(NamedTuple):
    rate: float  # lines a second
    sent: int  # bytes
    highest: float  # MiB, resident


def pass_lines(lossd: Lossd, target: str, one: bytes, seconds: float, most: int) -> Passed:
    """Send lines for so long, or until so many bytes are sent; read the answers beside."""
    each = one + b"\n"
    many = max(1, (1 << 20) // len(each))
    block = each * many
    chunk = f"{len(block):x}\r\n".encode() + block + b"\r\n"
    s = lossd.connect()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    head = {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}
    answers, got, highest = 0, 0, 0.0

    def read() -> None:
        nonlocal answers, got, highest
        room = bytearray(1 << 20)
        before = time.monotonic()
        while count := s.recv_into(room):
            answers += room.count(b'"loss":"', 0, count)
            got += count
            if time.monotonic() - before > 0.2:
                before = time.monotonic()
                highest = max(highest, resident(lossd.process.pid))

    start = time.monotonic()
    s.sendall(request("POST", target, head))
    reader = threading.Thread(target=read)
    reader.start()
    sent = lines = 0
    while time.monotonic() - start < seconds and sent < most:
        s.sendall(chunk)
        sent += len(block)
        lines += many
    s.sendall(b"0\r\n\r\n")
    reader.join()
    took = time.monotonic() - start
    s.close()
    if abs(answers - lines) > lines // 1000:  # a mark may lie across two reads
        raise SystemExit(f"{answers} answers to {lines} lines")
    return Passed(lines / took, sent, max(highest, resident(lossd.process.pid)))


def compare(args: argparse.Namespace, rows: int, classes: int, query: str, folder: pathlib.Path) -> None:
    one = line(rows, classes)
    file = folder / "request"
    file.write_bytes(request("POST", TARGET + query, {"Content-Type": "application/json"}, one))
    rates: dict[str, list[float]] = {"8 connections": [], "lines": []}
    with Lossd(args.lossd) as lossd:
        port = lossd.url.rsplit(":", 1)[1]
        for _ in range(args.rounds):
            rates["8 connections"].append(Load(args.client, port, str(file), 8, args.seconds).wait()[0])
            rates["lines"].append(pass_lines(lossd, TARGET + query, one, args.seconds, 1 << 60).rate)
    single, many = (statistics.median(r) for r in rates.values())
    name = f"{rows}x{classes}{query}"
    print(f"{name:<28}{len(one):>9} B {single:>12.0f} {many:>12.0f} {many / single:>8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--client", default="build/release/tests/client")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--gib", type=float, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.rounds > 0:
            print(f"{'requests a second':<39} {'8 connections':>13} {'lines':>11} {'ratio':>8}")
        for rows, classes in ((1, 3), (4, 32), (32, 128), (128, 1000), (128, 4000)) if args.rounds > 0 else ():
            for query in ("", "?outputs=loss"):
                compare(args, rows, classes, query, pathlib.Path(folder))
    one = line(64, 1000)
    with Lossd(args.lossd, "--memory-budget", "64MiB", "--max-body", "16MiB") as lossd:
        before = resident(lossd.process.pid)
        size = 0.0
        while size < args.gib:
            part = min(1.0, args.gib - size) if size == 0 else args.gib - size
            passed = pass_lines(lossd, TARGET + "?outputs=loss", one, 1e9, int(part * 1024**3))
            size += passed.sent / 1024**3
            print(
                f"{passed.sent / 1024**3:.2f} GiB, --memory-budget 64MiB: {passed.rate:.0f} lines of {len(one)} B a second, "
                f"resident {before:.1f} MiB before, at most {passed.highest:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
