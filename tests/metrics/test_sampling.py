import math

import pytest
import torch

from generator import Generator
from inside_cnn.metrics import sampling


@pytest.fixture
def generator():
    torch.manual_seed(0)
    model = Generator(8)
    model(torch.randn(64, 100))  # statistics for BatchNorm
    return model.eval()


def test_labels_take_turns():
    assert sampling.sample_labels(12).tolist() == [*range(10), 0, 1]
    assert sampling.sample_labels(5, [3, 7]).tolist() == [3, 7, 3, 7, 3]


def test_latents_depend_on_the_seed_and_the_index_only():
    labels = sampling.sample_labels(2500)
    latents = sampling.latents_of(labels, 100, seed=1)
    assert latents.shape == (2500, 100)
    assert torch.equal(latents[:, :10].argmax(1), labels)
    assert torch.equal(latents[:1203], sampling.latents_of(labels[:1203], 100, seed=1))
    others = sampling.latents_of(torch.zeros_like(labels), 100, seed=1)
    assert torch.equal(latents[:, 10:], others[:, 10:])
    assert not torch.equal(latents, sampling.latents_of(labels, 100, seed=2))
    noise = latents[:, 10:]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert noise.unique(dim=0).shape[0] == 2500  # no block repeats another


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_images_whatever_the_batch_size(generator, precision):
    latents = sampling.latents_of(sampling.sample_labels(501), 100, seed=0)
    whole = sampling.draw(generator, latents, 500, precision)
    assert whole.dtype == torch.uint8
    assert whole.shape == (501, 3, 32, 32)
    for size in (1, 64):
        assert torch.equal(sampling.draw(generator, latents, size, precision), whole)


def test_drawing_uses_the_stored_statistics_and_leaves_the_mode(generator):
    generator.train()
    before = generator.project[1].running_mean.clone()
    sampling.draw(generator, torch.randn(3, 100))
    assert generator.training
    assert torch.equal(generator.project[1].running_mean, before)


def test_walks():
    within, between = sampling.walks(100, seed=0)
    assert within.shape == between.shape == (100, 100)
    steps = within.view(10, 10, 100)
    assert torch.equal(steps[:, :, :10].argmax(2), torch.arange(10)[:, None].expand(10, 10))
    lengths = steps[:, :, 10:].norm(dim=2)
    assert (lengths > 7).all()  # a straight line would fall to sqrt(90 / 2) = 6.7 halfway
    steps = between.view(10, 10, 100)
    assert torch.equal(steps[:, 0, 10:], steps[:, 9, 10:])
    assert torch.equal(steps[:, 0, :10].argmax(1), torch.arange(10))
    assert torch.equal(steps[:, 9, :10].argmax(1), (torch.arange(10) + 1) % 10)
    assert torch.allclose(steps[:, :, :10].sum(2), torch.ones(10, 10))
    for latents in sampling.walks(100, seed=0, truncation=0.8):
        ends = latents.view(10, 10, 100)[:, [0, 9], 10:]
        assert 0.7 < ends.abs().max() <= 0.8


def test_truncated_noise_keeps_its_rank_within_the_limit():
    labels = sampling.sample_labels(3000)
    plain, cut = (sampling.latents_of(labels, 100, 1, truncation=t) for t in (None, 0.8))
    assert torch.equal(plain[:, :10], cut[:, :10])  # the code of the class
    before, after = plain[:, 10:].flatten(), cut[:, 10:].flatten()
    assert after.abs().max() <= 0.8
    order = before.argsort()
    assert (after[order].diff() >= 0).all()
    # The mean of |x| of a normal distribution that is cut there: (p(0) - p(t)) / (P(t) - 1/2).
    p0, pt = (math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (0, 0.8))
    expected = (p0 - pt) / (0.5 * math.erf(0.8 / math.sqrt(2)))
    assert after.abs().mean().item() == pytest.approx(expected, rel=0.01)
    wide = sampling.latents_of(labels, 100, 1, truncation=30)
    assert torch.allclose(wide, plain, atol=1e-5)


def test_slerp_of_equal_vectors():
    a = torch.randn(3, 5)
    assert torch.allclose(sampling.slerp(a, a.clone(), 0.3), a)


def test_the_latent_of_one_image_is_that_among_many():
    labels = sampling.sample_labels(2100)
    latents = sampling.latents_of(labels, 30, seed=3)
    for index in (0, 7, 999, 1003, 2057):
        one = sampling.latent_of(index % 10, index // 10, 30, seed=3)
        assert torch.equal(one[0], latents[index])
