"""Client of lossd, a service of loss functions with gradients.

    import numpy, lossd

    client = lossd.Client("http://127.0.0.1:8080")
    got = client.cross_entropy(numpy.float32([[0.2, 0.4, 0.4]]), [2], label_smoothing=0.1)
    got["loss"], got["grad.logits"]
"""

from .aio import AsyncClient
from .client import Client
from .errors import DeadlineExceeded, LossdError, Overloaded
from .files import load, save
from .tensors import BF16, Region, Resident

__all__ = [
    "BF16",
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "LossdError",
    "Overloaded",
    "Region",
    "Resident",
    "load",
    "save",
]
