#!/usr/bin/env python3
"""A request a line (application/x-ndjson): whatever the lines and however the body is cut, each is answered as it would
be alone, in order, while the body is still coming; what is wrong with one is said with its number; memory stays
bounded, whoever sends or reads too slowly is closed, and nobody else waits."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from server import Lossd, read_all, receive, request, wait_until

MEDIA = {"Content-Type": "application/x-ndjson"}
CHECKS: list[Callable[[str], None]] = []


def check(f: Callable[[str], None]) -> Callable[[str], None]:
    CHECKS.append(f)
    return f


def same(got: object, want: object, what: str = "") -> None:
    if got != want:
        raise AssertionError(f"{what}: {got!r}, but {want!r} is right")


class Stream:
    """One body of lines, and its reply as it comes. Without a target only replies, to what was sent otherwise."""

    def __init__(
        self, s: socket.socket, target: str = "", headers: dict[str, str] | None = None, version: str = "1.1"
    ) -> None:
        self.s = s
        self.version = version
        self.data = b""
        self.rest = b""  # of a chunk whose first line was read
        if not target:
            return
        framing = {"Transfer-Encoding": "chunked"} if version == "1.1" else {}
        head = request("POST", target, {**MEDIA, **framing, **(headers or {})})
        s.sendall(head.replace(b" HTTP/1.1", f" HTTP/{version}".encode(), 1))

    def chunk(self, data: bytes) -> None:
        if data:
            self.s.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end(self) -> None:
        self.s.sendall(b"0\r\n\r\n")

    def more(self) -> bool:
        got = self.s.recv(1 << 20)
        self.data += got
        return bool(got)

    def take(self, until: bytes) -> bytes:
        while until not in self.data:
            if not self.more():
                raise ConnectionError(f"closed after {self.data[-200:]!r}")
        taken, self.data = self.data.split(until, 1)
        return taken

    def head(self) -> bytes:
        return self.take(b"\r\n\r\n")

    def chunks(self) -> Iterator[bytes]:
        """Until the last one; ConnectionError if it does not come."""
        if self.rest:
            rest, self.rest = self.rest, b""
            yield rest
        while size := int(self.take(b"\r\n"), 16):
            while len(self.data) < size + 2:
                if not self.more():
                    raise ConnectionError("closed in a chunk")
            chunk, self.data = self.data[:size], self.data[size + 2 :]
            yield chunk
        self.take(b"\r\n")

    def line(self) -> bytes:
        """The next line. Where several have been answered they may be one chunk."""
        text = b""
        while b"\n" not in text and (chunk := next(self.chunks(), None)) is not None:
            text += chunk
        line, end, self.rest = text.partition(b"\n")
        return line + end


def converse(
    lossd: Lossd, target: str, parts: Iterable[bytes], headers: dict[str, str] | None = None
) -> tuple[bytes, bytes]:
    """Send the parts as chunks while the reply is read. Its head and its body."""
    with lossd.connect() as s:
        stream = Stream(s, target, headers)

        def send() -> None:
            try:
                for part in parts:
                    stream.chunk(part)
                stream.end()
            except OSError:
                pass  # what was read says why

        sender = threading.Thread(target=send)
        sender.start()
        head = stream.head()
        body = b"".join(stream.chunks())
        sender.join()
    same(b"\r\nDate: " in head, True, "a date")
    return head, body


def alone(lossd: Lossd, target: str, line: bytes) -> bytes:
    with lossd.connect() as s:
        s.sendall(request("POST", target, {"Content-Type": "application/json"}, line))
        return receive(s).body


def classes(rows: int, count: int, seed: int = 0) -> bytes:
    draw = random.Random(seed)
    some = [round(draw.gauss(0, 2), 4) for _ in range(count)]
    logits = [some[i % count :] + some[: i % count] for i in range(rows)]
    targets = [draw.randrange(count) for _ in range(rows)]
    return json.dumps({"inputs": {"logits": logits, "targets": targets}}).encode()


def numbered(line: int, problem: bytes) -> bytes:
    return b'{"line":%d,' % line + problem[1:]


TARGET = "/v1/losses/cross_entropy"
FOLDER = os.path.join(os.path.dirname(__file__), "..", "data", "tls")
TLS = ["--tls-cert", f"{FOLDER}/server.pem", "--tls-key", f"{FOLDER}/server.key"]
AUTHORITY = ssl.create_default_context(cafile=f"{FOLDER}/ca.pem")
AUTHORITY.check_hostname = False


@check
def lines_are_answered_as_alone(path: str) -> None:
    lines = [classes(1 + i % 40, 2 + i * 7 % 300, i) for i in range(60)]
    lines[7] = b'{"inputs":{}}'
    lines[19] = b"no JSON"
    lines[33] = b'{"inputs":{"logits":[[1,2]],"targets":[2]}}'
    lines[58] = classes(300, 500)  # for the workers
    for flags in ([], ["--workers", "1"], ["--inline-limit", "0"]):
        with Lossd(path, "--body-timeout", "600s", *flags) as lossd:  # a byte a chunk may take its time
            want = b""
            for number, line in enumerate(lines, 1):
                answer = alone(lossd, TARGET, line)
                want += numbered(number, answer) if b'"status":' in answer else answer
            text = b"\n".join(lines)
            head, body = converse(lossd, TARGET, [text])
            assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"application/x-ndjson" in head, head
            same(body, want, f"one chunk, {flags}")
            for size in (1, 7, 1000, 65536):
                if size < 1000 and flags:
                    continue
                parts = (text[i : i + size] for i in range(0, len(text), size))
                same(converse(lossd, TARGET, parts)[1], want, f"chunks of {size}")
            with lossd.connect() as s:  # of announced length
                s.sendall(request("POST", TARGET, MEDIA, text + b"\n"))
                stream = Stream(s)
                stream.head()
                same(b"".join(stream.chunks()), want, "Content-Length")


@check
def what_is_between_lines_counts_but_has_no_answer(path: str) -> None:
    good, bad = b'{"inputs":{"a":[1,2],"b":[0,0]}}', b'{"inputs":{"a":[1]}}'
    with Lossd(path) as lossd:
        target = "/v1/losses/mse?outputs=loss"
        fine, problem = alone(lossd, target, good), alone(lossd, target, bad)
        text = b"\n \t\r\n" + good + b"\r\n\r\n\n  " + bad + b"\n\n"
        same(converse(lossd, target, [text])[1], fine + numbered(6, problem))
        for nothing in ([], [b"\n"], [b" \n\r\n "]):
            same(converse(lossd, target, nothing)[1], b"")
        strict = converse(lossd, target + "&strict_json=true", [good.replace(b"2", b"Infinity")])[1]
        same(json.loads(strict)["outputs"]["loss"], None, "the query holds for every line")
        head, _ = converse(lossd, target, [good], {"X-Request-Id": "mine"})
        assert b"X-Request-Id: mine" in head and b"Connection" not in head, head


@check
def answers_come_before_the_body_ends(path: str) -> None:
    with Lossd(path) as lossd, lossd.connect() as s:
        stream = Stream(s, TARGET)
        for i in range(20):
            line = classes(1 + i, 3, i)
            stream.chunk(line + b"\n")
            if i == 0:
                stream.head()
            same(stream.line(), alone(lossd, TARGET, line), f"line {i}")
        stream.end()
        same(list(stream.chunks()), [])


def take_turns(s: socket.socket) -> None:
    """Lines and requests one after the other on a connection, and several sent at once."""
    lines = [classes(1 + i, 3, i) for i in range(20)]
    want = []
    for line in lines:
        s.sendall(request("POST", TARGET, {"Content-Type": "application/json"}, line))
        want.append(receive(s).body)
    for count in (20, 0, 1):
        stream = Stream(s, TARGET)
        stream.chunk(b"\n".join(lines[:count]))
        stream.end()
        stream.head()
        same(b"".join(stream.chunks()), b"".join(want[:count]), f"{count} lines")
        same(stream.data, b"", "nothing follows")
        s.sendall(request("POST", TARGET, {"Content-Type": "application/json"}, lines[2]))
        same(receive(s).body, want[2], "a request after lines")
    body = b"\n".join(lines)
    s.sendall(
        request("POST", TARGET, MEDIA, body)
        + request("POST", TARGET, MEDIA, lines[3])
        + request("POST", TARGET, {**MEDIA, "Connection": "keep-alive, close"}, lines[4])
        + request("GET", "/healthz")
    )
    stream = Stream(s)
    for some, last in ((want, False), (want[3:4], False), (want[4:5], True)):
        same(b"Connection: close" in stream.head(), last)
        same(b"".join(stream.chunks()), b"".join(some), "lines behind lines")
    same((stream.more(), stream.data), (False, b""), "closed as was asked")


@check
def the_connection_is_kept(path: str) -> None:
    for flags in ([], ["--listen", f"unix:/tmp/lossd-kept-{os.getpid()}.sock"]):
        with Lossd(path, *flags) as lossd, lossd.connect() as s:
            take_turns(s)
    with Lossd(path, *TLS) as lossd:
        host, port = lossd.url.removeprefix("https://").rsplit(":", 1)
        with AUTHORITY.wrap_socket(socket.create_connection((host, int(port)), timeout=60)) as s:
            take_turns(s)


@check
def old_clients_and_tls_and_sockets_are_served(path: str) -> None:
    line = classes(3, 4)
    with Lossd(path) as lossd, lossd.connect() as s:
        want = alone(lossd, TARGET, line)
        Stream(s, TARGET, {"Content-Length": str(len(line))}, "1.0")
        s.sendall(line)
        head, _, body = read_all(s).partition(b"\r\n\r\n")
        same(body, want, "HTTP/1.0")
        assert b"Transfer-Encoding" not in head, head
    many = [classes(100, 200, i) for i in range(20)]
    with Lossd(path, *TLS) as lossd:
        host, port = lossd.url.removeprefix("https://").rsplit(":", 1)
        c = http.client.HTTPSConnection(host, int(port), context=AUTHORITY, timeout=60)
        c.request("POST", TARGET, b"\n".join(many), {**MEDIA, "Content-Length": str(len(b"\n".join(many)))})
        body = c.getresponse().read()
        same(body.count(b"\n"), 20, "answers over TLS")
        assert b'"line"' not in body, body[:300]
    socket_path = f"/tmp/lossd-lines-{os.getpid()}.sock"
    with Lossd(path, "--listen", f"unix:{socket_path}") as lossd:
        same(converse(lossd, TARGET, [line])[1], want, "Unix socket")


@check
def heads_are_refused_as_usual(path: str) -> None:
    with Lossd(path) as lossd:
        for target, headers, status in (
            ("/v1/losses/nothing", {}, 404),
            (TARGET, {"Accept": "application/x-safetensors"}, 406),
            (TARGET, {"Accept": "text/html, application/x-ndjson;q=0"}, 406),
            (TARGET, {"Content-Encoding": "gzip"}, 415),
            ("/v1/losses", {}, 405),
        ):
            with lossd.connect() as s:
                s.sendall(request("POST", target, {**MEDIA, **headers}, b"{}\n"))
                same(receive(s).status, status, f"{target} {headers}")
        for accept in ("*/*", "application/x-ndjson", "application/*", "text/html, application/jsonl"):
            head, _ = converse(lossd, TARGET, [b"{}\n"], {"Accept": accept})
            assert head.startswith(b"HTTP/1.1 200"), accept
        with lossd.connect() as s:
            s.sendall(request("POST", TARGET, {"Content-Type": "application/jsonl"}, b"{}\n"))
            same(s.recv(15), b"HTTP/1.1 200 OK")


@check
def a_line_that_is_too_long_is_refused_alone(path: str) -> None:
    good = classes(2, 3)
    with Lossd(path, "--max-body", "1KiB") as lossd:
        fine = alone(lossd, TARGET, good)
        text = good + b"\n" + b"[" * 5000 + b"\n" + good + b"\n" + b"x" * 1024 + b"\n" + b"{" * 200000
        for size in (10, 3000, 1 << 20):
            parts = (text[i : i + size] for i in range(0, len(text), size))
            answers = converse(lossd, TARGET, parts)[1].splitlines(keepends=True)
            same([answers[0], answers[2]], [fine, fine], f"chunks of {size}")
            said = [json.loads(answers[i]) for i in (1, 3, 4)]
            same([(p["line"], p["code"]) for p in said], [(2, "too_large"), (4, "malformed_body"), (5, "too_large")])


@check
def lines_wait_for_memory_that_other_lines_have(path: str) -> None:
    """Each of these needs more than a quarter of the budget; none is refused for what the others have."""
    lines = [classes(200, 1000, i) for i in range(12)]
    with Lossd(path, "--memory-budget", "16MiB", "--max-body", "8MiB", "--workers", "4") as lossd:
        want = b"".join(alone(lossd, TARGET, line) for line in lines)
        assert b'"status"' not in want, want[:300]
        text = b"\n".join(lines)
        parts = (text[i : i + 100000] for i in range(0, len(text), 100000))
        same(converse(lossd, TARGET, parts)[1], want)
        huge = b'{"inputs":{"logits":[' + b",".join([b"[0,1]"] * 600000) + b"]}}"
        answers = converse(lossd, TARGET, [lines[0] + b"\n" + huge + b"\n" + lines[0]])[1].splitlines()
        problem = json.loads(answers[1])
        same((problem["line"], problem["status"] in (413, 422)), (2, True), str(problem))
        same(len(answers), 3)
        wait_until("the budget to be free", lambda: metric(lossd, "lossd_queue_bytes") == 0)


def metric(lossd: Lossd, name: str) -> float:
    with lossd.connect() as s:
        s.sendall(request("GET", "/metrics"))
        for line in receive(s).body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    raise AssertionError(f"there is no {name}")


def resident(lossd: Lossd) -> float:
    with open(f"/proc/{lossd.process.pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


@check
def memory_does_not_grow_with_the_body(path: str) -> None:
    block = b"".join(classes(20, 100, i) + b"\n" for i in range(20))  # 0.3 MB
    rounds = (48 << 20) // len(block)
    with Lossd(path, "--memory-budget", "64MiB", "--max-body", "1MiB") as lossd:
        most = 0.0

        def parts() -> Iterator[bytes]:
            nonlocal most
            for _ in range(rounds):
                most = max(most, resident(lossd))
                yield block

        first = alone(lossd, TARGET, classes(20, 100, 0))
        body = converse(lossd, TARGET, parts())[1]
        same(body.count(b"\n"), rounds * 20)
        same(body.count(first), rounds)
        limit = 64 + 40 + (400 if "san/" in path else 0)  # their quarantine
        assert most < limit, f"{most} MiB"


@check
def who_does_not_read_is_closed_and_holds_no_memory(path: str) -> None:
    line = classes(50, 200)
    flags = ("--body-timeout", "1s", "--body-rate", "1GiB", "--memory-budget", "32MiB", "--max-body", "1MiB")
    with Lossd(path, *flags) as lossd, lossd.connect() as s:
        stream = Stream(s, TARGET)
        s.settimeout(20)
        sent, start = 0, time.monotonic()
        try:
            while time.monotonic() - start < 20:
                stream.chunk(line + b"\n")
                sent += len(line)
        except OSError:
            pass
        assert time.monotonic() - start < 15, "it was not closed"
        assert metric(lossd, "lossd_queue_bytes") <= 32 << 20
        wait_until("the budget to be free", lambda: metric(lossd, "lossd_queue_bytes") == 0)
        wait_until("the log to tell it", lambda: "answers=" in "".join(lossd.log))


@check
def who_reads_too_slowly_is_closed(path: str) -> None:
    """However often it reads a little."""
    many = ",".join(["3"] * 1000)
    block, sent = f'{{"inputs":{{"a":[{many}],"b":[{many}]}}}}\n'.encode() * 16, threading.Event()
    with Lossd(path, "--body-timeout", "500ms", "--body-rate", "1GiB") as lossd:
        with lossd.connect() as s:
            stream = Stream(s, "/v1/losses/mse?reduction=none")

            def send() -> None:
                with contextlib.suppress(OSError):
                    while not sent.is_set():
                        stream.chunk(block)

            sender = threading.Thread(target=send)
            sender.start()
            start = time.monotonic()
            assert stream.head().startswith(b"HTTP/1.1 200 OK\r\n")
            assert b'"loss"' in stream.line()
            with contextlib.suppress(ConnectionError):
                while s.recv(1 << 16) and time.monotonic() - start < 30:
                    time.sleep(0.01)
            sent.set()
            assert time.monotonic() - start < 30, "it was not closed"
            sender.join()


@check
def who_reads_as_fast_as_is_asked_is_not_closed(path: str) -> None:
    """Four times as fast, while the kernel lets lossd send only once in a while."""
    many, over = ",".join(["3"] * 1000), threading.Event()
    block = f'{{"inputs":{{"a":[{many}],"b":[{many}]}}}}\n'.encode() * 16
    with Lossd(path, "--body-timeout", "300ms", "--body-rate", "256KiB") as lossd, socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        host, port = lossd.url.removeprefix("http://").rsplit(":", 1)
        s.connect((host, int(port)))
        s.settimeout(20)
        stream = Stream(s, "/v1/losses/mse?reduction=none")

        def send() -> None:
            with contextlib.suppress(OSError):
                while not over.is_set():
                    stream.chunk(block)

        sender = threading.Thread(target=send)
        sender.start()
        start, got = time.monotonic(), 0
        while got < 8 << 20:
            more = len(s.recv(1 << 16))
            assert more > 0, f"closed after {got} bytes"
            got += more
            time.sleep(max(0.0, start + got / (1 << 20) - time.monotonic()))
        over.set()
        s.shutdown(socket.SHUT_RDWR)
        sender.join()


@check
def who_sends_too_slowly_is_told_and_closed(path: str) -> None:
    flags = ("--body-timeout", "400ms", "--idle-timeout", "1s")
    with Lossd(path, *flags) as lossd:
        with lossd.connect() as s:  # in the middle of a line
            stream = Stream(s, TARGET)
            stream.chunk(classes(2, 3) + b"\n{")
            stream.head()
            answers = b"".join(stream.chunks()).splitlines()
            problem = json.loads(answers[1])
            same((problem["line"], problem["code"]), (2, "client_too_slow"))
        with lossd.connect() as s:  # between two
            stream = Stream(s, TARGET)
            start = time.monotonic()
            stream.chunk(classes(2, 3) + b"\n")
            stream.head()
            stream.line()
            same(stream.more(), False, "closed")
            assert time.monotonic() - start > 0.9, "lines may come as rarely as requests"
    rows, width = 16384, 256
    header = json.dumps({"a": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * 4]}})
    vectors = len(header).to_bytes(8, "little") + header.encode() + bytes(rows * width * 4)

    def line(rows: int) -> bytes:
        some = {"region": "x/a", "shape": [rows, width]}
        return json.dumps({"inputs": {"anchors": some, "candidates": some}, "outputs": ["loss"]}).encode() + b"\n"

    flags = ("--idle-timeout", "1s", "--body-timeout", "400ms", "--request-timeout", "60s", "--workers", "1")
    with Lossd(path, *flags) as lossd:
        with lossd.connect() as s:
            s.sendall(request("PUT", "/v1/regions/x", {}, vectors))
            same(receive(s).status, 200)
        rows, took = 1024, 0.0
        while took < 0.7 and rows < 16384:  # on this machine, as busy as it is
            rows *= 2
            with lossd.connect() as s:
                start = time.monotonic()
                s.sendall(request("POST", "/v1/losses/info_nce", {"Content-Type": "application/json"}, line(rows)))
                same(receive(s).status, 200)
                took = time.monotonic() - start
        with lossd.connect() as s:  # the time between two begins when the first one is answered
            stream = Stream(s, "/v1/losses/info_nce")
            stream.chunk(line(rows) * 3)
            stream.head()
            same([b'"loss"' in stream.line() for _ in range(3)], [True] * 3)
            answered = time.monotonic()
            same(stream.more(), False, "closed")
            assert time.monotonic() - answered > 0.5, "the client has time for the next line"
        with lossd.connect() as s:  # what has come is answered
            stream = Stream(s, "/v1/losses/info_nce")
            stream.chunk(line(rows) + b"{")
            stream.head()
            answers = b"".join(stream.chunks()).splitlines()
            same([b'"loss"' in answers[0], json.loads(answers[1])["code"]], [True, "client_too_slow"])
    with Lossd(path, "--request-timeout", "300ms") as lossd, lossd.connect() as s:
        stream = Stream(s, TARGET)  # a body may take longer than a request
        for i in range(8):
            stream.chunk(classes(2, 3) + b"\n")
            if i == 0:
                stream.head()
            same(b'"line"' in stream.line(), False)
            time.sleep(0.1)
        stream.end()
        same(list(stream.chunks()), [])


@check
def a_body_that_breaks_off_ends_with_a_line_about_it(path: str) -> None:
    good = classes(2, 3)
    with Lossd(path) as lossd, lossd.connect() as s:
        fine = alone(lossd, TARGET, good)
        stream = Stream(s, TARGET)
        stream.chunk(good + b"\n" + good[:10])
        stream.head()
        same(stream.line(), fine)
        s.sendall(b"no size\r\n")
        problem = json.loads(b"".join(stream.chunks()))
        same((problem["line"], problem["code"]), (2, "malformed_request"))
        same(stream.more(), False, "closed")


@check
def work_of_a_client_that_left_is_dropped(path: str) -> None:
    line = classes(400, 1000)
    with Lossd(path, "--workers", "1") as lossd:
        for size in (len(line) * 3 + 2, len(line) * 2 + 1000, 100):
            s = lossd.connect()
            stream = Stream(s, TARGET)
            stream.chunk(b"\n".join([line] * 4)[:size])
            s.close()
        wait_until("nothing to be in flight", lambda: metric(lossd, "lossd_in_flight_requests") == 0)
        same(metric(lossd, "lossd_queue_bytes"), 0.0)
        same(converse(lossd, TARGET, [classes(2, 3)])[1], alone(lossd, TARGET, classes(2, 3)))


@check
def a_stop_ends_it_after_what_has_come(path: str) -> None:
    good = classes(2, 3)
    with Lossd(path, "--drain-delay", "0s") as lossd:
        fine = alone(lossd, TARGET, good)
        idle = Stream(lossd.connect(), TARGET)
        idle.chunk(good + b"\n")
        idle.head()
        same(idle.line(), fine)
        half = Stream(lossd.connect(), TARGET)
        half.chunk(good[:10])
        wait_until("a line to be in flight", lambda: metric(lossd, "lossd_in_flight_requests") == 1)
        kept = lossd.connect()
        kept.sendall(request("GET", "/healthz"))
        same(receive(kept).status, 200)
        lossd.process.terminate()
        problem = json.loads(b"".join(idle.chunks()))
        same((problem["line"], problem["code"]), (2, "draining"))
        same(kept.recv(1), b"", "a connection that is kept is closed while others are served")
        half.chunk(good[10:] + b"\n" + good + b"\n")
        half.head()
        answers = b"".join(half.chunks()).splitlines(keepends=True)
        same(answers[0], fine, "what had begun is finished")
        same(json.loads(answers[1])["code"], "draining")
        start = time.monotonic()
        lossd.process.wait(20)
        assert time.monotonic() - start < 3, "the stop waits"
        lossd.reader.join(5)
        same([" status=200 " in line for line in lossd.log if "answers=" in line], [True] * 2, "in the log")


@check
def a_client_that_does_not_read_holds_up_a_stop_no_longer_than_its_deadline(path: str) -> None:
    values = ",".join(["0.5"] * 1000)
    line = f'{{"inputs":{{"a":[[{values}],[{values}]],"b":[[{values}],[{values}]]}}}}\n'.encode()
    with Lossd(path, "--drain-delay", "0s", "--drain-timeout", "20s", "--body-timeout", "1s") as lossd:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = lossd.url.removeprefix("http://").rsplit(":", 1)
            s.connect((host, int(port)))
            stream = Stream(s, "/v1/losses/mse?reduction=none")
            for _ in range(30):
                stream.chunk(line)
            wait_until("all lines to be answered", lambda: metric(lossd, "lossd_in_flight_requests") == 0)
            time.sleep(0.5)
            lossd.process.terminate()
            start = time.monotonic()
            lossd.process.wait(25)
            assert time.monotonic() - start < 10, "the stop waits"


@check
def a_stop_loses_no_answer_of_bodies_behind_bodies(path: str) -> None:
    """Whatever the log says was answered has been received, wherever the stop finds each connection."""
    line, ahead = classes(1, 3), 20
    ids: list[set[bytes]] = [set() for _ in range(6)]

    def ask(number: int, s: socket.socket) -> None:
        data, sent = b"", 0
        with contextlib.suppress(OSError):  # closed: what has come by then is read all the same
            while True:
                with contextlib.suppress(OSError):
                    while sent < data.count(b"\r\n0\r\n\r\n") + ahead:
                        s.sendall(request("POST", TARGET, {**MEDIA, "X-Request-Id": f"of-{number}-{sent}"}, line))
                        sent += 1
                if not (more := s.recv(1 << 18)):
                    break
                data += more
        s.close()
        ids[number] = set(re.findall(rb"X-Request-Id: (\S+)\r\n", data.rpartition(b"\r\n0\r\n\r\n")[0]))

    with Lossd(path, "--drain-delay", "0s", "--loops", "1") as lossd:
        half = Stream(lossd.connect(), TARGET)  # keeps it from ending at once
        half.chunk(line[:10])
        asking = [threading.Thread(target=ask, args=(i, lossd.connect())) for i in range(len(ids))]
        for thread in asking:
            thread.start()
        wait_until("many to be answered", lambda: sum("id=of-" in line for line in list(lossd.log)) > 500)
        lossd.process.terminate()
        for thread in asking:
            thread.join(20)
        half.chunk(line[10:] + b"\n")
        half.end()
        lossd.process.wait(20)
        lossd.reader.join(5)
        said = set(re.findall(r" id=(of-\d+-\d+) .* answers=1 ", "".join(lossd.log)))
        got = {i.decode() for some in ids for i in some}
        assert len(said) > 500, len(said)
        same(sorted(said - got)[:5], [], "answered, and never received")


@check
def others_do_not_wait(path: str) -> None:
    block = b"".join(classes(2, 3, i) + b"\n" for i in range(2000))
    with Lossd(path) as lossd:
        over = threading.Event()

        def parts() -> Iterator[bytes]:
            while not over.is_set():
                yield block

        bodies: list[bytes] = []
        thread = threading.Thread(target=lambda: bodies.append(converse(lossd, TARGET, parts())[1]))
        thread.start()
        wait_until("lines to be answered", lambda: metric(lossd, "lossd_inline_total") > 100)
        with lossd.connect() as s:
            for _ in range(50):
                s.sendall(request("POST", TARGET, {}, classes(2, 3)))
                same(receive(s).status, 200)
        over.set()
        thread.join()
        assert bodies and b'"line"' not in bodies[0]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lossd", required=True)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    failed = 0
    for f in CHECKS:
        if args.only not in f.__name__:
            continue
        try:
            f(args.lossd)
            print(f"ok      {f.__name__.replace('_', ' ')}", flush=True)
        except (AssertionError, OSError, SystemExit) as why:
            failed += 1
            print(f"FAILED  {f.__name__.replace('_', ' ')}: {why}", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
