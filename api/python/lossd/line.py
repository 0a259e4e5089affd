"""HTTP/1.1 on a socket, as far as a lossd and the proxies before it need it: a request is one call of the kernel where
that is possible, and the body of a reply is read to where it stays. http.client takes ten times as long for that."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import calls

FIRST = 16 * 1024  # of a reply: its head, and all of a small one


class Unheard(ConnectionError):
    """The connection was closed before a byte of the reply."""


class Line:
    """A connection. `end` is the time (monotonic) at which whatever it does is late: TimeoutError."""

    def __init__(self, address: calls.Address, context: ssl.SSLContext | None, end: float) -> None:
        self.since = 0.0  # when it was kept
        self._authority = address.authority
        self._socket: socket.socket
        self._first = bytearray(FIRST)
        seconds = _left(end)
        if address.path is not None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, calls.UNIX_BUFFER)
            self._socket.settimeout(seconds)
            self._socket.connect(address.path)
            return
        port = address.port or (443 if address.secure else 80)
        self._socket = socket.create_connection((address.host, port), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.secure:
            safe = context or ssl.create_default_context()
            self._socket = safe.wrap_socket(self._socket, server_hostname=address.host)

    def close(self) -> None:
        self._socket.close()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], pieces: list[Any], end: float
    ) -> tuple[int, dict[str, str], np.ndarray, bool]:
        """Status, headers (their names in lower case) and body of the reply; and may the line be used again?"""
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        top = f"{method} {path} HTTP/1.1\r\nHost: {self._authority}\r\n{fields}\r\n".encode("latin-1")
        sent = True
        try:
            self._send([top, *pieces], end)
        except (BrokenPipeError, ConnectionResetError):
            sent = False  # refused before all of it was? Then there is a reply
        status, reply, rest = 100, {}, memoryview(b"")
        while 100 <= status < 200:
            head, rest = self._until(rest, b"\r\n\r\n", end)
            status, reply = read_head(head)
        if status in (204, 304):
            return status, reply, np.empty(0, np.uint8), sent and not is_last(reply)
        if reply.get("transfer-encoding", "").lower() == "chunked":  # lossd does not, a proxy may
            return status, reply, self._chunks(rest, end), sent and not is_last(reply)
        if "content-length" not in reply:
            return status, reply, self._to_end(rest, end), False
        body = np.empty(int(reply["content-length"]), np.uint8)  # nobody need clear it first
        self._fill(memoryview(body), rest, end)
        return status, reply, body, sent and not is_last(reply)

    def _send(self, pieces: list[Any], end: float) -> None:
        if isinstance(self._socket, ssl.SSLSocket):
            for piece in pieces:
                self._socket.settimeout(_left(end))
                self._socket.sendall(piece)
            return
        left = [memoryview(piece) for piece in pieces]
        while left:
            self._socket.settimeout(_left(end))
            sent = self._socket.sendmsg(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]

    def _receive(self, to: memoryview, end: float) -> int:
        self._socket.settimeout(_left(end))
        return self._socket.recv_into(to)

    def _until(self, rest: memoryview, mark: bytes, end: float) -> tuple[bytes, memoryview]:
        """What comes up to and with `mark`, and what was read behind it. `rest` was read before."""
        text = rest.tobytes()
        while mark not in text:
            try:
                got = self._receive(memoryview(self._first), end)
            except ConnectionResetError as error:
                raise (_cut() if text else Unheard(str(error))) from error
            if got == 0:
                raise _cut() if text else Unheard("the connection was closed")
            text += memoryview(self._first)[:got]
        at = text.index(mark) + len(mark)
        return text[:at], memoryview(text)[at:]

    def _fill(self, to: memoryview, rest: memoryview, end: float) -> memoryview:
        """Fill `to` with `rest`, then with what comes. Returns what is then left of it."""
        have = min(len(rest), len(to))
        to[:have] = rest[:have]
        while have < len(to):
            got = self._receive(to[have:], end)
            if got == 0:
                raise _cut()
            have += got
        return rest[len(to) :]

    def _chunks(self, rest: memoryview, end: float) -> np.ndarray:
        parts = []
        while True:
            line, rest = self._until(rest, b"\r\n", end)
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            part = bytearray(size + 2)
            rest = self._fill(memoryview(part), rest, end)
            parts.append(part[:-2])
        while line != b"\r\n":
            line, rest = self._until(rest, b"\r\n", end)
        return np.frombuffer(bytearray().join(parts), np.uint8)

    def _to_end(self, rest: memoryview, end: float) -> np.ndarray:
        """Of a proxy of long ago."""
        body = bytearray(rest)
        while got := self._receive(memoryview(self._first), end):
            body += memoryview(self._first)[:got]
        return np.frombuffer(body, np.uint8)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("no whole reply in time")
    return left


def _cut() -> ConnectionError:
    return ConnectionError("the connection was closed before the reply was whole")


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of a reply, their names in lower case."""
    top, *lines = head.decode("latin-1").split("\r\n")
    words = top.split()
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ConnectionError(f"the reply is not HTTP/1.1: {top[:40]!r}")
    fields = (line.partition(":") for line in lines if line)
    reply = {name.lower(): value.strip() for name, _, value in fields}
    if words[0] == "HTTP/1.0":
        reply.setdefault("connection", "close")
    return int(words[1]), reply


def is_last(reply: Mapping[str, str]) -> bool:
    """Will the connection be closed?"""
    return reply.get("connection", "").lower() == "close"
