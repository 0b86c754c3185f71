import pytest
import torch

from discriminator import Discriminator
from inside_cnn.interpretability.activation_maximization import (
    VIEWS,
    Spectra,
    Views,
    class_objective,
    feature_objective,
    held_out,
    maximize,
    maximize_robustly,
    random_view,
    sample_maps,
    smoothness_at,
    total_variation,
    transform,
    unit_objective,
    views_at,
)
from networks import as_network


@pytest.fixture
def network():
    torch.manual_seed(0)
    return as_network(Discriminator(width=12).requires_grad_(False))


def seeded():
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------------------ objectives


def test_objectives_pick_the_diagonal(network, images):
    logits = network.logits(images)
    assert torch.equal(class_objective(network)(images), logits.diagonal())
    pooled = network.activations(images, 3).amax((2, 3))
    values = feature_objective(network, 3)(images)
    assert torch.equal(values, pooled.diagonal())


def test_units_at_their_positions(network, images):
    features, positions = torch.tensor([7, 2]), torch.tensor([[0, 3], [7, 7]])
    values = unit_objective(network, 4, features, positions)(images)
    maps = network.activations(images, 4)
    expected = [maps[i, 2, 7, 7] if i % 2 else maps[i, 7, 0, 3] for i in range(8)]
    assert torch.equal(values, torch.stack(expected))


def test_features_by_index(network, images):
    pooled = network.activations(images, 3).amax((2, 3))
    values = feature_objective(network, 3, features=torch.tensor([7, 2, 7]))(images)
    assert torch.equal(values, pooled[torch.arange(8), torch.tensor([7, 2, 7, 7, 2, 7, 7, 2])])


# ------------------------------------------------------------------------------ plain ascent


def objectives(network):
    yield "class", class_objective(network)
    for layer in (1, 4, 8):
        yield f"layer {layer}", feature_objective(network, layer)


def test_every_objective_rises(network):
    start = torch.zeros(10, 3, 32, 32) + 0.1
    for name, objective in objectives(network):
        images = maximize(objective, start, steps=20)
        before, after = objective(start), objective(images)
        assert images.shape == start.shape, name
        assert images.abs().max() <= 1, name
        assert (after >= before).all(), name
        assert after.mean() > before.mean() + 0.1, name
        assert (start == 0.1).all(), name  # reset between layers: nobody wrote to it


def test_one_step_of_the_ascent_by_hand():
    """Objective 3 x: the gradient is 3, so x = 0.5 goes to 0.5 + 0.1 * 3 - 0.2 * 0.25 = 0.75."""
    start = torch.full((1, 1, 1, 1), 0.5)
    moved = maximize(lambda x: 3 * x.sum((1, 2, 3)), start, steps=1, lr=0.1, decay=0.2)
    assert moved.item() == pytest.approx(0.75)
    # Decay pulls toward grey from both sides.
    moved = maximize(lambda x: 0 * x.sum((1, 2, 3)), -start, steps=1, lr=0.1, decay=0.2)
    assert moved.item() == pytest.approx(-0.45)


# ------------------------------------------------------------------------------ spectra and views


def test_spectra_begin_nearly_grey_and_stay_in_range():
    spectra = Spectra(4, seeded())
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
    maps = sample_maps(5000, views, seeded())
    scale = maps[:, :, :2].det().sqrt()
    assert 0.8 <= scale.min() < 0.81
    assert 1.19 < scale.max() <= 1.2
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert 29 < angle.max() <= 30.001
    assert -30.001 <= angle.min() < -29
    shift = maps[:, :, 2].abs() * 32 / 2
    assert 1.95 < shift.max() <= 2


def test_views_about_a_center_leave_it_in_place():
    """Of image i the center i % n: the point that all its maps take to itself."""
    centers = torch.tensor([[0.5, -0.75], [-1.0, 0.25]])
    views = Views(shift=0, turn=30, zoom=0.3, centers=centers)
    maps = sample_maps(50, views, seeded())
    points = torch.cat([centers, torch.ones(2, 1)], dim=1).repeat(25, 1)
    assert torch.allclose((maps @ points[:, :, None]).squeeze(2), points[:, :2], atol=1e-6)
    plain = sample_maps(50, views._replace(centers=None), seeded())
    assert torch.equal(maps[:, :, :2], plain[:, :, :2])


def test_views_settle_at_the_end():
    shifts = [views_at(step, 8, Views(shift=4.0), 0.5).shift for step in range(8)]
    assert shifts == [4, 4, 4, 4, 4, 3, 2, 1]
    assert views_at(7, 8, VIEWS, 0.0) == VIEWS


def test_a_view_is_a_map_and_noise(images):
    still = Views(shift=0, turn=0, zoom=0, noise=0.3)
    disturbance = random_view(images, still, seeded()) - images
    assert disturbance.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(disturbance.mean().item()) < 0.01
    quiet, noisy = (
        random_view(images, VIEWS._replace(noise=noise), seeded()) for noise in (0.0, 0.1)
    )
    assert (noisy - quiet).std().item() == pytest.approx(0.1, rel=0.02)
    expected = transform(images, sample_maps(8, VIEWS, seeded()))
    assert torch.equal(quiet, expected)


def test_total_variation_by_hand():
    image = torch.zeros(1, 1, 2, 3)
    image[0, 0, 0, 1] = 1.0
    assert total_variation(image).item() == pytest.approx(1 / 3 + 2 / 4)


# ------------------------------------------------------------------------------ robust ascent


def test_restarts_keep_the_best_and_the_seed_fixes_all(network):
    objective = class_objective(network)
    one = maximize_robustly(objective, 10, steps=10, restarts=1)
    assert torch.equal(one, maximize_robustly(objective, 10, steps=10, restarts=1))
    assert not torch.equal(one, maximize_robustly(objective, 10, steps=10, restarts=1, seed=1))

    batch_sizes = []

    def prefers_later(images):  # the same for all images of one restart
        batch_sizes.append(len(images))
        return images.mean((1, 2, 3)) * 0 + torch.arange(len(images)) // 10

    best = maximize_robustly(prefers_later, 10, steps=1, restarts=3)
    assert set(batch_sizes) == {30}
    start = Spectra(30, seeded())()
    assert (best - start[20:]).abs().max() < 0.2  # one small step away from the last start
    assert (best - start[:10]).abs().max() > (best - start[20:]).abs().max()


def test_no_pattern_that_a_small_move_undoes():
    """A chessboard excites three times as much as light from above, but lies in one place only.

    Plain ascent takes the chessboard, which is worth nothing in other views; robust ascent, the
    light.
    """
    line = torch.arange(32)
    chessboard = 1.0 - 2 * ((line[:, None] + line) % 2)
    light = torch.linspace(1, -1, 32)[:, None].expand(32, 32)

    def objective(images):
        return ((3 * chessboard + light) * images.mean(1)).mean((1, 2))

    plain = maximize(objective, torch.zeros(4, 3, 32, 32), steps=60, lr=100.0)
    robust = maximize_robustly(objective, 4, steps=60)
    assert objective(plain).min() > 2.9  # of 3
    assert held_out(objective, plain).max() < 0.05
    assert held_out(objective, robust).min() > 0.08


def test_the_weight_of_smoothness_by_hand():
    """Nothing in the first quarter, then in a straight line toward `smoothness`."""
    weights = [smoothness_at(step, 8, 6.0) for step in range(8)]
    assert weights == pytest.approx([0, 0, 0, 1, 2, 3, 4, 5])


def test_smoothness_sets_in_after_a_quarter_of_the_steps(network):
    """What the network sees is the same until then; in the end the images are smoother."""
    seen = {}

    def climb(smoothness):
        views = seen[smoothness] = []

        def objective(images):
            views.append(images.detach())
            return class_objective(network)(images)

        return maximize_robustly(objective, 10, steps=20, restarts=1, smoothness=smoothness)

    rough, smooth = climb(0.0), climb(200.0)
    same = [torch.equal(a, b) for a, b in zip(seen[0.0][:20], seen[200.0][:20], strict=True)]
    # The first step with a weight is the seventh (index 6), the first image after it the eighth.
    assert same == [True] * 7 + [False] * 13
    assert (total_variation(smooth) < 0.6 * total_variation(rough)).all()
