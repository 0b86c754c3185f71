"""Decode the pictures of a folder to the networks' size, once: the result is cached in CACHE."""

import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import PIL
import torch
from safetensors import safe_open
from safetensors.torch import save

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.core.progress import Progress
from inside_cnn.data.pictures import MAX_BYTES, SIZE, read_levels, to_8_bits

PARTS = ("train", "test")
TEST_SHARE = 10  # one picture of a class in TEST_SHARE is for testing
CACHE = Path("output/image_cache")  # not in the folder of the pictures, which may be read-only
FORMAT = 4  # version of the cached files


class Picture(NamedTuple):
    """A file of a dataset.

    hash: of its relative path, determines the order of the pictures. part: `train`, `test` or, if
    parts_of decides it, "". label: its class. size: in bytes. time: of its last change, in ns.
    """

    hash: str
    part: str
    label: int
    path: str
    size: int
    time: int


def load_pictures(folder, class_names, pictures, size=SIZE):
    """(tensors, failed) of Pictures, from the cache if no name, size or time has changed.

    tensors: {"train_images": uint8 (n, 3, size, size), "train_labels": int64 (n,), and for "test"};
    failed: {index of a Picture: reason why it cannot be decoded}.
    Raises OSError for a file that cannot be read.
    """
    name = re.sub(r"[^\w-]", "_", folder.resolve().name)[:40]
    path = CACHE / f"{name}-{digest_of(folder.resolve(), size)[:16]}.safetensors"
    listed = [(p.hash, p.part, p.label, p.size, p.time) for p in pictures]
    key = digest_of(FORMAT, PIL.__version__, size, class_names, listed)
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if file.metadata()["key"] == key:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, dict(json.loads(file.metadata()["failed"]))
    print(f"decoding {len(pictures):,} files in {folder}", flush=True)
    tensors, failed = decode(pictures, size)
    metadata = {"key": key, "failed": json.dumps([*failed.items()])}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, metadata))
    except OSError as error:
        print(f"warning: the decoded pictures cannot be cached in {path.parent}: {error}")
    return tensors, failed


def decode(pictures, size=SIZE):
    """(tensors, failed) of Pictures, as `load_pictures` returns them."""
    progress = Progress("decoding", len(pictures), 1)
    images = torch.zeros(len(pictures), 3, size, size, dtype=torch.uint8)
    failed, levels, highest = {}, {}, 0.0
    with ThreadPoolExecutor(cpu_count()) as pool:  # Pillow releases the GIL for large pictures
        for index, result in enumerate(pool.map(partial(read_image, size=size), pictures)):
            if isinstance(result, str):
                failed[index] = result
            elif result[1] is None:
                images[index] = result[0]
            else:
                levels[index], highest = result[0], max(highest, result[1])
            progress.step()
    progress.close()
    for index, picture in levels.items():
        images[index] = to_8_bits(picture, highest)
    valid = [index for index in range(len(pictures)) if index not in failed]
    parts, tensors = parts_of([pictures[index] for index in valid]), {}
    for part in PARTS:
        rows = [index for index, own in zip(valid, parts, strict=True) if own == part]
        labels = torch.tensor([pictures[i].label for i in rows], dtype=torch.int64)
        tensors |= {f"{part}_images": images[rows], f"{part}_labels": labels}
    return tensors, failed


def parts_of(pictures):
    """The part of each of the Pictures, which are in the order of their hashes.

    Without folders train and test, one in TEST_SHARE of each class is for testing, but at least one
    of two or more. These have the smallest hashes, so a new picture moves at most one other.
    """
    sizes, ranks, parts = Counter(p.label for p in pictures), Counter(), []
    for picture in pictures:
        size, rank = sizes[picture.label], ranks[picture.label]
        in_test = rank < max(size // TEST_SHARE, min(1, size - 1))
        parts.append(picture.part or PARTS[in_test])
        ranks[picture.label] += 1
    return parts


def read_image(picture, size=SIZE):
    """What read_levels returns, or the reason why it is not a valid picture. Raises OSError."""
    if picture.size > MAX_BYTES:
        return f"the file is larger than {MAX_BYTES // 10**6} MB"
    try:
        return read_levels(Path(picture.path).read_bytes(), size)
    except UserError as error:
        return str(error)


def cpu_count():
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def digest_of(*values):
    """SHA-256 of the bytes of tensors and of other values as text: 64 hexadecimal digits."""
    digest = sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            digest.update(value.flatten().numpy())
        else:
            digest.update(str(value).encode(errors="surrogateescape"))
    return digest.hexdigest()
