import pytest
import torch
import torch.nn.functional as F
from torch import nn

from discriminator import MAP_SIZES, Discriminator
from inside_cnn.interpretability.network import Network
from inside_cnn.interpretability.receptive_field import box
from networks import as_network


class Call(nn.Module):
    def __init__(self, function, *options, **named):
        super().__init__()
        self.function, self.options, self.named = function, options, named

    def forward(self, x):
        return self.function(x, *self.options, **self.named)


class ChannelNorm(nn.Module):
    """Without parameters, and of a class that PyTorch does not have."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True)


def by_keywords(x):
    return F.conv2d(input=x, weight=torch.randn(3, 3, 3, 3), padding=1)


def pooled_with_indices(x):
    return F.max_pool2d(x, 2, return_indices=True)[0]


def pooled_to_eight_with_indices(x):
    return F.adaptive_max_pool2d(x, 8, return_indices=True)[0]


class Attention(nn.Module):
    """A residual layer with a small gain, as at the start of training."""

    def __init__(self, channels):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 1, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).mT
        return x + 1e-4 * self.attention(tokens, tokens, tokens)[0].mT.unflatten(2, x.shape[2:])


conv = nn.Conv2d
WHOLE, UPSAMPLED = (32, 0, 0), nn.Upsample(None, 2, "bilinear")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([conv(3, 4, 3, 1, 1), conv(4, 4, 3, 2, 1)], [(3, 1, -1), (5, 2, -2)]),
        ([conv(3, 4, (7, 1), (2, 1))], [((7, 2, 0), (1, 1, 0))]),
        ([conv(3, 4, (1, 9), 1, (0, 4))], [((1, 1, 0), (9, 1, -4))]),
        ([conv(3, 4, 3, 1, 2, 2)], [(5, 1, -2)]),
        ([conv(3, 6, 3, 1, 0, 1, 3), nn.GroupNorm(1, 6)], [(3, 1, 0), (3, 1, 0)]),
        ([Call(F.max_pool2d, 2), Call(torch.relu), conv(3, 3, 5)], [(2, 2, 0)] * 2 + [(10, 2, 0)]),
        ([Call(by_keywords), Call(torch.max_pool2d, kernel_size=2)], [(3, 1, -1), (4, 2, -1)]),
        ([Call(pooled_with_indices), conv(3, 3, 5)], [(2, 2, 0), (10, 2, 0)]),
        ([Call(pooled_to_eight_with_indices)], [(4, 4, 0)]),
        ([Call(F.max_pool2d, 3, 1, 0, 2)], [(5, 1, 0)]),
        # After upsampling by 2, units have no common stride; a stride of 2 restores it.
        ([conv(3, 4, 2, 2), UPSAMPLED, conv(4, 4, 2, 2)], [(2, 2, 0), WHOLE, (6, 2, -2)]),
        ([conv(3, 4, 2, 2), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)], [(2, 2, 0), WHOLE]),
        ([conv(3, 4, 2, 2), nn.ConvTranspose2d(4, 6, 3, 1, 1, 0, 2)], [(2, 2, 0), (6, 2, -2)]),
        # Of 31 and 47 pixels.
        ([conv(3, 3, 3, 2, 1) for _ in range(4)], [(3, 2, -1), (7, 4, -3), (15, 8, -7), WHOLE]),
        ([Call(torch.Tensor.flatten, 2), nn.Linear(1024, 4)], [WHOLE, WHOLE]),
        ([conv(3, 4, 4, 4), Attention(4), conv(4, 4, 1)], [(4, 4, 0), WHOLE, WHOLE]),
        (
            [conv(3, 4, 4, 4), ChannelNorm(), conv(4, 4, 3, 1, 1)],
            [(4, 4, 0), (4, 4, 0), (12, 4, -4)],
        ),
    ],
)
def test_fields_of_other_networks(modules, expected):
    """Rows and columns, or both, by hand."""
    layers = dict(enumerate(modules))
    fields = Network("", nn.Sequential(*modules), layers=layers, has_scores=False).fields
    pairs = [of if isinstance(of[0], tuple) else (of, of) for of in expected]
    assert list(fields.values()) == pairs


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
