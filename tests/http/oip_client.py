#!/usr/bin/env python3
"""Evaluate every model of a lossd of its own with a small client of the Open Inference Protocol.

The client is written from the public specification alone, with its binary data extension. The
example of each description goes through it as raw tensors and as JSON, in every float type and
compressed, and each output must be bit for bit what the native API gives for the same numbers.
"""

from __future__ import annotations

import argparse
import array
import gzip
import http.client
import json
import math
import struct
import sys
import zlib
from typing import Any, NamedTuple

from server import Lossd

Values = list[Any]
CODES = {"FP64": "d", "FP32": "f", "INT64": "q", "INT32": "i", "UINT8": "B", "BOOL": "B"}


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    values: Values


class Refused(Exception):
    """The server's {"error": ...}, or a reply that the protocol does not allow."""


def to_bytes(datatype: str, values: Values) -> bytes:
    """Little-endian, row-major. Values of BF16 must be exact, as narrow() makes them."""
    if datatype == "FP16":
        return struct.pack(f"<{len(values)}e", *values)
    if datatype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    data = array.array(CODES[datatype], values)
    if sys.byteorder == "big":
        data.byteswap()
    return data.tobytes()


def from_bytes(datatype: str, data: bytes) -> Values:
    if datatype == "FP16":
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if datatype == "BF16":
        return [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]
    values = array.array(CODES[datatype])
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


class Client:
    def __init__(self, host: str, port: int) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=60)

    def call(
        self, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Exactly 200 is a success; what is no success is {"error": ...} as JSON."""
        self.connection.request(verb, path, body, headers or {})
        reply = self.connection.getresponse()
        data = reply.read()
        coding = reply.headers.get("Content-Encoding")
        if coding == "gzip":
            data = gzip.decompress(data)
        elif coding == "deflate":
            data = zlib.decompress(data)
        elif coding:
            raise Refused(f"Content-Encoding {coding}")
        if reply.status != 200:
            if reply.headers.get("Content-Type") != "application/json":
                raise Refused(f"{reply.status} as {reply.headers.get('Content-Type')}")
            raise Refused(f"{reply.status}: {json.loads(data)['error']}")
        return reply, data

    def get(self, path: str) -> Any:
        return json.loads(self.call("GET", path)[1])

    def is_live(self) -> bool:
        return self.call("GET", "/v2/health/live")[0].status == 200

    def is_ready(self, model: str = "", version: str = "") -> bool:
        path = f"{self.path(model, version)}/ready" if model else "/v2/health/ready"
        return self.call("GET", path)[0].status == 200

    def metadata(self, model: str = "", version: str = "") -> dict[str, Any]:
        return self.get(self.path(model, version) if model else "/v2")

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        return self.get(self.path(model, version) + "/config")

    def stats(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        path = self.path(model, version) + "/stats" if model else "/v2/models/stats"
        return self.get(path)["model_stats"]

    def index(self) -> list[dict[str, str]]:
        return json.loads(self.call("POST", "/v2/repository/index")[1])

    @staticmethod
    def path(model: str, version: str = "") -> str:
        return f"/v2/models/{model}" + (f"/versions/{version}" if version else "")

    def infer(
        self,
        model: str,
        inputs: list[Tensor],
        outputs: dict[str, bool | None] | None = None,
        parameters: dict[str, Any] | None = None,
        binary: bool = True,
        version: str = "",
        request_id: str = "",
        compression: str = "",
    ) -> list[Tensor]:
        """binary: inputs are sent raw, outputs asked for raw; outputs: each one's own choice."""
        head: dict[str, Any] = {"inputs": []}
        options = dict(parameters or {})
        raw = b""
        for tensor in inputs:
            entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape}
            entry["datatype"] = tensor.datatype
            if binary or tensor.datatype in ("FP16", "BF16"):
                data = to_bytes(tensor.datatype, tensor.values)
                entry["parameters"] = {"binary_data_size": len(data)}
                raw += data
            else:
                entry["data"] = tensor.values
            head["inputs"].append(entry)
        if outputs is not None:
            head["outputs"] = [
                {"name": name, **({} if own is None else {"parameters": {"binary_data": own}})}
                for name, own in outputs.items()
            ]
        if binary:
            options["binary_data_output"] = True
        if options:
            head["parameters"] = options
        if request_id:
            head["id"] = request_id
        text = json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))} if raw else {}
        body = text + raw
        if compression:
            body = gzip.compress(body) if compression == "gzip" else zlib.compress(body)
            headers.update({"Content-Encoding": compression, "Accept-Encoding": compression})
        reply, data = self.call("POST", self.path(model, version) + "/infer", body, headers)
        return self.read(reply, data, model, request_id)

    @staticmethod
    def read(
        reply: http.client.HTTPResponse, data: bytes, model: str, request_id: str
    ) -> list[Tensor]:
        length = reply.headers.get("Inference-Header-Content-Length")
        end = len(data) if length is None else int(length)
        head = json.loads(data[:end])
        rest = data[end:]
        order = ["model_name", "model_version", *(["id"] if request_id else []), "outputs"]
        if list(head) != order or head["model_name"] != model or head["model_version"] != "1":
            raise Refused(f"a reply of {list(head)} for {model}")
        if head.get("id", "") != request_id:
            raise Refused(f"id {head['id']!r}, not {request_id!r}")
        tensors = []
        any_raw = False
        for entry in head["outputs"]:
            size = entry.get("parameters", {}).get("binary_data_size")
            last = "data" if size is None else "parameters"
            if list(entry) != ["name", "shape", "datatype", last]:
                raise Refused(f"an output of {list(entry)}")
            if size is None:
                values = entry["data"]
            else:
                any_raw = True
                values = from_bytes(entry["datatype"], rest[:size])
                if size > len(rest):
                    raise Refused(f"{entry['name']} has {size} bytes, {len(rest)} are left")
                rest = rest[size:]
            if len(values) != math.prod(entry["shape"]):
                raise Refused(f"{entry['name']}: {len(values)} values of {entry['shape']}")
            tensors.append(Tensor(entry["name"], entry["datatype"], entry["shape"], values))
        kind = "application/octet-stream" if any_raw else "application/json"
        if rest or any_raw != (length is not None) or reply.headers.get("Content-Type") != kind:
            raise Refused(f"{len(rest)} bytes left over, {reply.headers.items()}")
        return tensors


# What follows knows lossd: its native API is what the replies are compared with.

DATATYPES = {
    "f64": "FP64",
    "f32": "FP32",
    "f16": "FP16",
    "bf16": "BF16",
    "i64": "INT64",
    "i32": "INT32",
    "u8": "UINT8",
    "bool": "BOOL",
}


def flatten(value: Any) -> tuple[list[int], Values]:
    """The shape and the numbers of a tensor in native JSON."""
    if isinstance(value, dict):
        return value["shape"], flatten(value["data"])[1]
    if not isinstance(value, list):
        return [], [value]
    parts = [flatten(part) for part in value]
    inner = parts[0][0] if parts else []
    return [len(value), *inner], [number for part in parts for number in part[1]]


def narrow(datatype: str, value: float) -> float:
    """The nearest number of the type; BF16 need not be the nearest."""
    if datatype == "BF16":
        return struct.unpack("<f", b"\0\0" + struct.pack("<f", value)[2:])[0]
    code = {"FP32": "f", "FP16": "e"}.get(datatype, "d")
    return struct.unpack(code, struct.pack(code, value))[0]


def bits(datatype: str, values: Values) -> bytes:
    """The values' bytes; every NaN is the same."""
    if datatype == "BF16":  # a shortest decimal is to be rounded, not cut
        words = (struct.unpack("<I", struct.pack("<f", value))[0] for value in values)
        return b"".join(struct.pack("<H", min(word + 0x8000, 0xFFFFFFFF) >> 16) for word in words)
    floats = datatype.startswith("FP")
    return to_bytes(datatype, [math.nan if floats and v != v else v for v in values])


def tensors_of(
    example: dict[str, Any], losses: dict[str, Any], name: str, real: str
) -> list[Tensor]:
    """The inputs of an example; floats are of the type `real`, with FP64 come INT32 and UINT8."""
    forms = {entry["name"]: entry["forms"] for entry in losses[name]["inputs"]}
    for part in example.get("options", {}).get("parts", []):
        mapped = part.get("inputs", {})
        for entry in losses[part["loss"]]["inputs"]:
            forms.setdefault(mapped.get(entry["name"], entry["name"]), entry["forms"])
    tensors = []
    for key, value in example["inputs"].items():
        shape, values = flatten(value)
        dtypes = [dtype for form in forms[key] for dtype in form["dtypes"]]
        whole = all(isinstance(number, int) for number in values)
        if isinstance(value, dict) and "dtype" in value and not value["dtype"].endswith("f32"):
            dtype = value["dtype"]
        elif whole and "i64" in dtypes:
            dtype = "i32" if real == "FP64" else "i64"
        elif "bool" in dtypes:
            dtype = "u8" if real == "FP64" else "bool"
            values = [int(number) for number in values] if dtype == "u8" else values
        else:
            dtype = {datatype: dtype for dtype, datatype in DATATYPES.items()}[real]
            values = [narrow(real, float(number)) for number in values]
        tensors.append(Tensor(key, DATATYPES[dtype], shape, values))
    return tensors


def native(
    client: Client, loss: dict[str, Any], tensors: list[Tensor], request: dict[str, Any]
) -> Any:
    dtypes = {datatype: dtype for dtype, datatype in DATATYPES.items()}
    inputs = {
        t.name: {"shape": t.shape, "dtype": dtypes[t.datatype], "data": t.values} for t in tensors
    }
    body = json.dumps(dict(request, inputs=inputs)).encode()
    client.connection.request("POST", loss["path"], body, {"Content-Type": "application/json"})
    reply = client.connection.getresponse()
    data = reply.read()
    if reply.status != 200:
        raise Refused(f"natively {reply.status}: {data.decode()}")
    return json.loads(data)["outputs"]


def compare(want: dict[str, Any], got: list[Tensor]) -> None:
    if [tensor.name for tensor in got] != list(want):
        raise Refused(f"outputs {[tensor.name for tensor in got]}, not {list(want)}")
    for tensor in got:
        shape, values = flatten(want[tensor.name])
        if tensor.shape != shape:
            raise Refused(f"{tensor.name} has shape {tensor.shape}, not {shape}")
        if bits(tensor.datatype, tensor.values) != bits(tensor.datatype, values):
            raise Refused(f"{tensor.name} is {tensor.values}, not {values}")


def parameters_of(example: dict[str, Any]) -> dict[str, Any]:
    """Options as parameters: lists as text with commas, parts as JSON."""
    parameters = {}
    for name, value in example.get("options", {}).items():
        if name == "parts":
            value = json.dumps(value)
        elif isinstance(value, list):
            value = ",".join(map(str, value))
        parameters[name] = "off" if value is None else value
    return parameters


def drive(client: Client, losses: dict[str, Any], name: str, real: str) -> int:
    """Evaluate one example in every way, once natively; returns how many evaluations there were."""
    loss = losses[name]
    example = loss["example"]
    options = {key: value for key, value in example.items() if key == "options"}
    parameters = parameters_of(example)
    tensors = tensors_of(example, losses, name, real)
    want = native(client, loss, tensors, options)
    done = 1
    for compression in ("", "gzip", "deflate"):
        compare(want, client.infer(name, tensors, None, parameters, compression=compression))
        done += 1
    mixed = {key: (None, False, True)[i % 3] for i, key in enumerate(reversed(want))}
    if real in ("FP16", "BF16"):
        mixed = dict.fromkeys(mixed, None)
    compare(
        {key: want[key] for key in mixed},
        client.infer(name, tensors[::-1], mixed, parameters, version="1", request_id="7"),
    )
    done += 1
    if real not in ("FP16", "BF16"):
        compare(want, client.infer(name, tensors, None, parameters, binary=False, request_id="x"))
        text = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in parameters.items()
        }
        raw = dict.fromkeys(want, True)
        compare(want, client.infer(name, tensors, raw, text, binary=False, compression="gzip"))
        done += 2
    return done


def look_at(client: Client, loss: dict[str, Any], evaluations: int) -> None:
    """The documents of a model agree with its description and with what was asked of it."""
    name = loss["name"]
    wanted = [[entry["name"] for entry in loss[side]] for side in ("inputs", "outputs")]
    for version in ("", "1"):
        metadata = client.metadata(name, version)
        config = client.config(name, version)
        if metadata["name"] != name or metadata["versions"] != ["1"] or config["name"] != name:
            raise Refused(f"metadata {metadata}, configuration {config}")
        for sides in (metadata["inputs"], metadata["outputs"]), (config["input"], config["output"]):
            if [[entry["name"] for entry in side] for side in sides] != wanted:
                raise Refused(f"tensors {sides}, not {wanted}")
        for told, set_up in zip(metadata["inputs"], config["input"]):
            if "TYPE_" + told["datatype"] != set_up["data_type"] or told["shape"] != set_up["dims"]:
                raise Refused(f"{told} is not {set_up}")
        optional = [entry.get("optional", False) for entry in config["input"]]
        if optional != [not entry["required"] for entry in loss["inputs"]]:
            raise Refused(f"optional inputs of {config['input']}")
        if not client.is_ready(name, version):
            raise Refused("not ready")
        (stats,) = client.stats(name, version)
        counts = (stats["inference_count"], stats["inference_stats"]["success"]["count"])
        if counts != (evaluations, evaluations):
            raise Refused(f"{evaluations} evaluations, but the statistics are {stats}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    arguments = parser.parse_args()
    passed = failed = 0
    with Lossd(arguments.lossd) as lossd:
        host, port = lossd.url.removeprefix("http://").rsplit(":", 1)
        client = Client(host, int(port))
        names = [loss["name"] for loss in client.get("/v1/losses")["losses"]]
        paths = {loss["name"]: loss["path"] for loss in client.get("/v1/losses")["losses"]}
        losses = {name: client.get(paths[name]) for name in names}
        if not (client.is_live() and client.is_ready()):
            print("not ready")
            failed += 1
        if client.get("/v2/models")["models"] != names:
            print("/v2/models lists others than /v1/losses")
            failed += 1
        ready = [{"name": n, "version": "1", "state": "READY", "reason": ""} for n in names]
        if client.index() != ready or [entry["name"] for entry in client.stats()] != names:
            print("the index or the statistics list others than /v1/losses")
            failed += 1
        if "binary_tensor_data" not in client.metadata()["extensions"]:
            print(f"metadata {client.metadata()}")
            failed += 1
        for name in names:
            evaluations = 0
            step = "documents"
            try:
                for step in ("FP32", "FP64", "FP16", "BF16"):
                    evaluations += drive(client, losses, name, step)
                step = "documents"
                look_at(client, losses[name], evaluations)
            except (Refused, KeyError, ValueError, http.client.HTTPException, OSError) as why:
                print(f"{name}, {step}: {str(why)[:1000] or repr(why)}")
                client.connection.close()
                failed += 1
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
