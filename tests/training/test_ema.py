import pytest
import torch

from generator import Generator
from inside_cnn.training.ema import EMA


def test_average_by_hand():
    network = Generator(width=2)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(0)
        ema = EMA(network, decay=0.5)
        for value in network.state_dict().values():
            value.fill_(1)
    ema.update(network, torch.tensor(0.0, dtype=torch.float64))  # d = min(0.5, 1/10)
    values = ema.model.state_dict()
    assert values["to_rgb.bias"].tolist() == pytest.approx([0.9] * 3)
    assert values["project.1.running_mean"][0].item() == pytest.approx(0.9)
    assert values["project.1.num_batches_tracked"] == 1
    ema.update(network, torch.tensor(1000.0, dtype=torch.float64))  # d = 0.5
    assert ema.model.state_dict()["to_rgb.bias"].tolist() == pytest.approx([0.95] * 3)
    assert not ema.model.training
