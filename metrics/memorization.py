"""Is a generator copying? How near its samples come to the training images, and to which."""

import torch

from engine.plots import save_histograms, save_image_grid
from metrics.scores import nearest


def look_for_copies(folder, samples, labels, sample_features, train, test_features, train_features):
    """Look for copies of training images; returns the figures.

    Leaves nearest.png (ten samples of each class above their nearest training images, in the
    judge's features and in pixels) and nearest_distances.png (how far samples, and test images,
    are from the nearest training image).
    """
    to_train, _ = nearest(sample_features, train_features)
    test_to_train, _ = nearest(test_features, train_features)
    shown = torch.cat([torch.nonzero(labels == k).flatten()[:10] for k in range(10)])
    shown = shown.view(10, -1).T.flatten()  # one column for each class
    by_features, feature_index = nearest(sample_features[shown], train_features)
    by_pixels, pixel_index = nearest_pixels(samples[shown], train.images)
    rows, captions = [], []
    for first in range(0, len(shown), 10):
        part = slice(first, first + 10)
        rows += [samples[shown[part]], train.images[feature_index[part, 0]]]
        rows += [train.images[pixel_index[part, 0]]]
        captions += ["sample"] * 10
        captions += [f"features\n{d:.1f}" for d in by_features[part, 0].tolist()]
        captions += [f"pixels\n{d:.1f}" for d in by_pixels[part, 0].tolist()]
    title = "samples, and under each its nearest training image in features and in pixels"
    path = folder / "nearest.png"
    save_image_grid(torch.cat(rows), path, train.class_names, title, captions)
    values = {"samples": to_train[:, 0], "test images": test_to_train[:, 0]}
    title = "distance to the nearest training image, in the judge's features"
    save_histograms(values, folder / "nearest_distances.png", title)
    figures = {
        name.replace(" ", "_"): {
            f"percentile_{p}": round(torch.quantile(found, p / 100).item(), 4) for p in (1, 10, 50)
        }
        for name, found in values.items()
    }
    closer = (values["samples"] < torch.quantile(values["test images"], 0.01)).double().mean()
    figures["samples_nearer_than_1_percent_of_test_images"] = round(100 * closer.item(), 2)
    print(f"distance to the nearest training image, percentiles 1, 10, 50: {figures}")
    return figures


def nearest_pixels(images, pool):
    """scores.nearest with count 1 for uint8 images (n, c, h, w), in pixel values of 0 to 1."""
    found = []
    rows = images.flatten(1).double() / 255
    for start in range(0, len(pool), 5000):  # so that no float copy of the whole pool is made
        part = pool[start : start + 5000].flatten(1).double() / 255
        values, index = torch.cdist(rows, part).topk(1, largest=False)
        found.append((values, index + start))
    values, index = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    best = values.argmin(1, keepdim=True)
    return values.gather(1, best), index.gather(1, best)
