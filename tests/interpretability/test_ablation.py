import copy

import pytest
import torch

from data_tools import to_signed
from discriminator import NUM_LAYERS
from generator import Generator
from inside_cnn.interpretability.ablation import (
    images_without,
    outputs_without,
    predictions_without,
)
from inside_cnn.metrics import sampling
from networks import as_network


def without(network, block, channels):
    """A copy in which the weights of the block's normalization are 0 for these channels."""
    network = copy.deepcopy(network)
    norm = network.blocks[block - 1][1]
    norm.weight[channels] = 0
    norm.bias[channels] = 0
    return network


@pytest.mark.parametrize("layer", range(1, NUM_LAYERS + 1))
def test_ablation_in_the_discriminator_equals_zero_weights(trained, images, layer):
    features = torch.tensor([1, 5, 11])
    ours = outputs_without(as_network(trained), images, layer, features)
    torch.testing.assert_close(ours, without(trained, layer, features)(images))
    assert not torch.allclose(ours[1], trained(images)[1])


@pytest.mark.parametrize("block", [1, 4, 7])
def test_ablation_in_the_generator_equals_zero_weights(block):
    torch.manual_seed(0)
    generator = Generator(width=8, latent_dim=30).eval().requires_grad_(False)
    latents = sampling.latents_of(sampling.sample_labels(6), 30, seed=0)
    before, channels = generator(latents), torch.tensor([0, 3])
    ours = images_without(generator, latents, block, channels)
    torch.testing.assert_close(ours, without(generator, block, channels)(latents))
    assert not torch.allclose(ours, before, atol=1e-6)
    assert torch.equal(generator(latents), before)  # the generator itself is unchanged


def test_predictions_without_features(trained):
    pixels = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
    expected = trained(to_signed(pixels))[1].argmax(1)
    assert torch.equal(predictions_without(as_network(trained), pixels, batch_size=7), expected)
    ablated = predictions_without(as_network(trained), pixels, 4, list(range(12)))
    assert len(ablated.unique()) == 1  # nothing of the image is left
