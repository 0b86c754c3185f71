"""Features switched off: what a network does without some of its channels."""

import torch

from data_tools import to_signed
from generator import START_SIZE
from inside_cnn.core.device import autocast


def outputs_without(discriminator, images, layer, features):
    """The discriminator's outputs where these features of a layer are 0 everywhere.

    images: (b, 3, 32, 32) in [-1, 1]; layer: 1 to 8; features: int64 (k,). Returns critic scores
    (b,) and class logits (b, num_classes). Raises ValueError for another layer.
    """
    x = without(discriminator.features(images, layer), features)
    if layer < len(discriminator.blocks):
        x = discriminator.blocks[layer:](x)
    return discriminator.head(x)


def images_without(generator, latents, block, channels):
    """The generator's images where these channels of a block are 0 everywhere.

    latents: (b, latent_dim); block: 1 to 7; channels: int64 (k,). Returns (b, 3, 32, 32) in
    [-1, 1]. Raises ValueError for another block.
    """
    if not 1 <= block <= len(generator.blocks):
        raise ValueError(f"block must be 1 to {len(generator.blocks)}, not {block}")
    x = generator.project(latents).unflatten(1, (generator.width, START_SIZE, START_SIZE))
    x = without(generator.blocks[:block](x), channels)
    return torch.tanh(generator.to_rgb(generator.blocks[block:](x)))


def without(maps, channels):
    """(b, c, h, w) with these channels at 0, in memory of its own."""
    return maps.index_fill(1, channels.to(maps.device), 0)


@torch.no_grad()
def classes_named(discriminator, images, layer=1, features=(), *, precision="fp32", batch_size=250):
    """The class that each image is named without these features of a layer: int64 (n,).

    images: uint8 (n, 3, 32, 32); features: numbers of channels.
    """
    features = torch.as_tensor(features, dtype=torch.int64)
    named = []
    for batch in images.split(batch_size):
        with autocast(batch.device, precision):
            named.append(outputs_without(discriminator, to_signed(batch), layer, features)[1])
    return torch.cat(named).argmax(1)
