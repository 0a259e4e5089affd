#!/usr/bin/env python3
"""SIGTERM while requests are in flight: every request that was sent before gets its complete, right reply, and
lossd exits with 0. During a drain delay /readyz returns 503, /healthz returns 200, and requests are served."""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import threading
import time

from server import Lossd, receive, request, safetensors, wait_until


def large_request() -> bytes:
    rows, classes = 256, 4096
    logits = struct.pack(f"<{rows * classes}f", *[random.gauss(0, 3) for _ in range(rows * classes)])
    targets = struct.pack(f"<{rows}q", *[random.randrange(classes) for _ in range(rows)])
    body = safetensors(
        [("logits", "F32", [rows, classes], logits), ("targets", "I64", [rows], targets)], {}
    )
    return request(
        "POST", "/v1/losses/cross_entropy", {"Content-Type": "application/x-safetensors"}, body
    )


def finishes_admitted(path: str, data: bytes, connections: int) -> list[str]:
    wrong: list[str] = []
    replies: list[bytes] = []
    with Lossd(path) as lossd:
        sockets = [lossd.connect() for _ in range(connections)]
        idle = lossd.connect()

        def send(s) -> None:
            s.sendall(data)

        threads = [threading.Thread(target=send, args=(s,)) for s in sockets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A request that was sent may not have been read yet: wait until the server has admitted each of them.
        probe = lossd.connect()
        lines = b""

        def admitted() -> bool:
            nonlocal lines
            probe.sendall(request("GET", "/metrics"))
            lines = receive(probe).body
            flight = int(lines.split(b"\nlossd_in_flight_requests ")[1].split()[0])
            done = sum(
                int(line.split()[-1])
                for line in lines.split(b"\n")
                if line.startswith(b"lossd_requests_total{") and b'status="200"' in line
            )
            return flight + done >= connections

        wait_until("all requests to be taken up", admitted)
        lossd.process.terminate()
        for s in sockets:
            try:
                reply = receive(s)
                if reply.status != 200:
                    wrong.append(f"status {reply.status}")
                replies.append(reply.body)
            except (ConnectionError, TimeoutError) as why:
                wrong.append(f"an admitted request got no reply: {why!r}")
        start = time.monotonic()
        lossd.process.wait(20)
        if time.monotonic() - start > 5:
            wrong.append("it waited for an idle connection")
        idle.close()
    if len(set(replies)) != 1:
        wrong.append(f"{len(set(replies))} different replies to the same request")
    return wrong


def says_not_ready(path: str) -> list[str]:
    wrong = []
    with Lossd(path, "--drain-delay", "1s") as lossd:
        s = lossd.connect()
        lossd.process.terminate()
        time.sleep(0.2)
        for target, status in (
            ("/readyz", 503),
            ("/healthz", 200),
            ("/v1/losses", 200),
            ("/v2/health/ready", 503),
            ("/v2/health/live", 200),
            ("/v2/models/huber", 200),
        ):
            s.sendall(request("GET", target))
            reply = receive(s)
            if reply.status != status:
                wrong.append(f"{target} says {reply.status} while draining, not {status}")
    return wrong


def ends_whole(path: str) -> list[str]:
    """To a client that sends without pause and reads slowly: each reply, to the last one that is announced."""
    got = bytearray()
    with Lossd(path) as lossd:
        host, port = lossd.url.removeprefix("http://").rsplit(":", 1)
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        s.settimeout(20)
        s.connect((host, int(port)))

        def send() -> None:
            try:
                while True:
                    s.send(50 * request("GET", "/healthz"))
            except OSError:
                pass

        sender = threading.Thread(target=send)
        sender.start()
        time.sleep(0.1)
        lossd.process.terminate()
        try:
            while part := s.recv(4096):
                got += part
                time.sleep(0.0005)
        except ConnectionError as why:
            return [f"the last replies were lost: {why!r}"]
        finally:
            s.close()
            sender.join()
    return [] if got.count(b"Connection: close") == 1 and got.endswith(b"ok\n") else ["the last reply was not whole"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    random.seed(1)
    data = large_request()
    wrong = says_not_ready(arguments.lossd) + ends_whole(arguments.lossd)
    for _ in range(arguments.rounds):
        wrong += finishes_admitted(arguments.lossd, data, 16)
    for line in wrong:
        print(line)
    print(f"{arguments.rounds + 2 - bool(wrong)} passed, {int(bool(wrong))} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
