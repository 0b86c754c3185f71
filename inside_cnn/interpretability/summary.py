"""summary.json beside the figures: each network's metrics, and which figures belong to them."""

import itertools
import json

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.core.output_folder import writing_to
from inside_cnn.engine.weights import digest, load_model

SHARED = {  # section: figures that show all networks
    "strength_study": ("robustness.png", "attack_convergence.png"),
    "layers": ("layers.png",),
    "frequency": ("frequency.png",),
    "calibration": ("calibration.png",),
    "transfer": ("transfer.png",),
}
FIGURES_OF_THE_STEP = ("real_images{}.png", "gradient_image{}.png", "jittered_images{}.png")
FIGURES_OF_ONE = (  # network: its slug stands in the braces
    *FIGURES_OF_THE_STEP,
    "perturbed{}_epsilon*.png",
    "smallest_epsilon{}.png",
    "max_class{}.png",
    "max_features{}_layer*.png",
    "attribution{}.png",
    "critic_score{}.png",
)


def still_there(about):
    """Whether the weights of an earlier command's metrics can still be loaded."""
    try:
        model, _ = load_model(about.get("weights", ""), kind="discriminator")
    except UserError:
        return False
    return digest(model) == about.get("sha256")


def open_summary(path, networks):
    """{name of the network: metrics}, with those that an earlier command left of the same weights.

    The metrics of networks that this command does not look at stay while their weights exist. The
    figures of other weights are removed together with their metrics: first the metrics, so that an
    interruption leaves no summary that names a missing figure. Until the figures are removed, the
    summary names no weights for their network, and the next command removes them.
    Raises UserError where the folder belongs to a training run or cannot be written.
    """
    if (path.parent / "config.json").exists():
        raise UserError(f"{path.parent} holds a training run; give another --output_dir")
    before = json.loads(path.read_bytes()) if path.exists() else {}
    descriptions = {network.name: network.description() for network in networks}
    summary = {name: before.get(name, about) for name, about in descriptions.items()}
    changed = [n for n in networks if not descriptions[n.name].items() <= summary[n.name].items()]
    for name in [name for name in before if name not in summary]:
        summary |= {name: before[name]} if still_there(before[name]) else {}
    with writing_to(path.parent):
        if changed:
            for metrics, section in itertools.product(summary.values(), SHARED):
                metrics.pop(section, None)
            write_summary(path, summary | {network.name: {} for network in changed})
            for network in changed:
                remove_figures(network, path.parent, first=network is networks[0])
        summary |= {network.name: descriptions[network.name] for network in changed}
        write_summary(path, summary)
    return summary


def write_summary(path, summary):
    write_atomically(path, json.dumps(summary, indent=2).encode())


def remove_figures(network, folder, first):
    """Remove the figures of a network with other weights, and those of several networks."""
    patterns = [figure.format(f"_{network.slug}") for figure in FIGURES_OF_ONE]
    patterns += itertools.chain.from_iterable(SHARED.values())
    patterns += [figure.format("") for figure in FIGURES_OF_THE_STEP] if first else []
    for path in itertools.chain.from_iterable(map(folder.glob, patterns)):
        path.unlink()
