#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Train a small language model and store one batch of its logits, with PyTorch's loss and gradient.

    /usr/bin/python3 tests/data/train.py         needs python3-torch (1.13), NumPy and base-files

The model is a causal Transformer over bytes (3 layers, width 128, 630,988 parameters), trained on
the first 90 % of the GPL, version 3, and judged on the rest; fixed seed, no early stopping, but
settings chosen with an eye on the held-out loss. 1500 steps took 7 minutes of one core. Losses in
nats a byte:

    uniform 4.331, unigram 3.499; the model 1.206 on training windows, 1.870 held out
    (perplexity 6.49)

Files, written beside this script (on another machine rounding may lead to another model):

    gpl3.safetensors
        A request: logits F32 [1024,76] of 8 held-out sequences of 128; targets I64 [1024],
        the first of each sequence ignored (-100).
    gpl3.pytorch.safetensors
        F.cross_entropy of these logits: loss F32 (2.0026791) and grad.logits F32 [1024,76] for
        reduction mean, nll F32 [1024] for none; loss_f64, in float64 (2.0026791735);
        figures as metadata.
"""

import json
import math
import os
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

TEXT = "/usr/share/common-licenses/GPL-3"
SEED = 1
CONTEXT, WIDTH, HEADS, LAYERS, DROPOUT = 128, 128, 2, 3, 0.2
BATCH, STEPS, WARMUP, RATE, DECAY = 16, 1500, 50, 2e-3, 0.1
UPPER = 0.15  # share of the training windows set in capitals, as sections 15 and 16 are
STORED = 8  # held-out sequences stored, CONTEXT rows each
IGNORE = -100


def product(a, b):
    """a @ b.transpose(1, 2) for [G,T,K] and [G,S,K], as a convolution of width 1 in G groups.

    Debian's PyTorch multiplies matrices with the reference BLAS, but convolves with oneDNN, ten
    times as fast and more. A dilation means nothing at width 1, but it makes the choice oneDNN.
    """
    (g, t, k), s = a.shape, b.shape[1]
    rows = a.transpose(1, 2).reshape(1, g * k, t)
    columns = F.conv1d(rows, b.reshape(g * s, k, 1), groups=g, dilation=2)
    return columns.view(g, s, t).transpose(1, 2)


class Linear(nn.Linear):
    """A linear layer of [B,T,K]."""

    def forward(self, x):
        return product(x.flatten(0, 1)[None], self.weight[None]).view(*x.shape[:2], -1) + self.bias


class Block(nn.Module):
    """Pre-norm Transformer block: causal self-attention, then two layers of width 4*WIDTH."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = Linear(WIDTH, 3 * WIDTH), Linear(WIDTH, WIDTH)
        self.up, self.down = Linear(WIDTH, 4 * WIDTH), Linear(4 * WIDTH, WIDTH)
        self.drop = nn.Dropout(DROPOUT)
        self.register_buffer("future", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1))

    def attend(self, x):
        b, t, _ = x.shape
        heads = self.qkv(x).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = heads.flatten(1, 2)
        scores = product(q, k) / math.sqrt(WIDTH // HEADS)
        weights = scores.masked_fill(self.future[:t, :t], -math.inf).softmax(-1)
        mixed = product(weights, v.transpose(1, 2)).view(b, HEADS, t, -1)
        return self.out(mixed.transpose(1, 2).reshape(b, t, WIDTH))

    def forward(self, x):
        x = x + self.drop(self.attend(self.norm1(x)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class Model(nn.Module):
    """Logits of the next byte at every position of [B,T] byte indices, T at most CONTEXT."""

    def __init__(self, vocabulary):
        super().__init__()
        self.byte, self.place = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.drop = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), Linear(WIDTH, vocabulary)
        for table in (self.byte, self.place):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, x):
        embedded = self.drop(self.byte(x) + self.place.weight[: x.shape[1]])
        return self.head(self.norm(self.blocks(embedded)))


def unigram(train, held, vocabulary):
    """Held-out loss of the training text's byte frequencies (one added to each count)."""
    counts = torch.bincount(train, minlength=vocabulary).double() + 1
    return -(counts / counts.sum()).log()[held].mean().item()


@torch.no_grad()
def evaluate(model, text):
    """Mean loss over the text in windows of CONTEXT predictions that do not overlap."""
    model.eval()
    total = 0.0
    for i in range(0, len(text) - 1, CONTEXT):
        window = text[i : i + CONTEXT + 1]
        total += F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum").item()
    model.train()
    return total / (len(text) - 1)


def descend(model, text, upper, steps, criterion=F.cross_entropy):
    """AdamW on random windows; the rate rises for WARMUP steps, then falls as a cosine. Yields each step's loss."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY},
                                   {"params": others, "weight_decay": 0.0}], lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(
        (s + 1) / WARMUP, 0.05 + 0.475 * (1 + math.cos(math.pi * s / steps))))
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (BATCH,))
        windows = torch.stack([text[s : s + CONTEXT + 1] for s in starts])
        windows = torch.where(torch.rand(BATCH, 1) < UPPER, upper[windows], windows)
        logits = model(windows[:, :-1])
        loss = criterion(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def train(model, text, upper, held):
    begin, recent = time.monotonic(), []
    for step, loss in enumerate(descend(model, text, upper, STEPS), 1):
        recent.append(loss)
        if step % 100 == 0:
            print(f"step {step:4d}  train {np.mean(recent):.3f}"
                  f"  held-out {evaluate(model, held):.3f}"
                  f"  {time.monotonic() - begin:4.0f} s", flush=True)
            recent = []


def corpus():
    """The vocabulary, for each of its bytes the capital's place, the training text, the held-out text."""
    with open(TEXT, "rb") as f:
        data = f.read()
    vocabulary = sorted(set(data))
    index = {byte: i for i, byte in enumerate(vocabulary)}
    upper = torch.tensor([index.get(bytes([b]).upper()[0], i) for i, b in enumerate(vocabulary)])
    text = torch.tensor([index[b] for b in data])
    split = len(text) * 9 // 10
    return vocabulary, upper, text[:split], text[split:]


def save(path, tensors, metadata=None):
    """Write a safetensors file: header length, JSON header padded to 8, then the data in order."""
    names = {"float32": "F32", "float64": "F64", "int64": "I64"}
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    arrays = [np.ascontiguousarray(t.numpy()).reshape(t.shape) for t in tensors.values()]
    for name, array in zip(tensors, arrays):
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape),
                        "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            f.write(array.astype(array.dtype.newbyteorder("<")).tobytes())


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    vocabulary, upper, train_text, held = corpus()
    baseline = unigram(train_text, held, len(vocabulary))
    model = Model(len(vocabulary))
    print(f"{len(train_text) + len(held)} bytes, {len(held)} held out, {len(vocabulary)} in the vocabulary,"
          f" {sum(p.numel() for p in model.parameters())} parameters")
    print(f"uniform {math.log(len(vocabulary)):.3f}  unigram {baseline:.3f}")
    train(model, train_text, upper, held)
    final = evaluate(model, held)

    starts = torch.linspace(0, len(held) - CONTEXT - 1, STORED).long()
    windows = torch.stack([held[s : s + CONTEXT + 1] for s in starts])
    targets = windows[:, 1:].clone()
    targets[:, 0] = IGNORE
    targets = targets.flatten()
    model.eval()
    with torch.no_grad():
        logits = model(windows[:, :-1]).flatten(0, 1)
    logits.requires_grad_()
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORE)
    loss.backward()
    values = logits.detach()
    loss64 = F.cross_entropy(values.double(), targets, ignore_index=IGNORE)
    nll = F.cross_entropy(values, targets, ignore_index=IGNORE, reduction="none")

    folder = os.path.dirname(os.path.abspath(__file__))
    # No metadata in the first file: in a request it would be read as options.
    save(os.path.join(folder, "gpl3.safetensors"), {"logits": values, "targets": targets})
    save(os.path.join(folder, "gpl3.pytorch.safetensors"),
         {"loss_f64": loss64, "loss": loss.detach(), "nll": nll, "grad.logits": logits.grad},
         {"torch": torch.__version__, "vocabulary": bytes(vocabulary).decode("ascii"),
          "held_out_loss": f"{final:.4f}", "held_out_perplexity": f"{math.exp(final):.3f}",
          "unigram_loss": f"{baseline:.4f}", "batch_perplexity": f"{math.exp(loss.item()):.3f}"})
    print(f"held-out {final:.4f}, perplexity {math.exp(final):.3f};"
          f" stored batch {loss.item():.7f}, in float64 {loss64.item():.10f}")


if __name__ == "__main__":
    sys.exit(main())
