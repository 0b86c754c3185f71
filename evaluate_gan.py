"""Sample a trained generator, and score the samples.

    python evaluate_gan.py                                 # scores 10,000 samples of output/gan
    python evaluate_gan.py --sample 50000 --format png     # only writes samples
    python evaluate_gan.py --inception                     # FID, KID and IS too

The judge is a classifier trained on real images (output/baseline). Each score is listed beside
those of images of known quality: test images, noisy training images, an untrained generator. Leaves
evaluation.json and pictures in evaluation/.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from torch_fidelity import __version__ as fidelity_version

from data_tools import DATASETS, load_dataset
from inside_cnn.core.device import keep_freed_memory, peak_memory, pick_device, pick_precision
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.core.output_folder import all_or_nothing, writing_to
from inside_cnn.engine import cli
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.engine.weights import check_classes, digest, find_weights, load_model
from inside_cnn.metrics import inception, sampling
from inside_cnn.metrics.controls import noisy, untrained_like
from inside_cnn.metrics.memorization import memorization_metrics, save_nearest
from inside_cnn.metrics.sample_files import draw_samples, sample_only
from inside_cnn.metrics.scores import (
    FEW_SAMPLES,
    MIN_SAMPLES,
    Judge,
    class_consistency,
    print_table,
    score_table,
)

WEIGHTS = "discriminator.safetensors"  # of the judge, in a run's folder


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__.split("\n\n")[0])
    group = parser.add_argument_group("networks")
    group.add_argument(
        "--generator",
        help="a generator's weights, or a run's folder (default: output/gan, else results/gan)",
    )
    group.add_argument(
        "--raw", action="store_true", help="of a folder: the last weights, not their moving average"
    )
    cli.add_judge_argument(group)
    group.add_argument(
        "--truncation",
        type=at_least(0.01, float),
        metavar="T",
        help="cut the noise of the latents off at -T and T: better samples, but less varied",
    )
    group = parser.add_argument_group("sampling only")
    group.add_argument("--sample", type=at_least(1), metavar="N", help="write N images and stop")
    formats = ("png", "npz", "grid")
    group.add_argument("--format", choices=formats, default="grid", help="of the images")
    labels_help = "only these classes, by number from 0"
    group.add_argument("--labels", type=at_least(0), nargs="+", metavar="K", help=labels_help)
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--samples",
        type=at_least(1),
        default=10_000,
        help="images to score; the table takes as many of each set, so at most the test images",
    )
    group.add_argument(
        "--inception",
        nargs="?",
        const="",
        metavar="FILE",
        help="also IS, FID and KID with the standard Inception network, from this weights file or "
        "torch-fidelity's download. Slow without a GPU; continues after a stop",
    )
    group.add_argument(
        "--inception_precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of that network; bf16 is faster and no longer the standard score",
    )
    group.add_argument(
        "--feature_cache",
        default="output/features",
        metavar="DIR",
        help="of that network's features, 8 MB per 1,000 images",
    )
    group.add_argument("--batch_size", type=at_least(1), default=500, help="images at once")
    cli.add_data_arguments(parser)
    cli.add_device_arguments(parser)
    parser.add_argument("--output_dir", default="evaluation", help="folder for scores and pictures")
    args = parser.parse_args(argv)
    if args.labels and not args.sample:
        parser.error("--labels goes with --sample: scores are taken over all classes")
    for flag in ("inception_precision", "feature_cache"):
        if args.inception is None and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag} does nothing here: it goes with --inception")
    return args


def truncation_in_words(limit):
    return "" if limit is None else f"truncation {limit:g}"


# ------------------------------------------------------------------------------ scores


def make_sets(args, model, train, test, precision):
    """{name: Dataset} of the samples and of what they stand beside.

    Of the test images all are taken, for the judge's accuracy; the others are as many as the table
    can hold of every set, but for the samples.
    """
    num_classes = len(train.class_names)
    labels = sampling.sample_labels(args.samples, range(num_classes))
    count = min(args.samples, len(test), len(train))
    samples = draw_samples(args, model, labels, num_classes, precision, "samples")
    untrained = untrained_like(model, labels, args.seed, num_classes)
    few_labels, title = labels[:count], "untrained generator"
    drawn = draw_samples(args, untrained, few_labels, num_classes, precision, title)
    few = train.first(count)
    return {
        "test images": test,
        "noisy training images": replace(few, images=noisy(few.images, args.seed)),
        "samples": replace(train, images=samples, labels=labels),
        "untrained generator": replace(train, images=drawn, labels=few_labels),
    }


def score(args, sets, train, judge, folder):
    """All scores but Inception's, and the pictures of the samples beside them.

    sets: of make_sets. Every set of the table has the same number of images: what is estimated
    depends on it.
    """

    def features_and_classes(name, images):
        return judge.features_and_classes(images, args.batch_size, f"judge, {name}")

    reference, _ = features_and_classes("training images", train.images)
    judged = {name: features_and_classes(name, part.images) for name, part in sets.items()}
    test, samples = sets["test images"], sets["samples"]
    accuracy, _ = class_consistency(judged["test images"][1], test.labels, test.class_names)
    count = min(len(train), *map(len, sets.values()))
    compared = {
        name: (features[:count], classes[:count], sets[name].labels[:count])
        for name, (features, classes) in judged.items()
    }
    table = score_table(compared, reference, train.class_names, args.seed)
    print_table(table)
    print(f"the judge's accuracy on real test images: {accuracy:.2f} %")
    print("class consistency of the samples, in %:")
    for name, percentage in table["samples"]["per_class_consistency"].items():
        print(f"  {name:<12} {percentage:6.2f}")
    shown, columns, some = samples.columns()
    title = ", ".join(filter(None, (some.strip(), truncation_in_words(args.truncation))))
    save_image_grid(samples.images[shown], folder / "samples.png", columns, title)
    save_nearest(samples.first(count), train.images, folder / "nearest.png")
    path = folder / "nearest_distances.png"
    near = (samples.images[:count], test.images[:count], train.images)
    memorization = memorization_metrics(*near, args.seed, path)
    print(f"distance to the nearest training image: {json.dumps(memorization, indent=2)}")
    return {
        "judge": {"path": str(judge.path), "width": judge.model.width, "test_accuracy": accuracy},
        "arithmetic": f"torch-fidelity {fidelity_version}",
        "scores": table,
        "memorization": memorization,
    }


def inception_scores(args, network, model, train, test, precision):
    """The field's scores of as many samples as there are images to compare them with."""
    num_classes = len(train.class_names)
    labels = sampling.sample_labels(max(len(train), len(test)), range(num_classes))
    samples = draw_samples(args, model, labels, num_classes, precision, "samples for Inception")
    return inception.both_protocols(network, samples, train.images, test.images, args.seed)


# ------------------------------------------------------------------------------ the run


def load_sets(args, metadata):
    """(train, test) of the set that the generator was trained on.

    Raises UserError, also if the set has other classes.
    """
    own = metadata.get("dataset")
    name = own if args.dataset == "auto" else args.dataset
    if name not in DATASETS or name == "auto":
        raise UserError("the generator does not say what set it was trained on; give --dataset")
    if own in DATASETS and name != own and "folder" not in (own, name):
        raise UserError(f"the generator was trained on {own}, not on {name}")
    train, test = load_dataset(name, args.data_dir)
    check_classes("the generator", metadata, train)
    print(f"data: {train.source}")
    return train.first(args.limit_train), test.first(args.limit_test)


def run(args):
    """Write samples or scores as the arguments ask; returns the scores, or the samples' path.

    Raises UserError.
    """
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    folder = Path(args.output_dir)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a training run; give another --output_dir")
    name = "generator_raw.safetensors" if args.raw else "generator.safetensors"
    path = find_weights(args.generator, name, "gan")
    model, metadata = load_model(path, device, kind="generator")
    source = f"generator: {path}, width {model.width}, step {metadata.get('step')}"
    print(", ".join(filter(None, (source, truncation_in_words(args.truncation)))))
    if args.sample:
        with writing_to(folder):
            return sample_only(args, model, metadata, precision, folder)
    judge = Judge(find_weights(args.judge, WEIGHTS, "baseline"), device, precision)
    train, test = load_sets(args, metadata)
    judge.check_set(train)
    count = min(args.samples, len(train), len(test))
    if count < (least := max(MIN_SAMPLES, len(train.class_names))):
        message = f"{count} images are too few for the scores of {len(train.class_names)} classes"
        raise UserError(f"{message}: at least {least}")
    if count < FEW_SAMPLES:
        print(f"{count} images of each set are few: compare scores of the same number only")
    result = {
        "generator": str(path),
        "sha256": digest(model),
        "weights": metadata.get("weights"),
        "step": metadata.get("step"),
        "epochs_done": metadata.get("epochs_done"),
        "width": model.width,
        "dataset": train.name,
        "seed": args.seed,
        **({} if args.truncation is None else {"truncation": args.truncation}),
        "precision": precision,
        "reference": f"{len(train):,} training images",
    }
    network = None
    if args.inception is not None:
        try:
            weights = args.inception or inception.obtain_weights()
            options = args.inception_precision, args.feature_cache
            network = inception.Inception(weights, device, *options)
        except inception.InceptionMissing as error:
            print(f"IS, FID and KID left out: {error}")
            result["inception"] = {"left_out": str(error)}
    with writing_to(folder):
        with all_or_nothing(folder, last="evaluation.json") as new:
            sets = make_sets(args, model, train, test, precision)
            result |= score(args, sets, train, judge, new)
            names = train.class_names
            sampling.save_walks(model, args.seed, precision, names, new, args.truncation)
            write_atomically(new / "evaluation.json", json.dumps(result, indent=2).encode())
        if network is not None:
            scores = inception_scores(args, network, model, train, test, precision)
            result["inception"] = network.about() | {"scores": scores}
            write_atomically(folder / "evaluation.json", json.dumps(result, indent=2).encode())
    print(f"scores: {folder / 'evaluation.json'}, with pictures beside it")
    print(f"peak memory: {peak_memory(device) / 1e9:.2f} GB")
    return result


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args)


if __name__ == "__main__":
    sys.exit(main())
