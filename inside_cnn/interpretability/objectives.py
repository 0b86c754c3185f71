"""Objectives of feature visualization that can be combined, and their optimization.

images = optimize(network, feature("layer3", 12) + 0.5 * class_logit(3))
"""

from functools import partial

import torch
import torch.nn.functional as F

from discriminator import Discriminator
from inside_cnn.interpretability.activation_maximization import ascent, robust_ascent


class Objective:
    """A function from (Network, images (b, 3, h, h) in [-1, 1]) to values (b,).

    Objectives can be added, subtracted and multiplied by numbers.
    """

    def __init__(self, values):
        self.values = values

    def __call__(self, network, images):
        return self.values(network, images)

    def __add__(self, other):
        return Objective(lambda *inputs: self(*inputs) + other(*inputs))

    def __radd__(self, start):
        return self if start == 0 else NotImplemented  # sum() starts with 0

    def __mul__(self, factor):
        return Objective(lambda *inputs: factor * self(*inputs))

    __rmul__ = __mul__

    def __neg__(self):
        return -1.0 * self

    def __sub__(self, other):
        return self + -other


def _select(values, *indices):
    """Row i's value at indices[0][i % n], ...: (b, ...) -> (b,). An index may be a number."""
    rows = torch.arange(len(values), device=values.device)
    indices = [torch.as_tensor(index, device=values.device).flatten() for index in indices]
    return values[(rows, *(index[rows % len(index)] for index in indices))]


def class_logit(label):
    """The logit of a class; label: a number, or int64 (n,): image i uses label[i % n]."""
    return Objective(lambda network, images: _select(network.logits(images), label))


def _of_maps(layer, values):
    return Objective(lambda network, images: values(network.activations(images, layer).float()))


def feature(layer, index):
    """The largest activation of a feature over its map; index: as in class_logit."""
    return _of_maps(layer, lambda maps: _select(Discriminator.pool(maps), index))


def neuron(layer, index, row, column):
    """The activation of one unit; index, row and column: as in class_logit."""
    return _of_maps(layer, lambda maps: _select(maps, index, row, column))


def channel(layer, index):
    """The mean activation of a feature over its map."""
    return _of_maps(layer, lambda maps: maps[:, index].mean((1, 2)))


def direction(layer, vector):
    """The mean over the map of the product with a direction (c,) in the space of the features."""
    return _of_maps(
        layer, lambda maps: torch.einsum("bchw,c->b", maps, vector) / maps[0, 0].numel()
    )


def diversity(layer):
    """Minus the mean similarity of an image to the others: the cosine of their Gram matrices.

    Source: Olah et al. 2017, Feature Visualization.
    """

    def values(maps):
        x = maps.flatten(2)
        grams = F.normalize((x @ x.mT).flatten(1), dim=1)
        similarity = grams @ grams.mT
        return -(similarity.sum(1) - similarity.diagonal()) / max(1, len(maps) - 1)

    return _of_maps(layer, values)


def optimize(network, objective, count=1, steps=256, method="robust", title="", **options):
    """Images that maximize an Objective: (count, 3, h, h) in [-1, 1].

    method: `robust`, from different starts, or `classic`, from network.start, all equal; see
    activation_maximization. options: of robust_ascent; without effect for `classic`.
    """
    values = partial(objective, network)
    if method == "classic":
        return ascent(values, network.start.repeat(count, 1, 1, 1), steps, title=title)
    options = {"restarts": 1, "smoothness": 5.0} | options
    options |= {"size": network.image_size, "device": network.device}
    return robust_ascent(values, count, steps=steps, title=title, **options)
