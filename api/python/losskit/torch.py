"""Losses for PyTorch, computed in this process or by a lossd.

    criterion = losskit.torch.CrossEntropyLoss(losskit.local, label_smoothing=0.1)
    loss = criterion(logits, targets)
    loss.backward()

These are the modules of lossd.torch. Each takes a client first: losskit.local, a losskit.Local, a lossd.Client, or the
URL of a lossd.
"""

from lossd.torch import *  # noqa: F403
