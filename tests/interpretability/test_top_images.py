import pytest
import torch

import data_tools
from data_tools import to_signed
from inside_cnn.interpretability.top_images import peak_positions, strongest_units
from networks import as_network


@pytest.mark.parametrize("layer", [1, 4, 8])
def test_strongest_units(trained, layer):
    images = data_tools.load_shapes()[1].first(120).images
    units = strongest_units(as_network(trained), images.split(50), [1, 4, 8])
    values, rows, columns = units[layer]
    maps = trained.features(to_signed(images), layer)
    torch.testing.assert_close(values, maps.amax((2, 3)))
    place = (rows * maps.shape[3] + columns).long()[:, :, None]
    torch.testing.assert_close(maps.flatten(2).gather(2, place)[:, :, 0], values)


def test_peak_is_the_most_frequent_position_of_the_strongest_images():
    """Weak images at (3, 3) do not count; the activations decide ties."""
    values = torch.arange(40.0)[:, None].expand(40, 2)
    rows, columns = torch.full((2, 40, 2), 3.0)
    rows[32:, 0], columns[32:, 0] = torch.tensor([0, 5, 5, 0, 5, 1, 5, 0.0]), 6
    rows[32:36, 1], columns[32:36, 1] = 1, 2
    rows[36:, 1], columns[36:, 1] = 4, 0
    assert peak_positions(values, rows, columns).tolist() == [[5, 6], [4, 0]]
