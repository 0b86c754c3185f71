import pytest
import torch

from discriminator import Discriminator
from interpretability import activation_maximization
from interpretability.activation_maximization import (
    VIEWS,
    Spectra,
    Views,
    class_objective,
    look,
    maximise_robustly,
    sample_maps,
    total_variation,
    transform,
)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Discriminator(width=12).requires_grad_(False)


def test_spectra_begin_nearly_grey_and_stay_in_range():
    spectra = Spectra(4, torch.Generator().manual_seed(0))
    images = spectra()
    assert images.shape == (4, 3, 32, 32)
    assert images.abs().max() < 0.5
    assert images.std() > 0.001
    with torch.no_grad():
        spectra.spectrum.mul_(1e4)
    assert spectra().abs().max() <= 1


def test_one_amplitude_is_one_wave():
    spectra = Spectra(1)
    with torch.no_grad():
        spectra.spectrum.zero_()
        spectra.spectrum[0, 0, 0, 2, 0] = 1.0  # brightness, two waves across
    image = torch.atanh(spectra())[0]
    wave = torch.cos(2 * torch.pi * 2 * torch.arange(32) / 32)
    expected = wave * 2 / 2 / 32  # both halves of the spectrum; a fall of 1/2; ortho: 1/sqrt(32 32)
    assert torch.allclose(image, expected.expand(3, 32, 32), atol=1e-6)


def test_maps_by_hand(images):
    neutral = torch.eye(2, 3).repeat(8, 1, 1)
    assert torch.allclose(transform(images, neutral), images, atol=1e-5)
    moved = neutral.clone()
    moved[:, 0, 2] = 2 * 3 / 32  # the window three pixels to the right
    assert torch.allclose(transform(images, moved)[..., :29], images[..., 3:], atol=1e-4)
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]]).repeat(8, 1, 1)
    assert torch.allclose(transform(images, turned), images.rot90(1, (2, 3)), atol=1e-4)


def test_sampled_views_have_the_stated_ranges():
    views = Views(shift=2, turn=30, zoom=0.2)
    maps = sample_maps(5000, views, torch.Generator().manual_seed(0))
    scale = maps[:, :, :2].det().sqrt()
    assert 0.8 <= scale.min() < 0.81
    assert 1.19 < scale.max() <= 1.2
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert 29 < angle.max() <= 30.001
    assert -30.001 <= angle.min() < -29
    shift = maps[:, :, 2].abs() * 32 / 2
    assert 1.95 < shift.max() <= 2


def test_a_look_is_a_map_and_noise(images):
    still = Views(shift=0, turn=0, zoom=0, noise=0.3)
    disturbance = look(images, still, torch.Generator().manual_seed(0)) - images
    assert disturbance.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(disturbance.mean().item()) < 0.01
    quiet, noisy = (
        look(images, VIEWS._replace(noise=noise), torch.Generator().manual_seed(0))
        for noise in (0.0, 0.1)
    )
    assert (noisy - quiet).std().item() == pytest.approx(0.1, rel=0.02)
    expected = transform(images, sample_maps(8, VIEWS, torch.Generator().manual_seed(0)))
    assert torch.equal(quiet, expected)


def test_total_variation_by_hand():
    image = torch.zeros(1, 1, 2, 3)
    image[0, 0, 0, 1] = 1.0
    assert total_variation(image).item() == pytest.approx(1 / 3 + 2 / 4)


def test_restarts_keep_the_best_and_the_seed_fixes_all(network):
    objective = class_objective(network)
    one = maximise_robustly(objective, 10, steps=10, restarts=1)
    assert torch.equal(one, maximise_robustly(objective, 10, steps=10, restarts=1))
    assert not torch.equal(one, maximise_robustly(objective, 10, steps=10, restarts=1, seed=1))

    asked = []

    def prefers_later(images):  # the same for all images of one restart
        asked.append(len(images))
        return images.mean((1, 2, 3)) * 0 + torch.arange(len(images)) // 10

    found = maximise_robustly(prefers_later, 10, steps=1, restarts=3)
    assert set(asked) == {30}
    spectra = Spectra(30, torch.Generator().manual_seed(0))
    assert (found - spectra()[20:]).abs().max() < 0.2  # one small step away from the last start
    assert (found - spectra()[:10]).abs().max() > (found - spectra()[20:]).abs().max()


def test_total_variation_grows_from_nothing(network, monkeypatch):
    """Nothing in the first quarter, then in a straight line toward `smoothness`."""
    objective = class_objective(network)
    original = torch.autograd.grad
    losses, parts = [], []

    def variation(images):
        parts.append(torch.ones(len(images)))
        return parts[-1]  # constant: only the loss tells its weight

    def gradient(loss, *rest):
        losses.append(loss.item())
        return original(loss, *rest)

    monkeypatch.setattr(activation_maximization, "total_variation", variation)
    monkeypatch.setattr(torch.autograd, "grad", gradient)
    for smoothness in (0.0, 8.0):
        maximise_robustly(objective, 10, steps=4, restarts=1, smoothness=smoothness)
    weights = [
        (with_it - without) / 10 for without, with_it in zip(losses[:4], losses[4:], strict=True)
    ]
    assert weights == pytest.approx([0, 0, 8 / 3, 16 / 3], abs=1e-3)
