"""Starts a lossd to test, and speaks HTTP/1.1 on a socket, so that a test controls every byte that is sent."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import threading
import time
import zlib
from typing import NamedTuple

SANITIZERS = ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer", "LeakSanitizer")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Lossd:
    """A running lossd on a free port; as a context manager it must stop with exit code 0."""

    def __init__(self, path: str, *flags: str) -> None:
        listen = [] if "--listen" in flags else ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [path, *listen, *flags], stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.log: list[str] = []
        self.url = ""
        ready = threading.Event()

        def read() -> None:
            assert self.process.stderr
            for line in self.process.stderr:
                self.log.append(line)
                found = re.search(r"\burl(?:=|\":\")([^\s\"]+)", line)
                if found and not self.url:
                    self.url = found.group(1)
                    ready.set()
            ready.set()

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        if not ready.wait(20) or not self.url:
            self.process.kill()
            raise SystemExit("lossd did not start:\n" + "".join(self.log))

    def connect(self) -> socket.socket:
        if self.url.startswith("unix:"):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(60)
            s.connect(self.url[5:])
            return s
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        s = socket.create_connection((host, int(port)), timeout=60)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def stop(self) -> None:
        """SIGTERM; raises if it does not exit with 0 soon or a sanitizer has spoken."""
        self.process.terminate()
        code = self.process.wait(20)
        self.reader.join(5)
        text = "".join(self.log)
        if any(word in text for word in SANITIZERS):
            raise SystemExit(text)
        if code != 0:
            raise SystemExit(f"lossd exited with {code}:\n{text[-4000:]}")

    def __enter__(self) -> "Lossd":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0]:
            self.process.kill()
        else:
            self.stop()


def read_all(s: socket.socket) -> bytes:
    """Everything until the peer closes."""
    data = b""
    s.settimeout(20)
    try:
        while chunk := s.recv(65536):
            data += chunk
    except ConnectionError:
        pass
    return data


def receive(s: socket.socket, head: bool = False) -> Reply:
    """One reply. Raises ConnectionError if the peer closes before it is whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = s.recv(65536)
        if not chunk:
            raise ConnectionError("closed before a reply")
        data += chunk
    top, _, body = data.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if status == 100:
        rest = receive_after(s, body, head)
        return rest
    length = 0 if head else int(headers.get("content-length", "0"))
    parts = [body]
    got = len(body)
    while got < length:
        chunk = s.recv(1 << 20)
        if not chunk:
            raise ConnectionError("closed in the middle of a reply")
        parts.append(chunk)
        got += len(chunk)
    return Reply(status, headers, b"".join(parts))


def receive_after(s: socket.socket, begun: bytes, head: bool) -> Reply:
    class Begun:
        def recv(self, size: int) -> bytes:
            nonlocal begun
            if begun:
                data, begun = begun, b""
                return data
            return s.recv(size)

    return receive(Begun(), head)  # type: ignore[arg-type]


def request(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    given = {"Host": "localhost", **(headers or {})}
    if body and "Transfer-Encoding" not in given:
        given.setdefault("Content-Length", str(len(body)))
    lines += [f"{name}: {value}" for name, value in given.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "U8": "B", "BOOL": "B"}


def pack(dtype: str, values: list[float]) -> bytes:
    if dtype == "BF16":  # exact values only: the upper half of an f32
        return b"".join(struct.pack("<f", v)[2:] for v in values)
    kind = FORMATS[dtype]
    numbers = values if kind in "dfe" else [int(v) for v in values]
    return struct.pack(f"<{len(values)}{kind}", *numbers)


def unpack(dtype: str, data: bytes) -> list[float]:
    if dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]
    kind = FORMATS[dtype]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))


def safetensors(tensors: list[tuple[str, str, list[int], bytes]], meta: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": meta} if meta else {}
    data = b""
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_safetensors(body: bytes) -> tuple[dict[str, str], list[tuple[str, str, list[int], bytes]]]:
    (length,) = struct.unpack_from("<Q", body)
    header = json.loads(body[8 : 8 + length])
    data = body[8 + length :]
    meta = header.pop("__metadata__", {})
    tensors = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors.append((name, entry["dtype"], entry["shape"], data[begin:end]))
    assert sum(len(t[3]) for t in tensors) == len(data)
    return meta, tensors


# The datatypes of the Open Inference Protocol as safetensors calls them.
OIP_DTYPES = {
    "FP64": "F64",
    "FP32": "F32",
    "FP16": "F16",
    "BF16": "BF16",
    "INT64": "I64",
    "INT32": "I32",
    "UINT8": "U8",
    "BOOL": "BOOL",
}
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


def read_oip(reply: Reply) -> tuple[str, list[tuple[str, bytes]]]:
    """The head of a reply with raw outputs, as text; their types and bytes. Or ValueError."""
    if reply.headers.get("content-type") != "application/octet-stream":
        raise ValueError("raw outputs, but not application/octet-stream")
    length = reply.headers["inference-header-content-length"]
    if not re.fullmatch("[0-9]+", length) or int(length) > len(reply.body):
        raise ValueError(f"a header of {length} bytes in a body of {len(reply.body)}")
    text = reply.body[: int(length)].decode()
    data = reply.body[int(length) :]
    outputs = []
    for output in json.loads(text)["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if ("data" in output) == (size is not None):
            raise ValueError(f"{output['name']} must have either data or binary_data_size")
        if size is None:
            continue
        want = WIDTHS[OIP_DTYPES[output["datatype"]]]
        for dim in output["shape"]:
            want *= dim
        if size != want or size > len(data):
            raise ValueError(f"{output['name']} has {size} bytes of {want}, {len(data)} are left")
        outputs.append((output["datatype"], data[:size]))
        data = data[size:]
    if data or not outputs:
        raise ValueError(f"{len(data)} bytes after {len(outputs)} raw outputs")
    return text.rstrip("\n"), outputs


def inflate(reply: Reply) -> Reply:
    """The reply as it was before Content-Encoding. Raises ValueError or zlib.error."""
    coding = reply.headers.get("content-encoding")
    if coding not in ("gzip", "deflate"):
        return reply
    stream = zlib.decompressobj(31 if coding == "gzip" else 15)
    body = stream.decompress(reply.body)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"the {coding} stream is cut off or followed by other bytes")
    return reply._replace(body=body)


def wait_until(what: str, condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s for {what}")
        time.sleep(0.01)
