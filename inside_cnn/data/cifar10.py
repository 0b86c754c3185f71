"""CIFAR-10: read from the disk or downloaded. Every file is checked before it is used."""

import fcntl
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import time
import warnings
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from tqdm import tqdm

from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import DataMissing, Dataset

CIFAR10_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
MD5 = {  # of the official files, by Krizhevsky
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
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
DOWNLOAD_MIN_BYTES = 200_000  # in that time; a slower download is given up
# No file is unpacked outside the folder. Python before 3.10.12 has no such filter.
FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
WORK_FOLDER = ".cifar10-download"  # in data_dir; an archive is downloaded and unpacked here
REMEDY = "give --data_dir, or take --dataset shapes"


def load_cifar10(data_dir, download=True):
    """The 50,000 training and 10,000 test images as (train, test), after checking every file's MD5.

    An archive cifar-10-python.tar.gz in data_dir is unpacked; with `download`, a missing one is
    downloaded first. Raises DataMissing if there is none, UserError for files that are corrupt.
    """
    folder = Path(data_dir) / CIFAR10_FOLDER
    if not folder.is_dir():
        _obtain(Path(data_dir), download)
    source = f"CIFAR-10 from {folder} (every file has its official MD5)"
    parts = ([name for name in MD5 if name.startswith(part)] for part in ("data_", "test_"))
    return tuple(
        Dataset("cifar10", *_read_batches(folder, names), CIFAR10_CLASSES, source)
        for names in parts
    )


def _read_batches(folder, names):
    """(uint8 (n, 3, 32, 32), int64 (n,)) of the official pickles with these names."""
    images, labels = [], []
    for name in names:
        content = _read(folder / name)
        with warnings.catch_warnings():
            # The official pickles spell a dtype flag as 0; NumPy >= 2.4 wants False.
            warnings.simplefilter("ignore")
            batch = pickle.loads(content, encoding="latin1")
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels += batch["labels"]
    return torch.from_numpy(np.concatenate(images)), torch.tensor(labels)


def _read(path):
    """The bytes of an official file. The bytes that are unpickled are those that were checked."""
    remedy = f"delete {path.parent} and run again to download it again"
    if not path.is_file():
        raise UserError(f"there is no file {path}; {remedy}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[path.name]:
        raise UserError(f"{path} is corrupt (its MD5 is not the official one); {remedy}")
    return content


def _obtain(data_dir, download):
    """Make data_dir/cifar-10-batches-py from the archive, complete or not at all.

    The work is done in a folder of its own, and the result is renamed. One process works at a time:
    on NFS only a lock of a file that is open for writing is visible to other nodes.
    """
    archive, work = data_dir / ARCHIVE, data_dir / WORK_FOLDER
    missing = f"no CIFAR-10 in {data_dir.absolute()} (neither {CIFAR10_FOLDER} nor {ARCHIVE})"
    if not archive.is_file() and not download:
        raise DataMissing(f"{missing}; {REMEDY}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(work / ".lock", "a") as lock:
            _wait_for(lock, data_dir)
            if (data_dir / CIFAR10_FOLDER).is_dir():  # another process has made it
                return
            try:
                if not archive.is_file():
                    archive = work / ARCHIVE
                    _download(archive)
                _unpack(archive, work)
                os.replace(work / CIFAR10_FOLDER, data_dir / CIFAR10_FOLDER)
            finally:
                (work / ARCHIVE).unlink(missing_ok=True)
                shutil.rmtree(work / CIFAR10_FOLDER, ignore_errors=True)
    except (OSError, HTTPException) as error:
        raise DataMissing(f"{missing}, and it cannot be put there: {error}; {REMEDY}") from None


def _wait_for(lock, data_dir):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that puts CIFAR-10 into {data_dir}", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _download(path):
    """Download the archive. Raises OSError if no download begins, UserError if it breaks off."""
    print(f"downloading CIFAR-10 to {path.parent.parent.absolute()}", flush=True)
    request = Request(URL, headers={"User-Agent": "inside-a-cnn"})
    with urlopen(request, timeout=DOWNLOAD_STALL_SECONDS) as response, open(path, "wb") as file:
        try:
            _copy(response, file)
        except (OSError, HTTPException) as error:
            raise UserError(f"the download of {URL} failed: {error}; {REMEDY}") from None


def _copy(response, file):
    """Copy a response to a file. Raises OSError if it is too slow or incomplete."""
    start, received = time.monotonic(), 0
    size = int(response.headers.get("Content-Length", 0))
    with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        while chunk := response.read1(2**16):
            file.write(chunk)
            bar.update(len(chunk))
            received += len(chunk)
            if time.monotonic() - start > DOWNLOAD_STALL_SECONDS:
                if received < DOWNLOAD_MIN_BYTES:
                    raise OSError(f"{received:,} bytes came in {DOWNLOAD_STALL_SECONDS} s")
                start, received = time.monotonic(), 0
    if file.tell() < size:
        raise OSError(f"it ended after {file.tell():,} of {size:,} bytes")


def _unpack(archive, folder):
    """Unpack the archive if it is the official one. Raises UserError."""
    content = archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != CIFAR10_SHA256:
        raise UserError(
            f"{archive} is not the official archive (its SHA-256 is {sha256}); download it again, "
            f"or {REMEDY}"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(folder, **FILTER)
