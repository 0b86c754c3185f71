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


def test_grad_cam_marks_the_region_of_the_feature_that_the_class_uses():
    """One feature depends on red only, the class on this feature only: the map is where red is."""
    network = Discriminator(width=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for block in network.blocks:
            block[0].weight[0, 0, 1, 1] = 1  # copies feature 0
            block[1].weight.fill_(1)
        network.class_head.weight[3, 0] = 1
    image = -torch.ones(1, 3, 32, 32)
    image[0, 0, 16:, :16] = 1
    regions = grad_cam(as_network(network), image, torch.tensor([3]), layer=7)[0]
    assert regions[20:28, 4:12].min() > 3 * regions[4:12].max()
    assert grad_cam(as_network(network), image, torch.tensor([5]), layer=7).abs().max() == 0


def test_integrated_gradients_agree_with_captum(images):
    torch.manual_seed(0)
    network = as_network(Discriminator(width=12).requires_grad_(False))
    classes, baseline = torch.arange(8), images.roll(1, 0)
    ours = integrated_gradients(network, images, classes, baseline, steps=16)
    theirs = IntegratedGradients(network.logits).attribute(
        images, baselines=baseline, target=classes, n_steps=16, method="riemann_middle"
    )
    assert torch.allclose(ours, theirs.float(), rtol=1e-3, atol=1e-5)
