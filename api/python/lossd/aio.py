"""The client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import numpy as np

from . import calls, tensors
from .errors import error_from
from .line import is_last, read_head

CHUNK = 1 << 20

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Protocol(asyncio.StreamReaderProtocol):
    """Where a request cannot be sent to its end, lossd has refused it: what it said is still to be read. A stream of
    asyncio forgets what it has received when writing fails, and what the kernel holds beyond that."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._to = reader
        self._made: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._made.get_extra_info("ssl_object") is None:
            with contextlib.suppress(OSError):
                with socket.socket(fileno=os.dup(self._made.get_extra_info("socket").fileno())) as rest:
                    while part := rest.recv(CHUNK, socket.MSG_DONTWAIT):
                        self._to.feed_data(part)
        super().connection_lost(None)


class AsyncClient(calls.Copied):
    """What lossd.Client is, awaited: `await client.cross_entropy(logits, targets)`. At most `connections` calls are on
    their way at a time, the others wait for their turn, within their timeout. A call that is cancelled closes its
    connection, and lossd gives its work up. For one event loop; a copy may serve another."""

    own = ("_turns", "_idle", "_described", "_asked")

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        context: ssl.SSLContext | None = None,
        connections: int = 32,
    ) -> None:
        self.url, self.timeout, self.retries = url, timeout, retries
        self._headers = calls.authorization(api_key)
        self._address = calls.address_of(url)
        self._context = context or ssl.create_default_context() if self._address.secure else None
        self._connections = connections
        self._begin()

    def _begin(self) -> None:
        self._turns = asyncio.Semaphore(self._connections)
        self._idle: list[Stream] = []
        self._described: dict[str, dict[str, Any]] | None = None
        self._asked: asyncio.Future[None] | None = None

    async def evaluate(
        self,
        loss: str,
        inputs: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """The outputs by name: `loss` and the usual gradients, or those that `outputs` names. Raises LossdError, or
        TimeoutError."""
        headers, pieces = calls.encode(inputs, options, outputs)
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        path = (await self._description(loss, timeout))["path"]
        return tensors.read(await self._call("POST", path, headers, pieces, end - time.monotonic()))

    def __getattr__(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        """await client.cross_entropy(logits, targets, label_smoothing=0.1): as lossd.Client's."""
        if name.startswith("_"):
            raise AttributeError(name)

        async def call(*values: Any, outputs: Iterable[str] | None = None, **named: Any) -> dict[str, Any]:
            inputs, options = calls.arrange(await self.describe(name), values, named)
            return await self.evaluate(name, inputs, options=options, outputs=outputs)

        return call

    async def losses(self) -> list[str]:
        """The names of all losses and transforms."""
        return list(await self._descriptions(None))

    async def describe(self, loss: str) -> dict[str, Any]:
        """Inputs, outputs, options, formula and sources of a loss."""
        return await self._description(loss, None)

    async def _description(self, loss: str, timeout: float | None) -> dict[str, Any]:
        return calls.known(await self._descriptions(timeout), loss, f"lossd at {self.url}")

    async def keep(self, name: str, values: Mapping[str, Any], *, replace: bool = False) -> None:
        """Tensors for lossd to keep: requests name them Resident("name/tensor"). They are gone when lossd ends."""
        headers, pieces = calls.encode_resident(values)
        await self._call("PUT", calls.resident_path(name, replace), headers, pieces, None)

    async def forget(self, name: str) -> None:
        await self._call("DELETE", calls.resident_path(name), {}, [], None)

    async def resident(self) -> list[dict[str, Any]]:
        """The resident tensors that this client may name: name, dtype, shape, bytes."""
        return json.loads(bytes(await self._call("GET", "/v1/regions", {}, [], None)))["regions"]

    async def ready(self) -> bool:
        """Does it welcome requests?"""
        try:
            await self._call("GET", "/readyz", {}, [], min(self.timeout, 5.0), retries=0)
        except Exception:
            return False
        return True

    async def close(self) -> None:
        if self._asked:
            self._asked.cancel()
        idle, self._idle = self._idle, []
        for _, writer in idle:
            writer.transport.abort()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _descriptions(self, timeout: float | None) -> dict[str, dict[str, Any]]:
        """Half a megabyte: it is asked for once, however many calls begin at the same time."""
        seconds = self.timeout if timeout is None else timeout
        while self._described is None:
            if self._asked is None:
                self._asked = asyncio.ensure_future(self._ask(max(seconds, self.timeout)))
                self._asked.add_done_callback(self._answered)
            try:
                await asyncio.wait_for(asyncio.shield(self._asked), seconds)
            except asyncio.TimeoutError as error:
                raise TimeoutError(f"no reply of {self.url} in time") from error
        return self._described

    async def _ask(self, timeout: float) -> None:
        listed = json.loads(bytes(await self._call("GET", "/v1/losses", {}, [], timeout)))
        self._described = {one["name"]: one for one in listed["losses"]}

    def _answered(self, asked: asyncio.Future[None]) -> None:
        self._asked = None
        if not asked.cancelled():
            asked.exception()  # whoever waits is told of it; maybe nobody does any more

    async def _call(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        pieces: list[Any],
        timeout: float | None,
        retries: int | None = None,
    ) -> np.ndarray:
        seconds = self.timeout if timeout is None else timeout
        left = self.retries if retries is None else retries
        tries = self._try(method, path, headers, pieces, time.monotonic() + seconds, left)
        try:
            return await asyncio.wait_for(tries, seconds)
        except asyncio.TimeoutError as error:  # which is not TimeoutError before Python 3.11
            raise TimeoutError(f"no reply of {self.url} in time") from error

    async def _try(
        self, method: str, path: str, headers: dict[str, str], pieces: list[Any], end: float, left: int
    ) -> np.ndarray:
        while True:
            async with self._turns:
                status, reply, body = await self._send(method, path, headers, pieces, end)
            if 200 <= status < 300:
                return body
            wait = calls.retry_after(reply.get("retry-after"))
            if status != 503 or left == 0 or time.monotonic() + wait >= end:
                raise error_from(status, bytes(body), reply.get("x-request-id", ""))
            left -= 1
            await asyncio.sleep(wait)

    async def _open(self) -> Stream:
        secure, host, port, path, _ = self._address
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=CHUNK)
        protocol = _Protocol(reader)
        if path is not None:
            transport, _ = await loop.create_unix_connection(lambda: protocol, path)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, calls.UNIX_BUFFER)
        else:
            port = port or (443 if secure else 80)
            transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=self._context)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _send(
        self, method: str, path: str, headers: dict[str, str], pieces: list[Any], end: float
    ) -> tuple[int, dict[str, str], np.ndarray]:
        while True:
            kept = bool(self._idle) and calls.is_repeatable(method)
            try:
                stream = self._idle.pop() if kept else await self._open()
            except OSError as error:
                calls.say_where(error, self.url)
                raise
            given = {"Host": self._address.authority, **self._headers, **calls.limit(end - time.monotonic()), **headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            heard = False
            try:
                reader, writer = stream
                with contextlib.suppress(ConnectionError):  # refused before all of it was sent? Then there is a reply
                    for piece in (f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"), *pieces):
                        writer.write(piece)
                        await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                heard = True
                status, reply = read_head(head)
                body = await _read_body(reader, reply)
            except BaseException as error:
                # Also when it was cancelled: a connection that is half read is of no more use.
                stream[1].transport.abort()
                begun = heard or (isinstance(error, asyncio.IncompleteReadError) and bool(error.partial))
                if kept and not begun and isinstance(error, (ConnectionError, asyncio.IncompleteReadError)):
                    continue  # lossd had closed it since; to evaluate twice is no harm
                if isinstance(error, asyncio.IncompleteReadError):
                    raise ConnectionError(f"{self.url} closed the connection before its reply was whole") from error
                raise
            if is_last(reply) or reader.at_eof():
                writer.transport.abort()
            else:
                self._idle.append(stream)
            return status, reply, body


async def _read_body(reader: asyncio.StreamReader, reply: Mapping[str, str]) -> np.ndarray:
    if reply.get("transfer-encoding", "").lower() == "chunked":  # lossd does not, a proxy may
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return np.frombuffer(bytearray(b"".join(parts)), np.uint8)
    if "content-length" not in reply:
        return np.frombuffer(bytearray(await reader.read()), np.uint8)  # to its end: of a proxy of long ago
    body = np.empty(int(reply["content-length"]), np.uint8)  # nobody need clear it first
    view = memoryview(body)
    while view:
        part = await reader.read(min(len(view), CHUNK))
        if not part:
            raise asyncio.IncompleteReadError(b"", len(view))
        view[: len(part)] = part
        view = view[len(part) :]
    return body
