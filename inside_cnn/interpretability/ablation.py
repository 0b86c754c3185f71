"""Ablation: the outputs of a network without some of its features."""

import copy

import torch

from data_tools import to_signed


def without(maps, channels):
    """A copy of (b, c, h, w) with these channels at 0."""
    return maps.index_fill(1, channels.to(maps.device), 0)


def images_without(generator, latents, block, channels):
    """The generator's images, (b, 3, 32, 32) in [-1, 1], where channels of a block are 0.

    latents: (b, latent_dim); block: 1 to 7; channels: int64 (k,).
    """
    generator = copy.deepcopy(generator)  # the hook must not affect other callers
    layer = generator.blocks[block - 1]
    layer.register_forward_hook(lambda module, inputs, output: without(output, channels))
    return generator(latents)


@torch.no_grad()
def predictions_without(network, images, layer, features):
    """The predicted class of each image without features of a layer: int64 (n,).

    images: uint8 (n, 3, 32, 32); layer: 1 to 8; features: indices of channels.
    """
    features, logits = torch.as_tensor(features, dtype=torch.int64), []
    for batch in map(to_signed, images.split(250)):
        x = without(network.activations(batch, layer), features)
        logits.append(network.from_activations(x, layer)[1])
    return torch.cat(logits).argmax(1)
