"""Maps with a multiple of 16 channels, which a GPU's matrix units take as they are.

At the recipe's 196 channels cuDNN copies every map into an aligned one before each convolution and
takes about three times as long. Here a network's first layer gets a map that channels of zeros fill
up, and every layer that gets such a map hands one on: its weights are filled up with zeros too, so
the channels that were added stay zero. The network computes the same function.
"""

import torch
import torch.nn.functional as F

from layers import double_backward

STEP = 16


def pays(device):
    """Whether a network in training does well to align its maps: in bf16, where LayerNorm compiles.

    PyTorch's own LayerNorm would count the channels that were added.
    """
    return double_backward.compiles_for(device) and torch.is_autocast_enabled(device.type)


def aligned(channels):
    """The next multiple of 16; 8 for up to 8 channels."""
    return 8 if channels <= 8 else -(-channels // STEP) * STEP


def fill_channels(x, channels):
    """(b, c, h, w) -> (b, channels, h, w), zeros in those that are added."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


class _AddBias(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x, bias):
        return x + bias.view(-1, 1, 1)

    @staticmethod
    def backward(_ctx, g):
        return g, double_backward.channel_sums(g)


def add_bias(x, bias):
    """x (b, c, h, w) + bias (c,), in the type of x, with a gradient that is fast on GPUs."""
    return _AddBias.apply(x, bias.to(x.dtype))


def fill_weights(weight, bias, channels, transposed=False):
    """Weight and bias of a convolution for an input that was filled up to `channels`.

    weight: (out, in, k, k), transposed (in, out, k, k); bias: (out,). The output is aligned too.
    """
    inner, outer = (0, 1) if transposed else (1, 0)
    more = [channels - weight.shape[inner], aligned(weight.shape[outer]) - weight.shape[outer]]
    first, second = more if transposed else reversed(more)
    return F.pad(weight, (0, 0, 0, 0, 0, second, 0, first)), F.pad(bias, (0, more[1]))
