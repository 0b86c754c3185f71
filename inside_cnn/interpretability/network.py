"""The trained networks to look into, and the one interface through which figures use them.

Nothing else in interpretability/ calls a discriminator or a part of it.
"""

import dataclasses
import itertools
import re
from functools import cached_property

import torch

from data_tools import to_signed
from discriminator import IMAGE_SIZE, NUM_LAYERS, Discriminator
from inside_cnn.core.device import autocast
from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import are_names
from inside_cnn.data.pixels import mean_image
from inside_cnn.engine.weights import class_names_of, digest, find_weights, is_published, load_model

WEIGHTS = "discriminator.safetensors"
TRAININGS = {  # name: flag, folder of the run, script that makes it
    "without G": ("discriminator_without_G", "baseline", "train_discriminator.py"),
    "with G": ("discriminator_with_G", "gan", "train_gan.py"),
}


def slug_of(name):
    return re.sub(r"[^\w.-]", "_", name)


@dataclasses.dataclass(eq=False)
class Network:
    """A discriminator to look into. Images are (b, 3, 32, 32) in [-1, 1].

    name: `without G`, `with G`, or that of a control; path, metadata: of the weights; start: the
    mean image as a batch, where maximization starts; class_names: those of the training set. The
    last two are None if the metadata have none. precision: `fp32` or `bf16`, of each computation.
    """

    name: str
    model: Discriminator
    path: str = ""
    metadata: dict = dataclasses.field(default_factory=dict)
    start: torch.Tensor | None = None
    class_names: list | None = None
    precision: str = "fp32"

    image_size = IMAGE_SIZE
    layer_names = tuple(range(1, NUM_LAYERS + 1))

    def at(self, precision):
        """The same network in another precision."""
        return dataclasses.replace(self, precision=precision)

    def outputs(self, images):
        """Critic scores, float32 (b,), and class logits, float32 (b, classes).

        The scores are None if the network has none.
        """
        with autocast(images.device, self.precision):
            return _in_float32(*self.model(images))

    def logits(self, images):
        return self.outputs(images)[1]

    def score(self, images):
        return self.outputs(images)[0]

    def activations(self, x, layer, start=0):
        """The output of a layer, (b, width, h, w), in the network's precision; no later layer runs.

        x: images, or the output of layer `start`. Raises ValueError for another layer.
        """
        with autocast(x.device, self.precision):
            return self.model.blocks[start:layer](x) if start else self.model.features(x, layer)

    def activations_of(self, images, layers):
        """Yields (layer, its activations) for these layers, in ascending order, in one pass."""
        x, start = images, 0
        for layer in sorted(set(layers)):
            x, start = self.activations(x, layer, start), layer
            yield layer, x

    def from_activations(self, x, layer):
        """As `outputs`, from the output of a layer."""
        if layer < NUM_LAYERS:
            x = self.activations(x, NUM_LAYERS, start=layer)
        with autocast(x.device, self.precision):
            return _in_float32(*self.model.head(x))

    pool = staticmethod(Discriminator.pool)

    @property
    def width(self):
        """The number of features of each layer."""
        return self.model.width

    @cached_property
    def digest(self):
        """SHA-256 of the weights."""
        return digest(self.model)

    @property
    def slug(self):
        """The name as a part of file names."""
        return slug_of(self.name)

    @property
    def is_control(self):
        return self.name not in TRAININGS

    @property
    def has_critic(self):
        """Whether a critic loss trained the score head; files of older versions do not say."""
        default = "full" if self.name == "with G" else "none"
        return self.metadata.get("critic", default) not in ("none", "penalty")

    @property
    def title(self):
        return self.name if self.is_control else f"trained {self.name}"

    def description(self):
        """The metadata of the network's metrics; other weights have another description."""
        return {"weights": self.path, "sha256": self.digest, "width": self.width}

    def set_start(self, metadata):
        """Take `start` and `class_names` from metadata of the training set, if they are valid."""
        mean, names = mean_image(metadata), metadata.get("class_names")
        if mean is not None and are_names(names) and len(names) == self.model.num_classes:
            device = next(self.model.parameters()).device
            self.start, self.class_names = to_signed(mean).to(device), names


def _in_float32(scores, logits):
    return None if scores is None else scores.float(), logits.float()


def line_styles(names):
    """{name: matplotlib style of its line}: the pair has the same colors in every chart."""
    pair = dict(zip(TRAININGS, ("C0", "C1"), strict=True))
    others = itertools.cycle(("C2", "C4", "C6", "C8", "C9", "C3"))
    return {
        name: {"color": pair[name], "marker": "o", "markersize": 4}
        if name in pair
        else {"color": next(others), "linewidth": 1, "linestyle": "--"}
        for name in names
    }


def find_networks(given, controls):
    """{name: path of the weights} of the pair, if they exist or were given, and of the controls."""
    paths = {}
    for name, (_, run, script) in TRAININGS.items():
        path = find_weights(given[name], WEIGHTS, run)
        if given[name] or path.is_file():
            paths[name] = path
        else:
            print(f"no discriminator trained {name}: left out (make it: {script})")
    for path in (find_weights(path, WEIGHTS) for path in controls):
        name = path.resolve().parent.name if path.name == WEIGHTS else path.stem
        if slug_of(name) in map(slug_of, (*TRAININGS, *paths)):
            raise UserError(f"two networks are named {name!r}; rename a folder or a file")
        paths[name] = path
    return paths


def load_networks(given, device, controls=(), precision="fp32"):
    """The Networks that exist, `without G` first, the controls last.

    given: {name: path or None}, see `find_weights`; controls: paths of files or runs' folders,
    which name the networks. A published network that was not asked for is left out if a network of
    the user's own has other classes.
    Raises UserError if one that was asked for cannot be loaded, if two have the same name, or if
    none exists.
    """
    networks = []
    for name, path in find_networks(given, controls).items():
        model, metadata = load_model(path, device, kind="discriminator")
        model.requires_grad_(False)
        networks.append(Network(name, model, str(path), metadata, precision=precision))
        networks[-1].set_start(metadata)
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
