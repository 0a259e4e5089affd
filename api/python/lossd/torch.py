"""Losses for PyTorch: modules whose values and gradients lossd computes.

    criterion = lossd.torch.CrossEntropyLoss("http://127.0.0.1:8080", label_smoothing=0.1)
    loss = criterion(logits, targets)
    loss.backward()
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .client import Client
from .tensors import BF16


def _to_lossd(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return BF16(tensor.view(torch.int16).numpy().view(np.uint16))
    return tensor.numpy()


def _from_lossd(value: Any, like: torch.Tensor) -> torch.Tensor:
    if isinstance(value, BF16):
        made = torch.from_numpy(value.bits.view(np.int16)).view(torch.bfloat16)
    else:
        made = torch.from_numpy(value)
    return made.to(like.device)


class _Evaluation(torch.autograd.Function):
    """One request brings value and gradients. A loss per row, whose gradient depends on what comes back to it,
    takes a second one."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, names: tuple[str, ...], *inputs: torch.Tensor) -> torch.Tensor:
        wanted = [n for n, t in zip(names, inputs) if t.is_floating_point() and t.requires_grad]
        given = {n: _to_lossd(t) for n, t in zip(names, inputs)}
        got = loss.client.evaluate(
            loss.name, given, options=loss.options, outputs=["loss", *(f"grad.{n}" for n in wanted)]
        )
        value = _from_lossd(got["loss"], inputs[0])
        ctx.loss, ctx.names, ctx.wanted = loss, names, wanted
        ctx.given = given if value.dim() > 0 and wanted else None
        ctx.save_for_backward(*(_from_lossd(got[f"grad.{n}"], inputs[0]) for n in wanted))
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if ctx.given is None:
            gradients = {n: g * grad_output.to(g.dtype) for n, g in zip(ctx.wanted, ctx.saved_tensors)}
        else:
            got = ctx.loss.client.evaluate(
                ctx.loss.name,
                {**ctx.given, "grad_output": _to_lossd(grad_output)},
                options=ctx.loss.options,
                outputs=[f"grad.{n}" for n in ctx.wanted],
            )
            gradients = {n: _from_lossd(got[f"grad.{n}"], grad_output) for n in ctx.wanted}
        return (None, None, *(gradients.get(n) for n in ctx.names))


class Loss(torch.nn.Module):
    """Any loss of lossd by its name, with its options. Called with its inputs in their order, or by name."""

    def __init__(self, name: str, client: Client | str = "http://127.0.0.1:8080", **options: Any) -> None:
        super().__init__()
        for option, value in options.items():
            if isinstance(value, torch.Tensor):
                raise TypeError(f"{option} is a tensor: give it to the call, as an input of {name}, not as an option")
        self.name, self.options = name, options
        self.client = client if isinstance(client, Client) else Client(client)

    def forward(self, *values: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        order = [one["name"] for one in self.client.describe(self.name)["inputs"]]
        inputs = {**dict(zip(order, values)), **named}
        return _Evaluation.apply(self, tuple(inputs), *inputs.values())

    def extra_repr(self) -> str:
        return ", ".join([self.name, *(f"{name}={value!r}" for name, value in self.options.items())])


def _named(class_name: str, name: str) -> type[Loss]:
    def begin(self: Loss, client: Client | str = "http://127.0.0.1:8080", **options: Any) -> None:
        Loss.__init__(self, name, client, **options)

    return type(class_name, (Loss,), {"__init__": begin, "__doc__": f"lossd's {name}."})


CrossEntropyLoss = _named("CrossEntropyLoss", "cross_entropy")
BCEWithLogitsLoss = _named("BCEWithLogitsLoss", "bce_with_logits")
KLDivLoss = _named("KLDivLoss", "kl_div")
MSELoss = _named("MSELoss", "mse")
L1Loss = _named("L1Loss", "mae")
HuberLoss = _named("HuberLoss", "huber")
SmoothL1Loss = _named("SmoothL1Loss", "smooth_l1")
CTCLoss = _named("CTCLoss", "ctc")
CosineEmbeddingLoss = _named("CosineEmbeddingLoss", "cosine_embedding")
TripletMarginLoss = _named("TripletMarginLoss", "triplet")
