#!/usr/bin/env python3
"""Checks that the memory of lossd does not grow: a hundred thousand mixed requests of 1 KB to 64 MB, of six kinds on
eight connections; then a million small ones. Every reply must equal the first of its kind, and when lossd is idle again
its memory must be about that of the start.

    make load, or tests/load/soak.py [--mixed 100000] [--small 1000000] [--plot FILE.svg]     about four minutes"""

from __future__ import annotations

import argparse
import pathlib
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from kit import Load, as_json, cross_entropy, judge, resident  # noqa: E402
from plot import Panel, chart  # noqa: E402
from server import Lossd, receive  # noqa: E402

CONNECTIONS, LARGE = 8, 2
SPARE_MIB, GROWTH_MIB = 16, 1


# How many of 1000 requests, and what. The last is as large as --max-body allows.
KINDS = (
    (600, as_json(4, 32)),
    (300, cross_entropy(32, 128)),
    (60, cross_entropy(128, 1000, "?reduction=none", {"Accept-Encoding": "gzip"})),
    (30, as_json(64, 1000)),
    (9, cross_entropy(64, 32000)),
    (1, cross_entropy(331, 50257)),
)


class Mixed(threading.Thread):
    """A connection that sends its share; `first` are the replies that the others must equal."""

    def __init__(self, lossd: Lossd, count: int, seed: int, first: list[bytes], large: threading.Semaphore) -> None:
        super().__init__()
        self.lossd, self.count, self.random = lossd, count, random.Random(seed)
        self.first, self.large = first, large
        self.done = self.wrong = 0

    def run(self) -> None:
        weights = [weight for weight, _ in KINDS]
        with self.lossd.connect() as s:
            for kind in self.random.choices(range(len(KINDS)), weights, k=self.count):
                # The largest are not all sent at once: the budget would refuse some, which is not what is asked here.
                if kind == len(KINDS) - 1:
                    with self.large:
                        self.one(s, kind)
                else:
                    self.one(s, kind)

    def one(self, s, kind: int) -> None:
        s.sendall(KINDS[kind][1])
        reply = receive(s)
        self.wrong += reply.status != 200 or reply.body != self.first[kind]
        self.done += 1


class Watch(threading.Thread):
    """Resident memory over time."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.begin = pid, time.monotonic()
        self.over = threading.Event()
        self.line: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.line.append((time.monotonic() - self.begin, resident(self.pid)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--client", default="build/release/tests/client")
    parser.add_argument("--mixed", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=1_000_000)
    parser.add_argument("--plot", help="write a chart there (SVG)")
    a = parser.parse_args()
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder, Lossd(a.lossd, "--log-level", "info") as lossd:
        pid = lossd.process.pid
        small = f"{folder}/small"
        pathlib.Path(small).write_bytes(KINDS[0][1])
        port = lossd.url.rsplit(":", 1)[1]

        def settled() -> float:
            time.sleep(2)
            return resident(pid)

        with lossd.connect() as s:
            first = []
            for _, sent in KINDS[:2]:
                s.sendall(sent)
                first.append(receive(s).body)
            start = settled()
            for _, sent in KINDS[2:]:
                s.sendall(sent)
                first.append(receive(s).body)
        watch = Watch(pid)
        watch.start()
        large = threading.Semaphore(LARGE)
        workers = [Mixed(lossd, a.mixed // CONNECTIONS, k, first, large) for k in range(CONNECTIONS)]
        began = time.monotonic()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took = time.monotonic() - began
        done, wrong = sum(w.done for w in workers), sum(w.wrong for w in workers)
        after = settled()
        most = max(mib for _, mib in watch.line)
        print(f"{done} mixed requests in {took:.0f} s, {wrong} wrong")
        print(f"resident: {start:.1f} MiB at the start, at most {most:.0f}, {after:.1f} when idle again")
        verdicts["all mixed requests answered, and right"] = wrong == 0 and done == a.mixed // CONNECTIONS * CONNECTIONS
        verdicts[f"memory within {SPARE_MIB} MiB of the start"] = after <= start + SPARE_MIB

        total, bad, levels = 0, 0, []
        while total < a.small:
            rate, *_, mistakes = Load(a.client, port, small, CONNECTIONS, 5).wait()
            total, bad = total + int(rate * 5), bad + int(mistakes)
            levels.append(settled())
        watch.over.set()
        watch.join()
        print(f"{total} small requests, {bad} wrong")
        print(f"resident: {levels[0]:.2f} MiB after the first part of them, {levels[-1]:.2f} after the last")
        verdicts["all small requests answered, and right"] = bad == 0
        verdicts[f"no growth from the first part of them to the last ({GROWTH_MIB} MiB is noise)"] = (
            levels[-1] - levels[0] <= GROWTH_MIB
        )
    if a.plot:
        title = f"{done} mixed requests, then {total} small ones"
        limit = ("start + 16 MiB", start + SPARE_MIB)
        pathlib.Path(a.plot).write_text(chart(title, "seconds", [Panel("MiB resident", {"lossd": watch.line}, limit)]))
    return judge(verdicts)


if __name__ == "__main__":
    sys.exit(main())
