import pytest
import torch

from generator import Generator
from inside_cnn.metrics import baselines, sampling


def test_noise_has_the_documented_strength():
    gray = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    changed = baselines.noisy(gray, 0)
    assert changed.dtype == torch.uint8
    assert changed.double().std() == pytest.approx(8, rel=0.01)
    assert torch.equal(changed, baselines.noisy(gray, 0))
    assert not torch.equal(changed, baselines.noisy(gray, 1))
    assert baselines.noisy(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 0).max() < 60


def test_untrained_generator_has_batch_statistics():
    """Without them, its samples would all be nearly the same."""
    torch.manual_seed(0)
    initial = Generator(16)
    untrained = baselines.untrained_like(initial, sampling.sample_labels(500), seed=0)
    assert not untrained.training
    latents = torch.randn(50, 100)
    samples = [sampling.generate(model, latents) for model in (initial, untrained)]
    spread = [images.double().std(0).mean() for images in samples]
    assert spread[0] < 1 < 10 < spread[1]
