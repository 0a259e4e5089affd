#!/usr/bin/env python3
"""How lossd behaves from idle to more than it can do, as one page to look at: an open loop (tests/bench/client.c) offers
10 % to 150 % of what a closed loop reached, and what load generators say (generators.py) stands beside.

    make load, or tests/load/report.py [--seconds 4] [--modules FOLDER] [--page build/release/load.html]

The page loads nothing and runs nothing: two charts and two tables. Exit code 1 if a reply was wrong."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import platform
import sys
import tempfile
import time
from html import escape
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from generators import Result, measure  # noqa: E402
from kit import Load, cross_entropy  # noqa: E402
from plot import Panel, chart  # noqa: E402
from server import Lossd, receive, request  # noqa: E402

CONNECTIONS = 64
SHARES = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
CURVES = (0.1, 0.5, 0.8, 0.9, 1.0)  # those whose latencies are drawn by percentile
POINTS = 100
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
svg{width:100%;height:auto;margin:1rem 0}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #8884}th:first-child,td:first-child{text-align:left}
div{overflow-x:auto}@media(prefers-color-scheme:dark){body{color:#ddd;background:#16181c}}"""


class Step(NamedTuple):
    offered: float  # requests a second
    done: float
    p50: float  # ms, from when a request was due
    p99: float
    longest: float
    refused: float  # a second
    wrong: int
    curve: list[float]


def step(client: str, port: str, file: str, seconds: float, rate: float) -> Step:
    load = Load(client, port, file, CONNECTIONS, seconds, rate, POINTS)
    done, p50, p99, longest, refused, _, _, different, *curve = load.wait()
    return Step(rate or done, done, p50, p99, longest, refused, int(different), curve)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<div><table>\n<thead>{line(head, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table></div>"


def by_percentile(steps: dict[float, Step]) -> str:
    lines = {}
    for share, s in steps.items():
        if share in CURVES:
            last = math.log10(1 / 0.8912509381337456)
            lines[f"{share:.0%}"] = [(k * last, max(ms, 1e-3)) for k, ms in enumerate(s.curve)]
    nines = max(x for line in lines.values() for x, _ in line)
    marks = {float(i): f"{100 - 10 ** (2 - i):.{max(0, i - 2)}f} %" for i in range(math.floor(nines) + 1)}
    return chart("Latency by percentile", "share of the requests that took no longer",
                 [Panel("ms from when a request was due, by the share of the capacity that is offered", lines, None, True)],
                 marks)  # fmt: skip


def by_load(steps: dict[float, Step]) -> str:
    every = list(steps.values())
    return chart(
        "Throughput and latency against the offered load",
        "requests a second that are due",
        [
            Panel(
                "requests a second",
                {
                    "offered": [(s.offered, s.offered) for s in every],
                    "answered": [(s.offered, s.done) for s in every],
                    "refused": [(s.offered, s.refused) for s in every],
                },
            ),
            Panel(
                "ms",
                {"p50": [(s.offered, s.p50) for s in every], "p99": [(s.offered, s.p99) for s in every]},
                None,
                True,
            ),
        ],
    )


def processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def page(a: argparse.Namespace, peak: Step, steps: dict[float, Step], others: dict[str, Result | None], busy: float) -> str:
    cores = os.cpu_count() or 1
    loads = [
        (f"{share:.0%}", f"{s.offered:.0f}", f"{s.done:.0f}", f"{s.p50:.2f}", f"{s.p99:.2f}", f"{s.longest:.1f}",
         f"{s.refused:.0f}", str(s.wrong))
        for share, s in steps.items()
    ]  # fmt: skip
    tools = [
        (name, f"{r.rate:.0f}", f"{r.p50:.2f}", f"{r.p99:.2f}", str(r.wrong)) if r else (name, "left out", "", "", "")
        for name, r in others.items()
    ]
    beside = f" Other processes took part in it: the load average was {busy:.1f} before." if busy > cores / 4 else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>lossd under load</title>
<style>{STYLE}</style>
<h1>lossd under load</h1>
<p>Cross entropy of 32x128 f32 with its gradient, as safetensors over loopback TCP, {time.strftime("%Y-%m-%d", time.gmtime())}.
{cores} cores of {escape(processor())}, which ran lossd ({a.workers} workers) and the load alike.{beside}
In a closed loop {CONNECTIONS} connections reached {peak.done:.0f} requests a second (p50 {peak.p50:.2f} ms, p99
{peak.p99:.2f}): the capacity, of which an open loop then offered a share for {a.seconds:g} s each. Latency counts from
when a request was due, so that waiting for a free connection counts.</p>
{by_percentile(steps)}
{by_load(steps)}
{table(("offered", "a second", "answered", "p50 ms", "p99 ms", "longest", "refused", "wrong"), loads)}
<h2>What load generators say</h2>
<p>The same request on 16 connections in a closed loop. A generator that needs more of the processor than lossd does
shows its own limit.</p>
{table(("generator", "requests/s", "p50 ms", "p99 ms", "wrong"), tools)}
<p>Made by tests/load/report.py.</p>
</html>
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--client", default="build/release/tests/client")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--modules", type=pathlib.Path)
    parser.add_argument("--page", type=pathlib.Path, default=pathlib.Path("build/release/load.html"))
    a = parser.parse_args()
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, Lossd(a.lossd, "--workers", str(a.workers)) as lossd:
        port, file = lossd.url.rsplit(":", 1)[1], f"{folder}/request"
        pathlib.Path(file).write_bytes(cross_entropy(32, 128))
        step(a.client, port, file, 1, 0)  # warm
        peak = step(a.client, port, file, a.seconds, 0)
        steps = {share: step(a.client, port, file, a.seconds, share * peak.done) for share in SHARES}
        others = measure(lossd, a.client, max(2, round(a.seconds)), a.modules)
        with lossd.connect() as s:
            s.sendall(request("GET", "/readyz"))
            ready = receive(s).status == 200
    a.page.parent.mkdir(parents=True, exist_ok=True)
    a.page.write_text(page(a, peak, steps, others, busy))
    wrong = sum(s.wrong for s in steps.values()) + sum(r.wrong for r in others.values() if r)
    print(f"{a.page}: {peak.done:.0f} requests a second at most, {wrong} wrong, {'ready' if ready else 'NOT READY'} after")
    return int(wrong > 0 or not ready)


if __name__ == "__main__":
    sys.exit(main())
