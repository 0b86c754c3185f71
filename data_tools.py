"""Images on disk -> uint8 tensors, the batch order of an epoch, and the scaling of pixels.

`python data_tools.py --data_dir data` downloads CIFAR-10, verifies it, prints its statistics and
writes a labelled 10x10 preview.
"""

import base64
import binascii
import functools
import hashlib
import os
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

import shapes

DATASETS = ("auto", "cifar10", "shapes")
DEFAULT_DATA_DIR = os.environ.get("CIFAR10_DIR", "data")
CIFAR10_FOLDER = CIFAR10.base_folder  # cifar-10-batches-py
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
DOWNLOAD_STALL_SECONDS = 20
SHAPES = 1  # spawn key of the random numbers that draw the built-in set


class DataError(Exception):
    """The data cannot be used; the message says why and what to do."""


class DataMissing(DataError):
    """The data are not there, and were not to be had."""


@dataclass
class Dataset:
    """images: uint8 (n, 3, 32, 32); labels: int64 (n,); source: where they came from, in words."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    source: str

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def first(self, count):
        """The first `count` images; None or a count past the end takes all."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def facts(self):
        """What exported weights tell of the set that they were made with, as plain values.

        mean_image: of the first 128 images, where maximisations start; see `mean_image`.
        """
        mean = self.images[:128].float().mean(0).round().to(torch.uint8)
        text = base64.b64encode(mean.cpu().numpy().tobytes()).decode()
        return {"dataset": self.name, "class_names": list(self.class_names), "mean_image": text}


def mean_image(facts):
    """The uint8 (1, 3, 32, 32) out of what Dataset.facts gave; None where there is none."""
    text = facts.get("mean_image")
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return None
    shape = (1, 3, 32, 32)
    if len(data) != np.prod(shape):
        return None
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


# ------------------------------------------------------------------------------ loading


def load_dataset(name, data_dir=DEFAULT_DATA_DIR, download=True):
    """(train, test) of `cifar10`, of the built-in `shapes`, or (`auto`) of the first to be had.

    data_dir: folder that holds, or is to hold, cifar-10-batches-py.
    Raises DataError where the files are missing, damaged or cannot be downloaded, ValueError for an
    unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, not {name!r}")
    if name == "shapes":
        return load_shapes()
    try:
        return load_cifar10(data_dir, download)
    except DataMissing as reason:
        if name == "cifar10":
            raise
        drawn = load_shapes()
        why = f"{drawn[0].source}, taken because CIFAR-10 is not to be had ({reason})"
        return tuple(replace(part, source=why) for part in drawn)


@functools.cache
def load_shapes(num_train=20_000, num_test=2_000, seed=0):
    """The built-in set as (train, test); the same images for the same arguments."""
    source = f"the built-in shapes set, {num_train:,} + {num_test:,} drawn images"
    # A spawn key, since (seed, 0) and (seed, 1) are the streams of the first epochs' orders.
    seeds = (np.random.SeedSequence(seed, spawn_key=(SHAPES, part)) for part in range(2))
    drawn = map(shapes.draw_shapes, (num_train, num_test), seeds)
    return tuple(
        Dataset("shapes", torch.from_numpy(x), torch.from_numpy(y), shapes.CLASS_NAMES, source)
        for x, y in drawn
    )


def load_cifar10(data_dir, download=True):
    """The 50,000 training and 10,000 test images as (train, test), after checking every file's MD5.

    An archive cifar-10-python.tar.gz that lies in data_dir is unpacked; with `download`, a missing
    one is fetched first. Raises DataMissing or DataError.
    """
    data_dir = Path(data_dir)
    folder = data_dir / CIFAR10_FOLDER
    try:
        if not folder.is_dir():
            _obtain_cifar10(data_dir, download)
        files = [*CIFAR10.train_list, *CIFAR10.test_list]
        files.append([CIFAR10.meta["filename"], CIFAR10.meta["md5"]])
        for filename, md5 in files:
            _check_file(folder / filename, md5)
        with warnings.catch_warnings():
            # The official pickles spell a dtype flag as 0 where NumPy >= 2.4 wants False.
            warnings.simplefilter("ignore")
            parts = [CIFAR10(data_dir, train=train) for train in (True, False)]
    except OSError as error:
        raise DataError(
            f"cannot use {error.filename or folder}: {error.strerror or error}"
        ) from None
    source = f"CIFAR-10 from {folder} (every file has its official MD5)"
    return tuple(
        Dataset(
            "cifar10",
            torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()),  # NHWC -> NCHW
            torch.tensor(part.targets),
            CIFAR10_CLASSES,
            source,
        )
        for part in parts
    )


def _check_file(path, md5):
    if not path.is_file():
        raise DataError(f"{path} is missing; delete {path.parent} and run again to fetch it anew")
    if not check_integrity(str(path), md5):
        raise DataError(
            f"{path} is damaged or altered (its MD5 is not the official {md5}); "
            f"delete {path.parent} and run again to fetch it anew"
        )


def _obtain_cifar10(data_dir, download):
    """Make data_dir/cifar-10-batches-py out of the archive, all of it or nothing."""
    archive = data_dir / CIFAR10.filename
    missing = (
        f"no CIFAR-10 in {data_dir.absolute()} (looked for {CIFAR10_FOLDER} and {CIFAR10.filename})"
    )
    way_out = "give --data_dir, or take --dataset shapes"
    if not archive.is_file() and not download:
        raise DataMissing(f"{missing}; {way_out}")
    # Work in a folder of our own and move the finished result into place with one rename.
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        workplace = tempfile.TemporaryDirectory(
            prefix=".cifar10-", dir=data_dir, ignore_cleanup_errors=True
        )
    except OSError as error:
        reason = error.strerror or error
        raise DataMissing(f"{missing}, and it cannot be put there: {reason}; {way_out}") from None
    with workplace as work:
        if not archive.is_file():
            print(f"CIFAR-10 is not in {data_dir.absolute()}: downloading it", flush=True)
            try:
                _download(work)
            except OSError as error:
                raise DataMissing(
                    f"{missing}, and its download failed: {error}; {way_out}"
                ) from None
            archive = Path(work) / CIFAR10.filename
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        if sha256 != CIFAR10_SHA256:
            whose = "the downloaded archive" if archive.parent == Path(work) else archive
            raise DataError(
                f"{whose} is not the official one (its SHA-256 is {sha256}); fetch it anew, "
                f"or {way_out}"
            )
        extract_archive(str(archive), work)
        try:
            os.replace(Path(work) / CIFAR10_FOLDER, data_dir / CIFAR10_FOLDER)
        except OSError:
            if not (data_dir / CIFAR10_FOLDER).is_dir():  # else another process was faster
                raise


def _download(folder):
    """Fetch the archive into `folder`. Raises OSError when it fails or no data come for 20 s.

    The download runs in a thread of its own, since not every stall (a name server that does not
    answer, say) can be given a time limit from inside.
    """
    outcome = {}

    def fetch():
        try:
            download_url(CIFAR10.url, folder, CIFAR10.filename, CIFAR10.tgz_md5)
        except Exception as error:  # handed to the waiting thread below
            outcome["error"] = error

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    size, last_growth = 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        new_size = sum(entry.stat().st_size for entry in os.scandir(folder))
        if new_size != size:
            size, last_growth = new_size, time.monotonic()
        elif time.monotonic() - last_growth > DOWNLOAD_STALL_SECONDS:
            raise OSError(f"no data came for {DOWNLOAD_STALL_SECONDS} s")
    if "error" in outcome:
        raise OSError(str(outcome["error"]))


def epoch_order(count, seed, epoch):
    """The order of an epoch's images, int64 (count,): a function of (seed, epoch)."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


# ------------------------------------------------------------------------------ pixels


def to_signed(images):
    """uint8 (b, 3, h, w) -> float32 in [-1, 1], by (x - 0.5) / 0.5."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images):
    """Float images in [-1, 1] -> uint8, rounded; the inverse of to_signed."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


# ------------------------------------------------------------------------------ command line


def preview(dataset, path):
    """Write a figure of ten images of each class, one labelled column per class."""
    from figures import save_image_grid  # here, since only this command draws

    columns = [torch.nonzero(dataset.labels == k).flatten()[:10] for k in range(10)]
    rows = torch.stack(columns, dim=1).flatten()
    save_image_grid(dataset.images[rows], path, dataset.class_names, dataset.name)


def main(argv=None):
    from arguments import Parser

    parser = Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="image set")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="folder of CIFAR-10")
    parser.add_argument("--output", default="output/data_preview.png", help="preview picture")
    args = parser.parse_args(argv)
    try:
        train, test = load_dataset(args.dataset, args.data_dir)
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        preview(train, args.output)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(train.source)
    print("class          train    test")
    for index, name in enumerate(train.class_names):
        counts = [int((part.labels == index).sum()) for part in (train, test)]
        print(f"{name:<12} {counts[0]:>7} {counts[1]:>7}")
    for part, name in ((train, "train"), (test, "test")):
        channels = part.images.transpose(0, 1).flatten(1)
        pixels = [channel.double().div_(255) for channel in channels]
        mean, std = (" ".join(f"{f(p):.4f}" for p in pixels) for f in (torch.mean, torch.std))
        print(f"{name}: mean of R, G, B in [0, 1] {mean}; std {std}")
    print(f"preview: {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
