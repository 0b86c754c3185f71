"""Look inside trained discriminators: what fools them, what activates them, what each layer knows.

    python visualization.py                    # every section, layers 2 4 6 8
    python visualization.py --max_features 4   # one section only

Reads the discriminator trained without a generator (output/baseline) and the one trained with it
(output/gan), or the published ones in results/, and writes figures and summary.json to
visualization/.
"""

import argparse
import sys
from pathlib import Path

from data_tools import DATASETS, DataMissing, load_dataset
from discriminator import NUM_LAYERS
from inside_cnn.core.device import keep_freed_memory, pick_device, pick_precision
from inside_cnn.core.errors import UserError
from inside_cnn.core.output_folder import writing_to
from inside_cnn.engine import cli
from inside_cnn.engine.plots import save_animation
from inside_cnn.engine.weights import check_classes, common_class_names, load_model
from inside_cnn.interpretability import critic_score
from inside_cnn.interpretability.adversarial_figures import one_step, strength_section
from inside_cnn.interpretability.attribution import attribution_section
from inside_cnn.interpretability.calibration import calibration_section
from inside_cnn.interpretability.frequency import frequency_section
from inside_cnn.interpretability.layer_figures import layer_section
from inside_cnn.interpretability.maximization_figures import Ascent, class_section, feature_section
from inside_cnn.interpretability.network import TRAININGS, load_networks
from inside_cnn.interpretability.summary import open_summary, write_summary
from inside_cnn.interpretability.transfer import transfer_section
from inside_cnn.metrics import sampling

DEFAULT_LAYERS = [2, 4, 6, 8]
STUDY_IMAGES = 1000
SWITCHES = {  # section: help
    "perturb_images": "adversarial perturbation",
    "max_classification_output": "images that maximise the output of a class",
    "compare_layers": "what each layer knows: linear probes, selective features, CKA",
    "attribution": "where it looks: Grad-CAM and integrated gradients",
    "frequency": "input gradients and accuracy under noise, by spatial frequency",
    "calibration": "whether class probabilities are right: calibration error",
    "critic_score": "the critic's score of test images, samples, noise, blurred images and others",
    "transfer": "class images and adversarial images of each network, classified by every other; "
    "includes --max_classification_output",
    "animation": "the sample grids of a GAN's training as an animated GIF",
}
NEED_IMAGES = (
    *("perturb_images", "compare_layers", "attribution"),
    *("frequency", "calibration", "critic_score", "transfer"),
)


# ------------------------------------------------------------------------------ arguments


def parse_layer(text):
    """A layer, or the True or False that switches the section."""
    if text.lower() in ("true", "false"):
        return cli.switch(text)
    if not text.isdecimal() or not 1 <= int(text) <= NUM_LAYERS:
        raise argparse.ArgumentTypeError(f"layers are 1 to {NUM_LAYERS}, not {text!r}")
    return int(text)


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    group = parser.add_argument_group("sections (none of them given: all)")
    switch = {"type": cli.switch, "nargs": "?", "const": True, "default": None}
    for name, what in SWITCHES.items():
        group.add_argument(f"--{name}", help=what, **switch)
    group.add_argument(
        "--max_features",
        nargs="*",
        type=parse_layer,
        metavar="LAYER",
        help=f"images that maximise the features of these layers, 1 to {NUM_LAYERS}; "
        "no number: " + " ".join(map(str, DEFAULT_LAYERS)),
    )
    group = parser.add_argument_group("networks")
    for which, folder in (("without", "baseline"), ("with", "gan")):
        group.add_argument(
            f"--discriminator_{which}_G",
            metavar="PATH",
            help=f"exported weights, or a run's folder, of the discriminator trained {which} a "
            f"generator (default: output/{folder}, else results/{folder})",
        )
    group.add_argument(
        "--control",
        nargs="+",
        default=[],
        metavar="PATH",
        help="further discriminators, named by their folder, beside the pair in the perturbations, "
        "the classes and the layers: what of a difference is the generator's doing?",
    )
    group = parser.add_argument_group("perturbation")
    group.add_argument(
        "--epsilon",
        type=cli.pixel_levels,
        default="8/255",
        help="largest change of a pixel, in levels of 0 to 255",
    )
    at_least = cli.at_least
    group.add_argument(
        "--study_images",
        type=at_least(1),
        metavar="N",
        help="test images of the study of robustness, at every epsilon (the one step of --epsilon "
        f"takes all; default: {STUDY_IMAGES})",
    )
    group.add_argument(
        "--batch_size", type=at_least(1), default=250, help="images perturbed at once"
    )
    group = parser.add_argument_group("maximisation")
    group.add_argument(
        "--method",
        choices=("robust", "classic"),
        default="robust",
        help="classic: gradient ascent on the pixels, as in the assignment; robust: on Fourier "
        "spectra, through random shifts, turns, scales and noise, the best of several starts",
    )
    group.add_argument("--steps", type=at_least(1), default=200, help="gradient steps")
    group.add_argument(
        "--lr", type=at_least(0, float), default=0.1, help="size of a step, of classic"
    )
    group.add_argument(
        "--decay",
        type=at_least(0, float),
        default=0.001,
        help="pull of each pixel toward grey, of classic",
    )
    cli.add_data_arguments(parser, limits=("test",))
    cli.add_device_arguments(parser, seed=False)
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", default="visualization", help="folder for the pictures")
    args = parser.parse_args(argv)
    choose_sections(parser, args)
    return args


def choose_sections(parser, args):
    """Switch on what the arguments name, or everything else if they name no section."""
    layers = args.max_features
    if layers is not None:
        switches = [layer for layer in layers if isinstance(layer, bool)]
        if switches and len(layers) > 1:
            parser.error("--max_features takes layers, or one True or False, not both")
        layers = {True: DEFAULT_LAYERS, False: []}[switches[0]] if switches else layers
        args.max_features = layers if switches or layers else DEFAULT_LAYERS
    chosen = [getattr(args, name) for name in SWITCHES]
    args.all_sections = not any(chosen) and not args.max_features
    if args.all_sections:  # but what was switched off by name
        for name in SWITCHES:
            setattr(args, name, getattr(args, name) is None)
        args.max_features = DEFAULT_LAYERS if args.max_features is None else []


# ------------------------------------------------------------------------------ the run


def load_images(args, networks, device):
    """(train, test) of the dataset the networks were trained on; None, None if it is missing.

    Raises UserError if sections that need images were requested by name, if the dataset cannot be
    used, or if a network has other classes.
    """
    names = sorted({str(network.metadata.get("dataset")) for network in networks})
    if args.dataset == "auto" and len(names) > 1:
        raise UserError(
            f"the networks were trained on different sets ({', '.join(names)}); give --dataset"
        )
    name = names[0] if args.dataset == "auto" else args.dataset
    if name not in DATASETS:
        raise UserError("the weights do not name the set they were trained on; give --dataset")
    needed = [section for section in NEED_IMAGES if getattr(args, section)]
    without_start = any(network.start is None for network in networks)
    try:
        train, test = load_dataset(name, args.data_dir, download=bool(needed or without_start))
    except DataMissing as reason:
        if without_start or (needed and not args.all_sections) or args.dataset == "folder":
            raise
        print(f"left out without test images: {', '.join(needed) or 'examples'} ({reason})")
        for section in needed:
            setattr(args, section, False)
        return None, None
    print(f"data: {test.source}")
    for network in networks:
        check_classes(network.path, network.metadata, test)
    test = test.first(args.limit_test)
    for flag, used in {"limit_test": needed, "study_images": args.perturb_images}.items():
        count = getattr(args, flag)
        classes = test.first(count).labels.unique().numel()
        if used and count and classes < len(test.class_names):
            raise UserError(f"--{flag} {count} leaves a class without an image")
    return train.first(args.limit_test).to(device), test.to(device)


def animation(args, networks, path):
    """An animation of the sample grids in the folder of the network trained with G."""
    folders = [Path(n.path).parent / "samples" for n in networks if n.name == "with G"]
    frames = sorted(folders[0].glob("[0-9]*.png")) if folders else []
    if len(frames) < 2:
        why = f"fewer than two sample grids in {folders[0]}" if folders else "no GAN"
        if not args.all_sections:
            raise UserError(f"--animation: {why}; train_gan.py writes one after each epoch")
        print(f"no animation: {why}")
        return
    save_animation(frames, path)
    print(f"  {path}")


def score_sets(network, train_set, test_set):
    """{name: uint8 images} for the critic's score; with samples if its generator is beside it."""
    count = critic_score.IMAGES
    sets = {
        "test images": test_set.images[:count],
        "training images": train_set.images[:count],
    }
    path = Path(network.path).with_name("generator.safetensors")
    if path.is_file():
        generator, _ = load_model(path, test_set.images.device, kind="generator")
        classes = len(test_set.class_names)
        labels = sampling.sample_labels(count, range(classes))
        latents = sampling.latents_of(labels, generator.latent_dim, 0, num_classes=classes)
        sets["samples"] = sampling.generate(generator, latents).to(test_set.images.device)
    return sets | critic_score.baseline_sets(sets["test images"])


def make_figures(args, networks, ascent, sets, folder, summary):
    """Run each requested section. The summary is written after each."""
    train_set, test_set = sets
    pair = [network for network in networks if not network.is_control]

    def keep(name, section, metrics):
        summary[name][section] = metrics
        write_summary(folder / "summary.json", summary)

    def keep_all(section, metrics_of):
        for name, metrics in metrics_of.items():
            keep(name, section, metrics)

    if args.perturb_images:
        for network in networks:
            suffix = "" if network is networks[0] else f"_{network.slug}"
            options = {"suffix": suffix, "batch_size": args.batch_size}
            metrics = one_step(network, test_set, args.epsilon, folder, **options)
            keep(network.name, "perturbation", metrics)
        study_set = test_set.first(args.study_images or STUDY_IMAGES)
        metrics_of = strength_section(networks, study_set, folder, args.batch_size)
        keep_all("strength_study", metrics_of)
    class_images = {}
    if args.max_classification_output or args.transfer:
        for network in networks:
            metrics, class_images[network.name] = class_section(network, ascent, folder)
            keep(network.name, "max_classification_output", metrics)
    if args.max_features:
        for network in pair:
            metrics = feature_section(network, args.max_features, ascent, folder, test_set)
            before = summary[network.name].get("max_features", {})
            keep(network.name, "max_features", before | metrics)
    if args.critic_score:
        critics = [network for network in networks if network.has_critic]
        if not critics:
            print("no critic score: none of the networks was trained with a critic loss")
        for network in critics:
            image_sets = score_sets(network, train_set, test_set)
            metrics = critic_score.score_section(network, image_sets, folder)
            keep(network.name, "critic_score", metrics)
    if args.compare_layers:
        keep_all("layers", layer_section(networks, test_set, folder))
    if args.frequency:
        keep_all("frequency", frequency_section(networks, test_set, folder))
    if args.calibration:
        keep_all("calibration", calibration_section(networks, test_set, folder))
    if args.transfer:
        keep_all("transfer", transfer_section(networks, test_set, folder, class_images))
    if args.attribution:
        for network in pair:
            keep(network.name, "attribution", attribution_section(network, test_set, folder))
    if args.animation:
        animation(args, networks, folder / "training.gif")


def run(args):
    """Make the pictures that the arguments ask for; returns every metric printed, as a dict.

    Raises UserError.
    """
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    given = {name: getattr(args, flag) for name, (flag, _, _) in TRAININGS.items()}
    networks = load_networks(given, device, args.control, precision)
    common_class_names({network.path: network.metadata for network in networks})
    ascent = Ascent(method=args.method, steps=args.steps, lr=args.lr, decay=args.decay)
    train_set = test_set = None
    without_start = [network for network in networks if network.start is None]
    examples = args.max_features and ascent.robust
    requested = any(getattr(args, section) for section in NEED_IMAGES)
    if requested or without_start or examples or args.dataset != "auto":
        train_set, test_set = load_images(args, networks, device)
    for network in without_start if test_set is not None else ():
        network.set_start(test_set.metadata())
    folder = Path(args.output_dir)
    summary = open_summary(folder / "summary.json", networks)
    for network in networks:
        print(f"discriminator {network.title}: {network.path}, width {network.width}")
    with writing_to(folder):
        make_figures(args, networks, ascent, (train_set, test_set), folder, summary)
    print(f"figures: {folder / 'summary.json'}")
    return summary


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args)


if __name__ == "__main__":
    sys.exit(main())
