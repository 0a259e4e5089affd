"""What the scripts of this folder share: requests, load generation, the memory of a process, and reporting."""

from __future__ import annotations

import json
import pathlib
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from server import request, safetensors  # noqa: E402


def cross_entropy(rows: int, classes: int, query: str = "", headers: dict[str, str] | None = None) -> bytes:
    some = struct.pack("<997f", *(((i * 7919) % 997) / 128 - 4 for i in range(997)))
    logits = (some * (rows * classes // 997 + 1))[: 4 * rows * classes]
    targets = struct.pack(f"<{rows}q", *(i % classes for i in range(rows)))
    body = safetensors([("logits", "F32", [rows, classes], logits), ("targets", "I64", [rows], targets)], {})
    head = {"Content-Type": "application/x-safetensors", **(headers or {})}
    return request("POST", "/v1/losses/cross_entropy" + query, head, body)


def as_json(rows: int, classes: int, outputs: list[str] | None = None) -> bytes:
    logits = [[(i * 31 + j * 17) % 13 / 4 for j in range(classes)] for i in range(rows)]
    body: dict[str, object] = {"inputs": {"logits": logits, "targets": [i % classes for i in range(rows)]}}
    if outputs:
        body["outputs"] = outputs
    text = json.dumps(body).encode()
    return request("POST", "/v1/losses/cross_entropy", {"Content-Type": "application/json"}, text)


class Load:
    """tests/bench/client.c at work; wait gives what it printed."""

    def __init__(
        self, client: str, address: str, file: str, connections: int, seconds: float, rate: float = 0, curve: int = 0
    ) -> None:
        command = [client, address, file, str(connections), str(seconds)]
        command += [str(rate)] if rate or curve else []
        command += [str(curve)] if curve else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait(self) -> list[float]:
        out, _ = self.process.communicate()
        if self.process.returncode != 0:
            raise SystemExit("a client failed")
        return [float(x) for x in out.split()]


def resident(pid: int) -> float:
    """MiB."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024


def judge(verdicts: dict[str, bool]) -> int:
    """Print them; the exit code."""
    for sentence, holds in verdicts.items():
        print(f"{'ok    ' if holds else 'FAILED'}  {sentence}")
    failed = list(verdicts.values()).count(False)
    print(f"{len(verdicts) - failed} passed, {failed} failed")
    return int(failed > 0)
