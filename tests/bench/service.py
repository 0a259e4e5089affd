#!/usr/bin/env python3
"""lossd compared with an echo of the same bytes through the same HTTP code, and its body formats with each other.

Large requests alternate, on one connection each, and medians are compared. Small ones are sent by
tests/bench/client.c, alternating every few seconds.
"""

from __future__ import annotations

import argparse
import array
import base64
import gzip
import json
import os
import pathlib
import random
import re
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

ROWS, CLASSES = 128, 50257


def logits(dtype: str, rows: int, classes: int) -> bytes:
    """Random ones; the first 50257 of them again and again."""
    count = rows * classes
    few = array.array("f", (random.gauss(0, 2) for _ in range(min(count, CLASSES))))
    if dtype == "BF16":  # the upper halves
        few = array.array("H", few.tobytes())[1::2]
    return (few.tobytes() * (count // len(few) + 1))[: count * few.itemsize]


def targets(rows: int, classes: int) -> bytes:
    return array.array("q", (i * 7919 % classes for i in range(rows))).tobytes()


def post(path: str, body: bytes, head: int | None = None, media: str = "", coding: str = "") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}"]
    lines += [f"Inference-Header-Content-Length: {head}"] if head else []
    lines += [f"Content-Type: {media}"] if media else []
    lines += [f"Content-Encoding: {coding}", f"Accept-Encoding: {coding}"] if coding else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def safetensors(dtype: str, rows: int, classes: int, query: str = "") -> bytes:
    x, y = logits(dtype, rows, classes), targets(rows, classes)
    header = {
        "logits": {"dtype": dtype, "shape": [rows, classes], "data_offsets": [0, len(x)]},
        "targets": {"dtype": "I64", "shape": [rows], "data_offsets": [len(x), len(x) + len(y)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = struct.pack("<Q", len(text)) + text + x + y
    return post(f"/v1/losses/cross_entropy{query}", body, media="application/x-safetensors")


def oip(dtype: str, rows: int, classes: int) -> bytes:
    x, y = logits(dtype, rows, classes), targets(rows, classes)

    def tensor(name: str, datatype: str, shape: list[int], data: bytes) -> dict:
        parameters = {"binary_data_size": len(data)}
        return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}

    head = {
        "parameters": {"binary_data_output": True},
        "inputs": [
            tensor("logits", {"F32": "FP32"}.get(dtype, dtype), [rows, classes], x),
            tensor("targets", "INT64", [rows], y),
        ],
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return post("/v2/models/cross_entropy/infer", text + x + y, head=len(text))


def in_text(rows: int, classes: int, bits: bool) -> bytes:
    """The body of a JSON request, with as many digits as f32 needs, or base64."""
    x, y = logits("F32", rows, classes), [i * 7919 % classes for i in range(rows)]
    if bits:
        tensor: dict = {"dtype": "f32", "shape": [rows, classes], "base64": base64.b64encode(x).decode()}
        text = json.dumps(tensor, separators=(",", ":"))
    else:
        numbers = [f"{value:.9g}" for value in array.array("f", x)]
        each = [",".join(numbers[i * classes : (i + 1) * classes]) for i in range(rows)]
        text = f"[[{'],['.join(each)}]]"
    return f'{{"inputs":{{"logits":{text},"targets":{json.dumps(y)}}}}}'.encode()


# What a client sends or receives in one system call: within one, kernels without preemption let nothing else run, be it
# the load generator of small requests on the same processor. After each it yields: a thread that has just run is not
# preferred when it wakes up, and would wait for a tick of 4 ms.
PART = 1 << 18


class Client:
    """One connection; replies are read into one piece of memory and dropped."""

    reply = 0  # bytes of the last one's body

    def __init__(self, address: str, most: int = 1 << 28) -> None:
        self.memory = bytearray(most)
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
            self.socket.connect(address[5:])
        else:
            self.socket = socket.create_connection(("127.0.0.1", int(address)))

    def time(self, request: bytes) -> float:
        start = time.perf_counter()
        view, size, end = memoryview(request), 0, None
        while size < len(request):
            size += self.socket.send(view[size : size + PART])
            os.sched_yield()
        view, size = memoryview(self.memory), 0
        while end is None or size < end:
            n = self.socket.recv_into(view[size : size + PART])
            assert n > 0, "closed"
            os.sched_yield()
            size += n
            if end is None and (at := self.memory.find(b"\r\n\r\n", 0, min(size, 4096))) > 0:
                head = bytes(self.memory[:at]).decode().lower()
                assert " 200 " in head.split("\r\n")[0], head
                self.reply = int(head.split("\ncontent-length:")[1].split("\r")[0])
                end = at + 4 + self.reply
        return time.perf_counter() - start


class Server:
    count = 0

    def __init__(self, program: str, folder: str, *flags: str) -> None:
        Server.count += 1
        self.unix = f"unix:{folder}/{Server.count}.sock"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = str(s.getsockname()[1])
        listen = ["--listen", self.unix, "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen([program, *listen, "--log-level", "error", *flags])
        for _ in range(100):
            if os.path.exists(self.unix[5:]):
                return
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def in_turns(timed: dict[str, tuple[Client, bytes]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (client, request) in timed.items():
            times[name].append(client.time(request))
    return {name: statistics.median(t) for name, t in times.items()}


def large(lossd: Server, echo: Server, rounds: int) -> None:
    print(f"\n{ROWS}x{CLASSES} cross_entropy with its gradient, beside an echo of the same bytes")
    print(f"{'':14} {'echo':>9} {'safetensors':>16} {'OIP':>16} {'bf16':>16}")
    f32, bf16 = safetensors("F32", ROWS, CLASSES), safetensors("BF16", ROWS, CLASSES)
    v2 = oip("F32", ROWS, CLASSES)
    nothing = post("/echo", f32.split(b"\r\n\r\n", 1)[1])
    for name in ("TCP", "Unix socket"):
        a, b = (lossd.port, echo.port) if name == "TCP" else (lossd.unix, echo.unix)
        turns = {
            "echo": (Client(b), nothing),
            "f32": (Client(a), f32),
            "oip": (Client(a), v2),
            "bf16": (Client(a), bf16),
        }
        t = in_turns(turns, rounds)

        def beside(k: str, of: str) -> str:
            return f"{t[k] * 1e3:7.1f} ms {t[k] / t[of]:5.2f}x"

        print(
            f"{name:14} {t['echo'] * 1e3:6.1f} ms {beside('f32', 'echo'):>16} "
            f"{beside('oip', 'f32'):>16} {beside('bf16', 'f32'):>16}"
        )
    print("(safetensors as a multiple of the echo; OIP and bf16 as multiples of safetensors f32)")


def formats(lossd: Server, rounds: int) -> None:
    rows, classes = 32, 1000
    print(f"\n{rows}x{classes} cross_entropy with its gradient in each format, TCP, bodies made beforehand")
    print(f"{'':22} {'request':>11} {'reply':>11} {'time':>16}")
    path = "/v1/losses/cross_entropy"
    text = in_text(rows, classes, False)
    requests = {
        "safetensors": safetensors("F32", rows, classes),
        "safetensors, bf16": safetensors("BF16", rows, classes),
        "OIP, raw": oip("F32", rows, classes),
        "JSON": post(path, text),
        "JSON, base64 in": post(path, in_text(rows, classes, True)),
        "JSON, gzip both ways": post(path, gzip.compress(text, 1), coding="gzip"),
    }
    client, base = Client(lossd.port), 0.0
    for name, request in requests.items():  # not in turns: a slow one would empty the caches for the next
        t = in_turns({name: (client, request)}, 5 * rounds)[name]
        base = base or t
        sent = len(request.split(b"\r\n\r\n", 1)[1])
        beside = f"{t * 1e3:7.2f} ms {t / base:5.1f}x"
        print(f"{name:22} {sent / 1e3:8.0f} kB {client.reply / 1e3:8.0f} kB {beside:>16}")


def batches(lossd: Server, rounds: int) -> None:
    print("\ncross_entropy by the rows of a request, safetensors, one connection on a Unix socket")
    print(f"{'':10} {'with gradient':>15} {'loss only':>15} {'a row, with gradient':>22}")
    client = Client(lossd.unix)
    for rows, classes in ((1, 128), (32, 128), (1024, 128), (1, CLASSES), (128, CLASSES)):
        grad, loss = (
            in_turns({"": (client, safetensors("F32", rows, classes, query))}, 5 * rounds)[""] * 1e6
            for query in ("", "?outputs=loss")
        )
        print(f"{rows:>4}x{classes:<5} {grad:12.0f} us {loss:12.0f} us {grad / rows:19.1f} us")


def status(pid: int, name: str) -> float:
    """A line of the kernel's account of a process, in MiB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().split("\n")
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":"))) / 1024


def memory(lossd: str, folder: str) -> None:
    """What one evaluation takes at its peak, above what the process had: the first of its kind, and
    the second."""
    print("\npeak memory of one evaluation on top of what lossd had, in MiB; one worker")
    print(f"{'':28} {'in':>7} {'out':>7} {'tensors':>8} {'first':>8} {'second':>8}")
    path, big = "/v1/losses/cross_entropy", (ROWS, CLASSES)
    requests = {
        "safetensors f32 128x50257": (safetensors("F32", *big), 4 * ROWS * CLASSES),
        "safetensors bf16 128x50257": (safetensors("BF16", *big), 2 * ROWS * CLASSES),
        "OIP, raw, f32 128x50257": (oip("F32", *big), 4 * ROWS * CLASSES),
        "JSON 128x10000": (post(path, in_text(128, 10000, False)), 4 * 128 * 10000),
        "JSON, base64 in, 128x10000": (post(path, in_text(128, 10000, True)), 4 * 128 * 10000),
    }
    for name, (request, tensors) in requests.items():
        server = Server(lossd, folder, "--workers", "1")
        client = Client(server.unix)
        client.time(safetensors("F32", 1, 8))
        taken = []
        for _ in range(2):
            before = status(server.process.pid, "VmRSS")
            pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # forget the peak
            client.time(request)
            taken.append(status(server.process.pid, "VmHWM") - before)
            time.sleep(1.5)  # it gives memory back when all is quiet
        sent = len(request.split(b"\r\n\r\n", 1)[1])
        sizes = " ".join(f"{n / 2**20:{w}.1f}" for n, w in ((sent, 7), (client.reply, 7), (tensors, 8)))
        print(f"{name:28} {sizes} {taken[0]:8.1f} {taken[1]:8.1f}")
        server.stop()


def tensors(path: str, given: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str]) -> bytes:
    """A safetensors request of any tensors: dtype, shape, bytes."""
    header: dict = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape, data) in given.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in given.values())
    return post(path, body, media="application/x-safetensors")


def steps_of(kind: str, T: int, V: int) -> tuple[bytes, list[bytes]]:
    """A training step of four sequences, logits to their gradient: as a graph, and as separate calls."""

    def floats(*shape: int) -> tuple[str, list[int], bytes]:
        count = 1
        for size in shape:
            count *= size
        return "F32", list(shape), array.array("f", (-random.random() for _ in range(count))).tobytes()

    def scored(sequences: int) -> dict[str, tuple[str, list[int], bytes]]:
        return {
            "logits": ("F32", [sequences, T, V], logits("F32", sequences * T, V)),
            "targets": ("I64", [sequences, T], targets(sequences * T, V)),
        }

    forward, loss, graph = "/v1/losses/token_logprobs", "/v1/losses/", "/v1/losses/composite"
    if kind == "GRPO":
        x, more = scored(4), {"old_logprobs": floats(4, T), "advantages": floats(4)}
        edge = {"loss": "policy_gradient", "inputs": {"logprobs": "part.0.logprobs"}}
        whole = {"parts": json.dumps([{"loss": "token_logprobs"}, edge]), "outputs": "loss,grad.logits"}
        return tensors(graph, {**x, **more}, whole), [
            tensors(forward, x, {"outputs": "logprobs"}),
            tensors(loss + "policy_gradient", {"logprobs": floats(4, T), **more}, {}),
            tensors(forward, {**x, "grad_logprobs": floats(4, T)}, {"outputs": "grad.logits"}),
        ]
    x, y = scored(2), scored(2)
    more = {"ref_chosen_logps": floats(2), "ref_rejected_logps": floats(2)}
    both = {"c": x["logits"], "r": y["logits"], "yc": x["targets"], "yr": y["targets"]}
    edges = {"chosen_logps": "part.0.sequence_logprobs", "rejected_logps": "part.1.sequence_logprobs"}
    parts = [
        {"loss": "token_logprobs", "inputs": {"logits": "c", "targets": "yc"}},
        {"loss": "token_logprobs", "inputs": {"logits": "r", "targets": "yr"}},
        {"loss": "dpo", "inputs": edges},
    ]
    whole = {"parts": json.dumps(parts), "outputs": "loss,grad.c,grad.r"}
    own = {"chosen_logps": floats(2), "rejected_logps": floats(2)}
    up = {"grad_sequence_logprobs": floats(2)}
    return tensors(graph, {**both, **more}, whole), [
        tensors(forward, x, {"outputs": "sequence_logprobs"}),
        tensors(forward, y, {"outputs": "sequence_logprobs"}),
        tensors(loss + "dpo", {**own, **more}, {}),
        tensors(forward, {**x, **up}, {"outputs": "grad.logits"}),
        tensors(forward, {**y, **up}, {"outputs": "grad.logits"}),
    ]


def graphs(lossd: str, folder: str, rounds: int) -> None:
    T, V = 256, 32000
    print(f"\nlogits of 4x{T}x{V} f32 to their gradient, Unix socket: one graph, beside separate calls")
    print("and its peak memory on top of what lossd had, in MiB, beside its body")
    print(f"{'':6} {'graph':>10} {'separate':>10} {'ratio':>6} {'in':>9} {'first':>9} {'second':>9}")
    for kind in ("GRPO", "DPO"):
        whole, calls = steps_of(kind, T, V)
        server = Server(lossd, folder, "--max-body", "256MiB")
        client, taken = Client(server.unix), []
        client.time(safetensors("F32", 1, 8))
        for _ in range(2):
            before = status(server.process.pid, "VmRSS")
            pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
            client.time(whole)
            taken.append(status(server.process.pid, "VmHWM") - before)
            time.sleep(1.5)
        times: dict[str, list[float]] = {"graph": [], "separate": []}
        for _ in range(rounds):
            times["graph"].append(client.time(whole))
            times["separate"].append(sum(client.time(call) for call in calls))
        a, b = (statistics.median(t) * 1e3 for t in times.values())
        sent = len(whole.split(b"\r\n\r\n", 1)[1]) / 2**20
        print(f"{kind:6} {a:7.1f} ms {b:7.1f} ms {a / b:6.2f} {sent:9.1f} {taken[0]:9.1f} {taken[1]:9.1f}")
        server.stop()


def neighbours(lossd: str, client: str, folder: str, seconds: float) -> None:
    """Small requests while a large one is always in flight."""
    rate = 2000
    print(f"\n32x128 f32 at {rate} /s, 64 connections, two workers; 1024x32000 (131 MB each way) beside it")
    server = Server(lossd, folder, "--workers", "2", "--max-body", "256MiB")
    file = pathlib.Path(f"{folder}/neighbour.http")
    file.write_bytes(safetensors("F32", 32, 128))
    request = safetensors("F32", 1024, 32000)
    # As many connections as to wait for the server, not for one of them.
    command = [client, server.unix, str(file), "64", str(seconds), str(rate)]
    large_one = Client(server.unix)
    for _ in range(3):
        large_one.time(request)  # its memory is new, and not what is to be shown
    for _ in range(2):
        alone = [large_one.time(request) for _ in range(int(seconds / large_one.time(request)) + 1)]
        for beside in (False, True):
            small_ones = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            times = []
            while beside and small_ones.poll() is None:
                times.append(large_one.time(request))
            _, p50, p99, worst, *_ = (float(x) for x in small_ones.communicate()[0].split())
            each = statistics.median(times or [0])
            ratio = each / statistics.median(alone)
            done = f"{len(times)} of them, {each * 1e3:.0f} ms each, {ratio:.2f} of alone" if times else "alone"
            print(f"p50 {p50:7.3f} ms, p99 {p99:7.3f} ms, longest {worst:6.1f} ms   {done}")
    server.stop()


def small_rate(
    client: str, folder: str, address: str, request: bytes, connections: int, seconds: float
) -> float:
    """Requests a second in a closed loop."""
    file = pathlib.Path(f"{folder}/small.http")
    file.write_bytes(request)
    command = [client, address, str(file), str(connections), str(seconds)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[0])


def thread_time(pid: int, thread: int) -> float:
    """Processor time of a thread of a process, in seconds."""
    return int(pathlib.Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) * 1e-9


def processor_time(pid: int) -> float:
    """Of all threads of a process."""
    return sum(thread_time(pid, int(t.name)) for t in pathlib.Path(f"/proc/{pid}/task").iterdir())


class Sample(NamedTuple):
    rate: float  # requests a second
    cost: float  # processor time of a request, in us


class Load:
    """wrk, if it is there, on one thread; else client.c."""

    def __init__(self, client: str, folder: str) -> None:
        self.client, self.folder, self.wrk = client, folder, shutil.which("wrk")

    def run(self, server: Server, request: bytes, connections: int, seconds: float) -> Sample:
        before, begin = processor_time(server.process.pid), time.monotonic()
        if self.wrk:
            rate = self.run_wrk(server, request, connections, seconds)
        else:
            rate = small_rate(self.client, self.folder, server.port, request, connections, seconds)
        took = time.monotonic() - begin
        return Sample(rate, (processor_time(server.process.pid) - before) / (rate * took) * 1e6)

    def run_wrk(self, server: Server, request: bytes, connections: int, seconds: float) -> float:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        path, headers = lines[0].split()[1], [line for line in lines[1:] if not line.startswith(("Host", "Content-L"))]
        file, script = pathlib.Path(f"{self.folder}/body"), pathlib.Path(f"{self.folder}/post.lua")
        file.write_bytes(body)
        script.write_text(f'local f = io.open("{file}", "rb"); wrk.body = f:read("*a"); f:close(); wrk.method = "POST"')
        command = [self.wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "-s", str(script)]
        for line in headers:
            command += ["-H", line]
        text = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}{path}"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        assert "Non-2xx" not in text, text
        return float(re.search(r"Requests/sec:\s*([\d.]+)", text)[1])


def small(lossd: str, echo: str, former: str | None, load: Load, folder: str, rounds: int, seconds: float) -> None:
    """Small requests beside an echo on the loop, and with an older lossd's; requests and latency."""
    print("\nsmall requests, TCP, one worker; processor time of all threads of the server")
    programs = {"lossd": lossd, "echo": echo} | ({"former": former} if former else {})
    servers = {name: Server(program, folder, "--workers", "1") for name, program in programs.items()}
    binary, text = safetensors("F32", 32, 128), post("/v1/losses/cross_entropy", in_text(4, 10, False))
    for title, request, connections in (
        ("32x128 f32 safetensors, 32 connections", binary, 32),
        ("JSON 4x10, 32 connections", text, 32),
        ("32x128 f32 safetensors, 1 connection", binary, 1),
    ):
        samples: dict[str, list[Sample]] = {name: [] for name in servers}
        for i in range(rounds + 1):
            for name, server in servers.items():
                sent = post("/echo", request.split(b"\r\n\r\n", 1)[1]) if name == "echo" else request
                got = load.run(server, sent, connections, seconds)
                samples[name] += [got] if i else []  # the first warms up
        print(title)
        for name, all_of in samples.items():
            rate, cost = (statistics.median(s[k] for s in all_of) for k in (0, 1))
            beside = statistics.median(x.rate / y.rate for x, y in zip(samples["lossd"], all_of))
            costs = statistics.median(x.cost / y.cost for x, y in zip(samples["lossd"], all_of))
            ratios = "" if name == "lossd" else f"   lossd: {beside:5.2f} of its rate, {costs:5.2f} of its time"
            print(f"  {name:8} {rate:8.0f} /s  {cost:6.1f} us{ratios}")
    if former:
        clients = {name: (Client(servers[name].port), binary) for name in ("lossd", "former")}
        in_turns(clients, 200)
        t = in_turns(clients, 2000)
        ratio = t["lossd"] / t["former"]
        print(f"one connection, alternating: {t['lossd'] * 1e6:.0f} us, formerly {t['former'] * 1e6:.0f}: {ratio:.2f}")
    for server in servers.values():
        server.stop()


def spread(lossd: str, load: Load, folder: str, seconds: float) -> None:
    """Equal processes: does it matter how their heaps happen to lie?"""
    request, costs, faults = safetensors("F32", 32, 128), [], []

    def faults_of(pid: int) -> int:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])

    for _ in range(10):
        server = Server(lossd, folder, "--workers", "1")
        load.run(server, request, 16, 0.5)
        before = faults_of(server.process.pid)
        sample = load.run(server, request, 16, seconds)
        costs.append(sample.cost)
        faults.append((faults_of(server.process.pid) - before) / (sample.rate * seconds))
        server.stop()
    print(
        f"\nten equal processes, 32x128: {min(costs):.1f} to {max(costs):.1f} us of processor time a request, "
        f"{min(faults):.3f} to {max(faults):.3f} page faults"
    )


def all_at_once(clients: list[Client], request: bytes, times: int) -> None:
    """A thread for each."""
    threads = [threading.Thread(target=lambda c=c: [c.time(request) for _ in range(times)]) for c in clients]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def moved(lossd: str, folder: str, rounds: int) -> None:
    """Large bodies from eight connections, with one loop and with two; and what one loop and all cores allow, by the
    processor time that a GB takes."""
    request = safetensors("F32", 16, 50257, "?outputs=loss")
    reply = safetensors("F32", 16, 50257)
    cores = len(os.sched_getaffinity(0))
    print("\n16x50257 f32, 3.2 MB, from 8 connections; GB/s in both directions, two workers; processor time in s/GB")
    print(f"{'':32} {'one loop':>9} {'two':>6} {'ratio':>6} {'loop':>7} {'others':>7} {'clients':>8}  at most")
    for title, sent in (("loss only", request), ("with its gradient", reply)):
        for name in ("Unix socket", "TCP"):
            servers = {n: Server(lossd, folder, "--workers", "2", "--loops", str(n)) for n in (1, 2)}
            rates: dict[int, list[float]] = {1: [], 2: []}
            taken = [0.0, 0.0, 0.0, 0.0]  # by the one loop, by all threads of its server, by the clients; and GB
            clients = {
                n: [Client(s.unix if name != "TCP" else s.port, len(sent) + (1 << 20)) for _ in range(8)]
                for n, s in servers.items()
            }

            def counts() -> tuple[float, float, float]:
                pid = servers[1].process.pid
                return thread_time(pid, pid), processor_time(pid), time.process_time()

            for i in range(rounds + 1):
                for n in servers:
                    begin, before = time.perf_counter(), counts()
                    all_at_once(clients[n], sent, 10)
                    gigabytes = 80 * (len(sent) + clients[n][0].reply) / 1e9
                    rates[n] += [gigabytes / (time.perf_counter() - begin)] if i else []
                    if n == 1:
                        spent = *(y - x for x, y in zip(before, counts())), gigabytes
                        taken = [x + y for x, y in zip(taken, spent)]
            one, two = (statistics.median(rates[n]) for n in (1, 2))
            ratio = statistics.median(y / x for x, y in zip(rates[1], rates[2]))
            loop, server, client = (t / taken[3] for t in taken[:3])
            most = cores / (server + client)
            each = f"{loop:7.3f} {server - loop:7.3f} {client:8.3f}"
            print(
                f"{title + ', ' + name:32} {one:9.2f} {two:6.2f} {ratio:5.2f}x {each}"
                f"  one loop {min(1 / loop, most):.2f}, {cores} cores {most:.2f}: {max(1, most * loop):.2f}x"
            )
            for s in servers.values():
                s.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--tools", default="build/release/tests", help="where echo and client are")
    parser.add_argument("--former", help="an older lossd, to compare small requests with")
    parser.add_argument("--only", default="", help="the parts whose names these are, with commas")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=2)
    a = parser.parse_args()
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        client = f"{a.tools}/client"
        load = Load(client, folder)

        def beside_echo(part: Callable[[Server, Server], None]) -> None:
            lossd, echo = Server(a.lossd, folder), Server(f"{a.tools}/echo", folder)
            try:
                part(lossd, echo)
            finally:
                lossd.stop()
                echo.stop()

        parts: dict[str, Callable[[], None]] = {
            "large": lambda: beside_echo(lambda lossd, echo: large(lossd, echo, a.rounds)),
            "formats": lambda: beside_echo(lambda lossd, _: formats(lossd, a.rounds)),
            "batches": lambda: beside_echo(lambda lossd, _: batches(lossd, a.rounds)),
            "graphs": lambda: graphs(a.lossd, folder, a.rounds),
            "small": lambda: small(a.lossd, f"{a.tools}/echo", a.former, load, folder, a.rounds // 3, a.seconds),
            "spread": lambda: spread(a.lossd, load, folder, a.seconds),
            "neighbours": lambda: neighbours(a.lossd, client, folder, 2 * a.seconds),
            "loops": lambda: moved(a.lossd, folder, a.rounds // 3),
            "memory": lambda: memory(a.lossd, folder),
        }
        for name, part in parts.items():
            if not a.only or name in a.only.split(","):
                part()


if __name__ == "__main__":
    main()
