#!/usr/bin/env python3
"""Requests and bytes per second, as wrk measures them on 16 connections in a closed loop: cross entropy with its
gradient, by shape, body format and number of workers.

    tests/load/capacity.py [--seconds 3] [--keep FOLDER]     with Debian's wrk; about a minute

--keep saves the request bodies and wrk's scripts in FOLDER, for use with other generators: see README.md."""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from kit import as_json, cross_entropy  # noqa: E402
from server import Lossd  # noqa: E402

SHAPES = ((32, 128), (32, 1000), (128, 4000), (128, 50257))
FORMATS = {"safetensors": ("application/x-safetensors", cross_entropy), "json": ("application/json", as_json)}
JSON_MAX = 600_000  # numbers: beyond, nobody should send text
SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "{media}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
"""
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


def load(lossd: Lossd, script: pathlib.Path, seconds: int) -> tuple[float, float, str]:
    """Requests a second, bytes received a second, p99."""
    url = lossd.url + "/v1/losses/cross_entropy"
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", str(script), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(text)
    number, unit = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]B)", text).groups()
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return rate, float(number) * UNITS[unit], re.search(r"99%\s+(\S+)", text)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--keep", help="leave the bodies and scripts in this folder")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = pathlib.Path(a.keep or passing).resolve()
        folder.mkdir(exist_ok=True)
        print("| shape | format | body | workers | requests/s | GB/s each way | p99 |")
        print("|---|---|---|---|---|---|---|")
        for rows, classes in SHAPES:
            for name, (media, make) in FORMATS.items():
                if name == "json" and rows * classes > JSON_MAX:
                    continue
                body = folder / f"{rows}x{classes}.{name}"
                body.write_bytes(make(rows, classes).partition(b"\r\n\r\n")[2])
                script = folder / f"{rows}x{classes}.{name}.lua"
                script.write_text(SCRIPT.format(media=media, body=body))
                for workers in (1, 2):
                    with Lossd(a.lossd, "--workers", str(workers), "--log-level", "info") as lossd:
                        rate, taken, p99 = load(lossd, script, a.seconds)
                    size = body.stat().st_size
                    kilobytes = f"{size / 1000:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
                    # Sent plus taken, halved: text is not as long in both directions.
                    each_way = (rate * size + taken) / 2e9
                    print(
                        f"| {rows}x{classes} | {name} | {kilobytes} | {workers} | {rate:.0f} | {each_way:.2f} | {p99} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
