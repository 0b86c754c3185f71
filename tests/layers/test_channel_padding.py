"""Maps filled up to a multiple of 16 channels: the same function, the same gradients."""

import pytest
import torch

import train_gan
from discriminator import Discriminator
from generator import Generator
from layers import channel_padding, double_backward

WIDTH = 20  # filled up to 32


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Switches the paths of a GPU on, with the functions themselves in place of compiled ones."""

    def switch():
        monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: function(*args))
        double_backward.compile_for(torch.device("cpu"))
        monkeypatch.setattr(channel_padding, "pays", lambda device: True)

    yield switch
    double_backward.compile_for(None)


def updates():
    """The parts of both losses, all gradients and BatchNorm's buffers, in float64."""
    torch.manual_seed(0)
    discriminator, generator = Discriminator(WIDTH).double(), Generator(WIDTH).double()
    for parameter in (*discriminator.parameters(), *generator.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter) * (parameter.ndim < 4)
    real, mix = 2 * torch.rand(6, 3, 32, 32).double() - 1, torch.rand(6, 1, 1, 1).double()
    labels, latents = torch.arange(6), torch.randn(6, 100).double()
    fake = generator(latents)
    d_loss, d_parts = train_gan.discriminator_loss(
        discriminator, real, labels, fake.detach(), labels, mix=mix
    )
    g_loss, g_parts = train_gan.generator_loss(discriminator, fake, labels)
    gradients = [
        *torch.autograd.grad(d_loss, list(discriminator.parameters())),
        *torch.autograd.grad(g_loss, list(generator.parameters())),
    ]
    return d_parts | g_parts, gradients, list(generator.buffers())


def test_updates_are_the_same_with_maps_filled_up(as_on_a_gpu, monkeypatch):
    parts, gradients, buffers = updates()
    as_on_a_gpu()
    shapes = []
    monkeypatch.setattr(
        *(double_backward, "conv2d"),
        lambda *args, original=double_backward.conv2d: (
            shapes.append(tuple(args[1].shape[:2])) or original(*args)
        ),
    )
    filled_parts, filled_gradients, filled_buffers = updates()
    assert {(32, 8), (32, 32), (8, 32)} == set(shapes)
    for name in parts:
        torch.testing.assert_close(filled_parts[name], parts[name], rtol=1e-5, atol=1e-5)
    for found, expected in zip(filled_gradients, gradients, strict=True):
        # Biases before BatchNorm have a gradient of zero, of which rounding alone is left.
        assert (found - expected).norm() <= 1e-6 * expected.norm() + 1e-6
    for found, expected in zip(filled_buffers, buffers, strict=True):
        torch.testing.assert_close(found, expected)


def test_features_have_their_own_width(as_on_a_gpu, images):
    model = Discriminator(WIDTH)
    expected = model.features(images, 3)
    as_on_a_gpu()
    widths = []
    model.blocks[2].register_forward_hook(lambda *args: widths.append(args[-1].shape[1]))
    found = model.features(images, 3)
    assert widths == [32]
    assert found.shape == expected.shape == (len(images), WIDTH, 16, 16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_aligned_numbers():
    assert [channel_padding.aligned(n) for n in (1, 3, 8, 9, 16, 17, 64, 196)] == [
        *(8, 8, 8, 16, 16, 32, 64, 208)
    ]


@pytest.mark.parametrize("transposed", [False, True])
def test_filled_weights_hold_the_weights_and_zeros(transposed):
    weight, bias = torch.randn(20, 18, 3, 3), torch.randn(18 if transposed else 20)
    channels = 40
    filled, filled_bias = channel_padding.fill_weights(weight, bias, channels, transposed)
    assert filled.shape == ((40, 32, 3, 3) if transposed else (32, 40, 3, 3))
    assert torch.equal(filled[:20, :18], weight)
    assert filled.count_nonzero() == weight.count_nonzero()
    assert torch.equal(filled_bias[: len(bias)], bias)
    assert len(filled_bias) == 32
    assert filled_bias[len(bias) :].eq(0).all()


def test_bias_with_its_own_gradient():
    torch.manual_seed(0)
    x, bias = torch.randn(3, 5, 4, 4), torch.randn(5)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    bias.requires_grad_()
    weight = torch.randn(3, 5, 4, 4)
    (channel_padding.add_bias(x, bias) * weight).sum().backward()
    found = x.grad, bias.grad
    x.grad = bias.grad = None
    ((x + bias.view(-1, 1, 1)) * weight).sum().backward()
    torch.testing.assert_close(found, (x.grad, bias.grad))
