"""Maps with a multiple of 16 channels, which a GPU's matrix units take as they are.

At the recipe's 196 channels cuDNN copies every map into an aligned one before each convolution and
takes about three times as long. Here a network's first layer gets a map that channels of zeros fill
up, and every layer that gets such a map hands one on: its weights are filled up with zeros too, so
the channels that were added stay zero. The network computes the same function. modules.py decides
when.
"""

import torch.nn.functional as F

STEP = 16


def aligned(channels):
    """The next multiple of 16; 8 for up to 8 channels."""
    return 8 if channels <= 8 else -(-channels // STEP) * STEP


def fill(tensor, *lengths):
    """Zeros at the end of the first dimensions, until they have these lengths."""
    added = [new - old for old, new in zip(tensor.shape, lengths, strict=False)]
    added += [0] * (tensor.ndim - len(added))
    # F.pad begins at the last dimension, and wants how many come before and how many after.
    return F.pad(tensor, [count for after in reversed(added) for count in (0, after)])
