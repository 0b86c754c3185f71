"""Where in which images each feature of a network is strongest; the top images, cached on disk."""

import hashlib
from typing import NamedTuple

import torch
from safetensors.torch import load, save

from data_tools import to_signed
from inside_cnn.core.files import write_atomically

PEAK_IMAGES = 8  # the images that activate a feature most; they determine where it peaks


@torch.no_grad()
def strongest_units(network, batches, layers):
    """Where each feature of these layers is strongest in each image, in one pass for all layers.

    batches: an iterable of uint8 (b, 3, 32, 32). If several positions share the maximum, as in
    bfloat16, it is the first one. Returns {layer: (values, rows, columns)}, each float32
    (n, width), on the CPU.
    """
    parts_of = {layer: [] for layer in layers}
    for batch in batches:
        for layer, maps in network.activations_of(to_signed(batch), layers):
            values, places = maps.float().flatten(2).max(2)
            rows, columns = places // maps.shape[3], places % maps.shape[3]
            parts_of[layer].append(torch.stack([values, rows, columns]).cpu())
    return {layer: torch.cat(parts, dim=1) for layer, parts in parts_of.items()}


def peak_positions(values, rows, columns):
    """Where each feature peaks: the most frequent position among its strongest images.

    Ties are decided by the activations. values, rows, columns: from `strongest_units`, (n, width)
    -> int64 (width, 2), row and column.
    """
    best = values.topk(min(PEAK_IMAGES, len(values)), dim=0)
    side = 1 + int(max(rows.max(), columns.max()))
    places = (rows * side + columns).long().gather(0, best.indices)
    weights = 1 + torch.softmax(best.values, 0) / (1 + PEAK_IMAGES)
    votes = torch.zeros(side * side, values.shape[1]).scatter_add_(0, places, weights)
    winner = votes.argmax(0)
    return torch.stack([winner // side, winner % side], dim=1)


class TopImages(NamedTuple):
    """The strongest images of every feature of each layer, the strongest first.

    values: float32 (8, count, width), the largest activation in the image; images, rows, columns:
    int64, the same shape, the index of the image and the position in the map; of_classes: int64
    (count, classes), the images with the largest logits.
    """

    values: torch.Tensor
    images: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    of_classes: torch.Tensor


@torch.no_grad()
def top_images(network, batches, count=8):
    """The TopImages of a network, at most `count`; batches: as in `strongest_units`."""
    units = strongest_units(network, batches, network.layer_names)
    count = min(count, len(next(iter(units.values()))[0]))
    layers = []
    for values, rows, columns in units.values():
        best = values.topk(count, dim=0)
        places = (part.gather(0, best.indices).long() for part in (rows, columns))
        layers.append((best.values, best.indices, *places))
    last = network.layer_names[-1]
    pooled = units[last][0].to(network.device)[:, :, None, None]  # as maps of one unit
    _, logits = network.at("fp32").from_activations(pooled, last)
    of_classes = logits.cpu().topk(count, dim=0).indices
    return TopImages(*(torch.stack(parts) for parts in zip(*layers, strict=True)), of_classes)


def digest_of(images):
    """SHA-256 of the images of a set."""
    return hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest()


def cached(path, make):
    """The TopImages in a file; if it does not exist, those that `make` returns, written there."""
    if path.is_file():
        return TopImages(**load(path.read_bytes()))
    top = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({k: v.contiguous() for k, v in top._asdict().items()}))
    except OSError as error:
        print(f"cannot cache the top images: {path}: {error.strerror or error}")
    return top
