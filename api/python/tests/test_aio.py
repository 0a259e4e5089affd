"""The asyncio client against a running lossd."""

from __future__ import annotations

import asyncio
import copy
import pickle
import tempfile
import time
import unittest

import numpy as np

import lossd
from lossd import calls

from .test_client import CASES, array, running


class Async(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.context = running(
            "--listen", "127.0.0.1:0", "--listen", f"unix:{cls.folder.name}/s", "--idle-timeout", "1s"
        )
        cls.urls = cls.context.__enter__()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.context.__exit__(None, None, None)
        cls.folder.cleanup()

    async def test_cases_all_at_once(self) -> None:
        for url in self.urls:
            async with lossd.AsyncClient(url) as client:

                async def one(case: dict) -> None:
                    inputs = {name: array(t) for name, t in case["inputs"].items()}
                    got = await client.evaluate(case["loss"], inputs, options=case["options"], outputs=case["outputs"])
                    self.assertEqual(set(got), set(case["outputs"]), case["name"])
                    for name, t in case["outputs"].items():
                        want = np.array(t["data"], float).reshape(t["shape"])
                        room = case["tolerance"] * np.maximum(1, np.abs(want))
                        self.assertTrue((np.abs(got[name] - want) <= room).all(), f"{case['name']} {name}")

                await asyncio.gather(*map(one, CASES))

    async def test_descriptions_are_asked_for_once(self) -> None:
        async with lossd.AsyncClient(self.urls[0]) as client:
            asked, call = [], client._call

            async def counted(method: str, path: str, *rest, **named):
                asked.append(path)
                return await call(method, path, *rest, **named)

            client._call = counted
            late = asyncio.ensure_future(client.evaluate("mse", {"a": [1.0], "b": [0.0]}))
            await asyncio.sleep(0)
            late.cancel()  # which ends nothing for the others
            got = await asyncio.gather(*[client.evaluate("mse", {"a": [1.0], "b": [0.0]}) for _ in range(20)])
            self.assertEqual([float(one["loss"]) for one in got], [1] * 20)
            self.assertEqual((asked.count("/v1/losses"), len(asked)), (1, 21))
        async with lossd.AsyncClient("http://127.0.0.1:9") as client:
            got = await asyncio.gather(*[client.losses() for _ in range(3)], return_exceptions=True)
            self.assertEqual([type(one) for one in got], [ConnectionRefusedError] * 3)
        client = lossd.AsyncClient("http://127.0.0.1:9")
        with self.assertRaises(ConnectionRefusedError):
            await client.losses()

    async def test_by_name_and_errors(self) -> None:
        async with lossd.AsyncClient(self.urls[1]) as client:
            got = await client.cross_entropy([[0.2, 0.4, 0.4]], [2], label_smoothing=0.1)
            self.assertAlmostEqual(float(got["loss"]), 1.042953, 6)
            got["grad.logits"][0, 0] = 1  # replies are the caller's
            with self.assertRaises(lossd.LossdError) as caught:
                await client.cross_entropy([[0.2, 0.4, 0.4]], [3])
            self.assertEqual((caught.exception.code, caught.exception.index), ("target_out_of_range", [0]))
            with self.assertRaises(AttributeError):
                await client.no_such_loss([1.0])
            self.assertTrue(await client.ready())

    async def test_copies(self) -> None:
        async with lossd.AsyncClient(self.urls[1], timeout=7, connections=2) as client:
            await client.mse([1.0], [0.0])
            for other in (copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))):
                self.assertEqual((other.url, other.timeout, other._connections), (client.url, 7, 2))
                self.assertIsNot(other._turns, client._turns)
                self.assertEqual((await other.mse([2.0], [0.0]))["loss"], 4)
                await other.close()

    async def test_connections_that_were_closed_meanwhile(self) -> None:
        async with lossd.AsyncClient(self.urls[0]) as client:
            await client.mse([1.0], [0.0])
            await asyncio.sleep(1.6)  # beyond the idle timeout
            self.assertEqual(float((await client.mse([3.0], [0.0]))["loss"]), 9.0)

    async def test_refused_while_sending(self) -> None:
        """lossd does not read all of a body that it refuses: its answer is there before the body is sent."""
        huge = np.zeros(8 << 20, np.float32)
        flags = ("--listen", "127.0.0.1:0", "--listen", f"unix:{self.folder.name}/t")
        with running(*flags, "--max-body", "1MiB", "--drain-max", "2MiB") as urls:
            for url in urls:
                async with lossd.AsyncClient(url) as client:
                    for _ in range(5):
                        self.assertEqual(float((await client.mse([1.0], [2.0]))["loss"]), 1.0)
                        with self.assertRaises(lossd.LossdError) as caught:
                            await client.mse(huge, huge)
                        self.assertEqual(caught.exception.code, "too_large")

    async def test_what_is_cancelled_leaves_nothing_behind(self) -> None:
        large = np.zeros((64, 20000), np.float32)
        async with lossd.AsyncClient(self.urls[0], connections=4) as client:
            await client.mse([1.0], [0.0])
            for delay in (0.0, 0.001, 0.003, 0.01):
                tasks = [asyncio.create_task(client.cross_entropy(large, np.zeros(64, int))) for _ in range(8)]
                await asyncio.sleep(delay)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                got = await asyncio.gather(*(client.mse([float(k)], [0.0]) for k in range(8)))
                self.assertEqual([float(one["loss"]) for one in got], [float(k * k) for k in range(8)])

    async def test_other_servers(self) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            refusals.append(time.monotonic())
            writer.write(b"HTTP/1.1 503 Full\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            writer.close()

        refusals: list[float] = []
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, lossd.AsyncClient(url, retries=1) as client:
            with self.assertRaises(lossd.Overloaded):
                await client.losses()
        self.assertEqual(len(refusals), 2)
        self.assertGreater(refusals[1] - refusals[0], 0.9)

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            hosts.append([line for line in head.split(b"\r\n") if line.lower().startswith(b"host:")])
            writer.write(b'HTTP/1.0 200 OK\r\n\r\n{"losses":[]}')
            writer.close()

        hosts: list[list[bytes]] = []
        server = await asyncio.start_server(old, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, lossd.AsyncClient(f"http://127.0.0.1:{port}") as client:
            self.assertEqual(await client.losses(), [])
            client._described = None
            self.assertEqual(await client.losses(), [])
        self.assertEqual(hosts, 2 * [[f"Host: 127.0.0.1:{port}".encode()]])
        self.assertEqual(calls.address_of("http://[::1]:80").authority, "[::1]:80")

        async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(ignore, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, lossd.AsyncClient(url, timeout=0.2) as client:
            with self.assertRaises(TimeoutError):
                await client.losses()


if __name__ == "__main__":
    unittest.main()
