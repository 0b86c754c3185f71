"""Maps padded to a multiple of 16 channels, which a GPU's matrix units take as they are.

At the recipe's 196 channels cuDNN copies every map into an aligned one before each convolution.
Here the first layer of a network gets a map padded with channels of zeros, and each layer passes on
such a map: its weights are padded with zeros too, so the added channels stay zero. The network
computes the same function. accelerate.py decides when.
"""

import math

import torch.nn.functional as F

STEP = 16


def aligned(channels):
    """The next multiple of 16; 8 for up to 8 channels."""
    return 8 if channels <= 8 else math.ceil(channels / STEP) * STEP


def fill(tensor, *lengths):
    """Zeros at the end of the first dimensions, until they have these lengths."""
    added = [new - old for old, new in zip(tensor.shape, lengths, strict=False)]
    added += [0] * (tensor.ndim - len(added))
    # F.pad begins at the last dimension, with the zeros before and after it.
    return F.pad(tensor, [count for after in reversed(added) for count in (0, after)])
