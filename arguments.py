"""The command-line flags that mean the same in every script, and how their values are checked."""

import argparse

from data_tools import DATASETS, DEFAULT_DATA_DIR
from runtime import DEVICE_HELP, PRECISION_HELP

# A run may be resumed with other values of these flags; any other difference is refused.
MAY_CHANGE = (
    *("epochs", "max_steps", "data_dir", "output_dir", "device", "resume"),
    *("log_every_steps", "save_every_epochs"),
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, exit code 2, and whose help shows defaults."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def at_least(low, kind=int):
    """An argparse type: a number of that kind, finite and not below `low`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value < float("inf"):
            number = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {number} of at least {low}, not {text!r}")
        return value

    return parse


def share(text):
    """An argparse type: a number in [0, 1)."""
    value = at_least(0, float)(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, not {text!r}")
    return value


def add_data_arguments(parser):
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="auto",
        help="auto takes CIFAR-10 where it is found or can be downloaded, else the built-in shapes",
    )
    group.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="folder of CIFAR-10")
    group.add_argument(
        "--limit_train", type=at_least(1), help="train on the first N images only (default: all)"
    )
    group.add_argument(
        "--limit_test", type=at_least(1), help="test on the first N images only (default: all)"
    )


def add_device_arguments(parser):
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help=DEVICE_HELP)
    group.add_argument("--precision", default="auto", help=PRECISION_HELP)
    group.add_argument("--seed", type=at_least(0), default=0, help="of every random number")


def add_run_arguments(parser, output_dir):
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", default=output_dir, help="the run's folder")
    group.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto goes on with the run in --output_dir if there is one, never refuses it. These "
        "flags may differ from the first run's: " + " ".join(f"--{name}" for name in MAY_CHANGE),
    )
    group.add_argument(
        "--max_steps", type=at_least(1), help="end the run after N discriminator steps"
    )
    group.add_argument(
        "--save_every_epochs",
        type=at_least(1),
        default=1,
        help="write a checkpoint and export the weights every N epochs",
    )
    group.add_argument(
        "--log_every_steps",
        type=at_least(0),
        default=0,
        help="also log the training figures every N steps (0: at the end of each epoch only)",
    )


def add_recipe_argument(parser, recipes, default):
    """--recipe, which sets every flag that add_recipe_flag added and the user left out."""
    parser.add_argument(
        "--recipe", choices=sorted(recipes), default=default, help="set of defaults"
    )


def fill_in_recipe(args, recipes):
    """Give every flag that the user left out the recipe's value."""
    for name, value in recipes[args.recipe].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args
