"""Measure the speed of the code against a plain implementation and the limit of the machine.

    python benchmarks/throughput.py                             # or: make bench
    python benchmarks/throughput.py --repeats 2 --images 2000   # under 3 minutes

The plain side is plain_reference.py. The sides run in two processes and alternate, so that other
load affects both equally. Medians are reported. Images are random: no dataset is needed.
"""

import itertools
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import plain_reference as plain
import train_discriminator
import train_gan
from data_tools import Dataset
from discriminator import Discriminator
from generator import Generator
from inside_cnn.core import device
from inside_cnn.engine import cli
from inside_cnn.interpretability.activation_maximization import ascent
from inside_cnn.interpretability.network import Network
from inside_cnn.interpretability.objectives import feature
from inside_cnn.metrics.classifier import evaluate
from inside_cnn.training import panels
from inside_cnn.training.augmentation import augment, sample_augmentation
from inside_cnn.training.optimizers import keep_learning_rates_on
from inside_cnn.training.run import TrainingRun

LAYER = 4  # of max_features
STEPS_ON_CUDA = 50  # training steps in one measurement; 1 on the CPU
ADAM = {"lr": 1e-4, "betas": (0.0, 0.9)}


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--width", type=at_least(1), default=196, help="channels of the networks")
    add("--batch_size", type=at_least(2), default=128, help="images per step")
    add("--images", type=at_least(2), default=10_000, help="images to evaluate")
    add("--repeats", type=at_least(1), default=5, help="measurements of each side")
    add("--json", type=Path, metavar="FILE", help="also write the table to this file")
    cli.add_device_arguments(parser, seed=False)
    args = parser.parse_args(argv)
    if args.batch_size > args.images:
        parser.error(f"--batch_size {args.batch_size} is larger than the set ({args.images})")
    return args


def parts(args):
    """{part: (images per call, FLOP per image, warm-up calls)}.

    FLOP of matrix products and convolutions. torch counts the forward passes. A backward pass costs
    one forward pass for the gradients of the inputs and one for those of the weights; the double
    backward pass of the penalty costs four.
    """

    def flops(network, *inputs):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*inputs)
        return counter.get_total_flops() / 2

    model, images = Discriminator(args.width), torch.zeros(2, 3, 32, 32)
    d, d_to_layer = flops(model, images), flops(model.features, images, LAYER)
    g = flops(Generator(args.width), torch.zeros(2, 100))
    d_step = g + 2 * 3 * d + 6 * d  # fakes; real and fake images; the penalty
    g_step = 3 * g + 2 * d  # no gradients of the discriminator's weights
    return {
        "classifier_step": (args.batch_size, 3 * d, 3),
        "gan_step": (args.batch_size, d_step + g_step, 3),
        # Two 32x32 matrices for each channel.
        "augmentation": (20 * args.batch_size, 2 * 3 * 32 * 32 * 2 * 32, 1),
        "evaluation": (args.images, d, 0),
        "max_features": (2 * min(100, args.width), 2 * d_to_layer, 1),  # two gradient steps
    }


def shipped(args, where):
    """{part: function} of the shipped code: the steps of the classic recipe with their data."""
    flags = ["--recipe", "classic", "--device", args.device, "--precision", args.precision]
    flags += ["--width", str(args.width), "--batch_size", str(args.batch_size)]
    gan_args, classifier_args = train_gan.parse_args(flags), train_discriminator.parse_args(flags)
    run = TrainingRun(gan_args, "train_gan.py", panels.GAN)
    images, labels = (tensor.to(where) for tensor in random_images(args.images))
    dataset = Dataset("random", images, labels, range(10), "")
    gan = train_gan.GAN(run, gan_args)
    classifier = train_discriminator.Classifier(run, classifier_args)
    d = gan.discriminator
    if run.compiled:
        for optimizer in (gan.d_optimizer, gan.g_optimizer, classifier.optimizer):
            keep_learning_rates_on(where, optimizer)
    update_d, update_g = map(run.captured, (gan.update_discriminator, gan.update_generator))
    update_classifier = run.captured(classifier.update)
    steps = itertools.count(1)

    def batch():
        step = next(steps)
        stream = device.random_stream(where, 0, device.Stream.REAL, step)
        chosen = torch.randint(len(images), (args.batch_size,), generator=stream, device=where)
        augmented = augment(images[chosen], sample_augmentation(len(chosen), stream))
        real = augmented, labels[chosen]
        return torch.full((), step, device=where), real, stream

    def classifier_step():
        step, real, _ = batch()
        update_classifier(step, torch.ones((), device=where), *real)

    def gan_step():
        step, real, stream = batch()
        inputs = train_gan.sample_fake_inputs(run, gan_args, 10, stream, penalty=True)
        update_d(step, real, inputs)
        update_g(step, real, train_gan.sample_fake_inputs(run, gan_args, 10, stream))

    def max_features():
        start = torch.zeros(min(100, args.width), 3, 32, 32, device=where)
        d.eval().requires_grad_(False)  # as in visualization.py
        network = Network("", d, precision=run.precision)
        ascent(partial(feature(LAYER, torch.arange(len(start))), network), start, steps=2)
        d.train().requires_grad_(True)

    return {
        "classifier_step": classifier_step,
        "gan_step": gan_step,
        "augmentation": lambda: [batch() for _ in range(20)],
        "evaluation": lambda: evaluate(d, dataset, run.precision),
        "max_features": max_features,
    }


def plain_side(args, where):
    """{part: function} of plain_reference.py. On the CPU, workers would compete for the cores."""
    d, g = (network(args.width).to(where) for network in (Discriminator, Generator))
    d_adam, g_adam = (torch.optim.Adam(n.parameters(), **ADAM) for n in (d, g))
    workers = 0 if where.type == "cpu" else min(8, os.cpu_count())
    pictures = partial(plain.PilImages, *random_images(args.images))
    load = partial(DataLoader, batch_size=args.batch_size, num_workers=workers)
    train = load(pictures(plain.TRAIN_TRANSFORM), shuffle=True, drop_last=True)
    test = load(pictures(plain.TEST_TRANSFORM))
    batches = ((x.to(where), y.to(where)) for _ in itertools.count() for x, y in train)
    start = torch.zeros(min(100, args.width), 3, 32, 32, device=where)
    chosen = [i % args.images for i in range(20 * args.batch_size)]
    return {
        "classifier_step": lambda: plain.classifier_step(d, d_adam, *next(batches)),
        "gan_step": lambda: plain.gan_step(d, g, d_adam, g_adam, *next(batches)),
        "augmentation": lambda: [train.dataset[i] for i in chosen],
        "evaluation": lambda: plain.accuracy(d, test),
        "max_features": lambda: plain.max_features(d, LAYER, start, 2),
    }


def random_images(count):
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=stream, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=stream)


def start(side, args):
    """Initialize the process of a side."""
    global CALLS, DEVICE
    DEVICE = device.pick_device(args.device)
    CALLS = side(args, DEVICE)


def seconds_of(part):
    """Seconds of one call of a part, in the process of a side."""
    calls = STEPS_ON_CUDA if DEVICE.type == "cuda" and part.endswith("_step") else 1
    return seconds(DEVICE, CALLS[part], calls, one_thread=part == "augmentation")


def seconds(where, action, calls=1, one_thread=False):
    """Seconds of one call."""
    synchronize = torch.cuda.synchronize if where.type == "cuda" else bool
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if one_thread else threads)
    synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        action()
    synchronize()
    taken = time.perf_counter() - began
    torch.set_num_threads(threads)
    return taken / calls


def limits(where):
    """The highest rates of the machine: {name: FLOP/s}."""
    n = 2048 if where.type == "cpu" else 8192
    a, small = torch.randn(n, n, device=where), torch.randn(2048, 2048)
    matrices = {"fp32_matmul": a, "bf16_matmul": a.bfloat16(), "one_thread_fp32": small}
    limit = {}
    for name, m in matrices.items():
        one_thread = name == "one_thread_fp32"
        times = [seconds(where, partial(m.mm, m), one_thread=one_thread) for _ in range(12)]
        limit[f"{name}_flops"] = 2 * len(m) ** 3 / min(times)
    return limit


def run(args):
    """Measure, print and write the table. Raises UserError."""
    where = device.pick_device(args.device)
    args.precision = device.pick_precision(args.precision, where)
    process = partial(ProcessPoolExecutor, 1, get_context("spawn"), start)
    table, limit = {}, limits(where)
    machine = {"device": device.describe_device(where), "cores": os.cpu_count()}
    machine |= {"torch": torch.__version__, "precision": args.precision, **limit}
    print("images per second       ours     plain  ratio lowest highest of limit")
    with process((shipped, args)) as ours, process((plain_side, args)) as plain_process:
        sides = {"ours": ours, "plain": plain_process}
        for part, (images, flops, warm_ups) in parts(args).items():
            warm_ups = 1 if where.type == "cuda" else warm_ups
            rates = [
                [images / side.submit(seconds_of, part).result() for side in sides.values()]
                for _ in range(warm_ups + args.repeats)
            ][warm_ups:]
            rate, plain_rate = map(statistics.median, zip(*rates, strict=True))
            ratios = [a / b for a, b in rates]
            kind = "one_thread_fp32" if part == "augmentation" else f"{args.precision}_matmul"
            table[part] = {
                "ours_images_per_s": rate,
                "plain_images_per_s": plain_rate,
                "ratio": rate / plain_rate,
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "share_of_limit": rate * flops / limit[f"{kind}_flops"],
                "limit": f"{kind}_flops",
                "flops_per_image": flops,
            }
            line = "{:<17}{:>11.1f}{:>10.1f}{:>7.2f}{:>7.2f}{:>8.2f}{:>9.1%} {}"
            print(line.format(part, *table[part].values()), flush=True)
        for name, side in sides.items():
            memory = side.submit(device.peak_memory, where).result()
            machine[f"{name}_peak_memory_bytes"] = memory
    print(json.dumps(machine, indent=2))
    if args.json:
        args.json.write_bytes(json.dumps(table | {"machine": machine}, indent=2).encode() + b"\n")


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
