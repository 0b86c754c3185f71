"""The losses of the GAN by hand, and the gradient penalty computed in other ways."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from discriminator import Discriminator
from inside_cnn.core.device import autocast
from inside_cnn.layers.accelerate import accelerate
from inside_cnn.training.gan_losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    real_images_loss,
)


def known_critic(scores, logits):
    """Given scores and logits of each image. The norm of d score / d image is sqrt(3 * 32 * 32)."""
    scores, logits = scores.requires_grad_(), logits.requires_grad_()
    return lambda x: (scores[: len(x)] + x.flatten(1).sum(1), logits[: len(x)])


def quadratic_critic(x):
    """The gradient of the score is the image itself."""
    return 0.5 * x.square().flatten(1).sum(1), x.flatten(1)[:, :10]


def test_discriminator_loss_by_hand():
    scores = torch.tensor([1.0, 3.0, -1.0, 0.0])  # two real, two fake
    logits = torch.zeros(4, 10)
    logits[0, 4], logits[2, 7] = 2.0, 5.0
    labels, fake_labels = torch.tensor([4, 0]), torch.tensor([7, 1])
    zeros = torch.zeros(2, 3, 32, 32)
    loss, parts = discriminator_loss(
        known_critic(scores, logits),
        zeros,
        labels,
        zeros,
        fake_labels,
        alpha=torch.rand(2, 1, 1, 1),
        gp_weight=0.5,
        fake_class_weight=0.25,
    )
    # log(sum exp) - the chosen logit: no softmax before the cross-entropy.
    class_real, class_fake = (
        (math.log(math.exp(logit) + 9) - logit + math.log(10)) / 2 for logit in (2, 5)
    )
    norm = (3 * 32 * 32) ** 0.5
    total = -2.5 + class_real + 0.25 * class_fake + 0.5 * (norm - 1) ** 2
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {
            "discriminator_loss": total,
            "critic_gap": 2.5,
            "class_loss_real": class_real,
            "class_loss_fake": class_fake,
            "gradient_penalty": (norm - 1) ** 2,
            "gradient_norm": norm,
            # The second logits are all equal, so the prediction is class 0.
            "class_accuracy_real": 100,
            "class_accuracy_fake": 50,
        },
        rel=1e-5,
    )
    assert loss.item() == parts["discriminator_loss"].item()
    assert not any(part.requires_grad for part in parts.values())


def test_generator_loss_by_hand():
    logits, labels = torch.zeros(2, 10), torch.tensor([3, 0])
    logits[0, 3] = 1.0
    critic = known_critic(torch.tensor([2.0, 4.0]), logits)
    loss, parts = generator_loss(critic, torch.zeros(2, 3, 32, 32), labels, 0.1)
    expected = F.cross_entropy(logits, labels).item()
    assert parts["generator_class_loss"].item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(-3 + 0.1 * expected)


def test_relativistic_losses_by_hand():
    """softplus(x) = log(1 + e^x) of the differences -1 - 1 and 0 - 3, and of their negatives."""
    real, fake, zeros = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0]), torch.zeros(2, 10)
    images, labels = torch.zeros(2, 3, 32, 32), torch.tensor([4, 0])
    critic = known_critic(torch.cat([real, fake]), torch.zeros(4, 10))
    loss, parts = discriminator_loss(
        critic,
        images,
        labels,
        images,
        labels,
        alpha=torch.rand(2, 1, 1, 1),
        gp_weight=0.5,
        fake_class_weight=0.0,
        relativistic=True,
    )
    score_loss = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-3))) / 2
    assert parts["gradient_penalty"].item() == pytest.approx(3 * 32 * 32)
    assert loss.item() == pytest.approx(score_loss + math.log(10) + 0.5 * 3 * 32 * 32)

    ones = torch.ones_like(images)
    critic = lambda x: (real if x is ones else fake, zeros)  # noqa: E731
    loss, _ = generator_loss(critic, images, labels, 0.1, real=ones)
    score_loss = (math.log(1 + math.exp(2)) + math.log(1 + math.exp(3))) / 2
    assert loss.item() == pytest.approx(score_loss + 0.1 * math.log(10))


def test_loss_of_real_images_has_a_penalty_between_consecutive_ones(images):
    labels = torch.arange(8)
    cross_entropy = F.cross_entropy(images.flatten(1)[:, :10], labels)
    loss, parts = real_images_loss(quadratic_critic, images, labels)  # without penalty
    assert loss.item() == pytest.approx(cross_entropy.item())
    assert parts.keys() == {"discriminator_loss", "class_loss_real", "class_accuracy_real"}
    alpha = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    loss, parts = real_images_loss(quadratic_critic, images, labels, alpha=alpha, gp_weight=2.0)
    norms = (alpha * images[:2] + (1 - alpha) * images[1:3]).flatten(1).norm(dim=1)
    assert parts["gradient_norm"].item() == pytest.approx(norms.mean().item(), rel=1e-5)
    expected = cross_entropy + 2 * (norms - 1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


# ------------------------------------------------------------------------------ the penalty


ALPHA = torch.rand(8, 1, 1, 1, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_penalty_of_a_linear_critic(images, norm):
    """score = <weight, x>: its gradient is the weight, everywhere."""
    weight = torch.randn(3 * 32 * 32, generator=torch.Generator().manual_seed(0))
    weight = (norm * weight / weight.norm()).requires_grad_()
    critic = lambda x: (x.flatten(1) @ weight, None)  # noqa: E731
    penalty, mean_norm = gradient_penalty(critic, images, -images, ALPHA)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)
    assert mean_norm.item() == pytest.approx(norm, rel=1e-5)
    # d (|w| - 1)^2 / d w = 2 (|w| - 1) w / |w|
    penalty.backward()
    expected = 2 * (norm - 1) * weight.detach() / norm
    assert torch.allclose(weight.grad, expected, atol=1e-5)


def test_penalty_is_at_interpolations_of_the_first_pairs(images):
    real, fake = images, images.flip(0) * 0.5
    alpha = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1, 1)
    penalty, mean_norm = gradient_penalty(quadratic_critic, real, fake, alpha)
    norms = (alpha * real[:3] + (1 - alpha) * fake[:3]).flatten(1).norm(dim=1)
    assert mean_norm.item() == pytest.approx(norms.mean().item(), rel=1e-5)
    assert penalty.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)


def test_zero_centered_penalty_is_at_one_image_of_each_pair(images):
    real, fake = images, images.flip(0) * 0.5
    alpha = torch.tensor([0.1, 0.6, 1.0]).view(3, 1, 1, 1)
    penalty, mean_norm = gradient_penalty(quadratic_critic, real, fake, alpha, zero_centered=True)
    norms = torch.stack([fake[0], real[1], real[2]]).flatten(1).norm(dim=1)
    assert mean_norm.item() == pytest.approx(norms.mean().item(), rel=1e-5)
    assert penalty.item() == pytest.approx(norms.square().mean().item(), rel=1e-5)
    cross_entropy = F.cross_entropy(images.flatten(1)[:, :10], torch.arange(8))
    loss, _ = real_images_loss(
        quadratic_critic, images, torch.arange(8), alpha=alpha, gp_weight=2.0, relativistic=True
    )
    norms = torch.stack([images[1], images[1], images[2]]).flatten(1).norm(dim=1)
    expected = cross_entropy + 2 * norms.square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def gradient_of_penalty(critic, images, precision):
    """d penalty / d the blocks' parameters, one row in float64.

    real = fake, so x_hat is the same for every type of number.
    """
    images = images.to(next(critic.parameters()).dtype)
    with autocast(torch.device("cpu"), precision):
        gradient_penalty(critic, images, images, ALPHA)[0].backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    return torch.cat([gradient.flatten().double() for gradient in gradients])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_penalty_gradients_against_pytorchs_layers_in_float64(images, precision, tolerance):
    """Most of the error in bfloat16 is that of the format: PyTorch's layers have about the same."""
    torch.manual_seed(3)
    plain = Discriminator(width=16)
    critic, plain_double = accelerate(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    exact = gradient_of_penalty(plain_double, images, "fp32")
    error, native_error = (
        (gradient_of_penalty(network, images, precision) - exact).norm() / exact.norm()
        for network in (critic, plain)
    )
    assert error < tolerance
    assert error < 1.5 * native_error
