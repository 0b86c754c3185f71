"""summary.json beside the pictures: each network's metrics, and the pictures that go with them."""

import contextlib
import itertools
import json

from engine.errors import UserError
from engine.files import parse_json, write_atomically
from engine.output_folder import writing_to
from engine.weights import digest, load_model

SHARED = {  # section: pictures that show all networks
    "strength_study": ("robustness.png", "attack_convergence.png"),
    "layers": ("layers.png",),
    "frequency": ("frequency.png",),
    "calibration": ("calibration.png",),
    "transfer": ("transfer.png",),
}
PICTURES_OF_THE_STEP = ("real_images{}.png", "gradient_image{}.png", "jittered_images{}.png")
PICTURES_OF_ONE = (  # network: its slug stands in the braces
    *PICTURES_OF_THE_STEP,
    "perturbed{}_epsilon*.png",
    "smallest_epsilon{}.png",
    "max_class{}.png",
    "max_features{}_layer*.png",
    "attribution{}.png",
    "critic_score{}.png",
)


def still_there(about):
    """Whether the weights that metrics of an earlier command are of can still be loaded."""
    try:
        model, _ = load_model(about["weights"], kind="discriminator")
    except (UserError, KeyError, TypeError):
        return False
    return digest(model) == about.get("sha256")


def open_summary(path, networks):
    """{name of the network: metrics}, with those that an earlier command left of the same weights.

    Those of networks that this command does not look at stay too, while their weights are there.
    Pictures of other weights go with their metrics.
    Raises UserError where the folder belongs to a training run or cannot be written.
    """
    if (path.parent / "config.json").exists():
        raise UserError(f"{path.parent} holds a training run; give another --output_dir")
    before = None
    with contextlib.suppress(OSError):
        before = parse_json(path.read_bytes())
    before = before if isinstance(before, dict) else {}
    summary, changed = {}, []
    for network in networks:
        about = network.about()
        kept = before.get(network.name, about)
        same = isinstance(kept, dict) and all(
            kept.get(key) == value for key, value in about.items()
        )
        summary[network.name] = kept if same else about
        changed += [] if same else [network]
    for name in before:
        if name not in summary and still_there(before[name]):
            summary[name] = before[name]
    with writing_to(path.parent):
        for network in changed:  # before the figures: cut short here, this is done again
            remove_pictures_of(network, path.parent, first=network is networks[0])
        if changed:
            for metrics, section in itertools.product(summary.values(), SHARED):
                metrics.pop(section, None)
        write_atomically(path, json.dumps(summary, indent=2).encode())
    return summary


def remove_pictures_of(network, folder, first):
    """Remove what was drawn of a network with other weights, and what shows it beside others."""
    patterns = [picture.format(f"_{network.slug}") for picture in PICTURES_OF_ONE]
    patterns += itertools.chain.from_iterable(SHARED.values())
    patterns += [picture.format("") for picture in PICTURES_OF_THE_STEP] if first else []
    for path in itertools.chain.from_iterable(map(folder.glob, patterns)):
        path.unlink(missing_ok=True)
