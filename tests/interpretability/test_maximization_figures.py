import pytest
import torch

import data_tools
from discriminator import Discriminator
from interpretability import maximization_figures
from interpretability.activation_maximization import (
    VIEWS,
    class_objective,
    feature_objective,
    held_out,
)
from interpretability.maximization_figures import Ascent
from interpretability.receptive_field import box


def climb(method, objective, kind, views):
    ascent = Ascent(method=method, steps=60)
    start = torch.zeros(1, 3, 32, 32)
    return ascent.climb(objective, start, 10, kind=kind, views=views)


@pytest.mark.parametrize("layer", [None, 2, 4, 8])
def test_robust_images_excite_more_over_held_out_views_than_classic_ones(trained, layer):
    """With the settings that are shipped, where both climb the same: a class (no layer), or the
    unit in the middle."""
    kind, views, objective = "class", VIEWS, class_objective(trained)
    if layer is not None:
        kind, views = "feature", maximization_figures.views_of(layer)
        objective = feature_objective(trained, layer, features=torch.arange(10), centre=True)
    robust = climb("robust", objective, kind, views)
    classic = climb("classic", objective, kind, views)
    assert robust.abs().max() <= 1
    over_views = [held_out(objective, images, views).mean() for images in (robust, classic)]
    assert over_views[0] > 1.2 * over_views[1]
    grey = held_out(objective, torch.zeros(10, 3, 32, 32), views).mean()
    assert over_views[0] > grey + 1


def test_strongest_units_are_the_largest_values_of_the_maps(trained):
    images = data_tools.load_shapes()[1].images[:5]
    units = maximization_figures.strongest_units(trained, images, [2, 7], "fp32", batch_size=2)
    assert units.keys() == {2, 7}
    index, feature = torch.arange(5)[:, None], torch.arange(trained.width)
    for layer, (values, rows, columns) in units.items():
        maps = trained.features(data_tools.to_signed(images), layer)
        assert torch.allclose(values, maps.amax((2, 3)), atol=1e-5)
        there = maps[index, feature, rows.long(), columns.long()]
        assert torch.allclose(there, values, atol=1e-5)


def test_strongest_units_are_where_the_pattern_is():
    """One bright spot off the diagonal, and a network of positive kernels: all light excites it.

    The pixels that are framed hold the spot.
    """
    torch.manual_seed(0)
    network = Discriminator(width=4)
    for block in network.blocks:
        torch.nn.init.uniform_(block[0].weight, 0.5, 1)
    spots = [(5, 20), (24, 9)]
    images = torch.full((2, 3, 32, 32), 127, dtype=torch.uint8)
    for image, (row, column) in zip(images, spots, strict=True):
        image[:, row : row + 3, column : column + 3] = 255
    units = maximization_figures.strongest_units(network, images, [1, 2, 3, 4], "fp32")
    for layer, (_, rows, columns) in units.items():
        for index, (row, column) in enumerate(spots):
            for feature in range(network.width):
                place = int(rows[index, feature]), int(columns[index, feature])
                top, left, bottom, right = box(layer, *place)
                assert top <= row + 1 < bottom, layer
                assert left <= column + 1 < right, layer


def test_no_view_moves_the_middle_out_of_sight():
    shifts = [maximization_figures.views_of(layer).shift for layer in range(1, 9)]
    assert shifts == [1, 2, 2, 4, 4, 4, 4, 5]
    assert maximization_figures.views_of(2) == VIEWS._replace(shift=2)


@pytest.mark.parametrize("layer", range(1, 9))
def test_the_part_shown_holds_what_the_unit_sees(layer):
    images = torch.zeros(1, 3, 32, 32)
    middle = (32, 16, 16, 8, 8, 8, 8, 4)[layer - 1] // 2
    top, left, bottom, right = box(layer, middle, middle)
    images[:, :, top:bottom, left:right] = 1
    shown, (top, left, bottom, right) = maximization_figures.part_seen(images, layer)
    assert shown.shape == (1, 3, 32, 32)
    inner = shown[..., top + 1 : bottom - 1, left + 1 : right - 1]
    assert inner.min() > 0.3
    outside = shown.clone()
    outside[..., max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = 0
    assert outside.abs().max() < 0.3
