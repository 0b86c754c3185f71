"""The two sides of the comparison, each with the same parts; throughput.py runs one per process.

    python benchmarks/sides.py ours|plain --width 196 ...

reads names of parts from the standard input, a line each, does that part once (on CUDA a training
step 50 times) and answers with one line of JSON: {"seconds": ..., "images": ...}. Images are
random: no data set is needed.
"""

import argparse
import contextlib
import itertools
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import plain_reference as plain
import train_discriminator
import train_gan
from data_tools import Dataset
from engine.device import (
    describe_device,
    keep_freed_memory,
    peak_memory,
    pick_device,
    pick_precision,
    random_stream,
)
from interpretability.activation_maximization import feature_objective, maximize
from metrics.classifier import evaluate
from training import panels
from training.augmentation import augment, sample_augmentation
from training.run import TrainingRun

PARTS = ("classifier_step", "gan_step", "augmentation", "evaluation", "max_features")
LAYER = 4  # of max_features
STEPS_ON_CUDA = 50  # training steps in one measurement; 1 on the CPU
CLIMB_STEPS = 2  # gradient steps of max_features in one measurement
BETAS = (0.0, 0.9)


class Ours:
    """The shipped code, with its data path."""

    def __init__(self, args, device):
        self.args, self.device = args, device
        self.images, self.labels = (t.to(device) for t in random_images(args.images))
        torch.backends.cudnn.benchmark = args.cudnn_benchmark
        flags = ["--recipe", "classic", "--ema_decay", "0", "--device", str(device)]
        flags += ["--precision", args.precision, "--compile", args.compile]
        flags += ["--width", str(args.width), "--batch_size", str(args.batch_size)]
        self.settings = train_gan.parse_args(flags)
        self.run = run = TrainingRun(self.settings, "train_gan.py", panels.GAN)
        self.precision = run.precision
        gan = train_gan.GAN(run, self.settings)
        classifier = train_discriminator.Classifier(run, train_discriminator.parse_args(flags))
        run.prepare(*gan.parts().values(), classifier.model, classifier.optimizer)
        self.discriminator = gan.discriminator
        self.update_d = run.captured(gan.update_discriminator)
        self.update_g = run.captured(gan.update_generator)
        self.update_classifier = run.captured(classifier.update)
        self.step = 0

    def batch(self):
        self.step += 1
        stream = random_stream(self.device, 0, 0, self.step)
        size = (self.args.batch_size,)
        chosen = torch.randint(len(self.images), size, generator=stream, device=self.device)
        images = augment(self.images[chosen], sample_augmentation(len(chosen), stream))
        return images, self.labels[chosen], stream

    def classifier_step(self):
        images, labels, _ = self.batch()
        step = torch.full((), self.step, device=self.device)
        self.update_classifier(step, torch.ones((), device=self.device), images, labels)
        return len(images)

    def gan_step(self):
        real, labels, stream = self.batch()
        count = len(real)
        step = torch.full((), self.step, device=self.device)
        inputs = train_gan.sample_fake_inputs(self.run, self.settings, 10, stream, penalty=True)
        self.update_d(step, real, labels, inputs)
        self.update_g(step, train_gan.sample_fake_inputs(self.run, self.settings, 10, stream))
        return count

    def augmentation(self):
        with one_thread():
            for _ in range(20):
                images, _, _ = self.batch()
        return 20 * len(images)

    def evaluation(self):
        dataset = Dataset("random", self.images, self.labels, range(10), "")
        evaluate(self.discriminator, dataset, self.precision)
        return len(self.images)

    def max_features(self):
        start = torch.zeros(shown(self.args), 3, 32, 32, device=self.device)
        objective = feature_objective(self.discriminator, LAYER, self.precision)
        self.discriminator.eval().requires_grad_(False)  # as in visualization.py
        maximize(objective, start, CLIMB_STEPS)
        self.discriminator.train().requires_grad_(True)
        return len(start) * CLIMB_STEPS


class Plain:
    """plain_reference.py."""

    def __init__(self, args, device):
        self.args, self.device = args, device
        self.images, self.labels = random_images(args.images)
        self.discriminator = plain.PlainDiscriminator(args.width).to(device)
        self.generator = plain.PlainGenerator(args.width).to(device)
        self.d_adam = torch.optim.Adam(self.discriminator.parameters(), 1e-4, BETAS)
        self.g_adam = torch.optim.Adam(self.generator.parameters(), 1e-4, BETAS)
        self.batches = self.endless_batches()

    def endless_batches(self):
        data = self.images, self.labels, plain.TRAIN_TRANSFORM
        loader = plain.loader(*data, self.args.batch_size, self.args.workers, drop_last=True)
        for images, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
            yield images.to(self.device), labels.to(self.device)

    def classifier_step(self):
        images, labels = next(self.batches)
        plain.classifier_step(self.discriminator, self.d_adam, images, labels)
        return len(images)

    def gan_step(self):
        images, labels = next(self.batches)
        networks = self.discriminator, self.generator
        plain.gan_step(*networks, self.d_adam, self.g_adam, images, labels)
        return len(images)

    def augmentation(self):
        data = plain.PilImages(self.images, self.labels, plain.TRAIN_TRANSFORM)
        with one_thread():
            for index in range(self.args.batch_size):
                data[index]
        return self.args.batch_size

    def evaluation(self):
        data = self.images, self.labels, plain.TEST_TRANSFORM
        loader = plain.loader(*data, self.args.batch_size, self.args.workers, shuffle=False)
        plain.accuracy(
            self.discriminator, ((x.to(self.device), y.to(self.device)) for x, y in loader)
        )
        return len(self.images)

    def max_features(self):
        start = torch.zeros(shown(self.args), 3, 32, 32, device=self.device)
        plain.max_features(self.discriminator, LAYER, start, CLIMB_STEPS)
        return len(start) * CLIMB_STEPS


def shown(args):
    """How many features a picture of max_features shows."""
    return min(100, args.width)


def random_images(count):
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=stream, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=stream)


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limits(device):
    """What the machine can do at most, each figure measured now."""
    limit = {
        "fp32_matmul_flops": matmul_limit(device, torch.float32),
        "bf16_matmul_flops": matmul_limit(device, torch.bfloat16),
        "bytes_per_s": memory_bandwidth(device),
    }
    with one_thread():
        limit["one_thread_fp32_flops"] = matmul_limit(torch.device("cpu"), torch.float32)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the operands above are not the training's
    return limit


def matmul_limit(device, dtype):
    """The largest rate of a square matrix product that is reached, in FLOP/s."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a = torch.randn(size, size, device=device).to(dtype)
        for _ in range(4):
            synchronize(device)
            start = time.perf_counter()
            a @ a
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def memory_bandwidth(device):
    """The largest rate of a copy that is reached, in bytes read and written per second."""
    size = 2**26 if device.type == "cpu" else 2**30
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = max(best, 2 * size / (time.perf_counter() - start))
    return best


def profile(action, rows=6):
    """{operation: share of the CPU time spent in it itself, in %}, the largest first."""
    for _ in range(3):
        action()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        action()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return {e.key: round(100 * e.self_cpu_time_total / total, 1) for e in events[:rows]}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("side", choices=("ours", "plain"))
    parser.add_argument("--width", type=int, default=196)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", choices=("auto", "off"), default="auto")
    for change in ("cudnn_benchmark",):
        parser.add_argument(f"--{change}", action="store_true")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    if args.side == "plain":
        side = Plain(args, device)
    else:
        args.precision = pick_precision(args.precision, device)
        keep_freed_memory()
        side = Ours(args, device)
    print(json.dumps({**vars(args), "device": describe_device(device)}), flush=True)
    for line in sys.stdin:
        part = line.strip()
        if part == "limit":
            answer = limits(device)
        elif part.startswith("profile "):
            answer = profile(getattr(side, part.split()[1]))
        elif part == "memory":
            answer = {"peak_memory_bytes": peak_memory(device)}
        else:
            times = STEPS_ON_CUDA if device.type == "cuda" and part.endswith("_step") else 1
            synchronize(device)
            start = time.perf_counter()
            images = sum(getattr(side, part)() for _ in range(times))
            synchronize(device)
            answer = {"seconds": time.perf_counter() - start, "images": images}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
