#!/usr/bin/env python3
"""Send the requests of tests/http/*.http to a lossd of its own and compare the replies.

A file holds cases:

    ### a name
    POST /v1/losses/huber?reduction=sum
    Content-Type: application/json

    {"inputs": {"a": [1], "b": [0]}}
    --- 200
    {"loss":"huber","outputs":{"loss":0.5,"grad.a":[1],"grad.b":[-1]}}

The first line may be `!flags --max-body 1MiB`: flags for lossd. A body is text, or lines of directives:

    @st NAME DTYPE [SHAPE] VALUES...    a tensor of a well-formed safetensors body
    @meta NAME=TEXT                     an entry of its __metadata__
    @pad N                              N spaces before its header's end: data that is not aligned
    @cut N                              the body without its last N bytes
    @raw LENGTH HEADER                  a safetensors header as it stands; LENGTH a number or `auto`
    @hex BYTES                          bytes
    @repeat N TEXT                      TEXT N times
    @oip JSON                           the JSON of an Open Inference Protocol body with tensors
                                        behind it; sets Inference-Header-Content-Length unless the
                                        case does
    @bin DATATYPE VALUES...             the little-endian bytes of such a tensor (FP32, BOOL, ...)
    @gzip, @deflate                     all that stands above, compressed; sets Content-Encoding
                                        likewise

After `---` stand the status and, for problems, code, input and index; below it the exact detail or
body, `@st` lines for safetensors, `@bin` lines for raw outputs, `Header: value` lines behind `>`;
`> Header: *` means: with any value, `> !Header`: it is not there. A reply with
`> Content-Encoding: gzip` (or deflate) is inflated first. `~x` in `--- 200` bodies means: this
number to the digits given.

`--- 400 error` is an error of the Open Inference Protocol, {"error": SENTENCE}: below it stands the
sentence, or lines behind `~`, each a part of it, or nothing. `@json VALUE` is a body of JSON
whatever its white space and the order of its members, where "*" stands for any value, a member "..."
for any others and an item "..." for others in any order.

--refresh rewrites what stands below `---` but not the status line.

After every case one good request must get its usual reply, on the same connection where that is open. The status of a
reply must be one that /openapi.json has for the method and path, unless the head of the request was refused.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import struct
import subprocess
import sys
import zlib

from server import (
    Lossd,
    OIP_DTYPES,
    Reply,
    inflate,
    pack,
    read_oip,
    read_safetensors,
    receive,
    request,
    safetensors,
    unpack,
)

HERE = pathlib.Path(__file__).parent
GOOD = request(
    "POST", "/v1/losses/cross_entropy", {}, b'{"inputs":{"logits":[[0.2,0.4,0.4]],"targets":[2]}}'
)
GOOD_REPLY = (
    b'{"loss":"cross_entropy","outputs":{"loss":1.0362867,'
    b'"grad.logits":[[0.2904608,0.3547696,-0.6452304]]}}\n'
)


class Case:
    def __init__(self, text: str) -> None:
        self.name, _, rest = text.partition("\n")
        sent, _, wanted = rest.partition("\n--- ")
        status, _, self.below = wanted.partition("\n")
        self.sent = sent
        words = status.split(maxsplit=3)
        self.status_line = status
        self.status = int(words[0])
        self.code = words[1] if len(words) > 1 else ""
        self.input = words[2] if len(words) > 2 and words[2] != "-" else ""
        self.index = json.loads(words[3]) if len(words) > 3 else None
        self.below = self.below.strip("\n")

    def bytes(self) -> tuple[bytes, bool]:
        head, _, body = self.sent.partition("\n\n")
        lines = head.split("\n")
        method, target = lines[0].split(" ", 1)
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        data, made = build(body)
        given = {name.lower() for name in headers}
        headers.update({name: value for name, value in made.items() if name.lower() not in given})
        return request(method, target, headers, data), method == "HEAD"


def build(text: str) -> tuple[bytes, dict[str, str]]:
    """A body and the headers that come with it."""
    if not text.startswith("@"):
        return text.encode(), {}
    tensors, meta, cut, pad, out = [], {}, 0, 0, b""
    headers: dict[str, str] = {}
    for line in text.split("\n"):
        word, _, rest = line.partition(" ")
        if word == "@st":
            name, dtype, shape, *values = rest.split()
            numbers = [float(v) for v in values]
            tensors.append((name, dtype, json.loads(shape), pack(dtype, numbers)))
        elif word == "@meta":
            name, _, value = rest.partition("=")
            meta[name] = value
        elif word == "@cut":
            cut = int(rest)
        elif word == "@pad":
            pad = int(rest)
        elif word == "@raw":
            length, _, header = rest.partition(" ")
            raw = header.encode("latin-1")
            out += struct.pack("<Q", len(raw) if length == "auto" else int(length)) + raw
        elif word == "@hex":
            out += bytes.fromhex(rest)
        elif word == "@repeat":
            count, _, part = rest.partition(" ")
            out += part.encode() * int(count)
        elif word == "@oip":
            out += rest.encode()
            headers["Inference-Header-Content-Length"] = str(len(out))
        elif word == "@bin":
            datatype, *values = rest.split()
            out += pack(OIP_DTYPES[datatype], [number(v) for v in values])
        elif word in ("@gzip", "@deflate"):
            wrapped = zlib.compressobj(9, zlib.DEFLATED, 31 if word == "@gzip" else 15)
            out = wrapped.compress(out) + wrapped.flush()
            headers["Content-Encoding"] = word[1:]
        else:
            out += line.encode()
    if tensors or meta:
        whole = safetensors(tensors, meta)
        (length,) = struct.unpack_from("<Q", whole)
        out += struct.pack("<Q", length + pad) + whole[8 : 8 + length] + b" " * pad + whole[8 + length :]
    return out[: len(out) - cut] if cut else out, headers


def number(text: str) -> float:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else float(text)


def show(reply: Reply) -> str:
    """A reply in the format of a case file."""
    kind = reply.headers.get("content-type", "")
    if not reply.body:
        return ""
    if kind == "application/problem+json":
        return json.loads(reply.body)["detail"]
    if kind == "application/x-safetensors":
        meta, tensors = read_safetensors(reply.body)
        lines = [f"@meta {name}={text}" for name, text in meta.items()]
        for name, dtype, shape, raw in tensors:
            values = " ".join(f"{v:.9g}" for v in unpack(dtype, raw))
            lines.append(f"@st {name} {dtype} {json.dumps(shape, separators=(',', ':'))} {values}".rstrip())
        return "\n".join(lines)
    if reply.status >= 400 and reply.body.startswith(b'{"error":'):
        return json.loads(reply.body)["error"]
    if "inference-header-content-length" in reply.headers:
        head, outputs = read_oip(reply)
        lines = [head]
        for datatype, raw in outputs:
            form = ".17g" if datatype == "FP64" else ".9g"
            whole = datatype.startswith("INT")
            values = (str(v) if whole else f"{v:{form}}" for v in unpack(OIP_DTYPES[datatype], raw))
            lines.append(" ".join(["@bin", datatype, *values]))
        return "\n".join(lines)
    if kind.startswith("text/plain") or len(reply.body) > 4000:
        return "*"
    return reply.body.decode().rstrip("\n")


def same(want: str, got: str) -> bool:
    if want == "*":
        return True
    if "~" not in want:
        return want == got
    pattern = ""
    number = r"~-?[0-9.]+(?:e-?[0-9]+)?"
    for part in re.split(f"({number})", want):
        pattern += r"(-?[0-9.e-]+)" if part.startswith("~") else re.escape(part)
    found = re.fullmatch(pattern, got)
    wanted = [w[1:] for w in re.findall(number, want)]
    return found is not None and all(map(same_digits, wanted, found.groups()))


def same_digits(want: str, got: str) -> bool:
    """Is `got` the number `want` as far as that is written?"""
    digits = len(want.partition("e")[0].partition(".")[2])
    if "e" in want:
        return float(f"{float(got):.{digits}e}") == float(want)
    return f"{float(got):.{digits}f}" == want


def alike(want: object, got: object) -> bool:
    if want == "*":
        return True
    if type(want) is not type(got):
        return False
    if isinstance(want, dict) and isinstance(got, dict):
        names = want.keys() - {"..."}
        whole = "..." in want or len(got) == len(names)
        return whole and all(name in got and alike(want[name], got[name]) for name in names)
    if isinstance(want, list) and isinstance(got, list):
        if "..." in want:
            return all(any(alike(w, g) for g in got) for w in want if w != "...")
        return len(want) == len(got) and all(map(alike, want, got))
    return want == got


def differences(case: Case, reply: Reply, head: bool) -> list[str]:
    wrong = []
    want = "\n".join(line for line in case.below.split("\n") if not line.startswith("> "))
    for line in case.below.split("\n"):
        name, _, value = line[2:].partition(": ")
        if line.startswith("> !"):
            unwanted = reply.headers.get(name[1:].lower())
            if unwanted is not None:
                wrong.append(f"{name[1:]} is {unwanted!r}; it must not be there")
        elif value == "*" and line.startswith("> ") and name.lower() in reply.headers:
            continue
        elif line.startswith("> ") and reply.headers.get(name.lower(), "").split(";")[0] != value:
            wrong.append(f"{name} is {reply.headers.get(name.lower())!r}, not {value!r}")
    if reply.status != case.status:
        wrong.append(f"status {reply.status}, not {case.status}: {reply.body[:300]!r}")
    if "x-request-id" not in reply.headers:
        wrong.append("no X-Request-Id")
    if case.code == "error":
        return wrong if wrong or head else sentence_differences(case, reply)
    if case.status >= 400 and not wrong and not head and case.code:
        if reply.headers.get("content-type") != "application/problem+json":
            return wrong + [f"content type {reply.headers.get('content-type')}"]
        problem = json.loads(reply.body)
        for name, value in (("code", case.code), ("input", case.input), ("index", case.index)):
            if problem.get(name, "" if name == "input" else None) != value:
                wrong.append(f"{name} is {problem.get(name)!r}, not {value!r} ({problem['detail']})")
    if want.startswith("@json "):
        if not wrong and not head and not alike(json.loads(want[6:]), json.loads(reply.body)):
            wrong.append(f"got\n{reply.body.decode()}")
    elif not wrong and not head and not same(want, show(reply)):
        wrong.append(f"got\n{show(reply)}")
    return wrong


def sentence_differences(case: Case, reply: Reply) -> list[str]:
    """What is wrong with an error of the Open Inference Protocol."""
    if reply.headers.get("content-type") != "application/json":
        return [f"content type {reply.headers.get('content-type')}"]
    unwanted = ("content-encoding", "inference-header-content-length")
    wrong = [f"an error with {name}" for name in unwanted if name in reply.headers]
    try:
        body = json.loads(reply.body)
    except ValueError:
        return wrong + [f"not JSON: {reply.body[:300]!r}"]
    sentence = body.get("error") if isinstance(body, dict) else None
    if not isinstance(sentence, str) or not sentence or len(body) != 1:
        return wrong + [f"not an error of this protocol: {reply.body[:300]!r}"]
    for line in case.below.split("\n"):
        if line.startswith("~") and line[1:] not in sentence:
            wrong.append(f"{line[1:]!r} is not in {sentence!r}")
        elif line and not line.startswith(("~", "> ")) and line != sentence:
            wrong.append(f"got\n{sentence}")
    return wrong


class Described:
    """What /openapi.json says of replies."""

    def __init__(self, lossd: str) -> None:
        said = subprocess.run([lossd, "openapi"], capture_output=True, check=True, timeout=60)
        paths = json.loads(said.stdout)["paths"]
        self.paths = [(re.sub(r"\\{[a-z]*\\}", "[^/]+", re.escape(path)), item) for path, item in paths.items()]

    def differences(self, case: Case, reply: Reply) -> list[str]:
        method, target = case.sent.split("\n", 1)[0].split(" ", 1)
        found = [item for pattern, item in self.paths if re.fullmatch(pattern, target.partition("?")[0])]
        operations = [item[method.lower()] for item in found if method.lower() in item]
        refused = "%2F" in target or reply.status in (414, 417, 431, 505) or b'"malformed_request"' in reply.body
        known = not operations or refused or any(str(reply.status) in one["responses"] for one in operations)
        return [] if known else [f"/openapi.json has no status {reply.status} of {method} {target}"]


def check_usual(connection, lossd: Lossd, closed: bool) -> list[str]:
    if closed:
        connection.close()
        connection = lossd.connect()
    connection.sendall(GOOD)
    reply = receive(connection)
    connection.close()
    return [] if reply.body == GOOD_REPLY else [f"the next request got {reply.body[:200]!r}"]


def run(case: Case, lossd: Lossd, described: Described) -> tuple[list[str], Reply | None]:
    data, head = case.bytes()  # which may take longer than a connection may say nothing
    connection = lossd.connect()
    try:
        connection.sendall(data)
        reply = receive(connection, head)
    except (ConnectionError, TimeoutError) as why:
        return [f"no reply: {why!r}"], None
    try:
        if "> Content-Encoding: " in case.below:
            reply = inflate(reply)
        wrong = differences(case, reply, head) + described.differences(case, reply)
    except (ValueError, zlib.error) as why:
        wrong = [f"{why}: {reply.headers} {reply.body[:300]!r}"]
        reply = reply._replace(body=b"")
    try:
        wrong += check_usual(connection, lossd, reply.headers.get("connection") == "close")
    except (ConnectionError, TimeoutError) as why:
        wrong.append(f"the next request got no reply: {why!r}")
    return wrong, reply


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--refresh", action="store_true", help="write the replies into the case files")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    passed = failed = 0
    described = Described(arguments.lossd)
    for path in arguments.files or sorted(HERE.glob("*.http")):
        text = path.read_text()
        top, *parts = re.split(r"^### ", text, flags=re.M)
        flags = re.search(r"^!flags (.*)$", top, flags=re.M)
        with Lossd(arguments.lossd, *(flags.group(1).split() if flags else [])) as lossd:
            for part in parts:
                case = Case(part)
                wrong, reply = run(case, lossd, described)
                if arguments.refresh and reply and not re.search("~|^@json ", case.below, re.M):
                    kept = [line for line in case.below.split("\n") if line.startswith("> ")]
                    below = "\n".join(kept + [show(reply)])
                    top += f"### {case.name}\n{case.sent}\n--- {case.status_line}\n{below}\n\n"
                else:
                    top += f"### {part}"
                passed += not wrong
                failed += bool(wrong)
                for line in wrong:
                    print(f"{path.name}: {case.name}: {line}")
        if arguments.refresh:
            path.write_text(top.rstrip("\n") + "\n")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
