"""What both networks are built of: convolutions, a LayerNorm over whole maps, BatchNorm.

Each computes what PyTorch's own layer does, on maps whose channels lie last in memory, and takes
maps that channels of zeros fill up, see channel_padding.py. `run_layers` decides whether they do,
on networks that `prepare_for_cuda` has prepared.
"""

import torch
import torch.nn.functional as F
from torch import nn

from layers import double_backward
from layers.channel_padding import aligned, fill


def prepare_for_cuda(network, device, fuse=False):
    """Have a network's layers take the ways that are fast on a GPU; returns whether they do.

    In training LayerNorm then runs compiled, and under autocast maps are filled up to a multiple of
    16 channels. fuse: LayerNorm's kernels do the work of the LeakyReLU after it too. device: where
    the network runs; None takes it back. Where torch.compile does not work, a notice on stderr says
    so, and the layers stay as they were built.
    """
    layers = list(network.modules())
    works = device is not None
    if works and any(isinstance(layer, MapNorm) for layer in layers):
        # PyTorch's own LayerNorm would count the channels that were added: both or neither.
        works = double_backward.compile_works(device)
    for layer in layers:
        if isinstance(layer, MapNorm):
            layer.compiled, layer.fused = works, works and fuse
        elif isinstance(layer, Conv3x3 | ConvTranspose4x4):
            layer.pads = works
    return works


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
    fused: whether, in training, it is to be called with the slope of the LeakyReLU after it, and
    does that one's work.
    Source: Ba et al. 2016, Layer Normalization.
    """

    def __init__(self, channels, size, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.compiled = self.fused = False  # in training, see prepare_for_cuda
        self.weight = nn.Parameter(torch.ones(size, size, channels))
        self.bias = nn.Parameter(torch.zeros(size, size, channels))

    def forward(self, x, slope=1.0):
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC: a view, and contiguous where x is channels_last
        weight, bias, count = self.weight, self.bias, self.weight.numel()
        if (more := x.shape[3] - weight.shape[2]) > 0:
            weight, bias = F.pad(weight, (0, more)), F.pad(bias, (0, more))
        compiled = self.compiled and self.training
        x = double_backward.layer_norm(x, weight, bias, self.eps, count, compiled, slope)
        return x.permute(0, 3, 1, 2)


class ConvNormLeakyReLU(nn.Sequential):
    """A convolution, its norm and a LeakyReLU, whose work a `fused` MapNorm does in training."""

    def forward(self, x):
        convolution, norm, leaky_relu = self
        x = convolution(x)
        if self.training and isinstance(norm, MapNorm) and norm.fused:
            return norm(x, leaky_relu.negative_slope)
        return leaky_relu(norm(x))


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
