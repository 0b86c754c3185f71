import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam

from discriminator import Discriminator
from inside_cnn.interpretability.attribution import grad_cam, integrated_gradients
from networks import as_network


@pytest.mark.parametrize("layer", [2, 7, 8])
def test_grad_cam_agrees_with_captum(images, layer):
    torch.manual_seed(0)
    network = as_network(Discriminator(width=12).requires_grad_(False))
    classes = torch.arange(8)
    ours = grad_cam(network, images, classes, layer)
    assert ours.shape == (8, 32, 32)
    reference = LayerGradCam(lambda x: network.logits(x), network.model.blocks[layer - 1])
    x = images.clone().requires_grad_()
    theirs = reference.attribute(x, classes, relu_attributions=True)
    theirs = LayerGradCam.interpolate(theirs, (32, 32), "bilinear").squeeze(1).detach()
    assert theirs.abs().max() > 1e-6
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_integrated_gradients_agree_with_captum(images):
    torch.manual_seed(0)
    network = as_network(Discriminator(width=12).requires_grad_(False))
    classes, baseline = torch.arange(8), images.roll(1, 0)
    ours = integrated_gradients(network, images, classes, baseline, steps=16)
    theirs = IntegratedGradients(network.logits).attribute(
        images, baselines=baseline, target=classes, n_steps=16, method="riemann_middle"
    )
    assert torch.allclose(ours, theirs.float(), rtol=1e-3, atol=1e-5)
