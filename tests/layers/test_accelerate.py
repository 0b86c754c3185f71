import copy

import pytest
import torch
from torch import nn

from compare import assert_equal
from discriminator import Discriminator
from generator import Generator
from inside_cnn.layers.accelerate import accelerate
from inside_cnn.layers.channel_padding import aligned
from inside_cnn.training.gan_losses import discriminator_loss, generator_loss

WIDTH = 20  # padded to 32


def pair(network_class, dtype=torch.float64, **options):
    """A plain network with random biases and norms, and an accelerated copy."""
    torch.manual_seed(0)
    plain = network_class(WIDTH).to(dtype)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.1 * torch.randn_like(parameter) * (parameter.ndim < 4)
    return plain, accelerate(copy.deepcopy(plain), **options)


def losses_and_gradients(discriminator, generator):
    """The terms of both losses, all gradients, and BatchNorm's buffers."""
    torch.manual_seed(1)
    real, alpha = 2 * torch.rand(6, 3, 32, 32).double() - 1, torch.rand(6, 1, 1, 1).double()
    labels, latents = torch.arange(6), torch.randn(6, 100).double()
    with torch.autocast("cpu", torch.bfloat16):  # does not change float64
        fake = generator(latents)
        d_loss, d_parts = discriminator_loss(
            discriminator, real, labels, fake.detach(), labels, alpha=alpha
        )
        g_loss, g_parts = generator_loss(discriminator, fake, labels)
    gradients = [
        *torch.autograd.grad(d_loss, list(discriminator.parameters())),
        *torch.autograd.grad(g_loss, list(generator.parameters())),
    ]
    buffers = [buffer.double() for buffer in generator.buffers()]
    return (d_parts | g_parts).values(), gradients, buffers


def channels_of(network):
    """A set to which every executed convolution adds (channels in, channels out)."""
    channels = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, x, y: channels.add((x[0].shape[1], y.shape[1])))
    return channels


def test_aligned_channels():
    channels = (1, 3, 8, 9, 16, 17, 64, 196)
    assert list(map(aligned, channels)) == [8, 8, 8, 16, 16, 32, 64, 208]


@pytest.mark.parametrize("compiled", [False, True])
def test_losses_penalty_and_gradients_are_equal_in_float64(uncompiled, compiled):
    pairs = [pair(n, compiled=compiled) for n in (Discriminator, Generator)]
    plain, fast = zip(*pairs, strict=True)
    channels = channels_of(fast[0])
    for ours, theirs in zip(losses_and_gradients(*fast), losses_and_gradients(*plain), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            # The gradient of a bias before BatchNorm is zero, up to rounding.
            assert (a - b).norm() <= 1e-5 * b.norm() + 1e-6
    padded = {(3, 32), (32, 32)}  # the first one pads its input
    assert channels == (padded if compiled else {(3, WIDTH), (WIDTH, WIDTH)})


@pytest.mark.parametrize("layer", [1, 3, 8])
def test_features_and_images_have_no_padding(uncompiled, images, layer):
    latents = torch.randn(4, 100)
    (plain_d, fast_d), (plain_g, fast_g) = (
        pair(n, torch.float32, compiled=True) for n in (Discriminator, Generator)
    )
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in (
            (fast_d.features(images, layer), plain_d.features(images, layer)),
            (fast_g(latents), plain_g(latents)),
        ):
            assert ours.shape == theirs.shape
            assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("case", ["float32", "eval"])
def test_padding_needs_training_and_autocast(uncompiled, images, case):
    _, network = pair(Discriminator, torch.float32, compiled=True)
    network.train(case != "eval")
    channels = channels_of(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=case != "float32"):
        network(images)
    assert channels == {(3, WIDTH), (WIDTH, WIDTH)}


def test_no_padding_if_torch_compile_fails(monkeypatch, capsys, images):
    def refuse(*_, **__):
        raise RuntimeError("no C compiler\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    plain, network = pair(Discriminator, torch.float32, compiled=True)
    assert "note: torch.compile does not work here: no C compiler\n" in capsys.readouterr().err
    channels = channels_of(network)
    with torch.autocast("cpu", torch.bfloat16):
        network(images)
    assert channels == {(3, WIDTH), (WIDTH, WIDTH)}
    torch.testing.assert_close(network(images), plain(images))


@pytest.mark.parametrize("network_class", [Discriminator, Generator])
def test_state_dict_has_the_layout_of_pytorch(network_class):
    plain, fast = pair(network_class)
    assert_equal(fast.state_dict(), plain.state_dict())
    network_class(WIDTH).load_state_dict(fast.state_dict())
    other = accelerate(network_class(WIDTH))
    other.load_state_dict(plain.state_dict())
    strides = [parameter.stride() for parameter in fast.parameters()]
    for network in (other, copy.deepcopy(fast)):
        assert [parameter.stride() for parameter in network.parameters()] == strides
    assert isinstance(fast.blocks[0][1], nn.LayerNorm | nn.BatchNorm2d)


def test_layers_with_other_options_are_not_replaced():
    network = Discriminator(WIDTH)
    dilated = nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2)
    without_bias = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
    network.blocks[2][0], network.blocks[4][0] = dilated, without_bias
    accelerate(network)
    assert type(dilated) is type(without_bias) is nn.Conv2d
    assert type(network.blocks[0][0]) is not nn.Conv2d


def test_torch_func_works_on_a_plain_network(images):
    network = Discriminator(4).eval()
    score = lambda image: network(image[None])[0].sum()  # noqa: E731
    gradient = torch.func.vmap(torch.func.grad(score))(images)
    x = images.requires_grad_()
    (expected,) = torch.autograd.grad(network(x)[0].sum(), x)
    torch.testing.assert_close(gradient, expected)
    tangent = torch.ones_like(images[0])
    _, change = torch.func.jvp(score, (images[0].detach(),), (tangent,))
    torch.testing.assert_close(change, expected[0].sum(), rtol=1e-4, atol=1e-4)
