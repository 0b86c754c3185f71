"""Images that maximize the output of a class, or the features of a layer."""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data_tools import Dataset, to_uint8
from discriminator import MAP_SIZES
from inside_cnn.core.progress import with_progress
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

CLASSIC_FEATURES = 100  # of the classic method: the first ones of the layer
FEATURES = 20  # of the robust method: those that stand out most, and as many random ones
EXAMPLES = 4  # test images beside each feature
MARGIN = 2  # pixels around the receptive field in the figure
ROBUST = {  # of the robust method: options of maximize_robustly
    "class": {"restarts": 4, "settle": 0.0, "smoothness": 10.0},
    "feature": {"restarts": 2, "settle": 0.25, "smoothness": 5.0},
}


def maximized(how, objective, start, count, *, kind, views=VIEWS, title=""):
    """`count` images that maximize an objective, (count, 3, 32, 32) in [-1, 1].

    how: {"method": `classic`, from the mean image `start`, or `robust`, "steps": their number};
    kind: `class` or `feature`.
    """
    options = {"steps": how["steps"], "title": title}
    if how["method"] == "classic":
        return maximize(objective, start.repeat(count, 1, 1, 1), **options)
    options |= ROBUST[kind] | {"views": views, "device": start.device}
    return maximize_robustly(objective, count, **options)


@torch.no_grad()
def values_of(objective, images, start, views=VIEWS):
    """The objective of the images, over random views of them, and of the mean image: three (n,)."""
    of_start = objective(start.repeat(len(images), 1, 1, 1))
    return objective(images), held_out(objective, images, views), of_start


def class_section(network, how, folder):
    """One image per class that maximizes its logit; returns {class: metrics} and the images.

    how: as in `maximized`. Writes max_class_NETWORK.png to `folder`.
    """
    objective = class_objective(network)
    names, title = network.class_names, f"classes, {network.name}"
    images = maximized(how, objective, network.start, len(names), kind="class", title=title)
    values = [v.tolist() for v in values_of(objective, images, network.start)]
    with torch.no_grad():
        values.append(network.logits(images).softmax(1).diagonal().tolist())
    keys = ("logit", "logit_moved", "logit_of_mean_image", "probability")
    rows = zip(*values, strict=True)
    metrics_of = {n: dict(zip(keys, row, strict=True)) for n, row in zip(names, rows, strict=True)}
    captions = []
    for name, of in metrics_of.items():
        logits = f"logit {of['logit']:.1f}, over random views {of['logit_moved']:.1f}"
        captions.append(f"{shortened(name, 24)}\n{logits}")
        print(f"  {name:<12} {logits}, of the mean image {of['logit_of_mean_image']:.1f}")
    path = folder / f"max_class_{network.slug}.png"
    title = f"Images that maximize a class logit, discriminator {network.title}"
    options = {"columns": 5 if len(names) <= 25 else 8, "scale": 6, "gap": 8}
    save_image_grid(to_uint8(images), path, title=title, captions=captions, **options)
    print(f"  {path}")
    return metrics_of, images


@dataclass
class LayerUnits:
    """The features of a layer on the test images.

    values, rows, columns: from `strongest_units`, each (images, width).
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
        """The features that stand out most, and as many random ones of the others: two int64."""
        width = self.values.shape[1]
        selected = distinct(self.values, self.stand_out, min(FEATURES, width // 2))
        stream = torch.Generator().manual_seed(self.layer)
        order = torch.randperm(width, generator=stream)
        return selected, order[~torch.isin(order, selected)][: len(selected)]

    def compare(self, selected, chosen, activations):
        """Metrics of the synthetic images of the chosen features, compared to the test images."""
        best = self.values.amax(0)[chosen]
        below = chosen[activations.cpu() <= best].tolist()
        border = at_border(self.positions, self.layer)
        map_positions = torch.cartesian_prod(*2 * [torch.arange(MAP_SIZES[self.layer - 1])])
        shares = {
            "selected": border[selected],
            "all": border,
            "uniform": at_border(map_positions, self.layer),
        }
        shares = {name: round(100 * of.double().mean().item(), 1) for name, of in shares.items()}
        print(
            f"  layer {self.layer}: {len(chosen) - len(below)} of {len(chosen)} synthetic images "
            f"activate their feature more than every test image; {shares['all']} % of all features "
            f"peak at the border, which is {shares['uniform']} % of the map"
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
        """Images (1 + EXAMPLES, 3, 32, 32), captions and boxes: one feature's row of a figure."""
        part, part_box = visible_part(image[None], self.layer, self.positions[feature].tolist())
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


def feature_section(network, layers, how, folder, test_set=None):
    """Images that maximize features of these layers; returns {layer: metrics}.

    The classic method takes the first 100 features and maximizes the largest activation over the
    map. The robust one takes the features that stand out most, without correlated ones, and as many
    random ones. It maximizes each feature at the position where it peaks on test images. Its figure
    shows the receptive field of this unit, beside the test images with the largest activations, in
    which the receptive field of the strongest unit is framed.
    how: as in `maximized`; only the robust method needs a test set. Writes
    max_features_NETWORK_layerN.png to `folder`.
    """
    units = {}
    if how["method"] == "robust":
        title = f"features on test images, {network.name}"
        batches = with_progress(test_set.images.split(500), title, 500)
        strongest = strongest_units(network.at("fp32"), batches, layers)
        units = {layer: LayerUnits(layer, test_set, *strongest[layer]) for layer in layers}
    return {
        str(layer): _one_layer(network, layer, how, folder, units.get(layer)) for layer in layers
    }


def views_of(layer, positions):
    """Views for units of a layer: the translation keeps what they see in their receptive field."""
    translation = min(VIEWS.translation, geometry(layer)[1])
    return VIEWS._replace(translation=translation, centers=centers(positions, layer))


def _one_layer(network, layer, how, folder, units):
    """Plot one layer; returns its metrics. units: its LayerUnits; None: the classic method."""
    both = network, network.at("fp32")
    if units is None:
        selected, others = torch.arange(min(CLASSIC_FEATURES, network.width)), torch.arange(0)
        chosen, views = selected, VIEWS
        objective, exact = (feature_objective(n, layer, chosen) for n in both)
    else:
        selected, others = units.choose()
        chosen = torch.cat([selected, others])
        positions = units.positions[chosen]
        views = views_of(layer, positions)
        objective, exact = (unit_objective(n, layer, chosen, positions) for n in both)
    options = {"kind": "feature", "views": views, "title": f"layer {layer}, {network.name}"}
    images = maximized(how, objective, network.start, len(chosen), **options)
    values, moved, of_start = values_of(exact, images, network.start, views)
    metrics = {
        "method": how["method"],
        "features": selected.tolist(),
        "random_features": others.tolist(),
        "activation": values.tolist(),
        "activation_moved": moved.tolist(),
        "activation_of_mean_image": of_start.tolist(),
    }
    path = folder / f"max_features_{network.slug}_layer{layer}.png"
    if units is None:
        pairs = zip(chosen.tolist(), values.tolist(), strict=True)
        captions = [f"{feature}: {value:.1f}" for feature, value in pairs]
        title = f"Layer {layer}, trained {network.name}: each image maximizes one feature"
        save_image_grid(to_uint8(images), path, title=title, captions=captions)
    else:
        metrics |= units.compare(selected, chosen, values)
        title = (
            f"Layer {layer}, trained {network.name}: an image that maximizes a feature where it "
            "peaks, and the test images that activate it most. Left: features that stand out "
            "most, right: random others. In parentheses: ratio to the best test image"
        )
        plot_beside_examples(units, (selected, others), images, values.tolist(), path, title)
    print(
        f"  layer {layer}: mean activation {values.mean():.3f}, over random views "
        f"{moved.mean():.3f}, of the mean image {of_start.mean():.3f}; {path}"
    )
    return metrics


def visible_part(images, layer, position):
    """The receptive field of the unit at (row, column) with a margin, enlarged; and its box.

    (b, 3, 32, 32) -> (b, 3, 32, 32), (top, left, bottom, right) in the enlarged image.
    """
    size = images.shape[-1]
    side = min(size, geometry(layer)[0] + 2 * MARGIN)
    top, left, bottom, right = box(layer, *position)
    row, column = (
        min(max((low + high - side) // 2, 0), size - side)
        for low, high in ((top, bottom), (left, right))
    )
    window = images[..., row : row + side, column : column + side]
    enlarged = F.interpolate(window, images.shape[2:], mode="bicubic", align_corners=False)
    edges = (top - row, left - column, bottom - row, right - column)
    return enlarged.clamp(-1, 1), tuple(round(size * edge / side) for edge in edges)


def plot_beside_examples(units, columns, images, activations, path, title):
    """Two columns of features; each feature has an image, its activation, and test images.

    columns: two lists of n features; images: (2n, 3, 32, 32), activations: 2n, of both lists.
    """
    features = torch.cat(columns).tolist()
    strips = list(map(units.strip, features, images, activations))
    half = len(strips) // 2
    rows = [strip for pair in zip(strips[:half], strips[half:], strict=True) for strip in pair]
    cells, captions, boxes = zip(*rows, strict=True)
    captions, boxes = (list(itertools.chain.from_iterable(part)) for part in (captions, boxes))
    options = {"columns": 2 * (1 + EXAMPLES), "scale": 3, "gap": 6}
    save_image_grid(torch.cat(cells), path, title=title, captions=captions, boxes=boxes, **options)
