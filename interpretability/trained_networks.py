"""The trained discriminators to look into."""

import itertools
import re
from dataclasses import dataclass

import torch

from data_tools import are_names, mean_image, to_signed
from discriminator import Discriminator
from engine.errors import UserError
from engine.weights import (
    class_names_of,
    digest,
    find_weights,
    is_published,
    load_model,
)

WEIGHTS = "discriminator.safetensors"
TRAININGS = {  # name: flag, folder of the run, script that makes it
    "without G": ("discriminator_without_G", "baseline", "train_discriminator.py"),
    "with G": ("discriminator_with_G", "gan", "train_gan.py"),
}


def slug_of(name):
    return re.sub(r"[^\w.-]", "_", name)


def line_styles(names):
    """{name: matplotlib style of its line}: the pair's colours are the same in every chart."""
    pair = dict(zip(TRAININGS, ("C0", "C1"), strict=True))
    others = itertools.cycle(("C2", "C4", "C6", "C8", "C9", "C3"))
    return {
        name: {"color": pair[name], "marker": "o", "markersize": 4}
        if name in pair
        else {"color": next(others), "linewidth": 1, "linestyle": "--"}
        for name in names
    }


@dataclass
class Network:
    """A discriminator to look into.

    name: `without G`, `with G`, or that of a control; digest: SHA-256 of the weights; start: the
    mean image of a batch, (1, 3, 32, 32) in [-1, 1], where maximization starts; class_names: those
    of the set it was trained on. The last two are None where the weights do not tell.
    """

    name: str
    model: Discriminator
    path: str
    digest: str
    metadata: dict
    start: torch.Tensor | None
    class_names: list | None

    @property
    def slug(self):
        """The name in the names of its pictures."""
        return slug_of(self.name)

    @property
    def is_control(self):
        """Whether it stands beside the pair, to tell what of a difference is the generator's."""
        return self.name not in TRAININGS

    @property
    def words(self):
        """What a title calls it."""
        return self.name if self.is_control else f"trained {self.name}"

    def about(self):
        """What tells one network's metrics from another's."""
        return {"weights": self.path, "sha256": self.digest, "width": self.model.width}

    def learn_from(self, test_set):
        """Take what the weights do not tell from the set itself."""
        if self.start is None:
            start, self.class_names = start_and_names(test_set.facts(), len(test_set.class_names))
            self.start = start.to(test_set.images.device)


def start_and_names(facts, classes):
    """(mean image in [-1, 1], class names) out of facts about a set; (None, None) if ill-formed."""
    mean, names = mean_image(facts), facts.get("class_names")
    if mean is None or not are_names(names) or len(names) != classes:
        return None, None
    return to_signed(mean), names


def find_discriminators(given):
    """{"without G": path, "with G": path}: those that exist, and those that the user named.

    given: {name: path or None}; `find_weights` says where they are found.
    """
    paths = {}
    for name, (_, run, script) in TRAININGS.items():
        path = find_weights(given[name], WEIGHTS, run)
        if given[name] or path.is_file():
            paths[name] = path
        else:
            print(f"no discriminator trained {name}: left out (make it: {script})")
    return paths


def load_network(name, path, device):
    """The Network of an export. Raises UserError where it cannot be loaded."""
    model, metadata = load_model(path, device, kind="discriminator")
    start, names = start_and_names(metadata, model.num_classes)
    start = None if start is None else start.to(device)
    model.requires_grad_(False)
    return Network(name, model, str(path), digest(model), metadata, start, names)


def find_controls(given):
    """{name: path of the weights} of further discriminators, named by their folder or file.

    given: paths of files or of runs' folders. Raises UserError where the pictures of two
    would have the same names.
    """
    paths, taken = {}, {slug_of(name) for name in TRAININGS}
    for path in (find_weights(path, WEIGHTS) for path in given):
        name = path.resolve().parent.name if path.name == WEIGHTS else path.stem
        if slug_of(name) in taken:
            raise UserError(f"two networks are named {name!r}; rename a folder or a file")
        taken.add(slug_of(name))
        paths[name] = path
    return paths


def load_networks(given, device, controls=()):
    """The Networks that exist, `without G` first, the controls last.

    given: {name: path or None}; controls: paths. A published network that was not asked for is left
    out if a network of the user's own has other classes.
    Raises UserError if one that was asked for cannot be loaded, or if none exists.
    """
    paths = find_discriminators(given) | find_controls(controls)
    networks = [load_network(name, path, device) for name, path in paths.items()]
    if not networks:
        raise UserError(
            "no trained discriminator; run train_discriminator.py or train_gan.py first, or give "
            "--discriminator_without_G or --discriminator_with_G"
        )
    defaults = [n for n in networks if is_published(n.path) and not (n.is_control or given[n.name])]
    own = [n for n in networks if n not in defaults]
    for network in defaults if own else ():
        if class_names_of(network.metadata) != class_names_of(own[0].metadata):
            print(f"{network.path} has other classes than {own[0].path}: left out")
            networks.remove(network)
    return networks
