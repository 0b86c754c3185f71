"""Samples of a generator as files: PNGs by class, one array, or a picture with all of them."""

import io
import re

import numpy as np
from PIL import Image

from data_tools import shown_classes, words_of_shown
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.engine.weights import class_names_of
from inside_cnn.metrics import sampling

MAX_GRID = 1000  # images that a grid can show


def draw_samples(args, model, labels, num_classes, precision, title):
    """uint8 (n, 3, 32, 32) of these classes, int64 (n,), of `num_classes` that there are.

    args: of evaluate_gan.py.
    """
    latents = sampling.latents_of(
        labels, model.latent_dim, args.seed, num_classes=num_classes, truncation=args.truncation
    )
    return sampling.draw(model, latents, args.batch_size, precision, title)


def sample_only(args, model, metadata, precision, folder):
    """Write --sample images of a generator, as evaluate_gan.py's flags ask. Returns their path.

    Raises UserError for an unknown class or too large a grid, and for a folder that already holds
    samples; OSError.
    """
    names = class_names_of(metadata)
    count = len(names)
    classes = args.labels or (shown_classes(count) if args.format == "grid" else range(count))
    if max(classes) >= count:
        raise UserError(f"--labels {max(classes)}: the classes are 0 to {count - 1}")
    if args.format == "grid" and args.sample > MAX_GRID:
        raise UserError(f"a grid shows at most {MAX_GRID} images; take --format png or npz")
    # samples.png belongs to the scores
    path = folder / {"png": "samples", "npz": "samples.npz", "grid": "sample_grid.png"}[args.format]
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty; give another --output_dir")
    labels = sampling.sample_labels(args.sample, classes)
    images = draw_samples(args, model, labels, count, precision, "samples")
    if args.format == "png":
        write_pngs(images, labels, names, path)
    elif args.format == "npz":
        write_npz(images, labels, path)
    else:
        in_columns = 1 < len(classes) <= 10  # a column for each class
        column_names = [names[k] for k in classes] if in_columns else ()
        title = ", ".join(names[k] for k in dict.fromkeys(classes))
        if in_columns:
            title = "" if args.labels else words_of_shown(count).strip()
        save_image_grid(images, path, column_names, title)
    print(f"{len(images):,} samples: {path}")
    return path


def write_pngs(images, labels, class_names, folder):
    """One PNG per image, in a folder per class: folder/3_cat/000017.png, named by its index.

    images: uint8 (n, 3, h, w); labels: int64 (n,).
    """
    safe_names = (re.sub(r"[^\w-]", "_", name) for name in class_names)
    folders = [folder / f"{k}_{name}" for k, name in enumerate(safe_names)]
    for label in labels.unique().tolist():
        folders[label].mkdir(parents=True)
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(folders[label] / f"{index:06d}.png")


def write_npz(images, labels, path):
    """arr_0: uint8 (n, 32, 32, 3); arr_1: int64 (n,): as in OpenAI's guided-diffusion."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images.permute(0, 2, 3, 1).numpy(), labels.numpy())
    write_atomically(path, buffer.getvalue())
