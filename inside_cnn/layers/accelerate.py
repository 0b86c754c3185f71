"""Faster layers that compute the same function: `accelerate` swaps them into a plain network.

It replaces the class of the layers in place, so parameters, names, hooks, copies, isinstance checks
and the layout of the state_dict do not change. Feature maps and kernels are channels_last in
memory. See double_backward.py for the derivatives, and channel_padding.py for the padding.
"""

import torch
import torch.nn.functional as F
from torch import nn

from inside_cnn.layers import double_backward
from inside_cnn.layers.channel_padding import aligned, fill


def accelerate(network, device="cpu", compiled=False):
    """Swap the layers of a Discriminator or Generator for faster ones; returns it, on the device.

    compiled: in training, compile LayerNorm and pad the channels; for GPUs. If torch.compile does
    not work, a notice is printed to stderr and neither is done.
    Call it before the network has gradients or an optimizer: it changes the memory layout of the
    parameters. Layers with options that the faster ones do not support are not replaced.
    """
    layers = list(network.modules())
    if compiled and any(isinstance(layer, nn.LayerNorm) for layer in layers):
        # Without compilation LayerNorm would include the padding in its statistics.
        compiled = double_backward.compile_works(device)
    for layer in layers:
        if _is_supported(layer):
            layer.__class__ = _FASTER[type(layer)]
        if isinstance(layer, FastLayerNorm):
            for parameter in layer.parameters():
                parameter.data = parameter.data.movedim(0, 2).contiguous().movedim(2, 0)
        if type(layer) in _FASTER.values():
            layer.compiled = compiled
    convolutions = [layer for layer in layers if isinstance(layer, FastConv2d)]
    if convolutions[-1] is network.blocks[-1][0]:
        network.blocks.__class__ = TrimmedSequential
    else:
        convolutions[-1].trims = True
    return network.to(device, memory_format=torch.channels_last)


def _is_supported(layer):
    if type(layer) in (nn.Conv2d, nn.ConvTranspose2d):
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and layer.bias is not None and isinstance(layer.padding, tuple)
    if type(layer) is nn.LayerNorm:
        return len(layer.normalized_shape) == 3 and layer.bias is not None
    return type(layer) is nn.BatchNorm2d


class FastConv2d(nn.Conv2d):
    """A convolution whose second derivatives are convolutions with small kernels."""

    trims = False  # whether the output is without the padding

    def forward(self, x):
        x, weight, bias = _padded(self, x)
        x = double_backward.conv2d(x, weight, bias, self.stride, self.padding)
        return x[:, : self.out_channels] if self.trims else x


class FastConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias separately: oneDNN is slow with one in bf16."""

    def forward(self, x):
        x, weight, bias = _padded(self, x)
        x = F.conv_transpose2d(x, weight, None, self.stride, self.padding, self.output_padding)
        bias = bias.to(x.dtype)
        return _AddBias.apply(x, bias) if x.device.type == "cuda" else x + bias.view(-1, 1, 1)


class FastLayerNorm(nn.LayerNorm):
    """LayerNorm over a whole feature map, (b, channels, h, w) -> the same shape.

    The parameters have the shape (channels, h, w) and, as the feature maps, the memory layout of
    (h, w, channels). nn.LayerNorm would copy each map to channels first and back.
    Source: Ba et al. 2016, Layer Normalization.
    """

    def forward(self, x):
        x, weight, bias = (t.movedim(-3, -1) for t in (x, self.weight, self.bias))  # views
        count = weight.numel()
        if (padding := x.shape[3] - weight.shape[2]) > 0:
            weight, bias = F.pad(weight, (0, padding)), F.pad(bias, (0, padding))
        compiled = self.compiled and self.training
        x = double_backward.layer_norm(x, weight, bias, self.eps, count, compiled)
        return x.movedim(3, 1)


class FastBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that supports padded feature maps in training."""

    def forward(self, x):
        if x.shape[1] <= self.num_features:
            return super().forward(x)
        tensors = self.running_mean, self.running_var, self.weight, self.bias
        mean, variance, weight, bias = (fill(tensor, x.shape[1]) for tensor in tensors)
        y = F.batch_norm(x, mean, variance, weight, bias, True, self.momentum, self.eps)
        self.running_mean.copy_(mean[: self.num_features])
        self.running_var.copy_(variance[: self.num_features])
        self.num_batches_tracked.add_(1)
        return y


class TrimmedSequential(nn.Sequential):
    """Blocks that start with a convolution. The output, also of a slice, is without the padding."""

    def forward(self, x):
        return super().forward(x)[:, : self[-1][0].out_channels]


_FASTER = {
    nn.Conv2d: FastConv2d,
    nn.ConvTranspose2d: FastConvTranspose2d,
    nn.LayerNorm: FastLayerNorm,
    nn.BatchNorm2d: FastBatchNorm2d,
}


def _padded(convolution, x):
    """(x in channels_last, weight, bias) of a convolution.

    In compiled training under autocast all three are padded with zeros to aligned channels: x by
    the first convolution of the network, whose output stays padded.
    """
    weight, bias, channels = convolution.weight, convolution.bias, convolution.in_channels
    x = x.contiguous(memory_format=torch.channels_last)
    pads = convolution.compiled and convolution.training and aligned(channels) > channels
    if pads and torch.is_autocast_enabled(x.device.type) and x.shape[1] == channels:
        x = fill(x, len(x), aligned(channels))
    if x.shape[1] > channels:
        inputs, outputs = x.shape[1], aligned(convolution.out_channels)
        sizes = (inputs, outputs) if convolution.transposed else (outputs, inputs)
        weight, bias = fill(weight, *sizes), fill(bias, outputs)
    return x, weight, bias


class _AddBias(torch.autograd.Function):
    """x (b, c, h, w) + bias (c,), with a fast gradient on GPUs."""

    @staticmethod
    def forward(_ctx, x, bias):
        return x + bias.view(-1, 1, 1)

    @staticmethod
    def backward(_ctx, g):
        return g, double_backward.channel_sums(g)
