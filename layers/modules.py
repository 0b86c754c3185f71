"""Layers of both networks: convolutions, a LayerNorm over whole maps, BatchNorm.

Each computes what PyTorch's own layer does, on maps whose channels lie last in memory, and takes
maps padded with channels of zeros, see channel_padding.py. `run_layers` pads them, for networks
that `prepare_for_cuda` has prepared.
"""

import torch
import torch.nn.functional as F
from torch import nn

from layers import double_backward
from layers.channel_padding import aligned, fill


def prepare_for_cuda(network, device):
    """Have a network's layers use what is fast on a GPU; returns whether they do.

    In training LayerNorm then runs compiled, and under autocast maps are padded to a multiple of 16
    channels. device: where the network runs. If torch.compile does not work there, a notice goes to
    stderr, and the layers stay as they were built.
    """
    layers = list(network.modules())
    has_norm = any(isinstance(layer, MapNorm) for layer in layers)
    # PyTorch's own LayerNorm would count the added channels: both or neither.
    if has_norm and not double_backward.compile_works(device):
        return False
    for layer in layers:
        if isinstance(layer, MapNorm):
            layer.compiled = True
        elif isinstance(layer, Conv3x3 | ConvTranspose4x4):
            layer.pads = True
    return True


def run_layers(layers, x):
    """Maps x, (b, c, h, w), through one layer after another; each begins with its convolution.

    Returns the last layer's (b, out_channels, h', w').
    """
    first, last = (_convolution(layer) for layer in (layers[0], layers[-1]))
    x = x.contiguous(memory_format=torch.channels_last)
    if first.pads and first.training and torch.is_autocast_enabled(x.device.type):
        x = fill(x, len(x), aligned(first.in_channels))
    for layer in layers:
        x = layer(x)
    return x[:, : last.out_channels]


def _convolution(layer):
    return layer[0] if isinstance(layer, nn.Sequential) else layer


class MapNorm(nn.Module):
    """LayerNorm over a whole feature map: every channel and position of one image together.

    The same function as nn.LayerNorm([channels, size, size]), but the affine parameters are stored
    as (size, size, channels), as the map lies in memory; nn.LayerNorm would copy it to
    channels-first and back.

    (b, channels, size, size) -> the same shape; mean 0 and variance 1 per image before the affine.
    Source: Ba et al. 2016, Layer Normalization.
    """

    def __init__(self, channels, size, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.compiled = False  # in training, see prepare_for_cuda
        self.weight = nn.Parameter(torch.ones(size, size, channels))
        self.bias = nn.Parameter(torch.zeros(size, size, channels))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC: a view, and contiguous if x is channels_last
        weight, bias, count = self.weight, self.bias, self.weight.numel()
        if (added := x.shape[3] - weight.shape[2]) > 0:
            weight, bias = F.pad(weight, (0, added)), F.pad(bias, (0, added))
        compiled = self.compiled and self.training
        x = double_backward.layer_norm(x, weight, bias, self.eps, count, compiled)
        return x.permute(0, 3, 1, 2)


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1, whose second derivative costs no more than it must."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, 3, stride, padding=1)
        self.pads = False  # in training, see prepare_for_cuda
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if x.shape[1] > self.in_channels:
            out = aligned(self.out_channels)
            weight, bias = fill(weight, out, x.shape[1]), fill(bias, out)
        return double_backward.conv2d(x, weight, bias, self.stride, self.padding)


class ConvTranspose4x4(nn.ConvTranspose2d):
    """4x4, stride 2, padding 1. Adds the bias by itself: oneDNN's bf16 kernels are slow at both."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        self.pads = False  # in training, see prepare_for_cuda
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if x.shape[1] > self.in_channels:
            out = aligned(self.out_channels)
            weight, bias = fill(weight, x.shape[1], out), fill(bias, out)
        x = F.conv_transpose2d(x, weight, None, self.stride, self.padding)
        if x.device.type == "cuda":
            return add_bias(x, bias)
        return x + bias.to(x.dtype).view(-1, 1, 1)


def add_bias(x, bias):
    """x (b, c, h, w) + bias (c,), in the type of x, with a gradient that is fast on GPUs."""
    return _AddBias.apply(x, bias.to(x.dtype))


class _AddBias(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x, bias):
        return x + bias.view(-1, 1, 1)

    @staticmethod
    def backward(_ctx, g):
        return g, double_backward.channel_sums(g)


class PaddedBatchNorm2d(nn.BatchNorm2d):
    """That of PyTorch; in training also for maps that channels of zeros fill up."""

    def forward(self, x):
        if x.shape[1] <= self.num_features:
            return super().forward(x)
        own = self.running_mean, self.running_var, self.weight, self.bias
        mean, variance, weight, bias = (fill(tensor, x.shape[1]) for tensor in own)
        y = F.batch_norm(x, mean, variance, weight, bias, True, self.momentum, self.eps)
        self.running_mean.copy_(mean[: self.num_features])
        self.running_var.copy_(variance[: self.num_features])
        self.num_batches_tracked.add_(1)
        return y
