"""losskit in this process beside lossd over a Unix socket: the same bits, the same refusals; threads, forks, arrays that
are overwritten; and PyTorch.

    cd api/python && LOSSD=../../build/release/lossd python3 -m unittest tests.test_local
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import sys
import tempfile
import threading
import unittest
import unittest.mock
from collections.abc import Iterator
from typing import Any

import numpy as np

import lossd

from .test_client import CASES, HERE, LOSSD, array, has_torch, running

os.environ.setdefault("LOSSKIT_LIBRARY", str(pathlib.Path(LOSSD).resolve().parent / "liblosskit.so.0"))
import losskit  # noqa: E402
from losskit.binding import lib  # noqa: E402

sys.path.insert(0, str(HERE.parents[2] / "tests" / "http"))
import wires  # noqa: E402

EXAMPLES = HERE.parents[1] / "examples"
LOCALS = (losskit.local, losskit.Local(threads=2))
HELD = 1 << 5  # a gradient that takes some values for constants is not the difference of losses
HOLDS = 1 << 3  # nor is it with such an option


def drawn(tensor: wires.Tensor) -> Any:
    dtype = lossd.tensors.DTYPES[tensor.dtype.upper()]
    made = np.frombuffer(bytearray(tensor.bytes()), dtype).reshape(tensor.shape)
    return lossd.BF16(made) if tensor.dtype == "bf16" else made


def outcome(client: Any, loss: str, inputs: dict, options: dict, outputs: list[str] | None, **how: Any) -> Any:
    """The outputs to the bit, or the whole of a refusal."""
    try:
        got = client.evaluate(loss, inputs, options=options, outputs=outputs, **how)
    except lossd.LossdError as e:
        return type(e), e.status, e.code, e.detail, e.input, e.index
    return [
        (name, type(value), lossd.tensors.bits(value).shape, lossd.tensors.bits(value).dtype.str, bits_of(value))
        for name, value in got.items()
    ]


def bits_of(value: Any) -> bytes:
    return lossd.tensors.bits(value).tobytes()


def losses_of(description: dict) -> list[wires.Loss]:
    name = description["name"]
    example = json.loads((EXAMPLES / f"{name}.json").read_text())
    return [wires.Loss(description, one) for one in (example, *wires.MORE.get(name, []))]


def holds(name: str, options: dict) -> bool:
    fields = lib.lk_loss_describe(lib.lk_loss_find(name.encode())).contents.options
    named = itertools.takewhile(lambda field: field.name, (fields[i] for i in itertools.count()))
    return any(field.flags & HOLDS and field.name.decode() in options for field in named)


def with_each(loss: wires.Loss) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of an example, and the same with each other one that has a gradient."""
    base = {n: drawn(t) for n, t in loss.base.items()}
    yield base
    for one in loss.inputs:
        if one["differentiable"] and one["name"] not in base:
            yield {**base, one["name"]: drawn(loss.one(one["forms"][0], "f32"))}


def sum_of(local: losskit.Local) -> float:
    return float(local.mse([3.0], [0.0])["loss"])


class Local(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.context = running("--listen", f"unix:{cls.folder.name}/s")
        cls.client = lossd.Client(cls.context.__enter__()[0])

    @classmethod
    def tearDownClass(cls) -> None:
        cls.client.close()
        cls.context.__exit__(None, None, None)
        cls.folder.cleanup()

    def same(self, loss: str, inputs: dict, options: dict, outputs: list[str] | None, name: str) -> Any:
        want = outcome(self.client, loss, inputs, options, outputs)
        for local in LOCALS:
            self.assertEqual(outcome(local, loss, inputs, options, outputs), want, name)
        return want

    def test_descriptions(self) -> None:
        self.assertEqual(losskit.local.losses(), self.client.losses())
        for loss in losskit.local.losses():
            self.assertEqual(losskit.local.describe(loss), self.client.describe(loss))

    def test_every_loss_and_type(self) -> None:
        """Every input in every form and type, alone and in a part; each output that there is, and the usual ones."""
        taken: dict[str, set[str]] = {}
        for description in map(self.client.describe, self.client.losses()):
            name = description["name"]
            for loss in losses_of(description):
                for case, tensors in loss.cases():
                    inputs = {n: drawn(t) for n, t in tensors.items()}
                    parts = [{"loss": name, "options": loss.options}]
                    for outputs in (None, *([one["name"]] for one in description["outputs"])):
                        got = self.same(name, inputs, loss.options, outputs, f"{name}: {case} {outputs}")
                        if isinstance(got, list):
                            taken.setdefault(name, set()).update(tensors[n].dtype for n in tensors)
                    self.same("composite", inputs, {"parts": parts}, None, f"part {name}: {case}")
        self.assertEqual(set(taken), set(self.client.losses()))
        floats = {name for name, types in taken.items() if types >= {"f64", "f32", "f16", "bf16"}}
        self.assertEqual(set(taken) - floats, {"mask_tokens"})

    def test_cases(self) -> None:
        for case in CASES:
            inputs = {name: array(t) for name, t in case["inputs"].items()}
            self.same(case["loss"], inputs, case["options"], list(case["outputs"]), case["name"])

    def test_large(self) -> None:
        """Shards on several threads, and in place."""
        rng = np.random.default_rng(1)
        for dtype in ("f8", "f4", "f2"):
            logits, targets = rng.normal(size=(37, 20011)).astype(dtype), rng.integers(0, 20011, 37)
            inputs, outputs = {"logits": logits, "targets": targets}, ["loss", "grad.logits", "nll"]
            want = self.same("cross_entropy", inputs, {}, outputs, dtype)
            over = {**inputs, "logits": logits.copy()}
            got = outcome(losskit.Local(threads=3), "cross_entropy", over, {}, outputs, in_place=["logits"])
            self.assertEqual(got, want)
            self.assertEqual(over["logits"].tobytes(), got[1][4])
        rows = rng.normal(size=(700, 300)).astype("f4")
        two_passes = ["loss", "grad.anchors", "grad.candidates"]
        self.same("info_nce", {"anchors": rows, "candidates": rows}, {}, two_passes, "info_nce")

    def test_refusals(self) -> None:
        """The same word, sentence and place, whatever is wrong."""
        x, y = np.float32([[0.2, 0.4, 0.4], [1, 2, 3]]), np.array([2, 0])
        good = {"logits": x, "targets": y}
        pair = {"a": np.float32([1, 2]), "b": np.float32([0, 0])}
        wrong: list[tuple[str, dict, dict, list[str] | None]] = [
            ("cross_entropy", {"logits": x, "targets": np.array([2, 7])}, {}, None),
            ("cross_entropy", {"logits": x}, {}, None),
            ("cross_entropy", {"logits": x.astype("i8"), "targets": y}, {}, None),
            ("cross_entropy", {"logits": x, "targets": y[:1]}, {}, None),
            ("cross_entropy", {"logits": x[0], "targets": y}, {}, None),
            ("cross_entropy", {**good, "nonsense": y}, {}, None),
            ("cross_entropy", {"logits\0": x, "targets": y}, {}, None),
            ("cross_entropy", {"logits": x.reshape((1,) * 8 + (2, 3)), "targets": y}, {}, None),
            ("cross_entropy", good, {"label_smoothing": 2}, None),
            ("cross_entropy", good, {"label_smoothing": "x"}, ["nonsense"]),
            ("cross_entropy", good, {"reduction": "nonsense"}, None),
            ("cross_entropy", good, {}, ["nonsense"]),
            ("cross_entropy", good, {}, ["loss", "loss"]),
            ("cross_entropy", good, {}, []),
            ("cross_entropy", good, {}, ["loss, nonsense"]),
            ("cross_entropy", {**good, "class_weight": np.float32([1, np.nan, 1])}, {}, None),
            ("cosent", {"similarity": np.float32([1]), "labels": np.float32([np.nan])}, {}, None),
            ("mask_tokens", {"input_ids": y}, {}, None),
        ]
        for parts in (
            [], [1], {}, "[", "[1", '[{"loss":"mse","loss":"mse"}]', [{}], [{"loss": 1}], [{"loss": "no"}],
            [{"loss": "mse", "weight": "1"}], [{"loss": "mse", "weight": True}], [{"loss": "mse", "more": 1}],
            [{"loss": "mse", "options": 1}], [{"loss": "mse", "options": {"no": 1}}], [{"loss": "mse", "inputs": []}],
            [{"loss": "huber", "options": {"delta": [1]}}], [{"loss": "huber", "options": {"delta": {}}}],
            [{"loss": "huber", "options": {"delta": -1.0}}], [{"loss": "huber", "options": {"delta": True}}],
            [{"loss": "mse", "inputs": {"a": 1}}], [{"loss": "mse", "inputs": {"c": "a"}}],
            [{"loss": "mse", "inputs": {"a": "c"}}], [{"loss": "mse", "weight": 1}] * 17, [{"loss": "composite"}],
            [{"loss": "mask_tokens"}], [{"loss": "mse", "options": {"reduction": "none"}}],
            [{"loss": "mse", "name": 1}], [{"loss": "mse", "name": "0"}], [{"loss": "mse\0"}],
            [{"loss": "mse", "inputs": {"b": "part.0.loss"}}], [{"loss": "mse", "inputs": {"b": "part.m.loss"}}],
        ):  # fmt: skip
            text = parts if isinstance(parts, str) else json.dumps(parts)
            wrong.append(("composite", pair, {"parts": text}, None))
        for loss, inputs, options, outputs in wrong:
            want = outcome(self.client, loss, inputs, options, outputs)
            got = outcome(losskit.local, loss, inputs, options, outputs)
            self.assertIsInstance(want, tuple, f"{loss} {options}")
            if "at byte" in want[3]:  # of a text that is not JSON two parsers say different things
                want, got = want[:3], got[:3]
            self.assertEqual(got, want, f"{loss} {options}")
        for client in (self.client, losskit.local):
            for refused in ({"options": {"ignore_index": "0\0"}}, {"outputs": ["loss\0"]}):
                self.assertRaises(losskit.LossdError, client.evaluate, "cross_entropy", good, **refused)
            self.assertRaises(AttributeError, lambda: client.no_such_loss)
            self.assertRaises(AttributeError, client.evaluate, "no_such_loss", {})
            self.assertRaises(TypeError, client.mse, [1.0], [1.0], nonsense=1)
            self.assertRaises(TypeError, client.mse, np.array(["a"]), [1.0])

    def test_arrays(self) -> None:
        x, y = np.random.default_rng(2).normal(size=(6, 8)), np.arange(6)
        want = losskit.local.cross_entropy(x, y)
        for other in (np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x.astype(">f8"), x.tolist()):
            got = losskit.local.cross_entropy(other, y, outputs=["loss", "grad.logits"])
            if other is not got and isinstance(other, np.ndarray):
                self.assertEqual(got["grad.logits"].tobytes(), want["grad.logits"].tobytes())
        shifted = np.frombuffer(bytearray(x.nbytes + 3), np.uint8)[3:].view("f8").reshape(x.shape)
        shifted[:] = x  # aligned to nothing
        self.assertEqual(losskit.local.cross_entropy(shifted, y)["loss"], want["loss"])
        want["grad.logits"][0, 0] = 1  # outputs are the caller's
        self.assertEqual(losskit.local.mse(np.zeros((0, 3)), np.zeros((0, 3)), reduction="sum")["grad.a"].shape, (0, 3))

    def test_in_place(self) -> None:
        x, y = np.random.default_rng(3).normal(size=(6, 8)).astype("f4"), np.arange(6)
        want = losskit.local.cross_entropy(x, y)

        def evaluate(logits: Any, **more: Any) -> dict[str, Any]:
            given = {"logits": logits, "targets": y, **more}
            return losskit.local.evaluate("cross_entropy", given, in_place=["logits"])

        mine = x.copy()
        got = evaluate(mine)
        self.assertIs(got["grad.logits"], mine)
        self.assertEqual(mine.tobytes(), want["grad.logits"].tobytes())
        half = lossd.BF16.rounded(x)
        self.assertIs(evaluate(half)["grad.logits"].bits, half.bits)
        none = np.zeros((0, 8), "f4")
        got = losskit.local.evaluate("cross_entropy", {"logits": none, "targets": y[:0]}, in_place=["logits"])
        self.assertIs(got["grad.logits"], none)
        fixed = x.copy()
        fixed.flags.writeable = False
        for other, why in (
            (fixed, "read-only"),
            (np.asfortranarray(x), "not contiguous"),
            (x.astype(">f4"), "not an array of"),
            (x.tolist(), "not an array of"),
        ):
            with self.assertRaisesRegex(ValueError, why):
                evaluate(other)
        self.assertEqual(evaluate(x.copy(), class_weight=np.ones(8, "f4"))["loss"], want["loss"])
        whole = np.ones(20, "f4")
        with self.assertRaisesRegex(ValueError, "overlaps"):
            losskit.local.evaluate("mse", {"a": whole[:10], "b": whole[5:15]}, in_place=["a"])
        for names in ("logits", ["logit"]):
            with self.assertRaises(TypeError):
                losskit.local.evaluate("cross_entropy", {"logits": x.copy(), "targets": y}, in_place=names)
        rows = np.float32([[1, 0], [1, 2]])  # where it is not allowed there is an array of its own
        got = losskit.local.evaluate("info_nce", {"anchors": rows, "candidates": rows.copy()}, in_place=["candidates"])
        self.assertIsNot(got["grad.candidates"], rows)

    def test_threads(self) -> None:
        wrong: list[int] = []

        def work(local: losskit.Local, seed: int) -> None:
            values = np.random.default_rng(seed).normal(size=(40, 9000)).astype("f4")
            first = local.cross_entropy(values, np.zeros(40, int))
            for _ in range(20):
                again = local.cross_entropy(values, np.zeros(40, int))
                if again["grad.logits"].tobytes() != first["grad.logits"].tobytes():
                    wrong.append(seed)

        with losskit.Local(threads=3) as shared:
            threads = [threading.Thread(target=work, args=(shared, i)) for i in range(6)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        self.assertEqual(wrong, [])
        self.assertRaises(ValueError, losskit.Local, threads=0)

    def test_interrupts(self) -> None:
        """Who waits for the other threads is interrupted, and they go on."""
        local, x, y = losskit.Local(threads=3), np.ones((80, 9000), "f4"), np.zeros(80, int)
        want = local.cross_entropy(x, y)["loss"]
        with unittest.mock.patch("concurrent.futures.wait", side_effect=KeyboardInterrupt):
            for _ in range(50):
                self.assertRaises(KeyboardInterrupt, local.cross_entropy, x.copy(), y)
        self.assertEqual(local.cross_entropy(x, y)["loss"], want)

    def test_fork_and_copies(self) -> None:
        local = losskit.Local(threads=2)
        x, y = np.ones((40, 9000), "f4"), np.zeros(40, int)
        want = local.cross_entropy(x, y)["loss"]
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                os._exit(int(local.cross_entropy(x, y)["loss"] != want))
            os._exit(2)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        for other in (copy.copy(local), copy.deepcopy(local), pickle.loads(pickle.dumps(local))):
            self.assertEqual((other.threads, sum_of(other)), (2, 9))
            self.assertIsNot(other._lock, local._lock)
        with multiprocessing.get_context("spawn").Pool(1) as workers:
            self.assertEqual(workers.apply(sum_of, (local,)), 9)

    def test_readme(self) -> None:
        """Each example of Python in the package's README, with what it prints."""
        text = (HERE.parent / "losskit" / "README.md").read_text()
        names: dict[str, object] = {}
        for example, _, printed in re.findall(r"```python\n(.*?)```\n(\n```text\n(.*?)```\n)?", text, re.DOTALL):
            if "torch" in example and not has_torch():
                continue
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(example.replace("http://127.0.0.1:8080", self.client.url), names)
            self.assertEqual(out.getvalue(), printed or out.getvalue())


@unittest.skipUnless(has_torch(), "PyTorch is not here")
class Torch(unittest.TestCase):
    def test_gradcheck(self) -> None:
        """Every input that has a gradient, but where that is not the difference of losses; with each reduction."""
        import torch

        import losskit.torch

        left = set()
        for name in losskit.local.losses():
            description = losskit.local.describe(name)
            traits = lib.lk_loss_describe(lib.lk_loss_find(name.encode())).contents.traits
            if traits & HELD:
                continue
            left |= {(name, one["name"]) for one in description["inputs"] if one["differentiable"]}
            ranges = {one["name"]: one.get("range") for one in description["inputs"]}
            calls = [one for one in losses_of(description) if not holds(name, one.options)]
            for loss, arrays in ((loss, arrays) for loss in calls for arrays in with_each(loss)):
                try:
                    made = losskit.local.evaluate(name, arrays, options=loss.options)
                except lossd.LossdError:  # what the example does not go with
                    self.assertNotEqual(arrays.keys(), loss.base.keys(), name)
                    continue
                constant = loss.constant | {n for n in arrays if n not in ranges and f"grad.{n}" not in made}
                given = {n: torch.from_numpy(array) for n, array in arrays.items()}
                given = {n: t.double() if t.is_floating_point() else t for n, t in given.items()}
                for one in given:
                    if not given[one].is_floating_point() or one in constant:
                        continue
                    if ranges.get(one) == "[0,1]":
                        given[one] = given[one] * 0.8 + 0.1  # differences need room on both sides
                    left.discard((name, one))
                    value = given[one].clone().requires_grad_()
                    for reduction in (None, "none", "sum"):
                        settings = {**loss.options, "reduction": reduction} if reduction else loss.options
                        criterion = losskit.torch.Loss(name, losskit.local, **settings)
                        try:
                            criterion(**given)
                        except (lossd.LossdError, TypeError):
                            self.assertIsNotNone(reduction, name)
                            continue
                        self.assertTrue(torch.autograd.gradcheck(lambda x: criterion(**{**given, one: x}), value))
        self.assertEqual(left, set())

    def test_gradients_are_handed_over(self) -> None:
        """Once without a copy; then they are computed again, to the same bits."""
        import torch

        import losskit.torch

        targets = torch.tensor([0, 2])
        for dtype in (torch.float32, torch.float16):
            for scale in (1.0, 3.0):
                x = torch.randn(2, 3).to(dtype).requires_grad_()
                loss = losskit.torch.CrossEntropyLoss(losskit.local)(x, targets) * scale
                grads = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(3)]
                self.assertEqual(len({g.data_ptr() for g in grads}), 3)
                for other in grads[1:]:
                    self.assertTrue(torch.equal(other, grads[0]))
                for _ in range(3):
                    loss.backward(retain_graph=True)
                torch.testing.assert_close(x.grad, 3 * grads[0])

    def test_in_place(self) -> None:
        import torch

        import losskit.torch

        criterion = losskit.torch.CrossEntropyLoss(losskit.local, in_place=True)
        layer, inputs, targets = torch.nn.Linear(5, 7), torch.randn(2, 3, 5), torch.randint(0, 7, (6,))

        def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
            return list(torch.autograd.grad(loss, layer.parameters(), retain_graph=True))

        want = gradients(losskit.torch.CrossEntropyLoss(losskit.local)(layer(inputs).view(6, 7), targets))
        for scale in (1.0, 0.5):
            logits = layer(inputs)
            before = logits.data_ptr()
            loss = criterion(logits.view(6, 7), targets) * scale
            self.assertNotEqual(logits._version, 0)
            for mine, theirs in zip(gradients(loss), want):
                torch.testing.assert_close(mine, theirs * scale)
            self.assertEqual(logits.data_ptr(), before)
            self.assertLess(logits.sum(2).abs().max(), 1e-6)  # they hold their gradient
            with self.assertRaisesRegex(RuntimeError, "once more"):
                gradients(loss)

        saved = layer(inputs).view(6, 7).exp()  # its own backward pass needs what was overwritten
        with self.assertRaisesRegex(RuntimeError, "inplace"):
            gradients(criterion(saved, targets))
        written = layer(inputs).view(6, 7)
        loss = criterion(written, targets)
        written.mul_(2)
        with self.assertRaisesRegex(RuntimeError, "inplace"):
            gradients(loss)
        with self.assertRaisesRegex(RuntimeError, "each row"):
            criterion(layer(inputs).view(6, 7), targets, reduction="none")
        one = torch.tensor(3.0, requires_grad=True)
        losskit.torch.MSELoss(losskit.local, in_place=True)(one * 2, torch.tensor(2.0)).backward()
        self.assertEqual(one.grad, 16)
        half = layer(inputs).view(6, 7).half()
        with self.assertRaisesRegex(RuntimeError, "16 bits"):
            gradients(criterion(half, targets) * 2)
        leaf = torch.randn(6, 7, requires_grad=True)
        kept = leaf.detach().clone()
        criterion(leaf, targets).backward()
        criterion(leaf.view(3, 2, 7).view(6, 7), targets).backward()
        self.assertTrue(torch.equal(leaf, kept))
        with torch.no_grad():
            logits = layer(inputs).view(6, 7)
            kept = logits.clone()
            criterion(logits, targets)
            self.assertTrue(torch.equal(logits, kept))
        turned = (layer(inputs).view(6, 7) * 1).t().contiguous().t()  # a copy is overwritten, not the tensor
        kept = turned.detach().clone()
        for mine, theirs in zip(gradients(criterion(turned, targets)), want):
            torch.testing.assert_close(mine, theirs)
        self.assertTrue(torch.equal(turned, kept))
        with self.assertRaises(ValueError):
            losskit.torch.CrossEntropyLoss("http://127.0.0.1:8080", in_place=True)
        with self.assertRaises(NotImplementedError):  # a device whose tensors cannot be copied
            criterion(logits.to("meta"), targets)

    def test_copies(self) -> None:
        import torch

        import losskit.torch

        criterion = losskit.torch.CrossEntropyLoss(losskit.Local(threads=2), label_smoothing=0.1)
        x, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
            self.assertEqual(other.client.threads, 2)
            self.assertEqual(other(x, y), criterion(x, y))


if __name__ == "__main__":
    unittest.main()
