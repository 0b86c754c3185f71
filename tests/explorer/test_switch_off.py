from dataclasses import replace

import pytest
import torch

import data_tools
from generator import Generator
from inside_cnn.explorer.drawing import Drawing, draw
from inside_cnn.explorer.session import Session
from inside_cnn.explorer.switch_off import (
    NoNumbers,
    accuracies,
    drawn_without,
    favouring,
    parse_numbers,
)
from networks import as_network


@pytest.fixture
def session(trained):
    _, test = data_tools.load_shapes()
    torch.manual_seed(0)
    generator = Generator(width=8, latent_dim=30).eval().requires_grad_(False)
    names = list(test.class_names)
    return Session([as_network(trained)], generator, test.first(1200), False, names)


def test_numbers():
    assert parse_numbers("", 12) == parse_numbers(" \n", 12) == []
    assert parse_numbers("3", 12) == [3]
    assert parse_numbers("11, 2-4;3  0", 12) == [0, 2, 3, 4, 11]


@pytest.mark.parametrize("text", ["12", "a", "-1", "3-", "4-2", "0-12", "1.5", "9" * 50, "1--2"])
def test_no_numbers(text):
    with pytest.raises(NoNumbers):
        parse_numbers(text, 12)


def test_accuracies_are_those_of_the_first_thousand_images(session, trained):
    images = session.images.first(1000)
    right = trained(data_tools.to_signed(images.images))[1].argmax(1) == images.labels
    of_all, of_class = accuracies(session, session.networks[0], 8, [])
    assert of_all == pytest.approx(100 * right.double().mean().item())
    assert list(of_class) == session.class_names
    for label, share in enumerate(of_class.values()):
        own = right[images.labels == label]
        assert share == pytest.approx(100 * own.double().mean().item())


def test_a_class_that_no_image_shows_has_no_accuracy(session):
    labels = session.images.labels.clone()
    labels[:1000][labels[:1000] == 3] = 4
    session.images = replace(session.images, labels=labels)
    _, of_class = accuracies(session, session.networks[0], 8, [])
    assert list(of_class) == [*session.class_names[:3], *session.class_names[4:]]


def test_without_what_favours_a_class_the_class_is_lost_most(session):
    network = session.networks[0]
    _, before = accuracies(session, network, 8, [])
    features = favouring(session, network, 8, label=2, count=4)
    assert len(set(features)) == 4
    assert features == favouring(session, network, 8, label=2, count=12)[:4]
    _, after = accuracies(session, network, 8, features)
    lost = [before[name] - after[name] for name in session.class_names]
    assert lost[2] > 20
    assert lost[2] > sum(lost) / len(lost) + 10


def test_the_generator_without_some_channels(session):
    drawings = [Drawing(label=k) for k in range(4)]
    whole = draw(session, drawings)
    assert (drawn_without(session, drawings, 3, []).int() - whole.int()).abs().max() <= 1
    assert not torch.equal(drawn_without(session, drawings, 3, list(range(8))), whole)
