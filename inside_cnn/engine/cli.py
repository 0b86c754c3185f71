"""Command line of every script: flags, one-line errors, exit codes."""

import argparse
import contextlib
import itertools
import math
import os
import sys
from pathlib import Path

from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import DATASETS, DEFAULT_DATA_DIR
from inside_cnn.data.folder import MAX_CLASSES

DIVERGED, SAVE_FAILED = 3, 4  # exit codes
MAX_SIZE = 4096  # of width, latent_dim and num_classes

# A resumed run may have other values of these flags; any other difference is refused.
MAY_CHANGE = (
    *("epochs", "max_steps", "data_dir", "output_dir", "device", "compile", "resume"),
    *("log_every_steps", "save_every_epochs", "save_every_minutes", "max_minutes"),
    "tensorboard",
)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Omits a default of None."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with one-line errors, exit code 2, and defaults in its help.

    doc: the docstring of the script, whose first paragraph is the description; None with -OO.
    """

    def __init__(self, doc):
        description = (doc or "").partition("\n\n")[0]
        super().__init__(description=description, formatter_class=_Formatter)

    def parse_args(self, argv=None):
        """The arguments, with "~" at the start of a path expanded: the shell leaves --flag=~/a."""
        args = super().parse_args(argv)
        for name, value in vars(args).items():
            if isinstance(value, str | Path):
                setattr(args, name, type(value)(os.path.expanduser(value)))
            elif isinstance(value, list):
                value[:] = [os.path.expanduser(v) if isinstance(v, str) else v for v in value]
        return args

    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _number(kind, text):
    """The int or float in a text; NaN, which is in no range, if there is none."""
    try:
        return kind(text)
    except ValueError:
        return math.nan


def at_least(low, kind=int, high=math.inf):
    """An argparse type: an int or float in [low, high)."""

    def parse(text):
        value = _number(kind, text)
        if not low <= value < high:
            number = "a whole number" if kind is int else "a number"
            limits = f"of at least {low}" + (f" and below {high}" if high < math.inf else "")
            raise argparse.ArgumentTypeError(f"must be {number} {limits}, not {text!r}")
        return value

    return parse


size = at_least(1, high=MAX_SIZE + 1)  # an argparse type


def switch(text):
    """An argparse type: the `True` or `False` of the homework's `--perturb_images True`."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return text.lower() == "true"


def pixel_levels(text):
    """An argparse type: `8` or `8/255` -> 8.0, a difference of pixels in [0, 255]."""
    epsilon = _number(float, text.removesuffix("/255"))
    if not (epsilon == 0 or 0.25 <= epsilon <= 255):
        raise argparse.ArgumentTypeError(
            f"must be in pixel levels of 0 to 255: write 8 or 8/255, not {text!r}"
        )
    return epsilon


def add_data_arguments(parser, training=False, limits=("train", "test")):
    """Add --dataset, --data_dir and a --limit_ for each part named in `limits`.

    training: also add --hold_out; the default is CIFAR-10 instead of the networks' training set.
    """
    auto = "the set that the networks were trained on"
    if training:
        auto = "CIFAR-10 if it is found or can be downloaded, else the built-in shapes"
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="cifar10" if training else "auto",
        help=f"auto: {auto}; folder: your own images, of 2 to {MAX_CLASSES} classes",
    )
    group.add_argument(
        "--data_dir",
        help=f"folder of CIFAR-10 (default: {DEFAULT_DATA_DIR}) or of your own images: "
        "train/CLASS/* and test/CLASS/*, or CLASS/* alone, of which a tenth is the test set",
    )
    for part in limits:
        limit_help = f"{part} on the first N images only"
        group.add_argument(f"--limit_{part}", type=at_least(1), metavar="N", help=limit_help)
    if training:
        held_out = "evaluate on the last N training images, balanced over the classes, instead of "
        held_out += "the test set, and do not train on them: for choosing hyperparameters"
        group.add_argument("--hold_out", type=at_least(0), default=0, metavar="N", help=held_out)


def add_judge_argument(parser):
    parser.add_argument(
        "--judge",
        help="exported weights of a classifier, or a folder (default: output/baseline, else "
        "results/baseline)",
    )


def add_device_arguments(parser, seed=True):
    group = parser.add_argument_group("machine")
    devices = "auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"
    group.add_argument("--device", default="auto", help=devices)
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="fp32, bf16 (autocast; weights and losses stay float32), or auto: bf16 where the chip "
        "multiplies it in hardware",
    )
    if seed:
        number = at_least(0, high=2**63)
        group.add_argument("--seed", type=number, default=0, help="of all random numbers")


def add_run_arguments(parser, output_dir):
    add = parser.add_argument_group("run").add_argument
    add(
        "--compile",
        choices=("auto", "off"),
        default="auto",
        help="of training on CUDA: auto has torch.compile make LayerNorm's kernels, pads maps to a "
        "multiple of 16 channels in bf16, and, with one process, captures the step as a CUDA graph",
    )
    add("--output_dir", default=output_dir, help="the run's folder")
    add(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: resume the run in --output_dir if there is one; never: refuse it. A resumed "
        "run may change these flags: "
        + " ".join(f"--{name}" for name in MAY_CHANGE)
        + "; but not --epochs if the learning rate falls to 0 at the end",
    )
    step, minutes = at_least(1), at_least(0, float)
    add("--max_steps", type=step, metavar="N", help="end the run after N discriminator steps")
    every = "save a checkpoint and the weights every N epochs"
    add("--save_every_epochs", type=step, default=1, metavar="N", help=every)
    every = "also save a checkpoint M minutes after the last one, within an epoch if necessary"
    add("--save_every_minutes", type=minutes, metavar="M", help=every)
    limit = "save a checkpoint and exit with code 0 after M minutes; the same command resumes"
    add("--max_minutes", type=minutes, metavar="M", help=limit)
    every = "also log the training metrics every N steps (0: at the end of each epoch only)"
    add("--log_every_steps", type=at_least(0), default=0, metavar="N", help=every)
    board = "also write metrics, sample grids and settings for TensorBoard to the run's folder"
    add("--tensorboard", action="store_true", help=board)


def add_recipe_arguments(parser, recipes, default, flags):
    """Add --recipe and the flags whose default values it sets.

    flags: {name: keyword arguments of add_argument}; each recipe's value is added to their help.
    """
    choices = sorted(recipes)
    parser.add_argument("--recipe", choices=choices, default=default, help="set of defaults")
    group = parser.add_argument_group("training")
    for name, options in flags.items():
        values = ", ".join(f"{recipe}: {recipes[recipe][name]}" for recipe in choices)
        group.add_argument(f"--{name}", **options | {"help": f"{options['help']} ({values})"})


def fill_in_recipe(parser, args, recipes, conditions=()):
    """Set every flag that the user did not give to the recipe's value.

    conditions: (names of flags, what they go with, test of args). If args fail the test, the flags
    have no effect, and giving one of them is an error.
    """
    given = {name for name in recipes[args.recipe] if getattr(args, name) is not None}
    for name, value in recipes[args.recipe].items():
        if name not in given:
            setattr(args, name, value)
    for names, companion, test in conditions:
        for name in sorted(given & set(names)):
            if not test(args):
                parser.error(f"--{name} has no effect here: it goes with {companion}")
    return args


class Stopped(Exception):
    """Stopped(exit code, reason): the run stopped early or could not write all its files."""


class _Tolerant:
    """A text stream that discards what it cannot write to a full disk or a closed pipe.

    After the first failure it writes to /dev/null, so that the flush at exit succeeds too.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def _try(self, action, *args):
        try:
            return action(*args)
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def write(self, text):
        return self._try(self._stream.write, text)

    def flush(self):
        return self._try(self._stream.flush)


def exit_code_of(run, args):
    """Call run(args) and return the exit code of the script.

    A UserError, an OSError on a path in `args`, or a lack of memory becomes one line on stderr and
    exit code 2. Any other exception is a bug and is raised. A failing print does not end the run.
    """
    if sys.platform == "win32":
        print("error: on Windows, run this in WSL", file=sys.stderr)
        return 2
    with open(os.devnull, "w") as null:
        streams = sys.stdout or null, sys.stderr or null  # None if closed at the start
        for stream in streams:
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a path may have any bytes
        out, err = map(_Tolerant, streams)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                return _run(run, args)
            finally:
                out.flush()


def _run(run, args):
    try:
        run(args)
    except Stopped as stopped:
        exit_code, reason = stopped.args
        print(reason, flush=True)
        return exit_code
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and not _is_user_path(error.filename, args):
            raise
        if not getattr(error, "silent", False):  # rank 0 of the same run prints it
            is_os = isinstance(error, OSError)
            text = f"cannot use {error.filename}: {error.strerror}" if is_os else error
            line = "".join(c if c.isprintable() else "?" for c in str(text))
            print(f"error: {line}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        is_cpu = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not (is_cpu or "out of memory" in str(error)):
            raise
        remedy = "; use a smaller --batch_size" if hasattr(args, "batch_size") else ""
        print(f"error: out of memory on the {'CPU' if is_cpu else 'GPU'}{remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _is_user_path(path, args):
    """Whether a path is in one of the arguments, or in the default folder of CIFAR-10."""
    if not isinstance(path, str | Path):
        return False
    values = [*vars(args).values(), DEFAULT_DATA_DIR]
    flat = itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in values)
    named = [os.path.abspath(v) for v in flat if v and isinstance(v, str | Path)]
    return any(Path(os.path.abspath(path)).is_relative_to(each) for each in named)
