"""An easy set in CIFAR-10's layout: each class is one picture with noise."""

import hashlib
import pickle

import numpy as np

from inside_cnn.data import cifar10

IMAGES_PER_FILE = 200


def pictures():
    """One picture of 4x4 squares in saturated colors per class, mirror symmetric.

    Returns uint8 (10, 3, 32, 32).
    """
    on = np.random.default_rng(0).integers(0, 2, (10, 3, 4, 2))
    squares = 40 + 175 * np.concatenate([on, on[..., ::-1]], axis=3)
    return squares.repeat(8, axis=2).repeat(8, axis=3).astype(np.uint8)


def write(data_dir, monkeypatch):
    """Write six files of IMAGES_PER_FILE images, with checksums in place of the official ones.

    An image is its class's picture with uniform noise of up to 30 levels.
    """
    folder = data_dir / cifar10.CIFAR10_FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    checksums = {}
    for name in cifar10.MD5:
        labels = rng.permutation(np.arange(IMAGES_PER_FILE) % 10)
        images = pictures()[labels] + rng.integers(-30, 31, (IMAGES_PER_FILE, 3, 32, 32))
        rows = images.astype(np.uint8).reshape(IMAGES_PER_FILE, -1)
        content = pickle.dumps({"data": rows, "labels": labels.tolist()})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar10, "MD5", checksums)
