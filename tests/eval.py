#!/usr/bin/env python3
"""lossd eval: files of every format, lines, and archives that are damaged.

    tests/eval.py --lossd build/release/lossd
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import random
import struct
import subprocess
import tempfile
import zipfile

PAIR = {"inputs": {"a": [1, 2], "b": [0, 0]}}


def npy(values: list[float], shape: tuple[int, ...], descr: str = "<f4", order: bool = False, version: int = 1) -> bytes:
    code = {"f4": "f", "f8": "d", "i8": "q"}[descr[1:]]
    text = str({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    head = b"\x93NUMPY" + bytes([version, 0])
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return head + length + text + b"\n" + struct.pack(descr[0] + code * len(values), *values)


def npz(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def numbers(member: bytes) -> tuple[tuple[int, ...], list[float]]:
    """Shape and values of a .npy file of f4."""
    (size,) = struct.unpack_from("<H", member, 8)
    assert (10 + size) % 64 == 0, size
    head = eval(member[10 : 10 + size], {"__builtins__": {}})
    assert head["descr"] == "<f4" and head["fortran_order"] is False, head
    data = member[10 + size :]
    return head["shape"], list(struct.unpack(f"<{len(data) // 4}f", data))


class Eval:
    def __init__(self, lossd: str, folder: pathlib.Path) -> None:
        self.lossd, self.folder = lossd, folder

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess:
        command = [self.lossd, "eval", *words]
        got = subprocess.run(command, input=stdin, capture_output=True, cwd=self.folder, timeout=120)
        assert got.returncode in (0, 1, 2), (words, got)
        return got

    def fails(self, said: str, *words: str, stdin: bytes = b"", status: int = 1) -> None:
        got = self.run(*words, stdin=stdin)
        assert got.returncode == status and said in got.stderr.decode(), (words, got)

    def write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return name


def files(run: Eval) -> None:
    body = json.dumps(PAIR).encode()
    want = b'{"loss":"mse","outputs":{"loss":5}}\n'
    for words, stdin in [(["-"], body), ([], body), (["./" + run.write("a=b/pair.json", body)], b"")]:
        got = run.run("mse", *words, "reduction=sum", "outputs=loss", stdin=stdin)
        assert got.stdout == want and got.returncode == 0, got
    a, b = npy([1, 2], (2,)), npy([0, 0], (2,), version=2)
    run.write("a.npy", a)
    run.write("b.npy", b)
    run.write("pair.npz", npz(a=a, b=b))
    for words in (["pair.npz"], ["a=a.npy", "b=b.npy"]):
        got = run.run("mse", *words, "reduction=sum")
        archive = zipfile.ZipFile(io.BytesIO(got.stdout))
        assert archive.testzip() is None
        assert numbers(archive.read("loss.npy")) == ((), [5.0])
        assert numbers(archive.read("grad.a.npy")) == ((2,), [2.0, 4.0])
    got = run.run("mse", stdin=npz(a=npy([], (0, 3)), b=npy([], (0, 3))))
    assert numbers(zipfile.ZipFile(io.BytesIO(got.stdout)).read("grad.a.npy")) == ((0, 3), [])
    got = run.run("mse", "a=a.npy", "b=b.npy", "reduction=sum", "outputs=loss,grad.a:f16")
    half = zipfile.ZipFile(io.BytesIO(got.stdout)).read("grad.a.npy")
    assert b"'<f2'" in half and struct.unpack("<2e", half[-4:]) == (2.0, 4.0), half


def refusals(run: Eval) -> None:
    a, b = npy([1, 2], (2,)), npy([0, 0], (2,))
    run.fails("compressed", "mse", stdin=npz(zipfile.ZIP_DEFLATED, a=a, b=b))
    run.fails("which input by NAME=a.npy", "mse", "a.npy")
    run.fails("is no .npy file", "mse", stdin=npz(a=a, b=b"x" * 200))
    run.fails("big-endian", "mse", stdin=npz(a=npy([1, 2], (2,), ">f4"), b=b))
    run.fails("Fortran", "mse", stdin=npz(a=npy([1, 2], (1, 2), order=True), b=b))
    run.fails("that its data do not fit", "mse", stdin=npz(a=npy([1, 2], (3,)), b=b))
    run.fails("that its data do not fit", "mse", stdin=npz(a=npy([1, 2], (1 << 62, 8)), b=b))
    run.fails("unknown_input", "mse", stdin=npz(a=a, b=b, c=a))
    run.fails("duplicate_name", "mse", "a=a.npy", "a=a.npy")
    run.fails("checksum", "mse", stdin=npz(a=a, b=b).replace(a, a[:-1] + b"\1"))
    run.fails("NumPy's files have no type for", "mse", "outputs=grad.a:bf16", stdin=npz(a=a, b=b))
    run.fails("too long for the command line", "composite", "parts=" + " " * 30000)
    run.fails("not both", "mse", "a=a.npy", "pair.npz", status=2)
    run.fails("one file", "mse", "a.npy", "b.npy")
    run.fails("cannot open", "mse", "a=nowhere.npy")
    run.fails("larger than --max-body", "mse", "--max-body", "1KiB", stdin=b" " * 1025)


def lines(run: Eval) -> None:
    good = json.dumps(PAIR)
    asked = [good, "", json.dumps({"inputs": {"a": [1, 2], "b": [0]}}), "x", " " * 3000, good.rstrip()]
    got = run.run("mse", "--lines", "outputs=loss", "--max-body", "1KiB", stdin="\n".join(asked).encode())
    said = [json.loads(line) for line in got.stdout.splitlines()]
    assert [one.get("line") for one in said] == [None, 3, 4, 5, None], said
    assert [one.get("code") for one in said[1:4]] == ["shape_mismatch", "malformed_body", "too_large"], said
    assert said[0] == said[4] == {"loss": "mse", "outputs": {"loss": 2.5}}, said
    assert got.returncode == 1 and got.stderr == b"", got
    many = 20000
    got = run.run("mse", "--lines", "outputs=loss", stdin=(good + "\r\n").encode() * many)
    assert got.returncode == 0 and got.stdout.count(b"2.5}}\n") == many
    # A line is answered before the next one is there.
    command = [run.lossd, "eval", "mse", "--lines"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        for _ in range(3):
            process.stdin.write(good + "\n")
            assert "2.5" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(60) == 0


def safetensors(**tensors: tuple[str, list[int], list[float]]) -> bytes:
    head, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        code = {"F32": "f", "I64": "q"}[dtype]
        part = struct.pack(f"<{len(values)}{code}", *values)
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def hidden_states(run: Eval) -> None:
    """A file as inference engines write them, and the head of another one: api/recipes.md."""
    hidden, ids = [1, -1, 0.5, 2, 0.25, 0.5], [1, 0, 2]
    head = {"weight": [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]]}
    flat = [x for row in head["weight"] for x in row]
    run.write("states.safetensors", safetensors(hidden_states=("F32", [3, 2], hidden), token_ids=("I64", [3], ids)))
    run.write("head.safetensors", safetensors(weight=("F32", [3, 2], flat)))
    regions = ("--region", "states=states.safetensors", "--region", "head=head.safetensors")
    names = {"hidden": "states/hidden_states", "targets": "states/token_ids", "weight": "head/weight"}
    inputs = {name: {"region": region} for name, region in names.items()}
    inputs["offsets"] = [0, 3]
    carried = {"hidden": [hidden[:2], hidden[2:4], hidden[4:]], "targets": ids, "offsets": [0, 3], **head}
    for loss, outputs in (
        ("linear_cross_entropy", ["loss", "perplexity", "nll"]),
        ("linear_token_logprobs", ["logprobs", "sequence_logprobs"]),
    ):
        request = {"options": {"shift": 1}, "outputs": outputs}
        named = run.run(loss, *regions, stdin=json.dumps({**request, "inputs": inputs}).encode())
        whole = run.run(loss, stdin=json.dumps({**request, "inputs": carried}).encode())
        assert named.returncode == 0 and named.stdout == whole.stdout, (named, whole)
    asked = json.dumps({"inputs": inputs}).encode()
    run.fails("region_invalid", "linear_cross_entropy", *regions[:2], stdin=asked)
    run.fails("nowhere.safetensors", "mse", "--region", "x=nowhere.safetensors", stdin=asked)
    with_more = safetensors(weight=("F32", [1], [1]), bias=("F32", [1], [1]))
    with_more = with_more.replace(b'"dtype"', b'"more": [{"a": []}], "dtype"', 1)
    (size,) = struct.unpack_from("<Q", with_more)
    run.write("more.safetensors", struct.pack("<Q", size + len(b'"more": [{"a": []}], ')) + with_more[8:])
    got = run.run("mse", "--region", "x=more.safetensors", stdin=json.dumps(PAIR).encode())
    assert got.returncode == 0, got
    run.fails("budget of all regions", "mse", *regions, "--region-budget", "64", stdin=asked)


def damaged(run: Eval) -> None:
    whole = npz(a=npy([1, 2], (2,)), b=npy([0, 0], (2,)))
    random.seed(0)
    for i in range(60):
        bad = bytearray(whole[: random.randrange(len(whole))] if i % 3 == 0 else whole)
        for _ in range(i % 3):
            bad[random.randrange(len(bad))] = random.choice([0, 1, 0x7F, 0xFF])
        run.run("mse", stdin=bytes(bad))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--lossd", required=True)
    lossd = str(pathlib.Path(arguments.parse_args().lossd).resolve())
    with tempfile.TemporaryDirectory() as folder:
        run = Eval(lossd, pathlib.Path(folder))
        (run.folder / "a=b").mkdir()
        for test in (files, refusals, lines, hidden_states, damaged):
            test(run)


if __name__ == "__main__":
    main()
