import copy
from functools import partial

import pytest
import torch

import data_tools
from data_tools import to_signed
from discriminator import MAP_SIZES
from inside_cnn.interpretability.activation_maximization import VIEWS, held_out
from inside_cnn.interpretability.maximization_figures import (
    ROBUST,
    LayerUnits,
    feature_section,
    views_of,
    visible_part,
)
from inside_cnn.interpretability.objectives import class_logit, neuron, optimize
from inside_cnn.interpretability.receptive_field import box
from networks import as_network


@pytest.mark.parametrize("layer", [None, 4])
def test_robust_images_have_larger_values_over_held_out_views(trained, layer):
    """For a class (no layer) and for the unit in the middle."""
    kind, views = "class", VIEWS
    network = as_network(trained)
    objective = class_logit(torch.arange(10))
    if layer is not None:
        middle = MAP_SIZES[layer - 1] // 2
        kind, views = "feature", views_of(network, layer, torch.full((10, 2), middle))
        objective = neuron(layer, torch.arange(10), middle, middle)
    network.start = torch.zeros(1, 3, 32, 32)
    values = []
    for method in ("robust", "classic"):
        images = optimize(network, objective, 10, 40, method, views=views, **ROBUST[kind])
        assert images.abs().max() <= 1
        values.append(held_out(partial(objective, network), images, views).mean())
    assert values[0] > 1.2 * values[1]
    start = network.start.repeat(10, 1, 1, 1)
    assert values[0] > held_out(partial(objective, network), start, views).mean() + 1


def test_views_keep_a_unit_in_its_receptive_field(trained):
    network = as_network(trained)
    middle = torch.tensor([[4, 4]])
    views = [views_of(network, layer, middle) for layer in range(1, 9)]
    assert [32 * of_layer.translation for of_layer in views] == [1, 2, 2, 4, 4, 4, 4, 5]
    assert views[1]._replace(centers=None) == VIEWS._replace(translation=2 / 32)
    # Layer 2: unit (4, 4) sees the pixels 6 to 10, so its middle is 8.5 pixels from the corner.
    assert views[1].centers.tolist() == [[8.5 / 16 - 1] * 2]


@pytest.mark.parametrize("layer", range(1, 9))
@pytest.mark.parametrize("place", ["middle", "corner", "edge"])
def test_visible_part_contains_the_receptive_field(trained, layer, place):
    network = as_network(trained)
    images = torch.zeros(1, 3, 32, 32)
    size = MAP_SIZES[layer - 1]
    unit = {"middle": (size // 2, size // 2), "corner": (0, size - 1), "edge": (size - 1, 1)}[place]
    top, left, bottom, right = box(network, layer, *unit)
    images[:, :, top:bottom, left:right] = 1
    part, (top, left, bottom, right) = visible_part(images, network, layer, unit)
    assert part.shape == (1, 3, 32, 32)
    inner = part[..., top + 1 : bottom - 1, left + 1 : right - 1]
    assert inner.min() > 0.3
    outside = part.clone()
    outside[..., max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = 0
    assert outside.abs().max() < 0.3


@pytest.fixture
def tied(trained):
    """The network with feature 3 of layer 4 active at one position of the map only."""
    network = copy.deepcopy(trained)
    bias = network.blocks[3][1].bias
    bias[3] -= 100
    bias[3, 1, 6] += 100
    return network


def test_a_feature_is_maximized_at_the_position_where_it_peaks(tied, tmp_path, capsys):
    """Nothing activates it in the middle of the map."""
    test_set = data_tools.load_shapes()[1].first(200)
    network = as_network(tied)
    network.start = torch.zeros(1, 3, 32, 32)
    how = {"method": "robust", "steps": 60}
    metrics = feature_section(network, [4], how, tmp_path, test_set)["4"]
    chosen = metrics["features"] + metrics["random_features"]
    assert sorted(chosen) == list(range(12))
    index = chosen.index(3)
    assert metrics["position"][index] == [1, 6]
    assert metrics["activation"][index] > metrics["best_test_image"][index] > 0
    assert 3 not in metrics["below_best_test_image"]
    assert (neuron(4, 3, 4, 4)(network, to_signed(test_set.images)) < 0).all()
    below = metrics["below_best_test_image"]
    assert f"{12 - len(below)} of 12 synthetic images" in capsys.readouterr().out


def test_share_of_features_that_peak_at_the_border(trained):
    """Twelve features, three of them at the border of a 4x4 map, of which 12 / 16 is border."""
    positions = [(0, 1), (3, 2), (2, 3)] + [(1, 2)] * 9
    rows, columns = torch.tensor(positions).float().T[:, None].expand(2, 10, 12)
    test_set = data_tools.load_shapes()[1].first(10)
    units = LayerUnits(as_network(trained), 8, test_set, (torch.rand(10, 12), rows, columns))
    metrics = units.compare(torch.tensor([0, 5]), torch.tensor([0, 5, 1]), torch.zeros(3))
    assert metrics["peak_at_border_percent"] == {"selected": 50, "all": 25, "uniform": 75}
    assert metrics["below_best_test_image"] == [0, 5, 1]
