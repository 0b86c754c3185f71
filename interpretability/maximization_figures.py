"""Images that maximise the output of a class, or the features of a layer."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data_tools import to_signed, to_uint8
from discriminator import MAP_SIZES
from engine.device import autocast
from engine.plots import save_image_grid, shortened
from engine.progress import Progress
from interpretability.activation_maximization import (
    VIEWS,
    class_objective,
    feature_objective,
    held_out,
    maximize,
    maximize_robustly,
)
from interpretability.layer_probes import distinct, stand_out
from interpretability.receptive_field import box, geometry

CLASSIC_FEATURES = 100  # shown by the classic method: the first ones of the layer
FEATURES = 20  # shown by the robust method: those that stand out most
EXAMPLES = 4  # test images beside each feature
RESTARTS = {"class": 4, "feature": 2}  # of the robust method
SMOOTHNESS = {"class": 10.0, "feature": 5.0}  # weight of the total variation


@dataclass(frozen=True)
class Ascent:
    """How images are climbed.

    method: `classic` begins at the mean image, `robust` at nearly grey ones; steps: of either; lr
    and decay: of classic, as in maximize.
    """

    method: str = "robust"
    steps: int = 200
    lr: float = 0.1
    decay: float = 0.001

    @property
    def robust(self):
        return self.method == "robust"

    def climb(self, objective, start, count, *, kind, views=VIEWS, title=""):
        """`count` images, (count, 3, 32, 32). start: the mean image; kind: `class` or `feature`."""
        restarts = RESTARTS[kind] if self.robust else 1
        progress = Progress(title, self.steps, restarts * count)
        if self.robust:
            images = maximize_robustly(
                objective,
                count,
                steps=self.steps,
                smoothness=SMOOTHNESS[kind],
                restarts=restarts,
                views=views,
                device=start.device,
                progress=progress,
            )
        else:
            images = maximize(
                objective,
                start.repeat(count, 1, 1, 1),
                steps=self.steps,
                lr=self.lr,
                decay=self.decay,
                progress=progress,
            )
        progress.close()
        return images


@torch.no_grad()
def values_of(objective, images, start, views=VIEWS):
    """The objective of each image, over random views of it, and of the mean image: three (n,)."""
    of_start = objective(start.repeat(len(images), 1, 1, 1))
    return objective(images), held_out(objective, images, views), of_start


def class_section(network, ascent, precision, folder):
    """One image per class that maximises the class's logit; returns {class: metrics}.

    Leaves max_class_....png in `folder`.
    """
    objective = class_objective(network.model, precision)
    names = network.class_names
    title = f"classes, {network.name}"
    images = ascent.climb(objective, network.start, len(names), kind="class", title=title)
    columns = [v.tolist() for v in values_of(objective, images, network.start)]
    with torch.no_grad(), autocast(images.device, precision):
        columns.append(network.model(images)[1].float().softmax(1).diagonal().tolist())
    path = folder / f"max_class_{network.slug}.png"
    rows = list(zip(names, *columns, strict=True))
    save_image_grid(
        to_uint8(images),
        path,
        title=f"Images that maximise a class's logit, discriminator {network.words}",
        captions=[f"{shortened(n, 24)}\nlogit {v:.1f}, moved {m:.1f}" for n, v, m, _, _ in rows],
        columns=5 if len(names) <= 25 else 8,
        scale=6,
        gap=8,
    )
    for name, value, moved, of_start, probability in rows:
        print(
            f"  {name:<12} logit {value:7.2f}, over random views {moved:7.2f}, of the mean image "
            f"{of_start:7.2f}; probability {100 * probability:6.2f} %"
        )
    print(f"  {path}")
    keys = ("logit", "logit_moved", "logit_of_mean_image", "probability")
    return {row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}


@torch.no_grad()
def strongest_units(model, images, layers, precision, batch_size=500, progress=None):
    """Where each feature of these layers is strongest in each image, in one pass for all layers.

    {layer: (values, rows, columns)}, each float32 (n, width), on the CPU.
    """
    parts_of = {layer: [] for layer in layers}
    for batch in images.split(batch_size):
        with autocast(batch.device, precision):
            x = to_signed(batch).contiguous(memory_format=torch.channels_last)
            for layer, block in enumerate(model.blocks[: max(layers)], start=1):
                x = block(x)
                if layer in parts_of:
                    values, places = x.float().flatten(2).max(2)
                    rows, columns = places // x.shape[3], places % x.shape[3]
                    parts_of[layer].append(torch.stack([values, rows, columns]).cpu())
        if progress is not None:
            progress.step()
    return {layer: torch.cat(parts, dim=1) for layer, parts in parts_of.items()}


def feature_section(network, layers, ascent, precision, folder, test_set=None):
    """Images that maximise features of these layers; returns {layer: metrics}.

    The classic method draws the first 100, and climbs the strongest unit of each, wherever it is.
    The robust one draws the features that stand out most, none of them much like another, and
    climbs the unit in the middle; what is shown is the part that it sees, beside the test images
    that excite the feature most, with the pixels that the strongest unit sees framed. Without a
    test set, it draws the first features.
    Leaves max_features_..._layer....png in `folder`.
    """
    units = {}
    if ascent.robust and test_set is not None:
        batches = -(-len(test_set) // 500)
        progress = Progress(f"features on test images, {network.name}", batches, 500)
        units = strongest_units(
            network.model, test_set.images, layers, precision, progress=progress
        )
        progress.close()
    return {
        str(layer): _one_layer(
            network,
            layer,
            ascent,
            precision,
            folder=folder,
            test_set=test_set,
            units=units.get(layer),
        )
        for layer in layers
    }


def views_of(layer):
    """The views for a layer's features: none moves the middle out of what its unit sees."""
    return VIEWS._replace(shift=min(VIEWS.shift, geometry(layer)[1]))


def _one_layer(network, layer, ascent, precision, *, folder, test_set, units):
    """The picture and the metrics of one layer; units: of strongest_units, or None."""
    model, name = network.model, network.name
    chosen = torch.arange(min(CLASSIC_FEATURES, model.width))
    if units is not None:
        measure = stand_out(units[0])
        chosen = distinct(units[0], measure, FEATURES)
    elif ascent.robust:
        chosen = chosen[: 2 * FEATURES]
    objective = feature_objective(model, layer, precision, features=chosen, centre=ascent.robust)
    views = views_of(layer) if ascent.robust else VIEWS
    title = f"layer {layer}, {name}"
    images = ascent.climb(
        objective, network.start, len(chosen), kind="feature", views=views, title=title
    )
    values, moved, of_start = values_of(objective, images, network.start, views)
    path = folder / f"max_features_{network.slug}_layer{layer}.png"
    if units is not None:
        draw_beside_examples(
            images,
            values,
            path,
            network=network,
            layer=layer,
            features=chosen,
            units=units,
            test_set=test_set,
        )
    else:
        pairs = zip(chosen.tolist(), values.tolist(), strict=True)
        save_image_grid(
            to_uint8(part_seen(images, layer)[0] if ascent.robust else images),
            path,
            title=f"Layer {layer}, trained {name}: each image maximises one feature",
            captions=[f"{feature}: {value:.1f}" for feature, value in pairs],
        )
    print(
        f"  layer {layer}: mean activation {values.mean():.3f}, over random views "
        f"{moved.mean():.3f}, of the mean image {of_start.mean():.3f}; {path}"
    )
    metrics = {
        "method": ascent.method,
        "features": chosen.tolist(),
        "activation": values.tolist(),
        "activation_moved": moved.tolist(),
        "activation_of_mean_image": of_start.tolist(),
    }
    if ascent.robust:
        metrics |= {"views": views._asdict(), "smoothness": SMOOTHNESS["feature"]}
    if units is not None:
        metrics["stand_out"] = [round(v, 2) for v in measure[chosen].tolist()]
        metrics["test_images"] = len(test_set)
    return metrics


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


def draw_beside_examples(images, activations, path, *, network, layer, features, units, test_set):
    """Two features a row: the synthetic image, then the test images that excite it most.

    images: (n, 3, 32, 32), one for each of `features`, and its activation; units: of
    strongest_units.
    """
    values, rows, columns = units
    parts, part_box = part_seen(images, layer)
    cells, captions, boxes = [], [], []
    for index, feature in enumerate(features.tolist()):
        cells.append(to_uint8(parts[index : index + 1]))
        captions.append(f"feature {feature}\n{activations[index]:.1f}")
        boxes.append(part_box)
        best = values[:, feature].argsort(descending=True, stable=True)[:EXAMPLES]
        cells.append(test_set.images[best.to(test_set.images.device)])
        for example in best.tolist():
            label = test_set.class_names[int(test_set.labels[example])]
            captions.append(f"{shortened(label)}\n{values[example, feature]:.1f}")
            boxes.append(box(layer, int(rows[example, feature]), int(columns[example, feature])))
    title = (
        f"Layer {layer}, trained {network.name}: features that stand out most, each with the test "
        "images that excite it most"
    )
    save_image_grid(
        torch.cat(cells),
        path,
        title=title,
        captions=captions,
        columns=2 * (1 + EXAMPLES),
        scale=4,
        gap=6,
        boxes=boxes,
    )
