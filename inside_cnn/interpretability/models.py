"""Networks of other projects: a torch.nn.Module from a Python file, or one of torchvision."""

import contextlib
import dataclasses
import sys
import sysconfig
import textwrap
import traceback
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from discriminator import IMAGE_SIZE
from inside_cnn.core.errors import UserError
from inside_cnn.interpretability.network import Network, as_maps

CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")  # of the weights
# Parts of the paths of files that are not the user's.
LIBRARIES = ("-packages", "<", sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))


def load_network(spec, weights=None, image_size=None, layers=(), device="cpu", precision="fp32"):
    """The Network of `FILE.py:FUNCTION`, which returns a module, or of `torchvision:NAME`.

    weights: a safetensors file, or a file of torch.save with a state dict; for torchvision also the
    name of its weights, such as DEFAULT. image_size: side of the images. layers: names of modules,
    by default the children of the module; each returns a tensor (b, c, h, w), (b, c) or (b, n, c).
    The model of a file takes images in [-1, 1]; one of torchvision gets them normalized as its
    weights require, or else its DEFAULT weights. Raises UserError for anything that does not fit.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise UserError(f"--model {spec}: give FILE.py:FUNCTION or torchvision:NAME")
    preprocess, names = (lambda images: images), None
    if source == "torchvision":
        model, file, preprocess, names, size = _from_torchvision(name, weights)
    else:
        model, file, size = _from_file(source, name), weights, IMAGE_SIZE
    if file is not None:
        _load_weights(model, file)
    with _failing_as(f"--model: {name} cannot be used"):  # such as lazy parameters
        model = model.eval().requires_grad_(False).to(device)
    size = image_size or size
    network = Network(
        name,
        model,
        f"{spec}, {weights}" if weights else spec,
        start=torch.zeros(1, 3, size, size, device=device),
        precision=precision,
        image_size=size,
        layers={},
        preprocess=preprocess,
        has_scores=False,
    )
    count = _check_output(network)
    network.class_names = names or [str(k) for k in range(count)]
    network.metadata = {"num_classes": count} | ({"class_names": names} if names else {})
    network.layers = _choose_layers(network, [str(name) for name in layers])
    return network


@contextlib.contextmanager
def _failing_as(message):
    """Any exception becomes a UserError of one line: message, type, reason, place in a file."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a foreign model and torch.load raise almost anything
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not any(part in f.filename for part in LIBRARIES)]
        place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        raise UserError(f"{message}: {reason}{place}") from None


def _from_file(file, name):
    """The module that a function of a Python file returns."""
    sys.path.insert(0, str(Path(file).parent.absolute()))  # for what it imports, also later
    loader = SourceFileLoader(f"model_of_{Path(file).stem}", file)
    module = module_from_spec(spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    with _failing_as(f"--model {file}:{name} failed (it is called without arguments)"):
        loader.exec_module(module)
        model = getattr(module, name)()
    if not isinstance(model, nn.Module):
        raise UserError(f"--model: {name} returns a {type(model).__name__}, not a torch.nn.Module")
    return getattr(model, "_orig_mod", model)  # of torch.compile, which hooks and copies break


def _from_torchvision(name, weights):
    """(model, file of weights or None, preprocess, class names or None, image size)."""
    from torchvision import models  # here: its import takes seconds

    if name not in models.list_models(module=models):
        raise UserError(f"--model: torchvision has no classifier {name}")
    known = models.get_model_weights(name).__members__
    if weights is not None and weights not in known and not Path(weights).is_file():
        raise UserError(f"--weights {weights}: no such file, and not one of {', '.join(known)}")
    chosen = known.get(weights)
    with _failing_as(f"{name} or its weights cannot be loaded"):
        model = models.get_model(name, weights=chosen)
    preset = (chosen or known["DEFAULT"]).transforms()

    def preprocess(images):
        mean, std = torch.tensor([preset.mean, preset.std], device=images.device)[:, :, None, None]
        return ((images + 1) / 2 - mean) / std

    if chosen is None:
        return model, weights, preprocess, None, 224
    return model, None, preprocess, chosen.meta["categories"], preset.crop_size[0]


def _load_weights(model, file):
    """Load a state dict, strictly. Raises UserError."""
    with _failing_as(f"--weights {file} cannot be read as a state dict"):
        if str(file).endswith(".safetensors"):
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    for key in CHECKPOINT_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        keys = ", ".join(CHECKPOINT_KEYS)
        raise UserError(f"--weights {file} holds no state dict, also not under {keys}")
    if state.keys() != model.state_dict().keys():  # of torch.compile, DistributedDataParallel
        state = {k.replace("_orig_mod.", "").removeprefix("module."): v for k, v in state.items()}
    with _failing_as(f"--weights {file}"):
        model.load_state_dict(state)


def _check_output(network):
    """The number of classes. Raises UserError unless the output is (b, classes) and finite."""
    images, size = network.start.repeat(2, 1, 1, 1).requires_grad_(), network.image_size
    settings = f"for --image_size {size} --precision {network.precision}"
    with _failing_as(f"{network.name} does not return logits (b, classes) {settings}"):
        logits = network.logits(images)
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise UserError(f"{network.name} returns {tuple(logits.shape)}, not logits (b, classes)")
    if not logits.requires_grad:
        raise UserError(f"{network.name} has no gradient; remove torch.no_grad from its forward")
    if not logits.isfinite().all():
        raise UserError(f"{network.name} returns NaN or infinite logits")
    return logits.shape[1]


def _find_layers(network):
    """{name: module} of all that return one tensor of several maps, in the order of their calls."""
    found = {}

    def note(name, module, _inputs, output):
        is_tensor = isinstance(output, torch.Tensor) and output.ndim in (2, 3, 4)
        if is_tensor and len(output) == 2 and as_maps(output).shape[1] > 1:
            found.setdefault(name, module)

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, module in list(network.model.named_modules())[1:]:
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        network.logits(network.start.repeat(2, 1, 1, 1))
    return found


def _choose_layers(network, requested):
    """Those of _find_layers that are requested, by default the children of the model."""
    found = _find_layers(network)
    for name in requested:
        if name not in found:
            raise UserError(
                f"{network.name} has no layer {name} with an output (b, c, h, w), (b, c) or "
                "(b, n, c) (all: --list_layers)"
            )
    if not found:
        print(f"{network.name} has no layer, hence no features, attribution, comparison")
    children = [name for name in found if "." not in name]
    chosen = requested or children or found
    return {name: module for name, module in found.items() if name in chosen}


def list_layers(network):
    """Print the name, shape and receptive field of every layer of a network."""
    if not network.has_scores:
        network = dataclasses.replace(network, layers=_find_layers(network))
    print(f"layers of {network.name}: channels x map, receptive field")
    for layer in network.layers:
        channels, height, width = network.shapes[layer]
        rows, columns = network.fields[layer]
        is_whole = rows.stride == columns.stride == 0
        seen = "whole image" if is_whole else f"{rows.size} x {columns.size} pixels"
        print(f"  {layer!s:<36} {channels:>6} x {f'{height} x {width}':<10} {seen}")
