#!/usr/bin/env python3
"""Request smuggling: bytes that two HTTP parsers may read as different requests (smuggle.txt), sent to lossd
alone, and through nginx and HAProxy, which keep connections to lossd that many clients share.

    tests/load/smuggle.py [--direct] [NAME...]

Alone, lossd must do what smuggle.txt says. A proxy gives each request that it takes an id of its own, which
lossd logs and repeats, so violations are visible: lossd serves a request that the proxy does not know, or one
id twice, or a client gets the reply to an id that is not its own. Other clients (probes)
follow each vector, each with a different loss value, and all must get their own replies.

Each proxy runs twice: with its defaults, and with all settings that make it forward more (the column with a
star): nginx unbuffered and with invalid header names, HAProxy with option accept-invalid-http-request.
`--direct` needs no proxy."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "http"))
from server import Lossd, Reply, request, wait_until  # noqa: E402

QUIET = 0.6  # seconds after which nothing more is expected of a vector
LIMIT = 2.0  # seconds for one exchange
PROBES = 3

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off; large_client_header_buffers 4 128k; client_max_body_size 1m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1; proxy_next_upstream off;
    proxy_set_header Connection ""; proxy_set_header X-Request-Id front-$request_id;
    add_header X-Front front-$request_id always;
    upstream plain {{ server {plain_lossd}; keepalive 1; }}
    upstream lax {{ server {lax_lossd}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{plain};
        location / {{ proxy_pass http://plain; proxy_buffering on; proxy_request_buffering on; }}
    }}
    server {{
        listen 127.0.0.1:{lax}; ignore_invalid_headers off; underscores_in_headers on;
        location / {{ proxy_pass http://lax; proxy_buffering off; proxy_request_buffering off; }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    tune.bufsize 131072
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    retries 0
    http-reuse always
    option http-keep-alive
    unique-id-format front-%rt
listen plain
    bind 127.0.0.1:{plain}
    http-request set-header X-Request-Id %[unique-id]
    http-after-response set-header X-Front %[unique-id]
    server lossd {plain_lossd}
listen lax
    bind 127.0.0.1:{lax}
    option accept-invalid-http-request
    http-request set-header X-Request-Id %[unique-id]
    http-after-response set-header X-Front %[unique-id]
    server lossd {lax_lossd}
"""


class Vector(NamedTuple):
    name: str
    data: bytes
    allowed: list[str]  # what lossd alone may do, as smuggle.txt spells it


def read_vectors(path: pathlib.Path) -> list[Vector]:
    head, *blocks = re.split(r"^### ", path.read_text(), flags=re.MULTILINE)
    pieces = dict(re.findall(r"^@let (\w+) (.*)$", head, re.MULTILINE))

    def raw(line: str) -> bytes:
        repeat = re.match(r"@repeat (\d+) ", line)
        if repeat:
            return raw(line[repeat.end() :]) * int(repeat[1])
        line = re.sub(r"\$([A-Z]+)|\${([A-Z]+)}", lambda found: pieces[found[1] or found[2]], line)
        return line.encode().decode("unicode_escape").encode("latin-1")

    vectors = []
    for block in blocks:
        name, *lines = block.rstrip("\n").split("\n")
        said = {line[:2]: line[2:] for line in lines if line[:2] in ("# ", "= ")}
        data = b"".join(raw(line) for line in lines if line[:2] not in said)
        allowed = said["= "].replace("refused", "400 closed").split(" | ")
        vectors.append(Vector(name, data, allowed))
    return vectors


def split(data: bytes, head: bool) -> tuple[list[Reply], bytes]:
    """The replies that stand in data, without interim ones, and what is no whole reply behind them; the first
    has no body if `head`."""
    found = []
    while match := re.match(rb"HTTP/1\.[01] (\d{3}) .*?\r\n\r\n", data, re.DOTALL):
        status, lines = int(match[1]), match[0].decode("latin-1").split("\r\n")[1:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        end = match.end() + (0 if head else int(headers.get("content-length", "0")))
        if len(data) < end:
            break
        if status >= 200:
            found.append(Reply(status, headers, data[match.end() : end]))
            head = False
        data = data[end:]
    return found, data


class Exchange(NamedTuple):
    replies: list[Reply]
    raw: bytes
    end: str  # closed, waits (still open when all was quiet), or garbled (what comes last is no whole reply)

    def statuses(self) -> str:
        return " ".join(str(reply.status) for reply in self.replies)


@contextlib.contextmanager
def sent(port: int, data: bytes, head: bool, last: bytes | None = None) -> Iterator[tuple[Exchange, int]]:
    """What comes back, and one's own port; the connection stays open inside the with. Waits for `last`, or
    for the peer to close, or until nothing has come for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as s:
        got, end, until = b"", "waits", time.monotonic() + LIMIT
        with contextlib.suppress(TimeoutError):
            try:
                s.sendall(data)
            except ConnectionError:
                pass  # refused before it was read; the answer is there all the same
            while time.monotonic() < until and not (last and last in got and got.endswith(b"ok\n")):
                s.settimeout(QUIET)
                try:
                    chunk = s.recv(1 << 16)
                except ConnectionError:
                    chunk = b""
                if not chunk:
                    end = "closed"
                    break
                got += chunk
        found, rest = split(got, head)
        yield Exchange(found, got, "garbled" if rest else end), s.getsockname()[1]


def soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + LIMIT
    while not (holds := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return holds


def is_head(vector: Vector) -> bool:
    return vector.data.lstrip().startswith(b"HEAD ")


# lossd alone.

AFTER = request("GET", "/healthz", {"X-Request-Id": "after"})


def run_direct(lossd: Lossd, vector: Vector) -> tuple[str, str]:
    """What it did, and what is wrong with that."""
    waits = any(allowed.endswith("waits") for allowed in vector.allowed)
    data = vector.data if waits else vector.data + AFTER
    port = int(lossd.url.rsplit(":", 1)[1])
    with sent(port, data, is_head(vector), b"X-Request-Id: after") as (exchange, own):
        pass
    got, end = exchange.replies, exchange.end
    if got and got[-1].headers.get("x-request-id") == "after" and not waits:
        got, end = got[:-1], "open"
    told = " ".join([*(str(reply.status) for reply in got), end])
    if told not in vector.allowed:
        wanted = " | ".join(vector.allowed)
        return told, f"{vector.data[:300]!r} was to be {wanted}; got {exchange.raw[:400]!r}"
    ids = [reply.headers.get("x-request-id", "none") for reply in exchange.replies]

    def logged() -> list[str]:
        lines = [line for line in lossd.log if line.rstrip().endswith(f"client=127.0.0.1:{own}")]
        # status 0 is a request that lossd did not answer, as its body was malformed or did not come
        return [re.findall(r" id=(\S*)", line)[0] for line in lines if " status=0 " not in line]

    fits = soon(lambda: logged() == ids)
    return told, "" if fits else f"{vector.data[:300]!r}: answered {ids}, logged {logged()}"


# Through proxies.


class Front:
    """One address of a proxy, before a lossd of its own."""

    def __init__(self, port: int, lossd: Lossd) -> None:
        self.port = port
        self.lossd = lossd
        self.read = 0  # lines of the log
        self.seen: set[str] = set()
        self.probes = 0

    def news(self) -> list[str]:
        """The ids of the requests that lossd has logged since."""
        lines = self.lossd.log[self.read :]
        self.read += len(lines)
        return [found[1] for line in lines if (found := re.search(r" request id=(\S*)", line))]

    def probe(self) -> str:
        """What is wrong with the answer to a client that comes after the vector; nothing, if all is well."""
        self.probes += 1
        body = json.dumps({"inputs": {"a": [self.probes], "b": [0]}, "outputs": ["loss"]}).encode()
        data = request("POST", "/v1/losses/mse", {"Connection": "close"}, body)
        try:
            with sent(self.port, data, False) as (exchange, _):
                pass
        except OSError as wrong:
            return f"a probe: {wrong}"
        if len(exchange.replies) != 1:
            return f"a probe got {exchange.raw[:200]!r}"
        reply = exchange.replies[0]
        if b'"outputs":{' not in reply.body or json.loads(reply.body)["outputs"] != {"loss": self.probes**2}:
            return f"probe {self.probes} got {exchange.raw[:400]!r}"
        answered = reply.headers["x-request-id"]
        if not soon(lambda: any(f" id={answered} " in line for line in self.lossd.log)):
            return f"lossd has not logged {answered}"
        return foreign(exchange)

    def run(self, vector: Vector) -> tuple[str, str]:
        """The statuses that its client saw and how many requests lossd saw; and what is wrong."""
        wrong, statuses = [], "-"
        try:
            with sent(self.port, vector.data, is_head(vector)) as (exchange, _):
                statuses = exchange.statuses() or exchange.end
                wrong = [foreign(exchange), *(self.probe() for _ in range(PROBES))]
        except OSError as error:
            wrong.append(f"the vector: {error}")
        wrong.append(self.probe())  # after the proxy has seen that client go
        ids = self.news()
        for request_id in ids:
            if request_id == '""':  # its head never was whole, so lossd did not serve it
                continue
            if not request_id.startswith("front-"):
                wrong.append(f"lossd served {request_id}, which the proxy does not know")
            elif request_id in self.seen:
                wrong.append(f"lossd served {request_id} twice")
            self.seen.add(request_id)
        return f"{statuses} ({len(ids) - PROBES - 1})", "; ".join(filter(None, wrong))


def foreign(exchange: Exchange) -> str:
    """Answers of lossd to a request that is not the one the proxy gave them to."""
    for reply in exchange.replies:
        front, answered = reply.headers.get("x-front"), reply.headers.get("x-request-id")
        if answered and answered != front:
            return f"the answer to {answered} went to {front}: {exchange.raw[:300]!r}"
    return ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def proxy(name: str, lossd_path: str, configuration: str, command: list[str]) -> Iterator[dict[str, Front]]:
    with tempfile.TemporaryDirectory() as folder, Lossd(lossd_path) as plain, Lossd(lossd_path) as lax:
        fronts = {name: Front(free_port(), plain), f"{name}*": Front(free_port(), lax)}
        file = pathlib.Path(folder) / "configuration"
        file.write_text(
            configuration.format(
                folder=folder,
                plain=fronts[name].port,
                lax=fronts[f"{name}*"].port,
                plain_lossd=plain.url.removeprefix("http://"),
                lax_lossd=lax.url.removeprefix("http://"),
            )
        )
        with open(file.with_name("messages"), "w+") as messages:
            process = subprocess.Popen([*command, str(file)], stdout=messages, stderr=messages)
            try:
                ports = [front.port for front in fronts.values()]
                wait_until(name, lambda: process.poll() is not None or all(map(accepts, ports)))
                yield fronts if process.poll() is None else {}
                if process.poll() is not None:
                    messages.seek(0)
                    raise SystemExit(f"{name} has ended:\n{messages.read()}")
            finally:
                process.terminate()
                process.wait(10)


PROXIES = {"nginx": (NGINX, ["nginx", "-c"]), "haproxy": (HAPROXY, ["haproxy", "-db", "-q", "-f"])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--direct", action="store_true", help="lossd alone")
    parser.add_argument("names", nargs="*", metavar="NAME", help="vectors whose names begin so; all if none")
    arguments = parser.parse_args()
    missing = [name for name in PROXIES if not arguments.direct and not shutil.which(name)]
    if missing:
        print(f"{' and '.join(missing)} not found: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    vectors = read_vectors(pathlib.Path(__file__).with_suffix(".txt"))
    if arguments.names:
        vectors = [vector for vector in vectors if vector.name.startswith(tuple(arguments.names))]

    columns: dict[str, list[tuple[str, str]]] = {}
    with Lossd(arguments.lossd) as lossd, ThreadPoolExecutor(8) as pool:
        columns["direct"] = list(pool.map(lambda vector: run_direct(lossd, vector), vectors))
    if not arguments.direct:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
            fronts: dict[str, Front] = {}
            for name, (configuration, command) in PROXIES.items():
                fronts |= stack.enter_context(proxy(name, arguments.lossd, configuration, command))
            # One vector at a time to each front, so that what comes of it can be told.
            run = {
                name: pool.submit(lambda front: [front.run(vector) for vector in vectors], front)
                for name, front in fronts.items()
            }
            columns |= {name: future.result() for name, future in run.items()}

    print(f"{'vector':<44}", *(f"{name:<17}" for name in columns))
    failed = 0
    for row, vector in enumerate(vectors):
        cells = {name: column[row] for name, column in columns.items()}
        marked = [f"{'!' if wrong else ''}{told}" for told, wrong in cells.values()]
        print(f"{vector.name:<44}", *(f"{cell:<17}" for cell in marked))
        failed += sum(bool(wrong) for _, wrong in cells.values())
    for name, column in columns.items():
        for vector, (_, wrong) in zip(vectors, column):
            if wrong:
                print(f"{vector.name}, {name}: {wrong}")
    print(f"{len(columns) * len(vectors) - failed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
