import pytest
import torch

from networks import as_network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outputs_from_any_layer_are_bit_identical(trained, images, precision):
    network = as_network(trained).at(precision)
    scores, logits = network.outputs(images)
    assert scores.dtype == logits.dtype == torch.float32
    assert torch.equal(network.logits(images), logits)
    assert torch.equal(logits, as_network(trained).logits(images)) == (precision == "fp32")
    for layer in network.layer_names:
        again = network.from_activations(network.activations(images, layer), layer)
        assert torch.equal(again[0], scores), layer
        assert torch.equal(again[1], logits), layer
