"""The published networks, by torch.hub. A clone works in place of the repository on GitHub:

    classifier = torch.hub.load("OWNER/inside-a-cnn", "classifier")
    critic = torch.hub.load("path/to/inside-a-cnn", "critic", source="local")

All are plain torch.nn modules: hooks, torch.func and ONNX export work.
"""

import importlib
import pathlib
import sys

dependencies = ["torch", "numpy", "PIL", "safetensors", "tqdm"]


def classifier(pretrained=True):
    """The discriminator trained as a CIFAR-10 classifier, in eval mode if pretrained.

    Images (b, 3, 32, 32) in [-1, 1] -> scores (b,), which were not trained, and class logits
    (b, 10).
    """
    return _load("baseline/discriminator.safetensors", pretrained)


def critic(pretrained=True):
    """The discriminator of the GAN: images as for `classifier` -> scores (b,), logits (b, 10)."""
    return _load("gan/discriminator.safetensors", pretrained)


def generator(pretrained=True):
    """The generator of the GAN: latents (b, 100) -> images (b, 3, 32, 32) in [-1, 1].

    The first ten entries of a latent are the one-hot class, the others are normal noise.
    """
    return _load("gan/generator.safetensors", pretrained)


def _load(file, pretrained):
    # The user's process may have other modules of these names, now or later.
    names = ("data_tools", "discriminator", "generator")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        kind = pathlib.Path(file).stem
        model = getattr(importlib.import_module(kind), kind.title())()
        weights = importlib.import_module("inside_cnn.engine.weights")
        if pretrained:
            trained, _ = weights.load_model(weights.RESULTS / file)
            model.load_state_dict(trained.state_dict())
            model.eval()
        return model
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)
