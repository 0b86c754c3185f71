"""Datasets by name, and the order of the images of an epoch.

`python data_tools.py --data_dir data` downloads CIFAR-10, verifies it, prints the sizes of its
classes and writes a labeled preview.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import writing_to
from inside_cnn.data.cifar10 import find_cifar10, load_cifar10
from inside_cnn.data.dataset import DATASETS, DEFAULT_DATA_DIR, DataMissing, Dataset
from inside_cnn.data.folder import holds_pictures, load_folder
from inside_cnn.data.pixels import to_signed, to_uint8
from inside_cnn.data.shapes import load_shapes

__all__ = ["DataMissing", "Dataset", "load_dataset", "load_shapes", "to_signed", "to_uint8"]


def load_dataset(name, data_dir=None, download=True, size=32):
    """(train, test) of a dataset by its name.

    name: `cifar10`; `shapes`, which is built in; `folder`, the user's own images; `auto`: the
    images in data_dir, or without data_dir CIFAR-10 if it exists or can be downloaded, else the
    shapes.
    data_dir: the folder of cifar-10-batches-py, by default DEFAULT_DATA_DIR; required for `folder`.
    size: side in pixels of the user's own images; the other datasets, and the trainings, have 32.
    Raises UserError if the files are missing, corrupt or cannot be downloaded, ValueError for an
    unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, not {name!r}")
    if name == "shapes":
        return load_shapes()
    if name == "folder" and not data_dir:
        raise DataMissing("give --data_dir, the folder of your own images")
    if name != "folder" and data_dir and find_cifar10(data_dir)[0] is None:
        own_images = holds_pictures(data_dir)
        if own_images and name == "cifar10":
            remedy = "give --dataset folder, or another --data_dir"
            raise UserError(f"{data_dir} holds pictures, not CIFAR-10; {remedy}")
        name = "folder" if own_images else "cifar10"
    if name == "folder":
        return load_folder(data_dir, size)
    try:
        return load_cifar10(data_dir or DEFAULT_DATA_DIR, download)
    except DataMissing as reason:
        if name == "cifar10":
            raise
        shapes = load_shapes()
        source = f"{shapes[0].source}, used because CIFAR-10 is not available ({reason})"
        return tuple(replace(part, source=source) for part in shapes)


def epoch_order(count, seed, epoch):
    """The order of an epoch's images, int64 (count,): a function of (seed, epoch)."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


# ------------------------------------------------------------------------------ command line


def run(args):
    """Print the class sizes of a dataset and write its preview. Raises UserError."""
    from inside_cnn.engine.plots import save_image_grid  # here, since only this command needs it

    train, test = load_dataset(args.dataset, args.data_dir)
    indices, names, note = train.columns()
    with writing_to(Path(args.output).parent):
        save_image_grid(train.images[indices], args.output, names, train.name + note)
    print(train.source)
    width = max(12, *map(len, train.class_names))
    print(f"{'class':<{width}}   train    test")
    for label, name in enumerate(train.class_names):
        counts = [int((part.labels == label).sum()) for part in (train, test)]
        print(f"{name:<{width}} {counts[0]:>7} {counts[1]:>7}")
    print(f"preview: {args.output}")


def main(argv=None):
    from inside_cnn.engine.cli import Parser, exit_code_of

    parser = Parser(__doc__)
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="dataset")
    parser.add_argument(
        "--data_dir",
        help=f"folder of CIFAR-10 (default: {DEFAULT_DATA_DIR}), or of your own images",
    )
    parser.add_argument("--output", default="output/data_preview.png", help="preview figure")
    return exit_code_of(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
