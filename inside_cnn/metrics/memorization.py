"""Memorization: the distances of samples to their nearest training images.

The central 24 x 24 pixels of an image are compared with every window of that size in the training
images and their mirror images, which covers all shifts of up to SHIFT pixels. Both are first
averaged over boxes of BOX x BOX pixels, which noise and blur hardly change.
"""

import torch
import torch.nn.functional as F

from inside_cnn.core.progress import with_progress
from inside_cnn.engine.plots import save_histograms, save_image_grid
from inside_cnn.engine.statistics import percent, percent_interval
from inside_cnn.metrics.baselines import altered_copies

SHIFT = 4
POSITIONS = 2 * SHIFT + 1  # of a window, in each direction
BOX = 4
COARSE_BOX = 8
STARTS = (0, 3, 5, 8)  # of coarse windows: every shift is within a pixel of one of them
CANDIDATES = 50  # training images per image that are compared at every shift
BASELINE_IMAGES = 1000


def boxes(images, size, stride):
    """Means of uint8 images over boxes of size x size pixels, in levels of 0 to 255."""
    # One direction after the other is faster than avg_pool2d.
    rows = images.float().unfold(-2, size, stride).mean(-1)
    return rows.unfold(-1, size, stride).mean(-1)


def coarse_windows(pool):
    """Box means of 32 windows of each image, and their squared norms: float32 (32, 28, m).

    The windows are shifted by STARTS in both directions, mirrored or not; each has 3 x 3 boxes of
    8 x 8 pixels in 3 colors. The last of the 28 numbers is the squared norm of the others.
    """
    parts = []
    for part in pool.split(1000):
        means = boxes(part, COARSE_BOX, 1)
        views = [means[:, :, y : y + 17 : 8, x : x + 17 : 8] for y in STARTS for x in STARTS]
        views = torch.stack([*views, *(view.flip(3) for view in views)]).flatten(2).transpose(1, 2)
        parts.append(torch.cat([views, views.square().sum(1, keepdim=True)], 1))
    return torch.cat(parts, 2)


def nearest_training_images(images, pool):
    """(distances, indices, positions) of the nearest image of the pool, each (n,).

    images (n, 3, 32, 32), pool (m, 3, 32, 32): uint8. distances: root mean square differences of
    the boxes in levels of 0 to 255; positions: as `aligned` takes them. Only the CANDIDATES images
    with the nearest coarse_windows are compared at every shift.
    """
    windows, chunks = coarse_windows(pool), images[..., SHIFT:-SHIFT, SHIFT:-SHIFT].split(250)
    nearest = []
    for chunk in with_progress(chunks, "nearest training images", 250):
        query = -2 * boxes(chunk, COARSE_BOX, COARSE_BOX).flatten(1)
        query = torch.cat([query, torch.ones(len(chunk), 1)], 1)  # |w|^2 - 2 q.w in one product
        squares = torch.cat([(query @ part).amin(0) for part in windows.split(1000, 2)], 1)
        candidates = squares.topk(min(CANDIDATES, len(pool)), largest=False).indices
        for image, indices in zip(chunk, candidates, strict=True):
            squares = squared_differences(image, pool[indices]).flatten()
            candidate, position = divmod(squares.argmin().item(), 2 * POSITIONS**2)
            nearest.append((squares.min().sqrt(), indices[candidate], position))
    distances, indices, positions = zip(*nearest, strict=True)
    return torch.stack(distances), torch.stack(indices), torch.tensor(positions)


def squared_differences(image, candidates):
    """Mean squares over boxes, (n, 2, POSITIONS, POSITIONS): not mirrored or mirrored, down, right.

    image: uint8 (3, h, w), a central window; candidates: uint8 (n, 3, h + 8, w + 8).
    """
    query, windows = boxes(image, BOX, BOX), boxes(candidates, BOX, 1)
    # |q - w|^2 = |q|^2 + |w|^2 - 2 q.w of all windows w, by convolution
    products = F.conv2d(windows, torch.stack([query, query.flip(2)]), dilation=BOX)
    norms = F.conv2d(windows.square(), torch.ones_like(query)[None], dilation=BOX)
    return (query.square().sum() + norms - 2 * products).clamp_min(0) / query.numel()


def aligned(images, positions):
    """uint8 images (n, 3, 32, 32), each mirrored and shifted to its position, padded with black.

    positions: int64 (n,): 9 down + right of the window, + 81 if the image is mirrored.
    """
    moved = []
    for image, position in zip(images, positions.tolist(), strict=True):
        mirrored, position = divmod(position, POSITIONS**2)
        top, left = divmod(position, POSITIONS)
        padded = F.pad(image, [SHIFT] * 4)
        image = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        moved.append(image.flip(2) if mirrored else image)
    return torch.stack(moved)


def memorization_metrics(samples, test_images, training_images, seed, path):
    """Percentage of samples closer to the training images than 99 % of the test images.

    All uint8 (n, 3, 32, 32). The baselines are altered training images, which must be detected.
    Plots the histogram of the distances to `path`. Returns {"threshold": the distance, "sets":
    {name: {"images": n, "percentile_1", 10, 50: of the distances, "detected": images below the
    threshold in %, "interval": its 95 % interval}}}.
    """
    sets = {"samples": samples, "test images": test_images}
    sets |= altered_copies(training_images[:BASELINE_IMAGES], seed)
    distances, _, _ = nearest_training_images(torch.cat(list(sets.values())), training_images)
    distances = dict(zip(sets, distances.split([*map(len, sets.values())]), strict=True))
    plotted = {name: distances[name] for name in ("samples", "test images")}
    save_histograms(plotted, path, "distance to the nearest training image, in levels of 0 to 255")
    threshold = torch.quantile(distances["test images"], 0.01).item()
    metrics = {}
    for name, values in distances.items():
        row = metrics[name] = {"images": len(values)}
        for p in (1, 10, 50):
            row[f"percentile_{p}"] = round(torch.quantile(values, p / 100).item(), 2)
        row["detected"] = percent(values < threshold)
        row["interval"] = percent_interval(values < threshold)
    return {"threshold": round(threshold, 2), "sets": metrics}


def save_nearest(samples, training_images, path):
    """Ten samples of each class, each above its nearest training image, mirrored and shifted.

    samples: Dataset; training_images: uint8 (m, 3, 32, 32).
    """
    displayed, names, note = samples.columns()
    images, columns = samples.images[displayed], len(names)
    distances, indices, positions = nearest_training_images(images, training_images)
    nearest = aligned(training_images[indices], positions)
    rows = torch.stack([images.unflatten(0, (-1, columns)), nearest.unflatten(0, (-1, columns))], 1)
    captions = []
    for row in distances.split(columns):
        captions += ["sample"] * columns + [f"at {distance:.1f}" for distance in row]
    title = "samples above their nearest training images, mirrored and shifted to fit"
    save_image_grid(rows.flatten(0, 2), path, names, title + note, captions)
