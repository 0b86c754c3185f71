import copy

import pytest
import torch
import torch.nn.functional as F
from captum.robust import FGSM

import data_tools
from interpretability.adversarial import (
    ATTACKS,
    class_logits,
    limits,
    loss_gradient,
    predict,
    projected_gradient,
    random_noise,
    signed_step,
    smallest_flip,
    study,
)


@pytest.fixture
def network(trained):
    return trained


@pytest.fixture
def test_images():
    _, test = data_tools.load_shapes()
    return test.images[:200].clone(), test.labels[:200]


@pytest.fixture
def few_images(test_images):
    return tuple(part[:20] for part in test_images)


def named(network, levels):
    return predict(network, levels.float()).argmax(1)


def accuracy(network, levels, labels):
    return 100 * (named(network, levels) == labels).double().mean().item()


def seeded():
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------------------ gradients, one step


EPSILONS = [0.0625, 0.5, 1.0, 8.0, 16.0]


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_no_pixel_moves_by_more_than_epsilon(network, few_images, epsilon):
    """To the last bit: float64 differences of levels that float32 holds exactly."""
    images, labels = few_images
    images[0], images[1] = 0, 255  # the edges of the range
    stream = seeded()
    targets = (labels + 1) % 10
    gradient, _ = loss_gradient(network, images.float(), labels)
    moved = {
        "noise": random_noise(images, epsilon, stream),
        "step": signed_step(images, gradient, epsilon),
        "targeted": signed_step(images, gradient, epsilon, targeted=True),
        "pgd": projected_gradient(network, images, labels, epsilon, generator=stream),
        "pgd, large steps": projected_gradient(
            network, images, targets, epsilon, targeted=True, step_size=40.0, generator=stream
        ),
    }
    for name, levels in moved.items():
        assert levels.dtype == torch.float32
        change = (levels.double() - images.double()).abs()
        assert change.max() <= epsilon, name
        assert change.max() > 0.4 * epsilon, name
        assert levels.min() >= 0, name
        assert levels.max() <= 255, name


def test_the_gradient_of_the_cross_entropy_by_hand(network, few_images):
    images, labels = few_images
    levels = images.float()
    gradient, logits = loss_gradient(network, levels, labels)
    assert not levels.requires_grad
    assert torch.equal(levels, images.float())
    x = data_tools.to_signed(images).requires_grad_()
    expected_logits = network(x)[1]
    loss = F.cross_entropy(expected_logits, labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, x)
    assert torch.allclose(logits, expected_logits, atol=1e-5)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(127.5 * gradient, expected, rtol=1e-3, atol=1e-5)


def test_the_gradient_of_the_margin_by_hand(network, few_images):
    images, labels = few_images
    x = data_tools.to_signed(images).requires_grad_()
    loss = 0
    for row, label in zip(network(x)[1], labels, strict=True):
        loss = loss + torch.cat([row[:label], row[label + 1 :]]).max() - row[label]
    (expected,) = torch.autograd.grad(loss, x)
    gradient, _ = loss_gradient(network, images.float(), labels, margin=True)
    assert expected.abs().max() > 0.1
    assert torch.allclose(127.5 * gradient, expected, rtol=1e-3, atol=1e-4)


def captums_step(network):
    """captum's, on levels. It takes gradients up to 1e-6 for 0: the loss is enlarged."""
    return FGSM(
        lambda levels: class_logits(network, levels),
        lambda logits, classes: 1e6 * F.cross_entropy(logits, classes, reduction="none"),
        lower_bound=0.0,
        upper_bound=255.0,
    )


@pytest.mark.parametrize("epsilon", [0.5, 8])
@pytest.mark.parametrize("targeted", [False, True])
def test_signed_step_agrees_with_captum(network, test_images, epsilon, targeted):
    images, labels = test_images
    classes = (labels + 3) % 10 if targeted else labels
    gradient, _ = loss_gradient(network, images.float(), classes)
    ours = signed_step(images, gradient, epsilon, targeted)
    levels = images.float().requires_grad_()
    theirs = captums_step(network).perturb(levels, epsilon, classes, targeted=targeted)
    assert (ours != images).float().mean() > 0.9
    assert (ours != theirs).float().mean() < 1e-3  # gradients at rounding's edge of 0


def test_a_small_step_does_what_it_says(network, test_images):
    images, labels = test_images
    index = torch.arange(len(images))
    before = predict(network, images.float()).log_softmax(1)
    targets = (labels + 1) % 10
    for classes, targeted in ((labels, False), (targets, True)):
        gradient, _ = loss_gradient(network, images.float(), classes)
        moved = signed_step(images, gradient, 0.25, targeted)
        rise = (predict(network, moved).log_softmax(1) - before)[index, classes]
        right_way = rise > 0 if targeted else rise < 0
        assert right_way.float().mean() > 0.98
        assert torch.equal(signed_step(images, gradient, 0, targeted), images.float())


# ------------------------------------------------------------------------------ projected gradient


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
            moved = projected_gradient(model, images, labels, 8, generator=seeded(), margin=margin)
            left[name, margin] = accuracy(network, moved, labels)
    assert left["sure", True] == pytest.approx(left["plain", True], abs=1)
    assert left["sure", False] > left["sure", True] + 5


def test_attacks_mislead_in_the_expected_order(network, test_images):
    images, labels = test_images
    clean = accuracy(network, images, labels)
    stream = seeded()
    gradient, _ = loss_gradient(network, images.float(), labels)
    noise = accuracy(network, random_noise(images, 8, stream), labels)
    step = accuracy(network, signed_step(images, gradient, 8), labels)
    pgd = projected_gradient(network, images, labels, 8, generator=stream)
    assert clean > 80
    assert noise > step + 5
    assert step >= accuracy(network, pgd, labels)
    assert accuracy(network, pgd, labels) < clean - 30
    targets = (labels + 1) % 10
    reached = projected_gradient(network, images, targets, 16, targeted=True, generator=stream)
    assert accuracy(network, reached, targets) > accuracy(network, images, targets) + 20


def test_an_image_is_left_alone_once_it_is_misled(network, test_images):
    """Where the random start misleads already, no step is taken; elsewhere all are."""
    images, labels = test_images
    start, moved = (
        projected_gradient(
            network, images, labels, 8, steps=1, step_size=step_size, generator=seeded()
        )
        for step_size in (0.0, 2.0)
    )
    misled = named(network, start) != labels
    assert 0 < misled.sum() < len(images)
    assert torch.equal(moved[misled], start[misled])
    change = (moved - start).flatten(1).abs().amax(1)
    assert (change[~misled] > 1.9).all()


class NearTie(torch.nn.Module):
    """Names class 1 by a margin that bfloat16 rounds away; brighter pixels lead to class 0.

    In bfloat16 both logits are 256, and the first one is named.
    """

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3 * 32 * 32, 2)
        with torch.no_grad():
            self.head.weight[0], self.head.weight[1] = 1e-5, -1e-5
            self.head.bias.copy_(torch.tensor([256.1, 256.9]))
        self.passes = []  # (with a gradient?, in bfloat16?) of each

    def forward(self, images):
        logits = self.head(images.flatten(1))
        self.passes.append((logits.requires_grad, logits.dtype == torch.bfloat16))
        return None, logits


def test_float32_decides_which_images_are_misled():
    network = NearTie().requires_grad_(False)
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    assert named(network, images).tolist() == [1, 1]
    assert predict(network, images.float(), "bf16").argmax(1).tolist() == [0, 0]
    classes = torch.tensor([0, 1])
    for precision in ("fp32", "bf16"):
        for targeted in (False, True):
            start, moved = (
                projected_gradient(
                    network,
                    images,
                    classes,
                    8,
                    targeted=targeted,
                    steps=1,
                    step_size=step_size,
                    generator=seeded(),
                    precision=precision,
                )
                for step_size in (0.0, 2.0)
            )
            going = 0 if targeted else 1  # named class 1 both: the one not yet where it should be
            assert torch.equal(moved[1 - going], start[1 - going])
            assert torch.equal(moved[going], (start[going] + 2).clamp(max=108))


def test_what_a_step_costs():
    """Of fp32 one pass; of bf16 the gradient's, in bf16, and one in float32 without a gradient."""
    images, classes = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8), torch.tensor([1, 1])
    for precision, passes in (
        ("fp32", [(True, False)]),
        ("bf16", [(True, True), (False, False)]),
    ):
        network = NearTie().requires_grad_(False)
        projected_gradient(network, images, classes, 8, steps=3, precision=precision)
        assert network.passes == 3 * passes


@pytest.mark.parametrize("targeted", [False, True])
def test_each_step_is_captums_clipped(network, test_images, targeted):
    """Four large steps from the same start, of the images that are not yet where they should be."""
    images, labels = test_images
    classes = (labels + 1) % 10 if targeted else labels
    ours, levels = (
        projected_gradient(
            network,
            images,
            classes,
            4,
            targeted=targeted,
            steps=steps,
            step_size=step_size,
            generator=seeded(),
        )
        for steps, step_size in ((4, 3.0), (1, 0.0))
    )
    low, high = limits(images, 4)
    reference, counts = captums_step(network), []
    for _ in range(4):
        going = (named(network, levels) == classes) != targeted
        counts.append(int(going.sum()))
        moved = levels[going].requires_grad_()
        moved = reference.perturb(moved, 3.0, classes[going], targeted=targeted).detach()
        levels[going] = moved.clamp(low[going], high[going])
    assert counts[0] > counts[-1] > 0
    assert (ours != levels).float().mean() < 5e-3  # gradients at rounding's edge of 0


# ------------------------------------------------------------------------------ the study


def test_study_names_what_each_attack_makes(network, test_images):
    images, labels = (part[:60] for part in test_images)
    targets = (labels + 1) % 10
    epsilons = [0.5, 2.0, 8.0]
    names, pgd_levels = study(network, images, labels, epsilons, 10, batch_size=25)
    assert names.keys() == set(ATTACKS)
    for rows in names.values():
        assert rows.shape == (3, 60)
    for index, epsilon in enumerate(epsilons):
        assert (pgd_levels[index].double() - images.double()).abs().max() <= epsilon
        assert torch.equal(names["pgd"][index], named(network, pgd_levels[index]))
        for attack, classes, targeted in (
            ("step", labels, False),
            ("step_targeted", targets, True),
        ):
            gradient, _ = loss_gradient(network, images.float(), classes)
            again = named(network, signed_step(images, gradient, epsilon, targeted))
            assert (names[attack][index] == again).double().mean() > 0.95  # rounding at 0
    right = names["pgd"] == labels  # once misled, misled at every larger epsilon
    assert (right[1:] <= right[:-1]).all()
    reached = names["pgd_targeted"] == targets
    assert (reached[1:] >= reached[:-1]).all()
    assert right[-1].sum() < (names["noise"][-1] == labels).sum()
    assert reached[-1].sum() > (names["noise"][-1] == targets).sum()
    again, _ = study(network, images, labels, epsilons, 10, batch_size=25)
    assert all(torch.equal(names[attack], again[attack]) for attack in names)


def test_smallest_flip_by_hand():
    right = torch.tensor([[True, True, False], [True, False, False], [True, False, False]])
    assert smallest_flip(right, [0.5, 2.0, 8.0]).tolist() == [float("inf"), 2.0, 0.5]
