"""Each layer against PyTorch's own, and whole networks that were prepared for a GPU."""

import pytest
import torch
from torch import nn

from discriminator import Discriminator
from generator import Generator
from layers import modules
from layers.modules import Conv3x3, ConvTranspose4x4, MapNorm, prepare_for_cuda
from training.gan_losses import discriminator_loss, generator_loss

CPU = torch.device("cpu")
WIDTH = 20  # filled up to 32


def test_map_norm_is_layer_norm_with_the_affine_laid_out_otherwise(images):
    ours, theirs = MapNorm(3, 32), nn.LayerNorm([3, 32, 32])
    with torch.no_grad():
        theirs.weight.normal_(generator=torch.Generator().manual_seed(1))
        theirs.bias.normal_(generator=torch.Generator().manual_seed(2))
        ours.weight.copy_(theirs.weight.permute(1, 2, 0))
        ours.bias.copy_(theirs.bias.permute(1, 2, 0))
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_transposed_convolution_equals_pytorchs():
    own = ConvTranspose4x4(3, 5)
    native = nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1)
    native.load_state_dict(own.state_dict())
    x = torch.randn(2, 3, 4, 4)
    weights = torch.randn(2, 5, 8, 8)
    for layer in (own, native):
        (layer(x) * weights).sum().backward()
    assert torch.allclose(own(x), native(x), atol=1e-6)
    for a, b in zip(own.parameters(), native.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_bias_with_its_own_gradient():
    torch.manual_seed(0)
    x, bias = torch.randn(3, 5, 4, 4), torch.randn(5)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    bias.requires_grad_()
    weight = torch.randn(3, 5, 4, 4)
    ours = torch.autograd.grad((modules.add_bias(x, bias) * weight).sum(), (x, bias))
    theirs = torch.autograd.grad(((x + bias.view(-1, 1, 1)) * weight).sum(), (x, bias))
    torch.testing.assert_close(ours, theirs)


@pytest.fixture
def uncompiled(monkeypatch):
    """The functions themselves in place of compiled ones."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: function(*args))


def channels_of(*networks):
    """A set that fills with (channels in, channels out) of every convolution that runs."""
    channels = set()
    for network in networks:
        for module in network.modules():
            if isinstance(module, Conv3x3 | ConvTranspose4x4):
                module.register_forward_hook(
                    lambda _, x, y: channels.add((x[0].shape[1], y.shape[1]))
                )
    return channels


def updates(prepare):
    """The parts of both losses, all gradients and BatchNorm's buffers, in float64.

    prepare: whether to call prepare_for_cuda. Also the channels of every convolution.
    """
    torch.manual_seed(0)
    discriminator, generator = Discriminator(WIDTH).double(), Generator(WIDTH).double()
    for network in (discriminator, generator) if prepare else ():
        prepare_for_cuda(network, CPU)
    channels = channels_of(discriminator, generator)
    for parameter in (*discriminator.parameters(), *generator.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter) * (parameter.ndim < 4)
    real, alpha = 2 * torch.rand(6, 3, 32, 32).double() - 1, torch.rand(6, 1, 1, 1).double()
    labels, latents = torch.arange(6), torch.randn(6, 100).double()
    with torch.autocast("cpu", torch.bfloat16):  # leaves float64 as it is
        fake = generator(latents)
        d_loss, d_parts = discriminator_loss(
            discriminator, real, labels, fake.detach(), labels, alpha=alpha
        )
        g_loss, g_parts = generator_loss(discriminator, fake, labels)
    gradients = [
        *torch.autograd.grad(d_loss, list(discriminator.parameters())),
        *torch.autograd.grad(g_loss, list(generator.parameters())),
    ]
    return d_parts | g_parts, gradients, list(generator.buffers()), channels


def test_updates_are_the_same_with_padded_maps(uncompiled):
    parts, gradients, buffers, channels = updates(prepare=False)
    assert channels == {(3, WIDTH), (WIDTH, WIDTH), (WIDTH, 3)}
    filled_parts, filled_gradients, filled_buffers, filled_channels = updates(prepare=True)
    assert filled_channels == {(8, 32), (32, 32), (32, 8)}
    for name in parts:
        torch.testing.assert_close(filled_parts[name], parts[name], rtol=1e-5, atol=1e-5)
    for filled, plain in zip(filled_gradients, gradients, strict=True):
        # Biases before BatchNorm have a gradient of zero, of which rounding alone is left.
        assert (filled - plain).norm() <= 1e-6 * plain.norm() + 1e-6
    for filled, plain in zip(filled_buffers, buffers, strict=True):
        torch.testing.assert_close(filled, plain)


@pytest.mark.parametrize("layer", [3, 8])
def test_features_and_images_have_their_own_channels(uncompiled, images, layer):
    discriminator, generator = Discriminator(WIDTH), Generator(WIDTH)
    latents = torch.randn(4, 100)
    with torch.autocast("cpu", torch.bfloat16):
        plain = discriminator.features(images, layer), generator(latents)
        for network in (discriminator, generator):
            assert prepare_for_cuda(network, CPU)
        channels = channels_of(discriminator, generator)
        filled = discriminator.features(images, layer), generator(latents)
    assert channels == {(8, 32), (32, 32), (32, 8)}
    for ours, theirs in zip(filled, plain, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("case", ["float32", "eval", "another network is prepared"])
def test_maps_are_padded_only_in_training_under_autocast(uncompiled, images, case):
    network = Discriminator(WIDTH).train(case != "eval")
    prepared = Discriminator(WIDTH) if case == "another network is prepared" else network
    prepare_for_cuda(prepared, CPU)
    channels = channels_of(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=case != "float32"):
        network(images)
    assert channels == {(3, WIDTH), (WIDTH, WIDTH)}


def test_a_full_memory_is_no_reason_to_leave_compiled_kernels(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: full)
    with pytest.raises(torch.OutOfMemoryError):
        prepare_for_cuda(Discriminator(WIDTH), CPU)


def test_where_torch_compile_fails_all_stays_as_it_was(monkeypatch, capsys, images):
    def refuse(*_, **__):
        raise RuntimeError("no C compiler\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    network = Discriminator(WIDTH)
    expected = network(images)
    assert not prepare_for_cuda(network, CPU)
    assert "note: torch.compile does not work here: no C compiler\n" in capsys.readouterr().err
    channels = channels_of(network)
    with torch.autocast("cpu", torch.bfloat16):
        network(images)
    assert channels == {(3, WIDTH), (WIDTH, WIDTH)}
    assert torch.equal(network(images)[0], expected[0])
