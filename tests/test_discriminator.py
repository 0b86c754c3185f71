import pytest
import torch

from discriminator import MAP_SIZES, Discriminator, block


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


def test_invalid_layer_and_image_shape(images):
    for layer in (0, 9):
        with pytest.raises(ValueError, match="1 to 8"):
            Discriminator(width=2).features(images, layer)
    with pytest.raises(ValueError, match="32"):
        Discriminator(width=2)(torch.zeros(1, 3, 28, 28))


def test_block_computed_by_hand():
    # The convolution with a 1 in the middle of its kernel is the identity. For 1, 2, 3, 6 the mean
    # is 3, the variance (4 + 1 + 0 + 9) / 4 = 3.5. Then y = 2 x_hat + 1, and LeakyReLU(0.01).
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
