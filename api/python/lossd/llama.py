"""Files of llama-perplexity --kl-divergence-base: log-probabilities of every token. lossd computes their perplexity, and
their divergence from those of another file.

    import lossd.llama

    base = lossd.llama.read("base.kld")
    lossd.llama.statistics(client, base, lossd.llama.read("q4.kld"))

    python3 -m lossd.llama base.kld base.safetensors && lossd eval cross_entropy base.safetensors
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import numpy as np

from .files import save

MAGIC = b"_logits_"


class Logits:
    """`tokens` [chunks, n_ctx]; of the second half of each chunk, log-probabilities of the token that follows. A chunk
    is decoded when it is asked for."""

    def __init__(self, tokens: np.ndarray, n_vocab: int, rows: np.ndarray) -> None:
        self.tokens, self.n_vocab, self._rows = tokens, n_vocab, rows

    def __len__(self) -> int:
        return len(self.tokens)

    def logprobs(self, chunk: int) -> np.ndarray:
        """[n_ctx - 1 - n_ctx // 2, n_vocab] in float32. A row has 16 bits a number, between its greatest and 16 nats
        less: what is less likely than that is clipped."""
        rows = self._rows[chunk]
        scale, least = np.moveaxis(np.ascontiguousarray(rows[:, :4]).view("<f4"), 1, 0)
        found = scale[:, None] * rows[:, 4 : 4 + self.n_vocab] + least[:, None]
        return np.minimum(found, 0, dtype=np.float32)

    def targets(self, chunk: int) -> np.ndarray:
        """The tokens that these are the log-probabilities of."""
        return self.tokens[chunk, self.tokens.shape[1] // 2 + 1 :]


def read(path: str | os.PathLike[str]) -> Logits:
    """The file, mapped into memory. A ValueError if it is none of them, or ends too early."""
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
        sizes = np.frombuffer(file.read(12), "<i4")
    if magic != MAGIC or len(sizes) < 3 or min(sizes) < 1:
        raise ValueError(f"{path} is no file of llama-perplexity --kl-divergence-base: it begins with {magic!r}")
    n_ctx, n_vocab, chunks = map(int, sizes)
    rows, width = n_ctx - 1 - n_ctx // 2, 4 + (n_vocab + 1) // 2 * 2
    begin = len(MAGIC) + 12
    need = begin + 4 * n_ctx * chunks + 2 * rows * width * chunks
    have = os.path.getsize(path)
    if have < need:
        raise ValueError(f"{path} has {have} bytes; {chunks} chunks of {n_ctx} tokens, {n_vocab} each, need {need}")
    tokens = np.fromfile(path, "<i4", n_ctx * chunks, offset=begin).reshape(chunks, n_ctx)
    if rows == 0:
        return Logits(tokens, n_vocab, np.empty((chunks, 0, width), "<u2"))
    codes = np.memmap(path, "<u2", "r", begin + 4 * n_ctx * chunks, (chunks, rows, width))
    return Logits(tokens, n_vocab, codes)


def statistics(client: Any, base: Logits, other: Logits | None = None) -> dict[str, float]:
    """Perplexity of `base`, by any client of lossd or by losskit. With `other`, whose tokens must be the same, its
    perplexity as well, and the divergence of it from the base: mean, median, maximum, minimum over all tokens. One
    chunk at a time is in memory."""
    if other is not None and not (np.array_equal(base.tokens, other.tokens) and base.n_vocab == other.n_vocab):
        raise ValueError("the two files are of different tokens")
    found = {"tokens": float(sum(len(base.targets(k)) for k in range(len(base))))}
    found["perplexity"] = _perplexity(client, base)
    if other is None:
        return found
    found["other_perplexity"] = _perplexity(client, other)
    kld = np.concatenate([_divergences(client, base, other, k) for k in range(len(base))])
    for name, of in (("mean", np.mean), ("median", np.median), ("maximum", np.max), ("minimum", np.min)):
        found[f"kld_{name}"] = float(of(kld)) if len(kld) else 0.0
    return found


def _perplexity(client: Any, file: Logits) -> float:
    total = tokens = 0.0
    for k in range(len(file)):
        inputs = {"logits": file.logprobs(k), "targets": file.targets(k)}
        got = client.evaluate("cross_entropy", inputs, options={"reduction": "sum"}, outputs=["loss"])
        total += float(got["loss"])
        tokens += len(inputs["targets"])
    return math.exp(total / tokens) if tokens else 1.0


def _divergences(client: Any, base: Logits, other: Logits, chunk: int) -> np.ndarray:
    inputs = {"student_logits": other.logprobs(chunk), "teacher_logprobs": base.logprobs(chunk)}
    got = client.evaluate("distillation", inputs, options={"reduction": "none"}, outputs=["loss"])
    return np.asarray(got["loss"], np.float64)


def export(file: Logits, path: str | os.PathLike[str]) -> None:
    """Write what `lossd eval cross_entropy` reads: logits [tokens, n_vocab] and targets [tokens], of all chunks."""
    logits = np.concatenate([file.logprobs(k) for k in range(len(file))])
    save(path, {"logits": logits, "targets": np.concatenate([file.targets(k) for k in range(len(file))])})


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python3 -m lossd.llama FILE OUT.safetensors", file=sys.stderr)
        return 2
    try:
        export(read(sys.argv[1]), sys.argv[2])
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
