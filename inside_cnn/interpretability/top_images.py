"""Where each feature of a network is strongest."""

import torch

from data_tools import to_signed

PEAK_IMAGES = 8  # the images that activate a feature most; they determine where it peaks


@torch.no_grad()
def strongest_units(network, batches, layers):
    """Where each feature of these layers is strongest in each image, in one pass for all layers.

    batches: an iterable of uint8 (b, 3, 32, 32). If several positions share the maximum, as in
    bfloat16, it is the first one. Returns {layer: (values, rows, columns)}, each float32
    (n, width), on the CPU.
    """
    parts_of = {layer: [] for layer in layers}

    def keep(layer, maps):
        values, places = maps.float().flatten(2).max(2)
        rows, columns = places // maps.shape[3], places % maps.shape[3]
        parts_of[layer].append(torch.stack([values, rows, columns]).cpu())

    for batch in batches:
        network.visit(to_signed(batch), layers, keep)
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
