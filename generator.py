"""The eight-layer generator and its class-conditional latents.

A linear layer computes a 4x4 map, three transposed convolutions upsample it to 32x32 with four 3x3
convolutions between them, and a 3x3 convolution converts the features to RGB.

`python generator.py` prints the layers and the number of parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

START_SIZE = 4
UPSAMPLES = (True, False, False, False, True, False, True)  # the seven hidden convolutions


def block(width, upsample):
    """3x3 convolution, or transposed convolution that doubles the map; BatchNorm, ReLU."""
    if upsample:
        convolution = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class Generator(nn.Module):
    """Latents to images; 3,559,363 parameters with width 196 and latent_dim 100.

    width: channels of every hidden layer; latent_dim: length of a latent. Both at least 1.
    """

    def __init__(self, width=196, latent_dim=100):
        super().__init__()
        self.width, self.latent_dim = width, latent_dim
        start = width * START_SIZE * START_SIZE
        self.project = nn.Sequential(nn.Linear(latent_dim, start), nn.BatchNorm1d(start), nn.ReLU())
        self.blocks = nn.Sequential(*(block(width, upsample) for upsample in UPSAMPLES))
        self.to_rgb = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latents):
        """latents (b, latent_dim) -> images (b, 3, 32, 32) in [-1, 1].

        In train mode b must be at least 2, for the batch statistics of BatchNorm.
        """
        x = self.project(latents).unflatten(1, (self.width, START_SIZE, START_SIZE))
        return torch.tanh(self.to_rgb(self.blocks(x)))


def sample_latents(labels, latent_dim=100, generator=None, num_classes=10):
    """Gaussian latents whose first `num_classes` entries are the one-hot code of the class.

    labels: int64 (b,) -> (b, latent_dim) float32 on the labels' device.
    generator: a torch.Generator on that device, or None for the default one.
    Raises ValueError if latent_dim is smaller than num_classes.
    Source: the conditioning of Odena et al. 2017; here the code replaces the first entries.
    """
    if latent_dim < num_classes:
        raise ValueError(f"latent_dim {latent_dim} is smaller than {num_classes} classes")
    shape = (len(labels), latent_dim)
    latents = torch.randn(shape, generator=generator, device=labels.device)
    latents[:, :num_classes] = F.one_hot(labels, num_classes).to(latents.dtype)
    return latents


if __name__ == "__main__":
    model = Generator()
    print(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
