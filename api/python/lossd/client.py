"""The client: connections that are kept, requests that are tried again where that is safe."""

from __future__ import annotations

import json
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import calls, regions, tensors
from .errors import LossdError, error_from
from .line import Line, Unheard

LONG_IDLE = 60  # seconds
LATE = (TimeoutError, socket.timeout)  # one and the same since Python 3.10

class Client(calls.ByName, calls.Copied):
    """A lossd at `url`: http://host:port, https://host:port or unix:/path. May be used by many threads.

    `timeout` is in seconds and for a whole call, retries included; lossd is told of it and does not begin what
    is late. Where lossd is full (503) a call is tried again after the time it asks for, at most `retries` times.
    `context` is for https: own authorities, a client certificate.

    It can be copied, and pickled unless it has a `context`: the pickle holds the key."""

    own = ("_address", "_idle", "_lock", "_process", "_described", "_pool")

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
        self._headers = calls.authorization(api_key)
        self._context = context
        self._begin()

    def _begin(self) -> None:
        self._address = calls.address_of(self.url)
        self._idle: list[Line] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._described: dict[str, dict[str, Any]] | None = None
        self._pool = regions.Pool(self._address, self._headers, self.timeout)

    def evaluate(
        self,
        loss: str,
        inputs: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        timeout: float | None = None,
        in_place: Iterable[str] = (),
    ) -> dict[str, Any]:
        """The outputs by name: `loss` and the usual gradients, or those that `outputs` names. Raises LossdError.

        Inputs that lie in memory of `empty` are not sent, and their gradients lie in such memory, too. `in_place` names
        inputs there that their gradients may overwrite, where the loss allows it (scores, mostly): the output is then
        the input's own memory."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        description = calls.known(self._descriptions(timeout), loss, self.where)
        given, texts = calls.prepare(inputs, options)
        wanted = None if outputs is None else list(outputs)
        shared = regions.Shared(self._pool, description, given, wanted, frozenset(in_place))
        while True:
            headers, pieces = calls.encode_prepared(shared.carried, {**texts, **shared.places()}, wanted)
            try:
                body = self._call("POST", description["path"], headers, pieces, end - time.monotonic())
            except LossdError as error:
                if not shared.may_try_again(error):
                    raise
                continue
            return shared.outputs(*tensors.read_all(body))

    def empty(self, shape: int | Iterable[int], dtype: Any = np.float32) -> tensors.Region:
        """An array in memory that is shared with lossd, with a unix: URL, and with NumPy's or PyTorch's views of it as
        with any array. `dtype` is one of NumPy's, or "bf16". Elsewhere it is ordinary memory, and a warning says so
        once."""
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        narrow = isinstance(dtype, str) and dtype == "bf16"
        kind = np.dtype(np.uint16 if narrow else dtype)
        count = math.prod(sizes)
        memory = self._pool.take(count * kind.itemsize)
        array = np.empty(sizes, kind) if memory is None else memory.view(kind)[:count].reshape(sizes)
        return tensors.Region(tensors.BF16(array) if narrow else array)

    def has(self, value: Any) -> bool:
        """Does an array lie in memory of `empty`?"""
        return self._pool.block_of(tensors.bits(tensors.as_tensor(value))) is not None

    @property
    def shares(self) -> bool:
        """May tensors lie in shared memory?"""
        return self._pool.is_offered

    def keep(self, name: str, values: Mapping[str, Any], *, replace: bool = False) -> None:
        """Tensors for lossd to keep: requests name them Resident("name/tensor"). They are gone when lossd ends."""
        headers, pieces = calls.encode_resident(values)
        self._call("PUT", calls.resident_path(name, replace), headers, pieces, None)

    def forget(self, name: str) -> None:
        self._call("DELETE", calls.resident_path(name), {}, None, None)

    def resident(self) -> list[dict[str, Any]]:
        """The resident tensors that this client may name: name, dtype, shape, bytes."""
        return json.loads(bytes(self._call("GET", "/v1/regions", {}, None, None)))["regions"]

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
        for line in idle:
            line.close()
        self._pool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> str:
        return f"lossd at {self.url}"

    def _descriptions(self, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        if self._described is None:
            listed = json.loads(bytes(self._call("GET", "/v1/losses", {}, None, timeout)))
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
            wait = calls.retry_after(reply.get("retry-after"))
            if status != 503 or left == 0 or time.monotonic() + wait >= end:
                raise error_from(status, bytes(body), reply.get("x-request-id", ""))
            left -= 1
            time.sleep(wait)

    def _connect(self, end: float) -> Line:
        try:
            return Line(self._address, self._context, end)
        except LATE as error:
            raise self._late() from error
        except OSError as error:
            calls.say_where(error, self.url)
            raise

    def _late(self) -> TimeoutError:
        return TimeoutError(f"no reply of {self.url} in time")

    def _keep(self, line: Line) -> None:
        """For the next call; those that none has needed for long, which are the first, are closed."""
        with self._lock:
            line.since = time.monotonic()
            self._idle.append(line)
            while line.since - self._idle[0].since > LONG_IDLE:
                self._idle.pop(0).close()

    def _send(
        self, method: str, path: str, headers: dict[str, str], pieces: list[Any] | None, end: float
    ) -> tuple[int, np.ndarray, Mapping[str, str]]:
        while True:
            remaining = end - time.monotonic()
            if remaining <= 0:
                raise self._late()
            with self._lock:
                if self._process != os.getpid():  # forked: those connections are the other process's
                    self._process, self._idle = os.getpid(), []
                line = self._idle.pop() if self._idle and calls.is_repeatable(method) else None
            kept = line is not None
            line = line or self._connect(end)
            given = {**self._headers, **calls.limit(remaining), **headers}
            try:
                status, reply, body, again = line.ask(method, path, given, pieces or [], end)
            except Unheard:
                line.close()
                if kept:  # lossd had closed it since; to evaluate twice is no harm
                    continue
                raise
            except BaseException as error:  # a connection that is half read is of no more use
                line.close()
                if isinstance(error, LATE):
                    raise self._late() from error
                raise
            if again:
                self._keep(line)
            else:
                line.close()
            return status, body, reply
