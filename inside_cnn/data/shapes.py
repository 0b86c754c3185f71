"""The built-in image set: ten shapes, drawn by numpy from a seed, for machines without CIFAR-10.

Each image shows one bright shape on a dark ground. Its colour, place, size and angle vary, and so
do the colour, the gradient, the stripes and the noise of the ground: none of them tells the class.
A linear classifier names about half of the images; a small convolutional network learns the set in
a minute.
"""

import functools

import numpy as np
import torch

from inside_cnn.data.dataset import Dataset

SIZE = 32
_SUPERSAMPLE = 2  # shapes are drawn at 64x64 and averaged, which smooths their edges
SHAPES = 1  # spawn key of the random numbers that draw the set
_CHUNK = 512  # images drawn at a time, so that the arrays stay in the processor's cache

# Each predicate takes coordinates in units of the shape's radius, x right and y up, and says which
# points lie inside.


def _inside_star(x, y):
    # Five-fold symmetry: fold the angle into one tenth of the circle, then it is one straight edge.
    tenth = np.pi / 5
    angle = np.arctan2(x, y)
    folded = np.abs(np.remainder(angle + tenth, 2 * tenth) - tenth)
    radius = np.hypot(x, y)
    u, v = radius * np.cos(folded), radius * np.sin(folded)
    inner_x, inner_y = 0.45 * np.cos(tenth), 0.45 * np.sin(tenth)
    return (u - 1.0) * inner_y + v * (1.0 - inner_x) < 0


def _inside_heart(x, y):
    x, y = 1.25 * x, 1.2 * y + 0.1
    r = x * x + y * y - 1
    return r * r * r - x * x * y * y * y < 0


_INSIDE = {
    "disc": lambda x, y: x * x + y * y < 0.81,
    "ring": lambda x, y: (x * x + y * y < 1) & (x * x + y * y > 0.3),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.8,
    "triangle": lambda x, y: (y > -0.7) & (np.abs(x) < 0.6 * (0.95 - y)),
    "star": _inside_star,
    "cross": lambda x, y: (
        (np.minimum(np.abs(x), np.abs(y)) < 0.28) & (np.maximum(np.abs(x), np.abs(y)) < 0.95)
    ),
    "heart": _inside_heart,
    "crescent": lambda x, y: (x * x + y * y < 1) & ((x - 0.5) ** 2 + y * y > 0.64),
    "hourglass": lambda x, y: (np.abs(x) < np.abs(y) * 0.9 + 0.05) & (np.abs(y) < 0.9),
    "bars": lambda x, y: (np.abs(np.abs(y) - 0.55) < 0.27) & (np.abs(x) < 0.95),
}
CLASS_NAMES = tuple(_INSIDE)


def draw_shapes(count, seed):
    """`count` images with as many of each class as the count allows, in random order.

    Returns uint8 (count, 3, 32, 32) and int64 labels (count,), the same for the same arguments.
    seed: what np.random.default_rng takes. Raises ValueError for a negative count.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, but is {count}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASS_NAMES))
    chunks = [_draw(labels[i : i + _CHUNK], rng) for i in range(0, count, _CHUNK)]
    images = np.concatenate(chunks) if chunks else np.zeros((0, 3, SIZE, SIZE), np.uint8)
    return images, labels.astype(np.int64)


def _draw(labels, rng):
    mask = _masks(labels, rng)[:, None]
    back, front = _colours(len(labels), rng)
    images = back + _background_texture(len(labels), rng)
    images = images + mask * (front - images)
    strength = _uniform(rng, (len(labels), 1, 1, 1), 0.01, 0.06)
    images += strength * rng.standard_normal(images.shape, np.float32)
    return (images.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _uniform(rng, shape, low, high):
    return rng.uniform(low, high, shape).astype(np.float32)


def _masks(labels, rng):
    """(b, 32, 32) float32: the share of each pixel that the shape covers."""
    side = SIZE * _SUPERSAMPLE
    grid = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    count = len(labels)
    radius, angle = _uniform(rng, (count, 1, 1), 0.45, 0.8), _uniform(rng, (count, 1, 1), -0.5, 0.5)
    dx = grid - _uniform(rng, (count, 1, 1), -0.25, 0.25)
    dy = -grid[:, None] - _uniform(rng, (count, 1, 1), -0.25, 0.25)
    x = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    y = (np.cos(angle) * dy - np.sin(angle) * dx) / radius
    mask = np.empty((count, side, side), np.float32)
    for index, name in enumerate(CLASS_NAMES):
        chosen = labels == index
        mask[chosen] = _INSIDE[name](x[chosen], y[chosen])
    return mask.reshape(-1, SIZE, _SUPERSAMPLE, SIZE, _SUPERSAMPLE).mean((2, 4))


def _colours(count, rng):
    """A dark colour for the background, a bright one for the shape; two (b, 3, 1, 1) in [0, 1]."""
    shape = (count, 3, 1, 1)
    return _uniform(rng, shape, 0.05, 0.4), _uniform(rng, shape, 0.5, 1.0)


def _background_texture(count, rng):
    """A slow gradient plus stripes of random direction, width and strength; (b, 3, 32, 32)."""
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    y, one, three = x[:, None], (count, 1, 1, 1), (count, 3, 1, 1)
    gradient = _uniform(rng, three, -0.12, 0.12) * x + _uniform(rng, three, -0.12, 0.12) * y
    angle, phase = _uniform(rng, one, 0, np.pi), _uniform(rng, one, 0, 2 * np.pi)
    wave = _uniform(rng, one, 3, 12) * (np.cos(angle) * x + np.sin(angle) * y) + phase
    return gradient + _uniform(rng, one, 0, 0.12) * np.sin(wave)


@functools.cache
def load_shapes(num_train=20_000, num_test=2_000, seed=0):
    """The built-in set as (train, test); the same images for the same arguments."""
    source = f"the built-in shapes set, {num_train:,} + {num_test:,} drawn images"
    # A spawn key, since (seed, 0) and (seed, 1) are the streams of the first epochs' orders.
    seeds = (np.random.SeedSequence(seed, spawn_key=(SHAPES, part)) for part in range(2))
    drawn = map(draw_shapes, (num_train, num_test), seeds)
    return tuple(
        Dataset("shapes", torch.from_numpy(images), torch.from_numpy(labels), CLASS_NAMES, source)
        for images, labels in drawn
    )
