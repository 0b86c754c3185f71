"""The gradient penalty of train_gan: its value, and its gradients taken in other ways."""

import copy
from argparse import Namespace

import pytest
import torch
from torch import nn

import train_gan
from compare import assert_equal, records
from discriminator import Discriminator
from engine.device import autocast
from plain_reference import PlainDiscriminator
from processes import SMALL
from training.distributed import Ranks


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
    penalty = train_gan.gradient_penalty(critic, images, -images)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)
    # d (|w| - 1)^2 / d w = 2 (|w| - 1) w / |w|
    penalty.backward()
    expected = 2 * (norm - 1) * critic.weight.detach() / norm
    assert torch.allclose(critic.weight.grad, expected, atol=1e-5)


def test_penalty_is_taken_between_real_and_fake_with_one_weight_per_image(images):
    seen = []

    class Critic(nn.Module):
        def forward(self, x):
            seen.append(x)
            return 0.5 * x.square().flatten(1).sum(1), None  # gradient: x itself

    real, fake = images, images.flip(0) * 0.5
    penalty = train_gan.gradient_penalty(Critic(), real, fake)
    a = ((seen[0] - fake) / (real - fake)).detach().flatten(1)
    middle = a.median(dim=1).values
    assert torch.allclose(a, middle[:, None].expand_as(a), atol=1e-2)
    assert middle.min() >= 0
    assert middle.max() <= 1
    assert middle.std() > 0.05
    norms = seen[0].detach().flatten(1).norm(dim=1)
    assert penalty.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)


def test_no_gradient_reaches_the_images(images):
    real, fake = images.clone().requires_grad_(), images.neg().requires_grad_()
    train_gan.gradient_penalty(Discriminator(width=2), real, fake).backward()
    assert real.grad is None
    assert fake.grad is None


def test_shapes_must_agree(images):
    with pytest.raises(ValueError, match="differ in shape"):
        train_gan.gradient_penalty(LinearCritic(1), images, images[:4])


def test_penalty_weights_are_drawn_from_the_generator(images):
    critic = Discriminator(width=2)

    def penalty(seed):
        stream = torch.Generator().manual_seed(seed)
        return train_gan.gradient_penalty(critic, images, -images, stream).item()

    assert penalty(1) == penalty(1)
    assert penalty(1) != penalty(2)


def test_input_gradient_norm_against_finite_differences(images):
    torch.manual_seed(0)
    critic = Discriminator(width=2).double()
    x = images[:2].double()
    norms = train_gan.input_gradient_norms(critic, x, x, torch.ones(2, 1, 1, 1))
    x = x.clone().requires_grad_()
    direction = torch.autograd.grad(critic(x)[0].sum(), x)[0]
    direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    h = 1e-6
    with torch.no_grad():
        slope = (critic(x + h * direction)[0] - critic(x - h * direction)[0]) / (2 * h)
    assert torch.allclose(norms, slope, rtol=1e-5)


def test_penalty_gradient_against_finite_differences(images):
    """d penalty / d parameters of convolution + MapNorm + LeakyReLU as shipped."""
    torch.manual_seed(1)
    critic = Discriminator(width=3).double()
    real, fake = images[:3].double(), images[3:6].double()

    def penalty():
        stream = torch.Generator().manual_seed(5)
        return train_gan.gradient_penalty(critic, real, fake, stream)

    # The class head and the critic head's bias do not touch the gradient of the score.
    used = {
        name: p
        for name, p in critic.named_parameters()
        if "class_head" not in name and name != "critic_head.bias"
    }
    gradients = torch.autograd.grad(penalty(), used.values(), allow_unused=True)
    h = 1e-6
    for (name, parameter), gradient in zip(used.items(), gradients, strict=True):
        direction = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(2)
        ).double()
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * h * direction)
            values.append(penalty().item())
            with torch.no_grad():
                parameter.sub_(sign * h * direction)
        slope = (values[0] - values[1]) / (2 * h)
        exact = (gradient * direction).sum().item()
        assert exact == pytest.approx(slope, rel=1e-4, abs=1e-7), name


def gradient_of_penalty(critic, images, precision):
    """d penalty / d the blocks' parameters, one row in float64.

    real = fake, so x_hat is the same for every type of number.
    """
    images = images.to(next(critic.parameters()).dtype)
    with autocast(torch.device("cpu"), precision):
        train_gan.gradient_penalty(critic, images, images).backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    # MapNorm stores its parameters (size, size, channels), nn.LayerNorm (channels, size, size).
    is_own = isinstance(critic, Discriminator)
    rows = [g.permute(2, 0, 1) if is_own and g.ndim == 3 else g for g in gradients]
    return torch.cat([row.flatten().double() for row in rows])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_penalty_gradients_against_pytorchs_layers_in_float64(images, precision, tolerance):
    """Convolution, MapNorm and LeakyReLU as shipped; `pytest -s` shows the errors.

    Most of the error in bfloat16 is that of the format: PyTorch's own layers have about the same.
    """
    torch.manual_seed(3)
    critic, plain = Discriminator(width=16), PlainDiscriminator(width=16)
    with torch.no_grad():
        for own, other in zip(critic.parameters(), plain.parameters(), strict=True):
            other.copy_(own.permute(2, 0, 1) if own.ndim == 3 else own)
    plain_double = copy.deepcopy(plain).double()

    ours = gradient_of_penalty(critic, images, precision)
    native = gradient_of_penalty(plain, images, precision)
    exact = gradient_of_penalty(plain_double, images, "fp32")
    error, native_error = ((g - exact).norm() / exact.norm() for g in (ours, native))
    print(f"{precision}: error {error:.1e}, of PyTorch's own layers {native_error:.1e}")
    assert error < tolerance
    assert error < 1.5 * native_error


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_penalty_is_taken_at_every_nth_step_from_the_first(run_main, tmp_path, every):
    flags = ["--epochs", 2, "--log_every_steps", 1, "--gp_every", every]
    assert run_main(train_gan, *SMALL, *flags, "--output_dir", tmp_path)[0] == 0
    taken = ["gradient_norm" in record for record in records(tmp_path)]
    assert taken == [step % every == 0 for step in range(10)]


def test_a_step_without_a_penalty_draws_what_it_would_with_one(run_main, tmp_path, monkeypatch):
    draw, drawn = train_gan.draw, []

    def noting(generator, z, shifts):
        drawn.append((z, shifts))
        return draw(generator, z, shifts)

    monkeypatch.setattr(train_gan, "draw", noting)
    for every in (1, 3):
        flags = ["--max_steps", 3, "--gp_every", every, "--output_dir", tmp_path / str(every)]
        assert run_main(train_gan, *SMALL, *flags)[0] == 0
    assert len(drawn) == 12
    assert_equal(drawn[:6], drawn[6:])


@pytest.mark.parametrize(("shrink", "pairs"), [(1, 16), (2, 8), (3, 6), (100, 1)])
def test_the_penalty_is_taken_on_a_part_of_the_batch(
    run_main, tmp_path, monkeypatch, shrink, pairs
):
    norms, seen = train_gan.input_gradient_norms, []

    def noting(discriminator, real, fake, alpha):
        seen.append((len(real), len(fake), len(alpha)))
        return norms(discriminator, real, fake, alpha)

    monkeypatch.setattr(train_gan, "input_gradient_norms", noting)
    flags = ["--max_steps", 2, "--gp_batch_shrink", shrink, "--output_dir", tmp_path]
    assert run_main(train_gan, *SMALL, *flags)[0] == 0
    assert seen == [(pairs,) * 3] * 2


def test_a_penalty_on_the_first_pairs_weighs_as_one_on_all(images):
    """As a mean over them; which images come first in a batch is by chance."""
    torch.manual_seed(3)
    critic, labels = Discriminator(width=4), torch.arange(8)
    batch = critic, images, labels, -images, labels
    alpha = train_gan.sample_alpha(3, "cpu")
    without, _ = train_gan.discriminator_loss(*batch, alpha=None)
    loss, parts = train_gan.discriminator_loss(*batch, alpha=alpha, gp_weight=5.0)
    norms = train_gan.input_gradient_norms(critic, images[:3], -images[:3], alpha)
    penalty = (norms - 1).square().mean()
    assert parts["gradient_penalty"].item() == pytest.approx(penalty.item(), rel=1e-5)
    assert loss.item() == pytest.approx((without + 5 * penalty).item(), rel=1e-5)


def test_two_processes_draw_what_one_does():
    """As many pairs each, at least one; together one's, where there are enough for all."""
    args = train_gan.parse_args(["--batch_size", "8", "--gp_batch_shrink", "3"])

    def drawn(world, rank):
        ranks = Ranks()
        ranks.world, ranks.rank = world, rank
        run = Namespace(ranks=ranks, shard=ranks.shard, device=torch.device("cpu"))
        stream = torch.Generator().manual_seed(0)
        return train_gan.fake_inputs(run, args, 10, stream, for_d=True)

    def both(of_one, of_other):
        return torch.stack([of_one, of_other], 1).flatten(0, 1)

    for shrink, pairs, pairs_of_two in ((2, 4, 4), (3, 3, 4), (8, 1, 2)):
        args.gp_batch_shrink = shrink
        alone, first, second = drawn(1, 0), drawn(2, 0), drawn(2, 1)
        alpha = both(first[2], second[2])
        assert (len(alone[2]), len(alpha)) == (pairs, pairs_of_two)
        assert torch.equal(alpha[:pairs], alone[2])
        for index in (0, 1):
            assert torch.equal(both(first[index], second[index]), alone[index])
        for of_one, of_other, of_all in zip(first[3], second[3], alone[3], strict=True):
            assert torch.equal(both(of_one, of_other), of_all)
