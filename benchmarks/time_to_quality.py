"""How much CPU time until a network classifies a given share of held-out images correctly?

    python benchmarks/time_to_quality.py gan --plain --accuracy 60 --max_minutes 120
    python benchmarks/time_to_quality.py gan --flags="--recipe brief --epochs 1 --limit_train 36000"

--plain trains plain_reference.py with the classic recipe: constant learning rate 1e-4, batches of
128. It is evaluated every 10,000 images, which adds a line to --output and is not timed, until it
reaches --accuracy. Without --plain, train_discriminator.py or train_gan.py runs as a process of its
own. It is evaluated at its end, where the learning rate of most recipes is 0, and all of its CPU
time counts: start, evaluation and figures too. Both sides use one thread. A chart of all lines of
--output is plotted beside it.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch.utils.data import DataLoader

import plain_reference as plain
from data_tools import load_dataset
from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import read_json
from inside_cnn.engine import cli
from inside_cnn.engine.plots import save_charts
from inside_cnn.reporting.tables import read_lines
from inside_cnn.training.provenance import git_commit

ROOT = Path(__file__).parent.parent
BATCH_SIZE, EVALUATE_EVERY = 128, 10_000  # images
SCRIPTS = {"classifier": "train_discriminator.py", "gan": "train_gan.py"}
TITLES = {"classifier": "Classifier", "gan": "Critic of the GAN"}


def parse_args(argv=None):
    parser, at_least = cli.Parser(__doc__), cli.at_least
    add = parser.add_argument
    add("network", choices=SCRIPTS, help="classifier, or critic of the GAN")
    add("--plain", action="store_true", help="train the plain reference")
    add("--accuracy", type=at_least(0, float), default=60.0, help="in %%, where --plain ends")
    add("--max_minutes", type=at_least(0, float), default=120.0, help="of CPU time, of --plain")
    add("--flags", type=shlex.split, default=[], help="of the script, as one argument")
    add("--width", type=at_least(1), default=64, help="channels of the networks")
    add("--seed", type=at_least(0), default=0, help="of all random numbers")
    add("--output", type=Path, default="output/time_to_quality.jsonl", help="file to append to")
    cli.add_data_arguments(parser, training=True)
    parser.set_defaults(hold_out=5000)
    args = parser.parse_args(argv)
    if args.plain and args.flags:
        parser.error("--flags are those of the script: they have no effect with --plain")
    return args


def plain_points(args):
    """Train the plain reference; yields (images, CPU seconds, accuracy in %) of each evaluation."""
    torch.manual_seed(args.seed)
    train_set, test_set = load_dataset(args.dataset, args.data_dir)
    if args.hold_out:
        train_set, test_set = train_set.hold_out(args.hold_out)
    train_set, test_set = train_set.first(args.limit_train), test_set.first(args.limit_test)
    if len(train_set) < BATCH_SIZE or len(train_set.class_names) != 10:
        raise UserError(f"--plain needs ten classes and at least {BATCH_SIZE} training images")
    d, g = Discriminator(args.width), Generator(args.width)
    betas = (0.0, 0.9) if args.network == "gan" else (0.9, 0.999)
    d_adam, g_adam = (torch.optim.Adam(n.parameters(), lr=1e-4, betas=betas) for n in (d, g))
    pictures = plain.PilImages(train_set.images, train_set.labels, plain.TRAIN_TRANSFORM)
    batches = DataLoader(pictures, BATCH_SIZE, shuffle=True, drop_last=True)
    pictures = plain.PilImages(test_set.images, test_set.labels, plain.TEST_TRANSFORM)
    test_batches = DataLoader(pictures, BATCH_SIZE)
    images, seconds, start = 0, 0.0, time.process_time()
    for real, labels in chain.from_iterable(repeat(batches)):
        if args.network == "gan":
            plain.gan_step(d, g, d_adam, g_adam, real, labels)
        else:
            plain.classifier_step(d, d_adam, real, labels)
        images += BATCH_SIZE
        if images % EVALUATE_EVERY < BATCH_SIZE:
            seconds += time.process_time() - start
            yield images, seconds, plain.accuracy(d, test_batches)
            start = time.process_time()


def script_point(args):
    """Run the script; returns (images, CPU seconds, accuracy in %) at its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / SCRIPTS[args.network], *args.flags, "--device", "cpu"]
        command += ["--output_dir", folder]
        options = ("width", "seed", "dataset", "data_dir", "hold_out", "limit_train", "limit_test")
        given = {f"--{name}": getattr(args, name) for name in options}
        command += [x for flag, value in given.items() if value is not None for x in (flag, value)]
        before = sum(os.times()[2:4])  # CPU seconds of child processes
        done = subprocess.run(list(map(str, command)), env=os.environ | {"OMP_NUM_THREADS": "1"})
        seconds = sum(os.times()[2:4]) - before
        if done.returncode or not (Path(folder) / "summary.json").is_file():
            raise UserError(f"{command[1].name} ended with code {done.returncode}, not finished")
        last = read_json(Path(folder) / "summary.json")
        settings = read_json(Path(folder) / "config.json")["settings"]
    return last["step"] * settings["batch_size"], seconds, last["test_accuracy"]


def plot(path):
    """Plot accuracy by CPU time, one chart for each network in a file of JSON lines like ours."""
    charts = {}
    for line in (line for line in read_lines(path) if "side" in line):
        chart = {"x": "CPU minutes", "y": "held-out accuracy, %", "height": 0, "lines": {}}
        lines = charts.setdefault(TITLES[line["network"]], chart)["lines"]
        is_plain = line["side"] == "plain"
        style = {"marker": "o", "markersize": 4, "linestyle": "-" if is_plain else ""}
        name = "plain, classic recipe" if is_plain else SCRIPTS[line["network"]]
        name += f" (width {line['width']}, seed {line['seed']})"
        minutes, accuracies, _ = lines.setdefault(name, ([], [], style))
        minutes.append(line["cpu_seconds"] / 60)
        accuracies.append(line["test_accuracy"])
    save_charts(charts, path.with_suffix(".png"))


def run(args):
    """Append a line to --output for each evaluation. Raises UserError."""
    torch.set_num_threads(1)
    trial = {"network": args.network, "side": "plain" if args.plain else "ours"}
    trial |= {"flags": shlex.join(args.flags), "width": args.width, "seed": args.seed}
    trial |= {"commit": git_commit(), "device": "CPU"}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with open(args.output, "a", encoding="utf-8") as file:
        for images, seconds, accuracy in plain_points(args) if args.plain else [script_point(args)]:
            point = {"images": images, "cpu_seconds": round(seconds, 1), "test_accuracy": accuracy}
            print(point, flush=True)
            print(json.dumps(trial | point), file=file, flush=True)
            if accuracy >= args.accuracy or seconds > 60 * args.max_minutes:
                break
    plot(args.output)


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
