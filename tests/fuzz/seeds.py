#!/usr/bin/env python3
"""Write the seeds of the fuzz targets: from api/examples each loss's example in every body format, from
tests/load/smuggle.txt requests that are hard to delimit.

Seeds that were found by fuzzing stand beside them under names of their own and are kept.
"""

from __future__ import annotations

import gzip
import io
import json
import pathlib
import re
import struct
import sys
import zipfile
import zlib

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "load"))

from smuggle import read_vectors  # noqa: E402

SEEDS = HERE / "seeds"
EXAMPLES = HERE.parent.parent / "api" / "examples"


HEADS = {
    "plain": "/v1/losses/huber?delta=2",
    "absolute": "http://h/v2/models/ctc/infer",
    "encoded": "/%76%31/%2e%2e/a%2fb",
    "dots": "//a/./..",
    "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "star": "*",
}


BODIES = (
    ("mark", "json", 'huber\n\ufeff{"inputs":{"a":[1],"b":[0]}}'),
    ("base64", "json", 'huber\n{"inputs":{"a":{"shape":[1],"base64":"\\u0041ACAPw\\u003d="},"b":[0]}}'),
    (
        "unknown",
        "oip",
        'huber\n\n\ufeff{"x":[{"\\u0000\\ud83d\\ude00":-1.5e+999},[[]],{}],"parameters":{"headers":{"a":null,"a":[true]},'
        '"strict_json":true},"inputs":[{"name":"a","shape":[1],"datatype":"FP32","data":[NaN]},{"name":"b","shape":[1],'
        '"datatype":"FP32","data":[0]}],"outputs":[{"name":"loss","y":""}]}',
    ),
)


def flat(value):
    """The shape of nested lists, and their numbers."""
    if not isinstance(value, list):
        return [], [value]
    inner = [flat(item) for item in value]
    shape = inner[0][0] if inner else []
    return [len(value)] + shape, [x for _, numbers in inner for x in numbers]


def tensor(value):
    """(OIP datatype, safetensors dtype, shape, numbers, bytes)"""
    shape, numbers = flat(value)
    if all(isinstance(x, bool) for x in numbers) and numbers:
        kinds, form = ("BOOL", "BOOL"), "?"
    elif all(isinstance(x, int) for x in numbers):
        kinds, form = ("INT64", "I64"), "q"
    else:
        kinds, form = ("FP32", "F32"), "f"
    return *kinds, shape, numbers, struct.pack(f"<{len(numbers)}{form}", *numbers)


def text(value):
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and not isinstance(value[0], dict):
        return ",".join(json.dumps(x) for x in value)
    return json.dumps(value)


def write(target: str, name: str, data: bytes) -> None:
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def safetensors(inputs, options) -> bytes:
    header, data = {}, b""
    if options:
        header["__metadata__"] = {k: text(v) for k, v in options.items()}
    for name, value in inputs.items():
        _, dtype, shape, _, raw = tensor(value)
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(head)) + head + data


def npz(inputs) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in inputs.items():
            _, dtype, shape, _, raw = tensor(value)
            descr = {"BOOL": "|b1", "I64": "<i8", "F32": "<f4"}[dtype]
            head = str({"descr": descr, "fortran_order": False, "shape": tuple(shape)}).encode() + b"\n"
            data = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + raw
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data)
    return file.getvalue()


def oip(inputs, options, binary: bool) -> tuple[bytes, bytes]:
    tensors, data = [], b""
    for name, value in inputs.items():
        datatype, _, shape, numbers, raw = tensor(value)
        one = {"name": name, "shape": shape, "datatype": datatype}
        if binary:
            one["parameters"] = {"binary_data_size": len(raw)}
            data += raw
        else:
            one["data"] = numbers
        tensors.append(one)
    parameters = {k: v if isinstance(v, (bool, int, float)) else text(v) for k, v in options.items()}
    if binary:
        parameters["binary_data_output"] = True
    head = {"id": "1", "parameters": parameters, "inputs": tensors}
    return json.dumps(head, separators=(",", ":")).encode(), data


def main() -> None:
    for path in sorted(EXAMPLES.glob("*.json")):
        name, example = path.stem, json.loads(path.read_text())
        inputs, options = example["inputs"], example.get("options", {})
        line = name.split(".")[0].encode() + b"\n"
        body = json.dumps(example, separators=(",", ":")).encode()
        write("json", name, line + body)
        write("safetensors", name, line + safetensors(inputs, options))
        if not options:  # files of NumPy have no place for them
            write("npz", name, line + npz(inputs))
        head, _ = oip(inputs, options, False)
        write("oip", name, line + b"\n" + head)
        head, data = oip(inputs, options, True)
        write("oip", name + ".binary", line + str(len(head)).encode() + b"\n" + head + data)
        query = "&".join(f"{k}={text(v)}" for k, v in options.items())
        write("query", name, line + query.encode())
    for number in ["0", "-0", "1.5", "-1.2345678e-10", "123456789012345678901234567890", "NaN",
                   "Infinity", "-Infinity", "4.9406564584124654e-324", "1e400",
                   "9223372036854775808", "0.1", "1E+5"]:
        write("number", number.replace("+", "plus"), number.encode())
    for name, head in HEADS.items():
        write("head", name, head.encode())
    for vector in read_vectors(HERE.parent / "load" / "smuggle.txt"):
        if len(vector.data) < 1000:
            write("framing", re.sub("[^0-9A-Za-z]+", "-", vector.name), b"\0" + vector.data)
    for size in (0, 1, 300, 70000):
        plain = b"[0.25,1e-7]" * (size // 11)
        write("coding", f"gzip-{size}", gzip.compress(plain, mtime=0))
        write("coding", f"deflate-{size}", zlib.compress(plain))
    write("coding", "gzip-members", b"".join(gzip.compress(part, mtime=0) for part in (b"", b"[0.25", b",1]", b"")))
    for name, wire, body in BODIES:
        write(wire, name, body.encode())


main()
