import copy

import pytest
import torch

import data_tools
from data_tools import to_signed
from discriminator import NUM_LAYERS
from generator import Generator
from inside_cnn.interpretability.ablation import images_without, predictions_without
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
def test_ablation_in_the_discriminator_equals_zero_weights(trained, layer):
    pixels = data_tools.load_shapes()[1].images[:60]
    features = [1, 5, 6, 7, 11]
    predicted = predictions_without(as_network(trained), pixels, layer, features)
    images = to_signed(pixels)
    assert torch.equal(predicted, without(trained, layer, features)(images)[1].argmax(1))
    assert not torch.equal(predicted, trained(images)[1].argmax(1))


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
