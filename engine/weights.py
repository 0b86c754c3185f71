"""Exported weights, safe to share: one network in a safetensors file, with what rebuilds it."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from discriminator import Discriminator
from engine.files import write_atomically
from generator import Generator

RESULTS = Path(__file__).resolve().parent.parent / "results"


class CheckpointError(Exception):
    """A checkpoint or an export that cannot be used; the message says why and what to do."""


_SCALE = ".scale"
_KINDS = {
    "discriminator": (Discriminator, ("width", "num_classes")),
    "generator": (Generator, ("width", "latent_dim")),
}


def export_model(model, path, metadata, in_8_bits=False):
    """Write a Discriminator's or Generator's weights to a safetensors file, atomically.

    metadata: a flat dict of what is worth knowing (recipe, figures); values that are no strings are
    kept as JSON. The kind and the sizes of the network are added. in_8_bits: as `to_8_bits` makes
    them; else in the type they have. Raises TypeError for a model that is neither.
    """
    kind = next((kind for kind, (cls, _) in _KINDS.items() if type(model) is cls), None)
    if kind is None:
        raise TypeError(f"can export a Discriminator or a Generator, not a {type(model).__name__}")
    sizes = {name: getattr(model, name) for name in _KINDS[kind][1]}
    described = {"kind": kind, **sizes, **metadata}
    text = {key: v if isinstance(v, str) else json.dumps(v) for key, v in described.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    tensors = to_8_bits(tensors) if in_8_bits else tensors
    write_atomically(path, safetensors_bytes(tensors, text))


def to_8_bits(state):
    """{name: tensor} with every weight of two dimensions or more as whole numbers and scales.

    weight[i] is about NAME[i] (int8, -127 to 127) times NAME.scale[i] (float32).
    """
    found = {}
    for name, tensor in state.items():
        if tensor.ndim < 2:
            found[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1).clamp_min(1e-30) / 127
        found[name] = (rows / scale[:, None]).round().to(torch.int8).view_as(tensor)
        found[name + _SCALE] = scale
    return found


def from_8_bits(state):
    """What `to_8_bits` was given, but for rounding; ValueError where the parts do not fit."""
    found = {name: t for name, t in state.items() if not name.endswith(_SCALE)}
    for name in state.keys() - found.keys():
        scale, weight = state[name], found.get(name.removesuffix(_SCALE))
        fits = weight is not None and weight.dtype == torch.int8 and weight.ndim > 1
        if not fits or scale.shape != weight.shape[:1]:
            raise ValueError(f"{name} has no weight that it fits")
        found[name.removesuffix(_SCALE)] = (weight.flatten(1) * scale[:, None]).view_as(weight)
    return found


def digest(model):
    """SHA-256 of a network's weights: the same for the same values, whatever the file."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def find_export(path, name):
    """The weights file itself, or the one of that name where the path is a run's folder."""
    path = Path(path)
    return path / name if path.is_dir() else path


def published(run, name):
    """Path of a file of the runs that come with this repository, shown from the current folder."""
    path = RESULTS / run / name
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def own_or_published(given, run, name):
    """Where to take weights from: what was `given`, else the user's own run, else the published.

    given: a path or None; run: `baseline` or `gan`, the folder in output/ and in results/; name: of
    the file. Tells where it takes the published ones.
    """
    if given is not None:
        return find_export(given, name)
    own, ours = Path("output") / run / name, published(run, name)
    if own.is_file() or not ours.is_file():
        return own
    print(f"no {own}: taking the published {ours}")
    return ours


def load_model(path, device="cpu", kind=None):
    """(network in eval mode, metadata dict) out of an export.

    kind: `discriminator` or `generator` where only that will do.
    Raises CheckpointError for a file that is missing, damaged, of another kind, or whose weights do
    not fit the network it names or are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = {key: _parse(value) for key, value in (file.metadata() or {}).items()}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    found = metadata.get("kind")
    if not isinstance(found, str) or found not in _KINDS:
        raise CheckpointError(f"{path} was not exported by this program (its kind is {found!r})")
    if kind not in (None, found):
        raise CheckpointError(f"{path} holds a {found}; a {kind} is wanted here")
    model_class, size_names = _KINDS[found]
    sizes = {name: metadata.get(name) for name in size_names}
    if not all(type(size) is int and 0 < size <= 4096 for size in sizes.values()):
        raise CheckpointError(f"{path} states impossible sizes: {sizes}")
    try:
        state = from_8_bits(state)
    except ValueError as error:
        raise CheckpointError(f"the weights in {path} are damaged: {error}") from None
    with torch.device("meta"):  # shapes are compared before any memory is taken for them
        expected = {name: _form(t) for name, t in model_class(**sizes).state_dict().items()}
    if {name: _form(t) for name, t in state.items()} != expected:
        raise CheckpointError(f"the weights in {path} do not fit a {found} with {sizes}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} holds NaN or infinite weights in {name}")
    model = model_class(**sizes)
    model.load_state_dict(state)
    return model.to(device).eval(), metadata


def _form(tensor):
    """Shape and type; weights may be stored in 16 bit."""
    in_16_bit = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.shape, torch.float32 if in_16_bit else tensor.dtype


def _parse(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
