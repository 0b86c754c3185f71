import pytest
import torch
import torch.nn.functional as F
from captum.robust import FGSM

import data_tools
from inside_cnn.interpretability import adversarial
from inside_cnn.interpretability.adversarial import (
    ATTACKS,
    STEPS,
    full_attack,
    limits,
    loss_gradient,
    predict,
    projected_gradient,
    random_noise,
    signed_step,
    study,
)
from inside_cnn.interpretability.network import Network
from networks import as_network


@pytest.fixture
def network(trained):
    return as_network(trained)


@pytest.fixture
def test_images():
    _, test = data_tools.load_shapes()
    return test.images[:200].clone(), test.labels[:200]


def predicted(network, levels):
    return predict(network, levels.float()).argmax(1)


def accuracy(network, levels, labels):
    return 100 * (predicted(network, levels) == labels).double().mean().item()


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def few_starts(monkeypatch):
    """Four starts of the full attack, for speed."""
    monkeypatch.setattr(adversarial, "TARGETS", 2)
    monkeypatch.setattr(adversarial, "RESTARTS", 2)


def test_no_pixel_changes_by_more_than_epsilon(network, test_images, few_starts):
    """Exactly: float64 differences of levels that float32 represents exactly."""
    (images, labels), epsilon = (part[:4] for part in test_images), 0.5
    images[0], images[1] = 0, 255  # the edges of the range
    stream = seeded()
    gradient, _ = loss_gradient(network, images.float(), labels)
    moved = {
        "noise": random_noise(images, epsilon, stream),
        "step": signed_step(images, gradient, epsilon),
        "targeted": signed_step(images, gradient, epsilon, targeted=True),
        "pgd": projected_gradient(network, images, labels, epsilon, generator=stream)[0],
        "full attack": full_attack(network, images, labels, epsilon, generator=stream)[0],
    }
    for name, levels in moved.items():
        assert levels.dtype == torch.float32
        change = (levels.double() - images.double()).abs()
        assert change.max() <= epsilon, name
        assert change.max() > 0.4 * epsilon, name
        assert levels.min() >= 0, name
        assert levels.max() <= 255, name


def test_loss_gradient_by_hand(network, test_images):
    images, labels = (part[:4] for part in test_images)
    rivals, index = (labels + 4) % 10, torch.arange(4)
    x = data_tools.to_signed(images).requires_grad_()
    logits = network.logits(x)
    targeted = logits[index, rivals] - logits[index, labels]
    for loss, options in (
        (F.cross_entropy(logits, labels, reduction="sum"), {}),
        (margin(logits, labels).sum(), {"margin": True}),
        (targeted.sum(), {"margin": True, "rivals": rivals}),
    ):
        (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
        gradient, same_logits = loss_gradient(network, images.float(), labels, **options)
        assert torch.allclose(same_logits, logits, atol=1e-5)
        largest = expected.abs().max()
        assert largest > 1e-3
        assert torch.allclose(127.5 * gradient, expected, rtol=1e-3, atol=1e-4 * largest)


def margin(logits, classes):
    """The largest other logit minus that of the class."""
    others = logits.masked_fill(F.one_hot(classes, 10).bool(), -torch.inf)
    return others.amax(1) - logits.gather(1, classes[:, None])[:, 0]


def captums_step(network):
    """captum's attack, on levels. It treats gradients below 1e-6 as 0: the loss is enlarged."""
    return FGSM(
        lambda levels: network.logits(levels / 127.5 - 1),
        lambda logits, classes: 1e6 * margin(logits, classes),
        lower_bound=0.0,
        upper_bound=255.0,
    )


def test_attacks_fool_in_the_expected_order(network, test_images):
    images, labels = (part[:100] for part in test_images)
    clean = accuracy(network, images, labels)
    stream = seeded()
    gradient, _ = loss_gradient(network, images.float(), labels)
    noise = accuracy(network, random_noise(images, 16, stream), labels)
    step = accuracy(network, signed_step(images, gradient, 16), labels)
    pgd, _ = projected_gradient(network, images, labels, 16, generator=stream)
    assert clean > 80
    assert noise > step + 5
    assert step >= accuracy(network, pgd, labels)
    assert accuracy(network, pgd, labels) < clean - 30


def test_float32_decides_which_images_are_fooled():
    """Class 1 is predicted for both; in bfloat16 both logits are 256, and class 0 is predicted."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    model.requires_grad_(False)[1].bias.copy_(torch.tensor([256.1, 256.9]))
    model[1].weight[0], model[1].weight[1] = 1e-5, -1e-5
    network = Network("near tie", model, has_scores=False)
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    assert predicted(network, images).tolist() == [1, 1]
    assert predict(network.at("bf16"), images.float()).argmax(1).tolist() == [0, 0]
    labels = torch.tensor([0, 1])
    for attacked in (network, network.at("bf16")):
        (start, _), (moved, evaluations) = (
            projected_gradient(attacked, images, labels, 8, steps=steps, generator=seeded())
            for steps in (0, 1)
        )
        assert evaluations.tolist() == [1, torch.inf]
        assert torch.equal(moved[1], (start[1] + 16).clamp(max=108))


def test_each_step_agrees_with_captum(network, test_images):
    """Four decreasing steps from the same start, clipped, of the images that are not yet fooled."""
    images, labels = test_images
    (ours, evaluations), (levels, _) = (
        projected_gradient(network, images, labels, 2, steps=steps, generator=seeded())
        for steps in (4, 0)
    )
    low, high = limits(images, 2)
    reference, counts = captums_step(network), []
    for step_size in (4.0, 3.0, 2.0, 1.0):
        going = predicted(network, levels) == labels
        counts.append(int(going.sum()))
        moved = levels[going].requires_grad_()
        moved = reference.perturb(moved, step_size, labels[going]).detach()
        levels[going] = moved.clamp(low[going], high[going])
    assert counts[0] > counts[-1] > 0
    assert (ours != levels).float().mean() < 5e-3  # gradients of about 0
    left = [int((evaluations > count).sum()) for count in (1, 2, 3)]
    assert left == pytest.approx(counts[:3], abs=1)


class OfBrightness(torch.nn.Module):
    """Logits that are functions of the brightness: (mean level - 100) / 4, 1 for 4/255 brighter."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        brightness = (127.5 * (images + 1) - 100).mean((1, 2, 3)) / 4
        logits = [logit(brightness) for logit in self.logits]
        return brightness, torch.stack(logits, dim=1) + 0 * brightness[:, None]


def gray_study(network):
    """A study of four gray images of class 0, with the full attack at 4/255."""
    images = torch.full((4, 3, 32, 32), 100, dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    return images, study(as_network(network), images, labels, [2.0, 4.0, 8.0], 4.0, [0])


def test_targets_fool_where_the_largest_other_logit_does_not():
    """Along the gradient of the decoy, the largest other logit on nearly all images, the class
    stays; toward the second target it changes."""
    network = OfBrightness(
        lambda brightness: 0 * brightness,
        lambda brightness: 0.05 * brightness.tanh() - 0.1,  # the decoy: never predicted
        lambda brightness: -1 - 1.5 * brightness,  # of dark images
    )
    images, (classes, _, evaluations) = gray_study(network)
    one_start, _ = projected_gradient(
        as_network(network), images, torch.zeros(4, dtype=torch.int64), 4, generator=seeded()
    )
    assert predicted(as_network(network), one_start).tolist() == [0] * 4
    assert classes["pgd"].tolist() == [[0] * 4, [2] * 4, [2] * 4]
    assert (evaluations > 2 * STEPS).all()
    assert (evaluations < 2 * STEPS + 10).all()


def test_a_robust_network_keeps_its_accuracy():
    """No perturbation of 4/255 changes the class; one of 8/255 does."""
    network = OfBrightness(lambda brightness: 0 * brightness, lambda brightness: brightness - 1.5)
    _, (classes, _, evaluations) = gray_study(network)
    assert classes["pgd"].tolist() == [[0] * 4, [0] * 4, [1] * 4]
    assert evaluations.isinf().all()


def test_study_predicts_the_images_of_each_attack(network, test_images, few_starts, monkeypatch):
    monkeypatch.setattr(adversarial, "BATCH", 8)
    images, labels = (part[:12] for part in test_images)
    epsilons, shown = [0.5, 4.0, 8.0], [10, *range(10), 11]
    classes_of, levels, evaluations = study(network, images, labels, epsilons, 4.0, shown)
    assert classes_of.keys() == set(ATTACKS)
    for rows in classes_of.values():
        assert rows.shape == (3, 12)
    for index, epsilon in enumerate(epsilons):
        assert (levels[index].double() - images[shown].double()).abs().max() <= epsilon
        assert torch.equal(classes_of["pgd"][index][shown], predicted(network, levels[index]))
        gradient, _ = loss_gradient(network, images.float(), labels)
        same = classes_of["step"][index] == predicted(
            network, signed_step(images, gradient, epsilon)
        )
        assert same.double().mean() > 0.9  # gradients of about 0
    right = classes_of["pgd"] == labels  # once fooled, fooled at every larger epsilon
    assert (right[1:] <= right[:-1]).all()
    assert torch.equal(right[1], evaluations.isinf())
    assert right[-1].sum() < (classes_of["noise"][-1] == labels).sum()
