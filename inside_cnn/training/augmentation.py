"""Random crops, shifts, flips and color jitter for a whole batch at once, on its own device."""

from typing import NamedTuple

import torch


class Augmentation(NamedTuple):
    """One row of parameters for each image; every field (b,).

    top, left, size: the square crop, in pixels; flip: mirror it (bool); brightness, contrast,
    saturation: factors, 1 changes nothing; hue: a rotation of the color circle, 1 for a full one.
    """

    top: torch.Tensor
    left: torch.Tensor
    size: torch.Tensor
    flip: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor


def sample_augmentation(batch_size, generator):
    """Parameters of a random augmentation of 32x32 images, on the generator's device.

    The area of the crop is a share ~ U[0.7, 1], its sides are integers, its position is uniform;
    a flip has probability 1/2; color factors are ~ U[0.9, 1.1], the hue ~ U[-0.1, 0.1].
    """
    u = torch.rand(8, batch_size, generator=generator, device=generator.device)
    size = (32 * (0.7 + (1 - 0.7) * u[0]).sqrt()).round()
    top, left = (u[1:3] * (32 - size + 1)).floor()
    brightness, contrast, saturation, hue = 0.1 * (2 * u[4:] - 1)
    flip = u[3] < 0.5
    return Augmentation(top, left, size, flip, 1 + brightness, 1 + contrast, 1 + saturation, hue)


def augment(images, params):
    """Crop, resize back, flip and jitter the colors of each image with its own parameters.

    images: uint8 (b, 3, s, s) -> float32 (b, 3, s, s) in [-1, 1].
    Equal to torchvision's resized_crop (bilinear), hflip and adjust_brightness, _contrast,
    _saturation, _hue, in this order.
    """
    size = images.shape[-1]
    rows = _resize_matrix(params.top, params.size, size)
    rows = rows * (params.brightness / 255)[:, None, None]  # brightness and scale cost no pass
    columns = _resize_matrix(params.left, params.size, size)
    columns = torch.where(params.flip[:, None, None], columns.flip(1), columns)
    x = (images.float().flatten(1, 2) @ columns.mT).unflatten(1, images.shape[1:3])
    x = (rows[:, None] @ x).clamp_(max=1)
    return _jitter_colors(x, *(p.view(-1, 1, 1, 1) for p in params[5:])).mul_(2).sub_(1)


class Shift(NamedTuple):
    """One row of parameters for each image; every field int64 (b,), except for flip, a bool.

    down, right: translation of the window in pixels; flip: mirror the image; cutout_top,
    cutout_left: center of the cutout.
    """

    down: torch.Tensor
    right: torch.Tensor
    flip: torch.Tensor
    cutout_top: torch.Tensor
    cutout_left: torch.Tensor


def sample_shift(batch_size, generator, max_shift=4):
    """Shifts of 32x32 images by up to max_shift pixels, flips with probability 1/2, any cutout."""
    u = torch.rand(5, batch_size, generator=generator, device=generator.device)
    down, right = ((2 * max_shift + 1) * u[:2]).long() - max_shift
    return Shift(down, right, u[2] < 0.5, *(32 * u[3:]).long())


def move(images, params):
    """Translate each image, with reflection padding, and flip it.

    images: (b, c, s, s) of any type -> the same; differentiable.
    """
    size = images.shape[-1]
    position = torch.arange(size, device=images.device)

    def reflected(offset):  # (b,) -> (b, size): -1, -2 ... are 1, 2 ..., size, ... are size - 2 ...
        index = (position + offset[:, None]).abs()
        return (size - 1) - (size - 1 - index).abs()

    rows, columns = reflected(params.down), reflected(params.right)
    columns = torch.where(params.flip[:, None], columns.flip(1), columns)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def shift(images, params, cutout=0):
    """Translate and flip each image, and set a square of `cutout` pixels to gray (0: none).

    A cutout may extend beyond an edge.
    images: uint8 (b, 3, s, s) -> float32 (b, 3, s, s) in [-1, 1].
    Sources: He et al. 2016, Deep Residual Learning (shift and flip); DeVries and Taylor 2017,
    Improved Regularization of Convolutional Neural Networks with Cutout.
    """
    x = move(images, params).float().mul_(2 / 255).sub_(1)
    if cutout:
        position = torch.arange(images.shape[-1], device=images.device) + cutout // 2
        rows, columns = (
            (position >= center[:, None]) & (position < center[:, None] + cutout)
            for center in (params.cutout_top, params.cutout_left)
        )
        x.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
    return x


def _resize_matrix(offset, crop, size):
    """Bilinear resampling along one axis as a matrix: (b,), (b,) -> (b, size out, size in)."""
    out = torch.arange(size, device=offset.device, dtype=torch.float32)
    source = (out + 0.5) * (crop / size)[:, None] - 0.5
    source = source.clamp(min=0).minimum(crop[:, None] - 1) + offset[:, None]  # edge pixels repeat
    return (1 - (source[:, :, None] - out).abs()).clamp_(min=0)  # weight of each input pixel


def _jitter_colors(x, contrast, saturation, hue):
    """x: (b, 3, h, w) in [0, 1], changed in place; the rest (b, 1, 1, 1)."""
    mean_gray = _gray(x.mean((2, 3), keepdim=True))
    x.mul_(contrast).add_((1 - contrast) * mean_gray).clamp_(0, 1)
    gray = _gray(x)
    x.mul_(saturation).add_(gray.mul_(1 - saturation)).clamp_(0, 1)
    return _shift_hue(x, hue)


def _gray(x):
    """Luma of (b, 3, h, w), as in ITU-R BT.601: (b, 1, h, w)."""
    red, green, blue = x.split(1, dim=1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _shift_hue(x, shift):
    """Rotate the hue in HSV by `shift` (b, 1, 1, 1) in [-1/2, 1/2]; x: (b, 3, h, w) in [0, 1].

    With the hue h in [0, 6) and every channel scaled to [0, 1] between the smallest and the largest
    of the pixel, |3 - h| = 2 + red - green - blue, and h < 3 where green > blue. So the angle needs
    no case for each order of the channels. A channel is 1 within 1 of its own angle and 0 from 2
    on: 1 - clamp(distance - 1), or clamp(2 - distance), in [0, 1].
    """
    red, green, blue = x.split(1, dim=1)
    value = torch.maximum(red, green).maximum(blue)
    smallest = torch.minimum(red, green).minimum(blue)
    chroma = value - smallest
    angle = (red - green).sub_(blue).add_(smallest).div_(chroma.clamp_min(1e-12)).add_(2)
    angle = angle.copysign_(green - blue).sub_(6 * shift)  # 3 - h, rotated, in [-6, 6]
    full = torch.empty_like(x)
    torch.sub(2, angle.abs().sub_(3).abs_(), out=full[:, :1])
    torch.sub((angle - 1).abs_().sub_(3).abs_(), 1, out=full[:, 1:2])
    torch.sub((angle + 1).abs_().sub_(3).abs_(), 1, out=full[:, 2:])
    return full.clamp_(0, 1).sub_(1).mul_(chroma).add_(value)
