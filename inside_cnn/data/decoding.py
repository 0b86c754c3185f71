"""Decode the pictures of a folder to the networks' size, once: the result is cached in CACHE."""

import io
import os
import re
from collections import Counter
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import digest_of, write_atomically
from inside_cnn.core.progress import Progress

SIZE = 32
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_BYTES = 200_000_000  # of a file
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
PARTS = ("train", "test")
TEST_SHARE = 10  # one picture of a class in TEST_SHARE is for testing
CACHE = Path("output/image_cache")  # not in the folder of the pictures, which may be read-only
FORMAT = 5  # version of the cached files


class Picture(NamedTuple):
    """A file of a dataset.

    hash: of its relative path, determines the order of the pictures. part: `train`, `test` or, if
    rows_of_parts decides it, "". label: its class. size: in bytes. time: of its last change, in ns.
    """

    hash: str
    part: str
    label: int
    path: str
    size: int
    time: int


def load_pictures(folder, class_names, pictures, size):
    """(parts, failed) of Pictures, from the cache if no name, size or time has changed.

    parts: (images uint8 (n, 3, size, size), labels int64 (n,)) for each of PARTS; failed: {index of
    a Picture: reason why it cannot be decoded}. Raises OSError for a file that cannot be read.
    """
    name = re.sub(r"[^\w-]", "_", folder.resolve().name)[:40]
    path = CACHE / f"{name}-{digest_of(folder.resolve(), size)[:16]}.pt"
    listed = [(p.hash, p.part, p.label, p.size, p.time) for p in pictures]
    key = digest_of(FORMAT, PIL.__version__, size, class_names, listed)
    if path.is_file():
        cached = torch.load(path, mmap=True, weights_only=True)
        if cached["key"] == key:
            return cached["parts"], cached["failed"]
    print(f"decoding {len(pictures):,} files in {folder}", flush=True)
    parts, failed = decode(pictures, size)
    torch.save({"key": key, "parts": parts, "failed": failed}, buffer := io.BytesIO())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        print(f"warning: the decoded pictures cannot be cached in {path.parent}: {error}")
    return parts, failed


def decode(pictures, size):
    """(parts, failed) of Pictures, as `load_pictures` returns them."""
    progress = Progress("decoding", len(pictures), 1)
    images = np.zeros((len(pictures), 3, size, size), np.uint8)
    failed, levels, highest = {}, {}, 0.0
    with ThreadPool(cpu_count()) as pool:  # Pillow releases the GIL
        results = pool.imap(partial(read_image, size=size), pictures, chunksize=32)
        for index, result in enumerate(results):
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
    images = torch.from_numpy(images)
    labels = torch.tensor([picture.label for picture in pictures], dtype=torch.int64)
    rows = rows_of_parts(pictures, failed)
    return [(images[rows[part]], labels[rows[part]]) for part in PARTS], failed


def rows_of_parts(pictures, failed):
    """{part: indices of its valid Pictures}. The Pictures are in the order of their hashes.

    Without folders train and test, one in TEST_SHARE of each class is for testing, but at least one
    of two or more. These have the smallest hashes, so a new picture moves at most one other.
    """
    valid = [index for index in range(len(pictures)) if index not in failed]
    sizes, ranks = Counter(pictures[index].label for index in valid), Counter()
    rows = {part: [] for part in PARTS}
    for index in valid:
        part, label = pictures[index].part, pictures[index].label
        in_test = ranks[label] < max(sizes[label] // TEST_SHARE, min(1, sizes[label] - 1))
        rows[part or PARTS[in_test]].append(index)
        ranks[label] += 1
    return rows


def cpu_count():
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def read_image(picture, size):
    """What read_levels returns, or the reason why it is not a valid picture."""
    if picture.size > MAX_BYTES:
        return f"the file is larger than {MAX_BYTES // 10**6} MB"
    try:
        return read_levels(Path(picture.path).read_bytes(), size)
    except UserError as error:
        return str(error)


def read_levels(data, size=SIZE):
    """The bytes of a picture file -> (array, uint8 (3, size, size), None).

    A grayscale picture of more than 8 bits -> (its levels, float32 (size, size), the highest level
    of the whole picture), for to_8_bits.
    EXIF rotation is applied, transparency becomes white; gray, palettes and CMYK become RGB; an
    animation gives its first frame. The short side is scaled with antialiasing and the center is
    cropped. A large JPEG is decoded at reduced size, at least four times the result.
    Raises UserError for anything but a valid picture of FORMATS with at most MAX_PIXELS.
    """
    highest = None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"more than {MAX_PIXELS // 1_000_000} megapixels")
        image.draft(None, (4 * size, 4 * size))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            levels = np.asarray(image, dtype=np.float32)
            if not np.isfinite(levels).all():
                raise ValueError("a pixel is not a finite number")
            image, highest = Image.fromarray(levels), float(levels.max())
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
        elif image.mode != "RGB":
            image = image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"the file is not a picture (of {', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow raises almost anything for a crafted file
        raise UserError(f"the picture cannot be decoded: {error or type(error).__name__}") from None
    square = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    return (square.transpose(2, 0, 1) if highest is None else square), highest


def to_8_bits(levels, highest):
    """float32 (h, h) -> uint8 (h, h). highest: the highest level of all pictures of a set.

    The levels are floats in [0, 1], which may exceed 1 slightly, or integers of 8, 12 or 16 bits.
    """
    limits = {1: 1.5, 255: 255, 4095: 4095}
    top = next((top for top, limit in limits.items() if highest <= limit), 65535)
    return (levels * (255 / top)).round().clip(0, 255).astype(np.uint8)
