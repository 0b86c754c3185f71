"""CIFAR-10: read from the disk or downloaded. Every file is checked before it is used."""

import hashlib
import io
import os
import pickle
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import torch

from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import DataMissing, Dataset
from inside_cnn.data.download import download as download_file

CIFAR10_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
MD5 = {  # of the official files
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
WORK_FOLDER = ".cifar10-download"  # in data_dir; the archive is downloaded and unpacked here
REMEDY = "use --data_dir or --dataset shapes"


def load_cifar10(data_dir, download=True):
    """The 50,000 training and 10,000 test images as (train, test), with every file's MD5 checked.

    An archive cifar-10-python.tar.gz in data_dir is unpacked; with `download`, a missing one is
    downloaded first. Raises DataMissing if there is none, UserError for corrupt files.
    """
    folder = cifar10_folder(data_dir)
    if not folder.is_dir():
        _prepare(Path(data_dir), download)
    source = f"CIFAR-10 from {folder} (every file has its official MD5)"
    parts = ([name for name in MD5 if name.startswith(part)] for part in ("data_", "test_"))
    return tuple(
        Dataset("cifar10", *_read_batches(folder, names), CIFAR10_CLASSES, source)
        for names in parts
    )


def cifar10_folder(data_dir):
    """data_dir/cifar-10-batches-py, or data_dir if it is that folder itself."""
    data_dir = Path(data_dir)
    is_itself = any((data_dir / name).is_file() for name in MD5)
    return data_dir if is_itself else data_dir / CIFAR10_FOLDER


def has_cifar10(data_dir):
    """Whether a folder holds CIFAR-10 or its archive."""
    return cifar10_folder(data_dir).is_dir() or (Path(data_dir) / ARCHIVE).is_file()


def _read_batches(folder, names):
    """(uint8 (n, 3, 32, 32), int64 (n,)) of the official pickles with these names."""
    images, labels = [], []
    for name in names:
        content = _read(folder / name)
        with warnings.catch_warnings():
            # The official pickles store a dtype flag as 0; NumPy >= 2.4 expects False.
            warnings.simplefilter("ignore")
            batch = pickle.loads(content, encoding="latin1")
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels += batch["labels"]
    return torch.from_numpy(np.concatenate(images)), torch.tensor(labels)


def _read(path):
    """The content of an official file. The checked bytes are the ones that are unpickled."""
    remedy = f"delete {path.parent} and run again to download it again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[path.name]:
        raise UserError(f"{path} is corrupt (its MD5 is not the official one); {remedy}")
    return content


def _prepare(data_dir, download):
    """Create data_dir/cifar-10-batches-py from the archive, completely or not at all.

    The lock lets one process work at a time. On NFS, other nodes only see the lock of a file that
    is open for writing.
    """
    import fcntl  # here: Windows has none

    folder, archive, work = (data_dir / name for name in (CIFAR10_FOLDER, ARCHIVE, WORK_FOLDER))
    missing = f"no CIFAR-10 in {data_dir.absolute()} (neither {CIFAR10_FOLDER} nor {ARCHIVE})"
    if not archive.is_file() and not download:
        raise DataMissing(f"{missing}; {REMEDY}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(work / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():  # another process created it
                return
            try:
                if not archive.is_file():
                    archive = work / ARCHIVE
                    print(f"downloading CIFAR-10 to {data_dir.absolute()}", flush=True)
                    download_file(URL, archive, CIFAR10_SHA256)
                _unpack(archive, work)
                os.replace(work / CIFAR10_FOLDER, folder)
            finally:
                (work / ARCHIVE).unlink(missing_ok=True)
                shutil.rmtree(work / CIFAR10_FOLDER, ignore_errors=True)
    except OSError as error:
        raise DataMissing(f"{missing}, and it cannot be created: {error}; {REMEDY}") from None


def _unpack(archive, folder):
    """Unpack the archive if it is the official one. Raises UserError."""
    content = archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != CIFAR10_SHA256:
        raise UserError(
            f"{archive} is not the official archive (its SHA-256 is {sha256}); delete it and run "
            f"again to download it, or {REMEDY}"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        # Nothing is unpacked outside the folder. Python before 3.10.12 has no such filter.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)
