"""Losses for PyTorch: modules whose values and gradients lossd computes, or losskit in this process.

    criterion = lossd.torch.CrossEntropyLoss("http://127.0.0.1:8080", label_smoothing=0.1)
    loss = criterion(logits, targets)
    loss.backward()

`Loss` is any loss by its name, with lossd's names and defaults. The classes that bear PyTorch's names have PyTorch's
arguments and defaults, beside the options of the loss; each says where it differs. None has `size_average` and `reduce`.
The mean over nothing is 0, with `empty_mean="nan"` NaN as in PyTorch; shapes are not broadcast but where that is said.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from . import calls
from .client import Client
from .tensors import BF16

URL = "http://127.0.0.1:8080"

# Smaller tensors are sent faster than they are shared.
SHARED_BYTES = 1 << 18

_DTYPES = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: "bf16"}


def _to_lossd(tensor: torch.Tensor, share: Any = None) -> Any:
    """As arrays; in memory that is shared with lossd, where `share` is the client that has it."""
    tensor = tensor.detach()
    if share:
        return _shared(tensor, share)
    tensor = tensor.cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return BF16(tensor.view(torch.int16).numpy().view(np.uint16))
    return tensor.numpy()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shared(tensor: torch.Tensor, client: Client) -> Any:
    """The tensor itself, if it lies there already, or a copy."""
    if tensor.device.type == "cpu" and tensor.is_contiguous() and client.has(_to_lossd(tensor)):
        return _to_lossd(tensor)
    array = client.empty(tensor.shape, _DTYPES[tensor.dtype]).array
    _from_lossd(array, None).copy_(tensor)
    return array


def _from_lossd(value: Any, like: torch.Tensor | None) -> torch.Tensor:
    if isinstance(value, BF16):
        made = torch.from_numpy(value.bits.view(np.int16)).view(torch.bfloat16)
    else:
        made = torch.from_numpy(value)
    return made if like is None else made.to(like.device)


class _Evaluation(torch.autograd.Function):
    """One evaluation brings value and gradients. Where these depend on what comes back to the loss, a second one does:
    of a loss per row, and of 16-bit gradients that are to be scaled, since what would not vanish scaled may have before;
    and where they are asked for once more, since they are handed over, not copied."""

    @staticmethod
    def forward(
        ctx: Any, loss: Loss, options: dict[str, Any], names: tuple[str, ...], *inputs: torch.Tensor
    ) -> torch.Tensor:
        wanted = [n for n, t in zip(names, inputs) if t.is_floating_point() and t.requires_grad]
        # As PyTorch, never over a leaf or a view of one: that would be a parameter.
        roots = {n: t if t._base is None else t._base for n, t in zip(names, inputs)}
        over = [n for n in wanted if not roots[n].is_leaf] if loss.in_place else []
        ctx.loss, ctx.options, ctx.names, ctx.wanted = loss, options, names, wanted
        shared = loss.client if isinstance(loss.client, Client) and loss.client.shares else None
        large = {n: t for n, t in zip(names, inputs) if shared and n in wanted and _bytes(t) >= SHARED_BYTES}
        given = {n: _to_lossd(t, shared if n in large else None) for n, t in zip(names, inputs)}
        # A copy is nobody else's: its gradient may take its place.
        over += [n for n, t in large.items() if _from_lossd(given[n], None).data_ptr() != t.data_ptr()]
        value, ctx.ready = _evaluate(ctx, given, ["loss"], inputs[0], **({"in_place": over} if over else {}))
        overwritten = [t for n, t in zip(names, inputs) if n in over and ctx.ready[n].data_ptr() == t.data_ptr()]
        ctx.overwritten = bool(overwritten)
        for tensor in overwritten:
            tensor.detach().view(-1)[:0].zero_()  # raises its version, by which PyTorch notices who saved it before
        if overwritten and value.dim() > 0:
            raise RuntimeError("in_place is for a loss that is one number, not one for each row")
        # Saved as PyTorch wants it, so that it notices who writes to one of them before the backward pass.
        ctx.save_for_backward(*inputs)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the gradients would be taken for constants
            raise RuntimeError("lossd has no second derivatives: its losses cannot be used with create_graph=True")
        inputs = dict(zip(ctx.names, ctx.saved_tensors))
        narrow = any(inputs[n].element_size() == 2 for n in ctx.wanted)
        scale = grad_output.item() if grad_output.dim() == 0 else None
        by_numbers = scale == 1 or (scale is not None and not narrow)
        gradients, ctx.ready = ctx.ready if by_numbers else None, None
        if gradients is None:
            if ctx.overwritten:
                why = "asked for once more" if by_numbers else "scaled in 16 bits"
                raise RuntimeError(f"a gradient that was computed in place of its input cannot be {why}")
            given = {n: _to_lossd(t) for n, t in inputs.items()}
            if not by_numbers:
                given["grad_output"] = _to_lossd(grad_output)
            _, gradients = _evaluate(ctx, given, [], grad_output)
        if by_numbers and scale != 1:
            for gradient in gradients.values():
                gradient.mul_(grad_output.to(gradient.dtype))
        return (None, None, None, *(gradients.get(n) for n in ctx.names))


def _evaluate(
    ctx: Any, given: dict[str, Any], outputs: list[str], like: torch.Tensor, **how: Any
) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
    """The loss, if it is among the outputs, and the gradients of what ctx.wanted names."""
    names = [*outputs, *(f"grad.{n}" for n in ctx.wanted)]
    got = ctx.loss.client.evaluate(ctx.loss.name, given, options=ctx.options, outputs=names, **how)
    made = {name: _from_lossd(value, like) for name, value in got.items()}
    return made.get("loss"), {n: made[f"grad.{n}"] for n in ctx.wanted}


class Loss(torch.nn.Module):
    """Any loss of lossd by its name, with its options and with tensors that are inputs of every call, such as weights.

    Called with its inputs in their order or by name, and with options for this call alone: `num_items`, say, which is
    another number each step. A tensor is an input where the loss has an input of that name, and else an option.

    `client` is a lossd.Client, or losskit's in place of one, or a URL. With `in_place`, in this process alone,
    gradients overwrite their inputs where the loss allows it (scores, mostly) and these are no leaves: nobody may read
    them after the loss. PyTorch refuses the backward pass where somebody saved them before, or has written to them
    since."""

    translated: ClassVar[dict[str, str]] = {}  # PyTorch's names to lossd's, in the constructor and in calls

    def __init__(self, name: str, client: Any = URL, *, in_place: bool = False, **settings: Any) -> None:
        super().__init__()
        self.name, self.settings, self.in_place = name, {}, in_place
        self.client = Client(client) if isinstance(client, str) else client
        if in_place and isinstance(self.client, Client):
            raise ValueError("in_place is for losses that are computed in this process, not by a lossd")
        self._held = []  # tensors that follow the module to another device; they are no state to load
        for key, value in self._translate(settings).items():
            if isinstance(value, torch.nn.Parameter):
                self.register_parameter(f"input_{key}", value)
            elif isinstance(value, torch.Tensor) and value.dim() > 0:
                self.register_buffer(f"input_{key}", value, persistent=False)
            else:
                self.settings[key] = value
                continue
            self._held.append(key)

    def forward(self, *values: Any, **named: Any) -> torch.Tensor:
        held = {key: getattr(self, f"input_{key}") for key in self._held}
        named = {**held, **self.settings, **self._translate(named)}
        inputs, options = calls.arrange(self.client.describe(self.name), values, named)
        inputs = {key: torch.as_tensor(value) for key, value in inputs.items()}
        self._prepare(inputs, options)
        return _Evaluation.apply(self, options, tuple(inputs), *inputs.values())

    def _translate(self, named: dict[str, Any]) -> dict[str, Any]:
        return {self.translated.get(key, key): value for key, value in named.items()}

    def _prepare(self, inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
        """What a class does to a call before it is sent."""

    def extra_repr(self) -> str:
        return ", ".join([self.name, *(f"{name}={value!r}" for name, value in self.settings.items())])


class _Named(Loss):
    """A loss that bears PyTorch's name."""

    loss: ClassVar[str]

    def __init__(self, client: Any = URL, **settings: Any) -> None:
        super().__init__(self.loss, client, **settings)


class CrossEntropyLoss(_Named):
    """torch.nn.CrossEntropyLoss by lossd's cross_entropy: `weight` of the classes, `ignore_index`, `label_smoothing`;
    the classes are axis 1, as in [N, C, d1, ...]; `class_dim=-1` where they are the last axis."""

    loss = "cross_entropy"
    translated: ClassVar = {"weight": "class_weight", "input": "logits", "target": "targets"}

    def _prepare(self, inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
        if "logits" in inputs and inputs["logits"].dim() > 2:
            options.setdefault("class_dim", 1)


class BCEWithLogitsLoss(_Named):
    """torch.nn.BCEWithLogitsLoss by lossd's bce_with_logits: `weight` and `pos_weight` are broadcast to the logits, which
    themselves are not."""

    loss = "bce_with_logits"
    translated: ClassVar = {"input": "logits", "target": "targets"}


class KLDivLoss(_Named):
    """torch.nn.KLDivLoss by lossd's kl_div: `reduction` is "mean", over elements, though "batchmean" is the divergence;
    `log_target`."""

    loss = "kl_div"

    def __init__(self, client: Any = URL, *, reduction: str = "mean", **settings: Any) -> None:
        super().__init__(client, reduction=reduction, **settings)


class MSELoss(_Named):
    """torch.nn.MSELoss by lossd's mse."""

    loss = "mse"
    translated: ClassVar = {"input": "a", "target": "b"}


class L1Loss(_Named):
    """torch.nn.L1Loss by lossd's mae."""

    loss = "mae"
    translated: ClassVar = {"input": "a", "target": "b"}


class HuberLoss(_Named):
    """torch.nn.HuberLoss by lossd's huber: `delta`."""

    loss = "huber"
    translated: ClassVar = {"input": "a", "target": "b"}


class SmoothL1Loss(_Named):
    """torch.nn.SmoothL1Loss by lossd's smooth_l1: `beta`."""

    loss = "smooth_l1"
    translated: ClassVar = {"input": "a", "target": "b"}


class CTCLoss(_Named):
    """torch.nn.CTCLoss by lossd's ctc: `blank`, `zero_infinity`. Log-probabilities [T, N, C] as there, or scores, since
    a softmax is applied to them; targets [N, S], not one after the other. The gradient of an infinite loss is 0."""

    loss = "ctc"
    translated: ClassVar = {"log_probs": "logits"}

    def _prepare(self, inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
        if "logits" in inputs and inputs["logits"].dim() == 3:
            inputs["logits"] = inputs["logits"].transpose(0, 1)


class CosineEmbeddingLoss(_Named):
    """torch.nn.CosineEmbeddingLoss by lossd's cosine_embedding: `margin`. As in PyTorch, 1e-12 is added to the squares of
    the norms; `norm="clamp"` for lossd's own norm."""

    loss = "cosine_embedding"
    translated: ClassVar = {"input1": "a", "input2": "b"}

    def __init__(
        self, client: Client | str = "http://127.0.0.1:8080", *, norm: str = "added", **settings: Any
    ) -> None:
        super().__init__(client, norm=norm, **settings)


class TripletMarginLoss(_Named):
    """torch.nn.TripletMarginLoss by lossd's triplet: `margin`, `swap`, `eps`, and `p` of 1 or 2."""

    loss = "triplet"
    translated: ClassVar = {"eps": "pairwise_eps", "p": "distance"}

    def _translate(self, named: dict[str, Any]) -> dict[str, Any]:
        if "p" in named and named["p"] not in (1, 2):
            raise ValueError(f"p is {named['p']}; lossd has the distances of p=1 and p=2")
        named = super()._translate(named)
        if named.get("distance") in (1, 2):
            named["distance"] = f"l{int(named['distance'])}"
        return named
