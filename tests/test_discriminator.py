import pytest
import torch

from discriminator import MAP_SIZES, Discriminator


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
