"""Features switched off: what a network does without some of its channels."""

import torch

from data_tools import to_signed
from generator import START_SIZE


def outputs_without(network, images, layer, features):
    """The network's outputs where these features of a layer are 0 everywhere.

    images: (b, 3, 32, 32) in [-1, 1]; layer: 1 to 8; features: int64 (k,). Returns critic scores
    (b,) and class logits (b, num_classes). Raises ValueError for another layer.
    """
    x = without(network.activations(images, layer), features)
    return network.from_activations(x, layer)


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
def classes_named(network, images, layer=1, features=(), batch_size=250):
    """The predicted class of each image without these features of a layer: int64 (n,).

    images: uint8 (n, 3, 32, 32); features: numbers of channels.
    """
    features = torch.as_tensor(features, dtype=torch.int64)
    batches = map(to_signed, images.split(batch_size))
    logits = [outputs_without(network, batch, layer, features)[1] for batch in batches]
    return torch.cat(logits).argmax(1)
