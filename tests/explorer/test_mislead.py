import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.explorer.mislead import enlarged, mislead
from inside_cnn.explorer.session import Session
from inside_cnn.interpretability.adversarial import loss_gradient, signed_step
from networks import as_network


@pytest.fixture
def session(trained):
    torch.manual_seed(1)
    networks = [as_network(trained, "without G"), as_network(Discriminator(width=8), "with G")]
    _, test = data_tools.load_shapes()
    return Session(networks, None, test.first(40), False, list(test.class_names))


def misled(session, index, label="own", **changed):
    settings = {"epsilon": 8, "attack": "step", "targeted": False, "target": 3}
    settings |= {"aimed_at": "without G"} | changed
    images = session.images
    label = int(images.labels[index]) if label == "own" else label
    return mislead(session, images.images[index], label, **settings)


@pytest.mark.parametrize("attack", ["noise", "step", "pgd"])
@pytest.mark.parametrize("targeted", [False, True])
def test_at_epsilon_0_nothing_changes_to_the_last_digit(session, attack, targeted):
    found = misled(session, 0, epsilon=0, attack=attack, targeted=targeted)
    assert torch.equal(found.perturbed, found.image)
    for name, (score, shares) in found.said_before.items():
        assert found.said_after[name][0] == score
        assert torch.equal(found.said_after[name][1], shares)


@pytest.mark.parametrize("aimed_at", ["without G", "with G"])
@pytest.mark.parametrize("targeted", [False, True])
def test_one_step_is_that_of_the_pictures(session, aimed_at, targeted):
    """visualization.py perturbs many images at once by the same two functions."""
    found = [misled(session, i, aimed_at=aimed_at, targeted=targeted) for i in range(8)]
    images = session.images.first(8)
    classes = torch.full((8,), 3) if targeted else images.labels
    network = session.network(aimed_at)
    gradient, _ = loss_gradient(network, images.images.float(), classes)
    expected = signed_step(images.images, gradient, 8, targeted)
    perturbed = torch.stack([one.perturbed for one in found]).float()
    assert (perturbed - expected).abs().max() <= 1e-4
    with torch.no_grad():
        shares = network.logits(expected / 127.5 - 1).softmax(1)
    said = torch.stack([one.said_after[aimed_at][1] for one in found])
    torch.testing.assert_close(said, shares, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attack", ["noise", "step", "pgd"])
def test_no_pixel_moves_further_than_epsilon(session, attack):
    found = misled(session, 2, epsilon=3, attack=attack)
    change = (found.perturbed.float() - found.image.float()).abs()
    assert 0 < change.max() <= 3
    again = misled(session, 2, epsilon=3, attack=attack)
    assert torch.equal(found.perturbed, again.perturbed)


def test_twenty_steps_mislead_the_network_they_are_aimed_at(session):
    away = [misled(session, i, epsilon=16, attack="pgd") for i in range(10)]
    names = [one.said_after["without G"][1].argmax().item() for one in away]
    assert sum(n != label for n, label in zip(names, session.images.labels[:10], strict=True)) >= 8
    toward = misled(session, 0, epsilon=16, attack="pgd", targeted=True, target=7)
    assert toward.said_after["without G"][1][7] > toward.said_before["without G"][1][7]


def test_an_image_without_a_class_leaves_what_it_is_named(session, trained):
    image = session.images.images[1]
    named = trained(data_tools.to_signed(image[None]))[1].argmax().item()
    unknown, known = misled(session, 1, label=None), misled(session, 1, label=named)
    assert torch.equal(unknown.perturbed, known.perturbed)


def test_the_perturbation_is_enlarged_to_full_contrast(session):
    found = misled(session, 2, epsilon=4)
    shown, factor = enlarged(found)
    change = found.perturbed.float() - found.image.float()
    assert factor == pytest.approx(127 / change.abs().max().item())
    assert shown.max() - 127.5 == pytest.approx((factor * change).max().item(), abs=1)
    still, _ = enlarged(misled(session, 2, epsilon=0))
    assert set(still.unique().tolist()) == {128}
