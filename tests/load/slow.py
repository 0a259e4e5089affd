#!/usr/bin/env python3
"""Five hundred connections of slowhttptest that send their heads or bodies, or read their replies, a few bytes at
a time: each must be closed within a second of its deadline, and /healthz must answer throughout.

    make load, or tests/load/slow.py [--plot FILE.svg]     with Debian's slowhttptest; about a minute

Deadlines are counted from outside: by the connections that the kernel shows as established."""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from kit import judge  # noqa: E402
from plot import Panel, chart  # noqa: E402
from server import Lossd, receive, request  # noqa: E402

CONNECTIONS = 500
HEADER, BODY = 3, 4  # seconds
HEALTH_MS, SPARE = 20, 1.0
# How each mode is called, what it asks for, how many new connections a second, and how long lossd lets one. A reply that is not taken has
# its bytes' time, too. Each reader costs the loop some 5 ms, in which the kernel takes the first megabyte of its
# replies: 200 new ones a second are all that it can do, and more of them are overload, whether they are slow or not.
MODES = {
    "head": (["-H", "-i", "1"], "/healthz", 250, HEADER),
    "body": (["-B", "-i", "1", "-s", "60000"], "/v1/losses/huber", 250, BODY),
    "read": (["-X", "-w", "256", "-y", "512", "-n", "1", "-z", "16", "-k", "10"], "/openapi.json", 50, BODY),
}


def established(port: int) -> set[str]:
    """The peers of a local port, by the kernel's table."""
    mine, state = f":{port:04X}", "01"
    with open("/proc/net/tcp") as table:
        rows = (line.split() for line in table)
        return {row[2] for row in rows if row[1].endswith(mine) and row[3] == state}


class Watch(threading.Thread):
    """When each connection was seen first and last, and how long a new connection waits for /healthz."""

    def __init__(self, lossd: Lossd) -> None:
        super().__init__()
        self.lossd, self.port = lossd, int(lossd.url.rsplit(":", 1)[1])
        self.over = threading.Event()
        self.start_time = time.monotonic()
        self.seen: dict[str, tuple[float, float]] = {}
        self.open: list[tuple[float, float]] = []
        self.health: list[tuple[float, float]] = []
        self.unwell: list[str] = []

    def run(self) -> None:
        while not self.over.wait(0.02):
            begin = time.monotonic()
            mine = ""
            try:
                with self.lossd.connect() as s:
                    mine = f":{s.getsockname()[1]:04X}"
                    s.sendall(request("GET", "/healthz"))
                    reply = receive(s)
                if reply.status != 200:
                    self.unwell.append(str(reply.status))
            except OSError as error:
                self.unwell.append(repr(error))
            now = time.monotonic()
            self.health.append((now - self.start_time, (now - begin) * 1000))
            peers = {peer for peer in established(self.port) if not mine or not peer.endswith(mine)}
            self.open.append((now - self.start_time, len(peers)))
            for peer in peers:
                self.seen[peer] = (self.seen.get(peer, (now, 0))[0], now)

    def lifetimes(self) -> list[float]:
        return sorted(last - first for first, last in self.seen.values())


def run(mode: str, lossd_path: str, folder: str) -> tuple[Watch, float]:
    """The watch and the deadline."""
    how, path, rate, deadline = MODES[mode]
    flags = ["--header-timeout", f"{HEADER}s", "--body-timeout", f"{BODY}s", "--idle-timeout", f"{HEADER}s"]
    with Lossd(lossd_path, *flags) as lossd:
        if mode == "read":
            with lossd.connect() as s:
                s.sendall(request("GET", path))
                deadline += len(receive(s).body) / 65536
        watch = Watch(lossd)
        watch.start()
        seconds = int(deadline + CONNECTIONS / rate + 4)
        command = ["slowhttptest", *how, "-u", lossd.url + path, "-c", str(CONNECTIONS), "-r", str(rate)]
        command += ["-l", str(seconds), "-p", "5", "-v", "1"]
        with open(f"{folder}/{mode}", "w") as log:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=seconds + 30)
        watch.over.set()
        watch.join()
    if done.returncode != 0 or not watch.health:
        raise SystemExit(f"slowhttptest ended with {done.returncode}: {open(f'{folder}/{mode}').read()}")
    return watch, deadline


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--plot", help="write a chart there (SVG)")
    a = parser.parse_args()
    verdicts = {}
    panels = []
    print(f"{'':6}{'connections':>12}{'deadline s':>12}{'longest s':>11}{'health p99 ms':>15}{'longest':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            watch, deadline = run(mode, a.lossd, folder)
            lives = watch.lifetimes()
            health = sorted(ms for _, ms in watch.health)
            p99 = health[int(len(health) * 0.99)]
            longest = lives[-1] if lives else 0
            print(f"{mode:6}{len(lives):12}{deadline:12.1f}{longest:11.2f}{p99:15.2f}{health[-1]:9.2f}")
            for what in watch.unwell[:3]:
                print(f"/healthz: {what}")
            verdicts[f"{mode}: {CONNECTIONS} connections came"] = len(lives) >= CONNECTIONS
            verdicts[f"{mode}: they were slow"] = bool(lives) and lives[len(lives) // 2] > deadline - 1
            verdicts[f"{mode}: closed within the deadline and {SPARE:g} s"] = longest <= deadline + SPARE
            verdicts[f"{mode}: health is 200 each time"] = not watch.unwell
            verdicts[f"{mode}: health within {HEALTH_MS} ms (p99)"] = p99 <= HEALTH_MS
            panels.append(Panel(f"slow {mode}: open connections (deadline {deadline:.1f} s)", {"open": watch.open}))
            panels.append(
                Panel("milliseconds until a new connection has /healthz", {"health": watch.health}, ("20 ms", HEALTH_MS))
            )
    if a.plot:
        title = f"{CONNECTIONS} slow connections of slowhttptest against lossd"
        pathlib.Path(a.plot).write_text(chart(title, "seconds", panels))
    return judge(verdicts)


if __name__ == "__main__":
    sys.exit(main())
