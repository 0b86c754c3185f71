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

    If one of the networks now has other weights, all figures and metrics are removed first.
    Raises UserError if the folder belongs to a training run.
    """
    if (path.parent / "config.json").exists():
        raise UserError(f"{path.parent} holds a training run; give another --output_dir")
    summary = descriptions = {network.name: network.description() for network in networks}
    if path.exists():
        summary = descriptions | json.loads(path.read_bytes())
    if any(not of.items() <= summary[name].items() for name, of in descriptions.items()):
        for figure in FIGURES:  # before the metrics, in case the command is interrupted
            for file in path.parent.glob(f"{figure}.png"):
                file.unlink()
        summary = descriptions
    write_summary(path, summary)
    return summary


def write_summary(path, summary):
    write_atomically(path, json.dumps(summary).encode())
