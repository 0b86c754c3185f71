"""Sample a trained generator and score the samples.

    python evaluate_gan.py                                 # scores 10,000 samples of output/gan
    python evaluate_gan.py --sample 50000 --format png     # only writes samples
    python evaluate_gan.py --inception                     # FID, KID and IS too

The judge is a classifier trained on real images (output/baseline). The scores of the samples are
listed beside those of baselines: test images, noisy training images, an untrained generator. Writes
evaluation.json and figures to evaluation/.
"""

import importlib.metadata
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools import DATASETS, load_dataset
from inside_cnn.core.device import keep_freed_memory, peak_memory, pick_device, pick_precision
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import all_or_nothing, write_atomically, writing_to
from inside_cnn.data.dataset import MAX_COLUMNS, displayed_classes, displayed_note
from inside_cnn.engine import cli, weights
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.metrics import sampling, scores
from inside_cnn.metrics.baselines import noisy, untrained_like
from inside_cnn.metrics.memorization import memorization_metrics, save_nearest

MAX_GRID = 1000  # images of a grid of --sample


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("networks")
    group.add_argument(
        "--generator",
        help="a generator's weights, or a run's folder (default: output/gan, else results/gan)",
    )
    cli.add_judge_argument(group)
    group.add_argument(
        "--truncation",
        type=at_least(0.01, float),
        metavar="T",
        help="truncate the noise of the latents to [-T, T]: higher precision, lower recall",
    )
    group = parser.add_argument_group("sampling only")
    group.add_argument("--sample", type=at_least(1), metavar="N", help="write N images and stop")
    formats, classes = ("png", "npz", "grid"), "only these classes, by number from 0"
    group.add_argument("--format", choices=formats, help="of the images (default: grid)")
    group.add_argument("--labels", type=at_least(0), nargs="+", metavar="K", help=classes)
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--samples",
        type=at_least(1),
        default=10_000,
        help="images to score, at most as many as there are test images",
    )
    group.add_argument(
        "--inception",
        nargs="?",
        const="",
        metavar="FILE",
        help="also IS, FID and KID with the standard Inception network, from this weights file or "
        "torch-fidelity's download. Slow without a GPU; continues after a stop",
    )
    cli.add_data_arguments(parser)
    cli.add_device_arguments(parser)
    parser.add_argument("--output_dir", default="evaluation", help="folder for scores and figures")
    args = parser.parse_args(argv)
    scoring = ("inception", "limit_train", "limit_test")
    for name in scoring if args.sample else ("labels", "format"):
        if getattr(args, name) is not None:
            parser.error(f"--{name} has no effect {'with' if args.sample else 'without'} --sample")
    args.format = args.format or "grid"
    return args


# ------------------------------------------------------------------------------ sampling only


def write_samples(args, names, sample, folder):
    """Write --sample images in --format; returns their path.

    names: of the generator's classes; sample: function of (labels int64 (n,), title) that returns
    uint8 (n, 3, 32, 32). Raises UserError for an unknown class, too large a grid, and a folder that
    already holds samples; OSError.
    """
    count = len(names)
    classes = args.labels or (displayed_classes(count) if args.format == "grid" else range(count))
    if max(classes) >= count:
        raise UserError(f"--labels {max(classes)}: the classes are 0 to {count - 1}")
    if args.format == "grid" and args.sample > MAX_GRID:
        raise UserError(f"a grid shows at most {MAX_GRID} images; use --format png or npz")
    # samples.png belongs to the scores
    path = folder / {"png": "samples", "npz": "samples.npz", "grid": "sample_grid.png"}[args.format]
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty; give another --output_dir")
    labels = sampling.sample_labels(args.sample, classes)
    images = sample(labels, "samples")
    if args.format == "png":
        write_pngs(images, labels, names, path)
    elif args.format == "npz":
        # arr_0: uint8 (n, 32, 32, 3), arr_1: int64 (n,): the format of OpenAI's guided-diffusion
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images.permute(0, 2, 3, 1).numpy(), labels.numpy())
        write_atomically(path, buffer.getvalue())
    elif 1 < len(classes) <= MAX_COLUMNS:  # one column per class
        note = "" if args.labels else displayed_note(count).strip()
        save_image_grid(images, path, [names[k] for k in classes], note)
    else:
        title = ", ".join(names[k] for k in dict.fromkeys(classes))
        save_image_grid(images, path, title=title)
    print(f"{len(images):,} samples: {path}")
    return path


def write_pngs(images, labels, class_names, folder):
    """One PNG per image in one folder per class: folder/3_cat/000017.png, named by its index.

    images: uint8 (n, 3, h, w); labels: int64 (n,).
    """
    safe_names = (re.sub(r"[^\w-]", "_", name) for name in class_names)
    folders = [folder / f"{k}_{name}" for k, name in enumerate(safe_names)]
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folders[label].mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(folders[label] / f"{index:06d}.png")


# ------------------------------------------------------------------------------ scores


def make_image_sets(args, generator, sample, train, test):
    """{name: Dataset} of the samples and the baselines, with all test images."""
    count = min(args.samples, len(test), len(train))
    labels = sampling.labels_like(train, count)
    untrained = untrained_like(generator, labels, args.seed, len(train.class_names))
    real = train.first(count)
    return {
        "test images": test,
        "noisy training images": replace(real, images=noisy(real.images, args.seed)),
        "samples": replace(real, images=sample(labels, "samples"), labels=labels),
        "untrained generator": replace(
            real, images=sample(labels, "untrained generator", untrained), labels=labels
        ),
    }


def score(args, image_sets, train, judge, folder):
    """All scores except Inception's, and the figures of the samples.

    image_sets: of make_image_sets.
    """
    reference, _ = judge.features_and_classes(train.images, "judge, training images")
    outputs = {}
    for name, part in image_sets.items():
        features, classes = judge.features_and_classes(part.images, f"judge, {name}")
        outputs[name] = features, classes, part.labels
    test, samples = image_sets["test images"], image_sets["samples"]
    _, classes, labels = outputs["test images"]
    accuracy, _ = scores.class_consistency(classes, labels, test.class_names)
    table = scores.score_table(outputs, reference, train.class_names, args.seed)
    count = table["samples"]["images"]
    for name, row in table.items():
        print(f"{name}: {scores.text_of(row)}")
    print(f"accuracy of the judge on real test images: {accuracy:.2f} %")
    displayed, columns, note = samples.columns()
    title = ", ".join(filter(None, (note.strip(), truncation_note(args))))
    save_image_grid(samples.images[displayed], folder / "samples.png", columns, title)
    save_nearest(samples.first(count), train.images, folder / "nearest.png")
    images, path = (samples.images[:count], test.images[:count]), folder / "nearest_distances.png"
    memorization = memorization_metrics(*images, train.images, args.seed, path)
    print(f"distance to the nearest training image: {json.dumps(memorization, indent=2)}")
    return {
        "judge": {"path": str(judge.path), "width": judge.model.width, "test_accuracy": accuracy},
        "arithmetic": f"torch-fidelity {importlib.metadata.version('torch-fidelity')}",
        "scores": table,
        "memorization": memorization,
    }


def truncation_note(args):
    return "" if args.truncation is None else f"truncation {args.truncation:g}"


def load_inception(args, device):
    """(the Inception network or None, its entry in the scores)."""
    if args.inception is None:
        return None, {}
    from inside_cnn.metrics import inception  # here: its import takes seconds

    try:
        return inception.Inception(args.inception or inception.obtain_weights(), device), {}
    except inception.InceptionMissing as error:
        print(f"IS, FID and KID are omitted: {error}")
        return None, {"inception": {"left_out": str(error)}}


# ------------------------------------------------------------------------------ the run


def load_data(args, metadata):
    """(train, test) of --dataset, by default that of the generator. Raises UserError."""
    name = metadata.get("dataset") if args.dataset == "auto" else args.dataset
    if name not in DATASETS or name == "auto":
        raise UserError("the weights do not name the generator's dataset; give --dataset")
    train, test = load_dataset(name, args.data_dir)
    weights.check_classes("the generator", metadata, train)
    print(f"data: {train.source}")
    return train.first(args.limit_train), test.first(args.limit_test)


def run(args):
    """Write samples or scores; returns the path of the samples, or the scores. Raises UserError."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    folder = Path(args.output_dir)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a training run; give another --output_dir")
    path = weights.find_weights(args.generator, "generator.safetensors", "gan")
    generator, metadata = weights.load_model(path, device, kind="generator")
    source = f"generator: {path}, width {generator.width}, step {metadata.get('step')}"
    print(", ".join(filter(None, (source, truncation_note(args)))))
    names = weights.class_names_of(metadata)
    options = {"num_classes": len(names), "truncation": args.truncation}

    def sample(labels, title, generator=generator):
        latents = sampling.latents_of(labels, generator.latent_dim, args.seed, **options)
        return sampling.generate(generator, latents, precision, title)

    if args.sample:
        with writing_to(folder):
            return write_samples(args, names, sample, folder)
    judge_path = weights.find_weights(args.judge, "discriminator.safetensors", "baseline")
    judge = scores.Judge(judge_path, device, precision)
    train, test = load_data(args, metadata)
    judge.check_classes(train)
    num_classes, count = len(train.class_names), min(args.samples, len(train), len(test))
    if count < (least := max(scores.MIN_SAMPLES, num_classes)):
        message = f"{count} images are too few for the scores of {num_classes} classes"
        raise UserError(f"{message}: at least {least}")
    if count < scores.RELIABLE_SAMPLES:
        print(f"warning: scores of {count} images compare only with scores of as many images")
    network, entry = load_inception(args, device)
    result = {
        "generator": str(path),
        "sha256": weights.digest(generator),
        "weights": metadata.get("weights"),
        "step": metadata.get("step"),
        "epochs_done": metadata.get("epochs_done"),
        "width": generator.width,
        "dataset": train.name,
        "seed": args.seed,
        **({} if args.truncation is None else {"truncation": args.truncation}),
        "precision": precision,
        "reference": f"{len(train):,} training images",
        **entry,
    }
    with writing_to(folder):
        with all_or_nothing(folder, last="evaluation.json") as new:
            image_sets = make_image_sets(args, generator, sample, train, test)
            result |= score(args, image_sets, train, judge, new)
            write_atomically(new / "evaluation.json", json.dumps(result, indent=2).encode())
        if network is not None:
            labels = sampling.labels_like(train, max(len(train), len(test)))
            images = sample(labels, "samples for Inception"), train.images, test.images
            comparisons = network.both_protocols(*images, args.seed)
            result["inception"] = network.metadata() | {"scores": comparisons}
            write_atomically(folder / "evaluation.json", json.dumps(result, indent=2).encode())
    print(f"scores: {folder / 'evaluation.json'}; the figures are in the same folder")
    print(f"peak memory: {peak_memory(device) / 1e9:.2f} GB")
    return result


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
