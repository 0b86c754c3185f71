"""Ablation: the outputs of a network without some of its features."""

import copy

import torch

from data_tools import to_signed


def outputs_without(network, images, layer, features):
    """Critic scores (b,) and class logits (b, num_classes) where features of a layer are 0.

    images: (b, 3, 32, 32) in [-1, 1]; layer: 1 to 8; features: int64 (k,).
    """
    x = network.activations(images, layer)
    return network.from_activations(without(x, features), layer)


def images_without(generator, latents, block, channels):
    """The generator's images, (b, 3, 32, 32) in [-1, 1], where channels of a block are 0.

    latents: (b, latent_dim); block: 1 to 7; channels: int64 (k,).
    """
    generator = copy.deepcopy(generator)  # the hook must not affect other callers
    layer = generator.blocks[block - 1]
    layer.register_forward_hook(lambda module, inputs, output: without(output, channels))
    return generator(latents)


def without(maps, channels):
    """A copy of (b, c, h, w) with these channels at 0."""
    return maps.index_fill(1, channels.to(maps.device), 0)


@torch.no_grad()
def predictions_without(network, images, layer=1, features=(), batch_size=250):
    """The predicted class of each image without features of a layer: int64 (n,).

    images: uint8 (n, 3, 32, 32); features: indices of channels.
    """
    features = torch.as_tensor(features, dtype=torch.int64)
    batches = map(to_signed, images.split(batch_size))
    logits = [outputs_without(network, batch, layer, features)[1] for batch in batches]
    return torch.cat(logits).argmax(1)
