"""Images that maximise the output of a class, or the features of a layer."""

import torch
import torch.nn.functional as F

from data_tools import to_signed, to_uint8
from discriminator import MAP_SIZES
from engine.device import autocast
from engine.plots import save_image_grid
from engine.progress import Progress
from interpretability.activation_maximization import (
    VIEWS,
    class_objective,
    feature_objective,
    held_out,
    maximise,
    maximise_robustly,
)
from interpretability.layer_probes import distinct, stand_out
from interpretability.receptive_field import box, geometry

CLASSIC_FEATURES = 100  # shown by the classic method: the first ones of the layer
FEATURES = 20  # shown by the robust method: those that stand out most
EXAMPLES = 4  # test images beside each feature
RESTARTS = {"class": 4, "feature": 2}  # of the robust method
SMOOTHNESS = {"class": 10.0, "feature": 5.0}  # weight of the total variation


def ascend(args, objective, start, count, title, kind, views=VIEWS):
    """`count` images by args.method: classic begins at `start`, robust at nearly grey images.

    kind: `class` or `feature`.
    """
    restarts = 1 if args.method == "classic" else RESTARTS[kind]
    progress = Progress(title, args.steps, restarts * count)
    if args.method == "classic":
        start = start.repeat(count, 1, 1, 1)
        images, _, _ = maximise(objective, start, args.steps, args.lr, args.decay, progress)
    else:
        images = maximise_robustly(
            *(objective, count, args.steps),
            smoothness=SMOOTHNESS[kind],
            restarts=restarts,
            views=views,
            device=start.device,
            progress=progress,
        )
    progress.close()
    return images


@torch.no_grad()
def values_of(objective, images, start, views=VIEWS):
    """The objective of each image, over random views of it, and of the mean image: three (n,)."""
    of_start = objective(start.repeat(len(images), 1, 1, 1))
    return objective(images), held_out(objective, images, views), of_start


def classes(args, network, precision, folder):
    """One image per class that maximises the class's logit; returns the figures of each class."""
    objective = class_objective(network.model, precision)
    names = network.class_names
    images = ascend(
        *(args, objective, network.start, len(names), f"classes, {network.name}"),
        "class",
    )
    columns = [v.tolist() for v in values_of(objective, images, network.start)]
    with torch.no_grad(), autocast(images.device, precision):
        columns.append(network.model(images)[1].float().softmax(1).diagonal().tolist())
    path = folder / f"max_class_{network.slug}.png"
    reached = list(zip(names, *columns, strict=True))
    save_image_grid(
        to_uint8(images),
        path,
        title=f"Images that maximise a class's logit, discriminator trained {network.name}",
        captions=[f"{name}\nlogit {v:.1f}, moved {m:.1f}" for name, v, m, _, _ in reached],
        columns=5,
        scale=6,
        gap=8,
    )
    for name, value, moved, of_start, probability in reached:
        print(
            f"  {name:<12} logit {value:7.2f}, over random views {moved:7.2f}, of the mean image "
            f"{of_start:7.2f}; probability {100 * probability:6.2f} %"
        )
    print(f"  {path}")
    keys = ("logit", "logit_moved", "logit_of_mean_image", "probability")
    return {row[0]: dict(zip(keys, row[1:], strict=True)) for row in reached}


@torch.no_grad()
def strongest_units(model, images, layers, precision, batch_size=500, progress=None):
    """Where each feature of these layers is strongest in each image, in one pass for all layers.

    {layer: (values, rows, columns)}, each float32 (n, width), on the CPU.
    """
    found = {layer: [] for layer in layers}
    for batch in images.split(batch_size):
        with autocast(batch.device, precision):
            x = to_signed(batch).contiguous(memory_format=torch.channels_last)
            for layer, block in enumerate(model.blocks[: max(layers)], start=1):
                x = block(x)
                if layer in found:
                    values, places = x.float().flatten(2).max(2)
                    rows, columns = places // x.shape[3], places % x.shape[3]
                    found[layer].append(torch.stack([values, rows, columns]).cpu())
        if progress is not None:
            progress.step()
    return {layer: torch.cat(parts, dim=1) for layer, parts in found.items()}


def features(args, network, precision, folder, test_set=None):
    """Images that maximise features of args.max_features; returns {layer: figures}.

    The classic method draws the first 100, and climbs the strongest unit of each, wherever it is.
    The robust one draws the features that stand out most, none of them much like another, and
    climbs the unit in the middle; what is shown is the part that it sees, beside the test images
    that excite the feature most, with the pixels that the strongest unit sees framed. Without a
    test set, it draws the first features.
    """
    units = {}
    if args.method == "robust" and test_set is not None:
        batches = -(-len(test_set) // 500)
        progress = Progress(f"features on test images, {network.name}", batches, 500)
        units = strongest_units(
            network.model, test_set.images, args.max_features, precision, progress=progress
        )
        progress.close()
    return {
        str(layer): one_layer(args, network, layer, precision, folder, test_set, units.get(layer))
        for layer in args.max_features
    }


def views_of(layer):
    """The views for a layer's features: none moves the middle out of what its unit sees."""
    return VIEWS._replace(shift=min(VIEWS.shift, geometry(layer)[1]))


def one_layer(args, network, layer, precision, folder, test_set, units):
    """The picture and the figures of one layer; units: of strongest_units, or None."""
    model, name = network.model, network.name
    robust = args.method == "robust"
    chosen = torch.arange(min(CLASSIC_FEATURES, model.width))
    if units is not None:
        measure = stand_out(units[0])
        chosen = distinct(units[0], measure, FEATURES)
    elif robust:
        chosen = chosen[: 2 * FEATURES]
    objective = feature_objective(model, layer, precision, chosen, robust)
    views = views_of(layer) if robust else VIEWS
    images = ascend(
        *(args, objective, network.start, len(chosen), f"layer {layer}, {name}"),
        *("feature", views),
    )
    values, moved, of_start = values_of(objective, images, network.start, views)
    path = folder / f"max_features_{network.slug}_layer{layer}.png"
    if units is not None:
        draw_beside_examples(network, layer, chosen, images, values, units, test_set, path)
    else:
        pairs = zip(chosen.tolist(), values.tolist(), strict=True)
        save_image_grid(
            to_uint8(part_seen(images, layer)[0] if robust else images),
            path,
            title=f"Layer {layer}, trained {name}: each image maximises one feature",
            captions=[f"{feature}: {value:.1f}" for feature, value in pairs],
        )
    print(
        f"  layer {layer}: mean activation {values.mean():.3f}, over random views "
        f"{moved.mean():.3f}, of the mean image {of_start.mean():.3f}; {path}"
    )
    figures = {
        "method": args.method,
        "features": chosen.tolist(),
        "activation": values.tolist(),
        "activation_moved": moved.tolist(),
        "activation_of_mean_image": of_start.tolist(),
    }
    if robust:
        figures |= {"views": views._asdict(), "smoothness": SMOOTHNESS["feature"]}
    if units is not None:
        figures["stand_out"] = [round(v, 2) for v in measure[chosen].tolist()]
        figures["test_images"] = len(test_set)
    return figures


def part_seen(images, layer, margin=2):
    """What the unit in the middle of the map sees, and a margin, enlarged; and where it is in it.

    (b, 3, 32, 32) -> (b, 3, 32, 32), (top, left, bottom, right) in the enlarged image.
    """
    size = images.shape[-1]
    middle = MAP_SIZES[layer - 1] // 2
    low, _, high, _ = box(layer, middle, middle)  # a square on the diagonal
    first, last = max(0, low - margin), min(size, high + margin)
    window = images[..., first:last, first:last]
    enlarged = F.interpolate(window, images.shape[2:], mode="bicubic", align_corners=False)
    edges = [round(size * (edge - first) / (last - first)) for edge in (low, high)]
    return enlarged.clamp(-1, 1), (edges[0], edges[0], edges[1], edges[1])


def draw_beside_examples(network, layer, chosen, images, activations, units, test_set, path):
    """Two features a row: the synthetic image, then the test images that excite it most."""
    values, rows, columns = units
    parts, part_box = part_seen(images, layer)
    cells, captions, boxes = [], [], []
    for index, feature in enumerate(chosen.tolist()):
        cells.append(to_uint8(parts[index : index + 1]))
        captions.append(f"feature {feature}\n{activations[index]:.1f}")
        boxes.append(part_box)
        best = values[:, feature].argsort(descending=True, stable=True)[:EXAMPLES]
        cells.append(test_set.images[best.to(test_set.images.device)])
        for image in best.tolist():
            label = test_set.class_names[int(test_set.labels[image])]
            captions.append(f"{label}\n{values[image, feature]:.1f}")
            boxes.append(box(layer, int(rows[image, feature]), int(columns[image, feature])))
    title = (
        f"Layer {layer}, trained {network.name}: features that stand out most, each with the test "
        "images that excite it most"
    )
    save_image_grid(
        *(torch.cat(cells), path),
        title=title,
        captions=captions,
        columns=2 * (1 + EXAMPLES),
        scale=4,
        gap=6,
        boxes=boxes,
    )
