"""Images that maximize a class or a feature of a discriminator, by gradient ascent.

An objective is what is maximized: images (b, 3, 32, 32) in [-1, 1] -> values (b,), each image's
value by itself.

`maximize` is gradient ascent on the pixels. It finds patterns that activate a network and mean
nothing: a shift by one pixel removes the effect. In `maximize_robustly` every step sees the
image through another random view, with other noise; the image is held as a Fourier spectrum, in
which a step changes smooth patterns as easily as fine ones, and fine ones are held down more and
more.
Source: Olah et al. 2017, Feature Visualization.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from inside_cnn.layers.double_backward import input_gradient

SIZE = 32
FREE = 0.25  # share of the steps without total variation

# ------------------------------------------------------------------------------ objectives


def class_objective(network, classes=None):
    """Image i's value is its logit of a class.

    classes: int64 (n,), image i stands for classes[i % n]; None: for class i % num_classes.
    """

    return lambda images: _each_its_own(network.logits(images), classes)


def feature_objective(network, layer, features=None):
    """Image i's value is a feature's largest activation over its map; no later layer runs.

    features: int64 (n,), image i stands for features[i % n]; None: for feature i % width.
    """

    def values(images):
        pooled = network.pool(network.activations(images, layer)).float()
        return _each_its_own(pooled, features)

    return values


def unit_objective(network, layer, features, positions):
    """Image i's value is one unit of the layer: a feature at one position of its map.

    LayerNorm scales each position by itself, so a feature is another unit at each position.
    features: int64 (n,); positions: int64 (n, 2), row and column; image i stands for i % n.
    """

    def values(images):
        maps = network.activations(images, layer)
        index = torch.arange(len(images), device=images.device) % len(features)
        rows, columns = positions.to(images.device)[index].unbind(1)
        image = torch.arange(len(images), device=images.device)
        return maps[image, features.to(images.device)[index], rows, columns].float()

    return values


def _each_its_own(table, columns):
    """Row i's value in columns[i % n], without columns in i % width: (b, width) -> (b,)."""
    index = torch.arange(len(table), device=table.device)
    if columns is None:
        index = index % table.shape[1]
    else:
        index = columns.to(table.device)[index % len(columns)]
    return table.gather(1, index[:, None]).squeeze(1)


# ------------------------------------------------------------------------------ plain ascent


def maximize(objective, images, steps=200, lr=0.1, decay=0.001, progress=None):
    """The last of `ascent`'s images."""
    return last_of(ascent(objective, images, steps, lr, decay), progress)


def ascent(objective, images, steps=200, lr=0.1, decay=0.001):
    """Gradient ascent on the images: x += lr d objective / d x - decay x |x|, clamped to [-1, 1].

    Yields the images before each step, then those after the last. Those given are left as they are.
    """
    for _ in range(steps):
        yield images.detach()
        images = images.detach().requires_grad_()
        gradient = input_gradient(objective(images).sum(), images)
        images = images.detach()
        images = (images + lr * gradient - decay * images * images.abs()).clamp(-1, 1)
    yield images


def last_of(steps, progress=None):
    """The last images of an ascent."""
    latest = next(steps)
    for images in steps:
        latest = images
        if progress is not None:
            progress.step()
    return latest


# ------------------------------------------------------------------------------ robust ascent


class Spectra(torch.nn.Module):
    """A batch of images held as Fourier spectra of a brightness and two colour differences.

    Called without arguments: (count, 3, SIZE, SIZE) in [-1, 1]. `generator` draws the start, which
    is nearly grey. An amplitude is divided by its frequency, as those of photographs fall.
    """

    COLOURS = ((1.0, 1.0, 1.0), (0.6, 0.0, -0.6), (0.3, -0.6, 0.3))  # grey, red-blue, purple-green

    def __init__(self, count, generator=None, device="cpu", spread=0.1):
        super().__init__()
        shape = (count, 3, SIZE, SIZE // 2 + 1, 2)
        start = torch.randn(shape, generator=generator, device=device)
        self.spectrum = torch.nn.Parameter(spread * start)
        down, right = torch.fft.fftfreq(SIZE), torch.fft.rfftfreq(SIZE)
        frequency = (down[:, None] ** 2 + right**2).sqrt().clamp_min(1 / SIZE)
        self.register_buffer("fall", (1 / (SIZE * frequency)).to(device)[:, :, None])
        self.register_buffer("colours", torch.tensor(self.COLOURS, device=device))

    def forward(self):
        spectrum = torch.view_as_complex((self.spectrum * self.fall).contiguous())
        planes = torch.fft.irfft2(spectrum, s=(SIZE, SIZE), norm="ortho")
        return torch.tanh(torch.einsum("npij,pc->ncij", planes, self.colours))


class Views(NamedTuple):
    """How far random views reach, each way.

    shift: in pixels, along each axis; turn: in degrees; zoom: a share of the size; noise: standard
    deviation of a normal disturbance of every value in [-1, 1]; centers: (n, 2), x and y in
    [-1, 1], where image i % n is turned and zoomed about, None for the middle.
    """

    shift: float = 5.0
    turn: float = 15.0
    zoom: float = 0.25
    noise: float = 0.08  # without it, a classifier's class shows as fine lines, not as a thing
    centers: torch.Tensor | None = None


VIEWS = Views()


def sample_maps(count, views, generator=None, device="cpu"):
    """Affine maps of random views, (count, 2, 3): shift, angle and scale are uniform."""
    u = 2 * torch.rand(4, count, generator=generator, device=device) - 1
    angle, scale = math.radians(views.turn) * u[0], 1 + views.zoom * u[1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    right, down = 2 * views.shift / SIZE * u[2:]
    matrices = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    translations = torch.stack([right, down], 1)
    if views.centers is not None:
        centers = views.centers.to(device)[torch.arange(count, device=device) % len(views.centers)]
        translations = translations + centers - (matrices @ centers[:, :, None]).squeeze(2)
    return torch.cat([matrices, translations[:, :, None]], dim=2)


def transform(images, maps):
    """Each image through its own map; what comes in at an edge is the image mirrored there."""
    grid = F.affine_grid(maps, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def random_view(images, views, generator=None):
    """Each image, (b, 3, 32, 32), through a random view of its own."""
    maps = sample_maps(len(images), views, generator, images.device)
    disturbance = torch.randn(images.shape, generator=generator, device=images.device)
    return transform(images, maps) + views.noise * disturbance


def total_variation(images):
    """Mean absolute difference of neighbouring pixels, of each image: (b, c, h, w) -> (b,)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    right = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))
    return down + right


@torch.no_grad()
def held_out(objective, images, views=VIEWS, seed=1, count=16):
    """Mean of the objective over `count` views of each image that no ascent has seen: (b,)."""
    stream = torch.Generator(images.device).manual_seed(seed)
    values = [objective(random_view(images, views, stream)) for _ in range(count)]
    return torch.stack(values).mean(0)


def smoothness_at(step, steps, smoothness):
    """The weight of the total variation at a step, 0 to steps - 1.

    Nothing in the first quarter: a feature that does not answer yet would be smoothed to plain
    grey. Then it grows in a straight line toward `smoothness`.
    """
    return smoothness * max(0, step / steps - FREE) / (1 - FREE)


def views_at(step, steps, views, settle):
    """The views at a step, 0 to steps - 1: in the last `settle` of the steps they shrink to none.

    Then the image activates its objective as it is, not only on average over its views.
    """
    scale = min(1.0, (steps - step) / (settle * steps)) if settle else 1.0
    reach = {key: scale * getattr(views, key) for key in ("shift", "turn", "zoom", "noise")}
    return views._replace(**reach)


def maximize_robustly(objective, count, *, views=VIEWS, settle=0.0, progress=None, **options):
    """Of each thing's last images of `robust_ascent`, the `best_of` them.

    options: those of robust_ascent. Returns (count, 3, 32, 32) in [-1, 1].
    """
    way = robust_ascent(objective, count, views=views, settle=settle, **options)
    return best_of(objective, last_of(way, progress), count, None if settle else views)


def robust_ascent(
    objective,
    count,
    *,
    steps=256,
    lr=0.05,
    smoothness=0.0,
    restarts=3,
    views=VIEWS,
    settle=0.0,
    seed=0,
    device="cpu",
):
    """Adam on the spectra, through another random view at every step.

    objective: image i's value is of thing i % count. smoothness: weight of the total variation, as
    in smoothness_at; settle: as in views_at. Of each thing there are `restarts` images.
    Yields images (restarts * count, 3, 32, 32) in [-1, 1] before each step, then those after the
    last.
    """
    stream = torch.Generator(device).manual_seed(seed)
    spectra = Spectra(restarts * count, stream, device)
    optimizer = torch.optim.Adam(spectra.parameters(), lr, fused=True)
    for step in range(steps):
        images = spectra()
        yield images.detach()
        weight = smoothness_at(step, steps, smoothness)
        seen = random_view(images, views_at(step, steps, views, settle), stream)
        loss = -objective(seen) + weight * total_variation(images)
        (spectra.spectrum.grad,) = torch.autograd.grad(loss.sum(), spectra.spectrum)
        optimizer.step()
    yield spectra().detach()


def best_of(objective, images, count, views=VIEWS):
    """Of each thing's images, (n * count, 3, 32, 32), the one with the highest value.

    On average over `held_out` views, or, with views None, of the image itself.
    """
    with torch.no_grad():
        values = objective(images) if views is None else held_out(objective, images, views)
    best = values.view(-1, count).argmax(0)
    things = torch.arange(count, device=images.device)
    return images.view(-1, count, *images.shape[1:])[best, things]
