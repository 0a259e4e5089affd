#!/usr/bin/env python3
"""lossd compared with what a team would write instead: FastAPI with two uvicorn workers, PyTorch and safetensors
(fastapi_service.py), on the same cores, with the same requests, alternating.

    tests/bench/beside_fastapi.py [--chroot /srv/sid]     where python3-fastapi, -uvicorn, -torch and -safetensors are
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from service import Client, Server, in_turns, safetensors, small_rate

SCRIPT = pathlib.Path(__file__).parent / "fastapi_service.py"


class Other:
    """uvicorn with two workers on a free port of 127.0.0.1."""

    def __init__(self, chroot: str | None) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = str(s.getsockname()[1])
        folder = SCRIPT.parent
        inside = []
        if chroot:
            shutil.copy(SCRIPT, f"{chroot}/tmp/{SCRIPT.name}")
            folder = pathlib.Path("/tmp")
            inside = ["chroot", chroot]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_") and k != "PYTHONPATH"}
        command = [*inside, "python3", "-m", "uvicorn", "--app-dir", str(folder), f"{SCRIPT.stem}:app", "--workers", "2"]
        command += ["--port", self.port, "--log-level", "warning", "--no-access-log"]
        self.process = subprocess.Popen(command, env=clean)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", int(self.port))).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.1)
        raise SystemExit("uvicorn did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def of_fastapi(request: bytes) -> bytes:
    return request.replace(b"/v1/losses/cross_entropy", b"/cross_entropy", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--tools", default="build/release/tests", help="where client is")
    parser.add_argument("--chroot", help="a root folder with what FastAPI needs; as root")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lossd, other = Server(a.lossd, folder, "--workers", "2"), Other(a.chroot)
        try:
            little, large = safetensors("F32", 32, 128), safetensors("F32", 128, 50257)
            requests = {"lossd": little, "fastapi": of_fastapi(little)}
            ports = {"lossd": lossd.port, "fastapi": other.port}
            rates: dict[str, list[float]] = {"lossd": [], "fastapi": []}
            for i in range(a.rounds + 1):
                for name, request in requests.items():
                    rate = small_rate(f"{a.tools}/client", folder, ports[name], request, 32, a.seconds)
                    rates[name] += [rate] if i else []  # the first warms both up
            ours, theirs = (statistics.median(rates[name]) for name in ("lossd", "fastapi"))
            each = [x / y for x, y in zip(rates["lossd"], rates["fastapi"])]
            print("two workers each, TCP              lossd     FastAPI       ratio")
            print(f"32x128 f32, 32 connections   {ours:8.0f} /s {theirs:8.0f} /s {statistics.median(each):8.1f}x")
            turns = {
                "lossd": (Client(lossd.port), large),
                "fastapi": (Client(other.port), of_fastapi(large)),
            }
            in_turns(turns, 2)
            t = in_turns(turns, 2 * a.rounds)
            ratio = t["fastapi"] / t["lossd"]
            print(f"128x50257 f32, one at a time {t['lossd'] * 1e3:8.1f} ms {t['fastapi'] * 1e3:8.1f} ms {ratio:8.1f}x")
        finally:
            lossd.stop()
            other.stop()


if __name__ == "__main__":
    main()
