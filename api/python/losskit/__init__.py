"""Loss functions of Transformer models, with their gradients, computed in this process.

    import numpy, losskit

    got = losskit.local.cross_entropy(numpy.float32([[0.2, 0.4, 0.4]]), [2], label_smoothing=0.1)
    got["loss"], got["grad.logits"]

`losskit.local` is what a lossd.Client is, without a service; `losskit.Local(threads=2)` is one with more threads. The
service comes along as well: `python3 -m losskit serve`.
"""

from lossd import BF16, DeadlineExceeded, LossdError, Overloaded

from .in_process import Local
from .binding import lib as _lib

__all__ = ["BF16", "DeadlineExceeded", "Local", "LossdError", "Overloaded", "__version__", "local"]
__version__ = _lib.lk_version().decode()

local = Local()
