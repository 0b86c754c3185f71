"""How fast is the shipped code, against the plain recipe and against the machine's own limit?

    python benchmarks/throughput.py            # or: make bench
    python benchmarks/throughput.py --quick --json output/bench.json
    python benchmarks/throughput.py --profile  # where the time goes
    python benchmarks/throughput.py --changes cudnn_benchmark batch_256  # against itself

Each side runs in a process of its own; they are asked in turn (A B A B ...), so that what else the
machine does falls on all, and the median is taken. Images are random: no data set is needed.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

from discriminator import Discriminator
from engine import cli
from engine.device import DeviceError, pick_device, pick_precision
from generator import Generator
from sides import LAYER, PARTS

CHANGES = {  # of the shipped code, by flags of sides.py
    "compile_off": ["--compile", "off"],  # nothing compiled, recorded, filled up
    "cudnn_benchmark": ["--cudnn_benchmark"],  # cuDNN times its kernels, and takes the fastest
    "batch_256": ["--batch_size", "256"],
    "batch_512": ["--batch_size", "512"],
}
ON_CUDA_ALONE = {"compile_off", "cudnn_benchmark"}


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    at_least = cli.at_least
    parser.add_argument("--width", type=at_least(1), default=196, help="channels of the networks")
    parser.add_argument("--batch_size", type=at_least(2), default=128, help="images per step")
    parser.add_argument("--images", type=at_least(2), default=10_000, help="images to evaluate")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="measurements of each side")
    parser.add_argument(
        "--workers",
        type=at_least(0),
        help="processes of the plain side's DataLoader (0 on the CPU, where they would compete for "
        "the cores; else one per core, at most 8)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 repeats, 2,000 images to evaluate: under 3 minutes"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--profile", action="store_true", help="where the time of the shipped code goes, on the CPU"
    )
    instead.add_argument(
        "--changes",
        nargs="+",
        choices=CHANGES,
        help="both steps of the shipped code with each; only larger batches change something on "
        "the CPU",
    )
    parser.add_argument(
        "--json", type=cli.new_file, metavar="FILE", help="also write the table there"
    )
    cli.add_device_arguments(parser, seed=False)
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats, args.images = min(args.repeats, 2), min(args.images, 2_000)
    if args.batch_size > args.images:
        parser.error(f"--batch_size {args.batch_size} is larger than the set ({args.images})")
    return args


class Side:
    """A process that runs benchmarks/sides.py; ask(part) has it do the part once."""

    def __init__(self, args, side, more=()):
        flags = ("width", "batch_size", "images", "workers", "device", "precision")
        command = [sys.executable, str(Path(__file__).with_name("sides.py")), side]
        command += [str(word) for name in flags for word in (f"--{name}", getattr(args, name))]
        command += more
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = self.read()

    def ask(self, part):
        self.process.stdin.write(part + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {' '.join(self.process.args)} ended by itself")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def interleaved(sides, part, repeats, warm_ups):
    """Images per second of each side, repeat by repeat; the first calls are not counted.

    More than one is needed for a step: the allocator grows until it has seen every shape.
    """
    rates = [[] for _ in sides]
    for repeat in range(-warm_ups, repeats):
        for side, of_side in zip(sides, rates, strict=True):
            answer = side.ask(part)
            if repeat >= 0:
                of_side.append(answer["images"] / answer["seconds"])
    return rates


def warm_ups(part, device):
    if pick_device(device).type == "cuda":  # a call is 50 steps there
        return 1
    return {"classifier_step": 3, "gan_step": 3, "evaluation": 0}.get(part, 1)


def flops_per_image(width):
    """Floating-point operations of each part for one image, in matrix products and convolutions.

    Forward passes are counted by torch. A backward pass costs one forward pass for the gradients of
    the inputs and one for those of the weights; the penalty's double backward costs four.
    """

    def count(function):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    discriminator, images = Discriminator(width), torch.zeros(2, 3, 32, 32)
    d = count(lambda: discriminator(images)) / 2
    d_to_layer = count(lambda: discriminator.features(images, LAYER)) / 2
    g = count(lambda: Generator(width)(torch.zeros(2, 100))) / 2
    discriminator_step = g + 2 * 3 * d + 6 * d  # fakes; real and fake images; the penalty
    generator_step = 3 * g + 2 * d  # no gradients of the discriminator's weights
    return {
        "classifier_step": 3 * d,
        "gan_step": discriminator_step + generator_step,
        "augmentation": 2 * 3 * 32 * 32 * 2 * 32,  # two 32x32 matrices for each channel
        "evaluation": d,
        "max_features": 2 * d_to_layer,
    }


def compare(args):
    """Ours against plain; returns the table."""
    ours, theirs = Side(args, "ours"), Side(args, "plain")
    limits = [ours.ask("limit") for _ in range(3)]
    limits = {name: max(limit[name] for limit in limits) for name in limits[0]}
    precision = ours.about["precision"]
    work_of, table = flops_per_image(args.width), {}
    print(f"{ours.about['device']}, {precision}, width {args.width}, batch {args.batch_size}")
    print(f"{'images per second':<18}{'ours':>10}{'plain':>10}{'ratio':>7}", end="")
    print(f"{'lowest, highest':>17}{'GFLOP':>9}{'of limit':>10}")
    for part in PARTS:
        pair = interleaved((ours, theirs), part, args.repeats, warm_ups(part, args.device))
        rate, plain_rate = map(statistics.median, pair)
        ratios = [a / b for a, b in zip(*pair, strict=True)]
        # The augmentation runs on one core, in float32.
        of = "one_thread_fp32_flops" if part == "augmentation" else f"{precision}_matmul_flops"
        table[part] = {
            "ours_images_per_s": rate,
            "plain_images_per_s": plain_rate,
            "ratio": rate / plain_rate,
            "lowest_ratio": min(ratios),
            "highest_ratio": max(ratios),
            "share_of_limit": rate * work_of[part] / limits[of],
            "limit": of,
            "flops_per_image": work_of[part],
        }
        threads_note = ", one thread" if part == "augmentation" else ""
        print(
            f"{part:<18}{rate:>10.1f}{plain_rate:>10.1f}{rate / plain_rate:>7.2f}"
            f"{min(ratios):>9.2f}, {max(ratios):>6.2f}{work_of[part] / 1e9:>9.4f}"
            f"{100 * table[part]['share_of_limit']:>8.1f} %{threads_note}",
            flush=True,
        )
    memory = [side.ask("memory")["peak_memory_bytes"] for side in (ours, theirs)]
    table["machine"] = {
        "device": ours.about["device"],
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "precision": precision,
        **limits,
        "ours_peak_memory_bytes": memory[0],
        "plain_peak_memory_bytes": memory[1],
    }
    fp32, bf16, copied, one_thread = (limits[name] / 1e9 for name in limits)
    print(f"limit, GFLOP/s of matrix products: {fp32:.0f} in fp32, {bf16:.0f} in bf16, ", end="")
    print(f"{one_thread:.0f} in fp32 on one thread; copies: {copied:.0f} GB/s")
    print("peak memory: ours {:.2f} GB, plain {:.2f} GB".format(*(m / 1e9 for m in memory)))
    for side in (ours, theirs):
        side.close()
    return table


def compare_changes(args):
    """Both steps of the shipped code, as it is and with each change alone; returns the table."""
    names = ["as it is", *args.changes]
    sides = [Side(args, "ours", CHANGES.get(name, ())) for name in names]
    about = sides[0].about
    table = {name: {} for name in names}
    print(f"{about['device']}, {about['precision']}, width {args.width}; the shipped code in")
    print(f"batches of {args.batch_size} unless it says otherwise; and its changes against it")
    print(f"{'':<36}{'images/s':>10}{'ratio':>7}{'lowest, highest':>17}")
    for part in ("classifier_step", "gan_step"):
        rates = interleaved(sides, part, args.repeats, warm_ups(part, args.device))
        for name, of_side in zip(names, rates, strict=True):
            ratios = [rate / shipped for rate, shipped in zip(of_side, rates[0], strict=True)]
            row = table[name][part] = {
                "images_per_s": statistics.median(of_side),
                "ratio": statistics.median(of_side) / statistics.median(rates[0]),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
            print(f"{name:<18}{part:<18}", end="")
            print("{:>10.1f}{:>7.2f}{:>9.2f}, {:>6.2f}".format(*row.values()), flush=True)
    for side in sides:
        side.close()
    machine = {"device": about["device"], "torch": torch.__version__}
    return table | {"machine": machine | {"precision": about["precision"]}}


def profiles(args):
    """{part: {operation: share of the time in %}} of the shipped code."""
    ours = Side(args, "ours")
    table = {part: ours.ask(f"profile {part}") for part in PARTS}
    for part, shares in table.items():
        print(f"{part}: " + ", ".join(f"{name} {share} %" for name, share in shares.items()))
    ours.close()
    return table


def main(argv=None):
    args = parse_args(argv)
    try:
        device = pick_device(args.device)
        pick_precision(args.precision, device)
        idle = ON_CUDA_ALONE & {*(args.changes or ())}
        if idle and device.type != "cuda":
            raise DeviceError(f"--changes {' '.join(sorted(idle))}: without effect on {device}")
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.workers is None:
        args.workers = 0 if device.type == "cpu" else min(8, os.cpu_count())
    make = profiles if args.profile else compare_changes if args.changes else compare
    table = make(args)
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
