"""How fast is the shipped code, against the plain recipe and against the machine's own limit?

    python benchmarks/throughput.py            # or: make bench
    python benchmarks/throughput.py --quick --json output/bench.json

Each part is measured in one run, plain and shipped in turn (A B A B ...), and the median is taken:
what else the machine does falls on both. Images are random: no data set is needed.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import plain_reference as plain
import torch
from torch.utils.flop_counter import FlopCounterMode

import arguments
import runtime
import train_discriminator
import train_gan
from augmentation import augment, sample_augmentation
from discriminator import Discriminator
from generator import Generator
from image_gradients import feature_objective, maximise

LAYER = 4


def parse_args(argv=None):
    parser = arguments.Parser(__doc__.split("\n\n")[0])
    at_least = arguments.at_least
    parser.add_argument("--width", type=at_least(1), default=196, help="channels of the networks")
    parser.add_argument("--batch_size", type=at_least(2), default=128, help="images per step")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="measurements of each side")
    parser.add_argument("--quick", action="store_true", help="2 repeats, fewer images: under 3 min")
    parser.add_argument("--json", metavar="FILE", help="also write the table there")
    arguments.add_device_arguments(parser, seed=False)
    return parser.parse_args(argv)


def interleaved(ours, theirs, count, repeats, device):
    """Median images per second of two functions that each do `count` images; one call warms up."""
    rates = {ours: [], theirs: []}
    for repeat in range(repeats + 1):
        for function in (theirs, ours):
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if repeat:
                rates[function].append(count / (time.perf_counter() - start))
    return statistics.median(rates[ours]), statistics.median(rates[theirs])


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


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


def flops_per_image(bench):
    """Floating-point operations of each part for one image, in matrix products and convolutions.

    Forward passes are counted by torch. A backward pass costs one forward pass for the gradients of
    the inputs and one for those of the weights; the penalty's double backward costs four.
    """

    def count(function):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    images = torch.zeros(2, 3, 32, 32, device=bench.device)
    d = count(lambda: bench.discriminator(images)) / 2
    d_to_layer = count(lambda: bench.discriminator.features(images, LAYER)) / 2
    g = count(lambda: bench.generator(torch.zeros(2, 100, device=bench.device))) / 2
    discriminator_step = g + 2 * 3 * d + 6 * d  # fakes; real and fake images; the penalty
    generator_step = 3 * g + 2 * d  # no gradients of the discriminator's weights
    return {
        "classifier_step": 3 * d,
        "gan_step": discriminator_step + generator_step,
        "augmentation": count(bench.batch) / bench.args.batch_size,
        "evaluation": d,
        "max_features": 2 * d_to_layer,
    }


class Bench:
    """Both sides of every part, on the same uint8 images."""

    def __init__(self, args, device, precision):
        self.args, self.device, self.precision = args, device, precision
        stream = torch.Generator().manual_seed(0)
        shape = (2 * args.batch_size, 3, 32, 32)
        self.images = torch.randint(0, 256, shape, generator=stream, dtype=torch.uint8)
        self.labels = torch.randint(0, 10, shape[:1], generator=stream)
        self.on_device = self.images.to(device), self.labels.to(device)
        betas = (0.0, 0.9)
        self.discriminator = Discriminator(args.width).to(device)
        self.generator = Generator(args.width).to(device)
        self.d_adam = torch.optim.Adam(self.discriminator.parameters(), 1e-4, betas, fused=True)
        self.g_adam = torch.optim.Adam(self.generator.parameters(), 1e-4, betas, fused=True)
        self.guard = runtime.FiniteGuard(device)
        self.plain_d = plain.PlainDiscriminator(args.width).to(device)
        self.plain_g = plain.PlainGenerator(args.width).to(device)
        self.plain_d_adam = torch.optim.Adam(self.plain_d.parameters(), 1e-4, betas, foreach=False)
        self.plain_g_adam = torch.optim.Adam(self.plain_g.parameters(), 1e-4, betas, foreach=False)
        # On the CPU no workers: they would compete for the cores, and their start, which an epoch
        # pays once, would fall into every measurement.
        self.workers = 0 if device.type == "cpu" else 2
        self.step = 0

    def batch(self):
        self.step += 1
        stream = runtime.random_stream(self.device, 0, 0, self.step)
        images, labels = (t[: self.args.batch_size] for t in self.on_device)
        return augment(images, sample_augmentation(len(images), stream)), labels, stream

    def plain_batches(self):
        loader = plain.loader(
            *(self.images, self.labels, plain.TRAIN_TRANSFORM),
            *(self.args.batch_size, self.workers),
        )
        return ((x.to(self.device), y.to(self.device)) for x, y in loader)

    def classifier(self):
        for _ in range(2):
            images, labels, _ = self.batch()
            loss, _ = train_discriminator.classifier_backward(
                self.discriminator, images, labels, self.precision
            )
            self.guard.step(self.d_adam, loss, self.step)

    def plain_classifier(self):
        for images, labels in self.plain_batches():
            plain.classifier_step(self.plain_d, self.plain_d_adam, images, labels)

    def gan(self):
        for _ in range(2):
            real, labels, stream = self.batch()
            count = len(real)
            fake_labels, latents = train_gan.sample_inputs(count, 100, stream)
            mix = train_gan.sample_mix(count, self.device, stream)
            parts = train_gan.discriminator_backward(
                *(self.discriminator, self.generator, real, labels, latents, fake_labels, mix),
                *(10.0, self.precision),
            )
            self.guard.step(self.d_adam, parts["discriminator_loss"], self.step)
            fake_labels, latents = train_gan.sample_inputs(count, 100, stream)
            parts = train_gan.generator_backward(
                self.discriminator, self.generator, latents, fake_labels, self.precision
            )
            self.guard.step(self.g_adam, parts["generator_loss"], self.step)

    def plain_gan(self):
        for images, labels in self.plain_batches():
            plain.gan_step(
                *(self.plain_d, self.plain_g, self.plain_d_adam, self.plain_g_adam),
                *(images, labels),
            )

    def augmentation(self):
        for _ in range(20):
            self.batch()

    def plain_augmentation(self):
        data = plain.PilImages(self.images, self.labels, plain.TRAIN_TRANSFORM)
        for index in range(self.args.batch_size):
            data[index]

    def evaluation(self):
        train_discriminator.predict(self.discriminator, self.on_device[0], self.precision)

    def plain_evaluation(self):
        loader = plain.loader(
            *(self.images, self.labels, plain.TEST_TRANSFORM),
            *(self.args.batch_size, self.workers),
            shuffle=False,
        )
        plain.accuracy(self.plain_d, ((x.to(self.device), y.to(self.device)) for x, y in loader))

    def max_features(self):
        objective = feature_objective(self.discriminator, LAYER, self.precision)
        self.discriminator.requires_grad_(False)
        maximise(objective, self.start(), steps=2)
        self.discriminator.requires_grad_(True)

    def plain_max_features(self):
        plain.max_features(self.plain_d, LAYER, self.start(), steps=2)

    def start(self):
        return torch.zeros(min(100, self.args.width), 3, 32, 32, device=self.device)


def main(argv=None):
    args = parse_args(argv)
    device = runtime.pick_device(args.device)
    precision = runtime.pick_precision(args.precision, device)
    runtime.keep_freed_memory()
    bench = Bench(args, device, precision)
    repeats = min(args.repeats, 2) if args.quick else args.repeats
    limits = {
        "fp32": matmul_limit(device, torch.float32),
        "bf16": matmul_limit(device, torch.bfloat16),
    }
    step_images, shown = 2 * args.batch_size, min(100, args.width)
    work_of, table = flops_per_image(bench), {}
    parts = {  # images that each side does in one call
        "classifier_step": (bench.classifier, bench.plain_classifier, step_images, step_images),
        "gan_step": (bench.gan, bench.plain_gan, step_images, step_images),
        "augmentation": (
            *(bench.augmentation, bench.plain_augmentation),
            *(20 * args.batch_size, args.batch_size),
        ),
        "evaluation": (bench.evaluation, bench.plain_evaluation, step_images, step_images),
        "max_features": (bench.max_features, bench.plain_max_features, 2 * shown, 2 * shown),
    }
    threads = torch.get_num_threads()
    print(f"{runtime.describe_device(device)}, {precision}, width {args.width}")
    print(f"{'':<16}{'ours':>12}{'plain':>12}{'ratio':>8}{'GFLOP':>9}{'of limit':>10}")
    for name, (ours, theirs, our_count, their_count) in parts.items():
        if name == "augmentation":
            torch.set_num_threads(1)  # both sides on one core
        rate, plain_rate = interleaved(ours, theirs, 1, repeats, device)
        rate, plain_rate = rate * our_count, plain_rate * their_count
        torch.set_num_threads(threads)
        work = work_of[name]
        share = rate * work / limits[precision]
        table[name] = {
            "ours_images_per_s": rate,
            "plain_images_per_s": plain_rate,
            "ratio": rate / plain_rate,
            "share_of_limit": share,
        }
        print(
            f"{name:<16}{rate:>12.1f}{plain_rate:>12.1f}{rate / plain_rate:>8.2f}"
            f"{work / 1e9:>9.3f}{100 * share:>9.1f}%",
            flush=True,
        )
    table["machine"] = {
        "device": runtime.describe_device(device),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "precision": precision,
        "fp32_matmul_flops": limits["fp32"],
        "bf16_matmul_flops": limits["bf16"],
    }
    print(f"matrix products: fp32 {limits['fp32'] / 1e9:.0f} GFLOP/s, ", end="")
    print(f"bf16 {limits['bf16'] / 1e9:.0f} GFLOP/s")
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
