import pytest
import torch

from generator import Generator
from inside_cnn.metrics import controls, sampling


def test_noise_has_the_stated_strength():
    grey = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    changed = controls.noisy(grey, 0)
    assert changed.dtype == torch.uint8
    assert changed.double().std() == pytest.approx(8, rel=0.01)
    assert torch.equal(changed, controls.noisy(grey, 0))
    assert not torch.equal(changed, controls.noisy(grey, 1))
    assert controls.noisy(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 0).max() < 60


def test_an_untrained_generator_draws_more_than_one_colour():
    torch.manual_seed(0)
    fresh = Generator(16)
    latents = torch.randn(50, 100)
    flat = sampling.draw(fresh, latents)
    untrained = controls.untrained_like(fresh, sampling.sample_labels(500), seed=0)
    assert not untrained.training
    drawn = sampling.draw(untrained, latents)
    between_images = [images.double().std(0).mean() for images in (flat, drawn)]
    assert between_images[0] < 1 < 10 < between_images[1]
