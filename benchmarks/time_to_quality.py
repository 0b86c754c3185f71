"""How good does a GAN get in the CPU time that the default recipe takes?

    python benchmarks/time_to_quality.py --width 32 --images 280000 --seeds 0 1
    python benchmarks/time_to_quality.py --seeds 0 1 --flags="--batch_size 32 --gen_train 2"

The budget is the CPU time in which the default recipe trains on --images. A step of the recipe and
a step with --flags are timed in turn. The trial takes as many steps as fit into the budget, and its
learning rates fall to zero at the last one. At four evenly spaced steps it is evaluated with the
published classifier, which adds a line to --output. Every seed has a process with one thread.
"""

import contextlib
import io
import json
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import train_gan
from inside_cnn.engine import cli
from inside_cnn.engine.weights import RESULTS
from inside_cnn.training.provenance import git_commit
from inside_cnn.training.run import TrainingRun

POINTS = 4  # evaluations of a run
UNTIMED_STEPS, TIMED_STEPS, TURNS = 6, 24, 5  # 24 is a multiple of every usual --gen_train
FIGURES = ("test_accuracy", "frechet_distance", "class_consistency")


def parse_args(argv=None):
    parser, at_least = cli.Parser(__doc__), cli.at_least
    add = parser.add_argument
    add("--width", type=at_least(1), default=32, help="channels of both networks")
    add("--images", type=at_least(1), default=280_000, help="images the recipe has time for")
    add("--seeds", type=at_least(0), nargs="+", default=[0], help="runs, side by side")
    add("--flags", type=shlex.split, default=[], help="of train_gan.py, as one argument")
    add("--output", type=Path, default="output/trials.jsonl", help="file to append to")
    args = parser.parse_args(argv)
    train_gan.parse_args(args.flags)  # an error in them ends the program here
    return args


class TimedRun(TrainingRun):
    """A run of `steps` steps that is evaluated at `points` of them. It times its steps."""

    steps = points = None
    cpu_seconds = images = 0

    def load_data(self, *args, **options):
        sets = super().load_data(*args, **options)
        self.scheduled_steps = self.total_steps = self.steps
        self.marks = {round(self.steps * k / self.points) for k in range(1, self.points + 1)}
        return sets

    @property
    def epoch_ends(self):
        return self.step in self.marks

    def batch(self):
        self.step_start = time.process_time()
        batch = super().batch()
        self.images += len(batch)
        return batch

    def advance(self, *args, **options):
        record = super().advance(*args, **options)
        if self.step > UNTIMED_STEPS:
            self.cpu_seconds += time.process_time() - self.step_start
        if record:
            record |= {"images": self.images, "cpu_seconds": round(self.cpu_seconds, 2)}
        return record


def train(args, flags, steps, points, seed=0, scored=True):
    """The log records of a training of that many steps."""
    run = type("Run", (TimedRun,), {"steps": steps, "points": points})
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(train_gan, "TrainingRun", run):
        own = ["--width", args.width, "--seed", seed, "--device", "cpu", "--output_dir", folder]
        own += ["--evaluate_every", 1, "--judge", RESULTS / "baseline"] if scored else []
        with contextlib.redirect_stdout(io.StringIO()):
            train_gan.train(train_gan.parse_args([*flags, *map(str, own)]))
        log = (Path(folder) / "metrics.jsonl").read_bytes()
    return [json.loads(line) for line in log.splitlines()]


def steps_in_budget(args):
    """How many steps of the trial take the CPU time that the recipe has. Both are timed in turn."""
    seconds = [], []
    for _ in range(TURNS):
        for flags, times in zip(([], args.flags), seconds, strict=True):
            (record,) = train(args, flags, UNTIMED_STEPS + TIMED_STEPS, points=1, scored=False)
            times.append(record["cpu_seconds"] / TIMED_STEPS)
    recipe, trial = map(statistics.median, seconds)
    steps = round(args.images / train_gan.RECIPES["muon"]["batch_size"] * recipe / trial)
    print(f"a step takes {trial:.4f} s, of the recipe {recipe:.4f} s: {steps} steps", flush=True)
    return max(1, steps)


def train_seed(args, steps, seed):
    """Train, and append a line to --output for each evaluation; returns the last one."""
    flags = shlex.join(["--width", str(args.width), *args.flags])
    trial = {"trial": "time to quality", "script": "train_gan.py", "flags": flags, "seed": seed}
    trial |= {"budget_images": args.images, "steps": steps, "commit": git_commit(), "device": "CPU"}
    with open(args.output, "a", encoding="utf-8") as file:
        for record in train(args, args.flags, steps, POINTS, seed):
            point = {name: record[name] for name in ("step", "images", "cpu_seconds", *FIGURES)}
            file.write(json.dumps(trial | point) + "\n")
    return point


def run(args):
    """Train every seed for as long as the budget lasts. Raises UserError."""
    args.output.touch()
    torch.set_num_threads(1)
    of_seed = partial(train_seed, args, steps_in_budget(args))
    one_thread = get_context("spawn"), torch.set_num_threads, (1,)
    with ProcessPoolExecutor(len(args.seeds), *one_thread) as pool:
        last = list(pool.map(of_seed, args.seeds))
    print({f"mean {name}": statistics.mean(point[name] for point in last) for name in FIGURES})


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
