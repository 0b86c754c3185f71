"""Is a generator copying? How near its samples come to the training images, and to which."""

import torch

from engine.plots import save_histograms, save_image_grid
from metrics.scores import nearest


def memorization_metrics(sample_features, test_features, train_features, path):
    """How far samples, and test images, are from the nearest training image.

    All features (n, d), of the same network. Draws the histogram of the distances to `path`.
    Returns {"samples": {"percentile_1": ..., 10, 50}, "test_images": the same, and the share of
    samples, in %, that are nearer than all but 1 % of the test images}. Test images are the
    yardstick: none of them is a copy.
    """
    distances = {
        name: nearest(features, train_features)[0][:, 0]
        for name, features in (("samples", sample_features), ("test images", test_features))
    }
    save_histograms(
        distances, path, "distance to the nearest training image, in the judge's features"
    )
    metrics = {
        name.replace(" ", "_"): {
            f"percentile_{p}": round(torch.quantile(values, p / 100).item(), 4) for p in (1, 10, 50)
        }
        for name, values in distances.items()
    }
    nearer = distances["samples"] < torch.quantile(distances["test images"], 0.01)
    share = round(100 * nearer.double().mean().item(), 2)
    metrics["samples_nearer_than_1_percent_of_test_images"] = share
    return metrics


def save_nearest(samples, sample_features, train_set, train_features, path):
    """Draw samples of each class above the training images that are nearest to them.

    Nearest by features and by pixels; ten samples of a class, of few classes four. samples,
    train_set: Datasets; features: (n, d) of each, of the same network.
    """
    shown, names, some = samples.columns(rows=10 if len(samples.class_names) > 5 else 4)
    columns = len(names)
    by_features, feature_index = nearest(sample_features[shown], train_features)
    by_pixels, pixel_index = nearest_pixels(samples.images[shown], train_set.images)
    rows, captions = [], []
    for first in range(0, len(shown), columns):
        part = slice(first, first + columns)
        rows += [samples.images[shown[part]], train_set.images[feature_index[part, 0]]]
        rows += [train_set.images[pixel_index[part, 0]]]
        captions += ["sample"] * columns
        captions += [f"features\n{d:.1f}" for d in by_features[part, 0].tolist()]
        captions += [f"pixels\n{d:.1f}" for d in by_pixels[part, 0].tolist()]
    title = "samples, and under each its nearest training image in features and in pixels"
    save_image_grid(torch.cat(rows), path, names, title + some, captions)


def nearest_pixels(images, pool):
    """scores.nearest with count 1 for uint8 images (n, c, h, w), in pixel values of 0 to 1."""
    rows = images.flatten(1).double() / 255
    distances, indices = [], []
    for start in range(0, len(pool), 5000):  # so that no float copy of the whole pool is made
        part = pool[start : start + 5000].flatten(1).double() / 255
        distance, index = torch.cdist(rows, part).topk(1, largest=False)
        distances.append(distance)
        indices.append(index + start)
    distances, indices = torch.cat(distances, 1), torch.cat(indices, 1)
    best = distances.argmin(1, keepdim=True)
    return distances.gather(1, best), indices.gather(1, best)
