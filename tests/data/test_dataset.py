import itertools
import json

import pytest
import torch

import data_tools
from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import Dataset, displayed_classes, displayed_note
from inside_cnn.data.pixels import mean_image


def of_labels(labels, classes):
    labels = torch.tensor(labels)
    images = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels))
    return Dataset("made up", images, labels, tuple(f"c{k}" for k in range(classes)), "by hand")


@pytest.mark.parametrize(
    ("labels", "classes", "rows", "expected"),
    [
        ([2, 0, 1, 1, 0, 2, 2, 0], 3, 1, ([1, 2, 0], ["c0", "c1", "c2"], "")),
        # Class 1 has two images only.
        ([2, 0, 1, 1, 0, 2, 2, 0], 3, 3, ([1, 2, 0, 4, 3, 5], ["c0", "c1", "c2"], "")),
        # Class 1 has no images.
        ([2, 0, 2], 3, 1, ([1, 0], ["c0", "c2"], " (2 of 3 classes)")),
    ],
)
def test_columns_by_hand(labels, classes, rows, expected):
    indices, names, note = of_labels(labels, classes).columns(rows)
    assert (indices.tolist(), names, note) == expected


def test_displayed_classes_are_evenly_spaced():
    for count in range(2, 65):
        displayed = displayed_classes(count)
        assert len(displayed) == min(count, 10)
        assert (displayed[0], displayed[-1]) == (0, count - 1)
        gaps = {b - a for a, b in itertools.pairwise(displayed)}
        assert max(gaps) - min(gaps) <= 1
        assert displayed_note(count) == (f" (10 of {count} classes)" if count > 10 else "")


def test_hold_out_takes_the_last_images_of_each_class():
    rest, held_out = of_labels([0, 1, 1, 0, 1, 0, 0], 2).hold_out(4)
    assert rest.images[:, 0, 0, 0].tolist() == [0, 1, 3]
    assert held_out.images[:, 0, 0, 0].tolist() == [2, 4, 5, 6]
    assert held_out.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("count", "message"), [(3, "not a multiple"), (6, "class c1")])
def test_hold_out_leaves_images_of_every_class(count, message):
    with pytest.raises(UserError, match=message):
        of_labels([0, 1, 1, 0, 1, 0, 0], 2).hold_out(count)


def test_metadata_holds_the_mean_image():
    train, _ = data_tools.load_shapes()
    metadata = json.loads(json.dumps(train.metadata()))
    assert metadata["dataset"] == "shapes"
    assert metadata["class_names"] == list(train.class_names)
    mean = mean_image(metadata)
    assert mean.dtype == torch.uint8
    assert mean.shape == (1, 3, 32, 32)
    assert (mean[0].double() - train.images[:128].double().mean(0)).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("text", [None, 7, "not base64", "AAAA"])
def test_invalid_mean_image(text):
    assert mean_image({"mean_image": text}) is None


def test_uint8_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    signed = data_tools.to_signed(levels)
    assert signed.min() == -1
    assert signed.max() == 1
    assert torch.equal(data_tools.to_uint8(signed), levels)
