"""Padding of feature maps to a multiple of 16 channels, as the matrix units of GPUs need it.

With the recipe's 196 channels cuDNN copies every feature map to an aligned one before each
convolution. Instead, the input of the first layer is padded with zero channels once. The weights
are padded with zeros too, so these channels stay zero, and the network computes the same function.
"""

import math

import torch.nn.functional as F

STEP = 16


def aligned(channels):
    """The next multiple of 16; 8 for up to 8 channels."""
    return 8 if channels <= 8 else math.ceil(channels / STEP) * STEP


def fill(tensor, *lengths):
    """Pad the ends of the first dimensions with zeros to these lengths."""
    added = [new - old for old, new in zip(tensor.shape, lengths, strict=False)]
    added += [0] * (tensor.ndim - len(added))
    # F.pad expects (before, after) of the last dimension first.
    return F.pad(tensor, [count for after in reversed(added) for count in (0, after)])
