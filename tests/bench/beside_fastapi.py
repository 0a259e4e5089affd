#!/usr/bin/env python3
"""lossd, with two event loops and two workers, compared with what a team would write instead: FastAPI with two uvicorn
workers, PyTorch and safetensors (fastapi_service.py), on the same cores, with the same requests, alternating. An echo of
the same bytes by the same client (echo.c) says how much sooner a service could be that takes no time itself.

    PYTHONPATH=api/python tests/bench/beside_fastapi.py [--chroot /srv/sid]

There python3-fastapi, -uvicorn, -torch and -safetensors are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

import lossd
import numpy as np
from service import (
    CLASSES,
    ROWS,
    Client,
    Server,
    in_turns,
    logits,
    post,
    processor_time,
    safetensors,
    small_rate,
    targets,
)

TWO = ("--workers", "2", "--loops", "2")
SCRIPT = pathlib.Path(__file__).parent / "fastapi_service.py"


class Other:
    """uvicorn with two workers: on a free port of 127.0.0.1, or on a Unix socket."""

    def __init__(self, chroot: str | None, folder: str | None = None) -> None:
        inside = ["chroot", chroot] if chroot else []
        self.address = f"unix:{folder}/uvicorn" if folder else str(free_port())
        where = ["--uds", f"{folder}/uvicorn"[len(chroot or "") :]] if folder else ["--port", self.address]
        scripts = SCRIPT.parent
        if chroot:
            shutil.copy(SCRIPT, f"{chroot}/tmp/{SCRIPT.name}")
            scripts = pathlib.Path("/tmp")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_") and k != "PYTHONPATH"}
        command = [*inside, "python3", "-m", "uvicorn", "--app-dir", str(scripts), f"{SCRIPT.stem}:app", "--workers", "2"]
        self.process = subprocess.Popen([*command, *where, "--log-level", "warning", "--no-access-log"], env=clean)
        for _ in range(600):
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                Client(self.address, 1).socket.close()
                return
            time.sleep(0.1)
        raise SystemExit("uvicorn did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def of_fastapi(request: bytes) -> bytes:
    return request.replace(b"/v1/losses/cross_entropy", b"/cross_entropy", 1)


class Region:
    """The logits and their gradient in memory that is shared with lossd: lossd's Python client."""

    def __init__(self, url: str, rows: int, classes: int) -> None:
        self.client = lossd.Client(url)
        self.logits = self.client.empty((rows, classes))
        self.logits.array[:] = np.frombuffer(logits("F32", rows, classes), "f4").reshape(rows, classes)
        self.targets = np.frombuffer(targets(rows, classes), "i8")

    def time(self, _: bytes) -> float:
        begun = time.perf_counter()
        self.client.cross_entropy(self.logits.array, self.targets, in_place=["logits"])
        return time.perf_counter() - begun


def taken(pid: int) -> float:
    """Processor time of a process and its children, in seconds."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    children = {int(child) for t in tasks for child in (t / "children").read_text().split()}
    return processor_time(pid) + sum(taken(child) for child in children)


def rates(a: argparse.Namespace, folder: str) -> None:
    request = safetensors("F32", 32, 128)
    servers = {"lossd": Server(a.lossd, folder, *TWO), "fastapi": Other(a.chroot)}
    each: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    try:
        for _ in range(a.rounds + 1):
            for name, server in servers.items():
                address, sent = (server.port, request) if name == "lossd" else (server.address, of_fastapi(request))
                before, begun = taken(server.process.pid), time.monotonic()
                rate = small_rate(f"{a.tools}/client", folder, address, sent, 32, a.seconds)
                count = rate * (time.monotonic() - begun)
                each[name].append((rate, (taken(server.process.pid) - before) / count * 1e6))
    finally:
        for server in servers.values():
            server.stop()
    for k, what, unit in ((0, "32x128, 32 connections, TCP", "/s"), (1, "the same: processor time of a request", "us")):
        ours, theirs = ([sample[k] for sample in each[name][1:]] for name in servers)  # the first warms both up
        ratio = statistics.median(x / y if k == 0 else y / x for x, y in zip(ours, theirs))
        mine, other = statistics.median(ours), statistics.median(theirs)
        print(f"{what:41} {mine:7.0f} {unit} {other:9.0f} {unit} {ratio:7.1f} x")


def times(a: argparse.Namespace, folder: str, unix: bool) -> None:
    request = safetensors("F32", ROWS, CLASSES)
    mine, other = Server(a.lossd, folder, *TWO), Other(a.chroot, folder if unix else None)
    echo = Server(f"{a.tools}/echo", folder)
    try:
        turns = {
            "lossd": (Client(mine.unix if unix else mine.port), request),
            "fastapi": (Client(other.address), of_fastapi(request)),
            "echo": (Client(echo.unix if unix else echo.port), post("/echo", request.split(b"\r\n\r\n", 1)[1])),
        }
        if unix:
            turns["region"] = (Region(mine.unix, ROWS, CLASSES), b"")
        in_turns(turns, 2)
        t = in_turns(turns, 2 * a.rounds)
        where = "Unix socket" if unix else "TCP"
        names = {"lossd": where, "echo": f"{where}, an echo", "region": "shared memory, Python client"}
        for name in [name for name in turns if name != "fastapi"]:
            print(f"{f'{ROWS}x{CLASSES}, {names[name]}':43} {t[name] * 1e3:5.1f} ms {t['fastapi'] * 1e3:9.1f} ms {t['fastapi'] / t[name]:7.1f} x")
    finally:
        mine.stop()
        other.stop()
        echo.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--tools", default="build/release/tests", help="where client is")
    parser.add_argument("--chroot", help="a root folder with what FastAPI needs; as root")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1)
    a = parser.parse_args()
    print("f32, loss and gradient, two workers each    lossd      FastAPI     ratio")
    with tempfile.TemporaryDirectory(dir=f"{a.chroot or ''}/tmp") as folder:
        rates(a, folder)
        times(a, folder, False)
        times(a, folder, True)


if __name__ == "__main__":
    main()
