import copy

import pytest
import torch

import data_tools
from data_tools import to_signed
from inside_cnn.interpretability import maximization_figures
from inside_cnn.interpretability.activation_maximization import (
    VIEWS,
    class_objective,
    held_out,
    unit_objective,
)
from inside_cnn.interpretability.maximization_figures import Ascent, LayerUnits, feature_section
from inside_cnn.interpretability.receptive_field import box
from networks import as_network


def climb(method, objective, kind, views):
    ascent = Ascent(method=method, steps=60)
    start = torch.zeros(1, 3, 32, 32)
    return ascent.maximize(objective, start, 10, kind=kind, views=views)


@pytest.mark.parametrize("layer", [None, 2, 4, 8])
def test_robust_images_excite_more_over_held_out_views_than_classic_ones(trained, layer):
    """With the settings that are shipped, where both climb the same: a class (no layer), or the
    unit in the middle."""
    kind, views, objective = "class", VIEWS, class_objective(as_network(trained))
    if layer is not None:
        positions = maximization_figures.middle_of(layer, 10)
        kind, views = "feature", maximization_figures.views_of(layer, positions)
        objective = unit_objective(as_network(trained), layer, torch.arange(10), positions)
    robust = climb("robust", objective, kind, views)
    classic = climb("classic", objective, kind, views)
    assert robust.abs().max() <= 1
    over_views = [held_out(objective, images, views).mean() for images in (robust, classic)]
    assert over_views[0] > 1.2 * over_views[1]
    grey = held_out(objective, torch.zeros(10, 3, 32, 32), views).mean()
    assert over_views[0] > grey + 1


def test_no_view_moves_a_unit_out_of_sight():
    middle = torch.tensor([[4, 4]])
    views = [maximization_figures.views_of(layer, middle) for layer in range(1, 9)]
    assert [of_layer.shift for of_layer in views] == [1, 2, 2, 4, 4, 4, 4, 5]
    assert views[1]._replace(centers=None) == VIEWS._replace(shift=2)
    # Layer 2: unit (4, 4) sees the pixels 6 to 10, so its middle is 8.5 pixels from the corner.
    assert views[1].centers.tolist() == [[8.5 / 16 - 1] * 2]


@pytest.mark.parametrize("layer", range(1, 9))
@pytest.mark.parametrize("place", ["middle", "corner", "edge"])
def test_the_part_shown_holds_what_the_unit_sees(layer, place):
    images = torch.zeros(1, 3, 32, 32)
    size = (32, 16, 16, 8, 8, 8, 8, 4)[layer - 1]
    unit = {"middle": (size // 2, size // 2), "corner": (0, size - 1), "edge": (size - 1, 1)}[place]
    top, left, bottom, right = box(layer, *unit)
    images[:, :, top:bottom, left:right] = 1
    shown, (top, left, bottom, right) = maximization_figures.part_seen(images, layer, unit)
    assert shown.shape == (1, 3, 32, 32)
    inner = shown[..., top + 1 : bottom - 1, left + 1 : right - 1]
    assert inner.min() > 0.3
    outside = shown.clone()
    outside[..., max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = 0
    assert outside.abs().max() < 0.3


@pytest.fixture
def tied(trained):
    """The network with feature 3 of layer 4 silenced, but at one position of the map."""
    network = copy.deepcopy(trained)
    bias = network.blocks[3][1].bias
    bias[3] -= 100
    bias[3, 1, 6] += 100
    return network


def test_a_feature_tied_to_one_position_is_maximized_there(tied, tmp_path, capsys):
    """In the middle of the map nothing activates it."""
    test_set = data_tools.load_shapes()[1].first(200)
    network = as_network(tied)
    network.start = torch.zeros(1, 3, 32, 32)
    ascent = Ascent(steps=60)
    metrics = feature_section(network, [4], ascent, tmp_path, test_set)["4"]
    chosen = metrics["features"] + metrics["random_features"]
    assert sorted(chosen) == list(range(12))
    index = chosen.index(3)
    assert metrics["position"][index] == [1, 6]
    assert metrics["activation"][index] > metrics["best_test_image"][index] > 0
    assert 3 not in metrics["below_best_test_image"]
    middle = unit_objective(network, 4, torch.tensor([3]), torch.tensor([[4, 4]]))
    assert (middle(to_signed(test_set.images)) < 0).all()
    below = metrics["below_best_test_image"]
    assert f"{12 - len(below)} of 12 synthetic images" in capsys.readouterr().out


def test_share_of_features_that_peak_at_the_border(trained):
    """Twelve features, three of them at the border of a 4x4 map, of which 12 / 16 is border."""
    positions = [(0, 1), (3, 2), (2, 3)] + [(1, 2)] * 9
    rows, columns = torch.tensor(positions).float().T[:, None].expand(2, 10, 12)
    test_set = data_tools.load_shapes()[1].first(10)
    units = LayerUnits(8, test_set, torch.rand(10, 12), rows, columns)
    metrics = units.compare(torch.tensor([0, 5]), torch.tensor([0, 5, 1]), torch.zeros(3))
    assert metrics["peak_at_border_percent"] == {"selected": 50, "all": 25, "uniform": 75}
    assert metrics["below_best_test_image"] == [0, 5, 1]
