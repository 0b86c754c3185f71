"""CIFAR-10: read from the disk or downloaded, and checked file by file."""

import fcntl
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_url

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
DOWNLOAD_LEAST_BYTES = 200_000  # that have to come in so many seconds
# Of tarfile: nothing is unpacked outside the folder. Before Python 3.10.12 there was none.
FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
WORKPLACE = ".cifar10-download"  # where an archive is fetched and unpacked, in data_dir


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
        parts = [_read_batches(folder, files) for files in (CIFAR10.train_list, CIFAR10.test_list)]
        _read(folder / CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    except OSError as error:
        raise DataError(
            f"cannot use {error.filename or folder}: {error.strerror or error}"
        ) from None
    source = f"CIFAR-10 from {folder} (every file has its official MD5)"
    return tuple(
        Dataset(
            name="cifar10",
            images=images,
            labels=labels,
            class_names=CIFAR10_CLASSES,
            source=source,
        )
        for images, labels in parts
    )


def _read_batches(folder, files):
    """(uint8 (n, 3, 32, 32), int64 (n,)) of some of the official pickles."""
    images, labels = [], []
    for name, md5 in files:
        content = _read(folder / name, md5)
        with warnings.catch_warnings():
            # The official pickles spell a dtype flag as 0 where NumPy >= 2.4 wants False.
            warnings.simplefilter("ignore")
            batch = pickle.loads(content, encoding="latin1")
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels += batch["labels"]
    return torch.from_numpy(np.concatenate(images)), torch.tensor(labels)


def _read(path, md5):
    """The bytes of an official file: those that are unpickled are those that were checked."""
    anew = f"delete {path.parent} and run again to fetch it anew"
    if not path.is_file():
        raise DataError(f"{path} is missing; {anew}")
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is damaged or altered (its MD5 is not the official {md5}); {anew}")
    return content


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
    work = data_dir / WORKPLACE
    try:
        work.mkdir(parents=True, exist_ok=True)
        # On NFS a lock is known on other nodes only if it is of a file that is open for writing.
        lock = open(work / ".lock", "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        reason = error.strerror or error
        raise DataMissing(f"{missing}, and it cannot be put there: {reason}; {way_out}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which puts CIFAR-10 into {data_dir}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (data_dir / CIFAR10_FOLDER).is_dir():  # another process was faster
            return
        try:
            _make_cifar10(archive, work, missing, way_out)
            os.replace(work / CIFAR10_FOLDER, data_dir / CIFAR10_FOLDER)
        finally:
            (work / CIFAR10.filename).unlink(missing_ok=True)
            shutil.rmtree(work / CIFAR10_FOLDER, ignore_errors=True)


def _make_cifar10(archive, work, missing, way_out):
    """Unpack the archive, or a download of it, into `work`. Raises DataMissing, DataError."""
    if not archive.is_file():
        print(f"CIFAR-10 is not in {archive.parent.absolute()}: downloading it", flush=True)
        archive = work / CIFAR10.filename
        archive.unlink(missing_ok=True)
        try:
            _download(work)
        except OSError as error:
            kind = DataError if archive.exists() else DataMissing  # broken off, or never begun
            raise kind(f"{missing}, and its download failed: {error}; {way_out}") from None
    content = archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != CIFAR10_SHA256:
        whose = "the downloaded archive" if archive.parent == work else archive
        raise DataError(
            f"{whose} is not the official one (its SHA-256 is {sha256}); fetch it again, "
            f"or {way_out}"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(work, **FILTER)


def _download(folder):
    """Fetch the archive into `folder`. Raises OSError when it fails or comes too slowly.

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
    before, start = 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        if time.monotonic() - start > DOWNLOAD_STALL_SECONDS:
            size = sum(entry.stat().st_size for entry in os.scandir(folder))
            if size - before < DOWNLOAD_LEAST_BYTES and thread.is_alive():
                raise OSError(f"{size - before:,} bytes came in {DOWNLOAD_STALL_SECONDS} s")
            before, start = size, time.monotonic()
    if "error" in outcome:
        raise OSError(str(outcome["error"]))
