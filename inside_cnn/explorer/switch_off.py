"""What the networks do without some of their features. What the last tab computes."""

import re

import torch

from data_tools import to_uint8
from inside_cnn.interpretability.ablation import images_without, predictions_without
from inside_cnn.interpretability.layer_probes import class_selectivity

IMAGES = 1000  # on which an accuracy is counted


class NoNumbers(Exception):
    """A text that names no features; the message says why."""


def parse_numbers(text, width):
    """The numbers below `width` that a text like `3, 17-20` names, in order. Raises NoNumbers."""
    numbers = set()
    for word in re.split(r"[\s,;]+", text.strip()) if text.strip() else []:
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word)
        if match is None:
            raise NoNumbers(f"{word!r} is no number and no range such as 17-20")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < width:
            raise NoNumbers(f"{word}: the numbers go from 0 to {width - 1}")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


def accuracies(session, network, layer, features):
    """Share of right names in % on the first IMAGES images: (of all, {class: of its images}).

    A class that none of them shows has none.
    """
    images = session.images.first(IMAGES)
    named = predictions_without(network.at(session.precision), images.images, layer, features)
    right, labels = (named == images.labels).double().cpu(), images.labels.cpu()
    of_class = {
        session.class_names[label]: 100 * right[labels == label].mean().item()
        for label in labels.unique().tolist()
    }
    return 100 * right.mean().item(), of_class


def favouring(session, network, layer, label, count):
    """The `count` features of a layer that favour a class most over the others."""
    features = session.reference(network)[layer - 1]
    labels = session.images.labels[: len(features)].cpu()
    if label not in labels:
        raise ValueError(f"no image is of class {label}")
    measure = class_selectivity(features, labels, len(session.class_names))[label]
    return measure.argsort(descending=True, stable=True)[:count].tolist()


@torch.no_grad()
def drawn_without(session, drawings, block, channels):
    """uint8 (n, 3, 32, 32): the drawings without these channels of a block of the generator."""
    generator, classes = session.generator, len(session.class_names)
    latents = torch.cat([drawing.latent(generator, classes) for drawing in drawings])
    channels = torch.tensor(channels, dtype=torch.int64)
    return to_uint8(images_without(generator, latents.to(session.device), block, channels)).cpu()
