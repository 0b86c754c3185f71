"""Figures and tables of all layers: probes, firing rates, separation of classes, CKA."""

import itertools

from inside_cnn.core.errors import UserError
from inside_cnn.core.progress import with_progress
from inside_cnn.engine.plots import save_charts
from inside_cnn.engine.statistics import percent
from inside_cnn.interpretability import layer_probes
from inside_cnn.interpretability.network import line_styles, split
from inside_cnn.interpretability.top_images import strongest_units

IMAGES = 10_000  # test images
CHARTS = {  # measure: title, label of the y axis, its height
    "probe_accuracy": ("Linear probe of the class", "accuracy on test images, %", 100),
    "class_auc": ("AUC of the class that a feature separates best", "mean of the features, %", 100),
    "fires_below_1_percent": ("Features that fire on < 1 % of the images", "share, %", 10),
    "fires_below_10_percent": ("Features that fire on < 10 % of the images", "share, %", 10),
    "cka": ("Similarity of two networks", "linear CKA", 1),
    "cka_standardized": ("The same, features standardized", "linear CKA", 1),
}


def layer_section(networks, test_set, folder):
    """Measure every layer of every network; returns {name: {measure: one value for each layer}}.

    The probe is fitted on the first half of the test images, which are not in the training set, and
    tested on the second; the other measures use both. `cka` and `cka_standardized` are {name of
    another network with as many layers: one value for each}. Writes layers.png to `folder`.
    Raises UserError for fewer than 4 images, of which there are no standard deviations.
    """
    test_set = test_set.first(IMAGES)
    if len(test_set) < 4:
        raise UserError("--compare_layers needs at least 4 images")
    metrics_of, features_of = {}, {}
    for network in networks:
        batches = with_progress(split(test_set.images, 500), f"layers, {network.name}", 500)
        units = strongest_units(network.at("fp32"), batches, network.layers)
        features = {layer: values.clone() for layer, (values, *_) in units.items()}
        features_of[network.name] = list(features.values())
        metrics_of[network.name] = measures(network, features, test_set)
    for one, other in itertools.combinations(features_of, 2):
        if len(features_of[one]) != len(features_of[other]):
            continue
        pairs = list(zip(features_of[one], features_of[other], strict=True))
        for key, standardize in (("cka", False), ("cka_standardized", True)):
            similarity = [round(layer_probes.linear_cka(a, b, standardize), 4) for a, b in pairs]
            metrics_of[one][key][other] = metrics_of[other][key][one] = similarity
    for network in networks:
        names = list(network.layers)
        print(f"layers {names[0]} to {names[-1]}, {network.title}, {len(test_set)} test images:")
        for key in (key for key in CHARTS if not key.startswith("cka")):
            print(f"  {key:<22} " + "".join(f"{v:7.2f}" for v in metrics_of[network.name][key]))
    plot(networks, metrics_of, folder / "layers.png")
    return metrics_of


def measures(network, features_of, test_set):
    """{measure: one value for each layer} of one network; features_of: {layer: (n, width)}."""
    labels, classes = test_set.labels.cpu(), len(test_set.class_names)
    half = len(labels) // 2
    metrics = {"cka": {}, "cka_standardized": {}}
    title = f"probes, {network.name}"
    for layer, features in with_progress(list(features_of.items()), title, 1):
        rate = (features > 0).double().mean(0)
        auc = layer_probes.class_auc(features, labels, classes)
        values = {
            "receptive_field": max(field.size for field in network.fields[layer]),
            "map_size": network.shapes[layer][1],
            "probe_accuracy": layer_probes.probe_accuracy(
                features[:half], labels[:half], features[half:], labels[half:], classes
            ),
            "fires_below_1_percent": percent(rate < 0.01),
            "fires_below_10_percent": percent(rate < 0.1),
            "class_auc": 100 * auc.amax(0).mean().item(),
        }
        for key, value in values.items():
            metrics.setdefault(key, []).append(round(value, 2))
    return metrics | {"layer_names": [*map(str, features_of)], "images": [half, len(labels) - half]}


def plot(networks, metrics_of, path):
    """One chart for each measure, one line for each network or, of similarities, for each pair.

    Layers have the numbers or names that they have in the first network. Of more than three
    networks, only the pairs with the first.
    """
    styles, layers = line_styles(networks), list(networks[0].layers)
    first = networks[0].name
    ticks = {"ticks": layers, "x": f"layer of {first}"} if isinstance(layers[0], str) else {}
    pairs = itertools.combinations(metrics_of, 2)
    pairs = [pair for pair in pairs if len(metrics_of) <= 3 or first in pair]
    pairs = [(one, other) for one, other in pairs if other in metrics_of[one]["cka"]]
    style = {"color": "black" if len(pairs) == 1 else None, "marker": "o", "markersize": 4}
    charts = {}
    for key, (title, label, height) in CHARTS.items():
        if key.startswith("cka"):
            lines = {f"{a} and {b}": (metrics_of[a][key][b], style) for a, b in pairs}
        else:
            lines = {name: (of[key], styles[name]) for name, of in metrics_of.items()}
        if lines:
            lines = {name: (range(1, 1 + len(y)), y, look) for name, (y, look) in lines.items()}
            charts[title] = {"x": "layer", "y": label, "height": height, "lines": lines} | ticks
    save_charts(charts, path)
