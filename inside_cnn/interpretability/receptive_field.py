"""Which pixels a unit of a layer looks at."""

import torch

from discriminator import IMAGE_SIZE, MAP_SIZES, NUM_LAYERS, STRIDES


def geometry(layer):
    """(size, stride, first) of layer 1 to 8, in pixels.

    Unit i of a map's row sees the `size` pixels from first + i * stride on; those outside of the
    image are padding. For 3x3 kernels with padding 1: every layer adds 2 strides of the one before
    to the size, and begins one such stride further left.
    The normalisation of each layer adds a weak dependence on the whole image, which is left out.
    Raises ValueError for another layer.
    """
    if not 1 <= layer <= NUM_LAYERS:
        raise ValueError(f"layer must be 1 to {NUM_LAYERS}, not {layer}")
    size, stride, first = 1, 1, 0
    for step in STRIDES[:layer]:
        size, first = size + 2 * stride, first - stride
        stride *= step
    return size, stride, first


def box(layer, row, column):
    """(top, left, bottom, right) of the pixels that unit (row, column) sees.

    Bottom and right are exclusive; all are cut off at the image's edges.
    """
    size, stride, first = geometry(layer)

    def span(index):
        start = first + index * stride
        return max(start, 0), min(start + size, IMAGE_SIZE)

    (top, bottom), (left, right) = span(row), span(column)
    return top, left, bottom, right


def at_border(positions, layer):
    """Whether units, int64 (n, 2) rows and columns, are at the border of their map: bool (n,)."""
    return ((positions == 0) | (positions == MAP_SIZES[layer - 1] - 1)).any(1)


def centers(positions, layer):
    """The middle of what each unit sees, as grid_sample counts: (n, 2) -> x and y in [-1, 1]."""
    boxes = torch.tensor([box(layer, *position) for position in positions.tolist()]).float()
    top, left, bottom, right = boxes.unbind(1)
    return torch.stack([left + right, top + bottom], dim=1) / IMAGE_SIZE - 1
