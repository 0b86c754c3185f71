"""The trained networks, and the one interface through which the figures use them.

Nothing else in interpretability/ calls a model or a part of it.
"""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from data_tools import to_signed
from discriminator import IMAGE_SIZE
from inside_cnn.core.device import autocast
from inside_cnn.core.errors import UserError
from inside_cnn.data.pixels import mean_image
from inside_cnn.engine.weights import class_names_of, digest, find_weights, is_published, load_model
from inside_cnn.interpretability.receptive_field import receptive_fields

WEIGHTS = "discriminator.safetensors"
TRAININGS = {  # name: flag, folder of the run, script that makes it
    "without G": ("discriminator_without_G", "baseline", "train_discriminator.py"),
    "with G": ("discriminator_with_G", "gan", "train_gan.py"),
}


def slug_of(name):
    return re.sub(r"[^\w.-]", "_", name)


def layer_title(layer):
    """The name of a layer, or its number as in `layer 3`."""
    return f"layer {layer}" if isinstance(layer, int) else layer


def split(images, count):
    """Batches of `count` images of 32x32 pixels, or of as many pixels of larger ones."""
    return images.split(max(1, count * IMAGE_SIZE**2 // images.shape[-1] ** 2))


class _PassEnded(Exception):
    """All requested layers of a forward pass have been computed."""


def as_maps(output):
    """The output of a layer as maps (b, c, h, w).

    A vector (b, c) becomes (b, c, 1, 1). Tokens (b, n, c) become a square map if n or, without a
    class token in the first place, n - 1 is a square, else (b, c, 1, n). Maps are (b, h, w, c) if
    h = w differs from c.
    """
    if output.ndim == 3:
        count, side = output.shape[1], math.isqrt(output.shape[1])
        if side > 1 and count - side**2 in (0, 1):
            return output[:, count - side**2 :].mT.unflatten(2, (side, side))
        return output.mT[:, :, None]
    if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        return output.movedim(3, 1)
    return output[:, :, None, None] if output.ndim == 2 else output


@dataclasses.dataclass(eq=False)
class Network:
    """A model and its description. Images are (b, 3, image_size, image_size) in [-1, 1].

    name: `without G`, `with G`, or that of another network; path, metadata: of the weights; start:
    the image (1, 3, image_size, image_size) where maximization starts, the mean of the training set
    or gray; class_names: None if the metadata have none; precision: `fp32` or `bf16`, of every
    computation; layers: {name: module}, by default the blocks 1 to 8 of a discriminator;
    preprocess: from images to the model's input; has_scores: the model returns critic scores (b,)
    and class logits (b, classes), else logits or a tuple that starts with them.
    """

    name: str
    model: nn.Module
    path: str = ""
    metadata: dict = dataclasses.field(default_factory=dict)
    start: torch.Tensor | None = None
    class_names: list | None = None
    precision: str = "fp32"
    is_control: bool = False
    image_size: int = IMAGE_SIZE
    layers: dict | None = None
    preprocess: Callable = lambda images: images
    has_scores: bool = True

    def __post_init__(self):
        if self.layers is None:
            self.layers = dict(enumerate(getattr(self.model, "blocks", ()), start=1))

    @property
    def layer_names(self):
        return tuple(self.layers)

    def at(self, precision):
        """The same network in another precision."""
        return dataclasses.replace(self, precision=precision)

    def outputs(self, images):
        """Critic scores, float32 (b,), or None, and class logits, float32 (b, classes)."""
        with autocast(images.device, self.precision):
            output = self.model(self.preprocess(images))
        if self.has_scores:
            scores, logits = output
            return scores.float(), logits.float()
        return None, (output[0] if isinstance(output, tuple) else output).float()

    def logits(self, images):
        return self.outputs(images)[1]

    def score(self, images):
        return self.outputs(images)[0]

    def visit(self, images, layers, use):
        """Call use(layer, maps) with the output of each of the layers, in one forward pass.

        The pass ends after the last of them. maps: (b, c, h, w), see as_maps, in the network's
        precision; of a module that is called several times, of the first call.
        """
        left = set(layers)

        def hook(layer, _module, _inputs, output):
            if layer in left:
                left.remove(layer)
                use(layer, as_maps(output))
                if not left:
                    raise _PassEnded

        with contextlib.ExitStack() as hooks, contextlib.suppress(_PassEnded):
            for name in left:
                hooks.enter_context(self.layers[name].register_forward_hook(partial(hook, name)))
            with autocast(images.device, self.precision):
                self.model(self.preprocess(images))

    def activations(self, images, layer):
        """The output of a layer as maps, (b, c, h, w), in the network's precision."""
        outputs = {}
        self.visit(images, [layer], outputs.__setitem__)
        return outputs[layer]

    def logits_from(self, images, layer):
        """The class logits, and the layer's output, with respect to which they have a gradient."""
        outputs = []

        def cut(module, inputs, output):
            if not outputs:  # the first call
                outputs.append(output.detach().requires_grad_())
                return outputs[0].clone()  # later modules may work in place

        with self.layers[layer].register_forward_hook(cut):
            return self.logits(images), outputs[0]

    @cached_property
    def shapes(self):
        """{layer: (c, h, w)}, the shape of its maps."""
        shapes = dict.fromkeys(self.layers)  # in this order
        image = torch.zeros(1, 3, *2 * [self.image_size], device=self.device)
        with torch.no_grad():
            self.visit(image, shapes, lambda n, maps: shapes.update({n: tuple(maps.shape[1:])}))
        return shapes

    @cached_property
    def fields(self):
        """{layer: (Field of its rows, Field of its columns)}; computed once."""
        return receptive_fields(self)

    @property
    def device(self):
        return next(self.model.parameters(), torch.empty(0)).device

    @property
    def slug(self):
        """The name as a part of file names."""
        return slug_of(self.name)

    @property
    def has_critic(self):
        """Whether a critic loss trained the score head.

        Older files do not state it: those beside a generator are critics.
        """
        beside = self.path and Path(self.path).with_name("generator.safetensors").is_file()
        default = "full" if self.name == "with G" or beside else "none"
        return self.has_scores and self.metadata.get("critic", default) not in ("none", "penalty")

    @property
    def title(self):
        return f"trained {self.name}" if self.name in TRAININGS else self.name

    @property
    def full_title(self):
        return f"discriminator {self.title}" if self.has_scores else self.title

    def description(self):
        """What identifies the network beside its metrics, and determines them."""
        size = {"width": self.model.width} if self.has_scores else {"image_size": self.image_size}
        return {"weights": self.path, "sha256": digest(self.model)} | size

    def set_start(self, metadata):
        """Set `start` and `class_names` from metadata of the training set, if it has both."""
        mean, names = mean_image(metadata), metadata.get("class_names")
        if mean is not None and names is not None:
            self.start, self.class_names = to_signed(mean).to(self.device), names


def line_styles(networks):
    """{name: matplotlib style}: the same in every chart; controls are dashed.

    Networks whose names differ only in a final number share a color: they are often seeds.
    """
    has_pair = any(network.name in TRAININGS for network in networks)
    groups, styles = dict.fromkeys(TRAININGS, 0) if has_pair else {}, {}
    for network in networks:
        group = network.name.rstrip("0123456789")
        groups[group] = groups.get(group, 0) + 1
        styles[network.name] = {
            "color": f"C{list(groups).index(group)}",
            "marker": "os^Dv"[(groups[group] - 1) % 5],
            "markersize": 4,
            "linestyle": "--" if network.is_control else "-",
        }
    return styles


def load_networks(given, device, controls=(), precision="fp32", defaults=True, named=()):
    """The Networks that exist, `without G` first, the controls last.

    given: {name: path or None}, see `find_weights`; named, controls: paths of files or of runs'
    folders, after which the networks are named. A published network that was not requested is
    skipped if the user's own one has other classes.
    Without `defaults` only networks that were requested.
    Raises UserError if a requested network cannot be loaded, or if none exists.
    """
    networks, paths = [], []
    for name, (_, run, script) in TRAININGS.items():
        if given[name] or defaults:
            path = find_weights(given[name], WEIGHTS, run)
            if given[name] or path.is_file():
                paths.append((name, path))
            else:
                print(f"no discriminator trained {name}: skipped (run {script})")
    for path in (find_weights(path, WEIGHTS) for path in (*named, *controls)):
        folder = Path(os.path.abspath(path)).parent.name
        paths.append((folder if path.name == WEIGHTS else path.stem, path))
    for index, (name, path) in enumerate(paths):
        model, metadata = load_model(path, device, kind="discriminator")
        model.requires_grad_(False)
        network = Network(name, model, str(path), metadata, precision=precision)
        network.is_control = index >= len(paths) - len(controls)
        network.set_start(metadata)
        networks.append(network)
    if defaults and not networks:
        raise UserError(
            "no trained discriminator; run train_discriminator.py or train_gan.py first, or give "
            "--discriminator_without_G or --discriminator_with_G"
        )
    defaults = [n for n in networks if is_published(n.path) and given.get(n.name, n.path) is None]
    own = [n for n in networks if n not in defaults]
    for network in defaults if own else ():
        if class_names_of(network.metadata) != class_names_of(own[0].metadata):
            print(f"{network.path} has other classes than {own[0].path}: skipped")
            networks.remove(network)
    return networks
