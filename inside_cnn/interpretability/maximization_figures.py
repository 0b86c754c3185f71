"""Images that maximize the output of a class, or the features of a layer."""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data_tools import Dataset, to_uint8
from discriminator import MAP_SIZES
from inside_cnn.core.progress import Progress
from inside_cnn.engine.plots import save_image_grid, shortened
from inside_cnn.interpretability.activation_maximization import (
    VIEWS,
    class_objective,
    feature_objective,
    held_out,
    maximize,
    maximize_robustly,
    unit_objective,
)
from inside_cnn.interpretability.layer_probes import distinct, stand_out
from inside_cnn.interpretability.receptive_field import at_border, box, centers, geometry
from inside_cnn.interpretability.top_images import peak_positions, strongest_units

CLASSIC_FEATURES = 100  # shown by the classic method: the first ones of the layer
FEATURES = 20  # shown by the robust method: those that stand out most, and as many random ones
EXAMPLES = 4  # test images beside each feature
ROBUST = {  # of the robust method: options of maximize_robustly
    "class": {"restarts": 4, "settle": 0.0, "smoothness": 10.0},
    "feature": {"restarts": 2, "settle": 0.25, "smoothness": 5.0},
}


@dataclass(frozen=True)
class Ascent:
    """How images are maximized.

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

    def maximize(self, objective, start, count, *, kind, views=VIEWS, title=""):
        """`count` images, (count, 3, 32, 32). start: the mean image; kind: `class` or `feature`."""
        starts = ROBUST[kind]["restarts"] if self.robust else 1
        progress = Progress(title, self.steps, starts * count)
        options = {"steps": self.steps, "progress": progress}
        if self.robust:
            options |= ROBUST[kind] | {"views": views, "device": start.device}
            images = maximize_robustly(objective, count, **options)
        else:
            options |= {"lr": self.lr, "decay": self.decay}
            images = maximize(objective, start.repeat(count, 1, 1, 1), **options)
        progress.close()
        return images


@torch.no_grad()
def values_of(objective, images, start, views=VIEWS):
    """The objective of each image, over random views of it, and of the mean image: three (n,)."""
    of_start = objective(start.repeat(len(images), 1, 1, 1))
    return objective(images), held_out(objective, images, views), of_start


def class_section(network, ascent, folder):
    """One image per class that maximizes its logit; returns {class: metrics} and the images.

    Leaves max_class_....png in `folder`.
    """
    objective = class_objective(network)
    names = network.class_names
    title = f"classes, {network.name}"
    images = ascent.maximize(objective, network.start, len(names), kind="class", title=title)
    columns = [v.tolist() for v in values_of(objective, images, network.start)]
    with torch.no_grad():
        columns.append(network.logits(images).softmax(1).diagonal().tolist())
    path = folder / f"max_class_{network.slug}.png"
    rows = list(zip(names, *columns, strict=True))
    save_image_grid(
        to_uint8(images),
        path,
        title=f"Images that maximize a class logit, discriminator {network.title}",
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
    return {row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}, images


@dataclass
class LayerUnits:
    """The features of a layer on the test images.

    values, rows, columns: of `strongest_units`, each (images, width).
    """

    layer: int
    test_set: Dataset
    values: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    def __post_init__(self):
        self.positions = peak_positions(self.values, self.rows, self.columns)
        self.stand_out = stand_out(self.values)

    def choose(self):
        """Features that stand out most, and as many random ones of the others: two int64 (n,)."""
        selected = distinct(self.values, self.stand_out, FEATURES)
        stream = torch.Generator().manual_seed(self.layer)
        order = torch.randperm(self.values.shape[1], generator=stream)
        return selected, order[~torch.isin(order, selected)][:FEATURES]

    def compare(self, selected, chosen, activations):
        """Metrics of synthetic images, one for each chosen feature, beside those of test images."""
        best = self.values.amax(0)[chosen]
        below = chosen[activations.cpu() <= best].tolist()
        border = at_border(self.positions, self.layer)
        places = torch.cartesian_prod(*2 * [torch.arange(MAP_SIZES[self.layer - 1])])
        shares = {
            "selected": border[selected],
            "all": border,
            "uniform": at_border(places, self.layer),
        }
        shares = {name: round(100 * of.double().mean().item(), 1) for name, of in shares.items()}
        print(
            f"  layer {self.layer}: {len(chosen) - len(below)} of {len(chosen)} synthetic images "
            "activate their feature more than every test image"
            + (f", not those of features {below}" if below else "")
        )
        print(
            f"  layer {self.layer}: {shares['all']} % of all features peak at the border of the "
            f"map, {shares['selected']} % of the selected ones; the border is "
            f"{shares['uniform']} % of the map"
        )
        return {
            "position": self.positions[chosen].tolist(),
            "best_test_image": best.tolist(),
            "below_best_test_image": below,
            "peak_at_border_percent": shares,
            "stand_out": [round(v, 2) for v in self.stand_out[selected].tolist()],
            "test_images": len(self.values),
        }

    def strip(self, feature, image, activation):
        """Cells (1 + EXAMPLES, 3, 32, 32), captions and boxes: one feature's row of a picture."""
        part, part_box = part_seen(image[None], self.layer, self.positions[feature].tolist())
        best = self.values[:, feature].argsort(descending=True, stable=True)[:EXAMPLES]
        examples = self.test_set.images[best.to(self.test_set.images.device)].cpu()
        largest = self.values[best[0], feature].item()
        ratio = f" ({activation / largest:.1f}×)" if largest > 0 else ""
        captions, boxes = [f"feature {feature}\n{activation:.1f}{ratio}"], [part_box]
        for example in best.tolist():
            label = self.test_set.class_names[int(self.test_set.labels[example])]
            captions.append(f"{shortened(label)}\n{self.values[example, feature]:.1f}")
            unit = int(self.rows[example, feature]), int(self.columns[example, feature])
            boxes.append(box(self.layer, *unit))
        return torch.cat([to_uint8(part).cpu(), examples]), captions, boxes


def feature_section(network, layers, ascent, folder, test_set=None):
    """Images that maximize features of these layers; returns {layer: metrics}.

    The classic method takes the first 100 features and maximizes the largest activation over the
    map. The robust one takes the features that stand out most, none of them much like another, and
    as many random ones. It maximizes each feature at the position where it peaks on test images.
    The picture shows the part of the image that this unit sees, beside the test images with the
    largest activations, in which the receptive field of the strongest unit is framed. Without a
    test set, it takes the first features, in the middle of the map.
    Leaves max_features_..._layer....png in `folder`.
    """
    units = {}
    if ascent.robust and test_set is not None:
        batches = math.ceil(len(test_set) / 500)
        progress = Progress(f"features on test images, {network.name}", batches, 500)
        strongest = strongest_units(network.at("fp32"), test_set.images, layers, progress=progress)
        progress.close()
        units = {layer: LayerUnits(layer, test_set, *strongest[layer]) for layer in layers}
    return {
        str(layer): _one_layer(network, layer, ascent, folder, units.get(layer)) for layer in layers
    }


def middle_of(layer, count):
    """The position in the middle of a layer's map, once for each feature: int64 (count, 2)."""
    return torch.full((count, 2), MAP_SIZES[layer - 1] // 2)


def views_of(layer, positions):
    """The views for units of a layer: none moves what a unit sees out of its receptive field."""
    shift = min(VIEWS.shift, geometry(layer)[1])
    return VIEWS._replace(shift=shift, centers=centers(positions, layer))


def _one_layer(network, layer, ascent, folder, units):
    """Plot one layer; returns its metrics. units: its LayerUnits, or None."""
    if units is not None:
        selected, others = units.choose()
        positions = units.positions
    else:
        count = 2 * FEATURES if ascent.robust else CLASSIC_FEATURES
        selected, others = torch.arange(min(count, network.width)), torch.arange(0)
        positions = middle_of(layer, network.width)
    chosen = torch.cat([selected, others])
    objective, exact = (
        unit_objective(n, layer, chosen, positions[chosen])
        if ascent.robust
        else feature_objective(n, layer, chosen)
        for n in (network, network.at("fp32"))
    )
    views = views_of(layer, positions[chosen]) if ascent.robust else VIEWS
    options = {"kind": "feature", "views": views, "title": f"layer {layer}, {network.name}"}
    images = ascent.maximize(objective, network.start, len(chosen), **options)
    values, moved, of_start = values_of(exact, images, network.start, views)
    metrics = {
        "method": ascent.method,
        "features": selected.tolist(),
        "random_features": others.tolist(),
        "activation": values.tolist(),
        "activation_moved": moved.tolist(),
        "activation_of_mean_image": of_start.tolist(),
    }
    path = folder / f"max_features_{network.slug}_layer{layer}.png"
    if units is not None:
        metrics |= units.compare(selected, chosen, values)
        title = (
            f"Layer {layer}, trained {network.name}: an image that maximizes a feature where it "
            "peaks, and the test images that activate it most. Left: features that stand out "
            "most, right: random others. In brackets: ratio to the best test image"
        )
        draw_beside_examples(units, (selected, others), images, values.tolist(), path, title)
    else:
        if ascent.robust:
            images = part_seen(images, layer, positions[0].tolist())[0]
        pairs = zip(chosen.tolist(), values.tolist(), strict=True)
        captions = [f"{feature}: {value:.1f}" for feature, value in pairs]
        title = f"Layer {layer}, trained {network.name}: each image maximizes one feature"
        save_image_grid(to_uint8(images), path, title=title, captions=captions)
    print(
        f"  layer {layer}: mean activation {values.mean():.3f}, over random views "
        f"{moved.mean():.3f}, of the mean image {of_start.mean():.3f}; {path}"
    )
    return metrics


def part_seen(images, layer, position, margin=2):
    """What the unit at (row, column) sees, and a margin, enlarged; and where it is in it.

    (b, 3, 32, 32) -> (b, 3, 32, 32), (top, left, bottom, right) in the enlarged image.
    """
    size = images.shape[-1]
    side = min(size, geometry(layer)[0] + 2 * margin)
    top, left, bottom, right = box(layer, *position)
    first_row = min(max((top + bottom - side) // 2, 0), size - side)
    first_column = min(max((left + right - side) // 2, 0), size - side)
    window = images[..., first_row : first_row + side, first_column : first_column + side]
    enlarged = F.interpolate(window, images.shape[2:], mode="bicubic", align_corners=False)
    starts = (first_row, first_column, first_row, first_column)
    edges = zip((top, left, bottom, right), starts, strict=True)
    return enlarged.clamp(-1, 1), tuple(round(size * (e - start) / side) for e, start in edges)


def draw_beside_examples(units, columns, images, activations, path, title):
    """Two columns of features; each feature has an image, its activation, and test images.

    columns: two lists of features; images: (n, 3, 32, 32), activations: n, in the order of both.
    """
    blank = torch.full((1 + EXAMPLES, 3, *images.shape[2:]), 255, dtype=torch.uint8)
    empty = blank, [""] * len(blank), [None] * len(blank)
    of_features = zip(torch.cat(columns).tolist(), images, activations, strict=True)
    strips = [units.strip(*of_feature) for of_feature in of_features]
    left, right = strips[: len(columns[0])], strips[len(columns[0]) :]
    rows = [strip for pair in itertools.zip_longest(left, right, fillvalue=empty) for strip in pair]
    cells, captions, boxes = zip(*rows, strict=True)
    save_image_grid(
        torch.cat(cells),
        path,
        title=title,
        captions=list(itertools.chain.from_iterable(captions)),
        columns=2 * len(blank),
        scale=3,
        gap=6,
        boxes=list(itertools.chain.from_iterable(boxes)),
    )
