import pytest
import torch

from discriminator import Discriminator
from interpretability.activation_maximization import class_objective, feature_objective, maximise
from interpretability.adversarial import perturb


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Discriminator(width=12).requires_grad_(False)


def test_perturbation_is_one_signed_step_down_the_alternate_loss(network, images):
    labels = torch.arange(8) + 2  # 9 wraps round to 0
    epsilon = 8
    perturbed, gradients, logits = perturb(network, images, labels, epsilon)
    x = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(x)[1], (labels + 1) % 10, reduction="sum")
    (expected,) = torch.autograd.grad(loss, x)
    assert torch.allclose(gradients, expected, atol=1e-7)
    assert torch.allclose(logits, network(images)[1], atol=1e-6)
    step = 2 * 8 / 255
    assert torch.equal(perturbed, (images - step * expected.sign()).clamp(-1, 1))
    change = (perturbed - images).abs() * 255 / 2
    assert change.max() <= epsilon + 1e-3
    assert change.max() > epsilon - 1e-3


def test_perturbation_raises_the_alternate_class_and_leaves_its_input_alone(network, images):
    labels, kept = torch.arange(8), images.clone()
    perturbed, _, _ = perturb(network, images, labels, 4)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    before, after = (
        network(x)[1].log_softmax(1)[torch.arange(8), labels + 1] for x in (images, perturbed)
    )
    assert (after > before).all()


def test_epsilon_zero_changes_nothing(network, images):
    perturbed, _, _ = perturb(network, images, torch.arange(8), 0)
    assert torch.equal(perturbed, images)


def objectives(network):
    yield "class", class_objective(network)
    for layer in (1, 4, 8):
        yield f"layer {layer}", feature_objective(network, layer)


def test_every_objective_rises(network):
    start = torch.zeros(10, 3, 32, 32) + 0.1
    for name, objective in objectives(network):
        images, before, after = maximise(objective, start, steps=20)
        assert images.shape == start.shape, name
        assert images.abs().max() <= 1, name
        assert (after >= before).all(), name
        assert after.mean() > before.mean() + 0.1, name
        assert torch.equal(before, objective(start)), name
        assert torch.equal(after, objective(images)), name
        assert (start == 0.1).all(), name  # reset between layers: nobody wrote to it


def test_one_step_of_the_ascent_by_hand():
    """Objective 3 x: the gradient is 3, so x = 0.5 goes to 0.5 + 0.1 * 3 - 0.2 * 0.25 = 0.75."""
    images, before, after = maximise(
        lambda x: 3 * x.sum((1, 2, 3)), torch.full((1, 1, 1, 1), 0.5), steps=1, lr=0.1, decay=0.2
    )
    assert images.item() == pytest.approx(0.75)
    assert before.item() == pytest.approx(1.5)
    assert after.item() == pytest.approx(2.25)
    negative, _, _ = maximise(
        lambda x: 0 * x.sum((1, 2, 3)), torch.full((1, 1, 1, 1), -0.5), steps=1, lr=0.1, decay=0.2
    )
    assert negative.item() == pytest.approx(-0.45)  # decay pulls toward grey from both sides


def test_objectives_pick_the_diagonal(network, images):
    logits = network(images)[1]
    assert torch.equal(class_objective(network)(images), logits.diagonal())
    pooled = network.features(images, 3).amax((2, 3))
    values = feature_objective(network, 3)(images)
    assert torch.equal(values, pooled.diagonal())


def test_feature_maximisation_runs_no_later_layer(network):
    ran = []
    for index, block in enumerate(network.blocks):
        block.register_forward_hook(lambda *_, i=index: ran.append(i + 1))
    objective = feature_objective(network, 4)
    maximise(objective, torch.zeros(2, 3, 32, 32), steps=2)
    assert max(ran) == 4


def test_the_unit_in_the_middle(network, images):
    values = feature_objective(network, 4, centre=True)(images)
    assert torch.equal(values, network.features(images, 4)[:, :, 4, 4].diagonal())


def test_features_by_number(network, images):
    pooled = network.features(images, 3).amax((2, 3))
    values = feature_objective(network, 3, features=torch.tensor([7, 2, 7]))(images)
    assert torch.equal(values, pooled[torch.arange(8), torch.tensor([7, 2, 7, 7, 2, 7, 7, 2])])
