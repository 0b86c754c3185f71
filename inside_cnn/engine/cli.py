"""What every script does at its command line: flags, errors in one line, exit codes."""

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path

from inside_cnn.core.device import COMPILE_HELP, DEVICE_HELP, PRECISION_HELP
from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import DATASETS, DEFAULT_DATA_DIR
from inside_cnn.data.folder import MAX_CLASSES

DIVERGED, SAVE_FAILED = 3, 4  # exit codes

# A run may be resumed with other values of these flags; any other difference is refused.
MAY_CHANGE = (
    *("epochs", "max_steps", "data_dir", "output_dir", "device", "compile", "resume"),
    *("log_every_steps", "save_every_epochs", "save_every_minutes", "max_minutes"),
    *("evaluate_every", "judge", "tensorboard"),
)


class _Formatter(argparse.HelpFormatter):
    """Adds every default to its flag's help, except None."""

    def _get_help_string(self, action):
        has_default = action.default not in (None, argparse.SUPPRESS)
        return action.help + (" (default: %(default)s)" if has_default else "")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, exit code 2, and whose help shows defaults."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=_Formatter)

    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _number(kind, text):
    """The int or float in a text; NaN, which is in no range, if it is not one."""
    try:
        return kind(text)
    except ValueError:
        return math.nan


def at_least(low, kind=int, high=float("inf")):
    """An argparse type: a number of that kind, not below `low`, and below `high`."""

    def parse(text):
        value = _number(kind, text)
        if not low <= value < high:
            number = "a whole number" if kind is int else "a number"
            limits = f"of at least {low}" + (f" and below {high}" if high < float("inf") else "")
            raise argparse.ArgumentTypeError(f"must be {number} {limits}, not {text!r}")
        return value

    return parse


def new_file(text):
    """An argparse type: a file that can be written, in a folder that is there."""
    path = Path(text)
    folder = path.absolute().parent
    place = path if path.exists() else folder
    if path.is_dir() or not folder.is_dir() or not os.access(place, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot write there")
    return path


def switch(text):
    """An argparse type: True or False out of the word that older scripts put behind a flag."""
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return words[text.lower()]


def pixel_levels(text):
    """An argparse type: levels of a pixel that ranges from 0 to 255, out of `8` or `8/255`."""
    epsilon = _number(float, text.removesuffix("/255"))
    if not 0 <= epsilon <= 255:
        raise argparse.ArgumentTypeError(f"must be 0 to 255, as 8 or 8/255, not {text!r}")
    if 0 < epsilon < 0.25:
        raise argparse.ArgumentTypeError(
            f"is in pixel levels of 0 to 255: write 8 or 8/255, not {text!r}"
        )
    return epsilon


def add_data_arguments(parser, training=False, limits=("train", "test")):
    """--dataset, --data_dir, and a --limit_ of the images of each part named in `limits`.

    training: CIFAR-10 is the default, else the set that the networks were trained on.
    """
    auto = "that which the networks were trained on"
    if training:
        auto = "CIFAR-10 where it is found or can be downloaded, else the built-in shapes"
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="cifar10" if training else "auto",
        help=f"auto takes {auto}; folder takes your own images, of 2 to {MAX_CLASSES} classes",
    )
    group.add_argument(
        "--data_dir",
        help=f"folder of CIFAR-10 (default: {DEFAULT_DATA_DIR}); of your own images: it holds "
        "train/CLASS/* and test/CLASS/*, or CLASS/* alone, of which a tenth is for the test",
    )
    for part in limits:
        limit_help = f"{part} on the first N images only"
        group.add_argument(f"--limit_{part}", type=at_least(1), metavar="N", help=limit_help)


def add_hold_out_argument(parser):
    parser.add_argument(
        "--hold_out",
        type=at_least(0),
        default=0,
        metavar="N",
        help="leave the last N training images out, as many of each class, and evaluate on them "
        "instead of the test set: for choosing hyperparameters",
    )


def add_judge_argument(parser):
    parser.add_argument(
        "--judge",
        help="exported weights of a classifier, or a folder (default: output/baseline, else "
        "results/baseline)",
    )


def add_device_arguments(parser, seed=True):
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help=DEVICE_HELP)
    group.add_argument("--precision", default="auto", help=PRECISION_HELP)
    if seed:
        number = at_least(0, high=2**63)
        group.add_argument("--seed", type=number, default=0, help="of every random number")


def add_run_arguments(parser, output_dir):
    group = parser.add_argument_group("run")
    group.add_argument("--compile", choices=("auto", "off"), default="auto", help=COMPILE_HELP)
    group.add_argument("--output_dir", default=output_dir, help="the run's folder")
    group.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto goes on with the run in --output_dir if there is one, never refuses it. These "
        "flags may differ from the first run's: "
        + " ".join(f"--{name}" for name in MAY_CHANGE)
        + "; but not --epochs where the learning rate falls to 0 at their end",
    )
    group.add_argument(
        "--max_steps",
        type=at_least(1),
        metavar="N",
        help="end the run after N discriminator steps; an epoch cut short gets its own log line",
    )
    group.add_argument(
        "--save_every_epochs",
        type=at_least(1),
        default=1,
        help="write a checkpoint and export the weights every N epochs",
    )
    group.add_argument(
        "--save_every_minutes",
        type=at_least(0, float),
        metavar="M",
        help="also write a checkpoint, in mid-epoch if need be, M minutes after the last",
    )
    group.add_argument(
        "--max_minutes",
        type=at_least(0, float),
        metavar="M",
        help="stop after M minutes with a checkpoint and exit code 0; the same command goes on",
    )
    group.add_argument(
        "--log_every_steps",
        type=at_least(0),
        default=0,
        help="also log the training metrics every N steps (0: at the end of each epoch only)",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write figures, sample grids and settings for TensorBoard, into the run's folder",
    )


def add_recipe_arguments(parser, recipes, default, flags):
    """--recipe, and the flags that it sets where the user leaves them out.

    flags: {name: keyword arguments of add_argument}; their help then tells each recipe's value.
    """
    parser.add_argument(
        "--recipe", choices=sorted(recipes), default=default, help="set of defaults"
    )
    group = parser.add_argument_group("training")
    for name, options in flags.items():
        values = ", ".join(f"{recipe}: {recipes[recipe][name]}" for recipe in sorted(recipes))
        group.add_argument(f"--{name}", **options | {"help": f"{options['help']} ({values})"})


def fill_in_recipe(parser, args, recipes, conditions=()):
    """Give every flag that the user left out the recipe's value.

    conditions: (names of flags, words, test of args). Where args do not pass the test, the flags do
    nothing, and one that was given is an error; the words say what it goes with.
    """
    given = {name for name in recipes[args.recipe] if getattr(args, name) is not None}
    for name, value in recipes[args.recipe].items():
        if name not in given:
            setattr(args, name, value)
    for names, words, test in conditions:
        for name in sorted(given & set(names)):
            if not test(args):
                parser.error(f"--{name} does nothing here: it goes with {words}")
    return args


class Stopped(Exception):
    """The run ended before its end was reached, or without all its files; the message says why."""

    def __init__(self, exit_code, message):
        super().__init__(exit_code, message)  # both, or it could not travel between processes
        self.exit_code, self.message = exit_code, message

    def __str__(self):
        return self.message


class _Tolerant:
    """A text stream that drops what it cannot write: to a full disk, say, or a closed pipe.

    After the first failure the stream's file is /dev/null, so that nothing fails at exit either.
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
    """Call run(args), a script's work, and return the script's exit code.

    A UserError, or an OSError on a path in `args`, becomes one line on stderr and exit code 2. Any
    other exception is a bug and is raised. A print that fails does not end the run.
    """
    with open(os.devnull, "w") as nowhere:
        # Python has None for a stream that was closed at the start.
        streams = sys.stdout or nowhere, sys.stderr or nowhere
        for stream in streams:
            with contextlib.suppress(AttributeError):  # a stream of another kind may replace it
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
        print(stopped, flush=True)
        return stopped.exit_code
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and not _is_user_path(error.filename, args):
            raise
        if not getattr(error, "silent", False):  # rank 0 of the same run prints it
            is_os = isinstance(error, OSError)
            text = f"cannot use {error.filename}: {error.strerror}" if is_os else error
            line = "".join(c if c.isprintable() else "?" for c in str(text))
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _is_user_path(path, args):
    """Whether a path is one of the arguments, or lies below one."""
    if not isinstance(path, str | Path):
        return False
    named = {os.path.abspath(v) for v in vars(args).values() if v and isinstance(v, str | Path)}
    path = os.path.abspath(path)
    return any(str(place) in named for place in (path, *Path(path).parents))
