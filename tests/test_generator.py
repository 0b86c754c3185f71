import pytest
import torch
from torch import nn

from generator import Generator, sample_latents


def test_parameter_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in Generator().parameters()) == 3_559_363


def test_shape_and_range_of_images():
    images = Generator(width=4)(100 * torch.randn(5, 100))
    assert images.shape == (5, 3, 32, 32)
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.abs().max() > 0.5


def test_network_computed_by_hand():
    """With width 1 and identity kernels the image is tanh of the upsampled 4x4 map."""
    model = Generator(width=1, latent_dim=1).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()[:, :, 1, 1] = 1
                module.bias.zero_()
            elif isinstance(module, nn.ConvTranspose2d):
                # The two middle rows and columns: each input pixel becomes a block of 2x2.
                module.weight.zero_()[:, :, 1:3, 1:3] = 1
                module.bias.zero_()
            elif isinstance(module, nn.Linear):
                module.weight.copy_(torch.arange(16.0).sub(8).div(10).unsqueeze(1))
                module.bias.zero_()
        image = model(torch.ones(1, 1))
    # BatchNorm in eval mode, untrained, divides by sqrt(1 + eps); there are eight of them.
    start = torch.arange(16.0).sub(8).div(10).relu().view(1, 1, 4, 4) / (1 + 1e-5) ** 4
    expected = torch.tanh(nn.functional.interpolate(start, scale_factor=8, mode="nearest"))
    assert torch.allclose(image, expected.expand(1, 3, 32, 32), atol=1e-5)


def test_latents_are_one_hot_classes_and_repeatable_standard_normal_numbers():
    labels = torch.arange(2000) % 10
    first, again = (sample_latents(labels, generator=torch.manual_seed(4)) for _ in range(2))
    assert first.shape == (2000, 100)
    assert torch.equal(first, again)
    assert torch.equal(first[:, :10], nn.functional.one_hot(labels, 10).float())
    assert abs(first[:, 10:].mean()) < 0.01
    assert abs(first[:, 10:].std() - 1) < 0.01


def test_latent_smaller_than_the_number_of_classes():
    with pytest.raises(ValueError, match="smaller"):
        sample_latents(torch.zeros(2, dtype=torch.int64), latent_dim=9)
