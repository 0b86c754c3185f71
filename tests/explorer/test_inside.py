import pytest
import torch

import data_tools
from inside_cnn.explorer.inside import lit, strongest_features
from inside_cnn.explorer.session import Session
from networks import as_network


@pytest.fixture
def session(trained):
    _, test = data_tools.load_shapes()
    return Session([as_network(trained)], None, test.first(60), False, list(test.class_names))


@pytest.mark.parametrize("layer", [1, 5, 8])
def test_the_most_unusual_first_and_where(session, trained, layer):
    image = session.images.images[3]
    fired = strongest_features(session, session.networks[0], image, layer, count=12)
    every = trained.features(data_tools.to_signed(session.images.images), layer).amax((2, 3))
    unusual = (every[3] - every.mean(0)) / every.std(0)
    assert sorted(one.feature for one in fired) == list(range(12))
    maps = trained.features(data_tools.to_signed(image[None]), layer)[0]
    for one in fired:
        assert one.value == pytest.approx(every[3, one.feature].item(), abs=1e-4)
        assert one.unusual == pytest.approx(unusual[one.feature].item(), abs=2e-2)
        torch.testing.assert_close(one.activations, maps[one.feature])
        assert one.activations[one.row, one.column] == one.activations.max()
    measures = [one.unusual for one in fired]
    assert measures == sorted(measures, reverse=True)


def test_without_images_the_strongest(session):
    image = session.images.images[3]
    session.images = None
    fired = strongest_features(session, session.networks[0], image, 4)
    assert [one.unusual for one in fired] == [None] * 6
    values = [one.value for one in fired]
    assert values == sorted(values, reverse=True)


def test_bright_where_it_is_active():
    image = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    activations = torch.tensor([[4.0, -1.0], [2.0, 0.0]])
    shown = lit(image, activations)
    assert shown[0, 0, 0] == 100
    assert shown[1, 0, 31] == shown[2, 31, 31] == 30
    assert shown[0, 31, 0] == 65
    assert lit(image, torch.full((2, 2), -3.0)).max() == 30
