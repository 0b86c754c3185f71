"""Is a generator copying? How near its samples come to the training images, and to which.

The middle of an image, 24 x 24 pixels, is compared with every window of that size in the training
images and in their mirror images, so at all shifts of up to SHIFT pixels. Both are first averaged
over boxes of BOX x BOX pixels, which noise and blur hardly change.
"""

import torch
import torch.nn.functional as F

from inside_cnn.core.progress import with_progress
from inside_cnn.engine.plots import save_histograms, save_image_grid
from inside_cnn.engine.statistics import wilson_interval
from inside_cnn.metrics.controls import altered

SHIFT = 4
PLACES = 2 * SHIFT + 1  # of a window, in each direction
BOX = 4
COARSE_BOX = 8
STARTS = (0, 3, 5, 8)  # of coarse windows: no shift is further than a pixel from one of them
CANDIDATES = 50  # training images for each image that are compared at every shift
CONTROL_IMAGES = 1000


def boxes(images, size, stride):
    """uint8 images -> their means over boxes of size x size pixels, in levels of 0 to 255.

    One direction after the other, which is faster than avg_pool2d.
    """
    rows = images.float().unfold(-2, size, stride).mean(-1)
    return rows.unfold(-1, size, stride).mean(-1)


def coarse_windows(pool):
    """Float32 (32, 28, m): boxes' means of windows of each image of the pool, and their norms.

    The windows: at shifts of STARTS in both directions, mirrored or not; 3 x 3 boxes of 8 x 8
    pixels and 3 colors. The last of the 28 numbers is the squared norm of the others.
    """
    parts = []
    for part in pool.split(1000):
        means = boxes(part, COARSE_BOX, 1)
        views = [means[:, :, y : y + 17 : 8, x : x + 17 : 8] for y in STARTS for x in STARTS]
        views = torch.stack([*views, *(view.flip(3) for view in views)]).flatten(2).transpose(1, 2)
        parts.append(torch.cat([views, views.square().sum(1, keepdim=True)], 1))
    return torch.cat(parts, 2)


def nearest_training_images(images, pool):
    """The distance of each image to the nearest one of the pool, with its index and its place.

    images (n, 3, 32, 32), pool (m, 3, 32, 32): uint8. Returns float32 (n,): root mean square
    differences of the boxes in levels of 0 to 255; int64 (n,): indices; int64 (n,): places, as
    `aligned` takes them. Only the CANDIDATES images with the nearest coarse_windows are compared
    at every shift.
    """
    windows, chunks = coarse_windows(pool), images[..., SHIFT:-SHIFT, SHIFT:-SHIFT].split(250)
    found = []
    for chunk in with_progress(chunks, "nearest training images", 250):
        query = -2 * boxes(chunk, COARSE_BOX, COARSE_BOX).flatten(1)
        query = torch.cat([query, torch.ones(len(chunk), 1)], 1)  # |w|^2 - 2 q.w in one product
        squares = torch.cat([(query @ part).amin(0) for part in windows.split(1000, 2)], 1)
        candidates = squares.topk(min(CANDIDATES, len(pool)), largest=False).indices
        for image, indices in zip(chunk, candidates, strict=True):
            squares = squared_differences(image, pool[indices]).flatten()
            candidate, place = divmod(squares.argmin().item(), 2 * PLACES**2)
            found.append((squares.min().sqrt(), indices[candidate], place))
    distances, indices, places = zip(*found, strict=True)
    return torch.stack(distances), torch.stack(indices), torch.tensor(places)


def squared_differences(image, candidates):
    """Mean squares over boxes, (n, 2, PLACES, PLACES): not mirrored or mirrored, down, right.

    image: uint8 (3, h, w), the middle of one; candidates: uint8 (n, 3, h + 8, w + 8).
    """
    query, windows = boxes(image, BOX, BOX), boxes(candidates, BOX, 1)
    # |q - w|^2 = |q|^2 + |w|^2 - 2 q.w, of all windows w by convolution
    products = F.conv2d(windows, torch.stack([query, query.flip(2)]), dilation=BOX)
    norms = F.conv2d(windows.square(), torch.ones_like(query)[None], dilation=BOX)
    return (query.square().sum() + norms - 2 * products).clamp_min(0) / query.numel()


def aligned(images, places):
    """uint8 images (n, 3, 32, 32), each mirrored and shifted to its place, black at the edge.

    places: int64 (n,): (9 down + right) of the window among 9 x 9, + 81 where it is mirrored.
    """
    moved = []
    for image, place in zip(images, places.tolist(), strict=True):
        mirrored, place = divmod(place, PLACES**2)
        top, left = divmod(place, PLACES)
        padded = F.pad(image, [SHIFT] * 4)
        image = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        moved.append(image.flip(2) if mirrored else image)
    return torch.stack(moved)


def memorization_metrics(samples, test_images, training_images, seed, path):
    """How many samples are nearer to the training images than all but 1 % of the test images are.

    All uint8 (n, 3, 32, 32). The same for altered training images, which such a test has to detect.
    Plots the histogram of the distances to `path`. Returns {"threshold": that distance, "sets":
    {name: {"images": n, "percentile_1", 10, 50: of the distances, "detected": images below the
    threshold in %, "interval": 95 % of it}}}.
    """
    sets = {"samples": samples, "test images": test_images}
    sets |= altered(training_images[:CONTROL_IMAGES], seed)
    distances, _, _ = nearest_training_images(torch.cat(list(sets.values())), training_images)
    distances = dict(zip(sets, distances.split([*map(len, sets.values())]), strict=True))
    shown = {name: distances[name] for name in ("samples", "test images")}
    save_histograms(shown, path, "distance to the nearest training image, in levels of 0 to 255")
    threshold = torch.quantile(distances["test images"], 0.01).item()
    metrics = {}
    for name, values in distances.items():
        row = metrics[name] = {"images": len(values)}
        for p in (1, 10, 50):
            row[f"percentile_{p}"] = round(torch.quantile(values, p / 100).item(), 2)
        count = (values < threshold).sum().item()
        row["detected"] = round(100 * count / len(values), 2)
        row["interval"] = [round(100 * s, 2) for s in wilson_interval(count, len(values))]
    return {"threshold": round(threshold, 2), "sets": metrics}


def save_nearest(samples, training_images, path):
    """Samples of each class, and under each its nearest training image, mirrored and shifted.

    Ten samples of a class, or four of few classes. samples: Dataset; training_images: uint8.
    """
    shown, names, some = samples.columns(rows=10 if len(samples.class_names) > 5 else 4)
    columns = len(names)
    distances, indices, places = nearest_training_images(samples.images[shown], training_images)
    pairs = (samples.images[shown], aligned(training_images[indices], places))
    rows = [row for both in zip(*(p.split(columns) for p in pairs), strict=True) for row in both]
    near = [[f"at {distance:.1f}" for distance in row] for row in distances.split(columns)]
    captions = [caption for row in near for caption in ["sample"] * columns + row]
    title = "samples, and under each its nearest training image, mirrored and shifted to fit"
    save_image_grid(torch.cat(rows), path, names, title + some, captions)
