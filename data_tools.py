"""Datasets by name, and the order of the images of an epoch.

`python data_tools.py --data_dir data` downloads CIFAR-10, verifies it, prints its statistics and
writes a labeled 10x10 preview.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from inside_cnn.core.output_folder import writing_to
from inside_cnn.data.cifar10 import load_cifar10
from inside_cnn.data.dataset import DataMissing, Dataset, are_names, shown_classes, words_of_shown
from inside_cnn.data.folder import MAX_CLASSES, load_folder
from inside_cnn.data.pixels import mean_image, to_signed, to_uint8
from inside_cnn.data.shapes import load_shapes

__all__ = [
    "DATASETS",
    "DEFAULT_DATA_DIR",
    "MAX_CLASSES",
    "DataMissing",
    "Dataset",
    "are_names",
    "epoch_order",
    "load_dataset",
    "load_shapes",
    "mean_image",
    "shown_classes",
    "to_signed",
    "to_uint8",
    "words_of_shown",
]

DATASETS = ("auto", "cifar10", "shapes", "folder")
DEFAULT_DATA_DIR = os.environ.get("CIFAR10_DIR") or "data"


def load_dataset(name, data_dir=None, download=True):
    """(train, test) of a dataset by its name.

    `cifar10`; the built-in `shapes`; `auto`, CIFAR-10 if it is there or can be downloaded, else the
    shapes; `folder`, the user's own images.
    data_dir: the folder of cifar-10-batches-py, by default DEFAULT_DATA_DIR; for `folder`, that of
    the images, which has to be given.
    Raises UserError if the files are missing, corrupt or cannot be downloaded, ValueError for an
    unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, not {name!r}")
    if name == "shapes":
        return load_shapes()
    if name == "folder":
        if not data_dir:
            raise DataMissing("give --data_dir, the folder of your own images")
        return load_folder(data_dir)
    try:
        return load_cifar10(data_dir or DEFAULT_DATA_DIR, download)
    except DataMissing as reason:
        if name == "cifar10":
            raise
        drawn = load_shapes()
        why = f"{drawn[0].source}, used because CIFAR-10 is not available ({reason})"
        return tuple(replace(part, source=why) for part in drawn)


def epoch_order(count, seed, epoch):
    """The order of an epoch's images, int64 (count,): a function of (seed, epoch)."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


# ------------------------------------------------------------------------------ command line


def preview(dataset, path):
    """Write a picture of ten images of each class, one labelled column per class."""
    from inside_cnn.engine.plots import save_image_grid  # here, since only this command draws

    indices, names, some = dataset.columns()
    save_image_grid(dataset.images[indices], path, names, dataset.name + some)


def parse_args(argv=None):
    from inside_cnn.engine.cli import Parser

    parser = Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="image set")
    parser.add_argument(
        "--data_dir",
        help=f"folder of CIFAR-10 (default: {DEFAULT_DATA_DIR}), or of your own images",
    )
    parser.add_argument("--output", default="output/data_preview.png", help="preview picture")
    return parser.parse_args(argv)


def run(args):
    """Print the statistics of a set, and write its preview. Raises UserError."""
    train, test = load_dataset(args.dataset, args.data_dir)
    with writing_to(Path(args.output).parent):
        preview(train, args.output)
    print(train.source)
    width = max(map(len, (*train.class_names, " " * 12)))
    print(f"{'class':<{width}}   train    test")
    for index, name in enumerate(train.class_names):
        counts = [int((part.labels == index).sum()) for part in (train, test)]
        print(f"{name:<{width}} {counts[0]:>7} {counts[1]:>7}")
    for part, name in ((train, "train"), (test, "test")):
        channels = part.images.transpose(0, 1).flatten(1)
        pixels = [channel.double().div_(255) for channel in channels]
        mean, std = (" ".join(f"{f(p):.4f}" for p in pixels) for f in (torch.mean, torch.std))
        print(f"{name}: mean of R, G, B in [0, 1] {mean}; std {std}")
    print(f"preview: {args.output}")


def main(argv=None):
    from inside_cnn.engine.cli import exit_code_of

    return exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
