import math

import pytest
import torch
import torch.nn.functional as F

from generator import Generator
from inside_cnn.data.dataset import Dataset
from inside_cnn.metrics import sampling


@pytest.fixture
def generator():
    torch.manual_seed(0)
    model = Generator(8)
    model(torch.randn(64, 100))  # statistics for BatchNorm
    return model.eval()


def test_labels_have_the_shares_of_the_dataset():
    images, names = torch.zeros(6, 3, 32, 32, dtype=torch.uint8), ("a", "b")
    for labels, expected in (
        ([1, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1]),  # equal shares: in turn
        ([1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 1, 1, 1]),
    ):
        dataset = Dataset("folder", images, torch.tensor(labels), names, "")
        assert sampling.labels_like(dataset, 8).tolist() == expected


def test_latents_depend_on_the_seed_and_the_index_only():
    labels = sampling.sample_labels(2500)
    latents = sampling.latents_of(labels, 100, seed=1)
    assert latents.shape == (2500, 100)
    assert torch.equal(latents[:, :10], F.one_hot(labels, 10).float())
    assert torch.equal(latents[:1203], sampling.latents_of(labels[:1203], 100, seed=1))
    others = sampling.latents_of(torch.zeros_like(labels), 100, seed=1)
    assert torch.equal(latents[:, 10:], others[:, 10:])
    assert not torch.equal(latents, sampling.latents_of(labels, 100, seed=2))
    noise = latents[:, 10:]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert noise.unique(dim=0).shape[0] == 2500  # no block repeats another


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_samples_do_not_depend_on_the_others(generator, precision):
    latents = sampling.latents_of(sampling.sample_labels(131), 100, seed=0)
    expected = sampling.generate(generator, latents, precision)
    assert expected.dtype == torch.uint8
    assert expected.shape == (131, 3, 32, 32)
    for count in (1, 65):
        samples = sampling.generate(generator, latents[-count:], precision)
        assert torch.equal(samples, expected[-count:])


def test_truncated_noise_keeps_its_rank_within_the_limit():
    labels = sampling.sample_labels(3000)
    plain, truncated = (sampling.latents_of(labels, 100, 1, truncation=t) for t in (None, 0.8))
    assert torch.equal(plain[:, :10], truncated[:, :10])  # the class code
    before, after = plain[:, 10:].flatten(), truncated[:, 10:].flatten()
    assert after.abs().max() <= 0.8
    assert (after[before.argsort()].diff() >= 0).all()
    # The mean of |x| of the truncated normal distribution: (p(0) - p(t)) / (P(t) - 1/2).
    p0, pt = (math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (0, 0.8))
    expected = (p0 - pt) / (0.5 * math.erf(0.8 / math.sqrt(2)))
    assert after.abs().mean().item() == pytest.approx(expected, rel=0.01)
