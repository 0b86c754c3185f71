"""Decode a folder's pictures to the networks' size, once: the result is cached in CACHE.

The cache's key is made of the files' names, sizes and times.
"""

import json
import os
import re
import warnings
from hashlib import sha256
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import PIL
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from engine.errors import UserError
from engine.files import write_atomically
from engine.progress import Progress
from image_sets.pictures import read_picture

PARTS = ("train", "test")
MAX_BYTES = 200_000_000  # of a picture's file
CACHE = Path("output/image_cache")  # not beside the pictures, whose folder may be read-only
FORMAT = 2  # of the cache's files


class Picture(NamedTuple):
    """A file of a set.

    hash: of its relative path; gives the picture its place in the set. part: `train` or `test`.
    label: number of its class. size: in bytes, -1 for what is not a regular file. time: of its last
    change, in ns.
    """

    hash: str
    part: str
    label: int
    path: str
    size: int
    time: int


def read_image(picture):
    """uint8 (3, 32, 32), or the reason why the file is not a valid picture. Raises OSError."""
    if picture.size < 0:
        return "it is not a regular file"
    if picture.size > MAX_BYTES:
        return f"the file is larger than {MAX_BYTES // 10**6} MB"
    content = Path(picture.path).read_bytes()
    try:
        return read_picture(content, max_bytes=MAX_BYTES, max_pixels=Image.MAX_IMAGE_PIXELS)
    except UserError as error:
        return str(error)


def cpu_count():
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def decode(folder, pictures):
    """(tensors, failed) of Pictures. Raises OSError for a file that cannot be read.

    tensors: {"train_images": uint8 (n, 3, 32, 32), "train_labels": int64 (n,), the same of "test"};
    failed: {index of a Picture: why it cannot be decoded}.
    """
    print(f"decoding {len(pictures):,} files in {folder}", flush=True)
    progress = Progress("decoding", len(pictures), 1)
    images = torch.zeros(len(pictures), 3, 32, 32, dtype=torch.uint8)
    failed = {}
    # Threads, since Pillow releases the GIL while it decodes.
    with warnings.catch_warnings(), ThreadPool(cpu_count()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, result in enumerate(pool.imap(read_image, pictures, chunksize=16)):
            if isinstance(result, str):
                failed[index] = result
            else:
                images[index] = result
            progress.step()
    progress.close()
    tensors = {}
    for part in PARTS:
        rows = [i for i, p in enumerate(pictures) if p.part == part and i not in failed]
        tensors[f"{part}_images"] = images[rows]
        labels = [pictures[i].label for i in rows]
        tensors[f"{part}_labels"] = torch.tensor(labels, dtype=torch.int64)
    return tensors, failed


# ------------------------------------------------------------------------------ the cache


def digest_of(*values):
    """SHA-256 of the bytes of tensors, and of other values as text: 64 hexadecimal digits."""
    digest = sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            digest.update(value.flatten().numpy())
        else:
            digest.update(str(value).encode(errors="surrogateescape"))
    return digest.hexdigest()


def cache_of(folder):
    """The file that caches the images of a folder, in its last state."""
    name = re.sub(r"[^\w-]", "_", folder.resolve().name)[:40]
    return CACHE / f"{name}-{digest_of(folder.resolve())[:16]}.safetensors"


def key_of(class_names, pictures):
    """A digest that changes with the names, sizes and times of the files, and with Pillow."""
    listed = [(p.hash, p.part, p.label, p.size, p.time) for p in pictures]
    return digest_of(FORMAT, PIL.__version__, class_names, listed)


def read_cache(folder, class_names, pictures):
    """(tensors, failed) as `decode` returned them; None if they are not cached."""
    path = cache_of(folder)
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["key"] != key_of(class_names, pictures):
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, dict(json.loads(metadata["failed"]))


def write_cache(folder, class_names, pictures, tensors, failed):
    """Cache what `decode` returned. Prints a warning if that is not possible."""
    path = cache_of(folder)
    metadata = {"key": key_of(class_names, pictures), "failed": json.dumps([*failed.items()])}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, metadata))
    except OSError as error:
        print(f"warning: the decoded pictures cannot be cached in {path.parent}: {error}")
