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
    """One request brings value and gradients. Where these depend on what comes back to the loss, a second one does: of
    a loss per row, and of 16-bit gradients that are to be scaled, since what would not vanish scaled may have before."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, names: tuple[str, ...], *inputs: torch.Tensor) -> torch.Tensor:
        wanted = [n for n, t in zip(names, inputs) if t.is_floating_point() and t.requires_grad]
        given = {n: _to_lossd(t) for n, t in zip(names, inputs)}
        got = loss.client.evaluate(
            loss.name, given, options=loss.options, outputs=["loss", *(f"grad.{n}" for n in wanted)]
        )
        value = _from_lossd(got["loss"], inputs[0])
        ctx.loss, ctx.names, ctx.wanted = loss, names, wanted
        # Saved as PyTorch wants it, so that it notices who writes to one of them before the backward pass.
        ctx.save_for_backward(*inputs, *(_from_lossd(got[f"grad.{n}"], inputs[0]) for n in wanted))
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the gradients would be taken for constants
            raise RuntimeError("lossd has no second derivatives: its losses cannot be used with create_graph=True")
        saved = ctx.saved_tensors
        inputs, ready = dict(zip(ctx.names, saved)), dict(zip(ctx.wanted, saved[len(ctx.names) :]))
        narrow = any(g.element_size() == 2 for g in ready.values())
        if grad_output.dim() == 0 and (not narrow or grad_output.item() == 1):
            gradients = {n: g * grad_output.to(g.dtype) for n, g in ready.items()}
        else:
            got = ctx.loss.client.evaluate(
                ctx.loss.name,
                {**{n: _to_lossd(t) for n, t in inputs.items()}, "grad_output": _to_lossd(grad_output)},
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
