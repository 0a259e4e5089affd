#!/usr/bin/env python3
"""What operators rely on: keys, web pages refused or allowed, TLS, slow and disconnected clients, sockets passed
by systemd, log lines. Each check is a function, and its name says what it checks."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import pty
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from server import Lossd, Reply, read_all, receive, request, safetensors, wait_until

CERTIFICATES = pathlib.Path(__file__).parent.parent / "data" / "tls"
SMALL = b'{"inputs":{"a":[3,0],"b":[0,0]}}'
PATH = "/v1/losses/huber"
KEY, OTHER = "first-key-0123456789", "second-key-9876543210"

checks: list[Callable[[str], None]] = []


def check(f: Callable[[str], None]) -> Callable[[str], None]:
    checks.append(f)
    return f


def ask(lossd: Lossd, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
    with lossd.connect() as s:
        s.sendall(request(method, target, headers, body))
        return receive(s, method == "HEAD" or method == "OPTIONS")


def evaluate(lossd: Lossd, headers: dict[str, str] | None = None) -> Reply:
    return ask(lossd, "POST", PATH, headers, SMALL)


def same(got: object, want: object, what: str = "") -> None:
    if got != want:
        raise AssertionError(f"{what}: {got!r}, not {want!r}" if what else f"{got!r}, not {want!r}")


def metric(lossd: Lossd, name: str, headers: dict[str, str] | None = None) -> float:
    for line in ask(lossd, "GET", "/metrics", headers).body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


def logged(lossd: Lossd, *words: str) -> str:
    """The first line of the log that holds all the words."""

    def line() -> str:
        return next((t for t in lossd.log if all(w in t for w in words)), "")

    wait_until(f"a log line with {words}", lambda: bool(line()))
    return line()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def key_file(text: str) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "keys"
        path.write_text(text)
        yield path


def refused_start(path: str, *flags: str) -> str:
    """What lossd says when it does not start: one line, exit code 2."""
    done = subprocess.run([path, "--listen", "127.0.0.1:0", *flags], capture_output=True, text=True, timeout=20)
    same(done.returncode, 2, "exit code")
    same(done.stderr.count("\n"), 1, f"lines in {done.stderr!r}")
    return done.stderr


# Keys.


@check
def a_key_is_asked_for_and_its_name_is_logged(path: str) -> None:
    with key_file(f"# keys\n\nalice {KEY}\n  {OTHER}\r\n") as file, Lossd(path, "--api-key-file", str(file)) as lossd:
        reply = evaluate(lossd)
        same((reply.status, json.loads(reply.body)["code"]), (401, "unauthorized"))
        same(reply.headers["www-authenticate"], 'Bearer realm="lossd"')
        for wrong in (KEY[:-1], KEY + "x", KEY.upper(), "x" * 4000, "", KEY + " " + OTHER):
            reply = evaluate(lossd, bearer(wrong))
            same((reply.status, json.loads(reply.body)["code"]), (403, "forbidden"), wrong)
        same(evaluate(lossd, {"Authorization": f"Basic {KEY}"}).status, 401)
        same(evaluate(lossd, {**bearer(KEY), "X-Request-Id": "by-alice"}).status, 200)
        same(evaluate(lossd, {"Authorization": f"bearer   {OTHER}", "X-Request-Id": "by-other"}).status, 200)
        same(" key=alice" in logged(lossd, "id=by-alice"), True, "the name in the log")
        same(" key=" in logged(lossd, "id=by-other"), False, "a name that is not there in the log")
        same(any(KEY in line for line in lossd.log), False, "a key in the log")
        same(evaluate(lossd, {**bearer(KEY), "Authorization2": "x"}).status, 200)
        same(metric(lossd, 'lossd_rejected_total{reason="forbidden"}', bearer(KEY)), 6)
        same(metric(lossd, 'lossd_rejected_total{reason="unauthorized"}', bearer(KEY)), 2)


@check
def what_is_exempt_needs_no_key(path: str) -> None:
    health, rest = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"), ("/v1/losses", "/nowhere", "/v2")
    for exempt, free, kept in (
        (None, ("/docs", "/status", *health), (*rest, "/metrics")),
        ("none", ("/docs",), (*health, *rest, "/metrics")),
        ("health,metrics", ("/docs", *health, "/metrics"), rest),
    ):
        flags = ("--api-key-exempt", exempt) if exempt else ()
        with key_file(KEY) as file, Lossd(path, "--api-key-file", str(file), *flags) as lossd:
            for target in free:
                same(ask(lossd, "GET", target).status, 200, f"{exempt} {target}")
            for target in kept:
                reply = ask(lossd, "GET", target)
                same(reply.status, 401, f"{exempt} {target}")
                same("error" in json.loads(reply.body), target.startswith("/v2"), "the form of the error")


@check
def keys_are_read_again_on_sighup(path: str) -> None:
    with key_file(KEY) as file, Lossd(path, "--api-key-file", str(file)) as lossd:
        file.write_text(f"too-short\n{OTHER}\n")
        lossd.process.send_signal(signal.SIGHUP)
        same("line 1: a key has at least 16 characters" in logged(lossd, "keys not reloaded"), True)
        same(evaluate(lossd, bearer(KEY)).status, 200, "the old keys stay")
        file.write_text(OTHER)
        lossd.process.send_signal(signal.SIGHUP)
        logged(lossd, "keys reloaded", "keys=1")
        same(evaluate(lossd, bearer(KEY)).status, 403)
        same(evaluate(lossd, bearer(OTHER)).status, 200)


@check
def bad_key_files_are_refused(path: str) -> None:
    for text, said in (
        ("", "it holds no key"),
        ("# nothing\n\n", "it holds no key"),
        ("short\n", "line 1: a key has at least 16 characters"),
        (f"{KEY}\nname key-with-ümlaut-0123456\n", "line 2: a key is made of letters"),
        (f"a b {KEY}\n", "line 1: more than a name and a key"),
        ("x" * (1024 * 1024 + 1), "larger than 1 MiB"),
    ):
        with key_file(text) as file:
            line = refused_start(path, "--api-key-file", str(file))
            same(said in line, True, line)
    same("No such file" in refused_start(path, "--api-key-file", "/nowhere/keys"), True)


# Web pages.


@check
def pages_of_other_origins_are_kept_out(path: str) -> None:
    with Lossd(path) as lossd:
        host = lossd.url.removeprefix("http://")
        port = host.rsplit(":", 1)[1]
        for headers, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://{host}", "Host": host}, 200),
            ({"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"}, 200),
            # A foreign name that resolves to this machine.
            ({"Origin": "http://evil.example:8080", "Host": "evil.example:8080"}, 403),
            ({"Origin": "http://localhost.evil.example", "Host": "localhost.evil.example"}, 403),
            ({"Origin": "http://127.0.0.1.evil.example", "Host": "127.0.0.1.evil.example"}, 403),
            ({}, 200),
        ):
            reply = evaluate(lossd, headers)
            same(reply.status, status, str(headers))
            same("access-control-allow-origin" in reply.headers, False, "it is shared")
        preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        same(ask(lossd, "OPTIONS", PATH, preflight).status, 403)


@check
def pages_of_listed_origins_are_let_in(path: str) -> None:
    flags = ("--cors-origin", "https://good.example, http://localhost:5173")
    with key_file(KEY) as file, Lossd(path, *flags, "--api-key-file", str(file)) as lossd:
        for origin in ("https://good.example", "http://localhost:5173"):
            reply = ask(
                lossd, "OPTIONS", PATH, {"Origin": origin, "Access-Control-Request-Method": "POST"}
            )
            same((reply.status, reply.headers["access-control-allow-origin"]), (204, origin))
            same("POST" in reply.headers["access-control-allow-methods"], True)
            same("Authorization" in reply.headers["access-control-allow-headers"], True)
            reply = evaluate(lossd, {"Origin": origin, **bearer(KEY)})
            same((reply.status, reply.headers["access-control-allow-origin"]), (200, origin))
            same((reply.headers["vary"], "access-control-max-age" in reply.headers), ("Origin", False))
            # A page must be able to read why it was refused.
            same(evaluate(lossd, {"Origin": origin}).headers["access-control-allow-origin"], origin)
        for origin in ("http://good.example", "https://good.example:8443", "https://good.example.evil"):
            same(evaluate(lossd, {"Origin": origin, **bearer(KEY)}).status, 403, origin)
    with Lossd(path, "--cors-origin", "*") as lossd:
        same(evaluate(lossd, {"Origin": "null"}).headers["access-control-allow-origin"], "null")
    for bad in ("good.example", "https://good.example/", "https://A.example", "https://a.example,b"):
        same("--cors-origin has" in refused_start(path, "--cors-origin", bad), True, bad)


# TLS.


def context(client: str | None = None) -> ssl.SSLContext:
    c = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    if client:
        c.load_cert_chain(CERTIFICATES / f"{client}.pem", CERTIFICATES / f"{client}.key")
    return c


def secure_address(lossd: Lossd) -> tuple[str, int]:
    host, port = lossd.url.removeprefix("https://").rsplit(":", 1)
    return host, int(port)


def secure(lossd: Lossd, c: ssl.SSLContext) -> ssl.SSLSocket:
    return c.wrap_socket(socket.create_connection(secure_address(lossd), timeout=20), server_hostname="localhost")


def tls_flags(name: str = "server") -> list[str]:
    return ["--tls-cert", str(CERTIFICATES / f"{name}.pem"), "--tls-key", str(CERTIFICATES / f"{name}.key")]


@check
def tls_serves_the_same_bytes(path: str) -> None:
    rows = 200_000
    tensor = struct.pack(f"<{rows}f", *([1.5] * rows))
    body = safetensors([(n, "F32", [rows], tensor) for n in "ab"], {})
    binary = request("POST", PATH, {"Content-Type": "application/x-safetensors"}, body)
    with Lossd(path) as lossd, lossd.connect() as s:
        s.sendall(binary)
        want = receive(s)
    with Lossd(path, *tls_flags()) as lossd:
        with secure(lossd, context()) as s:
            same(s.version() in ("TLSv1.2", "TLSv1.3"), True, s.version() or "")
            for _ in range(3):
                s.sendall(request("POST", PATH, {}, SMALL))
                same(receive(s).status, 200)
                s.sendall(binary)
                same(receive(s).body == want.body, True, "a large reply")
        old = context()
        old.set_ciphers("ALL:@SECLEVEL=0")  # or it would not offer it at all
        with warnings.catch_warnings(action="ignore"):
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        try:
            secure(lossd, old)
            raise AssertionError("TLS 1.1 was accepted")
        except (ssl.SSLError, OSError):
            pass
        with socket.create_connection(secure_address(lossd), timeout=20) as plain:
            plain.sendall(request("GET", "/healthz"))
            same(b"200 OK" in plain.recv(1000), False, "plain HTTP on a TLS port")
        with secure(lossd, context()) as s:
            s.sendall(request("GET", "/healthz"))
            same(receive(s).status, 200)


@check
def clients_must_show_a_certificate_that_is_trusted(path: str) -> None:
    with Lossd(path, *tls_flags(), "--tls-client-ca", str(CERTIFICATES / "ca.pem")) as lossd:
        with secure(lossd, context("client")) as s:
            s.sendall(request("POST", PATH, {}, SMALL))
            same(receive(s).status, 200)
        # server.pem is of the right authority, but not for clients.
        for who in (None, "intruder", "server"):
            try:
                with secure(lossd, context(who)) as s:
                    s.sendall(request("POST", PATH, {}, SMALL))
                    receive(s)
                raise AssertionError(f"{who} was let in")
            except (ssl.SSLError, ConnectionError):
                pass


@check
def certificates_are_read_again_on_sighup(path: str) -> None:
    def name(s: ssl.SSLSocket) -> str:
        return dict(pair[0] for pair in s.getpeercert()["subject"])["commonName"]

    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / n for n in ("cert", "key")]

        def use(which: str) -> None:
            files[0].write_bytes((CERTIFICATES / f"{which}.pem").read_bytes())
            files[1].write_bytes((CERTIFICATES / f"{which}.key").read_bytes())

        use("server")
        with Lossd(path, "--tls-cert", str(files[0]), "--tls-key", str(files[1])) as lossd:
            with secure(lossd, context()) as old:
                same(name(old), "server")
                files[1].write_bytes((CERTIFICATES / "client.key").read_bytes())
                lossd.process.send_signal(signal.SIGHUP)
                logged(lossd, "certificate not reloaded")
                with secure(lossd, context()) as s:
                    same(name(s), "server", "the old one stays")
                use("renewed")
                lossd.process.send_signal(signal.SIGHUP)
                logged(lossd, "certificate reloaded")
                with secure(lossd, context()) as s:
                    same(name(s), "renewed")
                old.sendall(request("POST", PATH, {}, SMALL))
                same(receive(old).status, 200, "a connection from before")
    same("--tls-cert needs --tls-key" in refused_start(path, *tls_flags()[:2]), True)
    same("--tls-key needs --tls-cert" in refused_start(path, *tls_flags()[2:]), True)
    same("--tls-client-ca" in refused_start(path, *tls_flags(), "--tls-client-ca", "/nowhere"), True)
    same("/nowhere" in refused_start(path, "--tls-cert", "/nowhere", "--tls-key", "/nowhere"), True)


# Slow clients, and clients that disconnect.


def until_closed(s: socket.socket) -> tuple[bytes, float]:
    start = time.monotonic()
    return read_all(s), time.monotonic() - start


@check
def slow_clients_are_told_and_closed(path: str) -> None:
    head = b"POST /v1/losses/huber HTTP/1.1\r\nHost: x\r\n"
    flags = ("--header-timeout", "600ms", "--body-timeout", "600ms", "--body-rate", "1MiB", "--idle-timeout", "1s")
    with Lossd(path, *flags) as lossd:
        for sent, status in (
            (b"", None),  # nobody knows whether it wanted anything
            (b"POST /v1/lo", None),
            (head, 408),
            (head + b"Content-Length: 100\r\n\r\n", 408),
            (head + b"Content-Length: 100\r\n\r\n{", 408),
            (head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", 408),
            # A reply that was due anyway is sent.
            (head.replace(b"huber", b"nothing") + b"Content-Length: 100\r\n\r\n{", 404),
        ):
            with lossd.connect() as s:
                s.sendall(sent)
                data, seconds = until_closed(s)
                same(0.4 < seconds < 6, True, f"{sent!r} closed after {seconds:.2f} s")
                if status is None:
                    same(data, b"", "to a request that was none")
                    continue
                same(data.split(b" ")[1], str(status).encode(), sent.decode())
                same(b"Connection: close" in data and b"X-Request-Id: " in data, True, str(data))
                body = data.partition(b"\r\n\r\n")[2]
                same(json.loads(body)["status"], status)
        same(metric(lossd, 'lossd_rejected_total{reason="client_too_slow"}'), 4)
        # An occasional byte does not extend the deadline.
        with lossd.connect() as s:
            s.sendall(head)
            start = time.monotonic()
            try:
                while time.monotonic() - start < 10:
                    s.sendall(b"X: y\r\n")
                    time.sleep(0.05)
            except ConnectionError:
                pass
            same(time.monotonic() - start < 6, True, "a trickle of headers")
        with lossd.connect() as s:
            s.sendall(request("POST", PATH, {}, SMALL))
            same(receive(s).status, 200)
            same(until_closed(s)[0], b"", "after the idle timeout")


@check
def a_body_that_is_too_long_to_be_dropped_is_answered(path: str) -> None:
    with Lossd(path, "--drain-max", "10000") as lossd, lossd.connect() as s:
        head = {"Transfer-Encoding": "chunked", "X-Request-Id": "endless"}
        s.sendall(request("POST", "/v1/losses/nothing", head) + b"ffffff\r\n" + b"x" * 50000)
        data, _ = until_closed(s)
        same(data.split(b" ")[1], b"404", str(data))
        same(b"\r\nConnection: close\r\n" in data and b"\r\nX-Request-Id: endless\r\n" in data, True, str(data))
        same(" status=404 " in logged(lossd, "id=endless"), True)
    text = "one 0123456789abcdef\n"
    with key_file(text) as keys, Lossd(
        path, "--drain-max", "10000", "--api-key-file", str(keys), "--cors-origin", "https://a.example"
    ) as lossd:
        key = bearer("0123456789abcdef")
        for method, target, headers, status, more in (
            ("POST", "/v1/losses/mse", {}, 401, b"WWW-Authenticate: Bearer"),
            ("POST", "/v1/losses/mse", {"Origin": "https://a.example"}, 401, b"Access-Control-Allow-Origin: https://a"),
            ("POST", "/v1/losses", key, 405, b"Allow: GET, HEAD, OPTIONS"),
            # Where none is wanted, it is what is wrong.
            ("GET", "/healthz", {}, 413, b"application/problem+json"),
            ("OPTIONS", "/v1/losses/mse", {}, 413, b"application/problem+json"),
            ("POST", "/v2/repository/index", key, 413, b"application/json"),
        ):
            for body in ({"Transfer-Encoding": "chunked"}, {"Content-Length": "5000000"}):
                with lossd.connect() as s:
                    data = request(method, target, {**headers, **body})
                    s.sendall(data + b"ffffff\r\n" + b"x" * 50000)
                    data, _ = until_closed(s)
                    same(data.split(b" ")[1], str(status).encode(), str(data))
                    same(more in data and b"(null)" not in data and b"\r\nDate: " in data, True, str(data))


@check
def a_body_that_nobody_wants_has_its_time_too(path: str) -> None:
    with Lossd(path, "--body-timeout", "600ms") as lossd:
        for method, target in (("OPTIONS", "/v1/losses/mse"), ("GET", "/healthz")):
            with lossd.connect() as s:
                s.sendall(request(method, target, {"Content-Length": "100"}) + b"{")
                data, _ = until_closed(s)
                same(data.split(b" ")[1], b"408", str(data))


@check
def slow_readers_are_closed(path: str) -> None:
    rows = 3_000_000
    tensor = struct.pack("<f", 1.5) * rows
    body = safetensors([(n, "F32", [rows], tensor) for n in "ab"], {})
    with Lossd(path, "--body-timeout", "500ms", "--body-rate", "1GiB") as lossd:
        host, port = lossd.url.removeprefix("http://").rsplit(":", 1)
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((host, int(port)))
        s.sendall(request("POST", PATH, {"Content-Type": "application/x-safetensors"}, body))
        wait_until("the connection to be closed", lambda: metric(lossd, "lossd_connections") == 1)
        wait_until("its memory to be given back", lambda: metric(lossd, "lossd_queue_bytes") == 0)
        s.close()


def every_with_every_other(vectors: int) -> bytes:
    """A request that takes as long as the square of their number."""
    data = struct.pack(f"<{vectors * 16}f", *(float(i % 7 - 3) for i in range(vectors * 16)))
    labels = struct.pack(f"<{vectors}q", *(i % 3 for i in range(vectors)))
    tensors = [("embeddings", "F32", [vectors, 16], data), ("labels", "I64", [vectors], labels)]
    binary = {"Content-Type": "application/x-safetensors"}
    return request("POST", "/v1/losses/supcon?outputs=loss", binary, safetensors(tensors, {}))


@check
def half_a_close_is_none_where_that_shows(path: str) -> None:
    """A client that closes its side and still reads is answered; over TCP by HTTP/1.0 only if that is at once."""
    long = every_with_every_other(30000)  # takes several times as long as a sweep
    short = request("POST", PATH, {}, SMALL)
    with tempfile.TemporaryDirectory() as folder:
        for where, old, slow in ((f"unix:{folder}/s", b"1", 200), ("127.0.0.1:0", b"1", 200), ("127.0.0.1:0", b"0", 408)):
            with Lossd(path, "--listen", where, "--workers", "1") as lossd:
                for data, status in ((short, 200), (long, slow)):
                    with lossd.connect() as s:
                        s.sendall(data.replace(b"HTTP/1.1", b"HTTP/1." + old, 1))
                        s.shutdown(socket.SHUT_WR)
                        same(receive(s).status, status)
                        same(s.recv(1), b"")


@check
def half_closes_are_answered_beside_others(path: str) -> None:
    """Their replies are ready in turns of the loop in which libmicrohttpd has read from others, and from them the end."""
    long = every_with_every_other(3000)
    short = request("POST", PATH, {}, SMALL)
    with tempfile.TemporaryDirectory() as folder:
        for where in (f"unix:{folder}/s", "127.0.0.1:0"):
            with Lossd(path, "--listen", where, "--workers", "2") as lossd, ExitStack() as all_of_them:
                clients = [all_of_them.enter_context(lossd.connect()) for _ in range(12)]
                busy = all_of_them.enter_context(lossd.connect())
                for client in clients:
                    client.sendall(long + long)
                    client.shutdown(socket.SHUT_WR)
                    busy.sendall(short)
                    same(receive(busy).status, 200)
                for client in clients:
                    busy.sendall(short)
                    same(receive(busy).status, 200)
                    same(read_all(client).count(b"HTTP/1.1 200 OK"), 2)


@check
def small_requests_need_no_worker(path: str) -> None:
    """By the size of the body, by what is computed, and by the number of bytes of text to read."""

    def vectors(rows: int) -> bytes:
        data = struct.pack(f"<{rows * 16}f", *(float(i % 5 - 2) for i in range(rows * 16)))
        labels = struct.pack(f"<{rows}q", *(i % 3 for i in range(rows)))
        return safetensors([("embeddings", "F32", [rows, 16], data), ("labels", "I64", [rows], labels)], {})

    binary = {"Content-Type": "application/x-safetensors"}
    numbers = b'{"inputs":{"a":[' + b",".join(b"%d" % i for i in range(4000)) + b"]}}"
    numbers = numbers.replace(b"}}", b',"b":[' + b"0," * 3999 + b"0]}}")
    cases = (
        (PATH, {}, SMALL, True),
        (PATH, {"Accept-Encoding": "gzip"}, SMALL, True),
        (PATH, {}, numbers, False),
        ("/v1/losses/supcon", binary, vectors(8), True),
        ("/v1/losses/supcon", binary, vectors(900), False),  # every row with every other
    )
    for flags, most in (([], 1 << 16), (["--inline-limit", "40"], 40), (["--inline-limit", "0"], 0)):
        with Lossd(path, *flags) as lossd:
            answered = 0
            for target, headers, body, small in cases:
                same(ask(lossd, "POST", target, headers, body).status, 200)
                answered += small and len(body) <= most
                same(metric(lossd, "lossd_inline_total"), answered, f"{target}, {len(body)} bytes, {flags}")


@check
def work_of_a_client_that_left_is_not_done(path: str) -> None:
    # One sequence is one row, and a row does not yield: every step with every label.
    steps, labels = 6000, 2000
    scores = struct.pack(f"<{steps * 4}f", *(float(i % 7) for i in range(steps * 4)))
    tensors = [
        ("logits", "F32", [1, steps, 4], scores),
        ("targets", "I64", [1, labels], struct.pack(f"<{labels}q", *(1 + i % 3 for i in range(labels)))),
        ("input_lengths", "I64", [1], struct.pack("<q", steps)),
        ("target_lengths", "I64", [1], struct.pack("<q", labels)),
    ]
    body = safetensors(tensors, {})
    long = request("POST", "/v1/losses/ctc", {"Content-Type": "application/x-safetensors"}, body)
    flags = ["--workers", "1", "--isa", "scalar", "--inline-limit", "0"]
    with Lossd(path, *flags) as lossd, lossd.connect() as busy:

        def in_flight() -> float:
            return metric(lossd, "lossd_in_flight_requests")

        busy.sendall(long)
        wait_until("the worker to be busy", lambda: metric(lossd, "lossd_workers_busy") == 1)
        sockets = [lossd.connect() for _ in range(20)]
        for s in sockets:
            s.sendall(request("POST", PATH, {}, SMALL))
        wait_until("all to be queued", lambda: in_flight() == 21)
        for s in sockets:
            s.close()
        wait_until("theirs to be over", lambda: in_flight() <= 1)
        same(in_flight(), 1, "the long one was over before: nothing was shown")
        same(metric(lossd, "lossd_cancelled_total"), 20)
        same(metric(lossd, "lossd_queue_jobs"), 0)
        same(receive(busy).status, 200)
        wait_until("its memory to be free", lambda: metric(lossd, "lossd_queue_bytes") == 0)


@check
def what_hides_a_second_request_ends_the_connection(path: str) -> None:
    """Lengths that a proxy in front may see, and another one not: the body must not become a request."""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: s\r\nX-Request-Id: hidden\r\n\r\n"
    size = str(len(hidden)).encode()
    post, get = (line + b" HTTP/1.1\r\nHost: a\r\n" for line in (b"POST " + PATH.encode(), b"GET /healthz"))
    with Lossd(path) as lossd:
        for head in (
            post + b"Content-Length:\r\n " + size + b"\r\n\r\n",
            post + b"Content-Length: 0\r\n " + size + b"\r\n\r\n",
            post + b"Content-Length: 0\0 " + size + b"\r\n\r\n",
            post + b"Content-Length:\r\n\r\n",
            post + b"X: y\r\n z\r\n\r\n",
            post + b"X: y\0z\r\n\r\n",
            get + b"Content-Length:\r\n " + size + b"\r\n\r\n",
            get + b"Transfer-Encoding:\r\n chunked\r\n\r\n",
            get + b"Transfer-Encoding : chunked\r\n\r\n",
            get + b"Content-Length: " + size + b"\r\nTransfer-Encoding: chunked\r\n\r\n",
        ):
            with lossd.connect() as s:
                s.sendall(head + hidden)
                data, _ = until_closed(s)
                same(b"hidden" in data, False, f"{head!r}: {data!r}")
        same(any("hidden" in line for line in lossd.log), False, "a hidden request in the log")
        with lossd.connect() as s:  # and what hides nothing does not end it
            for _ in range(2):
                s.sendall(hidden)
                same(receive(s).headers["x-request-id"], "hidden")


@check
def work_that_is_late_is_ended_while_it_runs(path: str) -> None:
    """Of one loss, and of a graph that has parts still to come."""
    rows = 4000
    tensor = struct.pack("<f", 1.0) * (rows * 4)
    tensors = [("embeddings", "F32", [rows, 4], tensor), ("labels", "I64", [rows], bytes(8 * rows))]
    policy = [
        ("logits", "F32", [1, 2, 3], struct.pack("<6f", 1.2, -0.8, -0.5, 0.9, -1.2, 1.1)),
        ("targets", "I64", [1, 2], struct.pack("<2q", 0, 1)),
        ("advantages", "F32", [1], struct.pack("<f", 1.5)),
    ]
    parts = [
        {"loss": "supcon"},
        {"loss": "token_logprobs", "name": "policy"},
        {"loss": "policy_gradient", "inputs": {"logprobs": "part.policy.logprobs"}},
    ]
    alone = ("/v1/losses/supcon", safetensors(tensors, {}))
    graph = ("/v1/losses/composite", safetensors(tensors + policy, {"parts": json.dumps(parts)}))
    for target, body in (alone, graph):
        head = {"Content-Type": "application/x-safetensors", "X-Request-Timeout": "300", "X-Request-Id": "late"}
        with Lossd(path, "--isa", "scalar", "--log-format", "json") as lossd, lossd.connect() as s:
            s.sendall(request("POST", target, head, body))
            same(receive(s).status, 504)
            line = json.loads(logged(lossd, '"id":"late"'))
            head["X-Request-Timeout"], head["X-Request-Id"] = "30000", "whole"
            s.sendall(request("POST", target, head, body))
            same(receive(s).status, 200)
            whole = json.loads(logged(lossd, '"id":"whole"'))
            spent, needed = line["compute_ms"], whole["compute_ms"]
            same(spent < 0.8 * needed, True, f"{target}: {spent} of {needed} ms")


# systemd, and the log.


@check
def sockets_that_were_opened_before_are_served(path: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(f"{folder}/lossd.sock")
        unix.listen()
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        told.bind(f"{folder}/notify")
        told.settimeout(20)

        def hand_over() -> None:
            for i, s in enumerate((tcp, unix)):
                os.dup2(s.fileno(), 60 + i)  # out of the way of 3 and 4
            for i in range(2):
                os.dup2(60 + i, 3 + i)
                os.close(60 + i)
        process = subprocess.Popen(
            ["sh", "-c", f'LISTEN_PID=$$ LISTEN_FDS=2 NOTIFY_SOCKET={folder}/notify exec "$0"', path],
            preexec_fn=hand_over,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        same(told.recv(100), b"READY=1")
        for s in (socket.create_connection(tcp.getsockname(), timeout=20), socket.socket(socket.AF_UNIX)):
            if s.family == socket.AF_UNIX:
                s.connect(f"{folder}/lossd.sock")
            s.sendall(request("POST", PATH, {}, SMALL))
            same(receive(s).status, 200)
            s.close()
        process.terminate()
        same(told.recv(100), b"STOPPING=1")
        same(process.wait(20), 0)
        same(os.path.exists(f"{folder}/lossd.sock"), True, "a socket that is not ours was removed")
        unix.close()
        told.close()


@check
def a_stop_leaves_the_socket_of_another(path: str) -> None:
    """Who starts a new one before the old one has ended removes its socket first."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/lossd.sock"
        for loops in ("1", "2"):
            flags = ("--listen", f"unix:{place}", "--loops", loops)
            with Lossd(path, *flags) as old:
                os.unlink(place)
                with Lossd(path, *flags) as new:
                    old.process.terminate()
                    old.process.wait(20)
                    same(evaluate(new).status, 200)
            same(os.path.exists(place), False, "a socket was left behind")


@check
def json_lines_say_what_was_done(path: str) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with Lossd(path, "--log-format", "json") as lossd:
        evaluate(lossd, {"X-Request-Id": "one", "traceparent": trace})
        evaluate(lossd, {"X-Request-Id": "two", "traceparent": trace.replace("4bf9", "4BF9")})
        line = json.loads(logged(lossd, '"id":"one"'))
        for name, value in (
            ("event", "request"),
            ("status", 200),
            ("loss", "huber"),
            ("in", "json"),
            ("out", "json"),
            ("shapes", "a:f32[2] b:f32[2]"),
            ("received", len(SMALL)),
            ("traceparent", trace),
            ("method", "POST"),
        ):
            same(line.get(name), value, name)
        for name in ("queue_ms", "decode_ms", "compute_ms", "encode_ms", "ms", "sent"):
            same(isinstance(line[name], (int, float)) and line[name] >= 0, True, name)
        same("traceparent" in json.loads(logged(lossd, '"id":"two"')), False, "a trace that is none")
        same(line["client"].startswith("127.0.0.1:"), True)


@check
def a_full_address_accepts_again_when_a_connection_closes(path: str) -> None:
    """Waiting connections are accepted when others close: no other event could wake the loop."""
    for limit, closing in ((1, 1), (8, 1), (8, 8)):
        with Lossd(path, "--loops", "1", "--max-connections", str(limit)) as lossd, ExitStack() as stack:
            held = []
            for _ in range(limit):
                s = stack.enter_context(lossd.connect())
                s.sendall(request("GET", "/healthz"))
                same(receive(s).status, 200)
                held.append(s)
            waiting = stack.enter_context(lossd.connect())
            waiting.settimeout(10)
            waiting.sendall(request("GET", "/healthz"))
            time.sleep(0.5)
            for s in held[:closing]:
                s.close()
            try:
                same(receive(waiting).status, 200)
            except TimeoutError:
                raise AssertionError(f"limit {limit}, {closing} closed: the one that waits is not served") from None


def logits_request(first: int, rows: int, classes: int) -> bytes:
    """Rows of one large batch: with the sum of the losses, the gradient of a row does not depend on other rows."""
    pattern = struct.pack("<1009f", *((i * 37 % 1009) / 128 - 4 for i in range(1009)))
    start = first * classes % 1009 * 4
    x = (pattern * (rows * classes // 1009 + 2))[start : start + 4 * rows * classes]
    y = struct.pack(f"<{rows}q", *((first + i) * 7919 % classes for i in range(rows)))
    body = safetensors([("logits", "F32", [rows, classes], x), ("targets", "I64", [rows], y)], {})
    return request(
        "POST", "/v1/losses/cross_entropy?reduction=sum", {"Content-Type": "application/x-safetensors"}, body
    )


def gradient(reply: Reply, rows: int, classes: int) -> bytes:
    same(reply.status, 200)
    head = struct.unpack("<Q", reply.body[:8])[0]
    begin, end = json.loads(reply.body[8 : 8 + head])["grad.logits"]["data_offsets"]
    same(end - begin, 4 * rows * classes)
    return reply.body[8 + head + begin : 8 + head + end]


@check
def long_replies_are_what_their_rows_are_alone(path: str) -> None:
    rows, classes, part = 1100, 8000, 100  # 35 MB
    with Lossd(path, "--workers", "2") as lossd, lossd.connect() as s:
        for _ in range(2):  # the second time in memory that was kept
            s.sendall(logits_request(0, rows, classes))
            whole = gradient(receive(s), rows, classes)
            for first in range(0, rows, part):
                s.sendall(logits_request(first, part, classes))
                alone = gradient(receive(s), part, classes)
                at = 4 * first * classes
                same(whole[at : at + len(alone)] == alone, True, f"rows from {first} are the same")


@check
def small_requests_pass_one_that_takes_all_workers(path: str) -> None:
    """Its shards, one or two, yield; the result is the same as without other requests, for every number of passes."""
    n, width = 2500, 64
    x = struct.pack(f"<{n * width}f", *((i * 7919 % 1013) / 256 - 2 for i in range(n * width)))
    labels = struct.pack(f"<{n}q", *(i % 50 for i in range(n)))
    tensors = [("embeddings", "F32", [n, width], x), ("labels", "I64", [n], labels)]
    media = {"Content-Type": "application/x-safetensors"}
    long = request("POST", "/v1/losses/supcon", media, safetensors(tensors, {}))
    alone = None
    for workers in ("1", "2"):
        flags = ("--workers", workers, "--isa", "scalar", "--request-timeout", "10m")
        with Lossd(path, *flags) as lossd, lossd.connect() as s, lossd.connect() as small:
            s.sendall(long)
            wait_until("the long one runs", lambda: metric(lossd, "lossd_workers_busy") >= 1)
            for _ in range(5):
                small.sendall(request("POST", PATH, {}, SMALL))
                same(receive(small).status, 200)
            same(select.select([s], [], [], 0)[0], [], "those that are ready")
            reply = receive(s)
            same(reply.status, 200)
            same(reply.body == (alone or reply.body), True, "the same bytes")
            alone = reply.body


# In a terminal.


def in_terminals(f: Callable[[str], None]) -> Callable[[str], None]:
    """A check that is left out where no terminal can be had, as in a bare chroot."""
    try:
        for end in pty.openpty():
            os.close(end)
    except OSError:
        print(f"left out: there are no terminals for {f.__name__}")
        return f
    return check(f)


@contextmanager
def in_terminal(path: str, *flags: str) -> Iterator[Callable[[str], str]]:
    """A lossd whose standard error is a terminal; a function reads what it says up to a word. It must stop with 0."""
    ours, its = pty.openpty()
    process = subprocess.Popen([path, *flags], stderr=its, stdout=subprocess.DEVNULL)
    os.close(its)

    def read_to(word: str) -> str:
        said = b""
        if word == "stopped":
            process.terminate()
        while word.encode() not in said:
            same(bool(select.select([ours], [], [], 20)[0]), True, f"no {word} after {said!r}")
            said += os.read(ours, 4096)
        return said.decode()

    try:
        yield read_to
    finally:
        process.terminate()
        same(process.wait(20), 0)
        os.close(ours)


@in_terminals
def a_terminal_shows_a_request_that_works(path: str) -> None:
    with tempfile.TemporaryDirectory() as folder, key_file(f"# whose\n\nsomeone {KEY}\n") as keys:
        tcp = ["--listen", "127.0.0.1:0"]
        local = ["--listen", f"unix:{folder}/it's a socket"]
        for flags in (tcp, local, [*local, *tcp], [*tcp, *tls_flags()], [*tcp, "--api-key-file", str(keys)]):
            with in_terminal(path, *flags) as read_to:
                said = read_to("/docs" if tcp[1] in flags else "/v1/losses/cross_entropy")
                command = next(line for line in said.splitlines() if line.startswith("  curl "))
                done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
                same("loss" in json.loads(done.stdout)["outputs"], True, command)
                same(KEY in said, False, "a key is shown")


@in_terminals
def a_machine_that_reads_lines_gets_nothing_else(path: str) -> None:
    with in_terminal(path, "--listen", "127.0.0.1:0", "--log-format", "json") as read_to:
        lines = (read_to("listening") + read_to("stopped")).splitlines()
        same([line[:1] for line in lines], ["{"] * len(lines))


@check
def loops_interrupt_workers(path: str) -> None:
    """Workers interrupt nobody; and, as far as the kernel says, loops have shorter slices than they (since Linux 6.12
    threads have slices of their own). A sanitizer may have a thread besides."""
    with Lossd(path, "--workers", "3", "--loops", "2") as lossd:
        tasks = list(pathlib.Path(f"/proc/{lossd.process.pid}/task").iterdir())
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            policies = [os.sched_getscheduler(int(t.name)) for t in tasks]
            same(policies.count(os.SCHED_BATCH), 3, f"workers among {policies}")
            same(set(policies), {os.SCHED_OTHER, os.SCHED_BATCH}, "policies")
        seen = [(t / "sched").read_text() for t in tasks if (t / "sched").exists()]
        slices = [line.split(":")[1].strip() for text in seen for line in text.split("\n") if line.startswith("se.slice")]
        if slices and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12):
            same(slices.count("100000"), 2, f"loops among slices of {slices}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--only", default="", help="checks whose name holds this")
    arguments = parser.parse_args()
    failed = 0
    chosen = [c for c in checks if arguments.only in c.__name__]
    for one in chosen:
        start = time.monotonic()
        try:
            one(arguments.lossd)
            if arguments.verbose:
                print(f"{time.monotonic() - start:5.1f} s  {one.__name__}")
        except (AssertionError, OSError, SystemExit, KeyError) as why:
            failed += 1
            print(f"{one.__name__}: {type(why).__name__}: {why}")
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return failed > 0 or not chosen


if __name__ == "__main__":
    sys.exit(main())
