"""Receptive fields: the pixels that a unit of a layer depends on."""

import torch

from discriminator import IMAGE_SIZE, STRIDES


def geometry(layer):
    """(size, stride, first) of layer 1 to 8, in pixels.

    Unit i of a row sees `size` pixels from first + i * stride; pixels outside of the image are
    padding. Each 3x3 kernel adds 2 strides of the previous layer to the size, and starts one such
    stride further left. The weak dependence of LayerNorm on the whole image is ignored.
    """
    size, stride, first = 1, 1, 0
    for step in STRIDES[:layer]:
        size, first = size + 2 * stride, first - stride
        stride *= step
    return size, stride, first


def box(layer, row, column):
    """(top, left, bottom, right) of the pixels that unit (row, column) sees.

    Bottom and right are exclusive; the box is clipped to the image.
    """
    size, stride, first = geometry(layer)
    top, left = first + row * stride, first + column * stride
    bottom, right = min(top + size, IMAGE_SIZE), min(left + size, IMAGE_SIZE)
    return max(top, 0), max(left, 0), bottom, right


def centers(positions, layer):
    """Centers of receptive fields in grid_sample's coordinates: (n, 2) -> x and y in [-1, 1]."""
    boxes = torch.tensor([box(layer, *position) for position in positions.tolist()]).float()
    top, left, bottom, right = boxes.unbind(1)
    return torch.stack([left + right, top + bottom], dim=1) / IMAGE_SIZE - 1
