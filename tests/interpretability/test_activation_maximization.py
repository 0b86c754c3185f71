from functools import partial

import pytest
import torch

from discriminator import Discriminator
from inside_cnn.interpretability import activation_maximization
from inside_cnn.interpretability.activation_maximization import (
    VIEWS,
    Views,
    ascent,
    from_spectra,
    held_out,
    random_view,
    robust_ascent,
    sample_maps,
    total_variation,
    transform,
)
from inside_cnn.interpretability.objectives import class_logit, feature
from networks import as_network


@pytest.fixture
def network():
    torch.manual_seed(0)
    return as_network(Discriminator(width=12).requires_grad_(False))


def seeded():
    return torch.Generator().manual_seed(0)


def test_one_step_of_the_ascent_by_hand():
    """Objective 3 x: the gradient is 3, so x = 0.5 goes to 0.5 + 0.1 * 3 - 0.2 * 0.25 = 0.75."""
    start = torch.full((1, 1, 1, 1), 0.5)
    moved = ascent(lambda x: 3 * x.sum((1, 2, 3)), start, steps=1, lr=0.1, decay=0.2)
    assert moved.item() == pytest.approx(0.75)
    # Decay is toward gray from both sides.
    moved = ascent(lambda x: 0 * x.sum((1, 2, 3)), -start, steps=1, lr=0.1, decay=0.2)
    assert moved.item() == pytest.approx(-0.45)


def test_one_amplitude_is_one_wave():
    spectrum = torch.zeros(1, 3, 32, 17, 2)
    spectrum[0, 0, 0, 2, 0] = 1.0  # brightness, two horizontal periods
    image = torch.atanh(from_spectra(spectrum))[0]
    wave = torch.cos(2 * torch.pi * 2 * torch.arange(32) / 32)
    expected = wave * 2 / 2 / 32  # both halves of the spectrum; scale 1/2; ortho: 1/sqrt(32 32)
    assert torch.allclose(image, expected.expand(3, 32, 32), atol=1e-6)
    assert from_spectra(1e4 * spectrum).abs().max() <= 1


def test_maps_by_hand(images):
    identity = torch.eye(2, 3).repeat(8, 1, 1)
    assert torch.allclose(transform(images, identity), images, atol=1e-5)
    translated = identity.clone()
    translated[:, 0, 2] = 2 * 3 / 32  # three pixels to the right
    assert torch.allclose(transform(images, translated)[..., :29], images[..., 3:], atol=1e-4)
    rotated = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]]).repeat(8, 1, 1)
    assert torch.allclose(transform(images, rotated), images.rot90(1, (2, 3)), atol=1e-4)


def test_sampled_views_have_the_stated_ranges():
    views = Views(translation=2 / 32, rotation=30, scale=0.2)
    maps = sample_maps(5000, views, seeded())
    scale = maps[:, :, :2].det().sqrt()
    assert 0.8 <= scale.min() < 0.81
    assert 1.19 < scale.max() <= 1.2
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert 29 < angle.max() <= 30.001
    assert -30.001 <= angle.min() < -29
    translation = maps[:, :, 2].abs() * 32 / 2
    assert 1.95 < translation.max() <= 2


def test_views_keep_their_center():
    """Center i % n is a fixed point of the map of image i."""
    centers = torch.tensor([[0.5, -0.75], [-1.0, 0.25]])
    views = Views(translation=0, rotation=30, scale=0.3, centers=centers)
    maps = sample_maps(50, views, seeded())
    points = torch.cat([centers, torch.ones(2, 1)], dim=1).repeat(25, 1)
    assert torch.allclose((maps @ points[:, :, None]).squeeze(2), points[:, :2], atol=1e-6)
    plain = sample_maps(50, views._replace(centers=None), seeded())
    assert torch.equal(maps[:, :, :2], plain[:, :, :2])


def test_a_view_is_a_map_and_noise(images):
    noise_only = Views(translation=0, rotation=0, scale=0, noise=0.3)
    noise = random_view(images, noise_only, seeded()) - images
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(noise.mean().item()) < 0.01
    expected = transform(images, sample_maps(8, VIEWS, seeded()))
    assert torch.equal(random_view(images, VIEWS._replace(noise=0.0), seeded()), expected)


def test_total_variation_by_hand():
    image = torch.zeros(1, 1, 2, 3)
    image[0, 0, 0, 1] = 1.0
    assert total_variation(image).item() == pytest.approx(1 / 3 + 2 / 4)


def test_the_best_restart_is_returned():
    batch_sizes = []

    def prefers_later(images):  # the same for all images of one restart
        batch_sizes.append(len(images))
        return images.mean((1, 2, 3)) * 0 + torch.arange(len(images)) // 10

    best = robust_ascent(prefers_later, 10, steps=0, restarts=3)
    spectra = 0.1 * torch.randn(30, 3, 32, 17, 2, generator=seeded())
    assert torch.equal(best, from_spectra(spectra)[20:])
    assert set(batch_sizes) == {30}
    assert 0.001 < best.std() < best.abs().max() < 0.5  # nearly gray


def test_robust_images_generalize_over_views():
    """The objective is a checkerboard, three times as strong as a vertical gradient.

    Plain ascent finds the checkerboard, which has no effect in other views; robust ascent the
    gradient.
    """
    line = torch.arange(32)
    checkerboard = 1.0 - 2 * ((line[:, None] + line) % 2)
    ramp = torch.linspace(1, -1, 32)[:, None].expand(32, 32)

    def objective(images):
        return ((3 * checkerboard + ramp) * images.mean(1)).mean((1, 2))

    plain = ascent(objective, torch.zeros(4, 3, 32, 32), steps=60, lr=100.0)
    robust = robust_ascent(objective, 4, steps=60)
    assert objective(plain).min() > 2.9  # of 3
    assert held_out(objective, plain).max() < 0.05
    assert held_out(objective, robust).min() > 0.08


def test_parts_of_a_large_batch_give_the_same_images(network, monkeypatch):
    def images():
        objective = partial(feature(3, torch.arange(4)), network)
        return robust_ascent(objective, 4, steps=3, restarts=2, smoothness=1.0)

    whole = images()
    monkeypatch.setattr(activation_maximization, "PIXELS", 1)
    torch.testing.assert_close(images(), whole, rtol=0, atol=1e-4)


def views_of(network, **options):
    """The views that 20 steps pass to the objective, before the held-out ones, and the images."""
    views = []

    def objective(images):
        views.append(images.detach())
        return class_logit(torch.arange(10))(network, images)

    images = robust_ascent(objective, 10, steps=20, restarts=1, **options)
    return views[:20], images


def test_smoothness_starts_after_a_quarter_of_the_steps(network):
    (first, rough), (second, smooth) = (views_of(network, smoothness=s) for s in (0.0, 200.0))
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    # The first step with a weight is the seventh (index 6), the first image after it the eighth.
    assert same == [True] * 7 + [False] * 13
    assert (total_variation(smooth) < 0.6 * total_variation(rough)).all()


def test_views_shrink_in_the_last_steps(network):
    (first, _), (second, final) = (views_of(network, settle=s) for s in (0.0, 0.25))
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [True] * 16 + [False] * 4  # at step 15 the factor is still 1
    assert (second[-1] - final).abs().mean() < 0.5 * (first[-1] - final).abs().mean()
