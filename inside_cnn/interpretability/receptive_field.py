"""Receptive fields: the pixels that a unit of a layer depends on."""

import torch

from discriminator import IMAGE_SIZE, MAP_SIZES, STRIDES


def geometry(layer):
    """(size, stride, first) of layer 1 to 8, in pixels.

    Unit i of a row sees `size` pixels from first + i * stride; pixels outside of the image are
    padding. The kernels are 3x3 with padding 1: each layer adds 2 strides of the previous layer to
    the size, and starts one such stride further left. The normalization of each layer adds a weak
    dependence on the whole image, which is ignored.
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

    def span(index):
        start = first + index * stride
        return max(start, 0), min(start + size, IMAGE_SIZE)

    (top, bottom), (left, right) = span(row), span(column)
    return top, left, bottom, right


def at_border(positions, layer):
    """Whether units are at the border of their map: int64 (n, 2), row and column -> bool (n,)."""
    return ((positions == 0) | (positions == MAP_SIZES[layer - 1] - 1)).any(1)


def centers(positions, layer):
    """Centers of receptive fields in grid_sample's coordinates: (n, 2) -> x and y in [-1, 1]."""
    boxes = torch.tensor([box(layer, *position) for position in positions.tolist()]).float()
    top, left, bottom, right = boxes.unbind(1)
    return torch.stack([left + right, top + bottom], dim=1) / IMAGE_SIZE - 1
