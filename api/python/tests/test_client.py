"""The client against a running lossd: every shared case, errors, retries, connections, and PyTorch.

    cd api/python && LOSSD=../../build/lossd python3 -m unittest discover -s tests -t .
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.server
import inspect
import io
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
import warnings

import numpy as np

import lossd
from lossd import tensors

HERE = pathlib.Path(__file__).parent
LOSSD = os.environ.get("LOSSD", str(HERE.parents[2] / "build" / "lossd"))
CASES = [json.loads(line) for line in (HERE.parents[1] / "cases.jsonl").read_text().splitlines()]
NUMPY = {"f64": "f8", "f32": "f4", "i64": "i8", "i32": "i4", "bool": "?", "u8": "u1"}


@contextlib.contextmanager
def running(*flags: str):
    command = [LOSSD, "--log-level", "info", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        urls = []
        for _ in range(flags.count("--listen")):
            urls.append(re.search(r" url=(\S+)", process.stderr.readline())[1])
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            yield urls
        finally:
            process.terminate()
            process.wait(20)
            drain.join(5)


class Files(unittest.TestCase):
    def test_back_and_forth(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for dtype in (*NUMPY.values(), "f2", "i4"):
                values = {"loss": np.zeros((), dtype), "grad.a": np.ones((2, 3), dtype), "none": np.zeros((0, 3), dtype)}
                for kind in ("safetensors", "npz"):
                    lossd.save(folder / f"all.{kind}", values)
                    got = lossd.load(folder / f"all.{kind}")
                    self.assertEqual(list(got), list(values))
                    for key, value in values.items():
                        self.assertEqual((got[key].dtype, got[key].shape), (value.dtype, value.shape))
                        np.testing.assert_array_equal(got[key], value)
                lossd.save(folder / "one.npy", values["grad.a"])
                np.testing.assert_array_equal(lossd.load(str(folder / "one.npy")), values["grad.a"])
            half = lossd.BF16.rounded([1.0, 2.5])
            lossd.save(folder / "half.safetensors", {"x": half})
            np.testing.assert_array_equal(lossd.load(folder / "half.safetensors")["x"].bits, half.bits)
            with self.assertRaisesRegex(TypeError, "x is bfloat16"):
                lossd.save(folder / "half.npz", {"x": half})
            with self.assertRaisesRegex(TypeError, "by name"):
                lossd.save(folder / "half.npz", [1.0])
            for call in (lambda: lossd.load(folder / "x.pt"), lambda: lossd.save(folder / "x.pt", {})):
                self.assertRaisesRegex(ValueError, "safetensors, .npy and .npz", call)

    def test_what_is_not_read(self) -> None:
        """The message says which file, and what is wrong with it."""
        foreign = b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
        with tempfile.TemporaryDirectory() as name:
            path = pathlib.Path(name) / "foreign.safetensors"
            for body, message in (
                (struct.pack("<Q", len(foreign)) + foreign + b"1", "foreign.safetensors.* a has elements of the type I8"),
                (struct.pack("<Q", len(foreign)) + foreign[:9], "foreign.safetensors"),
                (struct.pack("<Q", 2) + b"[]", "foreign.safetensors"),
                (struct.pack("<Q", 1 << 63) + b"{}", "foreign.safetensors.* 9223372036854775808 bytes"),
                (struct.pack("<Q", 100000) + b"[" * 100000, "foreign.safetensors"),
                (struct.pack("<Q", len(foreign)) + foreign.replace(b"I8", b"U8").replace(b"1]", b"-1]", 1)[:-1], "foreign"),
                (struct.pack("<Q", 8) + b'{"a":{}}', "foreign.safetensors"),
                (b"abc", "foreign.safetensors"),
                (b"", "foreign.safetensors"),
            ):
                path.write_bytes(body)
                with self.assertRaisesRegex(ValueError, message):
                    lossd.load(path)

    def test_the_command(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            path = pathlib.Path(name) / "in.npz"
            lossd.save(path, {"a": np.float32([1, 2]), "b": np.float32([0, 0])})
            reply = subprocess.run([LOSSD, "eval", "mse", path, "reduction=sum"], capture_output=True, check=True).stdout
            (pathlib.Path(name) / "out.npz").write_bytes(reply)
            got = lossd.load(pathlib.Path(name) / "out.npz")
            self.assertEqual(float(got["loss"]), 5.0)
            np.testing.assert_array_equal(got["grad.a"], np.float32([2, 4]))


def loss_of(client: lossd.Client, x: float) -> float:
    return float(client.mse([x], [0.0])["loss"])


def array(t: dict) -> np.ndarray:
    return np.array(t["data"], NUMPY[t["dtype"]]).reshape(t["shape"])


class Service(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.context = running("--listen", "127.0.0.1:0", "--listen", f"unix:{cls.folder.name}/s")
        cls.urls = cls.context.__enter__()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.context.__exit__(None, None, None)
        cls.folder.cleanup()

    def test_cases(self) -> None:
        for url in self.urls:
            with lossd.Client(url) as client:
                for case in CASES:
                    inputs = {name: array(t) for name, t in case["inputs"].items()}
                    got = client.evaluate(case["loss"], inputs, options=case["options"], outputs=case["outputs"])
                    self.assertEqual(set(got), set(case["outputs"]), case["name"])
                    for name, t in case["outputs"].items():
                        want = np.array(t["data"], float).reshape(t["shape"])
                        self.assertEqual(got[name].shape, want.shape, f"{case['name']} {name}")
                        room = case["tolerance"] * np.maximum(1, np.abs(want))
                        self.assertTrue((np.abs(got[name] - want) <= room).all(), f"{case['name']} {name}")

    def test_by_name(self) -> None:
        with lossd.Client(self.urls[0]) as client:
            got = client.cross_entropy([[0.2, 0.4, 0.4]], [2], label_smoothing=0.1, outputs=["loss", "nll"])
            self.assertEqual(list(got), ["loss", "nll"])
            self.assertEqual(got["loss"].dtype, np.float32)
            self.assertAlmostEqual(float(got["loss"]), 1.042953, 6)
            same = client.cross_entropy([[0.2, 0.4, 0.4]], targets=[2], class_weight=None)
            self.assertEqual(list(same), ["loss", "grad.logits"])
            same["grad.logits"][0, 0] = 1  # replies are the caller's
            parts = [{"loss": "mse"}, {"loss": "huber", "weight": 0.5}]
            whole = client.composite(a=np.float32([1, 2]), b=np.float32([0, 0]), parts=parts)
            self.assertAlmostEqual(float(whole["loss"]), 2.5 + 0.5 * 1.0, 6)
            masked = client.mask_tokens([list(range(100, 140))], mask_token_id=103, random_high=200, seed=2**64 - 1)
            self.assertIn("masked_ids", masked)
            self.assertIn("cross_entropy", client.losses())
            self.assertTrue(client.ready())
            for wrong in (lambda: client.cross_entropy([1], [2], logits=[1]), lambda: client.mse(*[[1.0]] * 20)):
                self.assertRaises(TypeError, wrong)
            self.assertRaises(AttributeError, lambda: client.no_such_loss)
            with self.assertRaisesRegex(TypeError, "no weight: its inputs are logits, .*class_weight"):
                client.cross_entropy([[0.2, 0.4]], [1], weight=[1.0, 2.0])
            rows = np.float32([[1, 0], [1, 2]])
            want = client.info_nce(rows, rows, temperature=0.5)
            got = client.info_nce(rows, rows, temperature=np.float32(0.5), outputs=["loss", "grad.temperature"])
            self.assertEqual(got["loss"], want["loss"])
            self.assertEqual(client.mse([1.0, 2.0], [0.0, 0.0], num_items=np.array(10))["loss"], 0.5)
            self.assertRaises(TypeError, client.mse, np.array(["a"]), [1.0])

    def test_types(self) -> None:
        with lossd.Client(self.urls[1]) as client:
            values = np.linspace(-3, 3, 12).reshape(3, 4)
            want = client.cross_entropy(values, np.int32([0, 1, 3]))
            for dtype, room in (("f4", 1e-6), ("f2", 1e-2)):
                got = client.cross_entropy(values.astype(dtype), [0, 1, 3])
                self.assertEqual(got["grad.logits"].dtype, np.dtype(dtype))
                np.testing.assert_allclose(got["grad.logits"], want["grad.logits"], atol=room)
            half = client.cross_entropy(lossd.BF16.rounded(values), [0, 1, 3])
            np.testing.assert_allclose(half["grad.logits"].float32(), want["grad.logits"], atol=2e-2)
            strided = client.cross_entropy(np.asfortranarray(values), [0, 1, 3])
            np.testing.assert_array_equal(strided["grad.logits"], want["grad.logits"])
            empty = client.mse(np.zeros((0, 3)), np.zeros((0, 3)), reduction="sum")
            self.assertEqual(empty["grad.a"].shape, (0, 3))

    def test_errors(self) -> None:
        with lossd.Client(self.urls[0]) as client:
            with self.assertRaises(lossd.LossdError) as caught:
                client.cross_entropy([[1.0, 2.0]], [5])
            e = caught.exception
            self.assertEqual((e.status, e.input, e.index), (422, "targets", [0]))
            self.assertIn("targets[0] is 5", str(e))
            self.assertTrue(e.code and e.request_id)
            big = np.ones((6000, 8), np.float32)
            with self.assertRaises((lossd.DeadlineExceeded, TimeoutError)):
                client.evaluate("nt_xent", {"embeddings": big, "labels": np.zeros(6000, int)}, timeout=0.01)
            self.assertTrue(client.ready())

    def test_threads(self) -> None:
        client = lossd.Client(self.urls[1])
        wrong: list[object] = []

        def work(seed: int) -> None:
            values = np.random.default_rng(seed).normal(size=(64, 100)).astype("f4")
            first = client.cross_entropy(values, np.zeros(64, int))
            for _ in range(20):
                again = client.cross_entropy(values, np.zeros(64, int))
                if not np.array_equal(first["grad.logits"], again["grad.logits"]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])
        client.close()

    def test_stale_connections(self) -> None:
        with running("--listen", "127.0.0.1:0", "--idle-timeout", "1s") as (url,), lossd.Client(url) as client:
            client.mse([1.0], [2.0])
            time.sleep(1.6)
            self.assertEqual(float(client.mse([1.0], [2.0])["loss"]), 1.0)

    def test_refused_while_sending(self) -> None:
        """lossd does not read all of a body that it refuses: its answer is there before the body is sent."""
        huge = np.zeros(8 << 20, np.float32)
        flags = ("--listen", "127.0.0.1:0", "--max-body", "1MiB", "--drain-max", "2MiB")
        with running(*flags) as (url,), lossd.Client(url) as client:
            for _ in range(5):
                self.assertEqual(float(client.mse([1.0], [2.0])["loss"]), 1.0)
                with self.assertRaises(lossd.LossdError) as caught:
                    client.mse(huge, huge)
                self.assertEqual(caught.exception.code, "too_large")

    def test_unused_connections_are_closed(self) -> None:
        with lossd.Client(self.urls[0]) as client, unittest.mock.patch("lossd.client.LONG_IDLE", 0.2):
            threads = [threading.Thread(target=client.mse, args=([[0.0] * 100000] * 3)[:2]) for _ in range(8)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            time.sleep(0.3)
            client.mse([1.0], [2.0])
            client.mse([1.0], [2.0])
            self.assertEqual(len(client._idle), 1)

    def test_changes_are_sent_once(self) -> None:
        """Whatever became of them."""
        seen = []

        class Closing(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_DELETE(self) -> None:
                seen.append(self.command)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closing) as server:
            threading.Thread(target=server.serve_forever).start()
            with lossd.Client(f"http://127.0.0.1:{server.server_address[1]}") as client:
                for _ in range(2):
                    client._call("GET", "/readyz", {}, None, None)
                    with self.assertRaises(OSError):
                        client.forget("head")
            server.shutdown()
        self.assertEqual(seen, ["DELETE"] * 2)

    def test_fork(self) -> None:
        client = lossd.Client(self.urls[0])
        client.mse([1.0], [0.0])  # a kept connection, which only one process may use
        child = os.fork()
        mine = 2.0 if child else 3.0
        wrong = sum(float(client.mse([mine], [0.0])["loss"]) != mine**2 for _ in range(50))
        if not child:
            os._exit(wrong != 0)
        self.assertEqual(wrong, 0)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_copies(self) -> None:
        client = lossd.Client(self.urls[1], timeout=7, retries=2, api_key="none")
        client.mse([1.0], [0.0])
        for other in (copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))):
            self.assertEqual(vars(other).keys(), vars(client).keys())
            self.assertEqual((other.url, other.timeout, other.retries), (client.url, 7, 2))
            self.assertEqual(other._headers, client._headers)
            self.assertIsNot(other._idle, client._idle)
            self.assertEqual(other.mse([2.0], [0.0])["loss"], 4)
        with multiprocessing.get_context("spawn").Pool(1) as workers:
            self.assertEqual(workers.apply(loss_of, (client, 3.0)), 9)
        context = ssl.create_default_context()
        self.assertIs(copy.deepcopy(lossd.Client("https://127.0.0.1:1", context=context))._context, context)

    def test_small_outputs_of_large_replies(self) -> None:
        got = lossd.Client(self.urls[0]).mse(np.ones(10000, "f4"), np.zeros(10000, "f4"))
        self.assertIsNone(got["loss"].base, "who keeps the loss keeps the whole reply")
        self.assertIsNotNone(got["grad.a"].base)

    def test_replies_of_others(self) -> None:
        """What stands before lossd may say the same in other ways."""
        body = b'{"regions":[{"name":"a/b"}]}'
        head = b"HTTP/1.1 200 OK\r\n"
        chunks = b"%x\r\n%s\r\n" % (9, body[:9]) + b"%X;why=not\r\n%s\r\n" % (len(body) - 9, body[9:])
        whole = (
            head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"CONTENT-LENGTH:%d\r\n\r\n" % len(body) + body,
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: 1\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n" + body,
        )
        cut = (whole[0][:10], whole[0][:-1], whole[2][:-8], b"SSH-2.0-OpenSSH\r\n\r\n")
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()

            def serve() -> None:
                for reply in (*whole, *whole, *cut, b""):
                    part = 1 if reply in cut else len(reply) // 3 + 1
                    line, _ = listening.accept()
                    with line:
                        line.recv(1 << 16)
                        for at in range(0, len(reply), part):
                            line.sendall(reply[at : at + part])
                            time.sleep(0.001)

            thread = threading.Thread(target=serve)
            thread.start()
            client = lossd.Client("http://127.0.0.1:%d" % listening.getsockname()[1], timeout=20)
            for _ in (*whole, *whole):  # each on a new connection, for the former was closed
                self.assertEqual(client.resident(), [{"name": "a/b"}])
            for _ in (*cut, b""):
                self.assertRaises(ConnectionError, client.resident)
            thread.join()
            client.close()

    def test_errors_say_whom_and_what_they_are_about(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        for url, kind in ((f"http://127.0.0.1:{port}", ConnectionRefusedError), ("unix:/none", FileNotFoundError)):
            with self.assertRaisesRegex(kind, re.escape(f"(lossd at {url})")):
                lossd.Client(url).losses()
            with self.assertRaisesRegex(kind, re.escape(f"(lossd at {url})")):
                asyncio.run(lossd.AsyncClient(url).losses())
        for logits, kind in (([[1, 2], [3]], ValueError), (np.zeros((1, 2), "c8"), TypeError)):
            with self.assertRaisesRegex(kind, "^logits: "):
                lossd.Client(self.urls[0]).cross_entropy(logits, [0])

    def test_timeout_of_the_first_call(self) -> None:
        with socket.socket() as mute, socket.socket() as slow:
            for listener in (mute, slow):
                listener.bind(("127.0.0.1", 0))
                listener.listen()

            def drip() -> None:
                with contextlib.suppress(OSError):
                    connection, _ = slow.accept()
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                    for _ in range(100):
                        connection.sendall(b" ")
                        time.sleep(0.1)

            threading.Thread(target=drip, daemon=True).start()
            for listener in (mute, slow):
                client = lossd.Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
                begun = time.monotonic()
                with self.assertRaises(TimeoutError):
                    client.evaluate("mse", {"a": [1.0], "b": [0.0]}, timeout=0.3)
                self.assertLess(time.monotonic() - begun, 3)

    def test_keys(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
            file.write("a-key-of-some-length\n")
            file.flush()
            with running("--listen", "127.0.0.1:0", "--api-key-file", file.name) as (url,):
                self.assertEqual(float(lossd.Client(url, api_key="a-key-of-some-length").mse([1.0], [2.0])["loss"]), 1)
                for key, status in ((None, 401), ("another-key-of-length", 403)):
                    with self.assertRaises(lossd.LossdError) as caught:
                        lossd.Client(url, api_key=key).losses()
                    self.assertEqual(caught.exception.status, status)

    def test_readme(self) -> None:
        text = (HERE.parent / "README.md").read_text()
        names: dict[str, object] = {}
        for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if "torch" in example and not has_torch():
                continue
            exec(example.replace("http://127.0.0.1:8080", self.urls[0]), names)


def bytes_sent(url: str) -> float:
    """Of bodies, both ways."""
    with lossd.Client(url) as client:
        text = bytes(client._call("GET", "/metrics", {}, None, None)).decode()
    return sum(float(v) for v in re.findall(r"^lossd_(?:received|sent)_bytes_total (\S+)$", text, re.M))


class Regions(unittest.TestCase):
    """Memory that is shared with lossd."""

    def setUp(self) -> None:
        folder = self.enterContext(tempfile.TemporaryDirectory()) if sys.version_info >= (3, 11) else tempfile.mkdtemp()
        self.path = f"{folder}/s"
        self.flags = ("--listen", f"unix:{self.path}", "--listen", "127.0.0.1:0")
        self.x = np.random.default_rng(0).normal(size=(64, 5000)).astype("f4")
        self.y = np.arange(64)

    def test_inputs_and_gradients(self) -> None:
        with running(*self.flags) as (url, tcp), lossd.Client(url) as client:
            want = client.cross_entropy(self.x, self.y)
            region = client.empty(self.x.shape)
            region.array[:] = self.x
            before = bytes_sent(tcp)
            for outputs in (None, ["grad.logits", "loss"]):
                got = client.cross_entropy(region, self.y, outputs=outputs)
                self.assertEqual(set(got), {"loss", "grad.logits"})
                np.testing.assert_array_equal(got["grad.logits"], want["grad.logits"])
            np.testing.assert_array_equal(region.array, self.x)
            part = client.cross_entropy(region.array[3:9], self.y[3:9], reduction="sum")
            self.assertEqual(part["grad.logits"].shape, (6, 5000))
            narrow = client.cross_entropy(region, self.y, outputs=["grad.logits:bf16"])["grad.logits"]
            np.testing.assert_array_equal(narrow.bits, lossd.BF16.rounded(want["grad.logits"]).bits)
            over = client.cross_entropy(region, self.y, in_place=["logits"])
            self.assertEqual(over["grad.logits"].ctypes.data, region.array.ctypes.data)
            np.testing.assert_array_equal(region.array, want["grad.logits"])
            self.assertLess(bytes_sent(tcp) - before, 100e3, "tensors were sent")
            self.assertRaises(TypeError, client.mse, [1.0], [2.0], in_place=["c"])

    def test_every_type(self) -> None:
        with running(*self.flags) as (url, _), lossd.Client(url) as client:
            for dtype in ("f8", "f4", "f2", "bf16"):
                region = client.empty((3, 4), dtype)
                values = np.linspace(-3, 3, 12).reshape(3, 4)
                if dtype == "bf16":
                    region.array.bits[:] = lossd.BF16.rounded(values).bits
                else:
                    region.array[:] = values
                targets = client.empty(3, np.int64)
                targets.array[:] = [0, 1, 3]
                got, want = client.cross_entropy(region, targets), client.cross_entropy(region.array, [0, 1, 3])
                pair = [tensors.bits(one["grad.logits"]) for one in (got, want)]
                np.testing.assert_array_equal(*pair)

    def test_a_loss_that_cannot_be_in_place(self) -> None:
        with running(*self.flags) as (url, _), lossd.Client(url) as client:
            rows = client.empty((8, 4))
            rows.array[:] = np.eye(8, 4)
            got = client.info_nce(rows, np.eye(8, 4, dtype="f4"), in_place=["anchors"])
            np.testing.assert_array_equal(rows.array, np.eye(8, 4))
            self.assertEqual(got["grad.anchors"].shape, (8, 4))
            logprobs = client.token_logprobs(client.empty((2, 3, 5)), np.zeros((2, 3), int))
            self.assertIn("logprobs", logprobs)

    def test_memory_is_used_again(self) -> None:
        with running(*self.flags) as (url, tcp), lossd.Client(url) as client:
            for _ in range(20):
                client.cross_entropy(client.empty(self.x.shape), self.y)
            with lossd.Client(tcp) as other:
                text = bytes(other._call("GET", "/metrics", {}, None, None)).decode()
            self.assertLessEqual(int(re.search(r'lossd_regions{kind="client"} (\d+)', text)[1]), 4)

    def test_after_lossd_was_started_again(self) -> None:
        client = lossd.Client(f"unix:{self.path}")
        with running(*self.flags):
            region = client.empty(self.x.shape)
            region.array[:] = self.x
            want = client.cross_entropy(region, self.y)
        with running(*self.flags):
            got = client.cross_entropy(region, self.y)
        np.testing.assert_array_equal(got["grad.logits"], want["grad.logits"])
        client.close()

    def test_fork(self) -> None:
        with running(*self.flags) as (url, _), lossd.Client(url) as client:
            region = client.empty((2, 2))
            region.array[:] = [[0, 1], [1, 0]]
            want = float(client.mse(region, np.zeros((2, 2), "f4"))["loss"])
            child = os.fork()
            mine = client.empty((2, 2))
            mine.array[:] = 3 if child else 4
            wrong = float(client.mse(region, np.zeros((2, 2), "f4"))["loss"]) != want
            wrong += float(client.mse(mine, np.zeros((2, 2), "f4"))["loss"]) != (9 if child else 16)
            if not child:
                os._exit(wrong != 0)
            self.assertEqual(wrong, 0)
            self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_where_there_are_none(self) -> None:
        with running(*self.flags) as (_, tcp), lossd.Client(tcp) as client:
            with self.assertWarnsRegex(UserWarning, "not shared"):
                region = client.empty((2, 2))
            region.array[:] = 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # it was said already
                client.empty((2, 2))
                self.assertEqual(float(client.mse(region, np.zeros((2, 2), "f4"))["loss"]), 1)
        with running(*self.flags, "--region-budget", "4KiB") as (url, _), lossd.Client(url) as client:
            with self.assertWarnsRegex(UserWarning, "--region-budget"):
                region = client.empty(self.x.shape)
            region.array[:] = self.x
            client.cross_entropy(region, self.y)

    def test_a_lossd_without_them(self) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        with socketserver.UnixStreamServer(self.path, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            client = lossd.Client(f"unix:{self.path}")
            with self.assertWarnsRegex(UserWarning, "does not offer it"):
                client.empty((2, 2))
            self.assertFalse(client.shares)
            server.shutdown()

    def test_resident(self) -> None:
        with running(*self.flags) as urls:
            for url in urls:
                with lossd.Client(url) as client:
                    want = client.cross_entropy(self.x, self.y)
                    client.keep("batch", {"logits": self.x, "targets": self.y})
                    self.assertRaises(lossd.LossdError, client.keep, "batch", {"logits": self.x})
                    client.keep("batch", {"x": self.x, "half": lossd.BF16.rounded(self.x), "y": self.y}, replace=True)
                    self.assertEqual([one["name"] for one in client.resident()], ["batch/x", "batch/half", "batch/y"])
                    got = client.cross_entropy(lossd.Resident("batch/x"), lossd.Resident("batch/y"))
                    np.testing.assert_array_equal(got["grad.logits"], want["grad.logits"])
                    client.forget("batch")
                    self.assertEqual(client.resident(), [])
                    with self.assertRaises(lossd.LossdError) as caught:
                        client.cross_entropy(lossd.Resident("batch/x"), self.y)
                    self.assertEqual((caught.exception.code, caught.exception.input), ("region_invalid", "logits"))

    def test_torch(self) -> None:
        if not has_torch():
            self.skipTest("PyTorch is not here")
        import torch

        import lossd.torch

        with running(*self.flags) as (url, tcp):
            shared, sent = lossd.torch.CrossEntropyLoss(url), lossd.torch.CrossEntropyLoss(tcp)
            targets = torch.from_numpy(self.y)
            shared.client.losses()
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                x = torch.from_numpy(self.x).to(dtype).requires_grad_()
                sent(x, targets).backward()
                want, x.grad = x.grad, None
                sent(x, targets)
                before = bytes_sent(tcp)
                shared(x, targets).backward()
                self.assertLess(bytes_sent(tcp) - before, 100e3, "tensors were sent")
                self.assertTrue(torch.equal(x.grad, want))
            there = torch.from_numpy(shared.client.empty(self.x.shape).array)  # where a model may write its logits
            there.copy_(torch.from_numpy(self.x))
            there.requires_grad_()
            sent(there, targets).backward()
            want, there.grad = there.grad, None
            shared(there, targets).backward()
            self.assertTrue(torch.equal(there.grad, want))
            self.assertTrue(torch.equal(there.detach(), torch.from_numpy(self.x)))


class Retries(unittest.TestCase):
    """Against a server that is full for a while."""

    def answer(self, refusals: int, **options: object) -> tuple[object, int]:
        seen: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append(self.headers["X-Request-Timeout"])
                body = b'{"losses":[]}' if len(seen) > refusals else b"busy"
                self.send_response(200 if len(seen) > refusals else 503)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            client = lossd.Client(f"http://127.0.0.1:{server.server_port}", **options)
            try:
                result: object = client.losses()
            except lossd.LossdError as e:
                result = e
            client.close()
            server.shutdown()
        self.assertTrue(all(0 < int(t) <= 30000 for t in seen))
        return result, len(seen)

    def test_until_there_is_room(self) -> None:
        self.assertEqual(self.answer(3), ([], 4))

    def test_not_for_ever(self) -> None:
        result, tries = self.answer(100, retries=2)
        self.assertIsInstance(result, lossd.Overloaded)
        self.assertEqual((tries, result.detail), (3, "busy"))


class Tensors(unittest.TestCase):
    def test_bf16(self) -> None:
        values = np.float32([1.0, 1.00390625, 1.01171875, -2.5, np.inf, -0.0, 3.4e38])
        rounded = lossd.BF16.rounded(values).float32()
        np.testing.assert_array_equal(rounded, np.float32([1.0, 1.0, 1.015625, -2.5, np.inf, -0.0, np.inf]))
        self.assertTrue(np.isnan(lossd.BF16.rounded(np.float32([np.nan])).float32()).all())
        self.assertRaises(TypeError, lossd.BF16, np.zeros(3))

    def test_round_trip(self) -> None:
        made = {"a": np.arange(6.0).reshape(2, 3), "m": np.array([True, False]), "s": np.float32(2.5).reshape(())}
        body = np.frombuffer(b"".join(bytes(p) for p in tensors.write(made, {"x": "y"})), np.uint8)
        for name, value in tensors.read(body).items():
            np.testing.assert_array_equal(value, made[name])
            self.assertEqual(value.dtype, made[name].dtype)

    def test_options(self) -> None:
        for value, text in ((None, "off"), (True, "true"), (0.1, "0.1"), (3, "3"), ("mean", "mean"), ([1, 2], "1,2")):
            self.assertEqual(tensors.option_text(value), text)
        for value, text in (
            (np.array(7), "7"),
            (np.int64(2**53 + 1), "9007199254740993"),
            (np.array([7.5]), "7.5"),
            (np.array([1, 2]), "1,2"),
            (np.bool_(True), "true"),
            (np.float32(0.5), "0.5"),
            ([np.array(1), np.float32(2)], "1,2.0"),
        ):
            self.assertEqual(tensors.option_text(value), text)


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


@unittest.skipUnless(has_torch(), "PyTorch is not here")
class Torch(Service):
    test_cases = test_by_name = test_types = test_errors = test_threads = None
    test_stale_connections = test_keys = test_readme = None

    def test_training(self) -> None:
        script = HERE.parent / "training.py"
        command = [sys.executable, str(script), "--lossd", LOSSD, "--steps", "2"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        apart = re.search(r"largest difference over 2 steps: lossd (\S+),", said)[1]
        self.assertLess(float(apart), 1e-5, said)

    def test_what_cannot_be_told_is_an_error(self) -> None:
        import torch

        import lossd.torch

        targets = torch.tensor([0, 2])
        for reduction in ("mean", "none"):
            criterion = lossd.torch.CrossEntropyLoss(self.urls[0], reduction=reduction)
            x = torch.randn(2, 3, requires_grad=True)
            with self.assertRaisesRegex(RuntimeError, "second derivatives"):
                torch.autograd.grad(criterion(x, targets).sum(), x, create_graph=True)
            z = x * 1
            loss = criterion(z, targets)
            z.mul_(5)
            with self.assertRaisesRegex(RuntimeError, "inplace"):
                loss.sum().backward()

    def test_scaled_losses_of_16_bits(self) -> None:
        import torch

        import lossd.torch

        # Divided by the rows, entries of the gradient vanish in f16; scaled as for mixed precision they must not.
        logits = torch.zeros(2048, 4000).half().requires_grad_()
        loss = lossd.torch.CrossEntropyLoss(self.urls[1])(logits, torch.zeros(2048, dtype=torch.long))
        (loss * 65536).backward()
        self.assertEqual((logits.grad == 0).sum(), 0)
        self.assertAlmostEqual(float(logits.grad[5, 7]), 65536 / 2048 / 4000, places=5)

    def test_graph(self) -> None:
        """GRPO from logits in one call; tensors have the names that the parts give them."""
        import torch

        import lossd.torch

        x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
        y, a = torch.tensor([[0, 4, 1], [2, 2, 3]]), torch.tensor([1.5, -0.5], dtype=torch.float64)
        parts = [
            {"loss": "token_logprobs", "name": "p", "inputs": {"targets": "tokens"}},
            {"loss": "policy_gradient", "inputs": {"logprobs": "part.p.logprobs"}},
        ]
        loss = lossd.torch.Loss("composite", self.urls[0], parts=parts)(logits=x, tokens=y, advantages=a)
        got = torch.autograd.grad(2 * loss, x)[0]
        logprobs = torch.log_softmax(x, -1).gather(-1, y[..., None])[..., 0]
        want = torch.autograd.grad(2 * -(a[:, None] * logprobs).mean(), x)[0]
        self.assertTrue(torch.allclose(got, want, atol=1e-12))

    def test_num_items_of_a_step(self) -> None:
        import torch

        import lossd.torch

        logits, targets = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, -100])
        criterion = lossd.torch.CrossEntropyLoss(self.urls[0], reduction="none")
        total = criterion(logits, targets).sum()
        for items in (torch.tensor(7), torch.tensor(7.0), torch.tensor([7]), np.int64(7), np.array(7), 7):
            got = lossd.torch.CrossEntropyLoss(self.urls[0])(logits, targets, num_items=items)
            torch.testing.assert_close(got, total / 7)
        again = criterion(logits, targets, num_items=torch.tensor(7), reduction="mean")
        torch.testing.assert_close(again, total / 7)  # also in the backward pass, which is a request of its own:
        scaled = torch.randn(4, 3).bfloat16().requires_grad_()
        whole = lossd.torch.CrossEntropyLoss(self.urls[0], reduction="sum")(scaled, targets)
        part = lossd.torch.CrossEntropyLoss(self.urls[0])(scaled, targets, num_items=torch.tensor(8))
        (want,) = torch.autograd.grad(whole, scaled, torch.tensor(0.25))
        (got,) = torch.autograd.grad(part, scaled, torch.tensor(2.0))
        torch.testing.assert_close(got, want)
        nothing = lossd.torch.CrossEntropyLoss(self.urls[0], num_items=torch.tensor(0))
        self.assertEqual(nothing(logits, torch.full((4,), -100)).item(), 0)
        with self.assertRaisesRegex(TypeError, "no smoothing: its inputs are logits, .*, its options .*label_smoothing"):
            criterion(logits, targets, smoothing=torch.tensor(0.1))

    def test_tensors_of_the_constructor(self) -> None:
        import torch

        import lossd.torch

        weight = torch.tensor([1.0, 2.0, 0.5])
        logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        want = torch.nn.CrossEntropyLoss(weight)(logits, targets)
        for name in ("weight", "class_weight"):
            criterion = lossd.torch.CrossEntropyLoss(self.urls[0], **{name: weight})
            torch.testing.assert_close(criterion(logits, targets), want)
            self.assertEqual(criterion.state_dict(), {})
            other = criterion(logits, targets, **{name: torch.ones(3)})
            torch.testing.assert_close(other, torch.nn.CrossEntropyLoss()(logits, targets))
        self.assertRaises(TypeError, criterion, logits, targets, target=targets)
        shares, pos = torch.rand(4, 3), torch.tensor([2.0, 3.0, 1.0])
        want = torch.nn.BCEWithLogitsLoss(weight, pos_weight=pos)(logits, shares)
        torch.testing.assert_close(
            lossd.torch.BCEWithLogitsLoss(self.urls[0], weight=weight, pos_weight=pos)(logits, shares), want
        )
        lossd.torch.BCEWithLogitsLoss(self.urls[0], weight=None, pos_weight=None)(logits, shares)
        for w, p in ((torch.rand(4, 1), torch.rand(1, 3)), (torch.tensor(0.5), torch.rand(1)), (torch.rand(1, 1), pos)):
            want = torch.nn.BCEWithLogitsLoss(w, pos_weight=p)(logits, shares)
            got = lossd.torch.BCEWithLogitsLoss(self.urls[0], weight=w, pos_weight=p)(logits, shares)
            torch.testing.assert_close(got, want)
        one = torch.tensor(0.25)
        torch.testing.assert_close(
            lossd.torch.BCEWithLogitsLoss(self.urls[0])(one, one), torch.nn.BCEWithLogitsLoss()(one, one)
        )
        temperature = torch.nn.Parameter(torch.tensor(0.5))
        learned = lossd.torch.Loss("info_nce", self.urls[0], temperature=temperature)
        self.assertEqual([p is temperature for p in learned.parameters()], [True])
        learned(torch.randn(3, 4), torch.randn(3, 4)).backward()
        self.assertNotEqual(temperature.grad.item(), 0)

    def test_copies(self) -> None:
        import torch

        import lossd.torch

        model = torch.nn.Linear(3, 3)
        model.criterion = lossd.torch.CrossEntropyLoss(self.urls[1], label_smoothing=0.1, weight=torch.ones(3))
        x, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        want = model.criterion(model(x), y)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        safe = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, **safe)):
            self.assertIsNot(other.criterion.client, model.criterion.client)
            torch.testing.assert_close(other.criterion(other(x), y), want)

    def test_pytorchs_defaults(self) -> None:
        """Without options, in every shape that PyTorch's criterion takes here, sizes being equal or not."""
        import torch

        import lossd.torch

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, dtype=torch.float64)

        def classes(*shape: int) -> torch.Tensor:
            return torch.randint(0, 3, shape)

        def signs(n: int) -> torch.Tensor:
            return torch.tensor([1, -1] * n)[:n]

        steps, labels, marks = torch.tensor([6, 5]), torch.tensor([2, 1]), torch.tensor([[1, 2], [1, 1]])
        log = lambda x, axis: x.log_softmax(axis)  # noqa: E731
        torch.manual_seed(1)
        cases = [
            ("CrossEntropyLoss", (draw(3), torch.tensor(1)), {}),
            ("CrossEntropyLoss", (draw(5, 3), classes(5)), {}),
            ("CrossEntropyLoss", (draw(5, 3), draw(5, 3).softmax(1)), {"label_smoothing": 0.1}),
            ("CrossEntropyLoss", (draw(5, 3, 4), classes(5, 4)), {}),
            ("CrossEntropyLoss", (draw(3, 3, 3), classes(3, 3)), {"reduction": "none"}),
            ("CrossEntropyLoss", (draw(3, 3, 3), draw(3, 3, 3).softmax(1)), {}),
            ("CrossEntropyLoss", (draw(2, 3, 3, 3), classes(2, 3, 3)), {"ignore_index": 1}),
            ("CrossEntropyLoss", (draw(5, 3), classes(5).to(torch.uint8)), {}),
            ("BCEWithLogitsLoss", (draw(5, 3), draw(5, 3).sigmoid()), {}),
            ("KLDivLoss", (log(draw(5, 3), 1), draw(5, 3).softmax(1)), {}),
            ("KLDivLoss", (log(draw(5, 3), 1), log(draw(5, 3), 1)), {"log_target": True}),
            ("KLDivLoss", (log(draw(5, 3), 1), draw(5, 3).softmax(1)), {"reduction": "batchmean"}),
            ("MSELoss", (draw(5, 3), draw(5, 3)), {}),
            ("L1Loss", (draw(5, 3), draw(5, 3)), {}),
            ("HuberLoss", (draw(5, 3), draw(5, 3)), {}),
            ("HuberLoss", (draw(5, 3), draw(5, 3)), {"delta": 0.3}),
            ("SmoothL1Loss", (draw(5, 3), draw(5, 3)), {}),
            ("SmoothL1Loss", (draw(5, 3), draw(5, 3)), {"beta": 0.3}),
            ("CTCLoss", (log(draw(6, 2, 3), 2), marks, steps, labels), {}),
            ("CTCLoss", (log(draw(2, 2, 3), 2), torch.tensor([[1], [2]]), (2, 2), (1, 1)), {"reduction": "sum"}),
            ("CosineEmbeddingLoss", (draw(4, 3), draw(4, 3), signs(4)), {}),
            ("CosineEmbeddingLoss", (draw(3), draw(3), torch.tensor(-1.0)), {"margin": -1.0}),
            ("CosineEmbeddingLoss", (torch.zeros(2, 3).double(), draw(2, 3), signs(2).float()), {"margin": -1.0}),
            ("CosineEmbeddingLoss", (1e-6 * draw(4, 3), draw(4, 3), signs(4)), {"reduction": "none"}),
            ("TripletMarginLoss", (draw(4, 3), draw(4, 3), draw(4, 3)), {}),
            ("TripletMarginLoss", (draw(4, 3), draw(4, 3), draw(4, 3)), {"p": 1, "eps": 1e-3, "swap": True}),
        ]
        self.assertEqual({name for name, _, _ in cases}, {c.__name__ for c in lossd.torch._Named.__subclasses__()})
        client = lossd.Client(self.urls[0])
        for name, inputs, options in cases:
            if name == "CrossEntropyLoss" and inputs[1].dtype == torch.uint8 and torch.__version__ < "1.12":
                continue
            theirs, ours = (
                [t.clone().requires_grad_() if i == 0 else t for i, t in enumerate(inputs)] for _ in range(2)
            )
            want = getattr(torch.nn, name)(**options)(*theirs)
            got = getattr(lossd.torch, name)(client, **options)(*ours)
            torch.testing.assert_close(got, want, msg=lambda m: f"{name} {options}: {m}")
            want.sum().backward()
            got.sum().backward()
            torch.testing.assert_close(ours[0].grad, theirs[0].grad, msg=lambda m: f"{name} {options}: {m}")
        self.assertRaises(ValueError, lossd.torch.TripletMarginLoss, client, p=3)

    def test_the_class_axis_is_named(self) -> None:
        import torch

        import lossd.torch

        rows = torch.randn(2, 5, 3), torch.randint(0, 3, (2, 5))
        with self.assertRaisesRegex(lossd.LossdError, "class_dim"):
            lossd.torch.CrossEntropyLoss(self.urls[0])(*rows)
        lossd.torch.CrossEntropyLoss(self.urls[0], class_dim=-1)(*rows)

    def test_against_torch(self) -> None:
        import torch

        import lossd.torch

        torch.manual_seed(0)
        client = lossd.Client(self.urls[1])
        for reduction in ("mean", "sum", "none"):
            for dtype, room in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
                mine = torch.randn(7, 11, dtype=dtype, requires_grad=True)
                theirs = mine.detach().double().requires_grad_()
                targets = torch.randint(0, 11, (7,))
                ours = lossd.torch.CrossEntropyLoss(client, reduction=reduction, label_smoothing=0.1)
                want = torch.nn.CrossEntropyLoss(reduction=reduction, label_smoothing=0.1)(theirs, targets)
                got = ours(mine, targets)
                weight = torch.randn(got.shape, dtype=torch.float64)
                (want * weight).sum().backward()
                (got * weight.to(got.dtype)).sum().backward()
                torch.testing.assert_close(got.double(), want, atol=room, rtol=room)
                self.assertEqual(mine.grad.dtype, dtype)
                torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=room, rtol=room)

    def test_trains(self) -> None:
        import torch

        import lossd.torch

        losses = []
        for criterion in (torch.nn.MSELoss(), lossd.torch.MSELoss(self.urls[0])):
            torch.manual_seed(3)
            model = torch.nn.Linear(4, 2)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            x, y = torch.randn(16, 4), torch.randn(16, 2)
            run = []
            for _ in range(30):
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                optimizer.step()
                run.append(loss.item())
            losses.append(run)
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
        self.assertLess(losses[1][-1], losses[1][0])


if __name__ == "__main__":
    unittest.main()
