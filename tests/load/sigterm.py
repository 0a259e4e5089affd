#!/usr/bin/env python3
"""SIGTERM under full load, repeatedly: every admitted request gets its complete reply; /readyz returns 503 at once;
the process exits soon after its last reply; idle connections do not delay it.

    tests/load/sigterm.py [--count 100]

Clients send requests one after another until their connection is closed. A request counts as admitted if
lossd's log has a line for it: that line must say 200, and the client must have had the whole reply."""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from server import Lossd, receive, request, safetensors  # noqa: E402

CLIENTS, IDLE, DELAY = 24, 8, 0.15
READY_MS, EXIT_MS = 50, 200


def bodies() -> list[bytes]:
    """Of some 10 KB, 1 MB and 4 MB."""
    made = []
    for rows, classes in ((8, 256), (64, 4096), (128, 8192)):
        data = random.randbytes(2 * rows * classes)
        halves = bytes(b & 0xBF if i % 2 else b for i, b in enumerate(data))  # no infinity, no NaN
        targets = struct.pack(f"<{rows}q", *(random.randrange(classes) for _ in range(rows)))
        made.append(
            safetensors([("logits", "F16", [rows, classes], halves), ("targets", "I64", [rows], targets)], {})
        )
    return made


class Client(threading.Thread):
    def __init__(self, lossd: Lossd, number: int, body: bytes) -> None:
        super().__init__()
        self.lossd, self.number, self.body = lossd, number, body
        self.answered: dict[str, int] = {}
        self.longest = 0.0

    def run(self) -> None:
        head = {"Content-Type": "application/x-safetensors"}
        try:
            with self.lossd.connect() as s:
                for i in range(1_000_000):
                    name = f"{self.number}-{i}"
                    start = time.monotonic()
                    s.sendall(
                        request("POST", "/v1/losses/cross_entropy", {**head, "X-Request-Id": name}, self.body)
                    )
                    reply = receive(s)
                    self.longest = max(self.longest, time.monotonic() - start)
                    self.answered[reply.headers["x-request-id"]] = reply.status
                    if reply.headers.get("connection") == "close":
                        return
        except (ConnectionError, socket.timeout):
            return


def one(path: str, made: list[bytes]) -> tuple[list[str], dict[str, float]]:
    """What went wrong, and figures in ms."""
    wrong: list[str] = []
    lossd = Lossd(path, "--drain-delay", f"{int(DELAY * 1000)}ms", "--log-format", "json")
    idle = [lossd.connect() for _ in range(IDLE)]
    clients = [Client(lossd, i, made[i % len(made)]) for i in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(random.uniform(0.05, 0.25))
    probe = lossd.connect()
    start = time.monotonic()
    lossd.process.terminate()
    status, ready = 200, 0.0
    while status == 200 and ready < 1:
        probe.sendall(request("GET", "/readyz"))
        status = receive(probe).status
        ready = time.monotonic() - start
    code = lossd.process.wait(30)
    took = time.monotonic() - start
    for client in clients:
        client.join(30)
    lossd.reader.join(10)
    for s in (*idle, probe):
        s.close()
    longest = max(client.longest for client in clients)
    answered: dict[str, int] = {}
    for client in clients:
        answered |= client.answered
    admitted = 0
    for text in lossd.log:
        line = json.loads(text)
        if line["event"] != "request" or line.get("loss") is None:
            continue
        if line["received"] == 0 and line["status"] == 0:
            continue  # its body had not come: not admitted to anything
        admitted += 1
        if line["status"] != 200:
            wrong.append(f"{line['id']} was begun and ended with {line['status']}")
        elif answered.get(line["id"]) != 200:
            wrong.append(f"{line['id']} was answered, and its client has no whole reply")
    if code != 0:
        wrong.append(f"exit code {code}")
    if status != 503 or ready * 1000 > READY_MS:
        wrong.append(f"/readyz says {status} after {ready * 1000:.0f} ms")
    late = took - DELAY - longest
    if late * 1000 > EXIT_MS:
        wrong.append(f"it ended {late * 1000:.0f} ms after its longest request could have")
    return wrong, {"admitted": admitted, "ready": ready * 1000, "took": took * 1000, "late": max(0.0, late) * 1000}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--count", type=int, default=100)
    a = parser.parse_args()
    random.seed(4)
    made = bodies()
    rounds = [one(a.lossd, made) for _ in range(a.count)]
    for i, (wrong, _) in enumerate(rounds):
        for line in wrong:
            print(f"round {i}: {line}")
    failed = sum(bool(wrong) for wrong, _ in rounds)
    figures = [f for _, f in rounds]
    print(
        f"{sum(f['admitted'] for f in figures):.0f} requests admitted over {a.count} rounds; 503 after at most "
        f"{max(f['ready'] for f in figures):.1f} ms; gone at most {max(f['took'] for f in figures):.0f} ms after the "
        f"signal, {max(f['late'] for f in figures):.0f} ms more than drain delay and longest request"
    )
    print(f"{a.count - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
