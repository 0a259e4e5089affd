#!/usr/bin/python3
"""Train the small language model of tests/data twice from one seed: with PyTorch's loss, and with lossd's over a Unix
socket, value and gradient. Then a third time with PyTorch's loss of the same rows in another order, which differs in
round-off alone: what training makes of a last digit.

    /usr/bin/python3 api/python/training.py [--steps 500] [--plot FILE.svg]    with PyTorch; some eight minutes of one core
"""

from __future__ import annotations

import argparse
import math
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent.parent / "tests"
sys.path[:0] = [str(HERE), str(TESTS / "data"), str(TESTS / "load")]

import torch  # noqa: E402
import train as small  # noqa: E402
from plot import Panel, chart  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import lossd  # noqa: E402
import lossd.torch  # noqa: E402

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def reordered(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same mean, summed from the other end."""
    return F.cross_entropy(logits.flip(0), targets.flip(0))


def losses(criterion: Criterion, steps: int) -> tuple[list[float], float]:
    """The loss of each step, and the seconds that the criterion took of it, forward."""
    spent = 0.0

    def timed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal spent
        begin = time.perf_counter()
        loss = criterion(logits, targets)
        spent += time.perf_counter() - begin
        return loss

    torch.manual_seed(small.SEED)
    vocabulary, upper, text, _ = small.corpus()
    return list(small.descend(small.Model(len(vocabulary)), text, upper, steps, timed)), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--plot", help="write both curves there (SVG)")
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w") as log:
        url = f"unix:{folder}/socket"
        server = subprocess.Popen([a.lossd, "--listen", url, "--workers", "1"], stderr=log)
        try:
            client = lossd.Client(url)
            while not client.ready():
                if server.poll() is not None:
                    raise SystemExit(f"{a.lossd} did not start")
                time.sleep(0.02)
            theirs, their_time = losses(F.cross_entropy, a.steps)
            ours, our_time = losses(lossd.torch.CrossEntropyLoss(client), a.steps)
        finally:
            server.terminate()
            server.wait()
    control, _ = losses(reordered, a.steps)

    apart = [abs(x - y) for x, y in zip(ours, theirs)]
    noise = [abs(x - y) for x, y in zip(control, theirs)]
    print(f"{'step':>5}{'PyTorch':>12}{'lossd':>12}{'apart':>10}{'reordered':>12}{'apart':>10}")
    for step in sorted({1, 2, 5, 10, 20, 50, *range(100, a.steps + 1, 100), a.steps}):
        if step <= a.steps:
            k = step - 1
            print(f"{step:5}{theirs[k]:12.7f}{ours[k]:12.7f}{apart[k]:10.1e}{control[k]:12.7f}{noise[k]:10.1e}")
    print(f"largest difference over {a.steps} steps: lossd {max(apart):.1e}, rows reordered {max(noise):.1e}")
    each = [1000 * spent / a.steps for spent in (their_time, our_time)]
    print(f"loss, forward: PyTorch {each[0]:.2f} ms a step, lossd {each[1]:.2f} with the gradient")
    if a.plot:
        steps = range(1, a.steps + 1)

        def digits(differences: list[float]) -> list[tuple[float, float]]:
            return [(s, min(9.0, -math.log10(max(d, 1e-9)))) for s, d in zip(steps, differences)]

        curves = {"PyTorch": list(zip(steps, theirs)), "lossd": list(zip(steps, ours))}
        agreeing = {"lossd": digits(apart), "PyTorch, rows reordered": digits(noise)}
        panels = [
            Panel("training loss, nats a byte", curves),
            Panel("decimal places that agree with PyTorch's loss", agreeing),
        ]
        pathlib.Path(a.plot).write_text(chart("One model, one seed, two losses", "step", panels))


if __name__ == "__main__":
    main()
