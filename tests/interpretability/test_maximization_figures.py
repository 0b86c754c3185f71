import argparse

import pytest
import torch

import data_tools
from interpretability import maximization_figures
from interpretability.activation_maximization import (
    VIEWS,
    class_objective,
    feature_objective,
    held_out,
)
from interpretability.receptive_field import box

STEPS = 60


def ascend(method, objective, count, kind, views):
    args = argparse.Namespace(method=method, steps=STEPS, lr=0.1, decay=0.001)
    start = torch.zeros(1, 3, 32, 32)
    return maximization_figures.ascend(args, objective, start, count, "test", kind, views)


@pytest.mark.parametrize("kind", ["class", 2, 4, 8])
def test_robust_images_excite_more_over_held_out_views_than_classic_ones(trained, kind):
    """With the settings that are shipped; features by their strongest unit, which suits both."""
    views = VIEWS
    if kind == "class":
        climbed = judged = class_objective(trained)
    else:
        views = maximization_figures.views_of(kind)
        chosen = torch.arange(10)
        climbed = feature_objective(trained, kind, features=chosen, centre=True)
        judged = feature_objective(trained, kind, features=chosen)
    of = "class" if kind == "class" else "feature"
    robust = ascend("robust", climbed, 10, of, views)
    classic = ascend("classic", judged, 10, of, views)
    assert robust.abs().max() <= 1
    values = [held_out(judged, images, views).mean() for images in (robust, classic)]
    assert values[0] > values[1]
    grey = held_out(judged, torch.zeros(10, 3, 32, 32), views).mean()
    assert values[0] > grey + 1


def test_strongest_units_are_where_the_pattern_is(trained):
    """An image with one bright spot off the diagonal: the framed pixels hold it."""
    spots = {(5, 20): 0, (24, 9): 1}
    images = torch.full((2, 3, 32, 32), 127, dtype=torch.uint8)
    for (row, column), index in spots.items():
        images[index, :, row : row + 3, column : column + 3] = 255
    found = maximization_figures.strongest_units(trained, images, [2, 3], "fp32", batch_size=1)
    assert found.keys() == {2, 3}
    for layer, (values, rows, columns) in found.items():
        maps = trained.features(data_tools.to_signed(images), layer)
        assert torch.allclose(values, maps.amax((2, 3)), atol=1e-5)
        for (row, column), index in spots.items():
            held = 0
            for feature in range(trained.width):
                place = int(rows[index, feature]), int(columns[index, feature])
                assert maps[(index, feature, *place)] == pytest.approx(
                    values[index, feature].item(), abs=1e-5
                )
                top, left, bottom, right = box(layer, *place)
                held += top <= row + 1 < bottom and left <= column + 1 < right
            assert held > trained.width / 2


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
