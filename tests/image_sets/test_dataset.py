import itertools

import pytest
import torch

from engine.errors import UserError
from image_sets.dataset import Dataset, shown_classes, words_of_shown


def of_labels(labels, classes):
    labels = torch.tensor(labels)
    images = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    return Dataset("some", images, labels, tuple(f"c{k}" for k in range(classes)), "by hand")


def test_columns_by_hand():
    """The first images of each class, row by row, whatever the order of the set."""
    some = of_labels([2, 0, 1, 1, 0, 2, 2, 0], 3)
    indices, names, words = some.columns(1)
    assert (indices.tolist(), names, words) == ([1, 2, 0], ["c0", "c1", "c2"], "")
    # Three rows are asked for, but class 1 has two images.
    assert some.columns(3)[0].tolist() == [1, 2, 0, 4, 3, 5]


def test_a_class_without_an_image_has_no_column():
    assert of_labels([2, 0, 2], 3).columns(1)[1:] == (["c0", "c2"], " (2 of 3 classes)")


def test_ten_classes_of_many_are_shown():
    many = of_labels(list(range(64)) * 2, 64)
    indices, names, words = many.columns(2)
    assert names == [f"c{k}" for k in (0, 7, 14, 21, 28, 35, 42, 49, 56, 63)]
    assert many.labels[indices].tolist() == 2 * [0, 7, 14, 21, 28, 35, 42, 49, 56, 63]
    assert words == words_of_shown(64) == " (10 of 64 classes)"


@pytest.mark.parametrize("count", range(2, 65))
def test_the_classes_shown_are_spread_from_the_first_to_the_last(count):
    shown = shown_classes(count)
    assert len(shown) == min(count, 10)
    assert (shown[0], shown[-1]) == (0, count - 1)
    gaps = {b - a for a, b in itertools.pairwise(shown)}
    assert max(gaps) - min(gaps) <= 1
    assert bool(words_of_shown(count)) == (count > 10)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 0, 1, 2, 2], ""),
        ([0, 0, 0, 1, 2, 2], ""),
        ([0, 0, 0, 0, 1, 2], "classes differ in size, from 1 images (c1) to 4 (c0)"),
        ([0, 1], "classes differ in size, from 0 images (c2) to 1 (c1)"),
    ],
)
def test_classes_of_uneven_sizes_are_told(labels, told):
    assert of_labels(labels, 3).uneven_classes() == told


def test_hold_out_takes_the_last_images_of_each_class():
    some = of_labels([0, 1, 1, 0, 1, 0, 0], 2)
    some.images[:, 0, 0, 0] = torch.arange(7)
    rest, held_out = some.hold_out(4)
    assert rest.images[:, 0, 0, 0].tolist() == [0, 1, 3]
    assert held_out.images[:, 0, 0, 0].tolist() == [2, 4, 5, 6]
    assert held_out.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("count", "message"), [(3, "not a multiple"), (6, "class c1")])
def test_hold_out_leaves_images_of_every_class(count, message):
    with pytest.raises(UserError, match=message):
        of_labels([0, 1, 1, 0, 1, 0, 0], 2).hold_out(count)
