import time

import numpy as np
import pytest

from inside_cnn.data import shapes


def test_same_seed_same_bits_and_another_seed_others():
    first, labels = shapes.draw_shapes(300, 5)
    again, labels_again = shapes.draw_shapes(300, 5)
    other, _ = shapes.draw_shapes(300, 6)
    assert np.array_equal(first, again)
    assert np.array_equal(labels, labels_again)
    assert not np.array_equal(first, other)


def test_types_and_balance():
    images, labels = shapes.draw_shapes(250, 0)
    assert images.shape == (250, 3, 32, 32)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [25] * 10
    assert images.min() < 10
    assert images.max() > 245


def test_empty_and_negative_counts():
    assert shapes.draw_shapes(0, 0)[0].shape == (0, 3, 32, 32)
    with pytest.raises(ValueError):
        shapes.draw_shapes(-1, 0)


def test_predicates_at_points_known_by_hand():
    inside = shapes._INSIDE
    points = {  # shape: (a point inside, a point outside), in units of the radius
        "disc": ((0.0, 0.8), (0.7, 0.7)),
        "ring": ((0.0, 0.8), (0.0, 0.0)),
        "square": ((0.75, 0.75), (0.85, 0.0)),
        "triangle": ((0.0, 0.8), (0.8, 0.8)),
        "star": ((0.0, 0.9), (0.0, -0.9)),
        "cross": ((0.9, 0.0), (0.6, 0.6)),
        "heart": ((0.0, -0.7), (0.0, 0.95)),
        "crescent": ((-0.7, 0.0), (0.5, 0.0)),
        "hourglass": ((0.0, 0.8), (0.5, 0.0)),
        "bars": ((0.0, 0.55), (0.0, 0.0)),
    }
    assert points.keys() == inside.keys()
    for name, (within, without) in points.items():
        assert inside[name](*map(np.float32, within)), name
        assert not inside[name](*map(np.float32, without)), name


def test_default_set_is_drawn_in_ten_seconds():
    start = time.process_time()
    shapes.draw_shapes(22_000, 0)
    assert time.process_time() - start < 10


def test_linear_classifier_stays_under_60_percent():
    images, labels = shapes.draw_shapes(14_000, 0)
    x = np.c_[images.reshape(14_000, -1) / 255.0, np.ones(14_000)].astype(np.float32)
    train, test = slice(0, 12_000), slice(12_000, 14_000)
    targets = np.eye(10)[labels[train]]
    for ridge in (10.0, 300.0):
        gram = x[train].T @ x[train] + ridge * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[train].T @ targets)
        accuracy = ((x[test] @ weights).argmax(1) == labels[test]).mean()
        assert 0.2 < accuracy < 0.6  # above chance: the fit itself works
