"""Figures of trained discriminators: adversarial images, feature visualization, layer statistics.

    python visualization.py                    # every section, layers 2 4 6 8
    python visualization.py --max_features 4   # one section only
    python visualization.py --model mynet.py:build --weights mynet.pt --dataset cifar10
    python visualization.py --model torchvision:resnet18 --weights DEFAULT --dataset folder \
        --data_dir pictures --layers layer1 layer3

Reads the discriminator trained without a generator (output/baseline) and the one trained with it
(output/gan), or the published ones in results/, or the --model, and writes figures and summary.json
to visualization/.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F

from data_tools import DATASETS, DataMissing, load_dataset
from discriminator import NUM_LAYERS
from inside_cnn.core.device import keep_freed_memory, pick_device, pick_precision
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import writing_to
from inside_cnn.engine import cli
from inside_cnn.engine.plots import save_animation
from inside_cnn.engine.weights import check_classes, common_class_names, load_model
from inside_cnn.interpretability import critic_score
from inside_cnn.interpretability.adversarial import predict_classes
from inside_cnn.interpretability.adversarial_figures import one_step, strength_section
from inside_cnn.interpretability.attribution import attribution_section, last_maps
from inside_cnn.interpretability.calibration import calibration_section
from inside_cnn.interpretability.frequency import frequency_section
from inside_cnn.interpretability.layer_figures import layer_section
from inside_cnn.interpretability.maximization_figures import class_section, feature_section
from inside_cnn.interpretability.models import CHECKPOINT_KEYS, list_layers, load_network
from inside_cnn.interpretability.network import TRAININGS, load_networks
from inside_cnn.interpretability.summary import open_summary, update_section, write_summary
from inside_cnn.interpretability.transfer import transfer_section
from inside_cnn.metrics import sampling

DEFAULT_LAYERS = [2, 4, 6, 8]
SECTIONS = {  # flag: help
    "perturb_images": "adversarial perturbation",
    "max_classification_output": "images that maximize the output of a class",
    "compare_layers": "all layers: linear probes, AUC of the features, CKA",
    "attribution": "Grad-CAM and integrated gradients",
    "frequency": "input gradients and accuracy under noise, by spatial frequency",
    "calibration": "accuracy, also of six views, and calibration of the class probabilities",
    "critic_score": "the critic's score of test images, samples, noise, blurred images and others",
    "transfer": "adversarial images of each network, classified by every network",
    "animation": "the sample grids of a GAN's training as an animated GIF",
}
NEED_NO_IMAGES = ("max_classification_output", "animation")

# ------------------------------------------------------------------------------ arguments


def parse_layer(text):
    """The number or name of a layer, or `true` or `false`, which switches the section."""
    if text.lower() in ("true", "false"):
        return text.lower()
    return int(text) if text.isdecimal() else text


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("sections (none of them given: all)")
    for name, what in SECTIONS.items():
        group.add_argument(f"--{name}", type=cli.switch, nargs="?", const=True, help=what)
    group.add_argument(
        "--max_features",
        nargs="*",
        type=parse_layer,
        metavar="LAYER",
        help=f"images that maximize the features of these layers, 1 to {NUM_LAYERS} or names of "
        "--model; none: --layers, else " + " ".join(map(str, DEFAULT_LAYERS)),
    )
    group = parser.add_argument_group("your own network")
    group.add_argument(
        "--model",
        metavar="SPEC",
        help="FILE.py:FUNCTION, which returns a torch.nn.Module for images in [-1, 1], or "
        "torchvision:NAME, in place of the discriminators",
    )
    group.add_argument(
        "--weights",
        metavar="PATH",
        help="its state dict, safetensors or torch.save, also as an entry "
        f"{', '.join(CHECKPOINT_KEYS)}; for torchvision also DEFAULT",
    )
    group.add_argument(
        "--image_size",
        type=cli.at_least(8, high=1025),
        metavar="N",
        help="side of its images in pixels (default: 32; of torchvision's weights, their size)",
    )
    group.add_argument(
        "--layers",
        nargs="+",
        type=parse_layer,
        metavar="NAME",
        help="its layers (default: the children of the module)",
    )
    group.add_argument("--list_layers", action="store_true", help="print all layers and end")
    group = parser.add_argument_group("networks")
    for which, folder in (("without", "baseline"), ("with", "gan")):
        group.add_argument(
            f"--discriminator_{which}_G",
            metavar="PATH",
            help=f"exported weights, or a run's folder, of the discriminator trained {which} a "
            f"generator (default: output/{folder}, else results/{folder})",
        )
    group.add_argument(
        "--networks",
        nargs="+",
        default=[],
        metavar="PATH",
        help="compare these discriminators in place of the two, each named by its folder",
    )
    group.add_argument(
        "--control",
        nargs="+",
        default=[],
        metavar="PATH",
        help="further discriminators to compare, named by their folder; not in the features and "
        "the attribution",
    )
    group = parser.add_argument_group("perturbation")
    group.add_argument(
        "--epsilon",
        type=cli.pixel_levels,
        default="8/255",
        help="largest change of a pixel, in levels of 0 to 255",
    )
    group.add_argument(
        "--study_images",
        type=cli.at_least(1),
        default=1000,
        metavar="N",
        help="test images of the study of robustness, which covers all epsilons; the single step "
        "of --epsilon uses all test images",
    )
    group = parser.add_argument_group("maximization")
    group.add_argument(
        "--method",
        choices=("robust", "classic"),
        default="robust",
        help="classic: gradient ascent on the pixels, as in the assignment; robust: on Fourier "
        "spectra, through random translations, rotations, scales and noise, the best of several "
        "restarts",
    )
    group.add_argument("--steps", type=cli.at_least(1), default=200, help="gradient steps")
    cli.add_data_arguments(parser, limits=("test",))
    cli.add_device_arguments(parser, seed=False)
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", default="visualization", help="folder for the figures")
    args = parser.parse_args(argv)
    choose_sections(parser, args)
    return args


def choose_sections(parser, args):
    """Switch on the requested sections; if there is none, all that are not switched off."""
    layers = args.max_features
    default = args.layers or (DEFAULT_LAYERS if args.model is None else True)
    if layers in ([], ["true"]):
        args.max_features = default
    elif layers == ["false"]:
        args.max_features = []
    elif layers and {"true", "false"} & set(layers):
        parser.error("--max_features takes layers, or one True or False, not both")
    if args.model is None:
        for flag, used in (("max_features", args.max_features), ("layers", args.layers)):
            if wrong := sorted(map(str, {*(used or ())} - set(range(1, NUM_LAYERS + 1)))):
                parser.error(f"--{flag}: layers are 1 to {NUM_LAYERS}, not {', '.join(wrong)}")
        if args.weights or args.image_size:
            parser.error("--weights and --image_size belong to --model")
    args.all_sections = not args.max_features and not any(getattr(args, n) for n in SECTIONS)
    if args.all_sections:
        for name in SECTIONS:
            setattr(args, name, getattr(args, name) is None)
        args.max_features = default if layers is None else []


# ------------------------------------------------------------------------------ sections


def load_images(args, networks, device):
    """(train, test) of the networks' data set; None, None if no section needs images.

    Without the data set, sections that need it are skipped unless they were requested.
    Raises UserError if the data set is missing or cannot be used, or if a discriminator has other
    classes.
    """
    needed = [name for name in SECTIONS if name not in NEED_NO_IMAGES and getattr(args, name)]
    if args.max_features and args.method == "robust":
        needed.append("max_features")
    all_have_start = all(network.start is not None for network in networks)
    if not needed and all_have_start:
        return None, None
    name = args.dataset
    if name == "auto":
        if args.model:
            raise UserError("--model needs images: give their data set by --dataset")
        name = ", ".join(sorted({str(network.metadata.get("dataset")) for network in networks}))
        if name not in DATASETS:
            raise UserError(f"the weights name the data sets {name}; give one by --dataset")
    try:
        train, test = load_dataset(name, args.data_dir, size=networks[0].image_size)
    except DataMissing as reason:
        if not (args.all_sections and all_have_start):
            raise
        print(f"skipped without test images: {', '.join(needed)} ({reason})")
        for section in needed:
            setattr(args, section, None)
        return None, None
    print(f"data: {test.source}")
    train, test = (part.first(args.limit_test) for part in (train, test))
    train, test = train.to(device), resized(test, networks[0].image_size).to(device)
    for network in networks:
        if network.has_scores:
            check_classes(network.path, network.metadata, test)
        if network.start is None:
            network.set_start(test.metadata())
    return train, test


def resized(dataset, size):
    """A Dataset with images of this size, by bilinear interpolation if they have another one."""
    if dataset.images.shape[2] == size:
        return dataset
    images = F.interpolate(dataset.images, (size, size), mode="bilinear", antialias=True)
    return replace(dataset, images=images)


def as_predicted(network, dataset):
    """The Dataset with a network's predictions as labels, if the network has other classes."""
    names = network.class_names
    if len(names) == len(dataset.class_names) and "class_names" not in network.metadata:
        network.class_names = list(dataset.class_names)
    if network.class_names == list(dataset.class_names):
        return dataset
    print(f"{network.name} has other classes than {dataset.name}: its predictions are the labels")
    labels = predict_classes(network, dataset.images)
    return replace(dataset, labels=labels, class_names=tuple(names))


def animation(args, networks, path):
    """An animation of the sample grids in the folder of the network that has the most."""
    folders = [Path(n.path).parent / "samples" for n in networks if n.has_scores]  # not of --model
    grids = [[f for f in d.glob("*.png") if f.stem.isdigit()] for d in folders]
    frames = max(grids, key=len, default=[])
    frames.sort(key=lambda frame: int(frame.stem))  # by epoch, also from 1000 on
    if len(frames) >= 2:
        save_animation(frames, path)
    elif args.all_sections:
        print("no animation: fewer than two sample grids")
    else:
        raise UserError("--animation: fewer than two sample grids; train_gan.py writes them")


def score_sets(network, train_set, test_set):
    """{name: uint8 images} for the critic's score; with samples if its generator is beside it."""
    count = critic_score.IMAGES
    test_images = test_set.images[:count]
    sets = {"test images": test_images, "training images": train_set.images[:count]}
    path = Path(network.path).with_name("generator.safetensors")
    if path.is_file():
        generator, _ = load_model(path, test_images.device, kind="generator")
        classes = len(test_set.class_names)
        labels = sampling.sample_labels(count, range(classes))
        latents = sampling.latents_of(labels, generator.latent_dim, 0, num_classes=classes)
        sets["samples"] = sampling.generate(generator, latents).to(test_images.device)
    return sets | critic_score.baseline_sets(test_images)


def make_figures(args, networks, sets, folder, summary):
    """Run each requested section. The summary is written after each."""
    train_set, labeled_set = sets
    test_set = labeled_set
    if labeled_set is not None and not networks[0].has_scores:
        test_set = as_predicted(networks[0], labeled_set)
    with_layers = [network for network in networks if network.layers]
    pair = [network for network in with_layers if not network.is_control]
    how = {"method": args.method, "steps": args.steps}
    data = {} if test_set is None else {"dataset": test_set.name, "images": len(test_set)}
    settings = data | how | {"study_images": args.study_images, "precision": networks[0].precision}

    def keep(section, metrics_of):
        for name, metrics in metrics_of.items():
            update_section(summary[name], section, metrics, settings)
        write_summary(folder / "summary.json", summary)

    if args.perturb_images:
        metrics_of = {}
        for n in networks:
            suffix = "" if n is networks[0] else f"_{n.slug}"
            metrics_of[n.name] = one_step(n, test_set, args.epsilon, folder, suffix)
        keep("perturbation", metrics_of)
        study_set = test_set.first(args.study_images)
        keep("strength_study", strength_section(networks, study_set, folder))
    if args.max_classification_output:
        metrics_of = {n.name: class_section(n, how, folder) for n in networks}
        keep("max_classification_output", metrics_of)
    if args.max_features:
        metrics_of = {}
        for network in pair:
            requested = network.layers if args.max_features is True else args.max_features
            layers = [n for n in network.layers if str(n) in map(str, requested)]
            metrics = feature_section(network, layers, how, folder, test_set)
            metrics_of[network.name] = summary[network.name].get("max_features", {}) | metrics
        keep("max_features", metrics_of)
    if args.critic_score:
        metrics_of = {
            n.name: critic_score.score_section(n, score_sets(n, train_set, test_set), folder)
            for n in networks
            if n.has_critic
        }
        keep("critic_score", metrics_of)
        if not metrics_of:
            print("no critic score: none of the networks was trained with a critic loss")
    if args.compare_layers and with_layers:
        keep("layers", layer_section(with_layers, labeled_set, folder))
    if args.frequency:
        keep("frequency", frequency_section(networks, test_set, folder))
    if args.calibration and test_set is not labeled_set:
        print("no calibration: the labels are predictions")
    elif args.calibration:
        keep("calibration", calibration_section(networks, test_set, folder))
    if args.transfer:
        keep("transfer", transfer_section(networks, test_set, folder))
    if args.attribution:
        with_maps = [network for network in pair if last_maps(network) is not None]
        for network in pair:
            if network not in with_maps:
                print(f"no attribution: {network.name} has no layer with a map")
        keep("attribution", {n.name: attribution_section(n, test_set, folder) for n in with_maps})
    if args.animation:
        animation(args, networks, folder / "training.gif")


def run(args):
    """Make the requested figures. Raises UserError."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    given = {name: getattr(args, flag) for name, (flag, _, _) in TRAININGS.items()}
    defaults = args.model is None and not args.networks
    networks = load_networks(given, device, args.control, precision, defaults, args.networks)
    if args.model is not None:
        features = [] if args.max_features is True else args.max_features or []
        named = [*(args.layers or []), *features]
        if networks:  # numbers are layers of the discriminators
            named = [name for name in named if isinstance(name, str)]
        options = args.weights, args.image_size, named, device, precision
        networks.insert(0, load_network(args.model, *options))
        if len({network.image_size for network in networks}) > 1:
            raise UserError("the networks take images of different sizes; see --image_size")
    slugs = [network.slug for network in networks]  # parts of the names of figures
    if len(set(slugs)) < len(slugs):
        names = ", ".join(network.name for network in networks)
        raise UserError(f"two networks have the same name ({names}); rename a folder or function")
    if args.list_layers:
        for network in networks:
            list_layers(network)
        return
    common_class_names({network.path: network.metadata for network in networks})
    sets = load_images(args, networks, device)
    for network in networks:
        print(f"{network.full_title}: {network.path}")
    folder = Path(args.output_dir)
    with writing_to(folder):
        summary = open_summary(folder / "summary.json", networks)
        make_figures(args, networks, sets, folder, summary)
    print(f"figures and summary.json: {folder}")


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
