import pytest
import torch

from inside_cnn.layers import channel_padding


def test_aligned_channels():
    aligned = {1: 8, 3: 8, 8: 8, 9: 16, 16: 16, 17: 32, 64: 64, 196: 208}
    assert {channels: channel_padding.aligned(channels) for channels in aligned} == aligned


@pytest.mark.parametrize("lengths", [(20,), (32,), (32, 40), (20, 18, 3, 3)])
def test_filled_tensor_contains_the_tensor_and_zeros(lengths):
    weight = torch.randn(20, 18, 3, 3)
    filled = channel_padding.fill(weight, *lengths)
    assert filled.shape == lengths + weight.shape[len(lengths) :]
    assert torch.equal(filled[:20, :18], weight)
    assert filled.count_nonzero() == weight.count_nonzero()
