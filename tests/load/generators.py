#!/usr/bin/env python3
"""What load generators that people have say about lossd: wrk, h2load and hey of Debian, autocannon and artillery of npm,
and tests/bench/client.c. Each has 16 connections in a closed loop, and the same request: cross entropy of 32x128 f32
with its gradient, as safetensors.

    tests/load/generators.py [--seconds 3] [--modules FOLDER]

FOLDER is one into which npm has installed what tests/load/package.json names. What is not there is left out, and said.
A generator that sees a reply other than 200 makes the exit code 1."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from kit import Load, cross_entropy  # noqa: E402
from server import Lossd  # noqa: E402

CONNECTIONS, MEDIA = 16, "application/x-safetensors"
MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Result(NamedTuple):
    rate: float  # requests a second
    p50: float  # ms
    p99: float
    wrong: int  # replies other than 200, and requests without one


class Setting(NamedTuple):
    url: str
    folder: pathlib.Path  # has `body`, and `request` with a head before it
    seconds: int
    client: str
    modules: pathlib.Path | None

    @property
    def body(self) -> str:
        return str(self.folder / "body")


def output(*command: str, cwd: pathlib.Path | None = None) -> str:
    env = {**os.environ, "ARTILLERY_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def in_ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * MS[unit]


def wrk(s: Setting) -> Result:
    script = s.folder / "wrk.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "{MEDIA}"\n'
        f'local file = io.open("{s.body}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
    )
    text = output("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{s.seconds}s", "--latency", "-s", str(script), s.url)
    wrong = re.findall(r"Non-2xx or 3xx responses: (\d+)", text)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    p50, p99 = (in_ms(re.search(rf"^\s+{p}%\s+(\S+)", text, re.MULTILINE)[1]) for p in (50, 99))
    return Result(rate, p50, p99, int(wrong[0]) if wrong else 0)


def h2load(s: Setting) -> Result:
    log = s.folder / "h2load.log"
    log.unlink(missing_ok=True)
    text = output(
        "h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-D{s.seconds}", "-d", s.body, "-H", f"Content-Type: {MEDIA}",
        f"--log-file={log}", s.url,
    )  # fmt: skip
    times = sorted(int(line.split()[2]) / 1e3 for line in log.read_text().splitlines())
    good = int(re.search(r"status codes: (\d+) 2xx", text)[1])
    rate = float(re.search(r"([\d.]+) req/s", text)[1])
    return Result(rate, times[len(times) // 2], times[len(times) * 99 // 100], len(times) - good)


def hey(s: Setting) -> Result:
    text = output("hey", "-z", f"{s.seconds}s", "-c", str(CONNECTIONS), "-m", "POST", "-T", MEDIA, "-D", s.body, s.url)
    counts = {int(code): int(n) for code, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    p50, p99 = (1e3 * float(re.search(rf"{p}%\s+in ([\d.]+) secs", text)[1]) for p in (50, 99))
    return Result(rate, p50, p99, sum(n for code, n in counts.items() if code != 200))


AUTOCANNON = """
const { readFileSync } = require("node:fs");
const [url, body, connections, duration] = process.argv.slice(1);
const options = { url, method: "POST", body: readFileSync(body), headers: { "content-type": "%s" } };
require("autocannon")({ ...options, connections: Number(connections), duration: Number(duration) })
  .then(({ requests, latency, non2xx, errors }) =>
    console.log(JSON.stringify([requests.average, latency.p50, latency.p99, non2xx + errors])));
"""


def autocannon(s: Setting) -> Result:
    command = ["node", "-e", AUTOCANNON % MEDIA, s.url, s.body, str(CONNECTIONS), str(s.seconds)]
    return Result(*json.loads(output(*command, cwd=s.modules)))


def artillery(s: Setting) -> Result:
    """16 virtual users, each of which sends one request after the other; so many that it takes about as long."""
    each = 60 * s.seconds
    base, path = s.url.rsplit("/v1", 1)
    post = {"url": "/v1" + path, "beforeRequest": "setBody", "headers": {"content-type": MEDIA}}
    script = {
        "config": {
            "target": base,
            "processor": "./artillery.cjs",
            "http": {"timeout": 30},
            "phases": [{"duration": 1, "arrivalCount": CONNECTIONS}],
        },
        "scenarios": [{"flow": [{"loop": [{"post": post}], "count": each}]}],
    }
    (s.folder / "artillery.json").write_text(json.dumps(script))
    (s.folder / "artillery.cjs").write_text(
        f"const body = require('node:fs').readFileSync({json.dumps(s.body)});\n"
        "module.exports = { setBody(request, context, events, next) { request.body = body; next(); } };\n"
    )
    program = str(s.modules.resolve() / "node_modules/.bin/artillery")
    output(program, "run", "--quiet", "--output", "artillery.out", "artillery.json", cwd=s.folder)
    said = json.loads((s.folder / "artillery.out").read_text())["aggregate"]
    good, times = said["counters"].get("http.codes.200", 0), said["summaries"]["http.response_time"]
    seconds = (said["lastMetricAt"] - said["firstMetricAt"]) / 1e3
    return Result(good / max(seconds, 1e-3), times["p50"], times["p99"], CONNECTIONS * each - good)


def client(s: Setting) -> Result:
    port = re.search(r":(\d+)/", s.url)[1]
    rate, p50, p99, _, refused, *_, different = Load(
        s.client, port, str(s.folder / "request"), CONNECTIONS, s.seconds
    ).wait()
    return Result(rate, p50, p99, int(refused * s.seconds + different))


GENERATORS: dict[str, tuple[Callable[[Setting], Result], str]] = {
    "tests/bench/client": (client, ""),
    "wrk": (wrk, "wrk"),
    "h2load": (h2load, "h2load"),
    "hey": (hey, "hey"),
    "autocannon": (autocannon, "npm"),
    "artillery": (artillery, "npm"),
}


def is_there(name: str, needs: str, modules: pathlib.Path | None) -> bool:
    if needs == "npm":
        return modules is not None and (modules / "node_modules" / name).is_dir()
    return not needs or shutil.which(needs) is not None


def measure(lossd: Lossd, client_path: str, seconds: int, modules: pathlib.Path | None) -> dict[str, Result | None]:
    """What each says; None: it is not there."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        request = cross_entropy(32, 128)
        (folder / "request").write_bytes(request)
        (folder / "body").write_bytes(request.partition(b"\r\n\r\n")[2])
        setting = Setting(lossd.url + "/v1/losses/cross_entropy", folder, seconds, client_path, modules)
        return {
            name: run(setting) if is_there(name, needs, modules) else None
            for name, (run, needs) in GENERATORS.items()
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--client", default="build/release/tests/client")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--modules", type=pathlib.Path)
    a = parser.parse_args()
    with Lossd(a.lossd) as lossd:
        results = measure(lossd, a.client, a.seconds, a.modules)
    print(f"{'':<20}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'wrong':>7}")
    for name, r in results.items():
        print(f"{name:<20}" + (f"{r.rate:11.0f}{r.p50:9.2f}{r.p99:9.2f}{r.wrong:7}" if r else "  left out: not there"))
    return int(any(r and r.wrong for r in results.values()))


if __name__ == "__main__":
    sys.exit(main())
