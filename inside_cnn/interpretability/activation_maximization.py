"""Images that maximize a class or a feature of a discriminator, by gradient ascent.

An objective maps images (b, 3, 32, 32) in [-1, 1] to values (b,). It treats each image separately.

`ascent` is gradient ascent on the pixels. It finds fine patterns that small translations of the
image weaken. `robust_ascent` evaluates every step on another random view of the image, with
noise. It optimizes the Fourier spectrum, in which smooth and fine patterns change equally fast, and
penalizes fine patterns more and more.
Source: Olah et al. 2017, Feature Visualization.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from inside_cnn.core.progress import with_progress
from inside_cnn.layers.double_backward import input_gradient

COLORS = ((1.0, 1.0, 1.0), (0.6, 0.0, -0.6), (0.3, -0.6, 0.3))  # gray, red-blue, purple-green
HELD_OUT_VIEWS = 16  # of each image
NO_SMOOTHING = 0.25  # share of the steps, at the beginning, without total variation
PIXELS = 2**20  # of the images in one pass: 1,024 of 32x32, 20 of 224x224


def ascent(objective, images, steps=200, lr=0.1, decay=0.001, title=""):
    """Gradient ascent on the images: x += lr d objective / d x - decay x |x|, clamped to [-1, 1].

    Returns the images after the last step. With a title there is a progress bar.
    """
    for _ in with_progress(range(steps), title, len(images)):
        images = images.detach().requires_grad_()
        gradient = input_gradient(objective(images).sum(), images)
        images = images.detach()
        images = (images + lr * gradient - decay * images * images.abs()).clamp(-1, 1)
    return images


def from_spectra(spectra):
    """Images from Fourier spectra of COLORS: (b, 3, s, s / 2 + 1, 2) -> (b, 3, s, s) in [-1, 1].

    The last axis holds real and imaginary parts. Amplitudes are divided by their frequency, as
    photographs have a spectrum of 1/f.
    """
    size = spectra.shape[2]
    vertical, horizontal = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    frequency = (vertical[:, None] ** 2 + horizontal**2).sqrt().clamp_min(1 / size)
    scale = (1 / (size * frequency)).to(spectra.device)[:, :, None]
    spectrum = torch.view_as_complex((spectra * scale).contiguous())
    planes = torch.fft.irfft2(spectrum, s=(size, size), norm="ortho")
    colors = torch.tensor(COLORS, device=spectra.device)
    return torch.tanh(torch.einsum("npij,pc->ncij", planes, colors))


class Views(NamedTuple):
    """The ranges of random views; each value is uniform in [-range, range].

    translation: share of the size, along each axis; rotation: degrees; scale: share of the size;
    noise: standard deviation, of values in [-1, 1]; centers: (n, 2), x and y in [-1, 1], the center
    of rotation and scaling of image i % n; None: the middle.
    """

    translation: float = 5 / 32
    rotation: float = 15.0
    scale: float = 0.25
    noise: float = 0.08  # without it, a classifier's class appears as fine lines
    centers: torch.Tensor | None = None


VIEWS = Views()


def sample_maps(count, views, generator=None, device="cpu"):
    """Affine maps of random views, (count, 2, 3), as torch.nn.functional.affine_grid takes them."""
    u = 2 * torch.rand(4, count, generator=generator, device=device) - 1
    angle, scale = math.radians(views.rotation) * u[0], 1 + views.scale * u[1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrices = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    translations = (2 * views.translation * u[2:]).T
    if views.centers is not None:
        centers = views.centers.to(device)[torch.arange(count, device=device) % len(views.centers)]
        translations = translations + centers - (matrices @ centers[:, :, None]).squeeze(2)
    return torch.cat([matrices, translations[:, :, None]], dim=2)


def transform(images, maps):
    """Each image through its own map, with reflected edges."""
    grid = F.affine_grid(maps, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def random_view(images, views, generator=None):
    """A random view of each image, (b, 3, 32, 32)."""
    maps = sample_maps(len(images), views, generator, images.device)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return transform(images, maps) + views.noise * noise


def total_variation(images):
    """Mean absolute difference of neighboring pixels: (b, c, h, w) -> (b,)."""
    return sum(images.diff(dim=dim).abs().mean((1, 2, 3)) for dim in (2, 3))


@torch.no_grad()
def held_out(objective, images, views=VIEWS):
    """Mean of the objective over random views of each image that no ascent has used: (b,)."""
    stream = torch.Generator(images.device).manual_seed(1)
    values = [objective(random_view(images, views, stream)) for _ in range(HELD_OUT_VIEWS)]
    return torch.stack(values).mean(0)


def robust_ascent(
    objective,
    count,
    *,
    steps=256,
    smoothness=0.0,
    restarts=3,
    views=VIEWS,
    settle=0.0,
    size=32,
    device="cpu",
    title="",
):
    """Adam on the spectra, with other random views at every step.

    objective: of image i % count. restarts: images for each of the `count` objectives.
    smoothness: the weight of the total variation. It is 0 in the first quarter of the steps, since
    a feature that is not active yet would be smoothed to plain gray, then grows linearly.
    settle: the share of the steps, at the end, in which the views shrink to the image itself, so
    that the image maximizes the objective itself and not only its mean over views.
    size: side of the images.
    Returns the image of each objective's best restart, (count, 3, size, size), in [-1, 1]: by the
    value over `held_out` views or, with `settle`, of the image itself.
    """
    stream = torch.Generator(device).manual_seed(0)
    shape = (restarts * count, 3, size, size // 2 + 1, 2)
    spectra = 0.1 * torch.randn(shape, generator=stream, device=device)  # images are nearly gray
    optimizer = torch.optim.Adam([spectra.requires_grad_()], 0.05, fused=True)
    rows = count * max(1, PIXELS // (count * size**2))  # of one pass through the network
    for step in with_progress(range(steps), title, restarts * count):
        images = from_spectra(spectra)
        weight = smoothness * max(0, step / steps - NO_SMOOTHING) / (1 - NO_SMOOTHING)
        shrink = min(1.0, (steps - step) / (settle * steps)) if settle else 1.0
        ranges = Views(*(shrink * value for value in views[:4]), views.centers)
        view = random_view(images, ranges, stream)
        parts = [part.detach().requires_grad_() for part in view.split(rows)]
        gradient = torch.cat([input_gradient(objective(part).sum(), part) for part in parts])
        loss = weight * total_variation(images).sum() - (gradient * view).sum()
        (spectra.grad,) = torch.autograd.grad(loss, spectra)
        optimizer.step()
    images = from_spectra(spectra).detach()
    with torch.no_grad():
        values = objective(images) if settle else held_out(objective, images, views)
    rows = count * values.view(-1, count).argmax(0) + torch.arange(count, device=images.device)
    return images[rows]
