"""Layer by layer: linear probes, how often features fire, class selectivity, similarity."""

import itertools

from discriminator import MAP_SIZES
from inside_cnn.core.progress import with_progress
from inside_cnn.engine.plots import save_charts
from inside_cnn.interpretability.layer_probes import (
    firing_rate,
    linear_cka,
    pooled_features,
    probe_accuracy,
    selective_features,
)
from inside_cnn.interpretability.network import TRAININGS, Network, line_styles
from inside_cnn.interpretability.receptive_field import geometry

IMAGES = 10_000  # test images; the probe is fitted on one half and tested on the other


def layer_section(networks, test_set, folder):
    """Measure every layer of every network; returns {name: {measure: one value for each layer}}.

    The networks saw none of the test images in training, so the probe is fitted on the first half
    of them and tested on the second; the other measures take both. `cka` and `cka_standardized` are
    {name of another network: one value for each layer}. Leaves layers.png in `folder`.
    """
    test_set = test_set.first(IMAGES)
    metrics_of, features_of = {}, {}
    for network in networks:
        features = pooled_features(network, test_set.images, title=f"layers, {network.name}")
        features_of[network.name] = list(features.values())
        metrics_of[network.name] = measures(features, test_set, f"probes, {network.name}")
    for one, other in itertools.combinations(features_of, 2):
        pairs = list(zip(features_of[one], features_of[other], strict=True))
        for key, standardize in (("cka", False), ("cka_standardized", True)):
            similarity = [round(linear_cka(a, b, standardize), 4) for a, b in pairs]
            metrics_of[one][key][other] = metrics_of[other][key][one] = similarity
    print_tables(networks, metrics_of)
    path = folder / "layers.png"
    draw(metrics_of, path)
    print(f"  {path}")
    return metrics_of


def measures(features_of, test_set, title):
    """{measure: one value for each layer} of one network; the similarities are still empty.

    features_of: of pooled_features.
    """
    labels, classes = test_set.labels.cpu(), len(test_set.class_names)
    half = len(labels) // 2
    metrics = {key: [] for key in TABLE} | {"cka": {}, "cka_standardized": {}}
    for layer in with_progress(list(features_of), title, 1):
        features = features_of[layer]
        rate = firing_rate(features)
        values = {
            "receptive_field": geometry(layer)[0],
            "map_size": MAP_SIZES[layer - 1],
            "probe_accuracy": probe_accuracy(
                features[:half], labels[:half], features[half:], labels[half:], classes
            ),
            "fires_below_1_percent": share(rate < 0.01),
            "fires_below_10_percent": share(rate < 0.1),
            "selective_share": share(selective_features(features, labels, classes)),
        }
        for key, value in values.items():
            metrics[key].append(round(value, 2))
    return metrics | {"images": [half, len(labels) - half]}


def share(mask):
    """Share of True in %."""
    return 100 * mask.double().mean().item()


TABLE = {  # measure: heading, format
    "receptive_field": ("sees (pixels)", "d"),
    "map_size": ("map", "d"),
    "probe_accuracy": ("probe %", ".2f"),
    "fires_below_1_percent": ("fires on < 1 %", ".1f"),
    "fires_below_10_percent": ("fires on < 10 %", ".1f"),
    "selective_share": ("selective %", ".1f"),
}


def print_tables(networks, metrics_of):
    """The measures of all networks, one line for each layer."""
    for network in networks:
        metrics = metrics_of[network.name]
        columns = [(heading, form, metrics[key]) for key, (heading, form) in TABLE.items()]
        images = sum(metrics["images"])
        print(f"layer by layer, {network.title}, {images} test images:")
        print("  ".join(["  layer"] + [heading for heading, _, _ in columns]))
        for index, layer in enumerate(network.layer_names):
            cells = [f"{values[index]:>{len(heading)}{form}}" for heading, form, values in columns]
            print("  ".join([f"{layer:>7}", *cells]))


def draw(metrics_of, path):
    """One chart for each measure, one line for each network."""
    titles = {
        "probe_accuracy": ("Linear probe of the class", "accuracy on test images, %", 100),
        "selective_share": ("Class-selective features", "share of the features, %", 10),
        "fires_below_1_percent": ("Features that fire on < 1 % of the images", "share, %", 10),
        "fires_below_10_percent": ("Features that fire on < 10 % of the images", "share, %", 10),
        "cka": ("Similarity of two networks", "linear CKA", 1),
        "cka_standardized": ("The same, features standardized", "linear CKA", 1),
    }
    styles, charts = line_styles(metrics_of), {}
    for key, (title, y, height) in titles.items():
        if key.startswith("cka"):
            lines = similarity_lines(metrics_of, key)
        else:
            lines = {
                name: (Network.layer_names, of[key], styles[name])
                for name, of in metrics_of.items()
            }
        if lines:
            charts[title] = {"x": "layer", "y": y, "height": height, "lines": lines}
    save_charts(charts, path)


def similarity_lines(metrics_of, key="cka"):
    """{name: line} of every two networks' CKA; the legend tells lines with controls by their kind.

    A control's lines with the pair are in its own colour. metrics_of: {name of network: metrics}.
    """
    styles, lines = line_styles(metrics_of), {}
    for pair in itertools.combinations(metrics_of, 2):
        known = [name for name in pair if name in TRAININGS]
        if len(known) == 2:
            kind, style = " and ".join(pair), {"color": "black", "marker": "o", "markersize": 4}
        elif known:
            (control,) = set(pair) - set(known)
            dashes = ":" if known == ["with G"] else "--"
            kind, style = f"{known[0]} and a control", styles[control] | {"linestyle": dashes}
        else:
            kind, style = "two controls", {"color": "C7", "linewidth": 1}
        name = f"_{pair}" if kind in lines else kind  # matplotlib leaves out what begins with "_"
        lines[name] = (Network.layer_names, metrics_of[pair[0]][key][pair[1]], style)
    return lines
