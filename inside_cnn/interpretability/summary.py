"""summary.json beside the figures: the metrics of each network, and the weights they belong to."""

import json

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically

FIGURES = (  # all that visualization.py writes
    *("real_images*", "gradient_image*", "jittered_images*", "perturbed_*", "max_class_*"),
    *("max_features_*", "attribution_*", "critic_score_*", "robustness", "attack_convergence"),
    *("layers", "frequency", "calibration", "transfer"),
)


def open_summary(path, networks):
    """{name of the network: metrics}, with the metrics that an earlier command wrote.

    If one of the networks now has other weights, all figures and metrics are removed first. The
    figures go first, so that an interrupted removal is completed by the next command.
    Raises UserError if the folder belongs to a training run.
    """
    if (path.parent / "config.json").exists():
        raise UserError(f"{path.parent} holds a training run; give another --output_dir")
    before = json.loads(path.read_bytes()) if path.exists() else {}
    descriptions = {network.name: network.description() for network in networks}
    if any(not about.items() <= before.get(n, about).items() for n, about in descriptions.items()):
        for figure in FIGURES:
            for file in path.parent.glob(f"{figure}.png"):
                file.unlink()
        before = {}
    summary = {name: before.get(name, about) for name, about in descriptions.items()}
    summary |= {name: metrics for name, metrics in before.items() if name not in summary}
    write_summary(path, summary)
    return summary


def write_summary(path, summary):
    write_atomically(path, json.dumps(summary, indent=2).encode())
