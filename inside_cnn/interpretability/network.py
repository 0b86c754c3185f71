"""The trained networks, and the one interface through which the figures use them.

Nothing else in interpretability/ calls a discriminator or a part of it.
"""

import dataclasses
import os
import re
from functools import cached_property
from pathlib import Path

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
    """A discriminator and its description. Images are (b, 3, 32, 32) in [-1, 1].

    name: `without G`, `with G`, or that of a control; path, metadata: of the weights; start: the
    mean image (1, 3, 32, 32), where maximization starts; class_names: of the training set. The last
    two are None if the metadata have none. precision: `fp32` or `bf16`, of every computation.
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
        """Critic scores, float32 (b,), and class logits, float32 (b, classes)."""
        with autocast(images.device, self.precision):
            scores, logits = self.model(images)
        return scores.float(), logits.float()

    def logits(self, images):
        return self.outputs(images)[1]

    def score(self, images):
        return self.outputs(images)[0]

    def activations(self, x, layer, start=0):
        """The output of a layer, (b, width, h, w), in the network's precision.

        x: images, or the output of layer `start`; later layers do not run.
        """
        with autocast(x.device, self.precision):
            return self.model.blocks[start:layer](x) if start else self.model.features(x, layer)

    def activations_of(self, images, layers):
        """Yields (layer, its activations) in ascending order of the layers, in one pass."""
        x, start = images, 0
        for layer in sorted(set(layers)):
            x, start = self.activations(x, layer, start), layer
            yield layer, x

    def from_activations(self, x, layer):
        """The `outputs`, from the output of a layer."""
        if layer < NUM_LAYERS:
            x = self.activations(x, NUM_LAYERS, start=layer)
        with autocast(x.device, self.precision):
            scores, logits = self.model.head(x)
        return scores.float(), logits.float()

    pool = staticmethod(Discriminator.pool)

    @property
    def device(self):
        return next(self.model.parameters()).device

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
        """Whether a critic loss trained the score head; older files do not state it."""
        default = "full" if self.name == "with G" else "none"
        return self.metadata.get("critic", default) not in ("none", "penalty")

    @property
    def title(self):
        return self.name if self.is_control else f"trained {self.name}"

    def description(self):
        """What identifies the network beside its metrics."""
        return {"weights": self.path, "sha256": self.digest, "width": self.width}

    def set_start(self, metadata):
        """Set `start` and `class_names` from metadata of the training set, if they are valid."""
        mean, names = mean_image(metadata), metadata.get("class_names")
        if mean is not None and are_names(names) and len(names) == self.model.num_classes:
            self.start, self.class_names = to_signed(mean).to(self.device), names


def line_styles(names):
    """{name: matplotlib style}: the same in every chart; controls are dashed."""
    order = [*TRAININGS, *(name for name in names if name not in TRAININGS)]
    style = {"marker": "o", "markersize": 4}
    return {
        name: style | {"color": f"C{i}", "linestyle": "-" if name in TRAININGS else "--"}
        for i, name in enumerate(order)
    }


def _find_networks(given, controls):
    """{name: path of the weights} of the pair, if they exist or were given, and of the controls."""
    paths = {}
    for name, (_, run, script) in TRAININGS.items():
        path = find_weights(given[name], WEIGHTS, run)
        if given[name] or path.is_file():
            paths[name] = path
        else:
            print(f"no discriminator trained {name}: skipped (run {script})")
    for path in (find_weights(path, WEIGHTS) for path in controls):
        name = Path(os.path.abspath(path)).parent.name if path.name == WEIGHTS else path.stem
        if slug_of(name) in map(slug_of, (*TRAININGS, *paths)):
            raise UserError(f"two networks are named {name!r}; rename a folder or a file")
        paths[name] = path
    return paths


def load_networks(given, device, controls=(), precision="fp32"):
    """The Networks that exist, `without G` first, the controls last.

    given: {name: path or None}, see `find_weights`; controls: paths of files or of runs' folders,
    which name the networks. A published network that was not requested is skipped if one of the
    user's own networks has other classes.
    Raises UserError if a requested network cannot be loaded, if two have the same name, or if none
    exists.
    """
    networks = []
    for name, path in _find_networks(given, controls).items():
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
            print(f"{network.path} has other classes than {own[0].path}: skipped")
            networks.remove(network)
    return networks
