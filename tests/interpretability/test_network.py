import pytest
import torch

from networks import as_network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_way_to_the_outputs_gives_the_same(trained, images, precision):
    """Bit for bit: through the whole network, and from each layer's activations on."""
    network = as_network(trained).at(precision)
    scores, logits = network.outputs(images)
    assert scores.dtype == logits.dtype == torch.float32
    assert torch.equal(network.score(images), scores)
    assert torch.equal(network.logits(images), logits)
    assert torch.equal(logits, as_network(trained).logits(images)) == (precision == "fp32")
    for layer in network.layer_names:
        again = network.from_activations(network.activations(images, layer), layer)
        assert torch.equal(again[0], scores), layer
        assert torch.equal(again[1], logits), layer


def test_activations_of_several_layers_are_those_of_each(trained, images):
    network = as_network(trained)
    for layer, maps in network.activations_of(images, [7, 2]):
        assert torch.equal(maps, network.activations(images, layer))
    assert [layer for layer, _ in network.activations_of(images, [7, 2, 7])] == [2, 7]
    with pytest.raises(ValueError, match="1 to 8"):
        network.activations(images, 9)


def test_a_network_without_a_score(images):
    network = as_network(lambda x: (None, x.mean((2, 3))))
    assert network.score(images) is None
    assert network.logits(images).shape == (8, 3)
