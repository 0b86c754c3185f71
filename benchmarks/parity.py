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

import arguments
import plain_reference as plain
import runtime
import train_discriminator
import train_gan
from data_tools import load_dataset

FIGURES = ["critic_gap", "gradient_penalty", "class_loss_real", "class_loss_fake", "generator_loss"]


SAME = (  # flags that both trainings are given
    *("dataset", "data_dir", "limit_train", "limit_test"),
    *("device", "precision", "width", "batch_size"),
)


def parse_args(argv=None):
    at_least = arguments.at_least
    parser = arguments.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("classifier", "gan"), help="which training")
    parser.add_argument("--width", type=at_least(1), default=196, help="channels of the networks")
    parser.add_argument("--batch_size", type=at_least(2), default=128, help="images per step")
    parser.add_argument("--epochs", type=at_least(1), default=2, help="of the classifier")
    parser.add_argument("--steps", type=at_least(3), default=300, help="of the GAN")
    parser.add_argument("--seeds", type=at_least(1), default=1, help="how many, from 0")
    arguments.add_data_arguments(parser)
    arguments.add_device_arguments(parser, seed=False)
    return parser.parse_args(argv)


def shipped(script, args, seed, *flags):
    """Run a training script in a folder of its own; returns its summary."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--recipe", "classic", "--output_dir", folder, "--seed", seed, *flags]
        for name in SAME:
            if getattr(args, name) is not None:
                words += [f"--{name}", getattr(args, name)]
        if script.main([str(word) for word in words]) != 0:
            raise SystemExit(1)
        return json.loads((Path(folder) / "summary.json").read_text())


def plain_sets(args, device, batch_size):
    """Endless training batches on the device, the loader of the test set, batches per epoch."""
    train_set, test_set = load_dataset(args.dataset, args.data_dir)
    train_set, test_set = train_set.first(args.limit_train), test_set.first(args.limit_test)
    train = plain.loader(train_set.images, train_set.labels, plain.TRAIN_TRANSFORM, batch_size)
    test = plain.loader(
        *(test_set.images, test_set.labels, plain.TEST_TRANSFORM, batch_size), shuffle=False
    )

    def endless():
        for images, labels in itertools.chain.from_iterable(itertools.repeat(train)):
            yield images.to(device), labels.to(device)

    return endless(), test, len(train)


def plain_classifier(args, seed, device):
    """Test accuracy in %."""
    torch.manual_seed(seed)
    batches, test, per_epoch = plain_sets(args, device, args.batch_size)
    model = plain.PlainDiscriminator(args.width).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    for images, labels in itertools.islice(batches, args.epochs * per_epoch):
        plain.classifier_step(model, optimizer, images, labels)
    return plain.accuracy(model, ((x.to(device), y.to(device)) for x, y in test))


def plain_gan(args, seed, device):
    """{figure: mean over the last third of the steps}."""
    torch.manual_seed(seed)
    batches, _, _ = plain_sets(args, device, args.batch_size)
    networks = [n(args.width).to(device) for n in (plain.PlainDiscriminator, plain.PlainGenerator)]
    adams = [torch.optim.Adam(n.parameters(), 1e-4, betas=(0.0, 0.9)) for n in networks]
    found = [
        plain.gan_step(*networks, *adams, *batch) for batch in itertools.islice(batches, args.steps)
    ][-(args.steps // 3) :]
    return {name: statistics.fmean(parts[name] for parts in found) for name in FIGURES}


def main(argv=None):
    args = parse_args(argv)
    device = runtime.pick_device(args.device)
    results = {"plain": [], "shipped": []}
    for seed in range(args.seeds):
        start = time.perf_counter()
        if args.what == "classifier":
            results["plain"].append({"test_accuracy": plain_classifier(args, seed, device)})
        else:
            results["plain"].append(plain_gan(args, seed, device))
        between = time.perf_counter()
        if args.what == "classifier":
            summary = shipped(train_discriminator, args, seed, "--epochs", args.epochs)
        else:
            third = ("--max_steps", args.steps, "--log_every_steps", args.steps // 3)
            summary = shipped(train_gan, args, seed, *third, "--limit_test", 100)
        results["shipped"].append(summary)
        print(f"seed {seed}: plain {between - start:.0f} s, ", end="")
        print(f"shipped {time.perf_counter() - between:.0f} s", flush=True)
    print(f"{'':<18}{'plain':>20}{'shipped':>20}")
    for name in ("test_accuracy",) if args.what == "classifier" else FIGURES:
        print(f"{name:<18}", end="")
        for side in results.values():
            values = [figures[name] for figures in side]
            spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            print(f"{statistics.fmean(values):>{20 - len(spread)}.3f}{spread}", end="")
        print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
