"""Receptive fields: the pixels that a unit of a layer depends on.

They are measured by the gradient of a copy of the network in which convolutions average, pooling
averages, and normalizations and activations are the identity: a gradient of the network itself
would cover the whole image, since LayerNorm couples all positions of a map.
"""

import copy
import dataclasses
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

_AVERAGES = (nn.modules.conv._ConvNd, nn.Linear)
_IDENTITIES = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


class Field(NamedTuple):
    """The receptive field of the units of a layer, in pixels.

    Unit i of a row sees `size` pixels from first + i * stride; pixels outside of the image are
    padding. stride 0: every unit sees the whole image.
    """

    size: int
    stride: int
    first: int


@torch.enable_grad()
def receptive_fields(network):
    """{layer: Field} of a Network. After attention, every unit sees the whole image."""
    model, layers = _averaging_copy(network)
    simple = dataclasses.replace(network, model=model, layers=layers, precision="fp32")
    size = network.image_size
    image = torch.ones(1, 3, size, size, dtype=torch.float64, device=network.device)
    maps_of, attention = {}, []
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(lambda *_: attention.append(True))

    def keep(layer, maps):
        maps_of[layer] = None if attention else maps.sum(1)[0]

    simple.visit(image.requires_grad_(), layers, keep)
    whole = Field(size, 0, 0)
    return {layer: _measure(maps_of[layer], image, whole) for layer in layers}


def _averaging_copy(network):
    """(model, layers) as in the module's docstring, in float64."""
    model, layers = copy.deepcopy((network.model, network.layers))
    for module in model.double().modules():
        if isinstance(module, _AVERAGES):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MaxPool2d):
            options = module.kernel_size, module.stride, module.padding, module.ceil_mode
            module.forward = partial(_average, options)
        elif isinstance(module, _IDENTITIES) or _is_activation(module):
            module.forward = lambda x: x
    return model, layers


def _average(options, x):
    return F.avg_pool2d(x, *options)


def _is_activation(module):
    is_attention = isinstance(module, nn.MultiheadAttention)
    return type(module).__module__ == "torch.nn.modules.activation" and not is_attention


def _measure(units, image, whole):
    """The Field of units (h, w), from the edges of the first two and the last two of a row.

    `whole`, if units is None or if one of them sees the image from edge to edge.
    """
    if units is None or min(units.shape) < 2:
        return whole
    size, last, row = whole.size, units.shape[1] - 1, units[len(units) // 2]

    def edges(column):
        (gradient,) = torch.autograd.grad(row[column], image, retain_graph=True)
        columns = gradient.abs().sum((0, 1, 2)).nonzero().flatten().tolist()
        return (columns[0], columns[-1] + 1) if columns else (0, size)

    _, right = edges(0)
    left, _ = edges(last)
    if right == size or left == 0:
        return whole
    _, next_right = edges(1)
    previous_left, _ = edges(last - 1)
    if next_right == size and previous_left == 0:
        return whole
    stride = next_right - right if next_right < size else left - previous_left
    first = left - last * stride
    return Field(right - first, stride, first) if stride > 0 < right - first else whole


def box(network, layer, row, column):
    """(top, left, bottom, right) of the pixels that unit (row, column) sees.

    Bottom and right are exclusive; the box is clipped to the image.
    """
    size, stride, first = network.fields[layer]
    top, left = first + row * stride, first + column * stride
    bottom, right = (min(edge + size, network.image_size) for edge in (top, left))
    return max(top, 0), max(left, 0), bottom, right


def centers(network, positions, layer):
    """Centers of receptive fields in grid_sample's coordinates: (n, 2) -> x and y in [-1, 1]."""
    boxes = [box(network, layer, *position) for position in positions.tolist()]
    top, left, bottom, right = torch.tensor(boxes).float().unbind(1)
    return torch.stack([left + right, top + bottom], dim=1) / network.image_size - 1
