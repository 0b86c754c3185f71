"""Exported weights, safe to share: one network in a safetensors file, with what rebuilds it.

Below: writing an export, its form in 8 bits, reading it, its classes, and where it is found.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import parse_json, write_atomically
from inside_cnn.data.dataset import are_names
from inside_cnn.layers.accelerate import accelerate

RESULTS = Path(__file__).resolve().parents[2] / "results"  # the published runs
_KINDS = {  # kind: class, names of the arguments that rebuild it
    "discriminator": (Discriminator, ("width", "num_classes")),
    "generator": (Generator, ("width", "latent_dim")),
}
LAYOUT = "chw"  # of LayerNorm's weights; exports that do not say so have (h, w, c)
BEFORE_ROUNDING = "sha256_before_rounding"  # metadata of published weights: the exact ones' digest
_SCALE = ".scale"  # ends the name of a tensor of scales, in weights of 8 bits
_FLOATS = ("F32", "F16", "BF16")
_MAX_WEIGHT = 1e10  # smaller weights keep every layer's output within float32
_MAX_SIZE = 4096  # of a width, a latent or a number of classes


# ------------------------------------------------------------------------------ writing


def export_model(model, path, metadata, in_8_bits=False):
    """Write a network's weights to a safetensors file, atomically; arguments as `export_bytes`."""
    write_atomically(path, export_bytes(model, metadata, in_8_bits))


def export_bytes(model, metadata, in_8_bits=False):
    """The content of a safetensors file with a Discriminator's or Generator's weights.

    metadata: a flat dict (recipe, metrics); values that are not strings are stored as JSON. The
    kind and sizes of the network are added. in_8_bits: store them as `to_8_bits` returns them.
    """
    kind = next(kind for kind, (model_class, _) in _KINDS.items() if isinstance(model, model_class))
    sizes = {name: getattr(model, name) for name in _KINDS[kind][1]}
    metadata = {**metadata, "kind": kind, "layout": LAYOUT, **sizes}
    text = {key: v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    return safetensors_bytes(to_8_bits(state) if in_8_bits else state, text)


# ------------------------------------------------------------------------------ 8 bits


def to_8_bits(state):
    """{name: tensor} with every weight of two dimensions or more as whole numbers and scales.

    weight[i] is about NAME[i] (int8, -127 to 127) times NAME.scale[i] (float32).
    """
    rounded = {}
    for name, tensor in state.items():
        if tensor.ndim < 2:
            rounded[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1).clamp_min(1e-30) / 127
        rounded[name] = (rows / scale[:, None]).round().to(torch.int8).view_as(tensor)
        rounded[name + _SCALE] = scale
    return rounded


def from_8_bits(state):
    """What `to_8_bits` was given, but for rounding; weights without scales stay as they are."""
    weights = {name: t for name, t in state.items() if not name.endswith(_SCALE)}
    for scale_name in state.keys() - weights.keys():
        name = scale_name.removesuffix(_SCALE)
        rows = weights[name].flatten(1) * state[scale_name][:, None]
        weights[name] = rows.view_as(weights[name])
    return weights


# ------------------------------------------------------------------------------ reading


def load_model(path, device="cpu", kind=None):
    """(network in eval mode, metadata dict) from an export.

    kind: `discriminator` or `generator`, if only that is accepted.
    Raises UserError for a file that is missing, corrupt, of another kind, or whose weights do not
    fit the network that it names or are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            metadata = {key: parse_json(value, otherwise=value) for key, value in text.items()}
            model_class, sizes = _network_of(metadata, path, kind)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            old_layout = metadata.get("layout") != LAYOUT
            forms = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
            if not _fits(forms, model_class, sizes, old_layout):
                raise UserError(f"the weights in {path} do not fit a {metadata['kind']}")
            state = from_8_bits({name: file.get_tensor(name) for name in forms})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    if old_layout:
        state = {n: t.movedim(-1, 0) if t.ndim == 3 else t for n, t in state.items()}
    for name, tensor in state.items():
        if not (tensor.abs() <= _MAX_WEIGHT).all():
            raise UserError(f"{path} holds NaN, infinite or huge weights in {name}")
        if name.endswith("running_var") and (tensor < 0).any():
            raise UserError(f"{path} holds negative variances in {name}")
    model = model_class(**sizes)
    model.load_state_dict(state)
    return accelerate(model, device).eval(), metadata


def _network_of(metadata, path, kind):
    """(class, the arguments that rebuild it) by an export's metadata. Raises UserError."""
    own_kind = metadata.get("kind")
    if not isinstance(own_kind, str) or own_kind not in _KINDS:
        raise UserError(f"{path} was not exported by this program (its kind is {own_kind!r})")
    if kind not in (None, own_kind):
        raise UserError(f"{path} holds a {own_kind}, not a {kind}")
    model_class, arguments = _KINDS[own_kind]
    names = metadata.get("class_names")
    # For a generator it is not a size, but the number of classes that its latents encode.
    metadata.setdefault("num_classes", len(names) if are_names(names) and names else 10)
    sizes = {name: metadata.get(name) for name in ("num_classes", *arguments)}
    if not all(type(size) is int and 1 <= size <= _MAX_SIZE for size in sizes.values()):
        raise UserError(f"{path} states impossible sizes: {sizes}")
    classes = sizes["num_classes"]
    if classes > sizes.get("latent_dim", classes):
        raise UserError(
            f"the latents of {path}, {sizes['latent_dim']} long, have no room for {classes} classes"
        )
    return model_class, {name: sizes[name] for name in arguments}


def _fits(forms, model_class, sizes, old_layout):
    """Whether tensors of these forms, {name: (shape, type)}, are the network's.

    Checked before memory is allocated for them. Weights may be stored in 16 bits, or in 8 bits with
    scales.
    """
    with torch.device("meta"):
        state = model_class(**sizes).state_dict()
    if old_layout:
        state = {n: t.movedim(0, -1) if t.ndim == 3 else t for n, t in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name, (shape, dtype) in forms.items():
        if dtype == "I8" and len(shape) > 1:
            expected[name + _SCALE] = shape[:1]
        elif dtype not in (("I64",) if name.endswith("num_batches_tracked") else _FLOATS):
            return False
    return {name: shape for name, (shape, _) in forms.items()} == expected


def class_names_of(metadata):
    """The names of the classes that a network was trained on; numbers if its metadata has none.

    Metadata without `num_classes` are of ten classes, as in the first version's exports.
    """
    return _stated_names(metadata) or [str(k) for k in range(metadata.get("num_classes", 10))]


def _stated_names(metadata):
    """The valid list of class names in an export's metadata, else None."""
    names = metadata.get("class_names")
    valid = are_names(names) and len(names) == metadata.get("num_classes", len(names))
    return names if valid else None


def common_class_names(metadata):
    """The class names of several networks; numbers if none states names.

    metadata: {path of the weights: metadata}. Raises UserError if two have different classes.
    """
    names = {path: class_names_of(each) for path, each in metadata.items()}
    stated = [each for each in map(_stated_names, metadata.values()) if each]
    if len(set(map(len, names.values()))) > 1 or any(each != stated[0] for each in stated):
        listed = "; ".join(f"{path}: {', '.join(each)}" for path, each in names.items())
        raise UserError(f"the networks know different classes. {listed}")
    return stated[0] if stated else next(iter(names.values()))


def check_classes(title, metadata, dataset, remedy=""):
    """Raise UserError unless a network has the classes of a Dataset.

    title: of the network, begins the message; remedy: ends it.
    """
    names, expected = class_names_of(metadata), list(dataset.class_names)
    stated, trained_on = _stated_names(metadata), metadata.get("dataset")
    if len(names) != len(expected) or (stated and names != expected):
        raise UserError(
            f"{title} knows {len(names)} classes ({', '.join(names)}), not the {len(expected)} of "
            f"{dataset.name} ({', '.join(expected)}){remedy}"
        )
    if not stated and trained_on not in (None, dataset.name):
        raise UserError(f"{title} was trained on {trained_on}, not on {dataset.name}{remedy}")


def digest(model):
    """SHA-256 of a network's weights: the same for the same values, whatever the file."""
    sha256 = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        sha256.update(name.encode())
        if tensor.ndim == 3:  # as it was stored when the published digests were made
            tensor = tensor.movedim(0, -1)
        sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


# ------------------------------------------------------------------------------ where they are


def find_weights(path, file, run=None):
    """Path of a network's weights, by the rule of every script.

    1. `path`, if the user gave one: a file, or the folder of a run, which holds `file`.
    2. output/RUN/FILE, the user's own run, if it exists.
    3. results/RUN/FILE, the published run, if it exists. One printed line says so.

    If neither exists, it is the user's own path, for an error to name. The rule applies to each
    network by itself, so a user's network may stand beside a published one. Check that they belong
    together: `common_class_names` and `check_classes` raise UserError for different classes.
    """
    if path is not None:
        return Path(path) / file if Path(path).is_dir() else Path(path)
    own, published = Path("output") / run / file, RESULTS / run / file
    if own.is_file() or not published.is_file():
        return own
    if published.is_relative_to(Path.cwd()):
        published = published.relative_to(Path.cwd())
    print(f"no {own}: using the published {published}")
    return published


def is_published(path):
    """Whether a file is one of the published runs."""
    return Path(path).absolute().is_relative_to(RESULTS)
