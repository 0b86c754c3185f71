import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.explorer.maximise import Goal, climb, goals_of_both
from inside_cnn.explorer.session import Session
from inside_cnn.interpretability.activation_maximization import (
    VIEWS,
    ascent,
    class_objective,
    last_of,
    robust_ascent,
    unit_objective,
)
from inside_cnn.interpretability.maximization_figures import ROBUST, views_of
from inside_cnn.interpretability.top_images import peak_positions
from networks import as_network


@pytest.fixture
def network(trained):
    network = as_network(trained)
    network.start = torch.full((1, 3, 32, 32), 0.1)
    return network


@pytest.mark.parametrize("goal", [Goal(3), Goal(5, 4), Goal(5, 4, (0, 7))])
def test_the_last_image_is_that_of_the_pictures(network, goal):
    *way, best = climb(network, goal, "robust", steps=6)
    one = torch.tensor([goal.number])
    if goal.layer is None:
        kind, restarts, views = "class", 4, VIEWS
        objective = class_objective(network, classes=one)
    else:
        position = torch.tensor([goal.position or (4, 4)])
        kind, restarts, views = "feature", 2, views_of(4, position)
        objective = unit_objective(network, 4, one, position)
    options = ROBUST[kind] | {"restarts": restarts}
    expected = last_of(robust_ascent(objective, 1, steps=6, views=views, **options))
    assert torch.equal(best, expected)
    assert [len(images) for images in way] == [restarts] * 7


def test_the_classic_climb(network):
    way = list(climb(network, Goal(2), "classic", steps=20))
    assert torch.equal(way[0], network.start)
    objective = class_objective(network, classes=torch.tensor([2]))
    assert torch.equal(way[-1], last_of(ascent(objective, network.start, steps=20)))
    assert objective(way[-1]) > objective(way[0])


def test_of_a_feature_its_relative_is_climbed(trained):
    """In a network whose channels stand in another order, the same feature."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    other = Discriminator(width=12).requires_grad_(False).eval()
    other.load_state_dict(trained.state_dict())
    first, norm = other.blocks[0][0], other.blocks[0][1]
    first.weight.copy_(first.weight[order])
    first.bias.copy_(first.bias[order])
    norm.weight.copy_(norm.weight[order])
    norm.bias.copy_(norm.bias[order])
    networks = [as_network(trained, "without G"), as_network(other, "with G")]
    _, test = data_tools.load_shapes()
    session = Session(networks, None, test.first(50), False, list(test.class_names))
    goals = goals_of_both(session, "without G", Goal(7, layer=1))
    assert goals["without G"] == (Goal(7, layer=1), "")
    assert goals["with G"] == (Goal(order.tolist().index(7), layer=1), "correlation 1.00")
    values, rows, columns = session.strongest(networks[0], 1)
    peak = peak_positions(values, rows, columns)[7].tolist()
    assert list(goals["without G"][0].position) == peak
    session.images = None
    assert goals_of_both(session, "without G", Goal(7, 1))["with G"] == (Goal(7, 1), "same number")
    both = goals_of_both(session, "with G", Goal(4))
    assert both == {"without G": (Goal(4), ""), "with G": (Goal(4), "")}
