"""Learning rate schedules, as factors of the largest learning rate."""

import torch


def linear(step, total_steps):
    """Factor of the learning rate at `step` (from 0): linear from 1 to 0."""
    return 1 - step / total_steps


def triangular(step, total_steps, peak):
    """Factor of the learning rate at `step` (from 0): linear from 0 to 1, then from 1 to 0.

    peak: share of the steps after which it is 1.
    """
    done = (step + 0.5) / total_steps
    return min(done / peak if peak else 1, (1 - done) / (1 - peak))


def drops(epoch, drop_epochs):
    """Factor of the learning rate in `epoch` (from 0): a tenth for each of drop_epochs reached."""
    return 0.1 ** sum(epoch >= drop for drop in drop_epochs)


def set_learning_rates(optimizer, factor):
    """Set every learning rate to `factor` times its initial value."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(group["initial_lr"] * factor)
        else:
            group["lr"] = group["initial_lr"] * factor
