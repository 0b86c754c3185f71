"""Receptive fields: the pixels that a unit of a layer depends on.

They are measured by the gradient of a copy of the network in which convolutions average, pooling
averages, and normalizations and activations are the identity: a gradient of the network itself
would cover the whole image, since LayerNorm couples all positions of a map.
"""

import copy
import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from inside_cnn.layers.accelerate import FastConv2d

_IDENTITIES = {  # functions in torch, torch.nn.functional and torch.Tensor
    *("relu", "relu_", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "softplus", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"),
}
_AVERAGES = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d"}


class Field(NamedTuple):
    """The receptive field of the units of a layer along one axis, in pixels.

    Unit i sees `size` pixels from first + i * stride; pixels outside of the image are padding.
    stride 0: every unit sees the whole axis.
    """

    size: int
    stride: int
    first: int


class _Averaging(TorchFunctionMode):
    """A context in which torch's functions average or are the identity, as described above."""

    attention = False  # whether nn.MultiheadAttention has been called

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.__name__, kwargs or {}
        if name in _IDENTITIES:
            return args[0] if args else kwargs["input"]
        if name in _AVERAGES:
            return _average(func, *args, **kwargs)
        if name.removesuffix("_with_indices") in _POOLINGS:
            average = _POOLINGS[name.removesuffix("_with_indices")](*args, **kwargs)
            is_pair = name.endswith("_with_indices")
            return (average, func(*args, **kwargs)[1]) if is_pair else average
        self.attention |= name == "multi_head_attention_forward"
        return func(*args, **kwargs)


def _average(func, input, weight, bias=None, *options, groups=1, **named):
    """A convolution or nn.Linear with equal weights: all channels of its output are the same.

    options: stride, padding, dilation or output_padding, groups, ...
    """
    axis, channels = -1 if func is F.linear else 1, len(weight)
    y = input.mean(axis, keepdim=True)
    if func is not F.linear:
        groups, options = (*options[3:4], groups)[0], (*options[:3], *[1] * len(options[3:4]))
        channels = weight.shape[1] * groups if func is F.conv_transpose2d else channels
        y = func(y, input.new_ones(1, 1, *weight.shape[2:]), None, *options, **named)
    if y.requires_grad:  # only the pixels count: otherwise, small gradients would become 0
        y.register_hook(lambda g: (g.abs() > 1e-5 * g.abs().amax()).to(g.dtype))
    return torch.cat([y] * channels, axis)  # no view: later functions may work in place


def _average_pool(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *_, **__
):
    if dilation in (1, (1, 1)):
        return F.avg_pool2d(input, kernel_size, stride or kernel_size, padding, ceil_mode)
    sides = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    kernel = input.new_ones(input.shape[1], 1, *sides)
    return F.conv2d(input, kernel, None, stride or kernel_size, padding, dilation, len(kernel))


def _adaptive_average_pool(input, output_size, *_, **__):
    return F.adaptive_avg_pool2d(input, output_size)


_POOLINGS = {"max_pool2d": _average_pool, "adaptive_max_pool2d": _adaptive_average_pool}


@torch.enable_grad()
def receptive_fields(network):
    """{layer: (Field of the rows, Field of the columns)} of a Network.

    A field that no Field describes is the whole axis: one of several positions without a common
    stride, as after upsampling, and those after attention.
    """
    model, layers = copy.deepcopy((network.model, network.layers))
    for module in model.modules():
        kind = type(module).__name__
        if "Norm" in kind and kind[0] != "_" and not list(module.children()):  # also hand-written
            module.forward = lambda x: x
        if isinstance(module, FastConv2d):
            module.__class__ = nn.Conv2d
    plain = dataclasses.replace(network, model=model, layers=layers, precision="fp32")
    size, fields = network.image_size, {}
    images = torch.ones(5, 3, size, size, device=network.device, requires_grad=True)

    def measure(layer, maps):
        is_whole = averaging.attention or not maps.requires_grad
        fields[layer] = 2 * (Field(size, 0, 0),) if is_whole else _measure(maps.sum(1), images)

    with _Averaging() as averaging:
        plain.visit(images, layers, measure)
    return fields


def _measure(units, images):
    """The Fields of units (5, h, w), from five on the diagonal."""
    places = [(0, min(1, n - 1), 3 * n // 4, max(n - 2, 0), n - 1) for n in units.shape[1:]]
    chosen = units[range(5), places[0], places[1]]
    (gradient,) = torch.autograd.grad(chosen.sum(), images, retain_graph=True)
    pixels = gradient.abs().sum(1) > 0
    return tuple(_fit(*of) for of in zip(places, (pixels.any(2), pixels.any(1)), strict=True))


def _fit(places, seen):
    """The Field of units at five places of an axis; seen: the pixels of each, bool (5, size)."""
    size = seen.shape[1]
    lefts = seen.int().argmax(1).tolist()  # the first pixel of each unit
    rights = (size - seen.flip(1).int().argmax(1)).tolist()
    stride = rights[1] - rights[0] if rights[1] < size else lefts[4] - lefts[3]
    first = lefts[4] - places[4] * stride
    field = Field(rights[0] - first, stride, first)
    is_clipped = rights[0] == size or lefts[4] == 0 or (rights[1] == size and lefts[3] == 0)
    fits = stride > 0 and not is_clipped
    for place, left, right in zip(places, lefts, rights, strict=True):
        low, high = first + place * stride, first + place * stride + field.size
        fits &= (low < 0 or low == left) and (high > size or high == right)
    return field if fits else Field(size, 0, 0)


def box(network, layer, row, column):
    """(top, left, bottom, right) of the pixels that unit (row, column) sees.

    Bottom and right are exclusive; the box is clipped to the image.
    """
    rows, columns = network.fields[layer]
    top, left = rows.first + row * rows.stride, columns.first + column * columns.stride
    bottom, right = top + rows.size, left + columns.size
    return max(top, 0), max(left, 0), *(min(end, network.image_size) for end in (bottom, right))


def centers(network, positions, layer):
    """Centers of receptive fields in grid_sample's coordinates: (n, 2) -> x and y in [-1, 1]."""
    boxes = [box(network, layer, *position) for position in positions.tolist()]
    top, left, bottom, right = torch.tensor(boxes).float().unbind(1)
    return torch.stack([left + right, top + bottom], dim=1) / network.image_size - 1
