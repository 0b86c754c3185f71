import math

import pytest
import torch
from torch import nn

import data_tools
from inside_cnn.interpretability.frequency import (
    BANDS,
    band_energy,
    band_noise,
    frequency_section,
    in_bands,
    radial_frequencies,
)
from networks import as_network


def stripes(cycles):
    """An image of vertical stripes, so many over its width: (1, 3, 32, 32)."""
    x = torch.arange(32) / 32
    return torch.cos(2 * math.pi * cycles * x).expand(1, 3, 32, 32)


def test_frequencies_are_in_cycles_per_pixel():
    frequencies = radial_frequencies(32)
    assert frequencies[0, 0] == 0
    assert frequencies[0, 16] == frequencies[16, 0] == 0.5
    assert frequencies[16, 16].item() == pytest.approx(math.sqrt(0.5))
    assert (in_bands(32).sum(0) == 1).all()  # each coefficient is in one band


@pytest.mark.parametrize(("cycles", "band"), [(1, 0), (5, 1), (8, 2), (11, 3), (16, 4)])
def test_energy_of_stripes_is_in_one_band(cycles, band):
    assert band_energy(7 * stripes(cycles))[0].tolist() == pytest.approx(
        [float(k == band) for k in range(5)], abs=1e-5
    )


@pytest.mark.parametrize("band", range(len(BANDS) - 1))
def test_noise_has_one_band_and_an_rms_of_16(band):
    noise = band_noise((20, 3, 32, 32), band, torch.Generator().manual_seed(0))
    assert noise.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([16.0] * 20, rel=1e-4)
    assert band_energy(noise)[:, band].min() > 0.999
    assert abs(torch.corrcoef(noise[:2].flatten(1))[0, 1].item()) < 0.5


class Pattern(nn.Module):
    """Two classes by the product of the image and a pattern, whose frequency the gradient has."""

    def __init__(self, pattern):
        super().__init__()
        self.pattern = pattern

    def forward(self, x):
        value = (x * self.pattern).mean((1, 2, 3))
        return value, torch.stack([value, -value], 1)


def test_networks_of_known_frequency(tmp_path):
    """Noise in the band that a network depends on changes its class, noise elsewhere does not."""
    test_set = data_tools.load_shapes()[1].first(100)
    line = torch.arange(32)
    left_half, checkerboard = line < 16, 1 - 2 * ((line[:, None] + line) % 2)
    networks = [as_network(Pattern(left_half)), as_network(Pattern(checkerboard), "with G")]
    test_set.labels = (test_set.images[..., :16].float().mean((1, 2, 3)) < 127.5).long()
    low = frequency_section(networks, test_set, tmp_path)["without G"]
    assert low["gradient_energy"][0] > 80
    assert sum(low["white_energy"]) == pytest.approx(100, abs=0.05)
    assert low["accuracy"] == 100
    assert low["accuracy_under_noise"][2:] == pytest.approx([100] * 3, abs=2)
    _, logits = networks[1].model(data_tools.to_signed(test_set.images))
    test_set.labels = logits.argmax(1)
    high = frequency_section(networks, test_set, tmp_path)["with G"]
    assert high["gradient_energy"][4] == pytest.approx(100, abs=0.01)
    assert high["accuracy_under_noise"][0] > 90 > high["accuracy_under_noise"][4]
    assert (tmp_path / "frequency.png").exists()
