import pytest
import torch
import torch.nn.functional as F

from discriminator import MAP_SIZES, NUM_LAYERS, Discriminator, block


def test_parameter_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in Discriminator().parameters()) == 3_137_971


def test_shapes_of_outputs_and_features(images):
    model = Discriminator(width=6)
    scores, class_logits = model(images)
    assert scores.shape == (8,)
    assert class_logits.shape == (8, 10)
    for layer, size in zip(range(1, 9), (32, 16, 16, 8, 8, 8, 8, 4), strict=True):
        assert model.features(images, layer).shape == (8, 6, size, size)
        assert MAP_SIZES[layer - 1] == size


def test_layer_8_pooled_through_the_heads_is_forward(images):
    model = Discriminator(width=6)
    pooled = model.features(images, 8).amax((2, 3))
    scores, class_logits = model(images)
    assert torch.equal(model.critic_head(pooled)[:, 0], scores)
    assert torch.equal(model.class_head(pooled), class_logits)


def test_features_compute_no_later_layer(images):
    model = Discriminator(width=6)
    ran = []
    for index, layers in enumerate(model.blocks):
        layers.register_forward_hook(lambda *_, i=index: ran.append(i + 1))
    model.features(images, 3)
    assert ran == [1, 2, 3]


@pytest.mark.parametrize("layer", [0, 9, -1])
def test_layer_out_of_range(images, layer):
    with pytest.raises(ValueError, match="1 to 8"):
        Discriminator(width=2).features(images, layer)


def test_wrong_image_shape_and_sizes():
    with pytest.raises(ValueError, match="32"):
        Discriminator(width=2)(torch.zeros(1, 3, 28, 28))
    with pytest.raises(ValueError, match="width"):
        Discriminator(width=0)


def test_a_block_computed_on_paper():
    # One 2x2 map: the 3x3 kernel with 1 in its middle copies it, so the norm sees 1, 2, 3, 6:
    # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5. Then y = 2 x_hat + 1, and LeakyReLU(0.01).
    layers = block(1, 1, size=2, stride=1)
    with torch.no_grad():
        layers[0].weight.zero_()[0, 0, 1, 1] = 1
        layers[0].bias.zero_()
        layers[1].weight.fill_(2)
        layers[1].bias.fill_(1)
    out = layers(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    root = 3.5**0.5
    expected = [0.01 * (1 - 4 / root), 0.01 * (1 - 2 / root), 1.0, 1 + 6 / root]
    assert out.flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_forward_is_the_stack_of_standard_layers(images):
    """The whole network against one assembled here from torch's own parts."""
    model = Discriminator(width=4)
    x = images
    for index, (conv, norm, _) in enumerate(model.blocks):
        x = F.conv2d(x, conv.weight, conv.bias, stride=(1, 2, 1, 2, 1, 1, 1, 2)[index], padding=1)
        x = F.leaky_relu(F.layer_norm(x, x.shape[1:], norm.weight, norm.bias), 0.01)
    x = F.max_pool2d(x, 4).flatten(1)
    scores, class_logits = model(images)
    assert torch.allclose(model.critic_head(x)[:, 0], scores, atol=1e-5)
    assert torch.allclose(model.class_head(x), class_logits, atol=1e-5)


def test_an_image_does_not_see_its_neighbours(images):
    model = Discriminator(width=4)
    together = model(images)
    alone = [model(images[i : i + 1]) for i in range(len(images))]
    for part in (0, 1):
        assert torch.allclose(together[part], torch.cat([one[part] for one in alone]), atol=1e-5)


def test_every_parameter_gets_a_gradient(images):
    model = Discriminator(width=4)
    scores, class_logits = model(images)
    (scores.sum() + class_logits.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert len(model.blocks) == NUM_LAYERS
