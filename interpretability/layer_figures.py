"""Layer by layer: what a linear probe reads from each, dead and selective features, similarity."""

import itertools

from discriminator import MAP_SIZES, NUM_LAYERS
from engine.plots import save_charts
from engine.progress import Progress
from interpretability.layer_probes import (
    dead_share,
    linear_cka,
    pooled_features,
    probe_accuracy,
    selectivity,
)
from interpretability.receptive_field import geometry
from interpretability.trained_networks import TRAININGS, line_styles

SELECTIVE = 0.5  # a feature is called class-selective from this index on: three times the others
PROBE_IMAGES = 5000  # of either set
LAYERS = range(1, NUM_LAYERS + 1)


def layer_section(networks, train_set, test_set, precision, folder):
    """Measure every layer of every network; returns {name: {measure: one value for each layer}}.

    `cka` is {name of another network: one value for each layer}. Leaves layers.png in `folder`.
    """
    train_set, test_set = train_set.first(PROBE_IMAGES), test_set.first(PROBE_IMAGES)
    labels, test_labels = train_set.labels.cpu(), test_set.labels.cpu()
    classes = len(test_set.class_names)
    metrics_of, features_of = {}, {}
    for network in networks:
        title = f"layers, {network.name}"
        batches = -(-len(train_set) // 500) - (-len(test_set) // 500)
        progress = Progress(title, batches, 500)
        sets = [
            pooled_features(network.model, part.images, precision, progress=progress)
            for part in (train_set, test_set)
        ]
        progress.close()
        metrics = {"probe_accuracy": [], "dead_share": [], "selective_share": []}
        progress = Progress(f"probes, {network.name}", NUM_LAYERS, 1)
        for features, test_features in zip(*sets, strict=True):
            accuracy = probe_accuracy(features, labels, test_features, test_labels, classes)
            selective = (selectivity(test_features, test_labels, classes) > SELECTIVE).double()
            metrics["probe_accuracy"].append(round(accuracy, 2))
            metrics["dead_share"].append(round(dead_share(test_features), 2))
            metrics["selective_share"].append(round(100 * selective.mean().item(), 2))
            progress.step()
        progress.close()
        metrics["receptive_field"] = [geometry(layer)[0] for layer in LAYERS]
        metrics["map_size"] = list(MAP_SIZES)
        metrics["images"] = [len(train_set), len(test_set)]
        metrics["cka"] = {}
        metrics_of[network.name], features_of[network.name] = metrics, sets[1]
    for one, other in itertools.combinations(features_of, 2):
        pairs = zip(features_of[one], features_of[other], strict=True)
        similarity = [round(linear_cka(a, b), 4) for a, b in pairs]
        metrics_of[one]["cka"][other] = metrics_of[other]["cka"][one] = similarity
    print_tables(networks, metrics_of)
    path = folder / "layers.png"
    draw(metrics_of, path)
    print(f"  {path}")
    return metrics_of


TABLE = {  # measure: heading, format
    "receptive_field": ("sees (pixels)", "d"),
    "map_size": ("map", "d"),
    "probe_accuracy": ("probe %", ".2f"),
    "dead_share": ("dead %", ".1f"),
    "selective_share": ("selective %", ".1f"),
}


def print_tables(networks, metrics_of):
    """The measures of all networks, one line for each layer."""
    for network in networks:
        metrics = metrics_of[network.name]
        columns = [(heading, form, metrics[key]) for key, (heading, form) in TABLE.items()]
        columns += [(f"CKA, {other}", ".2f", values) for other, values in metrics["cka"].items()]
        print(f"layer by layer, {network.words}:")
        print("  ".join(["  layer"] + [heading for heading, _, _ in columns]))
        for index in range(NUM_LAYERS):
            cells = [f"{values[index]:>{len(heading)}{form}}" for heading, form, values in columns]
            print("  ".join([f"{index + 1:>7}", *cells]))


def draw(metrics_of, path):
    """One chart for each measure, one line for each network."""
    titles = {
        "probe_accuracy": ("A linear probe reads the class", "accuracy on test images, %", 100),
        "selective_share": ("Features for one class", f"selectivity above {SELECTIVE}, %", 10),
        "dead_share": ("Dead features", "never above 0 on test images, %", 10),
        "cka": ("Do two networks see alike?", "linear CKA", 1),
    }
    styles, charts = line_styles(metrics_of), {}
    for key, (title, y, height) in titles.items():
        if key == "cka":
            lines = similarity_lines(metrics_of)
        else:
            lines = {name: (LAYERS, of[key], styles[name]) for name, of in metrics_of.items()}
        if lines:
            charts[title] = {"x": "layer", "y": y, "height": height, "lines": lines}
    save_charts(charts, path)


def similarity_lines(metrics_of):
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
        lines[name] = (LAYERS, metrics_of[pair[0]]["cka"][pair[1]], style)
    return lines
