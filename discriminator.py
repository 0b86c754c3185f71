"""The eight-layer discriminator: a critic score and ten class logits out of one stack of features.

Eight 3x3 convolutions of the same width, each followed by a LayerNorm over the whole feature map
and a LeakyReLU, then a max-pool over the last 4x4 map and two linear heads. With the class head
alone it is a classifier; with both it is the critic of an ACGAN. It has no BatchNorm on purpose:
the gradient penalty is defined for each image on its own, so no image may see its neighbours.

`python discriminator.py` prints the layers and the number of parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

import alignment
import second_order

IMAGE_SIZE = 32
STRIDES = (1, 2, 1, 2, 1, 1, 1, 2)
MAP_SIZES = (32, 16, 16, 8, 8, 8, 8, 4)  # side of the feature map after each layer
NUM_LAYERS = len(STRIDES)


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
        if more := x.shape[3] - weight.shape[2]:  # channels of zeros, see alignment.py
            weight, bias = F.pad(weight, (0, more)), F.pad(bias, (0, more))
        x = second_order.layer_norm(x, weight, bias, self.eps, count)
        return x.permute(0, 3, 1, 2)


class Conv2d(nn.Conv2d):
    """3x3 convolution with padding 1, whose second derivative costs no more than it must."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__(in_channels, out_channels, 3, stride, padding=1)

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if x.shape[1] > self.in_channels:
            weight, bias = alignment.fill_weights(weight, bias, x.shape[1])
        return second_order.conv2d(x, weight, bias, self.stride, self.padding)


class Block(nn.Sequential):
    """3x3 convolution, MapNorm, LeakyReLU(0.01)."""

    def __init__(self, in_channels, out_channels, size, stride):
        super().__init__(
            Conv2d(in_channels, out_channels, stride),
            MapNorm(out_channels, size),
            nn.LeakyReLU(0.01),
        )


class Discriminator(nn.Module):
    """Critic and classifier in one; 3,137,971 parameters at width 196.

    width: channels of every layer; num_classes: number of class logits.
    Raises ValueError where one of them is below 1.
    Source: the recipe in the README; class head as in Odena et al. 2017, Conditional Image
    Synthesis with Auxiliary Classifier GANs.
    """

    def __init__(self, width=196, num_classes=10):
        super().__init__()
        if width < 1 or num_classes < 1:
            raise ValueError(
                f"width and num_classes must be at least 1, not {width}, {num_classes}"
            )
        self.width, self.num_classes = width, num_classes
        channels = (3,) + (width,) * NUM_LAYERS
        self.blocks = nn.ModuleList(
            Block(channels[i], width, MAP_SIZES[i], STRIDES[i]) for i in range(NUM_LAYERS)
        )
        self.critic_head = nn.Linear(width, 1)
        self.class_head = nn.Linear(width, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        """images (b, 3, 32, 32) in [-1, 1] -> critic scores (b,), class logits (b, num_classes)."""
        pooled = self.pool(self.features(images, NUM_LAYERS))
        return self.critic_head(pooled).squeeze(1), self.class_head(pooled)

    def features(self, images, layer):
        """The output of block `layer` (1 to 8), after its LeakyReLU; later blocks are not computed.

        images: (b, 3, 32, 32) in [-1, 1] -> (b, width, h, w), h = w = MAP_SIZES[layer - 1].
        Raises ValueError for another layer or another image shape.
        """
        if not 1 <= layer <= NUM_LAYERS:
            raise ValueError(f"layer must be 1 to {NUM_LAYERS}, not {layer}")
        if images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(f"images must be (b, 3, 32, 32), not {tuple(images.shape)}")
        x = images.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() and alignment.pays(x.device):
            x = alignment.fill_channels(x, alignment.aligned(3))
        for block in self.blocks[:layer]:
            x = block(x)
        return x[:, : self.width]

    @staticmethod
    def pool(features):
        """Maximum of every channel over its whole map: (b, c, h, w) -> (b, c)."""
        return F.max_pool2d(features, features.shape[-2:]).flatten(1)


if __name__ == "__main__":
    model = Discriminator()
    print(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
