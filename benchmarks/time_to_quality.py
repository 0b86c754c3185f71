"""How good does a GAN get in the same CPU seconds? A setting against today's recipe.

    python benchmarks/time_to_quality.py --width 32 --images 280000 --seeds 0 1
    python benchmarks/time_to_quality.py --seeds 0 1 --flags "--gp_every 4" --variant reused_fakes

The budget is what the default recipe needs for --images at this width. First both settings take a
few steps in turn, on one thread, which tells how long a step is against one of the recipe's: the
trial then gets as many steps as the recipe has time for, and its rates fall to zero at the last of
them. So what else the machine does falls on both, and each budget is a number of steps. A trial is
tested and scored (by the published classifier) at every --points-th of its steps; each time a line
with the CPU seconds of its steps goes to --output. The seeds run side by side, one thread each.
"""

import contextlib
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import train_gan
from engine import cli
from engine.device import describe_device
from engine.plots import save_charts
from engine.weights import RESULTS
from training.run import TrainingRun
from variants import UNTIMED_STEPS, VARIANTS

ROOT = Path(__file__).parent.parent
TIMED_STEPS, TURNS = 20, 3
FIGURES = {
    "test_accuracy": "test accuracy of D, %",
    "frechet_distance": "Frechet distance, 2,000 samples",
    "class_consistency": "class consistency, %",
}


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--width", type=at_least(1), default=32, help="of both networks")
    parser.add_argument(
        "--images", type=at_least(1), default=280_000, help="that the recipe has time for"
    )
    parser.add_argument("--share", type=at_least(0, float), default=1.0, help="of that time")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0], help="one run each")
    parser.add_argument("--flags", default="", help="of train_gan.py, in one word")
    parser.add_argument("--variant", choices=VARIANTS, default="none", help="of variants.py")
    parser.add_argument("--points", type=at_least(1), default=4, help="evaluations of a run")
    parser.add_argument("--data_dir", help="folder of CIFAR-10")
    parser.add_argument("--output", default="results/trials/time_to_quality.jsonl")
    parser.add_argument("--steps", type=at_least(1), help="of a run, in place of timing a step")
    parser.add_argument("--draw", metavar="FILE", help="only draw the curves that --output holds")
    return parser.parse_args(argv)


class TimedRun(TrainingRun):
    """A run of so many steps, whose epochs end where it is to be scored; it times its steps."""

    steps = points = None  # set by `trained`
    cpu_seconds = _began = 0.0
    images = 0  # real ones that were trained on

    def load_data(self, *args, **options):
        sets = super().load_data(*args, **options)
        self.scheduled_steps = self.total_steps = self.steps
        self.marks = {round(self.steps * k / self.points) for k in range(1, self.points + 1)}
        return sets

    @property
    def epoch_ends(self):
        return self.step in self.marks

    def batch(self):
        self._began = time.process_time()
        batch = super().batch()
        self.images += len(batch)
        return batch

    def advance(self, *args, **options):
        super().advance(*args, **options)
        if self.step > UNTIMED_STEPS:
            self.cpu_seconds += time.process_time() - self._began

    def log(self, record):
        super().log(record | {"images": self.images, "cpu_seconds": round(self.cpu_seconds, 2)})


def trained(args, flags, variant, seed, steps, points, score=True):
    """The records of a new training of so many steps; score: by the judge too."""
    run = type("Run", (TimedRun,), {"steps": steps, "points": points})
    on_it = mock.patch.object(train_gan, "TrainingRun", run)
    with tempfile.TemporaryDirectory() as folder, VARIANTS[variant](), on_it:
        words = ["--dataset", "cifar10", "--width", args.width, "--seed", seed, "--device", "cpu"]
        words += ["--data_dir", args.data_dir] if args.data_dir else []
        words += ["--output_dir", folder, *shlex.split(flags)]
        if score:
            words += ["--evaluate_every", 1, "--judge", RESULTS / "baseline"]
        with contextlib.redirect_stdout(io.StringIO()):
            train_gan.train(train_gan.parse_args([str(word) for word in words]))
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def step_against_the_recipe(args):
    """CPU seconds of a step of the recipe, and of the setting, for each in turn: two medians."""
    seconds = {"recipe": [], "trial": []}
    for _ in range(TURNS):
        for name, (flags, variant) in {
            "recipe": ("", "none"),
            "trial": (args.flags, args.variant),
        }.items():
            (record,) = trained(
                args, flags, variant, 0, UNTIMED_STEPS + TIMED_STEPS, 1, score=False
            )
            seconds[name].append(record["cpu_seconds"] / TIMED_STEPS)
    return (statistics.median(times) for times in seconds.values())


def one_seed(args, steps, seed):
    """Train, and write a line for each evaluation, and for each other average that was kept."""
    about = {
        "trial": "time to quality",
        "script": "train_gan.py",
        "flags": f"--width {args.width} {args.flags}".strip(),
        "variant": args.variant,
        "seed": seed,
        "share": args.share,
        "budget_images": args.images,
        "commit": git_commit(),
        "device": describe_device(torch.device("cpu")),
        "steps": steps,
    }
    for record in trained(args, args.flags, args.variant, seed, steps, args.points):
        point = {name: record[name] for name in ("step", "images", "cpu_seconds", *FIGURES)}
        lines = [about | point]
        for name in record:
            if name.startswith("frechet_distance of "):
                decay = name.rpartition(" ")[2]
                own = {
                    figure: record.get(f"{figure} of {decay}", record[figure]) for figure in FIGURES
                }
                variant = {"variant": f"{args.variant} of {decay}"}
                lines.append(about | variant | point | own)
        with open(args.output, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def draw(trials, path):
    """A chart for each figure over the recipe's time: the mean of the seeds, and each as a dot."""
    groups = {}
    for line in Path(trials).read_text().splitlines():
        point = json.loads(line)
        name = f"{point['flags']} {'' if point['variant'] == 'none' else point['variant']}".strip()
        of_point = groups.setdefault(f"{name}, {point['share']:g} of the time", {})
        of_point.setdefault(point["step"] / point["steps"] * point["share"], []).append(point)
    charts = {}
    for figure, title in FIGURES.items():
        lines = {}
        for index, (name, points) in enumerate(groups.items()):
            means = [statistics.mean(p[figure] for p in of_time) for of_time in points.values()]
            lines[name] = (list(points), means, {"color": f"C{index}"})
            dots = [(time, p[figure]) for time, of_time in points.items() for p in of_time]
            style = {"color": f"C{index}", "linestyle": "", "marker": "o", "markersize": 3}
            lines[f"_{name}"] = (*zip(*dots, strict=True), style)
        x = "CPU time, as a share of the recipe's"
        charts[title] = {"x": x, "y": title.partition(",")[0], "lines": lines}
    save_charts(charts, path, columns=3, legend_below=True)


def git_commit():
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main(argv=None):
    args = parse_args(argv)
    if args.draw:
        draw(args.output, args.draw)
        return 0
    torch.set_num_threads(1)
    if args.steps:
        one_seed(args, args.steps, args.seeds[0])
        return 0
    recipe, trial = step_against_the_recipe(args)
    of_recipe = args.images / train_gan.RECIPES["muon"]["batch_size"]
    steps = round(args.share * of_recipe * recipe / trial)
    print(f"a step takes {trial:.4f} s, of the recipe {recipe:.4f} s: {steps} steps", flush=True)
    here = [sys.executable, __file__, *(argv or sys.argv[1:])]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([*here, "--steps", str(steps), "--seeds", str(seed)], env=one_thread)
        for seed in args.seeds
    ]
    return max(run.wait() for run in runs)


if __name__ == "__main__":
    sys.exit(main())
