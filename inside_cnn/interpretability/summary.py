"""summary.json beside the figures: the metrics of each network, and the weights they belong to."""

import json

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically

FIGURES = (  # all that visualization.py writes
    *("real_images*", "gradient_image*", "jittered_images*", "perturbed_*", "max_class_*"),
    *("max_features_*", "attribution_*", "critic_score_*", "robustness", "attack_convergence"),
    *("layers", "frequency", "calibration", "transfer"),
)


# Metrics that have an entry for each other network.
PAIRWISE = {"differences", "cka", "cka_standardized", "adversarial_images"}


def open_summary(path, networks):
    """{name of the network: metrics}, with the metrics that an earlier command wrote.

    If one of the networks now has other weights, all figures and metrics are removed first. The
    path of the weights may change. Raises UserError if the folder belongs to a training run.
    """
    if (path.parent / "config.json").exists():
        raise UserError(f"{path.parent} holds a training run; give another --output_dir")
    descriptions = {network.name: network.description() for network in networks}
    summary = json.loads(path.read_bytes()) if path.exists() else {}
    if any(_has_changed(summary[name], of) for name, of in descriptions.items() if name in summary):
        print(f"{path.parent}: figures and metrics of other weights are removed")
        for figure in FIGURES:  # before the metrics, in case the command is interrupted
            for file in path.parent.glob(f"{figure}.png"):
                file.unlink()
        summary = {}
    for name, description in descriptions.items():
        summary[name] = summary.get(name, {}) | description
    write_summary(path, summary)
    return summary


def _has_changed(before, description):
    return any(before.get(key) != value for key, value in description.items() if key != "weights")


def update_section(metrics_of, section, metrics, settings):
    """Set a section of a network's metrics; comparisons to networks of earlier commands remain.

    They remain only if the settings are the same, a dict for JSON.
    """
    before, pairs = metrics_of.get(section, {}), PAIRWISE & metrics.keys()
    if pairs and before.get("settings") == settings:
        metrics = metrics | {key: before.get(key, {}) | metrics[key] for key in pairs}
    metrics_of[section] = metrics | ({"settings": settings} if pairs else {})


def write_summary(path, summary):
    write_atomically(path, json.dumps(summary).encode())
