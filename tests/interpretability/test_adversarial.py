import copy
import warnings

import pytest
import torch

import data_tools
from interpretability.adversarial import (
    ATTACKS,
    _ascent,
    logits_of,
    projected_gradient,
    random_noise,
    signed_step,
    smallest_flip,
    study,
)


@pytest.fixture
def network(trained):
    return trained


@pytest.fixture(scope="module")
def all_images():
    _, test = data_tools.load_shapes()
    return test.images[:800], test.labels[:800]


@pytest.fixture
def test_images(all_images):
    images, labels = all_images
    return images[:200].clone(), labels[:200]


def accuracy(network, levels, labels):
    logits = logits_of(network, levels.float())
    return 100 * (logits.argmax(1) == labels).double().mean().item()


EPSILONS = [0.0625, 0.5, 1.0, 8.0, 16.0]


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_no_pixel_moves_by_more_than_epsilon(network, test_images, epsilon):
    """To the last bit: float64 differences of levels that float32 holds exactly."""
    images, labels = (t[:20] for t in test_images)
    images[0], images[1] = 0, 255  # the edges of the range
    stream = torch.Generator().manual_seed(0)
    moved = {
        "noise": random_noise(images, epsilon, stream),
        "step": signed_step(network, images, labels, epsilon),
        "targeted": signed_step(network, images, labels, epsilon, (labels + 1) % 10),
        "pgd": projected_gradient(network, images, labels, epsilon, generator=stream),
        "pgd, large steps": projected_gradient(
            network, images, labels, epsilon, (labels + 1) % 10, step_size=40.0, generator=stream
        ),
    }
    for name, levels in moved.items():
        assert levels.dtype == torch.float32
        change = (levels.double() - images.double()).abs()
        assert change.max() <= epsilon, name
        assert change.max() > 0.4 * epsilon, name
        assert levels.min() >= 0, name
        assert levels.max() <= 255, name


def test_signed_step_by_hand(network, test_images):
    images, labels = (t[:20] for t in test_images)
    for targets, sign in ((None, 1), ((labels + 3) % 10, -1)):
        x = data_tools.to_signed(images).requires_grad_()
        wanted = labels if targets is None else targets
        loss = torch.nn.functional.cross_entropy(network(x)[1], wanted, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        expected = (images.float() + sign * 4 * gradient.sign()).clamp(0, 255)
        ours = signed_step(network, images, labels, 4, targets)
        assert (ours != expected).float().mean() < 1e-3  # gradients at rounding's edge of 0


@pytest.mark.parametrize("targeted", [False, True])
def test_the_gradient_of_the_margin_by_hand(network, test_images, targeted):
    images, labels = (t[:20] for t in test_images)
    targets = (labels + 3) % 10 if targeted else None
    x = data_tools.to_signed(images).requires_grad_()
    loss = 0
    for row, wanted in zip(network(x)[1], labels if targets is None else targets, strict=True):
        others = torch.cat([row[:wanted], row[wanted + 1 :]])
        loss = loss + others.max() - row[wanted]
    (gradient,) = torch.autograd.grad(-loss if targeted else loss, x)
    ours = _ascent(network, images.float(), labels, targets, "fp32", margin=True)
    assert (ours.sign() != gradient.sign()).float().mean() < 1e-3  # rounding's edge of 0


def test_a_sure_network_hides_from_cross_entropy_but_not_from_the_margin(network, test_images):
    """Logits a hundred times as large: where softmax is 1 to the last bit, there is no gradient."""
    images, labels = test_images
    sure = copy.deepcopy(network)
    with torch.no_grad():
        sure.class_head.weight.mul_(100)
        sure.class_head.bias.mul_(100)
    left = {}
    for name, model in (("plain", network), ("sure", sure)):
        for margin in (False, True):
            stream = torch.Generator().manual_seed(0)
            moved = projected_gradient(model, images, labels, 8, generator=stream, margin=margin)
            left[name, margin] = accuracy(network, moved, labels)
    assert left["sure", True] == pytest.approx(left["plain", True], abs=1)
    assert left["sure", False] > left["sure", True] + 5


def test_attacks_mislead_in_the_expected_order(network, test_images):
    images, labels = test_images
    clean = accuracy(network, images, labels)
    stream = torch.Generator().manual_seed(0)
    noise = accuracy(network, random_noise(images, 8, stream), labels)
    step = accuracy(network, signed_step(network, images, labels, 8), labels)
    pgd = projected_gradient(network, images, labels, 8, generator=stream)
    assert clean > 80
    assert noise > step + 5
    assert step >= accuracy(network, pgd, labels)
    assert accuracy(network, pgd, labels) < clean - 30
    targets = (labels + 1) % 10
    reached = projected_gradient(network, images, labels, 16, targets, generator=stream)
    assert accuracy(network, reached, targets) > accuracy(network, images, targets) + 20


def test_an_image_is_left_alone_once_it_is_misled(network, test_images):
    """Where the random start misleads already, no step is taken; elsewhere all are."""
    images, labels = test_images
    stream = torch.Generator().manual_seed(0)
    start = projected_gradient(network, images, labels, 8, steps=1, step_size=0.0, generator=stream)
    stream = torch.Generator().manual_seed(0)
    moved = projected_gradient(network, images, labels, 8, steps=1, step_size=2.0, generator=stream)
    misled = logits_of(network, start).argmax(1) != labels
    assert 0 < misled.sum() < len(images)
    assert torch.equal(moved[misled], start[misled])
    change = (moved - start).flatten(1).abs().amax(1)
    assert (change[~misled] > 1.9).all()


@pytest.fixture
def foolbox():
    with warnings.catch_warnings():
        # Its import names modules of scipy by their old places.
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox

        return foolbox


@pytest.mark.parametrize("epsilon", [2, 8])
def test_accuracies_agree_with_foolbox(network, all_images, foolbox, epsilon):
    """Within half a point, of which the random starts alone take some."""
    images, labels = all_images
    model = torch.nn.Sequential(network, Second())
    theirs = foolbox.PyTorchModel(
        model.eval(), bounds=(0, 1), preprocessing={"mean": 0.5, "std": 0.5}, device="cpu"
    )
    x = images.float() / 255
    stream = torch.Generator().manual_seed(0)
    for targets in (None, (labels + 1) % 10):
        goal = labels
        if targets is not None:
            goal = foolbox.criteria.TargetedMisclassification(targets)
        for name, ours, attack in (
            (
                "step",
                signed_step(network, images, labels, epsilon, targets),
                foolbox.attacks.LinfFastGradientAttack(),
            ),
            (
                "pgd",
                projected_gradient(network, images, labels, epsilon, targets, generator=stream),
                foolbox.attacks.LinfPGD(steps=20, rel_stepsize=2.5 / 20),
            ),
        ):
            if name == "step" and targets is not None:
                continue  # foolbox knows it without targets only
            torch.manual_seed(0)
            _, moved, _ = attack(theirs, x, goal, epsilons=epsilon / 255)
            wanted = labels if targets is None else targets
            difference = accuracy(network, ours, wanted) - accuracy(network, moved * 255, wanted)
            assert abs(difference) <= 0.5 + 1e-9, (name, targets is not None)


class Second(torch.nn.Module):
    """(scores, class logits) -> class logits."""

    def forward(self, outputs):
        return outputs[1]


def test_study_names_what_each_attack_makes(network, test_images):
    images, labels = (t[:60] for t in test_images)
    targets = (labels + 1) % 10
    epsilons = [0.5, 2.0, 8.0]
    named, found = study(network, images, labels, epsilons, 10, batch_size=25)
    assert named.keys() == set(ATTACKS)
    for rows in named.values():
        assert rows.shape == (3, 60)
    for index, epsilon in enumerate(epsilons):
        assert (found[index].double() - images.double()).abs().max() <= epsilon
        assert torch.equal(named["pgd"][index], logits_of(network, found[index]).argmax(1))
        for attack, wanted in (("step", None), ("step_targeted", targets)):
            moved = signed_step(network, images, labels, epsilon, wanted)
            again = logits_of(network, moved).argmax(1)
            assert (named[attack][index] == again).double().mean() > 0.95  # rounding at 0
    right = named["pgd"] == labels  # once misled, misled at every larger epsilon
    assert (right[1:] <= right[:-1]).all()
    reached = named["pgd_targeted"] == targets
    assert (reached[1:] >= reached[:-1]).all()
    assert right[-1].sum() < (named["noise"][-1] == labels).sum()
    assert reached[-1].sum() > (named["noise"][-1] == targets).sum()
    again, _ = study(network, images, labels, epsilons, 10, batch_size=25)
    assert all(torch.equal(named[name], again[name]) for name in named)

    smallest = smallest_flip(right, epsilons)
    for image, flip in enumerate(smallest.tolist()):
        rows = zip(epsilons, right[:, image], strict=True)
        misled = [epsilon for epsilon, withstands in rows if not withstands]
        assert flip == (misled[0] if misled else float("inf"))
