"""Samples of a generator as files: PNGs by class, one array, or a grid."""

import io
import re

import numpy as np
from PIL import Image

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.data.dataset import MAX_COLUMNS, displayed_classes, displayed_note
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.metrics.sampling import sample_labels

MAX_GRID = 1000  # images of a grid


def write_samples(args, names, sample, folder):
    """Write --sample images in --format; returns their path.

    names: of the generator's classes; sample: function of (labels int64 (n,), title) that returns
    uint8 (n, 3, 32, 32). Raises UserError for an unknown class, too large a grid, and a folder that
    already holds samples; OSError.
    """
    count = len(names)
    classes = args.labels or (displayed_classes(count) if args.format == "grid" else range(count))
    if max(classes) >= count:
        raise UserError(f"--labels {max(classes)}: the classes are 0 to {count - 1}")
    if args.format == "grid" and args.sample > MAX_GRID:
        raise UserError(f"a grid shows at most {MAX_GRID} images; use --format png or npz")
    # samples.png belongs to the scores
    path = folder / {"png": "samples", "npz": "samples.npz", "grid": "sample_grid.png"}[args.format]
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty; give another --output_dir")
    labels = sample_labels(args.sample, classes)
    images = sample(labels, "samples")
    if args.format == "png":
        write_pngs(images, labels, names, path)
    elif args.format == "npz":
        # arr_0: uint8 (n, 32, 32, 3), arr_1: int64 (n,): the format of OpenAI's guided-diffusion
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images.permute(0, 2, 3, 1).numpy(), labels.numpy())
        write_atomically(path, buffer.getvalue())
    elif 1 < len(classes) <= MAX_COLUMNS:  # one column per class
        note = "" if args.labels else displayed_note(count).strip()
        save_image_grid(images, path, [names[k] for k in classes], note)
    else:
        title = ", ".join(names[k] for k in dict.fromkeys(classes))
        save_image_grid(images, path, title=title)
    print(f"{len(images):,} samples: {path}")
    return path


def write_pngs(images, labels, class_names, folder):
    """One PNG per image in one folder per class: folder/3_cat/000017.png, named by its index.

    images: uint8 (n, 3, h, w); labels: int64 (n,).
    """
    safe_names = (re.sub(r"[^\w-]", "_", name) for name in class_names)
    folders = [folder / f"{k}_{name}" for k, name in enumerate(safe_names)]
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folders[label].mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(folders[label] / f"{index:06d}.png")
