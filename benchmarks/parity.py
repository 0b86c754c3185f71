"""Is accuracy paid for speed? The plain recipe in float32 and the shipped scripts, same budget.

    python benchmarks/parity.py classifier --width 196 --epochs 2 --data_dir data
    python benchmarks/parity.py gan --width 32 --steps 300 --seeds 3 --data_dir data

Prints the test accuracy of both classifiers, or the parts of both GANs' losses, averaged over the
last third of the steps, with mean and standard deviation over the seeds.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import plain_reference as plain
import train_discriminator
import train_gan
from data_tools import DataError, load_dataset
from engine import cli
from engine.device import pick_device, pick_precision

METRICS = ["critic_gap", "gradient_penalty", "class_loss_real", "class_loss_fake", "generator_loss"]


SAME = (  # flags that both trainings are given
    *("dataset", "data_dir", "limit_train", "limit_test"),
    *("device", "precision", "width", "batch_size"),
)


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("classifier", "gan"), help="which training")
    parser.add_argument("--width", type=at_least(1), default=196, help="channels of the networks")
    parser.add_argument("--batch_size", type=at_least(2), default=128, help="images per step")
    # Past epoch 50 the classic recipe lowers the rate, and the plain side does not.
    epochs = at_least(1, high=51)
    parser.add_argument("--epochs", type=epochs, default=2, help="of the classifier")
    parser.add_argument("--steps", type=at_least(3), default=300, help="of the GAN")
    parser.add_argument("--seeds", type=at_least(1), default=1, help="how many, from 0")
    cli.add_data_arguments(parser, training=True)
    cli.add_device_arguments(parser, seed=False)
    return parser.parse_args(argv)


def shipped(script, args, seed, *flags):
    """Run a training script in a folder of its own; returns its log, a list of dicts."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--recipe", "classic", "--output_dir", folder, "--seed", seed, *flags]
        for name in SAME:
            if getattr(args, name) is not None:
                words += [f"--{name}", getattr(args, name)]
        if script.main([str(word) for word in words]) != 0:
            raise SystemExit(1)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def shipped_classifier(args, seed):
    log = shipped(train_discriminator, args, seed, "--epochs", args.epochs)
    return {"test_accuracy": log[-1]["test_accuracy"]}


def shipped_gan(args, seed):
    flags = ("--epochs", args.steps, "--max_steps", args.steps, "--log_every_steps", 1)
    return last_third(shipped(train_gan, args, seed, *flags))


def last_third(log):
    """{metric: mean over the last third of a log with a line for each step}."""
    kept = log[-(len(log) // 3) :]
    return {name: statistics.fmean(parts[name] for parts in kept) for name in METRICS}


def plain_sets(args, device):
    """Endless training batches on the device, the loader of the test set, batches per epoch."""
    train_set, test_set = load_dataset(args.dataset, args.data_dir)
    train_set, test_set = train_set.first(args.limit_train), test_set.first(args.limit_test)
    if args.batch_size > len(train_set):
        raise DataError(f"--batch_size {args.batch_size} is larger than the set ({len(train_set)})")
    train = plain.loader(
        train_set.images,
        train_set.labels,
        transform=plain.TRAIN_TRANSFORM,
        batch_size=args.batch_size,
        drop_last=args.what == "gan",
    )
    test = plain.loader(
        test_set.images,
        test_set.labels,
        transform=plain.TEST_TRANSFORM,
        batch_size=args.batch_size,
        shuffle=False,
    )

    def endless():
        for images, labels in itertools.chain.from_iterable(itertools.repeat(train)):
            yield images.to(device), labels.to(device)

    return endless(), test, len(train)


def plain_classifier(args, seed, device):
    """{"test_accuracy": in %}."""
    torch.manual_seed(seed)
    batches, test, per_epoch = plain_sets(args, device)
    model = plain.PlainDiscriminator(args.width).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    for images, labels in itertools.islice(batches, args.epochs * per_epoch):
        plain.classifier_step(model, optimizer, images, labels)
    test = ((x.to(device), y.to(device)) for x, y in test)
    return {"test_accuracy": plain.accuracy(model, test)}


def plain_gan(args, seed, device):
    """{metric: mean over the last third of the steps}."""
    torch.manual_seed(seed)
    batches, _, _ = plain_sets(args, device)
    networks = [n(args.width).to(device) for n in (plain.PlainDiscriminator, plain.PlainGenerator)]
    adams = [torch.optim.Adam(n.parameters(), 1e-4, betas=(0.0, 0.9)) for n in networks]
    first = itertools.islice(batches, args.steps)
    return last_third([plain.gan_step(*networks, *adams, *batch) for batch in first])


def run(args):
    device = pick_device(args.device)
    pick_precision("fp32", device)  # so that both sides compute float32 alike
    sides = {
        "classifier": {"plain": plain_classifier, "shipped": shipped_classifier},
        "gan": {"plain": plain_gan, "shipped": shipped_gan},
    }[args.what]
    results = {name: [] for name in sides}
    for seed in range(args.seeds):
        for name, training in sides.items():
            start = time.perf_counter()
            results[name].append(training(args, seed, *([device] if name == "plain" else [])))
            print(f"seed {seed}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{'':<18}{'plain':>20}{'shipped':>20}")
    for metric in results["plain"][0]:
        print(f"{metric:<18}", end="")
        for of_seeds in results.values():
            values = [metrics[metric] for metrics in of_seeds]
            spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            print(f"{statistics.fmean(values):>{20 - len(spread)}.3f}{spread}", end="")
        print()
    return results


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args)


if __name__ == "__main__":
    raise SystemExit(main())
