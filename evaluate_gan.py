"""Sample a trained generator, and say how good the samples are.

    python evaluate_gan.py                                 # scores 10,000 samples of output/gan
    python evaluate_gan.py --sample 50000 --format png     # only draws them
    python evaluate_gan.py --inception --samples 50000     # FID and IS too: for a GPU

The judge is a classifier trained on real images (output/baseline). Every score stands beside those
of images whose quality is known: test images, noisy training images, an untrained generator. Leaves
evaluation.json and figures in evaluation/.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch_fidelity import __version__ as fidelity_version

from data_tools import DATASETS, DataError, load_dataset
from discriminator import Discriminator
from engine import cli
from engine.device import (
    DeviceError,
    autocast,
    keep_freed_memory,
    peak_memory,
    pick_device,
    pick_precision,
    random_stream,
)
from engine.files import write_atomically
from engine.plots import save_image_grid
from engine.progress import Progress
from engine.weights import CheckpointError, load_model, own_or_published, published
from generator import Generator
from metrics import inception, memorization, sampling
from metrics.classifier import predict
from metrics.scores import MIN_SAMPLES, Judge, ScoreError, agreement, distances, manifold_scores
from training.augmentation import augment, sample_augmentation
from training.run_folder import RunError

USER_ERRORS = (DeviceError, DataError, CheckpointError, RunError, ScoreError)
WEIGHTS = "discriminator.safetensors"  # of the judge, in a run's folder
MAX_GRID = 1000  # images that a grid can show
NOISE, CAS = 20, 21  # names of the random streams
NOISE_LEVELS = 8  # standard deviation of the noisy training images, in levels of 0 to 255
COLUMNS = {  # of the table: field, heading, format
    "frechet_distance": ("Frechet", ".3f"),
    "kernel_distance": ("kernel", ".5f"),
    "kernel_distance_std": ("+-", ".5f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "density": ("density", ".3f"),
    "coverage": ("coverage", ".3f"),
    "class_consistency": ("class %", ".2f"),
}


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__.split("\n\n")[0])
    group = parser.add_argument_group("networks")
    group.add_argument(
        "--generator",
        help="exported weights of a generator, or a run's folder (default: output/gan, without "
        "one the published results/gan)",
    )
    group.add_argument(
        "--raw", action="store_true", help="of a folder: the last weights, not their moving average"
    )
    group.add_argument(
        "--judge",
        help="exported weights of a classifier, or a folder (default: output/baseline, without one "
        "the published results/baseline)",
    )
    group = parser.add_argument_group("sampling only")
    group.add_argument("--sample", type=at_least(1), metavar="N", help="draw N images and stop")
    group.add_argument(
        "--format", choices=("png", "npz", "grid"), default="grid", help="what to write them as"
    )
    group.add_argument(
        "--labels", type=at_least(0), nargs="+", metavar="K", help="only these classes, 0 to 9"
    )
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--samples",
        type=at_least(1),
        default=10_000,
        help="images to score; the table takes the same number of every set, so no more of them "
        "than there are test images",
    )
    group.add_argument(
        "--inception",
        nargs="?",
        const="",
        metavar="FILE",
        help="also IS, FID and KID with the standard Inception network (slow without a GPU), from "
        "this weights file or, without one, torch-fidelity's download",
    )
    group.add_argument(
        "--cas",
        action="store_true",
        help="also the classification accuracy score: train a classifier on samples only",
    )
    group.add_argument("--cas_epochs", type=at_least(1), default=5, help="epochs of that training")
    group.add_argument("--cas_width", type=at_least(1), default=64, help="its width")
    group.add_argument("--batch_size", type=at_least(1), default=500, help="images at once")
    cli.add_data_arguments(parser)
    cli.add_device_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", default="evaluation", help="folder for what is made")
    args = parser.parse_args(argv)
    if args.labels and not args.sample:
        parser.error("--labels goes with --sample: scores are taken over all classes")
    return args


# ------------------------------------------------------------------------------ sampling


def draw_samples(args, model, labels, precision, title):
    latents = sampling.latents_of(labels, model.latent_dim, args.seed)
    progress = Progress(title, -(-len(labels) // args.batch_size), args.batch_size)
    images = sampling.draw(model, latents, args.batch_size, precision, progress)
    progress.close()
    return images


def class_names_of(metadata):
    names = metadata.get("class_names")
    well_formed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if well_formed and len(names) == 10 else [str(k) for k in range(10)]


def sample_only(args, model, metadata, precision, folder):
    """Draw and write --sample images; returns the path."""
    names = class_names_of(metadata)
    classes = args.labels or range(len(names))
    if max(classes) >= len(names):
        raise ScoreError(f"--labels {max(classes)}: the classes are 0 to {len(names) - 1}")
    if args.format == "grid" and args.sample > MAX_GRID:
        raise ScoreError(f"a grid shows at most {MAX_GRID} images; take --format png or npz")
    path = {
        "png": folder / "samples",
        "npz": folder / "samples.npz",
        "grid": folder / "samples.png",
    }[args.format]
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"{path} is not empty; give another --output_dir")
    labels = sampling.sample_labels(args.sample, classes)
    images = draw_samples(args, model, labels, precision, "samples")
    if args.format == "png":
        sampling.write_pngs(images, labels, names, path)
    elif args.format == "npz":
        sampling.write_npz(images, labels, path)
    else:
        in_columns = 1 < len(classes) <= 10  # a column for each class
        column_names = [names[k] for k in classes] if in_columns else ()
        title = "" if in_columns else ", ".join(names[k] for k in dict.fromkeys(classes))
        save_image_grid(images, path, column_names, title, columns=len(column_names) or 10)
    print(f"{len(images):,} samples: {path}")
    return path


# ------------------------------------------------------------------------------ scores


def noisy(images, seed):
    """uint8 images plus normal noise of NOISE_LEVELS levels, rounded and clamped."""
    stream = random_stream("cpu", seed, NOISE)
    noise = NOISE_LEVELS * torch.randn(images.shape, generator=stream)
    return (images + noise).round_().clamp_(0, 255).to(torch.uint8)


def score_table(looks, reference, class_names, seed):
    """{name of the set: its scores} for {name: (features, classes, labels)}."""
    table = {}
    for name, (features, classes, labels) in looks.items():
        table[name] = distances(features, reference, seed)
        table[name] |= manifold_scores(features, reference)
        table[name]["images"] = len(features)
        share, per_class = agreement(classes, labels, class_names)
        table[name] |= {"class_consistency": share, "per_class_consistency": per_class}
    return table


def print_table(table):
    width = max(map(len, table)) + 2
    headings = "".join(f"{heading:>11}" for heading, _ in COLUMNS.values())
    print(f"{'':<{width}}{'images':>8}{headings}")
    for name, scores in table.items():
        cells = "".join(
            f"{format(scores[field], form):>11}" for field, (_, form) in COLUMNS.items()
        )
        print(f"{name:<{width}}{scores['images']:>8}{cells}")


def save_walks(args, model, precision, names, folder):
    within, between = (
        sampling.draw(model, latents, args.batch_size, precision)
        for latents in sampling.walks(model.latent_dim, args.seed)
    )
    title = "from one latent of a class to another"
    captions = ["" if k % 10 else names[k // 10] for k in range(100)]
    save_image_grid(within, folder / "walk_within_classes.png", (), title, captions)
    title = "one noise in each row, from its class to the next one"
    arrows = [f"{a} →" for a in names]
    captions = ["" if k % 10 else arrows[k // 10] for k in range(100)]
    save_image_grid(between, folder / "walk_between_classes.png", (), title, captions)


def classification_accuracy(args, images, labels, test_set, device, precision, title):
    """Train a classifier on these images only; its accuracy on real test images, in %.

    Source: Ravuri and Vinyals 2019, Classification Accuracy Score for Conditional Generative
    Models.
    """
    torch.manual_seed(args.seed)
    model = Discriminator(args.cas_width).to(device)
    steps = args.cas_epochs * (len(images) // 128)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    images, labels = images.to(device), labels.to(device)
    progress = Progress(title, steps, 128)
    for step in range(steps):
        stream = random_stream(device, args.seed, CAS, step)
        chosen = torch.randint(len(images), (128,), generator=stream, device=device)
        batch = augment(images[chosen], sample_augmentation(128, stream))
        with autocast(device, precision):
            logits = model(batch)[1]
        loss = F.cross_entropy(logits.float(), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.step()
    progress.close()
    found = predict(model, test_set.images.to(device), precision).argmax(1).cpu()
    return round(100 * (found == test_set.labels).double().mean().item(), 2)


# ------------------------------------------------------------------------------ the run


def score(args, path, model, metadata, judge, train, test, device, precision, folder):
    """All scores and figures but Inception's; returns them and the sets, {name: (images, labels)}.

    Every set of the table has the same number of images: what is estimated depends on it.
    """
    labels = sampling.sample_labels(args.samples)
    samples = draw_samples(args, model, labels, precision, "samples")
    torch.manual_seed(args.seed)
    fresh = Generator(model.width, model.latent_dim).to(device)
    sampling.settle(fresh, sampling.latents_of(labels[:500], model.latent_dim, args.seed))
    count = min(len(samples), len(test), len(train))
    untrained = draw_samples(args, fresh, labels[:count], precision, "untrained generator")
    sets = {
        "test images": (test.images, test.labels),  # all, for the judge's accuracy
        "noisy training images": (noisy(train.images[:count], args.seed), train.labels[:count]),
        "samples": (samples, labels),
        "untrained generator": (untrained, labels[:count]),
    }

    def look(name, images):
        progress = Progress(f"judge, {name}", -(-len(images) // args.batch_size), args.batch_size)
        found = judge.look(images, args.batch_size, progress)
        progress.close()
        return found

    reference, _ = look("training images", train.images)
    looks = {name: (*look(name, images), of) for name, (images, of) in sets.items()}
    table = score_table(
        {name: [part[:count] for part in parts] for name, parts in looks.items()},
        *(reference, train.class_names, args.seed),
    )
    accuracy, _ = agreement(looks["test images"][1], test.labels, test.class_names)
    print_table(table)
    print(f"the judge's accuracy on real test images: {accuracy:.2f} %")
    print("class consistency of the samples, in %:")
    for name, share in table["samples"]["per_class_consistency"].items():
        print(f"  {name:<12} {share:6.2f}")
    result = {
        "generator": str(path),
        "weights": metadata.get("weights"),
        "step": metadata.get("step"),
        "width": model.width,
        "dataset": train.name,
        "seed": args.seed,
        "precision": precision,
        "reference": f"{len(train):,} training images",
        "judge": {"path": str(judge.path), "width": judge.model.width, "test_accuracy": accuracy},
        "arithmetic": f"torch-fidelity {fidelity_version}",
        "scores": table,
    }
    shown = torch.stack([torch.nonzero(labels == k).flatten()[:10] for k in range(10)], 1)
    save_image_grid(samples[shown.flatten()], folder / "samples.png", train.class_names)
    save_walks(args, model, precision, train.class_names, folder)
    result["nearest_training_images"] = memorization.look_for_copies(
        *(folder, samples, labels, looks["samples"][0][:count]),
        *(train, looks["test images"][0][:count], reference),
    )
    if args.cas:
        as_many = train.images[: args.samples], train.labels[: args.samples]
        result["classification_accuracy_score"] = {
            name: classification_accuracy(args, *data, test, device, precision, f"CAS, {name}")
            for name, data in {"samples": (samples, labels), "real images": as_many}.items()
        }
        print(f"classification accuracy score, in %: {result['classification_accuracy_score']}")
    return result, sets


def inception_part(args, sets, reference, device):
    """The field's scores of every set, or the reason why there are none."""
    try:
        weights = args.inception or inception.obtain_weights()
    except inception.InceptionMissing as error:
        print(f"IS, FID and KID left out: {error}")
        return {"left_out": str(error)}
    images = {name: pair[0] for name, pair in sets.items()}
    found = inception.inception_scores(images, reference, weights, device, args.seed)
    for name, scores in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in scores.items()))
    return found


def load_sets(args, metadata):
    """(train, test) of the set that the generator was trained on. Raises DataError."""
    own = metadata.get("dataset")
    name = own if args.dataset == "auto" else args.dataset
    if name not in DATASETS or name == "auto":
        raise DataError("the generator does not tell what set it was trained on; give --dataset")
    if own in DATASETS and name != own:
        raise DataError(f"the generator was trained on {own}, not on {name}")
    train, test = load_dataset(name, args.data_dir)
    print(f"data: {train.source}")
    return train.first(args.limit_train), test.first(args.limit_test)


def run(args):
    """Draw or score as the arguments ask; returns the figures, or the path of the samples.

    Raises one of USER_ERRORS for what the user can mend.
    """
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    folder = Path(args.output_dir)
    if (folder / "config.json").exists():
        raise RunError(f"{folder} holds a training run; give another --output_dir")
    name = "generator_raw.safetensors" if args.raw else "generator.safetensors"
    path = own_or_published(args.generator, "gan", name)
    ours = args.generator is None and path == published("gan", name)
    model, metadata = load_model(path, device, kind="generator")
    print(f"generator: {path}, width {model.width}, step {metadata.get('step')}")
    if not args.sample:
        if args.samples < MIN_SAMPLES:
            raise ScoreError(f"--samples {args.samples}: the scores need at least {MIN_SAMPLES}")
        # The published generator goes with the published judge: one's own may know other images.
        given = published("baseline", WEIGHTS) if ours and args.judge is None else args.judge
        judge = Judge(own_or_published(given, "baseline", WEIGHTS), device, precision)
        train, test = load_sets(args, metadata)
        judge.check_set(train.name)
        if min(len(train), len(test)) < MIN_SAMPLES:
            raise ScoreError(f"{min(len(train), len(test))} real images are too few for the scores")
        if args.inception:  # looked at before an hour's work
            inception.check_fit(inception.read_weights(args.inception)[0], args.inception)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if args.sample:
            return sample_only(args, model, metadata, precision, folder)
        result, sets = score(
            *(args, path, model, metadata, judge, train, test, device, precision, folder)
        )
        write_atomically(folder / "evaluation.json", json.dumps(result, indent=2).encode())
        if args.inception is not None:
            result["inception"] = inception_part(args, sets, train.images, device)
            write_atomically(folder / "evaluation.json", json.dumps(result, indent=2).encode())
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from None
    print(f"figures: {folder / 'evaluation.json'} and pictures beside it")
    print(f"peak memory: {peak_memory(device) / 1e9:.2f} GB")
    return result


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
