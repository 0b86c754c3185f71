import pytest
import torch
from torch import nn

from generator import Generator, sample_latents


def test_network_computed_by_hand():
    """With width 1 and identity kernels the image is tanh of the upsampled 4x4 map."""
    model = Generator(width=1, latent_dim=1).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # Of 4 rows and columns the 2 in the middle: a pixel becomes a block of 2x2.
                middle = slice(1, module.kernel_size[0] - 1)
                module.weight.zero_()[:, :, middle, middle] = 1
                module.bias.zero_()
            elif isinstance(module, nn.Linear):
                module.weight.copy_(torch.arange(16.0).sub(8).div(10).unsqueeze(1))
                module.bias.zero_()
        image = model(torch.ones(1, 1))
    # BatchNorm in eval mode, untrained, divides by sqrt(1 + eps); there are eight of them.
    start = torch.arange(16.0).sub(8).div(10).relu().view(1, 1, 4, 4) / (1 + 1e-5) ** 4
    expected = torch.tanh(nn.functional.interpolate(start, scale_factor=8, mode="nearest"))
    assert torch.allclose(image, expected.expand(1, 3, 32, 32), atol=1e-5)


def test_latent_smaller_than_the_number_of_classes():
    with pytest.raises(ValueError, match="smaller"):
        sample_latents(torch.zeros(2, dtype=torch.int64), latent_dim=9)
