"""What the page stands on: the networks, the images to choose from, and what they are called."""

import threading
from dataclasses import dataclass, field

import torch

from data_tools import DATASETS, DataMissing, Dataset, load_dataset
from generator import Generator
from inside_cnn.core.errors import UserError
from inside_cnn.engine.weights import (
    check_classes,
    class_names_of,
    common_class_names,
    find_weights,
    is_published,
    load_model,
)
from inside_cnn.interpretability.network import TRAININGS, Network, load_networks
from inside_cnn.interpretability.top_images import peak_positions, strongest_units
from inside_cnn.metrics import sampling

DRAWN_OF_EACH = 20  # images of each class, where there are no test images
REFERENCE = 1000  # images by which a feature's usual activation is known
GENERATOR = "generator.safetensors"


@dataclass
class Session:
    """The networks to play with, one or two; the generator, or None; the images, or None.

    images: the test set, or, where `are_drawn`, what the generator drew.
    """

    networks: list[Network]
    generator: Generator | None
    images: Dataset | None
    are_drawn: bool
    class_names: list
    precision: str = "fp32"  # of what takes long; what is shown of one image is float32
    _reference: dict = field(default_factory=dict)
    _filling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def device(self):
        return self.networks[0].device

    def network(self, name):
        """The network of this name, the first where there is none."""
        return next((n for n in self.networks if n.name == name), self.networks[0])

    @torch.no_grad()
    def judge(self, levels):
        """What each network says of images: {name: (critic scores (b,), probabilities (b, k))}.

        levels: float (b, 3, 32, 32) in [0, 255]. Float32, on the CPU.
        """
        said = {}
        for network in self.networks:
            scores, logits = network.outputs(levels / 127.5 - 1)
            said[network.name] = scores.cpu(), logits.softmax(1).cpu()
        return said

    def strongest(self, network, layer):
        """strongest_units of the first REFERENCE images in a layer; all layers are cached."""
        with self._filling:
            if network.name not in self._reference:
                self._reference[network.name] = strongest_units(
                    network.at(self.precision),
                    self.images.images[:REFERENCE].split(500),
                    network.layer_names,
                )
            return self._reference[network.name][layer]

    def reference(self, network):
        """The largest activations in the first REFERENCE images, (n, width) for each layer."""
        return [self.strongest(network, layer)[0] for layer in network.layer_names]

    def peak(self, network, layer, feature):
        """(row, column) where a feature peaks, None without images."""
        if self.images is None:
            return None
        return tuple(peak_positions(*self.strongest(network, layer))[feature].tolist())

    def judge_one(self, levels):
        """{name: (critic score, probabilities (k,))} of one image, (3, 32, 32)."""
        judged = self.judge(levels[None])
        return {name: (scores[0].item(), shares[0]) for name, (scores, shares) in judged.items()}


def load_session(given, device, data_dir=None, precision="fp32", dataset="auto"):
    """The Session of the user's own runs, else of the published ones (`find_weights`).

    given: {"without G", "with G", "generator": path or None}; dataset, data_dir: as load_dataset
    takes them, but `auto` is the set that the networks were trained on. CIFAR-10 is taken where it
    is found, never downloaded.
    Raises UserError for weights that are missing, corrupt or do not fit each other, and for
    a set that cannot be used.
    """
    networks = load_networks({name: given[name] for name in TRAININGS}, device)
    generator, of_generator = load_generator(given["generator"], networks, device)
    told = {network.path: network.metadata for network in networks} | of_generator
    images = find_test_images(networks, dataset, data_dir)
    for path, metadata in told.items() if images is not None else ():
        check_classes(path, metadata, images)
    for network in networks:
        if network.start is None and images is not None:
            network.set_start(images.metadata())
        if network.start is None:  # neither metadata nor images: gray
            network.start = torch.zeros(1, 3, *2 * [network.image_size], device=device)
    names = common_class_names(told)
    if images is not None:
        names = list(images.class_names)
    are_drawn = images is None and generator is not None
    if are_drawn:
        images = draw_images(generator, names)
    for network in networks:
        print(f"discriminator {network.title}: {network.path}, width {network.width}")
    print(f"images to choose from: {'your own' if images is None else images.source}")
    images = None if images is None else images.to(device)
    return Session(networks, generator, images, are_drawn, names, precision)


def load_generator(given, networks, device):
    """(the generator or None, {path: its metadata}).

    The published one is left out if it was not asked for and the networks have other classes.
    """
    path = find_weights(given, GENERATOR, TRAININGS["with G"][1])
    if given is None and not path.is_file():
        print("no generator: nothing can be drawn (make it: train_gan.py)")
        return None, {}
    generator, metadata = load_model(path, device, kind="generator")
    names = class_names_of(networks[0].metadata)
    if given is None and is_published(path) and class_names_of(metadata) != names:
        print(f"{path} has other classes than {networks[0].path}: left out")
        return None, {}
    print(f"generator: {path}, width {generator.width}")
    return generator.requires_grad_(False), {str(path): metadata}


def find_test_images(networks, dataset, data_dir):
    """The test images of the networks' set where they are at hand, else None.

    Raises UserError, also if the networks' sets differ.
    """
    sets = {str(network.metadata.get("dataset")) for network in networks}
    if dataset == "auto" and len(sets) > 1:
        raise UserError(f"the networks were trained on different sets ({', '.join(sorted(sets))})")
    name = dataset if dataset != "auto" else sets.pop()
    if name not in DATASETS or name == "auto":
        return None
    try:
        _, test = load_dataset(name, data_dir, download=False)
    except DataMissing as reason:
        if dataset != "auto":
            raise
        print(f"no test images: {reason}")
        return None
    return test


def draw_images(generator, class_names):
    """A Dataset of DRAWN_OF_EACH images of each class."""
    labels = sampling.sample_labels(DRAWN_OF_EACH * len(class_names), range(len(class_names)))
    latents = sampling.latents_of(
        labels, generator.latent_dim, seed=0, num_classes=len(class_names)
    )
    images = sampling.generate(generator, latents)
    return Dataset("drawn", images, labels, tuple(class_names), "drawn by the generator")
