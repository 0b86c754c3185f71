"""The gradient penalty: its value, and its gradients computed in other ways."""

import copy

import pytest
import torch
from torch import nn

from discriminator import Discriminator
from inside_cnn.core.device import autocast
from inside_cnn.layers.accelerate import accelerate
from inside_cnn.training.gan_losses import gradient_penalty


def uniform(count):
    """Weights of x_hat ~ U[0, 1]: (count, 1, 1, 1)."""
    return torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(5))


class LinearCritic(nn.Module):
    """score = <weight, x>: its gradient is the weight, everywhere."""

    def __init__(self, norm):
        super().__init__()
        weight = torch.randn(3 * 32 * 32, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(norm * weight / weight.norm())

    def forward(self, x):
        return x.flatten(1) @ self.weight, torch.zeros(len(x), 10)


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_penalty_of_a_linear_critic(images, norm):
    critic = LinearCritic(norm)
    penalty, mean_norm = gradient_penalty(critic, images, -images, uniform(8))
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)
    assert mean_norm.item() == pytest.approx(norm, rel=1e-5)
    # d (|w| - 1)^2 / d w = 2 (|w| - 1) w / |w|
    penalty.backward()
    expected = 2 * (norm - 1) * critic.weight.detach() / norm
    assert torch.allclose(critic.weight.grad, expected, atol=1e-5)


def test_penalty_is_at_interpolations_of_the_first_pairs(images):
    class Critic(nn.Module):
        def forward(self, x):
            return 0.5 * x.square().flatten(1).sum(1), None  # gradient: x itself

    real, fake = images, images.flip(0) * 0.5
    alpha = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1, 1)
    penalty, mean_norm = gradient_penalty(Critic(), real, fake, alpha)
    norms = (alpha * real[:3] + (1 - alpha) * fake[:3]).flatten(1).norm(dim=1)
    assert mean_norm.item() == pytest.approx(norms.mean().item(), rel=1e-5)
    assert penalty.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)


def gradient_of_penalty(critic, images, precision):
    """d penalty / d the blocks' parameters, one row in float64.

    real = fake, so x_hat is the same for every type of number.
    """
    images = images.to(next(critic.parameters()).dtype)
    with autocast(torch.device("cpu"), precision):
        gradient_penalty(critic, images, images, uniform(len(images)))[0].backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    return torch.cat([gradient.flatten().double() for gradient in gradients])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_penalty_gradients_against_pytorchs_layers_in_float64(images, precision, tolerance):
    """Convolution, LayerNorm and LeakyReLU as shipped; `pytest -s` shows the errors.

    Most of the error in bfloat16 is that of the format: PyTorch's own layers have about the same.
    """
    torch.manual_seed(3)
    plain = Discriminator(width=16)
    critic, plain_double = accelerate(copy.deepcopy(plain)), copy.deepcopy(plain).double()

    ours = gradient_of_penalty(critic, images, precision)
    native = gradient_of_penalty(plain, images, precision)
    exact = gradient_of_penalty(plain_double, images, "fp32")
    error, native_error = ((g - exact).norm() / exact.norm() for g in (ours, native))
    print(f"{precision}: error {error:.1e}, of PyTorch's own layers {native_error:.1e}")
    assert error < tolerance
    assert error < 1.5 * native_error
