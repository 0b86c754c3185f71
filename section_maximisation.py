"""Images that maximise the output of a class, or the features of a layer."""

import torch
import torch.nn.functional as F

import runtime
from data_tools import to_signed, to_uint8
from discriminator import MAP_SIZES
from figures import save_image_grid
from image_gradients import class_objective, feature_objective, maximise
from layer_study import stand_out
from progress import Progress
from receptive_field import box, geometry
from robust_maximisation import held_out, maximise_robustly

CLASSIC_FEATURES = 100  # shown by the classic method: the first ones of the layer
FEATURES = 20  # shown by the robust method: those that stand out most
EXAMPLES = 4  # test images beside each feature
RESTARTS = {"class": 4, "feature": 2}  # of the robust method
SMOOTHNESS = 3.0


def ascend(args, objective, start, count, title, restarts, shift=3.0):
    """`count` images by args.method from `start`: (images, values before, values after)."""
    restarts = 1 if args.method == "classic" else restarts
    progress = Progress(title, args.steps, restarts * count)
    if args.method == "classic":
        start = start.repeat(count, 1, 1, 1)
        result = maximise(objective, start, args.steps, args.lr, args.decay, progress)
    else:
        images = maximise_robustly(
            *(objective, count, args.steps),
            smoothness=SMOOTHNESS,
            restarts=restarts,
            shift=shift,
            device=start.device,
            progress=progress,
        )
        with torch.no_grad():
            before = objective(start.repeat(count, 1, 1, 1))
            result = images, before, objective(images)
    progress.close()
    return result


def classes(args, network, precision, folder):
    """One image per class that maximises the class's logit; returns the figures of each class."""
    objective = class_objective(network.model, precision)
    names = network.class_names
    images, before, after = ascend(
        *(args, objective, network.start, len(names), f"classes, {network.name}"),
        RESTARTS["class"],
    )
    moved = held_out(objective, images).tolist()
    with torch.no_grad(), runtime.autocast(images.device, precision):
        probabilities = network.model(images)[1].float().softmax(1).diagonal().tolist()
    path = folder / f"max_class_{network.slug}.png"
    reached = list(zip(names, before.tolist(), after.tolist(), moved, probabilities, strict=True))
    save_image_grid(
        to_uint8(images),
        path,
        title=f"Images that maximise a class's logit, discriminator trained {network.name}",
        captions=[f"{c}\nlogit {b:.1f} → {a:.1f}, moved {m:.1f}" for c, b, a, m, _ in reached],
        columns=5,
        scale=6,
        gap=8,
    )
    for class_name, b, a, m, p in reached:
        print(
            f"  {class_name:<12} logit {b:7.2f} -> {a:7.2f}, over random views {m:7.2f}, "
            f"probability {100 * p:6.2f} %"
        )
    print(f"  {path}")
    keys = ("logit_before", "logit", "logit_moved", "probability")
    return {row[0]: dict(zip(keys, row[1:], strict=True)) for row in reached}


@torch.no_grad()
def strongest_units(model, images, layer, precision, batch_size=500, progress=None):
    """(values, rows, columns) of each feature's strongest unit in each image, each (n, width)."""
    found = []
    for batch in images.split(batch_size):
        with runtime.autocast(batch.device, precision):
            maps = model.features(to_signed(batch), layer).float()
        values, places = maps.flatten(2).max(2)
        found.append(torch.stack([values, places // maps.shape[3], places % maps.shape[3]]).cpu())
        if progress is not None:
            progress.step()
    return torch.cat(found, dim=1)


def features(args, network, layer, precision, folder, test_set=None):
    """Images that maximise features of a layer; returns the figures.

    The classic method draws the first 100, and climbs the strongest unit of each, wherever it is.
    The robust one draws the features that stand out most and climbs the unit in the middle; what is
    shown is the part that it sees, beside the test images that excite the feature most, with the
    pixels that the strongest unit sees framed. Without a test set, it draws the first features.
    """
    model, name = network.model, network.name
    chosen = torch.arange(min(CLASSIC_FEATURES, model.width))
    ranked = args.method == "robust" and test_set is not None
    if ranked:
        progress = Progress(f"layer {layer} on test images, {name}", -(-len(test_set) // 500), 500)
        units = strongest_units(model, test_set.images, layer, precision, progress=progress)
        progress.close()
        measure = stand_out(units[0])
        chosen = measure.argsort(descending=True, stable=True)[:FEATURES]
    elif args.method == "robust":
        chosen = chosen[: 2 * FEATURES]
    objective = feature_objective(model, layer, precision, chosen, args.method == "robust")
    images, before, after = ascend(
        *(args, objective, network.start, len(chosen), f"layer {layer}, {name}"),
        RESTARTS["feature"],
        shift=min(3.0, geometry(layer)[1]),  # not past what the unit sees
    )
    path = folder / f"max_features_{network.slug}_layer{layer}.png"
    if ranked:
        draw_beside_examples(network, layer, chosen, images, after, units, test_set, path)
    else:
        pairs = zip(chosen.tolist(), before.tolist(), after.tolist(), strict=True)
        captions = [f"{feature}: {b:.1f} → {a:.1f}" for feature, b, a in pairs]
        title = f"Layer {layer}, trained {name}: each image maximises one feature (before → after)"
        shown = part_seen(images, layer) if args.method == "robust" else images
        save_image_grid(to_uint8(shown), path, title=title, captions=captions)
    mean_before, mean_after = before.mean().item(), after.mean().item()
    print(f"  layer {layer}: mean activation {mean_before:.3f} -> {mean_after:.3f}; {path}")
    figures = {
        "method": args.method,
        "features": chosen.tolist(),
        "mean_before": mean_before,
        "mean_after": mean_after,
        "mean_moved": held_out(objective, images).mean().item(),
        "before": before.tolist(),
        "after": after.tolist(),
    }
    if ranked:
        figures["stand_out"] = [round(v, 2) for v in measure[chosen].tolist()]
        figures["test_images"] = len(test_set)
    return figures


def part_seen(images, layer, margin=2):
    """What the unit in the middle of the map sees, and a margin, enlarged to (b, 3, 32, 32)."""
    middle = MAP_SIZES[layer - 1] // 2
    top, left, bottom, right = box(layer, middle, middle)
    window = images[
        ..., max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin
    ]
    enlarged = F.interpolate(window, images.shape[2:], mode="bicubic", align_corners=False)
    return enlarged.clamp(-1, 1)


def draw_beside_examples(network, layer, chosen, images, after, units, test_set, path):
    """Two features a row: the synthetic image, then the test images that excite it most."""
    values, rows, columns = units
    cells, captions, boxes = [], [], []
    for index, feature in enumerate(chosen.tolist()):
        cells.append(to_uint8(part_seen(images[index : index + 1], layer)))
        captions.append(f"feature {feature}\n{after[index]:.1f}")
        boxes.append(None)
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
