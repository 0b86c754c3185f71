"""Pictures of a folder made images of the networks' size, by all cores, once: then they are kept.

What is kept lies in CACHE, under a key of names, sizes and times.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from image_sets.dataset import DataError
from image_sets.pictures import read_picture

PARTS = ("train", "test")
MAX_BYTES = 200_000_000  # of a picture's file
CACHE = Path("output/image_cache")  # not beside the pictures, whose folder may be read-only
FORMAT = 1  # of what is kept there
FEW = 500  # files that one process has decoded before others have started
LINE_SECONDS = 15  # between lines of progress where the output is no terminal


class Picture(NamedTuple):
    """A file: its hash, which gives it its place; its part of the set, and class.

    size: in bytes, -1 for what is no regular file; time: of its last change, in ns.
    """

    hash: str
    part: str
    label: int
    path: str
    size: int
    time: int


# ------------------------------------------------------------------------------ decoding


class Decoder(torch.utils.data.Dataset):
    """Pictures by their number: an array, uint8 (3, 32, 32), or in words why there is none."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        picture = self.pictures[index]
        if picture.size < 0:
            return "it is no file"
        if picture.size > MAX_BYTES:
            return f"the file is larger than {MAX_BYTES // 10**6} MB"
        try:
            content = Path(picture.path).read_bytes()
            image = read_picture(content, max_bytes=MAX_BYTES, max_pixels=Image.MAX_IMAGE_PIXELS)
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        except Exception as error:  # a crafted file can raise anything
            return f"the picture is damaged: {type(error).__name__}"
        return image.numpy()


def cores():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def decode(folder, pictures):
    """(tensors, failed) of Pictures.

    tensors: {"train_images": uint8 (n, 3, 32, 32), "train_labels": int64 (n,), the same of "test"};
    failed: {hash of a file: why it is no picture}.
    Raises DataError where a process that decodes ends.
    """
    loader = DataLoader(
        Decoder(pictures),
        batch_size=32,
        num_workers=0 if len(pictures) < FEW else cores(),
        collate_fn=list,
        generator=torch.Generator(),  # its own: the global one is left alone
    )
    print(f"decoding {len(pictures):,} files in {folder}", flush=True)
    results, told = [], time.monotonic()
    in_terminal = sys.stderr.isatty()
    try:
        with tqdm(total=len(pictures), disable=not in_terminal, leave=False) as bar:
            for batch in loader:
                results += batch
                bar.update(len(batch))
                if not in_terminal and time.monotonic() - told > LINE_SECONDS:
                    told = time.monotonic()
                    print(f"decoded {len(results):,} of {len(pictures):,}", flush=True)
    except RuntimeError as error:  # one was killed, for its memory, say
        raise DataError(f"cannot decode the pictures in {folder}: {error}") from None
    failed, images, labels = {}, {p: [] for p in PARTS}, {p: [] for p in PARTS}
    for picture, result in zip(pictures, results, strict=True):
        if isinstance(result, str):
            failed[picture.hash] = result
        else:
            images[picture.part].append(torch.from_numpy(result))
            labels[picture.part].append(picture.label)
    tensors = {}
    for part in PARTS:
        none = torch.zeros(0, 3, 32, 32, dtype=torch.uint8)
        tensors[f"{part}_images"] = torch.stack(images[part]) if images[part] else none
        tensors[f"{part}_labels"] = torch.tensor(labels[part], dtype=torch.int64)
    return tensors, failed


# ------------------------------------------------------------------------------ what is kept


def digest_of(*values):
    """SHA-256 of tensors' bytes and of what else there is as text: 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            sha256.update(value.flatten().numpy())
        else:
            sha256.update(str(value).encode(errors="surrogateescape"))
    return sha256.hexdigest()


def cache_of(folder):
    """The file where the images of a folder are kept: the last state of it alone."""
    name = re.sub(r"[^\w-]", "_", folder.resolve().name)[:40]
    return CACHE / f"{name}-{digest_of(folder.resolve())[:16]}.safetensors"


def key_of(class_names, pictures):
    """What changes with the names, sizes and times of the files."""
    listed = [(p.hash, p.part, p.label, p.size, p.time) for p in pictures]
    return digest_of(FORMAT, class_names, listed)


def read_cache(folder, class_names, pictures):
    """(tensors, failed) as `decode` returned them; None where they are not kept, or damaged."""
    try:
        with safe_open(cache_of(folder), framework="pt") as file:
            about = file.metadata() or {}
            if about.get("key") != key_of(class_names, pictures):
                return None
            names = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return None
    if about.get("digest") != digest_of(*tensors.values()):
        return None
    return tensors, json.loads(about["failed"])


def write_cache(folder, class_names, pictures, tensors, failed):
    """Keep what `decode` returned; where that cannot be, a line says so."""
    path = cache_of(folder)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    about = {
        "key": key_of(class_names, pictures),
        "digest": digest_of(*tensors.values()),
        "failed": json.dumps(failed),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, about)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        print(f"warning: the decoded pictures could not be kept in {path.parent}: {error}")
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
