#!/usr/bin/env python3
"""lossd under three times the load that it can serve: it answers the requests that it admits correctly, at about
its peak rate; it refuses the others at once; its memory stays within the budget.

    make load, or tests/load/overload.py [--seconds 60]

Two kinds of requests come in an open loop, one that computes for long (contrastive, every row with every
other) and one that is short, each at three times the rate that it reached alone beside the other.

Time in which the worker could have computed but another process had the processor counts neither at the peak nor at
overload: on few cores the clients, which then send three times as much, take it from the worker."""

from __future__ import annotations

import argparse
import pathlib
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from kit import Load, as_json, judge, resident  # noqa: E402
from server import Lossd, receive, request, safetensors  # noqa: E402

BUDGET_MIB, SPARE_MIB = 64, 32
REFUSAL_MS, GOODPUT = 10, 0.9


def long_request() -> bytes:
    rows, size = 600, 16
    data = struct.pack(f"<{rows * size}f", *(float((i * 7919) % 101 - 50) for i in range(rows * size)))
    labels = struct.pack(f"<{rows}q", *(i % 37 for i in range(rows)))
    body = safetensors([("embeddings", "F32", [rows, size], data), ("labels", "I64", [rows], labels)], {})
    return request("POST", "/v1/losses/supcon", {"Content-Type": "application/x-safetensors"}, body)


def kept_from(pid: int) -> float:
    """Seconds that the worker has waited for a processor."""
    (worker,) = (task for task in pathlib.Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid))
    return int((worker / "schedstat").read_text().split()[1]) * 1e-9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--client", default="build/release/tests/client")
    parser.add_argument("--seconds", type=float, default=60)
    a = parser.parse_args()
    flags = ["--workers", "1", "--queue-limit", "32", "--memory-budget", f"{BUDGET_MIB}MiB"]
    # The load's connections are opened at once; those that wait longer than usual to be used are not to be closed.
    flags += ["--header-timeout", "10m", "--idle-timeout", "10m"]
    with tempfile.TemporaryDirectory() as folder, Lossd(a.lossd, *flags) as lossd:
        port = lossd.url.rsplit(":", 1)[1]
        files = {"long": f"{folder}/long", "short": f"{folder}/short"}
        pathlib.Path(files["long"]).write_bytes(long_request())
        pathlib.Path(files["short"]).write_bytes(as_json(32, 128, ["loss"]))

        def both(
            seconds: float, connections: int, rates: dict[str, float]
        ) -> tuple[dict[str, list[float]], float]:
            """The figures of both kinds, and the share of the time that the worker had."""
            begin, before = time.monotonic(), kept_from(lossd.process.pid)
            loads = {
                name: Load(a.client, port, file, connections, seconds, rates.get(name, 0))
                for name, file in files.items()
            }
            figures = {name: load.wait() for name, load in loads.items()}
            return figures, 1 - (kept_from(lossd.process.pid) - before) / (time.monotonic() - begin)

        with lossd.connect() as s:  # the worker begins with its first request
            s.sendall(long_request())
            receive(s)
        both(1, 2, {})  # warm
        alone, most_share = both(min(10, a.seconds), 2, {})
        peak = {name: figures[0] for name, figures in alone.items()}
        most = [0.0]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                most[0] = max(most[0], resident(lossd.process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.monotonic()
        got, share = both(a.seconds, 200, {name: 3 * rate for name, rate in peak.items()})
        took = time.monotonic() - start
        over.set()
        watcher.join()
        with lossd.connect() as s:
            s.sendall(request("GET", "/readyz"))
            ready = receive(s).status
    print(f"{took:.0f} s at three times the peak, one worker, open loop, 2 x 200 connections")
    print(f"{'':8}{'peak /s':>9}{'asked /s':>9}{'done /s':>9}{'p99 ms':>9}{'refused /s':>11}{'p99 ms':>8}{'longest':>9}")
    # A long request weighs as much more than a short one as it took at the peak.
    weight = {"long": peak["short"] / peak["long"], "short": 1.0}
    for name, (rate, _, p99, _, refused, refused_p99, longest, _) in got.items():
        print(
            f"{name:8}{peak[name]:9.0f}{3 * peak[name]:9.0f}{rate:9.0f}{p99:9.1f}{refused:11.0f}{refused_p99:8.2f}"
            f"{longest:9.2f}"
        )
    goodput = sum(got[n][0] * weight[n] for n in got) / sum(peak[n] * weight[n] for n in got)
    print(f"{goodput:.2f} of the peak; the worker had a processor {share:.0%} of its time, {most_share:.0%} at the peak")
    goodput *= most_share / share
    print(f"goodput {goodput:.2f} of the peak; resident at most {most[0]:.0f} MiB, budget {BUDGET_MIB} MiB")
    verdicts = {
        f"goodput is at least {GOODPUT} of the peak": goodput >= GOODPUT,
        "some were refused": all(figures[4] > 0 for figures in got.values()),
        f"refusals within {REFUSAL_MS} ms (p99)": all(figures[5] <= REFUSAL_MS for figures in got.values()),
        "all answers right": all(figures[7] == 0 for figures in got.values()),
        f"memory within the budget and {SPARE_MIB} MiB": most[0] <= BUDGET_MIB + SPARE_MIB,
        "ready afterwards": ready == 200,
    }
    return judge(verdicts)


if __name__ == "__main__":
    sys.exit(main())
