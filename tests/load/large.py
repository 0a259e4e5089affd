#!/usr/bin/env python3
"""A body of 1 GB against the limit of 64 MiB, sent at once by curl, Python's http.client and Node's fetch: each must
report the 413 with its detail, and not a broken connection.

    make load, or tests/load/large.py            a client that is not installed is left out and named"""

from __future__ import annotations

import argparse
import http.client
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from server import Lossd  # noqa: E402

SIZE = 1_000_000_000
PATH = "/v1/losses/cross_entropy"
NODE = """
const bytes = Buffer.alloc(%d);
fetch(process.argv[1], { method: "POST", body: bytes, headers: { "Content-Type": "application/json" } })
  .then(async (reply) => console.log(reply.status, await reply.text()))
  .catch((error) => console.log("failed:", error.message, error.cause));
""" % SIZE


def by_curl(url: str, file: str) -> str:
    """As curl does it by itself, which is to ask for 100 Continue."""
    command = ["curl", "-sS", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-T", file, "-X", "POST", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def by_curl_at_once(url: str, file: str) -> str:
    command = ["curl", "-sS", "-w", "%{http_code}", "-H", "Expect:", "-T", file, "-X", "POST", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def by_python(url: str, file: str) -> str:
    host = url.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(host, timeout=60)
    with open(file, "rb") as body:
        connection.request("POST", PATH, body.read())
    reply = connection.getresponse()
    return f"{reply.status} {reply.read().decode()}"


def by_node(url: str, file: str) -> str:
    command = ["node", "-e", NODE, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


CLIENTS = {
    "curl": ("curl", by_curl),
    "curl, at once": ("curl", by_curl_at_once),
    "http.client": ("", by_python),
    "fetch of Node": ("node", by_node),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    a = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder, Lossd(a.lossd) as lossd:
        file = f"{folder}/body"
        with open(file, "wb") as body:
            body.truncate(SIZE)
        for name, (program, send) in CLIENTS.items():
            if program and not shutil.which(program):
                print(f"left out  {name}: there is no {program}")
                continue
            said = send(lossd.url + PATH, file)
            holds = "413" in said and "the body is larger than 67108864 bytes (--max-body)" in said
            print(f"{'ok    ' if holds else 'FAILED'}  {name}: {said.strip()}")
            failed += not holds
    print(f"{failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
