"""What both networks are built of: convolutions, a LayerNorm over whole maps, BatchNorm.

Each computes what PyTorch's own layer does, and takes maps that channels of zeros fill up, see
channel_padding.py.
"""

import torch
import torch.nn.functional as F
from torch import nn

from layers import channel_padding, double_backward


class MapNorm(nn.Module):
    """LayerNorm over a whole feature map: every channel and position of one image together.

    The same function as nn.LayerNorm([channels, size, size]), but the affine parameters are stored
    as (size, size, channels). A channels_last map then is normalised where it lies in memory;
    nn.LayerNorm would copy it to channels-first and back.

    (b, channels, size, size) -> the same shape; mean 0 and variance 1 per image before the affine.
    Source: Ba et al. 2016, Layer Normalization.
    """

    def __init__(self, channels, size, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, size, channels))
        self.bias = nn.Parameter(torch.zeros(size, size, channels))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC: a view, and contiguous where x is channels_last
        weight, bias, count = self.weight, self.bias, self.weight.numel()
        if more := x.shape[3] - weight.shape[2]:  # channels of zeros, see channel_padding.py
            weight, bias = F.pad(weight, (0, more)), F.pad(bias, (0, more))
        x = double_backward.layer_norm(x, weight, bias, self.eps, count)
        return x.permute(0, 3, 1, 2)


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1, whose second derivative costs no more than it must."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, 3, stride, padding=1)

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if x.shape[1] > self.in_channels:
            weight, bias = channel_padding.fill_weights(weight, bias, x.shape[1])
        return double_backward.conv2d(x, weight, bias, self.stride, self.padding)


class ConvTranspose4x4(nn.ConvTranspose2d):
    """4x4, stride 2, padding 1. Adds the bias by itself: oneDNN's bf16 kernels are slow at both."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if x.shape[1] > self.in_channels:
            weight, bias = channel_padding.fill_weights(weight, bias, x.shape[1], transposed=True)
        x = F.conv_transpose2d(x, weight, None, self.stride, self.padding)
        if x.device.type == "cuda":
            return channel_padding.add_bias(x, bias)
        return x + bias.to(x.dtype).view(-1, 1, 1)


class PaddedBatchNorm2d(nn.BatchNorm2d):
    """That of PyTorch, also for maps that channels of zeros fill up, see channel_padding.py."""

    def forward(self, x):
        more = x.shape[1] - self.num_features
        if not more:
            return super().forward(x)
        mean, variance, weight, bias = (
            F.pad(t, (0, more))
            for t in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        y = F.batch_norm(x, mean, variance, weight, bias, True, self.momentum, self.eps)
        self.running_mean.copy_(mean[: self.num_features])
        self.running_var.copy_(variance[: self.num_features])
        self.num_batches_tracked.add_(1)
        return y
