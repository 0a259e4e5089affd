"""Files of llama-perplexity: read, evaluated, written for lossd eval."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import tempfile
import unittest

import lossd
import numpy as np
from lossd import llama

from .test_client import LOSSD, running

N_CTX, N_VOCAB, CHUNKS = 9, 7, 3


def write(path: pathlib.Path, logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Such a file, as llama-perplexity writes it. Returns the log-probabilities that it stands for."""
    top = logits.max(-1, keepdims=True)
    exact = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    most = exact.max(-1, keepdims=True)
    least = np.maximum(exact.min(-1, keepdims=True), most - 16)
    scale = ((most - least) / 65535).astype("<f4")
    least = least.astype("<f4")
    codes = np.clip(np.rint((exact - least) / scale), 0, 65535).astype("<u2")
    with open(path, "wb") as file:
        file.write(llama.MAGIC + np.array([N_CTX, N_VOCAB, CHUNKS], "<i4").tobytes())
        file.write(tokens.astype("<i4").tobytes())
        for chunk in range(CHUNKS):
            for row in range(logits.shape[1]):
                file.write(scale[chunk, row].tobytes() + least[chunk, row].tobytes())
                file.write(codes[chunk, row].tobytes() + b"\0\0" * (N_VOCAB % 2))
    return scale.astype("f8") * codes + least


class Llama(unittest.TestCase):
    def setUp(self) -> None:
        draw = np.random.default_rng(1)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        here = pathlib.Path(self.folder.name)
        self.tokens = draw.integers(0, N_VOCAB, (CHUNKS, N_CTX))
        logits = draw.normal(size=(CHUNKS, N_CTX - 1 - N_CTX // 2, N_VOCAB))
        self.paths = here / "base.kld", here / "other.kld"
        others = logits + draw.normal(size=logits.shape) / 8
        self.base, self.other = (write(p, x, self.tokens) for p, x in zip(self.paths, (logits, others)))
        self.targets = self.tokens[:, N_CTX // 2 + 1 :]

    def perplexity(self, logprobs: np.ndarray) -> float:
        rows = logprobs - np.log(np.exp(logprobs).sum(-1, keepdims=True))  # rounded codes do not add up to 1
        return float(np.exp(-np.take_along_axis(rows, self.targets[..., None], -1).mean()))

    def test_read(self) -> None:
        file = llama.read(self.paths[0])
        self.assertEqual((len(file), file.n_vocab), (CHUNKS, N_VOCAB))
        for chunk in range(CHUNKS):
            np.testing.assert_array_equal(file.targets(chunk), self.targets[chunk])
            np.testing.assert_allclose(file.logprobs(chunk), np.minimum(self.base[chunk], 0), rtol=1e-6, atol=1e-7)

    def test_statistics(self) -> None:
        with running("--listen", "127.0.0.1:0") as (url,):
            files = [llama.read(path) for path in self.paths]
            with contextlib.closing(lossd.Client(url)) as client:
                got = llama.statistics(client, *files)
        student = self.other - np.log(np.exp(self.other).sum(-1, keepdims=True))
        kld = (np.exp(self.base) * (self.base - student)).sum(-1)
        expected = {
            "tokens": self.targets.size,
            "perplexity": self.perplexity(self.base),
            "other_perplexity": self.perplexity(self.other),
            "kld_mean": kld.mean(),
            "kld_median": np.median(kld),
            "kld_maximum": kld.max(),
            "kld_minimum": kld.min(),
        }
        self.assertEqual(list(got), list(expected))
        for name, value in expected.items():
            self.assertAlmostEqual(got[name], value, delta=2e-5 * max(1, value), msg=name)

    def test_export(self) -> None:
        out = pathlib.Path(self.folder.name) / "base.safetensors"
        llama.export(llama.read(self.paths[0]), out)
        ran = subprocess.run([LOSSD, "eval", "cross_entropy", out], capture_output=True, check=True)
        loss = lossd.tensors.read(np.frombuffer(ran.stdout, np.uint8))["loss"]
        got = float(np.exp(loss))
        self.assertAlmostEqual(got, self.perplexity(self.base), delta=1e-5)

    def test_refused(self) -> None:
        whole = self.paths[0].read_bytes()
        self.paths[0].write_bytes(whole[:-1])
        with self.assertRaisesRegex(ValueError, "need"):
            llama.read(self.paths[0])
        self.paths[0].write_bytes(b"GGUF" + whole)
        with self.assertRaisesRegex(ValueError, "no file of llama-perplexity"):
            llama.read(self.paths[0])
        with self.assertRaisesRegex(ValueError, "different tokens"):
            llama.statistics(None, llama.read(self.paths[1]), llama.Logits(self.tokens + 1, N_VOCAB, np.empty(0)))


if __name__ == "__main__":
    unittest.main()
