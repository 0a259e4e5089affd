# SPDX-License-Identifier: MIT
"""What the generators of losses with weights, masks and reductions of the usual kind share.

`reduce` turns losses of rows into the loss, `differentiate` gives its gradients by torch's autograd.
"""
import torch

from oracle import F64, NAN


def number(options, name, default):
    return float(options.get(name, default))


def flag(options, name, default=False):
    return options.get(name, str(default).lower()) == "true"


def counted_of(inputs, shape, name="mask"):
    mask = inputs.get(name)
    return torch.ones(shape, dtype=torch.bool) if mask is None else mask != 0


def weight_of(inputs, counted, name="sample_weight"):
    """The weights of rows, 0 where they do not count."""
    weight = inputs.get(name)
    one = torch.ones(counted.shape, dtype=F64) if weight is None else weight.to(F64)
    return torch.where(counted, one, torch.zeros_like(one))


def scale_of(options, denominator, default="mean"):
    """What the sum of rows is multiplied with, and whether the mean is empty."""
    reduction, items = options.get("reduction", default), options.get("num_items")
    if reduction in ("none", "sum"):
        return 1.0, False
    d = float(items) if items is not None else float(denominator)
    return (1 / d, False) if d != 0 else (0.0, True)


def reduce(rows, options, denominator, default="mean"):
    """`rows` holds weighted losses, 0 where they do not count."""
    if options.get("reduction", default) == "none":
        return rows
    scale, empty = scale_of(options, denominator, default)
    if empty:
        return rows.sum() * 0 + (NAN if options.get("empty_mean") == "nan" else 0)
    return rows.sum() * scale


def upstream_of(inputs, value):
    up = inputs.get("grad_output")
    return torch.ones(value.shape, dtype=F64) if up is None else up.to(F64).reshape(value.shape)


def differentiate(value, inputs, leaves):
    """The loss and its gradients: leaves is a dict of tensors that require them."""
    up = upstream_of(inputs, value.detach())
    out = {"loss": value.detach()}
    if not value.requires_grad:
        grads = [None] * len(leaves)
    else:
        grads = torch.autograd.grad((up * value).sum(), list(leaves.values()), allow_unused=True)
    for (name, leaf), grad in zip(leaves.items(), grads):
        out["grad." + name] = torch.zeros_like(leaf) if grad is None else grad
    return out


def leaf(inputs, name):
    return inputs.get(name).to(F64).clone().requires_grad_(True)
