import pytest
import torch
from torch import nn

from discriminator import MAP_SIZES, Discriminator
from inside_cnn.interpretability.receptive_field import Field, box
from inside_cnn.layers.accelerate import accelerate
from networks import as_network


def test_geometry_by_hand():
    """3; +2 1; +2 2; +2 2; +2 4 four times: every layer adds twice the stride before it."""
    fields = as_network(accelerate(Discriminator(width=3))).fields
    sizes, strides = [3, 5, 9, 13, 21, 29, 37, 45], [1, 2, 2, 4, 4, 4, 4, 8]
    firsts = [-1, -2, -4, -6, -10, -14, -18, -22]
    assert list(fields.values()) == [Field(*of) for of in zip(sizes, strides, firsts, strict=True)]


@pytest.mark.parametrize("layer", range(1, 9))
def test_boxes_equal_the_footprint_of_the_gradient(layer):
    """Without the normalization, which depends on the whole image."""
    torch.manual_seed(0)
    network = Discriminator(width=3)
    for block in network.blocks:
        block[1] = nn.Identity()
        nn.init.uniform_(block[0].weight, 0.5, 1)  # nothing cancels
    side = MAP_SIZES[layer - 1]
    for row, column in {(0, 0), (side // 2, side - 1), (side // 3, side // 2)}:
        image = torch.rand(1, 3, 32, 32, requires_grad=True)
        network.features(image, layer)[0, 0, row, column].backward()
        rows, columns = image.grad.abs().sum((0, 1)).nonzero().T
        footprint = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        assert tuple(map(int, footprint)) == box(as_network(network), layer, row, column)
