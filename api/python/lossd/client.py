"""The client: connections that are kept, requests that are tried again where that is safe."""

from __future__ import annotations

import http.client
import json
import math
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from . import tensors
from .errors import error_from

MEDIA = "application/x-safetensors"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Client:
    """A lossd at `url`: http://host:port, https://host:port or unix:/path. May be used by many threads.

    `timeout` is in seconds and for a whole call, retries included; lossd is told of it and does not begin what
    is late. Where lossd is full (503) a call is tried again after the time it asks for, at most `retries` times.
    `context` is for https: own authorities, a client certificate."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.url, self.timeout, self.retries = url, timeout, retries
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._dial = _dialler(url, context)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._described: dict[str, dict[str, Any]] | None = None

    def evaluate(
        self,
        loss: str,
        inputs: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """The outputs by name: `loss` and the usual gradients, or those that `outputs` names. Raises LossdError."""
        metadata = {name: tensors.option_text(value) for name, value in (options or {}).items()}
        if outputs is not None:
            metadata["outputs"] = ",".join(outputs)
        pieces = tensors.write({name: tensors.as_tensor(value) for name, value in inputs.items()}, metadata)
        headers = {"Content-Type": MEDIA, "Accept": MEDIA, "Content-Length": str(sum(map(len, pieces)))}
        path = self.describe(loss)["path"]
        return tensors.read(self._call("POST", path, headers, pieces, timeout))

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        """client.cross_entropy(logits, targets, label_smoothing=0.1): inputs in their order or by name, options and
        `outputs` by name."""
        if name.startswith("_"):
            raise AttributeError(name)
        names = [one["name"] for one in self.describe(name)["inputs"]]
        # Of a composite only the options are known: the inputs are its parts'.
        known = {one["name"] for one in self.describe(name)["options"]} if self.describe(name)["made_of_parts"] else None

        def call(*values: Any, outputs: Iterable[str] | None = None, **named: Any) -> dict[str, Any]:
            if len(values) > len(names):
                raise TypeError(f"{name} has the inputs {', '.join(names)}; {len(values)} were given")
            inputs = dict(zip(names, values))
            options = {}
            for key, value in named.items():
                if key in inputs:
                    raise TypeError(f"{name} got {key} twice")
                if key in names or (known is not None and key not in known):
                    inputs[key] = value
                else:
                    options[key] = value
            given = {key: value for key, value in inputs.items() if value is not None}
            return self.evaluate(name, given, options=options, outputs=outputs)

        return call

    def losses(self) -> list[str]:
        """The names of all losses and transforms."""
        return list(self._descriptions())

    def describe(self, loss: str) -> dict[str, Any]:
        """Inputs, outputs, options, formula and sources of a loss."""
        found = self._descriptions().get(loss)
        if found is None:
            raise AttributeError(f"lossd at {self.url} has no loss {loss!r}")
        return found

    def ready(self) -> bool:
        """Does it welcome requests?"""
        try:
            self._call("GET", "/readyz", {}, None, min(self.timeout, 5.0), retries=0)
        except Exception:
            return False
        return True

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _descriptions(self) -> dict[str, dict[str, Any]]:
        if self._described is None:
            listed = json.loads(bytes(self._call("GET", "/v1/losses", {}, None, None)))
            self._described = {one["name"]: one for one in listed["losses"]}
        return self._described

    def _call(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        pieces: list[Any] | None,
        timeout: float | None,
        retries: int | None = None,
    ) -> np.ndarray:
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        left = self.retries if retries is None else retries
        while True:
            status, body, reply = self._send(method, path, headers, pieces, end)
            if 200 <= status < 300:
                return body
            after = reply.get("Retry-After", "1")
            wait = float(after) if after.isdigit() else 1.0  # a date is what proxies may write
            if status != 503 or left == 0 or time.monotonic() + wait >= end:
                raise error_from(status, bytes(body), reply.get("X-Request-Id", ""))
            left -= 1
            time.sleep(wait)

    def _send(
        self, method: str, path: str, headers: dict[str, str], pieces: list[Any] | None, end: float
    ) -> tuple[int, np.ndarray, Mapping[str, str]]:
        while True:
            remaining = end - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no reply of {self.url} in time")
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            kept = connection is not None
            connection = connection or self._dial(remaining)
            if connection.sock:
                connection.sock.settimeout(remaining)
            limit = {"X-Request-Timeout": str(max(1, math.floor(remaining * 1000)))}
            try:
                connection.request(method, path, pieces, {**self._headers, **limit, **headers})
                reply = connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                connection.close()
                if kept:  # lossd had closed it since; nothing of a reply was seen, and to evaluate twice is no harm
                    continue
                raise
            except BaseException:
                connection.close()
                raise
            return self._receive(connection, reply)

    def _receive(
        self, connection: http.client.HTTPConnection, reply: http.client.HTTPResponse
    ) -> tuple[int, np.ndarray, Mapping[str, str]]:
        try:
            size = reply.length
            if size is None:
                body = np.frombuffer(bytearray(reply.read()), np.uint8)
            else:
                body = np.empty(size, np.uint8)  # nobody need clear it first
                view = memoryview(body)
                while view:
                    got = reply.readinto(view)
                    if got == 0:
                        raise http.client.IncompleteRead(bytes(body[: size - len(view)]), len(view))
                    view = view[got:]
                reply.read()  # so that the connection may be used again
        except BaseException:
            connection.close()
            raise
        if reply.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        return reply.status, body, reply.headers


def _dialler(url: str, context: ssl.SSLContext | None) -> Callable[[float], http.client.HTTPConnection]:
    if url.startswith("unix:"):
        return lambda timeout: _UnixConnection(url[5:], timeout)
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname, parts.port
    if parts.scheme not in ("http", "https") or host is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is not http://host:port, https://host:port or unix:/path")
    if parts.scheme == "https":
        return lambda timeout: http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    return lambda timeout: http.client.HTTPConnection(host, port, timeout=timeout)
