"""The eight-layer discriminator: a critic score and class logits from the same features.

Eight 3x3 convolutions, each followed by a LayerNorm over the feature map and a LeakyReLU, then a
max-pool over the last 4x4 map and two linear heads. With the class head alone it is a classifier;
with both it is the critic of an ACGAN. It has no BatchNorm, since the gradient penalty is defined
for each image independently.

`python discriminator.py` prints the layers and the number of parameters.
"""

import torch.nn.functional as F
from torch import nn

IMAGE_SIZE = 32
STRIDES = (1, 2, 1, 2, 1, 1, 1, 2)
MAP_SIZES = (32, 16, 16, 8, 8, 8, 8, 4)  # side of the feature map after each layer
NUM_LAYERS = len(STRIDES)


def block(in_channels, out_channels, size, stride):
    """3x3 convolution, LayerNorm over the feature map, LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1),
        nn.LayerNorm([out_channels, size, size]),
        nn.LeakyReLU(0.01),
    )


class Discriminator(nn.Module):
    """Critic and classifier; 3,137,971 parameters with width 196.

    width: channels of every layer; num_classes: number of class logits. Both at least 1.
    Source: the homework named in the README; class head as in Odena et al. 2017, Conditional Image
    Synthesis with Auxiliary Classifier GANs.
    """

    def __init__(self, width=196, num_classes=10):
        super().__init__()
        self.width, self.num_classes = width, num_classes
        in_channels = (3,) + (width,) * (NUM_LAYERS - 1)
        sizes = zip(in_channels, MAP_SIZES, STRIDES, strict=True)
        self.blocks = nn.Sequential(*(block(c, width, size, stride) for c, size, stride in sizes))
        self.critic_head = nn.Linear(width, 1)
        self.class_head = nn.Linear(width, num_classes)

    def forward(self, images):
        """images (b, 3, 32, 32) in [-1, 1] -> critic scores (b,), class logits (b, num_classes)."""
        return self.head(self.features(images, NUM_LAYERS))

    def features(self, images, layer):
        """The output of block `layer` (1 to 8), after its LeakyReLU; later blocks are not computed.

        images: (b, 3, 32, 32) in [-1, 1] -> (b, width, h, w), h = w = MAP_SIZES[layer - 1].
        Raises ValueError for another layer or another image shape.
        """
        if not 1 <= layer <= NUM_LAYERS:
            raise ValueError(f"layer must be 1 to {NUM_LAYERS}, not {layer}")
        if images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(f"images must be (b, 3, 32, 32), not {tuple(images.shape)}")
        return self.blocks[:layer](images)

    def head(self, features):
        """Features of the last layer (b, width, 4, 4) -> critic scores and class logits."""
        pooled = self.pool(features)
        return self.critic_head(pooled).squeeze(1), self.class_head(pooled)

    @staticmethod
    def pool(features):
        """Maximum of every channel: (b, c, h, w) -> (b, c)."""
        return F.max_pool2d(features, features.shape[-2:]).flatten(1)


if __name__ == "__main__":
    model = Discriminator()
    print(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
