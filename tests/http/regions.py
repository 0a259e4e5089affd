#!/usr/bin/env python3
"""Regions from the other side of the socket: what they are for, and what a client may try with them.

A client that hands over what is no sealed memory, lies about its size, sends other messages, guesses names, lets tensors
overlap, changes what lossd reads, takes memory away or dies at any step: lossd goes on, answers the others, and has as
many mappings and descriptors as before. --rounds says how often what is repeated is repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import mmap
import os
import pathlib
import random
import socket
import struct
import subprocess
import tempfile
import threading
import time

from server import Lossd, Reply, receive, request, safetensors, wait_until

ADD_SEALS, SEAL, SHRINK, GROW, WRITE = 1033, 1, 2, 4, 8
UPGRADE = {"Connection": "Upgrade", "Upgrade": "losskit-region/1"}
MEDIA = {"Content-Type": "application/x-safetensors"}
LOGITS, TARGETS = [0.2, 0.4, 0.4, 1.0, 2.0, 3.0], [2, 0]
ROWS, CLASSES = 2, 3
SIZE = 1 << 16


class Memory:
    """A memfd with logits, and targets behind them."""

    def __init__(self, seals: int = SEAL | SHRINK, size: int = SIZE) -> None:
        self.size = size
        self.fd = os.memfd_create("region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.fill()
        if seals:
            fcntl.fcntl(self.fd, ADD_SEALS, seals)

    def fill(self) -> None:
        self.map[:24] = struct.pack("<6f", *LOGITS)
        self.map[24:40] = struct.pack("<2q", *TARGETS)

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class Client:
    def __init__(self, lossd: Lossd, path: str) -> None:
        self.lossd, self.path = lossd, path

    def connect(self) -> socket.socket:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.connect(self.path)
        return s

    def call(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        with self.connect() as s:
            s.sendall(request(method, target, headers, body))
            return receive(s)

    def upgrade(self) -> socket.socket:
        s = self.connect()
        s.sendall(request("GET", "/v1/regions", UPGRADE))
        reply = receive(s)
        assert reply.status == 101 and reply.headers["upgrade"] == UPGRADE["Upgrade"], reply
        return s

    def evaluate(self, inputs: object, outputs: object = ("loss",), loss: str = "cross_entropy") -> Reply:
        text = json.dumps({"inputs": inputs, "outputs": outputs})
        return self.call("POST", f"/v1/losses/{loss}", {}, text.encode())

    def metrics(self) -> dict[str, str]:
        lines = self.call("GET", "/metrics").body.decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def regions(self) -> dict[str, int]:
        values = self.metrics()
        return {kind: int(values[f'lossd_regions{{kind="{kind}"}}']) for kind in ("client", "resident", "triton")}


def message(size: int, reserved: int = 0) -> bytes:
    return struct.pack("<QQ", size, reserved)


def hand(s: socket.socket, data: bytes, *descriptors: int) -> dict[str, object]:
    socket.send_fds(s, [data], descriptors)
    return json.loads(line(s))


def line(s: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        part = s.recv(1)
        if not part:
            raise ConnectionError("closed")
        text += part
    return text


def ends(s: socket.socket) -> bool:
    """Is the connection closed, without a word?"""
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True


def tensors(name: str, offset: int = 0) -> dict[str, object]:
    return {
        "logits": {"region": name, "offset": offset, "dtype": "f32", "shape": [ROWS, CLASSES]},
        "targets": {"region": name, "offset": 24, "dtype": "i64", "shape": [ROWS]},
    }


def loss_of(reply: Reply) -> float:
    assert reply.status == 200, reply
    return json.loads(reply.body)["outputs"]["loss"]


def refused(reply: Reply, code: str, *words: str) -> None:
    problem = json.loads(reply.body)
    assert problem.get("code") == code and all(word in problem["detail"] for word in words), (reply, code, words)


def in_use(lossd: Lossd) -> tuple[int, int]:
    """Descriptors, and mappings of memory of others."""
    proc = pathlib.Path(f"/proc/{lossd.process.pid}")
    maps = (proc / "maps").read_text().splitlines()
    return len(list((proc / "fd").iterdir())), sum("memfd:" in one or "/dev/shm/" in one for one in maps)


def used_as_before(lossd: Lossd, before: tuple[int, int]) -> None:
    """An idle connection of before may have been closed meanwhile."""
    wait_until(
        "descriptors and mappings to be closed", lambda: all(now <= then for now, then in zip(in_use(lossd), before))
    )


# What they are for.


def test_inputs_and_outputs(c: Client) -> None:
    memory = Memory()
    want = c.evaluate({"logits": [LOGITS[:3], LOGITS[3:]], "targets": TARGETS}, ["loss", "grad.logits"])
    numbers = json.loads(want.body)["outputs"]
    with c.upgrade() as s:
        said = hand(s, message(SIZE), memory.fd)
        name = said["region"]
        assert isinstance(name, str) and len(name) == 32 and said["size"] == SIZE, said
        assert loss_of(c.evaluate(tensors(name))) == numbers["loss"]
        flat = [x for row in numbers["grad.logits"] for x in row]
        place = {"name": "grad.logits", "region": name}
        for offset in (1001, 0):  # elsewhere and unaligned, then in place
            reply = c.evaluate(tensors(name), ["loss", {**place, "offset": offset}])
            said = json.loads(reply.body)["outputs"]["grad.logits"]
            assert said == {"region": name, "offset": offset, "dtype": "f32", "shape": [ROWS, CLASSES]}, reply
            got = memory.map[offset : offset + 24]
            assert got == struct.pack("<6f", *flat), (struct.unpack("<6f", got), flat)
        memory.fill()
        c.evaluate(tensors(name), [{**place, "offset": 2000, "dtype": "bf16"}])
        halves = struct.unpack("<6H", memory.map[2000:2012])
        for x, half in zip(flat, halves):
            assert abs(struct.unpack("<f", struct.pack("<I", half << 16))[0] - x) <= abs(x) / 256, (x, half)
        # In safetensors and in the Open Inference Protocol.
        meta = {f"region.{key}": json.dumps(value) for key, value in tensors(name).items()}
        meta |= {"outputs": "loss,grad.logits", "region.grad.logits": json.dumps({"region": name, "offset": 3000})}
        reply = c.call("POST", "/v1/losses/cross_entropy", MEDIA, safetensors([], meta))
        assert reply.status == 200 and b'"region.grad.logits"' in reply.body, reply
        assert memory.map[3000:3024] == struct.pack("<6f", *flat)
        at = {"shared_memory_region": name, "shared_memory_byte_size": 24}
        target = {"shared_memory_region": name, "shared_memory_byte_size": 16, "shared_memory_offset": 24}
        infer = {
            "inputs": [
                {"name": "logits", "datatype": "FP32", "shape": [2, 3], "parameters": at},
                {"name": "targets", "datatype": "INT64", "shape": [2], "parameters": target},
            ],
            "outputs": [{"name": "grad.logits", "parameters": {**at, "shared_memory_offset": 4000}}],
        }
        reply = c.call("POST", "/v2/models/cross_entropy/infer", {}, json.dumps(infer).encode())
        said = json.loads(reply.body)["outputs"][0]["parameters"]
        assert said == {**at, "shared_memory_offset": 4000}, reply
        assert memory.map[4000:4024] == struct.pack("<6f", *flat)
    memory.close()


def test_several_of_one_connection(c: Client) -> None:
    many = [Memory() for _ in range(5)]
    with c.upgrade() as s:
        for one in many:
            socket.send_fds(s, [message(SIZE)], [one.fd])
        names = [json.loads(line(s))["region"] for _ in many]
        assert len(set(names)) == len(many)
        # A message in parts, its descriptor with either.
        for first in (True, False):
            parts = [message(SIZE)[:5], message(SIZE)[5:]]
            for part, mine in zip(parts, (first, not first)):
                socket.send_fds(s, [part], [many[0].fd] if mine else [])
                time.sleep(0.05)
            assert "region" in json.loads(line(s))
        for name in names:
            loss_of(c.evaluate(tensors(name)))
    for one in many:
        one.close()


def test_memory_that_is_read_only(c: Client) -> None:
    for kind in ("descriptor", "seal"):
        memory = Memory(0)
        fd = memory.fd
        if kind == "descriptor":
            fcntl.fcntl(memory.fd, ADD_SEALS, SEAL | SHRINK)
            fd = os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY)
        else:
            memory.map.close()
            fcntl.fcntl(memory.fd, ADD_SEALS, SEAL | SHRINK | WRITE)
        with c.upgrade() as s:
            name = hand(s, message(SIZE), fd)["region"]
            loss_of(c.evaluate(tensors(name)))
            reply = c.evaluate(tensors(name), [{"name": "grad.logits", "region": name}])
            refused(reply, "region_invalid", "read-only")


def test_each_request_finds_its_region(c: Client) -> None:
    """Small as they are, workers evaluate them, and nothing of one is kept for the next of the same text."""
    memory = Memory()
    carried = {"logits": [LOGITS[:3], LOGITS[3:]], "targets": TARGETS}

    def inline() -> int:
        return int(c.metrics()["lossd_inline_total"])

    with c.upgrade() as s:
        name = hand(s, message(SIZE), memory.fd)["region"]
        before = inline()
        for shift in range(8):
            scores = [x * (shift + 1) for x in LOGITS]
            memory.map[:24] = struct.pack("<6f", *scores)
            want = loss_of(c.evaluate({"logits": [scores[:3], scores[3:]], "targets": TARGETS}))
            memory.map[1000:1024] = bytes(24)
            reply = c.evaluate(tensors(name), ["loss", {"name": "grad.logits", "region": name, "offset": 1000}])
            assert abs(loss_of(reply) - want) < 1e-6, (reply, want)
            assert memory.map[1000:1024] != bytes(24)
        assert inline() - before == 8, "those that carry their tensors, and no others"
        reply = c.evaluate(carried, ["loss", {"name": "grad.logits", "region": name, "offset": 1000}])
        assert reply.status == 200 and inline() - before == 8  # an output is enough
        reply = c.evaluate(carried, ["loss", {"name": "grad.logits", "dtype": "bf16"}])
        assert reply.status == 200 and inline() - before == 9  # a narrower type is no region
    text = {"logits": {"region": "table/logits"}, "targets": TARGETS}
    for factor in (1, 2, 3):
        scores = [x * factor for x in LOGITS]
        body = safetensors([("logits", "F32", [ROWS, CLASSES], struct.pack("<6f", *scores))], {})
        assert c.call("PUT", "/v1/regions/table?replace=true", {}, body).status == 200
        want = loss_of(c.evaluate({"logits": [scores[:3], scores[3:]], "targets": TARGETS}))
        assert abs(loss_of(c.evaluate(text)) - want) < 1e-6
    assert c.call("DELETE", "/v1/regions/table").status == 204
    refused(c.evaluate(text), "region_invalid")
    memory.close()


# What a client may try.


def test_what_is_no_sealed_memory(c: Client, folder: str) -> None:
    file, reader, writer = os.open(folder + "/file", os.O_RDWR | os.O_CREAT), *os.pipe()
    os.ftruncate(file, SIZE)
    shm = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE)
    os.ftruncate(shm, SIZE)
    others = {
        "a file": file,
        "a file in memory": shm,
        "a pipe": reader,
        "the other end": writer,
        "a folder": os.open(folder, os.O_RDONLY),
        "a device": os.open("/dev/zero", os.O_RDWR),
        "a socket": socket.socket(socket.AF_UNIX).detach(),
        "no seals": Memory(0).fd,
        "may shrink": Memory(SEAL).fd,
        "more seals": Memory(SHRINK | GROW).fd,
        "what may not be read": os.open(f"/proc/self/fd/{Memory().fd}", os.O_WRONLY),
    }
    with contextlib.suppress(OSError):  # where the kernel has none
        huge = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        os.ftruncate(huge, 1 << 30)
        fcntl.fcntl(huge, ADD_SEALS, SEAL | SHRINK)
        others["huge pages"] = huge
    with c.upgrade() as s:
        for what, fd in others.items():
            said = hand(s, message(SIZE), fd)
            assert said.get("code") == "region_invalid" and "F_SEAL" in str(said["detail"]), (what, said)
            os.close(fd)


def test_sizes(c: Client) -> None:
    memory = Memory()
    with c.upgrade() as s:
        for size, reserved in ((SIZE + 1, 0), (1 << 63, 0), ((1 << 64) - 1, 0), (0, 0), (SIZE, 1), (SIZE, 1 << 63)):
            said = hand(s, message(size, reserved), memory.fd)
            assert "code" in said, (size, reserved, said)
        name = hand(s, message(100), memory.fd)["region"]  # a part of a page
        loss_of(c.evaluate(tensors(name)))
        inputs = {**tensors(name), "logits": {"region": name, "offset": 80, "dtype": "f32", "shape": [2, 3]}}
        refused(c.evaluate(inputs), "region_invalid", "which has 100")
    try:
        os.ftruncate(memory.fd, 0)
        raise AssertionError("sealed memory was made shorter")
    except PermissionError:
        memory.close()


def test_other_messages(c: Client) -> None:
    memory = Memory()
    for what, data, descriptors in (
        ("no descriptor", message(SIZE), []),
        ("two descriptors", message(SIZE), [memory.fd, memory.fd]),
        ("twenty", message(SIZE), [memory.fd] * 20),
        ("a request", request("GET", "/healthz"), []),
        ("text and a descriptor", b"x" * 16 + b"y" * 100, [memory.fd]),
    ):
        with c.upgrade() as s:
            socket.send_fds(s, [data], descriptors)
            if "text" in what:
                said = json.loads(line(s))  # of the first 16 bytes; the others have no descriptor
                assert "code" in said, said
            assert ends(s), what
    with c.upgrade() as s:  # one descriptor with each part
        socket.send_fds(s, [message(SIZE)[:8]], [memory.fd])
        time.sleep(0.05)
        socket.send_fds(s, [message(SIZE)[8:]], [memory.fd])
        assert ends(s)
    with c.connect() as s:  # before the 101: where nobody looks for descriptors
        socket.send_fds(s, [request("GET", "/v1/regions", UPGRADE) + message(SIZE)], [memory.fd])
        assert receive(s).status == 101 and ends(s)
    memory.close()


def test_names(c: Client) -> None:
    memory = Memory()
    with c.upgrade() as s:
        name = str(hand(s, message(SIZE), memory.fd)["region"])
        for headers in ({**UPGRADE, "Connection": "Upgrade, close"}, {**UPGRADE, "Connection": "keep-alive"}):
            assert c.call("GET", "/v1/regions", headers).status == 200
        listed = {"Connection": "keep-alive, Upgrade", "Upgrade": "other/2, losskit-region/1"}
        assert c.call("GET", "/v1/regions", listed).status == 101
        with c.connect() as head:
            head.sendall(request("HEAD", "/v1/regions", UPGRADE))
            assert head.recv(12) == b"HTTP/1.1 200"
        with c.connect() as old:  # which has no upgrades, so that they are ignored
            old.sendall(b"GET /v1/regions HTTP/1.0\r\nUpgrade: losskit-region/1\r\nConnection: upgrade\r\n\r\n")
            assert receive(old).status == 200
        texts = set()
        for guess in (name[:-1], name + "0", name.upper(), name + "/x", "0" * 32, "", "../" + name, name + "\u0000"):
            if guess.upper() != name:  # of digits alone
                reply = c.evaluate({**tensors(guess), "targets": TARGETS})
                assert reply.status in (400, 422), reply
                texts.add(json.loads(reply.body)["detail"].replace(guess[:80], "NAME"))
        for _ in range(50):
            guess = f"{random.getrandbits(128):032x}"
            texts.add(json.loads(c.evaluate(tensors(guess)).body)["detail"].replace(guess, "NAME"))
        assert not any(name in text for text in texts), texts
        assert name.encode() not in c.call("GET", "/v1/regions").body
        assert c.call("GET", f"/v1/regions/{name}").status == 404
        assert c.call("DELETE", f"/v1/regions/{name}").status == 404
        assert c.call("GET", f"/v2/systemsharedmemory/region/{name}/status").status in (400, 404)
        loss_of(c.evaluate(tensors(name)))
    wait_until("the region to be forgotten", lambda: c.evaluate(tensors(name)).status == 422)
    memory.close()


def test_overlaps(c: Client) -> None:
    memory = Memory()
    with c.upgrade() as s:
        name = hand(s, message(SIZE), memory.fd)["region"]
        twin = hand(s, message(SIZE), memory.fd)["region"]  # the same memory once more
        grad = {"name": "grad.logits", "region": name}
        for outputs in (
            [{**grad, "offset": 4}],
            [{**grad, "offset": 24}],  # the targets
            [{**grad, "offset": 39}],
            [{**grad, "dtype": "bf16"}],  # not in place: it is narrower
            [{**grad, "region": twin}],
            [{**grad, "region": twin, "offset": 16}],
            [{**grad, "offset": 100}, {"name": "nll", "region": name, "offset": 120}],
            [{**grad, "offset": 100}, {"name": "nll", "region": twin, "offset": 120}],
        ):
            refused(c.evaluate(tensors(name), outputs), "region_invalid", "overlap")
        for offset in (SIZE, SIZE - 23, 1 << 62, (1 << 63) - 1):
            refused(c.evaluate(tensors(name), [{**grad, "offset": offset}]), "region_invalid", "needs bytes")
            refused(c.evaluate(tensors(name, offset)), "region_invalid", "needs bytes")
        for wrong in (-1, 1.5, 1 << 64, "0", None, []):
            reply = c.evaluate(tensors(name), [{**grad, "offset": wrong}])
            assert reply.status in (400, 422), reply
        logits = tensors(name)["logits"]
        reply = c.evaluate({"a": logits, "b": logits}, ["loss", {"name": "grad.a", "region": name}], "mse")
        refused(reply, "region_invalid", "overlaps input b")
        assert loss_of(c.evaluate({"a": logits, "b": logits}, ["loss"], "mse")) == 0
        assert memory.map[:24] == struct.pack("<6f", *LOGITS)
    memory.close()


def test_bytes_that_change(c: Client, rounds: int) -> None:
    """Targets, weights and lengths are rewritten all the time: each reply is a number or a refusal of the client's."""
    memory = Memory(size=1 << 20)
    rows, classes = 64, 500
    at = rows * classes * 4
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            for value in (0, classes - 1, 1 << 40, -(1 << 62), -100):
                memory.map[at : at + 8 * rows] = struct.pack("<q", value) * rows
            memory.map[at + 8 * rows : at + 9 * rows] = os.urandom(rows)
            memory.map[: 4 * classes] = os.urandom(4 * classes)

    with c.upgrade() as s:
        name = hand(s, message(memory.size), memory.fd)["region"]
        inputs = {
            "logits": {"region": name, "dtype": "f32", "shape": [rows, classes]},
            "targets": {"region": name, "offset": at, "dtype": "i64", "shape": [rows]},
            "mask": {"region": name, "offset": at + 8 * rows, "dtype": "u8", "shape": [rows]},
        }
        body = json.dumps({"inputs": inputs, "outputs": ["loss", "grad.logits", "predicted"]}).encode()
        thread = threading.Thread(target=scribble)
        thread.start()
        seen: dict[int, int] = {}
        with c.connect() as one:
            for _ in range(rounds):
                one.sendall(request("POST", "/v1/losses/cross_entropy", {"Accept": MEDIA["Content-Type"]}, body))
                reply = receive(one)
                seen[reply.status] = seen.get(reply.status, 0) + 1
                if reply.status != 200:
                    refused(reply, "target_out_of_range", "targets[")
        stop.set()
        thread.join()
        assert set(seen) <= {200, 422}, seen
    memory.close()


def test_pages_that_are_taken_away(c: Client) -> None:
    """Holes may be made in sealed memory; what is read there is 0."""
    memory = Memory(size=1 << 20)
    with c.upgrade() as s:
        name = hand(s, message(memory.size), memory.fd)["region"]
        punch = subprocess.run(["fallocate", "-p", "-o", "0", "-l", "1MiB", f"/proc/{os.getpid()}/fd/{memory.fd}"])
        assert punch.returncode == 0
        assert abs(loss_of(c.evaluate(tensors(name))) - 1.0986123) < 1e-6  # log 3
    memory.close()


def test_dying_at_every_step(c: Client, lossd: Lossd, rounds: int) -> None:
    used_as_before(lossd, in_use(lossd))
    time.sleep(0.3)
    before = in_use(lossd)
    memory = Memory(size=1 << 18)
    shape = [64, 1000]
    for i in range(rounds):
        step = i % 8
        s = c.connect()
        if step == 0:
            s.sendall(request("GET", "/v1/regions", UPGRADE)[: 10 + i % 40])
        elif step == 1:
            s.sendall(request("GET", "/v1/regions", UPGRADE))
        else:
            s.close()
            s = c.upgrade()
        if step == 2:
            socket.send_fds(s, [message(memory.size)[: 1 + i % 15]], [memory.fd])
        elif step >= 3:
            socket.send_fds(s, [message(memory.size)], [memory.fd])
        if step >= 4:
            name = json.loads(line(s))["region"]
        if step >= 5:
            inputs = {
                "logits": {"region": name, "dtype": "f32", "shape": shape},
                "targets": [0] * shape[0],
            }
            body = json.dumps({"inputs": inputs, "outputs": ["loss", {"name": "grad.logits", "region": name}]})
            with c.connect() as other:
                other.sendall(request("POST", "/v1/losses/cross_entropy", {}, body.encode()))
                if step == 6:
                    s.close()  # the region's connection, while it is used
                if step >= 6:
                    assert receive(other).status in (200, 422)
        s.close()
    memory.close()
    wait_until("regions to be forgotten", lambda: c.regions()["client"] == 0)
    used_as_before(lossd, before)


def test_many(c: Client) -> None:
    """More regions than there may be are refused, and no budget is lost."""
    memory = Memory()
    with contextlib.ExitStack() as stack:
        s = stack.enter_context(c.upgrade())
        said = [hand(s, message(1 << 12), memory.fd) for _ in range(1100)]
        codes = [one.get("code") for one in said]
        assert codes.count(None) == 1024 - sum(c.regions().values()) + c.regions()["client"], codes.count(None)
        assert set(codes) == {None, "region_budget"}
    wait_until("regions to be forgotten", lambda: c.regions()["client"] == 0)
    memory.close()


# Resident regions, keys and budget.


def test_files(path: str, folder: str) -> None:
    file = pathlib.Path(folder, "head.safetensors")
    rows = 4096
    weight = struct.pack("<3f", 1, 2, 3) * rows
    file.write_bytes(safetensors([("weight", "F32", [rows, 3], weight)], {}))
    with Lossd(path, "--listen", f"unix:{folder}/f", "--region", f"head={file}") as lossd:
        c = Client(lossd, folder + "/f")
        inputs = {"logits": {"region": "head/weight"}, "targets": [2] * rows}
        want = loss_of(c.evaluate(inputs))
        assert abs(want - 0.4076059) < 1e-6
        refused(c.call("DELETE", "/v1/regions/head"), "forbidden", "--region")
        body = safetensors([("weight", "F32", [1], b"abcd")], {})
        refused(c.call("PUT", "/v1/regions/head?replace=true", {}, body), "region_exists", "--region")
        os.truncate(file, 100)  # an operator's mistake: the requests that read it fail, and no others
        refused(c.evaluate(inputs), "region_invalid", "made shorter")
        refused(c.evaluate(inputs), "region_invalid", "made shorter")
        assert c.call("GET", "/healthz").status == 200
    for text, words in (
        (f"head={file}", "region"),
        (f"head={folder}/none", "cannot read"),
        (f"head={folder}", "cannot read"),
        ("head", "NAME=FILE"),
        (f"a/b={file}", "region"),
    ):
        done = subprocess.run([path, "--listen", "127.0.0.1:0", "--region", text], capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr, (text, done)


def test_keys(path: str, folder: str) -> None:
    keys = pathlib.Path(folder, "keys")
    keys.write_text("one first-key-of-length\nsecond-key-of-length\nthird-key-of-a-length\n")
    with Lossd(path, "--listen", f"unix:{folder}/k", "--api-key-file", str(keys), "--region-budget", "4KiB", "--loops", "2") as lossd:
        c = Client(lossd, folder + "/k")
        one, two, three = ({"Authorization": f"Bearer {line.split()[-1]}"} for line in keys.read_text().splitlines())
        body = safetensors([("a", "F32", [1], b"abcd")], {})
        assert c.call("PUT", "/v1/regions/mine", {}, body).status == 401
        assert c.call("GET", "/v1/regions", UPGRADE).status == 401
        assert c.call("PUT", "/v1/regions/mine", one, body).status == 200
        assert c.call("PUT", "/v1/regions/mine", two, body).status == 200  # one's own namespace
        assert c.call("GET", "/v1/regions/mine", three).status == 404
        assert b"mine" not in c.call("GET", "/v1/regions", three).body
        assert b"mine" in c.call("GET", "/v1/regions", two).body
        text = b'{"inputs":{"a":{"region":"mine/a"},"b":[0]}}'
        assert c.call("POST", "/v1/losses/mse", one, text).status == 200
        refused(c.call("POST", "/v1/losses/mse", three, text), "region_invalid")
        assert c.call("DELETE", "/v1/regions/mine", three).status == 404
        large = safetensors([("a", "F32", [1000], bytes(4000))], {})
        refused(c.call("PUT", "/v1/regions/large", one, large), "region_budget", "--region-budget")
        assert c.call("DELETE", "/v1/regions/mine", one).status == 204
        assert c.call("DELETE", "/v1/regions/mine", two).status == 204
        for _ in range(50):  # what is refused gives back what it had reserved
            assert c.call("PUT", "/v1/regions/x", one, large[:3000]).status == 400
        assert c.call("PUT", "/v1/regions/fits", one, large[:-1000].replace(b"[1000]", b"[750] ").replace(b"4000]", b"3000]")).status == 200


def test_budget(path: str, folder: str) -> None:
    """A region takes its bytes of it, neither more nor less."""
    size = 9 << 20
    body = safetensors([("a", "F32", [size // 4 - 32], bytes(size - 128))], {})
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for budget, headers, sent in ((len(body), {}, body), (1 << 30, {"Transfer-Encoding": "chunked"}, chunks)):
        with Lossd(path, "--listen", f"unix:{folder}/b", "--region-budget", str(budget)) as lossd:
            c = Client(lossd, folder + "/b")
            reply = c.call("PUT", "/v1/regions/x", headers, sent)
            assert reply.status == 200, reply
            assert int(c.metrics()['lossd_region_bytes{kind="resident"}']) == len(body)


def test_stop(path: str, folder: str) -> None:
    with Lossd(path, "--listen", f"unix:{folder}/d", "--drain-delay", "2s") as lossd:
        c = Client(lossd, folder + "/d")
        with c.connect() as s:
            lossd.process.terminate()
            wait_until("it to stop", lambda: c.call("GET", "/readyz").status == 503)
            s.sendall(request("GET", "/v1/regions", UPGRADE))
            refused(receive(s), "draining")


# Triton's shared memory.


def test_triton(path: str, folder: str) -> None:
    prefix = f"losskit-test-{os.getpid()}-"
    shm = pathlib.Path("/dev/shm", prefix + "a")
    huge = pathlib.Path("/dev/shm", prefix + "b")
    other = pathlib.Path("/dev/shm", f"other-{os.getpid()}")
    link = pathlib.Path("/dev/shm", prefix + "link")
    try:
        data = struct.pack("<6f2q", *LOGITS, *TARGETS)
        shm.write_bytes(bytes(4096 + 8) + data + bytes(4000))
        other.write_bytes(data)
        link.symlink_to(other)
        rows = 200000
        huge.write_bytes(bytes(rows * 12))
        with Lossd(path, "--listen", f"unix:{folder}/t", "--listen", "127.0.0.1:0", "--client-shm", "/" + prefix, "--loops", "2") as lossd:
            c = Client(lossd, folder + "/t")

            def post(target: str, body: object = None) -> Reply:
                return c.call("POST", "/v2/systemsharedmemory" + target, {}, b"" if body is None else json.dumps(body).encode())

            assert "system_shared_memory" in json.loads(c.call("GET", "/v2").body)["extensions"]
            key = {"key": "/" + prefix + "a", "offset": 4104, "byte_size": 4040}
            reply = post("/region/my region/register".replace(" ", "%20"), key)
            assert reply.status == 200 and reply.body == b"", reply
            assert post("/region/my%20region/register", key).status == 400  # twice
            status = json.loads(c.call("GET", "/v2/systemsharedmemory/region/my%20region/status").body)
            assert status == [{"name": "my region", **key}], status
            assert json.loads(c.call("GET", "/v2/systemsharedmemory/status").body) == status
            for loop in range(16):  # of the kernel's choice; the same name means nothing at another address
                assert loss_of(c.evaluate(tensors("my region"))) > 0, loop
                with lossd_tcp(lossd) as s:
                    s.sendall(request("GET", "/v2/systemsharedmemory/status"))
                    assert receive(s).body == b"[]\n"
            want = c.evaluate({"logits": [LOGITS[:3], LOGITS[3:]], "targets": TARGETS})
            assert loss_of(c.evaluate(tensors("my region"))) == loss_of(want)
            for wrong in (
                {**key, "key": other.name},
                {**key, "key": "/" + link.name},
                {**key, "key": f"/{prefix}none"},
                {**key, "key": f"/{prefix}a/../../etc/passwd"},
                {**key, "key": f"/../{prefix}a"},
                {**key, "key": ""},
                {**key, "offset": 1 << 62},
                {**key, "byte_size": 1 << 62},
                {**key, "offset": (1 << 63) - 1, "byte_size": (1 << 63) - 1},
                {**key, "byte_size": 0},
                {**key, "offset": -1},
                {"key": key["key"]},
                ["key"],
            ):
                reply = post("/region/wrong/register", wrong)
                assert reply.status == 400 and b"error" in reply.body, (wrong, reply)
            # A resident region of the same name hides nothing, nor is it hidden.
            resident = safetensors([("a", "F32", [1], struct.pack("<f", 3))], {})
            assert post("/region/both/register", key).status == 200
            assert c.call("PUT", "/v1/regions/both", {}, resident).status == 200
            assert loss_of(c.evaluate(tensors("both"))) == loss_of(want)
            refused(c.call("PUT", "/v1/regions/both", {}, resident), "region_exists")
            assert loss_of(c.evaluate({"a": {"region": "both/a"}, "b": [0]}, loss="mse")) == 9
            assert c.call("DELETE", "/v1/regions/both").status == 204
            assert post("/unregister").status == 200
            assert post("/region/my%20region/register", key).status == 200
            if os.geteuid() == 0:
                os.chown(shm, 65534, 65534)
                assert post("/region/wrong/register", key).status == 400
            assert post("/region/my%20region/unregister").status == 200
            assert post("/region/my%20region/unregister").status == 200
            refused(c.evaluate(tensors("my region")), "region_invalid")
            # Made shorter while it is read, and before.
            for after in (0.001, 0):
                huge.write_bytes(bytes(rows * 12))
                assert post("/region/huge/register", {"key": huge.name, "byte_size": rows * 12}).status == 200
                inputs = {"logits": {"region": "huge", "dtype": "f32", "shape": [rows, 3]}, "targets": [1] * rows}
                shorten = threading.Timer(after, os.truncate, [huge, 0])
                shorten.start()
                if after == 0:
                    shorten.join()
                reply = c.evaluate(inputs)
                shorten.join()
                if reply.status != 200 or after == 0:
                    refused(reply, "region_invalid", "made shorter")
                assert post("/unregister").status == 200
            wait_until("the last of Triton's to be let go", lambda: c.regions()["triton"] == 0)
            assert c.call("GET", "/v2/cudasharedmemory/status").status == 404
        done = subprocess.run([path, "--listen", "0.0.0.0:0", "--client-shm", prefix], capture_output=True, text=True)
        assert done.returncode == 2 and "loopback" in done.stderr, done
    finally:
        for one in (shm, huge, other, link):
            one.unlink(missing_ok=True)


def lossd_tcp(lossd: Lossd) -> socket.socket:
    url = next(entry.split("url=")[1].split()[0] for entry in lossd.log if "url=http" in entry)
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), 20)


def test_client_memory(path: str, folder: str, loops: str, rounds: int) -> None:
    flags = ["--region-budget", "64MiB", "--loops", loops]
    with Lossd(path, "--listen", f"unix:{folder}/s", *flags) as lossd:
        c = Client(lossd, folder + "/s")
        test_inputs_and_outputs(c)
        test_each_request_finds_its_region(c)
        test_several_of_one_connection(c)
        test_memory_that_is_read_only(c)
        test_what_is_no_sealed_memory(c, folder)
        test_sizes(c)
        test_other_messages(c)
        test_names(c)
        test_overlaps(c)
        test_bytes_that_change(c, rounds)
        test_pages_that_are_taken_away(c)
        test_many(c)
        test_dying_at_every_step(c, lossd, rounds)
        with c.upgrade() as s:  # a connection that is handed over delays no end
            memory = Memory()
            hand(s, message(SIZE), memory.fd)
            lossd.process.terminate()
            assert lossd.process.wait(20) == 0 and ends(s)
            memory.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lossd", default="build/release/lossd")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for loops in ("1", "2"):
            test_client_memory(options.lossd, folder, loops, options.rounds)
        test_files(options.lossd, folder)
        test_keys(options.lossd, folder)
        test_budget(options.lossd, folder)
        test_stop(options.lossd, folder)
        test_triton(options.lossd, folder)
    print(f"regions: {options.rounds} rounds")


if __name__ == "__main__":
    main()
