"""CIFAR-10: read from the disk or downloaded, and checked file by file."""

import hashlib
import os
import tempfile
import threading
import time
import warnings
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from image_sets.dataset import DataError, DataMissing, Dataset

CIFAR10_FOLDER = CIFAR10.base_folder  # cifar-10-batches-py
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
DOWNLOAD_STALL_SECONDS = 20


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
            name="cifar10",
            images=torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()),  # NHWC -> NCHW
            labels=torch.tensor(part.targets),
            class_names=CIFAR10_CLASSES,
            source=source,
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
