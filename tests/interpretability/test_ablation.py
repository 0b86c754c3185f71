import copy

import pytest
import torch

from data_tools import to_signed
from discriminator import NUM_LAYERS
from generator import Generator
from inside_cnn.interpretability.ablation import classes_named, images_without, outputs_without
from inside_cnn.metrics import sampling
from networks import as_network


@pytest.mark.parametrize("layer", range(1, NUM_LAYERS + 1))
def test_a_silenced_feature_is_one_whose_weights_are_0(trained, images, layer):
    """Those of its normalisation, the last that its activation stands on."""
    features = torch.tensor([1, 5, 11])
    without = copy.deepcopy(trained)
    norm = without.blocks[layer - 1][1]
    norm.weight[features] = 0
    norm.bias[features] = 0
    for ours, theirs in zip(
        outputs_without(as_network(trained), images, layer, features), without(images), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(without(images)[1], trained(images)[1])


@pytest.mark.parametrize("block", range(1, 8))
def test_a_silenced_channel_of_the_generator(block):
    torch.manual_seed(0)
    generator = Generator(width=8, latent_dim=30).eval().requires_grad_(False)
    latents = sampling.latents_of(sampling.sample_labels(6), 30, seed=0)
    channels = torch.tensor([0, 3])
    without = copy.deepcopy(generator)
    norm = without.blocks[block - 1][1]
    norm.weight[channels] = 0
    norm.bias[channels] = 0
    ours = images_without(generator, latents, block, channels)
    torch.testing.assert_close(ours, without(latents))
    assert not torch.allclose(ours, generator(latents), atol=1e-6)


@pytest.mark.parametrize("block", [0, 8])
def test_another_block(block):
    generator = Generator(width=4, latent_dim=20).eval()
    with pytest.raises(ValueError, match="block must be 1 to 7"):
        images_without(generator, torch.zeros(2, 20), block, torch.tensor([0]))


def test_classes_named_in_batches(trained):
    pixels = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
    whole = trained(to_signed(pixels))[1].argmax(1)
    assert torch.equal(classes_named(as_network(trained), pixels, batch_size=7), whole)
    silenced = classes_named(as_network(trained), pixels, 4, list(range(12)))
    assert len(silenced.unique()) == 1  # nothing of the image is left
