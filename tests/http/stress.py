#!/usr/bin/env python3
"""Many connections that post mixed requests: small and large, valid and invalid, in both body formats. Every
reply of two loops and four workers must equal, byte for byte, that of a lossd with one of each to the same request sent
alone."""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import threading
import time

from server import Lossd, receive, request, safetensors


def floats(n: int) -> list[float]:
    return [round(random.gauss(0, 3), 4) for _ in range(n)]


def json_request(rows: int, classes: int, query: str = "", accept: str = "") -> bytes:
    x = floats(rows * classes)
    body = {
        "inputs": {
            "logits": [x[i * classes : (i + 1) * classes] for i in range(rows)],
            "targets": [random.randrange(classes) for _ in range(rows)],
        }
    }
    headers = {"Accept": accept} if accept else {}
    return request("POST", f"/v1/losses/cross_entropy{query}", headers, json.dumps(body).encode())


def binary_request(rows: int, classes: int, query: str = "", accept: str = "") -> bytes:
    body = safetensors(
        [
            ("logits", "F32", [rows, classes], struct.pack(f"<{rows * classes}f", *floats(rows * classes))),
            ("targets", "I64", [rows], struct.pack(f"<{rows}q", *[random.randrange(classes) for _ in range(rows)])),
        ],
        {},
    )
    headers = {"Content-Type": "application/x-safetensors"}
    if accept:
        headers["Accept"] = accept
    return request("POST", f"/v1/losses/cross_entropy{query}", headers, body)


def pool() -> list[bytes]:
    requests = [
        json_request(1, 3),
        json_request(32, 128, "?label_smoothing=0.1&reduction=none"),
        json_request(64, 300, "?z_loss=0.001", "application/x-safetensors"),
        json_request(200, 1000),
        binary_request(4, 7, "?reduction=sum"),
        binary_request(32, 128),
        binary_request(128, 4000, "?softcap=30"),
        binary_request(64, 8192),
        binary_request(300, 2000, "?outputs=loss,entropy,predicted,lse,accuracy"),
        binary_request(16, 64, accept="application/json"),
        json_request(2, 3, "?reduction=all"),
        request("POST", "/v1/losses/cross_entropy", {}, b'{"inputs":{"logits":[[1,2],[3]],"targets":[0]}}'),
        request("POST", "/v1/losses/huber", {}, b'{"inputs":{"a":[1,2,3],"b":[0,0,0]}}'),
        request("POST", "/v1/losses/nothing", {}, b"{}"),
        request("GET", "/v1/losses/huber"),
        request("GET", "/healthz"),
    ]
    return requests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--unix", action="store_true", help="over a Unix socket")
    arguments = parser.parse_args()
    random.seed(1)
    requests = pool()
    with Lossd(arguments.lossd, "--workers", "1") as alone:
        s = alone.connect()
        wanted = []
        for data in requests:
            s.sendall(data)
            wanted.append(receive(s))

    done = [0] * arguments.connections
    wrong: list[str] = []
    end = time.monotonic() + arguments.seconds
    folder = tempfile.TemporaryDirectory()
    listen = ["--listen", f"unix:{folder.name}/lossd.sock"] if arguments.unix else []
    with Lossd(arguments.lossd, "--workers", "4", "--loops", "2", *listen) as lossd:

        def client(number: int) -> None:
            order = random.Random(number)
            connection = lossd.connect()
            while time.monotonic() < end and len(wrong) < 10:
                k = order.randrange(len(requests))
                try:
                    connection.sendall(requests[k])
                    reply = receive(connection)
                except (ConnectionError, TimeoutError, OSError) as why:
                    wrong.append(f"request {k}: {why!r}")
                    return
                if (reply.status, reply.body) != (wanted[k].status, wanted[k].body):
                    wrong.append(f"request {k}: {reply.status} {reply.body[:200]!r}")
                done[number] += 1

        threads = [threading.Thread(target=client, args=(i,)) for i in range(arguments.connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for line in wrong:
        print(line)
    print(f"{sum(done)} passed, {len(wrong)} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
