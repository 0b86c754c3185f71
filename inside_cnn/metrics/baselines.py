"""Baselines: images of known quality whose scores are compared with those of samples."""

import torch
from torch import nn

from generator import Generator
from inside_cnn.core.device import Stream, random_stream
from inside_cnn.metrics.sampling import latents_of

NOISE_STD = 8  # in pixel levels of 0 to 255


def noisy(images, seed):
    """uint8 images plus normal noise of NOISE_STD levels, rounded and clamped."""
    stream = random_stream("cpu", seed, Stream.NOISY_IMAGES)
    noise = NOISE_STD * torch.randn(images.shape, generator=stream)
    return (images + noise).round_().clamp_(0, 255).to(torch.uint8)


def altered_copies(images, seed):
    """{name: altered training images, uint8 (n, 3, h, w)} that a test for copies must detect.

    A shift reflects the image at its edge; the blur is a 3x3 Gaussian of sigma 1 pixel.
    """

    from torchvision.transforms.functional import gaussian_blur, pad  # here: it takes seconds

    def shifted(images, pixels):
        padded = pad(images, [pixels, pixels, 0, 0], padding_mode="reflect")
        return padded[:, :, :-pixels, :-pixels]

    return {
        "training images, mirrored": images.flip(3),
        "training images, shifted by 4": shifted(images, 4),
        "training images, mirrored, shifted by 2": shifted(images.flip(3), 2),
        "training images, blurred": gaussian_blur(images, 3, 1.0),
        "training images, noisy": noisy(images, seed),
    }


def untrained_like(generator, labels, seed, num_classes=10):
    """An untrained generator of the same sizes, with the BatchNorm statistics of 500 latents.

    labels: int64 (n,), of which the first 500 are used.
    """
    torch.manual_seed(seed)
    device = next(generator.parameters()).device
    untrained = Generator(generator.width, generator.latent_dim).to(device)
    for module in untrained.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one batch below
    latents = latents_of(labels[:500], generator.latent_dim, seed, num_classes=num_classes)
    with torch.no_grad():
        untrained(latents.to(device))
    return untrained.eval()
