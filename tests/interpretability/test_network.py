import pytest
import torch

from networks import as_network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_from_any_layer_are_bit_identical(trained, images, precision):
    network = as_network(trained).at(precision)
    scores, logits = network.outputs(images)
    assert scores.dtype == logits.dtype == torch.float32
    assert torch.equal(network.logits(images), logits)
    assert torch.equal(logits, as_network(trained).logits(images)) == (precision == "fp32")
    for layer in network.layer_names:
        again, maps = network.logits_from(images, layer)
        assert torch.equal(again, logits), layer
        assert torch.equal(maps, network.activations(images, layer)), layer
