"""Images climbed while one looks on. What the third tab computes."""

from dataclasses import dataclass, field, replace

import torch

from discriminator import MAP_SIZES
from inside_cnn.interpretability.activation_maximization import (
    VIEWS,
    ascent,
    class_objective,
    feature_objective,
    robust_ascent,
    unit_objective,
)
from inside_cnn.interpretability.layer_probes import most_correlated
from inside_cnn.interpretability.maximization_figures import ROBUST, views_of, visible_part

STEPS = 200


@dataclass(frozen=True)
class Goal:
    """What is maximized in a network: a class, or, with a layer, a feature of it.

    position: (row, column) of the feature's unit; None: the middle of the map.
    """

    number: int
    layer: int | None = None
    position: tuple | None = field(default=None, compare=False)

    @property
    def positions(self):
        middle = MAP_SIZES[self.layer - 1] // 2
        return torch.tensor([self.position or (middle, middle)])

    def objective(self, network, robust):
        """The objective of activation_maximization: every image's value is of this one thing."""
        one = torch.tensor([self.number])
        if self.layer is None:
            return class_objective(network, one)
        if robust:
            return unit_objective(network, self.layer, one, self.positions)
        return feature_objective(network, self.layer, one)

    def shown(self, images, robust):
        """The part of the images that is displayed: of a feature, what its unit sees."""
        if self.layer is None or not robust:
            return images
        return visible_part(images, self.layer, self.positions[0].tolist())[0]


def climb(network, goal, method, precision="fp32", steps=STEPS):
    """Yields the images of every start, (starts, 3, 32, 32) in [-1, 1], before each step.

    At the end, alone, the one that excites the network most over random views. method: `robust`, or
    `classic` from the mean image; both as visualization.py takes them.
    """
    robust = method == "robust"
    objective = goal.objective(network.at(precision), robust)
    if not robust:
        yield from ascent(objective, network.start, steps=steps)
        return
    kind = "class" if goal.layer is None else "feature"
    views = VIEWS if goal.layer is None else views_of(goal.layer, goal.positions)
    options = {"steps": steps, "views": views, "device": network.start.device}
    yield from robust_ascent(objective, 1, **options, **ROBUST[kind])


def goals_of_both(session, name, goal):
    """{network: Goal, how it was found}: the goal, and what answers to it in the other network.

    Of a class the same class; of a feature the one whose activations on the reference images go
    with it most, or without images the one of the same number.
    """
    goals = {}
    for network in session.networks:
        if goal.layer is None or network.name == name:
            goals[network.name] = goal, ""
        elif session.images is None:
            goals[network.name] = goal, "same number"
        else:
            own, others = (
                session.reference(n)[goal.layer - 1] for n in (session.network(name), network)
            )
            number, correlation = most_correlated(own, others, goal.number)
            goals[network.name] = Goal(number, goal.layer), f"correlation {correlation:.2f}"
    if goal.layer is None:
        return goals
    return {
        name: (replace(g, position=session.peak(session.network(name), g.layer, g.number)), how)
        for name, (g, how) in goals.items()
    }
