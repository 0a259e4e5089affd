#!/usr/bin/env python3
"""Requests that cannot be read are answered by lossd itself, whatever is wrong with them; and requests mean the same
wherever the stream that carries them is cut. tests/load/smuggle.txt has more of the first kind."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from server import Lossd, Reply, read_all, receive, request, wait_until

CERTIFICATES = pathlib.Path(__file__).parent.parent / "data" / "tls"
BODY = b'{"inputs":{"a":[3],"b":[1]},"outputs":["loss"]}'
OIP_BODY = (
    b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP32","data":[3]},'
    b'{"name":"b","shape":[1],"datatype":"FP32","data":[1]}],"outputs":[{"name":"loss"}]}'
)
PATHS = ("/v1/losses/mse", "/v2/models/mse/infer")


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def post(path: str, *headers: bytes, body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: h", b"X-Request-Id: mine", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def with_line(line: bytes) -> Callable[[str], bytes]:
    """A request with this header."""
    return lambda path: post(path, b"X: y", line, b"Content-Length: 0")


def with_chunks(data: bytes) -> Callable[[str], bytes]:
    return lambda path: post(path, b"Transfer-Encoding: chunked", body=data)


def with_top(line: bytes) -> Callable[[str], bytes]:
    """A request with this request line, in which %s stands for the path."""
    return lambda path: line.replace(b"%s", path.encode()) + b"\r\nHost: h\r\nX-Request-Id: mine\r\n\r\n"


LONG = b"a" * 70000
BAD: dict[str, tuple[Callable[[str], bytes], int, str]] = {
    "version": (with_top(b"POST %s HTTP/1.x"), 400, "malformed_request"),
    "no version": (with_top(b"POST %s"), 400, "malformed_request"),
    "HTTP/2": (with_top(b"POST %s HTTP/2.0"), 505, "version_not_supported"),
    "HTTP/0.9": (with_top(b"POST %s HTTP/0.9"), 505, "version_not_supported"),
    "space in the target": (with_top(b"POST %s a HTTP/1.1"), 400, "malformed_request"),
    "NUL in the target": (with_top(b"POST %s\0 HTTP/1.1"), 400, "malformed_request"),
    "long target": (with_top(b"POST %s?" + LONG + b" HTTP/1.1"), 414, "uri_too_long"),
    "long header": (with_line(b"Y: " + LONG), 431, "head_too_large"),
    "long name": (with_line(LONG + b": y"), 431, "head_too_large"),
    "many headers": (with_line(b"\r\n".join([b"Y: z"] * 3000)), 431, "head_too_large"),
    "no colon": (with_line(b"nonsense"), 400, "malformed_request"),
    "space before colon": (with_line(b"Y : z"), 400, "malformed_request"),
    "folded": (with_line(b"Y: z\r\n z"), 400, "malformed_request"),
    "bare LF": (with_line(b"Y: z\nZ: z"), 400, "malformed_request"),
    "NUL": (with_line(b"Y: \0"), 400, "malformed_request"),
    "second Host": (with_line(b"Host: h"), 400, "malformed_request"),
    "length twice": (with_line(b"Content-Length: 0"), 400, "malformed_request"),
    "length and coding": (with_line(b"Transfer-Encoding: chunked"), 400, "malformed_request"),
    "length in letters": (lambda path: post(path, b"Content-Length: abc"), 400, "malformed_request"),
    "length with a sign": (lambda path: post(path, b"Content-Length: -1"), 400, "malformed_request"),
    "length empty": (lambda path: post(path, b"Content-Length:"), 400, "malformed_request"),
    "length too long": (lambda path: post(path, b"Content-Length: 18446744073709551644"), 400, "malformed_request"),
    "another coding": (lambda path: post(path, b"Transfer-Encoding: gzip"), 400, "malformed_request"),
    "chunk size": (with_chunks(b"1\r\n{\r\nx\r\n"), 400, "malformed_request"),
    "chunk size with a space": (with_chunks(b"1 \r\n{\r\n0\r\n\r\n"), 400, "malformed_request"),
    "chunk size of 20 digits": (with_chunks(b"1\r\n{\r\n10000000000000000000\r\n"), 413, "too_large"),
    "chunk not ended": (with_chunks(b"1\r\n{}\r\n"), 400, "malformed_request"),
    "bare LF in chunks": (with_chunks(b"1\n{\n0\n\n"), 400, "malformed_request"),
    "long extension": (with_chunks(b"1;" + LONG + b"\r\n{"), 400, "malformed_request"),
    "endless extension": (with_chunks(b"1;" + LONG), 400, "malformed_request"),
    "endless size": (with_chunks(b"1\r\n{\r\n" + b"0" * 70000), 400, "malformed_request"),
    "endless trailer": (with_chunks(b"0\r\nY: " + LONG), 400, "malformed_request"),
    "trailer without a colon": (with_chunks(b"0\r\nnonsense\r\n\r\n"), 400, "malformed_request"),
}
# What is wrong stands before the id.
UNKNOWN = {"version", "no version", "HTTP/2", "HTTP/0.9", "space in the target", "NUL in the target", "long target"}


def send(s: socket.socket, data: bytes) -> None:
    try:
        s.sendall(data)
    except ConnectionError:
        pass  # refused before all of it was read


def replies_in(data: bytes) -> list[Reply]:
    class Heard:
        def recv(self, size: int) -> bytes:
            nonlocal data
            part, data = data[:1], data[1:]
            return part

    found = []
    while data:
        found.append(receive(Heard()))  # type: ignore[arg-type]
    return found


def check_bad(lossd: Lossd, name: str, path: str, s: socket.socket) -> str:
    """What is wrong with the reply to a bad request, which comes behind a good one."""
    made, status, code = BAD[name]
    good = request("POST", PATHS[0], {"X-Request-Id": "good"}, BODY)
    send(s, good + made(path) + request("GET", "/healthz", {"X-Request-Id": "after"}))
    try:
        first, reply, *more = replies_in(read_all(s))
    except (ConnectionError, ValueError) as why:
        return f"not two replies: {why}"
    body = json.loads(reply.body)
    got = [first.status, reply.status, len(more), reply.headers.get("connection"), reply.headers.get("content-type")]
    want = [200, status, 0, "close", "application/json" if path.startswith("/v2") else "application/problem+json"]
    if got != want:
        return f"{got}, not {want}: {reply.body!r}"
    if path.startswith("/v2"):
        if list(body) != ["error"] or not body["error"]:
            return f"the form of the error: {body}"
    elif (body["status"], body["code"]) != (status, code) or not body["detail"]:
        return f"not {status} {code}: {body}"
    its_id = reply.headers.get("x-request-id", "")
    if not its_id or (its_id != "mine" and name not in UNKNOWN):
        return f"its id is {its_id!r}"
    wait_until(
        f"a line of the log on {name}",
        lambda: any(re.search(f" id={its_id} .* status={status} code={code} ", line) for line in lossd.log),
    )
    return ""


def bad_requests(path: str) -> list[str]:
    wrong = []
    with Lossd(path) as lossd:
        for name in BAD:
            for route in PATHS:
                lossd.log.clear()
                with lossd.connect() as s:
                    if said := check_bad(lossd, name, route, s):
                        wrong.append(f"{name}, {route}: {said}")
        if any("after" in line for line in lossd.log):
            wrong.append("a request behind a bad one was served")
    return wrong


def bad_requests_by_tls(path: str) -> list[str]:
    wrong = []
    flags = ("--tls-cert", str(CERTIFICATES / "server.pem"), "--tls-key", str(CERTIFICATES / "server.key"))
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    with Lossd(path, *flags) as lossd:
        host, port = lossd.url.removeprefix("https://").rsplit(":", 1)
        for name in BAD:
            lossd.log.clear()
            s = socket.create_connection((host, int(port)), timeout=20)
            with context.wrap_socket(s, server_hostname="localhost", suppress_ragged_eofs=True) as s:
                if said := check_bad(lossd, name, PATHS[0], s):
                    wrong.append(f"{name}: {said}")
    return wrong


def largest_heads(path: str) -> list[str]:
    """What may just be: the limits of framing.h, and what libmicrohttpd would take memory for."""
    wrong = []
    top = b"POST /v1/losses/mse?reduction=sum&outputs=loss HTTP/1.1\r\n"
    line = b"GET /healthz? HTTP/1.1\r\n"
    line = line.replace(b"?", b"?" + b"a" * (16384 - len(line)))
    body = b'{"inputs":{"a":[3],"b":[1]}}'
    few = b"Host: h\r\nContent-Length: %d\r\n" % len(body)
    fill = few + b"X: \r\n" * (128 - few.count(b"\r\n"))
    fill = fill.replace(b"X: ", b"X: " + b"y" * (32768 - len(fill) - 2), 1)
    for name, data, status in (
        ("a long query", line + few + b"\r\n" + body, 200),
        ("a longer one", line.replace(b"?", b"??") + few + b"\r\n" + body, 414),
        ("long headers", top + fill + b"\r\n" + body, 200),
        ("both", line + fill + b"\r\n" + body, 200),
        ("a byte more", top + fill.replace(b"y", b"yy", 1) + b"\r\n" + body, 431),
        ("one header more", top + b"X: y\r\n" + fill + b"\r\n" + body, 431),
        ("1000 arguments", top.replace(b"?", b"?" + b"a&" * 1000) + few + b"\r\n" + body, 422),
        ("1000 cookies", top + b"Cookie: " + b"a=b;" * 1000 + b"\r\n" + few + b"\r\n" + body, 200),
        ("an origin of 15 KB", top + b"Origin: http://" + b"a" * 15000 + b"\r\n" + few + b"\r\n" + body, 403),
        ("one of 17 KB", top + b"Origin: http://" + b"a" * 17000 + b"\r\n" + few + b"\r\n" + body, 431),
        ("17 KB of what is not read", top + b"A: http://" + b"a" * 17000 + b"\r\n" + few + b"\r\n" + body, 200),
        ("an origin of 1 KB", top + b"Origin: http://" + b"a" * 1000 + b"\r\n" + few + b"\r\n" + body, 200),
    ):
        with Lossd(path, "--cors-origin", "*") as lossd, lossd.connect() as s:
            for _ in range(2):
                s.sendall(data)
                reply = receive(s)
                if reply.status != status or "x-request-id" not in reply.headers:
                    wrong.append(f"{name}: {reply}")
                if reply.headers.get("connection") == "close":
                    break
    return wrong


# Streams whose replies do not depend on where they are cut.
STREAMS = {
    "two with lengths": request("POST", PATHS[0], {}, BODY) + request("POST", PATHS[1], {}, OIP_BODY),
    "chunks, then a length": post(PATHS[0], b"Transfer-Encoding: chunked", body=chunked(BODY))
    + request("POST", PATHS[0], {}, BODY),
    "extensions and trailers": post(PATHS[0], b"Transfer-Encoding:\tchunked ", b"Cookie: a=b; c=d")
    + b"0002;a=b\r\n%s\r\n%x ;c\r\n%s\r\n0;d\r\nX: y\r\nHost: i\r\n\r\n" % (BODY[:2], len(BODY) - 2, BODY[2:])
    + request("GET", "/healthz"),
    "white space": post(PATHS[0], b"Content-Length: \t%d \t" % len(BODY), b"Content-Type: application/json  ", body=BODY)
    + b"\r\n\r\n"
    + request("GET", "/healthz"),
    "expect": post(PATHS[0], b"Expect: 100-continue", b"Content-Length: %d" % len(BODY), body=BODY),
    "HEAD": b"HEAD /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nGET" + b"GET /readyz HTTP/1.0\r\n\r\n",
    "bad behind good": request("POST", PATHS[0], {}, BODY) + with_line(b"Y : z")(PATHS[1]),
    "bad length": post(PATHS[0], b"Content-Length: %dx" % len(BODY), body=BODY) + request("GET", "/healthz"),
    "bad chunk behind good": post(PATHS[0], b"Transfer-Encoding: chunked", body=chunked(BODY))
    + post(PATHS[1], b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n;\r\n\r\n")
    + request("GET", "/healthz"),
    "bad version": b"GET /v2 HTTP/1.1.1\r\nHost: h\r\n\r\n" + request("GET", "/healthz"),
}


def without_accidents(data: bytes) -> bytes:
    """Replies without what differs each time."""
    return re.sub(rb"(Date|X-Request-Id|Server-Timing): [^\r]*", rb"\1:", data)


def replies_to_cuts(lossd: Lossd, stream: bytes) -> list[bytes]:
    """The replies to the stream, whole, then cut at each place."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(lossd.connect()) for _ in stream]
        for cut, s in enumerate(sockets):
            s.sendall(stream[:cut])
        time.sleep(0.05)  # so that the first pieces are read alone
        # What was said before the rest is sent, which may reset a connection that lossd has closed.
        early = [s.recv(65536) if select.select([s], [], [], 0)[0] else b"" for s in sockets]
        for cut, s in enumerate(sockets):
            send(s, stream[cut:])
        return [without_accidents(said + read_all(s)) for said, s in zip(early, sockets)]


def any_cut(path: str) -> list[str]:
    wrong = []
    with Lossd(path) as lossd:
        for name, stream in STREAMS.items():
            whole, *others = replies_to_cuts(lossd, stream + request("GET", "/healthz", {"Connection": "close"}))
            wrong += [
                f"{name}, cut at {cut}: {said!r}, not {whole!r}" for cut, said in enumerate(others, 1) if said != whole
            ]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    arguments = parser.parse_args()
    failed = 0
    for check in (bad_requests, bad_requests_by_tls, largest_heads, any_cut):
        start = time.monotonic()
        wrong = check(arguments.lossd)
        failed += bool(wrong)
        print(f"{time.monotonic() - start:5.1f} s  {check.__name__}{': failed' if wrong else ''}")
        for line in wrong[:20]:
            print(f"    {line[:1000]}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
