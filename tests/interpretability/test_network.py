import pytest
import torch

from inside_cnn.interpretability.network import Network, as_maps
from networks import as_network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_from_any_layer_are_bit_identical(trained, images, precision):
    network = as_network(trained).at(precision)
    scores, logits = network.outputs(images)
    assert scores.dtype == logits.dtype == torch.float32
    assert torch.equal(network.logits(images), logits)
    assert torch.equal(logits, as_network(trained).logits(images)) == (precision == "fp32")
    for layer in network.layers:
        again, maps = network.logits_from(images, layer)
        assert torch.equal(again, logits), layer
        assert torch.equal(maps, network.activations(images, layer)), layer


def test_networks_with_a_trained_critic(tmp_path):
    """Older files do not state the loss; the generator beside the weights does."""
    path = str(tmp_path / "discriminator.safetensors")
    assert not Network("mine", None, path).has_critic
    (tmp_path / "generator.safetensors").touch()
    assert Network("mine", None, path).has_critic
    assert not Network("mine", None, path, {"critic": "penalty"}).has_critic
    assert Network("with G", None).has_critic


@pytest.mark.parametrize(
    ("shape", "expected", "units"),
    [
        ((2, 5), (2, 5, 1, 1), [0]),
        ((2, 9, 5), (2, 5, 3, 3), [0, 5]),
        ((2, 10, 5), (2, 5, 3, 3), [5, 10]),  # without the class token
        ((2, 7, 5), (2, 5, 1, 7), [0, 5]),
        ((2, 5, 3, 3), (2, 5, 3, 3), [0, 1]),
        ((2, 3, 3, 5), (2, 5, 3, 3), [0, 5]),  # as in the Swin transformer
        ((2, 3, 3, 3), (2, 3, 3, 3), [0, 1]),
    ],
)
def test_outputs_as_maps(shape, expected, units):
    """units: the numbers in the output of the first two units of the first map."""
    output = torch.arange(torch.Size(shape).numel()).view(shape)
    maps = as_maps(output)
    assert maps.shape == expected
    assert maps[0, 0, 0, :2].tolist() == units
