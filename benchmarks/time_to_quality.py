"""How good does a GAN get in the same CPU seconds? A setting against today's recipe.

    python benchmarks/time_to_quality.py --width 32 --images 280000 --seeds 0 1
    python benchmarks/time_to_quality.py --seeds 0 1 --flags "--gp_every 4" --variant reused_fakes

The budget is what the default recipe needs for --images at this width. First both settings take a
few steps in turn, on one thread, which tells how long a step is against one of the recipe's: the
trial then gets as many steps as the recipe has time for, and its rates fall to zero at the last of
them. So what else the machine does falls on both, and each budget is a number of steps. A trial is
tested and scored (by the published classifier) at --points steps, evenly spread; at its end a line
for each, with the CPU seconds until then, is added to --output; of a seed that is run again the
last run counts. The seeds run side by side, one thread each. `--time` only says how long a step is,
`--draw` only draws what --output holds.
"""

import contextlib
import io
import json
import math
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
from reporting.file_tables import settings_of
from reporting.markdown import TableError

import train_gan
from engine import cli
from engine.device import describe_device
from engine.output_folder import RunError
from engine.plots import save_charts
from engine.provenance import git_commit
from engine.weights import RESULTS
from training.run import TrainingRun
from variants import UNTIMED_STEPS, VARIANTS

TIMED_STEPS, TURNS = 24, 5  # whole thirds of them: batches that grow do so in thirds
# Flags of train_gan.py that are set here.
OWN_FLAGS = {
    *("--dataset", "--data_dir", "--width", "--seed", "--device", "--output_dir", "--max_steps"),
    *("--max_minutes", "--log_every_steps", "--evaluate_every", "--judge"),
}
USER_ERRORS = (*train_gan.USER_ERRORS, TableError, OSError)
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
    parser.add_argument("--share", type=at_least(0.01, float), default=1.0, help="of that time")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0], help="one run each")
    parser.add_argument("--flags", default="", help="of train_gan.py, in one word")
    parser.add_argument("--variant", choices=VARIANTS, default="none", help="of variants.py")
    parser.add_argument("--points", type=at_least(1), default=4, help="evaluations of a run")
    parser.add_argument("--data_dir", help="folder of CIFAR-10")
    parser.add_argument(
        "--output", type=cli.new_file, default="output/trials.jsonl", help="file to add lines to"
    )
    parser.add_argument("--time", action="store_true", help="only time a step, and tell")
    parser.add_argument("--steps", type=at_least(1), help="of a run, in place of timing a step")
    parser.add_argument("--draw", type=cli.new_file, metavar="FILE", help="only draw the curves")
    args = parser.parse_args(argv)
    try:
        flags = [word.partition("=")[0] for word in shlex.split(args.flags)]
    except ValueError as error:
        parser.error(f"--flags: {error}")
    for flag in flags:
        if flag.startswith("--") and any(own.startswith(flag) for own in OWN_FLAGS):
            parser.error(f"--flags: {flag} is set by this benchmark")
    args.words = sys.argv[1:] if argv is None else argv  # for each seed's own process
    return args


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


def settings(args, flags, seed=0, folder="output", score=False):
    """The training's arguments; score: by the judge too."""
    words = ["--dataset", "cifar10", "--width", args.width, "--seed", seed, "--device", "cpu"]
    words += ["--data_dir", args.data_dir] if args.data_dir else []
    words += ["--output_dir", folder, *shlex.split(flags)]
    words += ["--evaluate_every", 1, "--judge", RESULTS / "baseline"] if score else []
    return train_gan.parse_args([str(word) for word in words])


def trained(args, flags, variant, seed, steps, points, score=True):
    """The records of a new training of so many steps."""
    run = type("Run", (TimedRun,), {"steps": steps, "points": points})
    on_it = mock.patch.object(train_gan, "TrainingRun", run)
    with tempfile.TemporaryDirectory() as folder, VARIANTS[variant](), on_it:
        with contextlib.redirect_stdout(io.StringIO()):
            train_gan.train(settings(args, flags, seed, folder, score))
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def step_against_the_recipe(args):
    """CPU seconds of a step of the recipe, and of the setting, for each in turn: two medians.

    Of whole periods of steps that differ: with a penalty or a generator's step, and without.
    """
    settings_in_turn = ("", "none"), (args.flags, args.variant)
    seconds = [], []
    for _ in range(TURNS):
        for (flags, variant), times in zip(settings_in_turn, seconds, strict=True):
            of_setting = settings(args, flags)
            period = of_setting.gen_train
            steps = period * math.ceil(TIMED_STEPS / period)
            (record,) = trained(
                args,
                flags,
                variant,
                seed=0,
                steps=UNTIMED_STEPS + steps,
                points=1,
                score=False,
            )
            times.append(record["cpu_seconds"] / steps)
    return map(statistics.median, seconds)


def steps_in_the_budget(args):
    recipe, trial = step_against_the_recipe(args)
    of_recipe = args.images / train_gan.RECIPES["muon"]["batch_size"]
    steps = max(1, round(args.share * of_recipe * recipe / trial))
    print(f"a step takes {trial:.4f} s, of the recipe {recipe:.4f} s: {steps} steps", flush=True)
    return steps


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
    records = trained(args, args.flags, args.variant, seed, steps=steps, points=args.points)
    for record in records:
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
    for (flags, variant, share, _), seeds in settings_of(trials).items():
        name = f"{flags} {'' if variant == 'none' else variant}".strip()
        of_time = groups.setdefault(f"{name}, {share:g} of the time", {})
        for of_step in seeds.values():
            for step, point in of_step.items():
                of_time.setdefault(step / point["steps"] * share, []).append(point)
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


def run(args):
    """Time, train, or draw. Raises one of USER_ERRORS."""
    if args.draw:
        draw(args.output, args.draw)
        return
    settings(args, args.flags)  # nonsense in them ends here
    torch.set_num_threads(1)
    if args.steps and len(args.seeds) == 1:
        one_seed(args, args.steps, args.seeds[0])
        return
    steps = args.steps or steps_in_the_budget(args)
    if args.time:
        return
    here = [sys.executable, __file__, *args.words]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([*here, "--steps", str(steps), "--seeds", str(seed)], env=one_thread)
        for seed in args.seeds
    ]
    codes = [run.wait() for run in runs]
    if any(codes):
        raise RunError(f"not every seed came to its end: exit codes {codes}")


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
