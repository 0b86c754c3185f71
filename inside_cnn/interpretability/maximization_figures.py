"""Images that maximize the output of a class, or the features of a layer."""

import itertools
import zlib
from functools import partial

import torch
import torch.nn.functional as F

from data_tools import to_uint8
from inside_cnn.core.progress import with_progress
from inside_cnn.data.dataset import displayed_classes
from inside_cnn.engine.plots import save_image_grid, shortened
from inside_cnn.interpretability.activation_maximization import VIEWS, held_out
from inside_cnn.interpretability.layer_probes import distinct, stand_out
from inside_cnn.interpretability.network import layer_title, slug_of, split
from inside_cnn.interpretability.objectives import class_logit, feature, neuron, optimize
from inside_cnn.interpretability.receptive_field import box, centers
from inside_cnn.interpretability.top_images import peak_positions, strongest_units

CLASSIC_FEATURES = 100  # of the classic method: the first ones of the layer
FEATURES = 20  # of the robust method: those that stand out most, and as many random ones
EXAMPLES = 4  # test images beside each feature
MAX_CLASSES = 64  # of which there is an image each
MARGIN = 2  # pixels around the receptive field in the figure
ROBUST = {  # of the robust method: options of robust_ascent
    "class": {"restarts": 4, "settle": 0.0, "smoothness": 10.0},
    "feature": {"restarts": 2, "settle": 0.25, "smoothness": 5.0},
}


@torch.no_grad()
def values_of(network, objective, images, views=VIEWS):
    """The objective of the images, over random views of them, and of the mean image: three (n,)."""
    objective = partial(objective, network)
    of_start = objective(network.start.repeat(len(images), 1, 1, 1))
    return objective(images), held_out(objective, images, views), of_start


def class_section(network, how, folder):
    """One image per class that maximizes its logit; returns {class: metrics}.

    Of more than MAX_CLASSES, ten evenly spaced ones. how: {"method", "steps"} of `optimize`.
    Writes max_class_NETWORK.png to `folder`.
    """
    count = len(network.class_names)
    classes = list(range(count)) if count <= MAX_CLASSES else displayed_classes(count)
    names, title = [network.class_names[k] for k in classes], f"classes, {network.name}"
    objective = class_logit(torch.tensor(classes))
    images = optimize(network, objective, len(names), title=title, **how, **ROBUST["class"])
    with torch.no_grad():
        probabilities = network.logits(images).softmax(1)[:, classes].diagonal()
    rows = torch.stack([*values_of(network, objective, images), probabilities], dim=1).tolist()
    keys = ("logit", "logit_moved", "logit_of_mean_image", "probability")
    metrics_of = {n: dict(zip(keys, row, strict=True)) for n, row in zip(names, rows, strict=True)}
    captions = []
    for name, of in metrics_of.items():
        logits = f"logit {of['logit']:.1f}, over random views {of['logit_moved']:.1f}"
        captions.append("\n".join([shortened(name, 24), *logits.split(", ")]))
        print(f"  {name:<12} {logits}, at the start {of['logit_of_mean_image']:.1f}")
    path = folder / f"max_class_{network.slug}.png"
    title = f"Images that maximize a class logit, {network.full_title}"
    options = {"columns": 5 if len(names) <= 25 else 8, "scale": 6, "gap": 8}
    save_image_grid(to_uint8(images), path, title=title, captions=captions, **options)
    print(f"  {path}", flush=True)
    return metrics_of


class LayerUnits:
    """The features of a layer of a Network on the test images; units: from `strongest_units`."""

    def __init__(self, network, layer, test_set, units):
        self.network, self.layer, self.test_set = network, layer, test_set
        self.values, self.rows, self.columns = units  # each (images, width)
        self.positions, self.stand_out = peak_positions(*units), stand_out(self.values)

    def choose(self):
        """The features that stand out most, and as many random ones of the others: two int64."""
        width = self.values.shape[1]
        seed = self.layer if isinstance(self.layer, int) else zlib.crc32(self.layer.encode())
        selected = distinct(self.values, self.stand_out, min(FEATURES, max(1, width // 2)))
        order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
        return selected, order[~torch.isin(order, selected)][: len(selected)]

    def compare(self, selected, chosen, activations):
        """Metrics of the synthetic images of the chosen features, compared to the test images."""
        best = self.values.amax(0)[chosen]
        below = chosen[activations.cpu() <= best].tolist()
        _, height, width = self.network.shapes[self.layer]
        last = torch.tensor([height - 1, width - 1])
        at_border = ((self.positions == 0) | (self.positions == last)).any(1).double()
        shares = {
            "selected": at_border[selected].mean().item(),
            "all": at_border.mean().item(),
            "uniform": 1 - max(0, 1 - 2 / height) * max(0, 1 - 2 / width),
        }
        shares = {name: round(100 * share, 1) for name, share in shares.items()}
        print(
            f"  {layer_title(self.layer)}: {len(chosen) - len(below)} of {len(chosen)} synthetic "
            f"images activate their feature more than every test image; {shares['all']} % of all "
            f"features peak at the border, which is {shares['uniform']} % of the map"
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
        """One feature's row of a figure: yields 1 + EXAMPLES images, each with caption and box."""
        position = self.positions[feature].tolist()
        part, frame = visible_part(image[None], self.network, self.layer, position)
        best = self.values[:, feature].argsort(descending=True, stable=True)[:EXAMPLES].tolist()
        largest = self.values[best[0], feature].item()
        ratio = f" ({activation / largest:.1f}×)" if largest > 0 else ""
        yield to_uint8(part[0]).cpu(), f"feature {feature}\n{activation:.1f}{ratio}", frame
        for example in best:
            label = self.test_set.class_names[int(self.test_set.labels[example])]
            caption = f"{shortened(label)}\n{self.values[example, feature]:.1f}"
            unit = int(self.rows[example, feature]), int(self.columns[example, feature])
            yield self.test_set.images[example].cpu(), caption, box(self.network, self.layer, *unit)


def feature_section(network, layers, how, folder, test_set=None):
    """Images that maximize features of these layers; returns {layer: metrics}.

    The classic method maximizes the largest activation over the map, of the first 100 features. The
    robust one takes the features that stand out most and as many random ones. It maximizes each at
    the position where it peaks on test images, and plots the receptive field of this unit beside
    the test images with the largest activations.
    how: as in class_section. Writes max_features_NETWORK_layerN.png to `folder`.
    """
    units = {}
    if how["method"] == "robust":
        title = f"features on test images, {network.name}"
        batches = with_progress(split(test_set.images, 500), title, 500)
        strongest = strongest_units(network.at("fp32"), batches, layers)
        units = {layer: LayerUnits(network, layer, test_set, strongest[layer]) for layer in layers}
    return {str(n): _one_layer(network, n, how, folder, units.get(n)) for n in layers}


def views_of(network, layer, positions):
    """Views for units of a layer: the translation keeps what they see in their receptive field."""
    strides = [field.stride / network.image_size for field in network.fields[layer]]
    translation = min([VIEWS.translation, *filter(None, strides)])
    return VIEWS._replace(translation=translation, centers=centers(network, positions, layer))


def _one_layer(network, layer, how, folder, units):
    """Plot one layer; returns its metrics. units: its LayerUnits; None: the classic method."""
    if units is None:
        count = min(CLASSIC_FEATURES, network.shapes[layer][0])
        chosen, views = torch.arange(count), VIEWS
        selected, others = chosen, torch.arange(0)
        objective = feature(layer, chosen)
    else:
        selected, others = units.choose()
        chosen = torch.cat([selected, others])
        positions = units.positions[chosen]
        views = views_of(network, layer, positions)
        objective = neuron(layer, chosen, *positions.T)
    options = ROBUST["feature"] | {"views": views, "title": f"{layer_title(layer)}, {network.name}"}
    images = optimize(network, objective, len(chosen), **how, **options)
    values, moved, of_start = values_of(network.at("fp32"), objective, images, views)
    metrics = {
        "method": how["method"],
        "features": selected.tolist(),
        "random_features": others.tolist(),
        "activation": values.tolist(),
        "activation_moved": moved.tolist(),
        "activation_of_mean_image": of_start.tolist(),
    }
    title = f"Layer {layer}" if isinstance(layer, int) else layer
    title += f", {network.title}: "
    if units is None:
        pairs = zip(chosen.tolist(), values.tolist(), strict=True)
        captions = [f"{feature}: {value:.1f}" for feature, value in pairs]
        cells, options = to_uint8(images), {"title": title + "each image maximizes one feature"}
    else:
        metrics |= units.compare(selected, chosen, values)
        columns = torch.arange(len(chosen)).view(2, -1)  # selected left, others right
        rows = columns.T.flatten().tolist()
        strips = (units.strip(int(chosen[i]), images[i], values[i].item()) for i in rows)
        cells, captions, boxes = zip(*itertools.chain.from_iterable(strips), strict=True)
        title += (
            "an image that maximizes a feature where it peaks, and the test images that activate "
            "it most. Left: features that stand out most, right: random others. In parentheses: "
            "ratio to the best test image"
        )
        cells, options = torch.stack(cells), {"title": title, "boxes": boxes}
        options |= {"columns": 2 * (1 + EXAMPLES), "gap": 6}
    name = slug_of(layer_title(layer).replace(" ", ""))
    path = folder / f"max_features_{network.slug}_{name}.png"
    save_image_grid(cells, path, captions=captions, **options)
    print(
        f"  {layer_title(layer)}: mean activation {values.mean():.3f}, over random views "
        f"{moved.mean():.3f}, at the start {of_start.mean():.3f}"
    )
    return metrics


def visible_part(images, network, layer, position):
    """The receptive field of the unit at (row, column) with a margin, enlarged; and its box.

    (b, 3, h, h) -> (b, 3, h, h), (top, left, bottom, right) in the enlarged image.
    """
    size = images.shape[-1]
    side = min(size, max(field.size for field in network.fields[layer]) + 2 * MARGIN)
    top, left, bottom, right = box(network, layer, *position)
    row, column = (
        min(max((low + high - side) // 2, 0), size - side)
        for low, high in ((top, bottom), (left, right))
    )
    window = images[..., row : row + side, column : column + side]
    enlarged = F.interpolate(window, images.shape[2:], mode="bicubic", align_corners=False)
    edges = (top - row, left - column, bottom - row, right - column)
    return enlarged.clamp(-1, 1), tuple(round(size * edge / side) for edge in edges)
