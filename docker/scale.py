#!/usr/bin/env python3
"""Several lossd behind HAProxy: throughput of 1, 2 and 3, one killed under load, all restarted under load.

docker/scale.py [--lossd build/lossd]     with Debian's haproxy and wrk; about 40 seconds
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CONFIG = Path(__file__).parent / "haproxy" / "haproxy.cfg"
NAMES = ("ONE", "TWO", "THREE")
CONNECTIONS = 16
# Longer than HAProxy needs to see that a server is no longer ready.
DRAIN_DELAY = 1.5


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_ready(port: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise TimeoutError(f"nobody is ready on port {port}")


class Farm:
    def __init__(self, lossd: str, folder: Path):
        self.lossd, self.folder, self.log = lossd, folder, (folder / "log").open("w")
        self.ports = [free_port() for _ in NAMES]
        self.proxy_port = free_port()
        self.servers: list[subprocess.Popen | None] = [None] * len(NAMES)
        addresses = {f"LOSSD_{name}": f"127.0.0.1:{port}" for name, port in zip(NAMES, self.ports)}
        self.proxy = subprocess.Popen(
            ["haproxy", "-db", "-f", str(CONFIG)],
            env=os.environ | addresses | {"LOSSD_PROXY": f"127.0.0.1:{self.proxy_port}"},
            stderr=self.log, stdout=self.log)
        tensor = {"logits": [[(c * 37 + r) % 101 / 25 for c in range(1000)] for r in range(4)], "targets": [7] * 4}
        script = f"wrk.method='POST' wrk.body='{json.dumps({'inputs': tensor})}'"
        self.script = folder / "request.lua"
        self.script.write_text(script)

    def start(self, k: int) -> None:
        command = [self.lossd, "--listen", f"127.0.0.1:{self.ports[k]}", "--workers", "1", "--log-level", "warn",
                   "--drain-delay", f"{DRAIN_DELAY * 1000:.0f}ms"]
        self.servers[k] = subprocess.Popen(command, stderr=self.log)
        wait_ready(self.ports[k])

    def end(self, k: int, number: signal.Signals) -> None:
        self.servers[k].send_signal(number)
        self.servers[k].wait(timeout=40)
        self.servers[k] = None

    def load(self, seconds: int) -> subprocess.Popen:
        url = f"http://127.0.0.1:{self.proxy_port}/v1/losses/cross_entropy"
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(self.script), url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        for process in [self.proxy, *self.servers]:
            if process:
                process.kill()
                process.wait()
        self.log.close()


def outcome(load: subprocess.Popen) -> tuple[float, int, int]:
    """Requests a second, requests answered, requests lost."""
    text = load.communicate(timeout=60)[0]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    answered = int(re.search(r"(\d+) requests in", text)[1])
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    lost = sum(map(int, errors.groups())) if errors else 0
    return rate, answered, lost + (int(refused[1]) if refused else 0)


def run(farm: Farm) -> bool:
    print(f"{os.cpu_count()} processors for all of lossd, HAProxy and the load; one worker each")
    for k in range(len(NAMES)):
        farm.start(k)
        time.sleep(1)  # HAProxy's turn to see it
        rate, answered, lost = outcome(farm.load(3))
        print(f"  {k + 1} lossd: {rate:.0f} requests/s, {lost} of {answered} lost")

    load = farm.load(6)
    time.sleep(2)
    farm.end(1, signal.SIGKILL)
    _, answered, lost = outcome(load)
    _, after, still = outcome(farm.load(2))
    print(f"  one of 3 killed: {lost} of {answered} lost; then {still} of {after}")
    farm.start(1)
    time.sleep(1)

    load = farm.load(13)
    for k in range(len(NAMES)):
        farm.end(k, signal.SIGTERM)
        farm.start(k)
        time.sleep(1)
    _, answered, dropped = outcome(load)
    print(f"  all restarted in turn: {dropped} of {answered} lost")
    return still == 0 and dropped == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lossd", default="build/lossd")
    with tempfile.TemporaryDirectory() as folder:
        farm = Farm(parser.parse_args().lossd, Path(folder))
        try:
            return 0 if run(farm) else 1
        finally:
            farm.close()


if __name__ == "__main__":
    sys.exit(main())
