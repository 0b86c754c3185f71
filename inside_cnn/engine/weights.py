"""Exported weights: one network in a safetensors file, with metadata to rebuild it."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import digest_of, parse_json, write_atomically
from inside_cnn.engine.cli import MAX_SIZE
from inside_cnn.layers.accelerate import accelerate

RESULTS = Path(__file__).resolve().parents[2] / "results"  # the published runs
_KINDS = {  # kind: class, names of the arguments that rebuild it
    "discriminator": (Discriminator, ("width", "num_classes")),
    "generator": (Generator, ("width", "latent_dim")),
}
LAYOUT = "chw"  # of LayerNorm's weights; older exports without this field have (h, w, c)
BEFORE_ROUNDING = "sha256_before_rounding"  # metadata of published weights: digest before rounding
_SCALE = ".scale"  # suffix of the scales of 8-bit weights
_FLOATS = ("F32", "F16", "BF16")
_MAX_WEIGHT = 1e10  # keeps every layer's output finite in float32


# ------------------------------------------------------------------------------ writing


def export_model(model, path, metadata, in_8_bits=False):
    """Write a network's weights to a safetensors file, atomically. Arguments: see export_bytes."""
    write_atomically(path, export_bytes(model, metadata, in_8_bits))


def export_bytes(model, metadata, in_8_bits=False):
    """The content of a safetensors file with the weights of a Discriminator or Generator.

    metadata: a flat dict (recipe, metrics); values other than strings are stored as JSON. The kind
    and sizes of the network are added. in_8_bits: store the result of `to_8_bits`.
    """
    kind = next(kind for kind, (model_class, _) in _KINDS.items() if isinstance(model, model_class))
    sizes = {name: getattr(model, name) for name in _KINDS[kind][1]}
    metadata = {**metadata, "kind": kind, "layout": LAYOUT, **sizes}
    text = {key: v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    return safetensors_bytes(to_8_bits(state) if in_8_bits else state, text)


# ------------------------------------------------------------------------------ quantization


def to_8_bits(state):
    """Quantize every tensor of at least two dimensions in {name: tensor} to int8 and scales.

    The heads stay exact: they are small, and rounding them changes predictions most directly.
    weight[i] is approximately NAME[i] (int8, -127 to 127) times NAME.scale[i] (float32).
    """
    rounded = {}
    for name, tensor in state.items():
        if tensor.ndim < 2 or "_head." in name:
            rounded[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1).clamp_min(1e-30) / 127
        rounded[name] = (rows / scale[:, None]).round().to(torch.int8).view_as(tensor)
        rounded[name + _SCALE] = scale
    return rounded


def from_8_bits(state):
    """The inverse of `to_8_bits`, up to rounding. Weights without scales are returned as is."""
    weights = {name: t for name, t in state.items() if not name.endswith(_SCALE)}
    for scale_name in state.keys() - weights.keys():
        name = scale_name.removesuffix(_SCALE)
        rows = weights[name].flatten(1) * state[scale_name][:, None]
        weights[name] = rows.view_as(weights[name])
    return weights


# ------------------------------------------------------------------------------ reading


def load_model(path, device="cpu", kind=None):
    """(network in eval mode, metadata dict) from an export.

    kind: `discriminator` or `generator` if only that is accepted.
    Raises UserError if the device does not exist, if the file is missing, corrupt or of another
    kind, or if its weights do not fit the network in its metadata or are not finite.
    """
    path = Path(path)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no CUDA device for {device!r}: this machine or this PyTorch has none")
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            metadata = {key: parse_json(value) for key, value in text.items()}
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
    """(class, its arguments) from the metadata of an export. Raises UserError."""
    own_kind = metadata.get("kind")
    if not isinstance(own_kind, str) or own_kind not in _KINDS:
        raise UserError(f"{path} was not exported by this program (its kind is {own_kind!r})")
    if kind not in (None, own_kind):
        raise UserError(f"{path} holds a {own_kind}, not a {kind}")
    model_class, arguments = _KINDS[own_kind]
    names = metadata.pop("class_names", None)
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    names = names if is_list and "".join(names).isprintable() else []
    # The latents of a generator encode the class. Exports of the first version lack the number.
    classes = metadata.setdefault("num_classes", len(names) or 10)
    if names and len(names) == classes:
        metadata["class_names"] = names
    sizes = {name: metadata.get(name) for name in ("num_classes", *arguments)}
    if not all(type(size) is int and 1 <= size <= MAX_SIZE for size in sizes.values()):
        raise UserError(f"{path} has impossible sizes: {sizes}")
    if classes > sizes.get("latent_dim", classes):
        raise UserError(
            f"the latents of {path}, {sizes['latent_dim']} long, have no room for {classes} classes"
        )
    return model_class, {name: sizes[name] for name in arguments}


def _fits(forms, model_class, sizes, old_layout):
    """Whether {name: (shape, dtype)} are those of the network.

    The check needs no memory for the tensors. They may have 16 bits, or 8 bits and scales.
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
    """Names of the classes that a network was trained on, or "0", "1", ... without names.

    metadata: as returned by load_model.
    """
    return metadata.get("class_names") or [str(k) for k in range(metadata["num_classes"])]


def common_class_names(metadata):
    """The class names of several networks. Raises UserError if their classes differ.

    metadata: {path of the weights: metadata}. Networks without names only need as many classes.
    """
    names = {path: class_names_of(each) for path, each in metadata.items()}
    named = [each["class_names"] for each in metadata.values() if "class_names" in each]
    if len(set(map(len, names.values()))) > 1 or any(each != named[0] for each in named):
        listed = "; ".join(f"{path}: {', '.join(each)}" for path, each in names.items())
        raise UserError(f"the networks have different classes. {listed}")
    return named[0] if named else next(iter(names.values()))


def check_classes(title, metadata, dataset, remedy=""):
    """Raise UserError unless a network has the classes of a Dataset.

    title: of the network, starts the message; remedy: ends it.
    """
    names, expected = class_names_of(metadata), list(dataset.class_names)
    named, trained_on = "class_names" in metadata, metadata.get("dataset")
    if len(names) != len(expected) or (named and names != expected):
        raise UserError(
            f"{title} has {len(names)} classes ({', '.join(names)}), not the {len(expected)} of "
            f"{dataset.name} ({', '.join(expected)}){remedy}"
        )
    if not named and trained_on not in (None, dataset.name):
        raise UserError(f"{title} was trained on {trained_on}, not on {dataset.name}{remedy}")


def digest(model):
    """SHA-256 of the names and values of a network's weights."""
    values = []
    for name, tensor in model.state_dict().items():  # in the layout of the published digests
        values += [name, tensor.movedim(0, -1) if tensor.ndim == 3 else tensor]
    return digest_of(*values)


# ------------------------------------------------------------------------------ finding files


def find_weights(path, file, run=None):
    """Path of a network's weights.

    `path` if it is not None: a file, or the folder of a run, which contains `file`. Otherwise
    own_or_published of output/RUN/FILE and results/RUN/FILE.
    """
    if path is not None:
        return Path(path) / file if Path(path).is_dir() else Path(path)
    return own_or_published(Path("output") / run / file, f"{run}/{file}")


def own_or_published(own, name):
    """`own`, the user's file, or results/NAME if only that exists, which is then printed."""
    published = RESULTS / name
    if own.is_file() or not published.is_file():
        return own
    if published.is_relative_to(Path.cwd()):
        published = published.relative_to(Path.cwd())
    print(f"no {own}: using the published {published}")
    return published


def is_published(path):
    """Whether a file is inside results/."""
    return Path(path).absolute().is_relative_to(RESULTS)
