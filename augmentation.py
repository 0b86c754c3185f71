"""Random crops, flips and colour jitter for a whole batch at once, on the device it lies on."""

from typing import NamedTuple

import torch


class Augmentation(NamedTuple):
    """One row of parameters for each image; every field (b,).

    top, left, size: the square crop, in pixels; flip: mirror it (bool); brightness, contrast,
    saturation: factors, 1 changes nothing; hue: a shift in turns of the colour circle.
    """

    top: torch.Tensor
    left: torch.Tensor
    size: torch.Tensor
    flip: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor


def sample_augmentation(batch_size, generator, min_area=0.7, jitter=0.1, image_size=32):
    """Parameters of a random augmentation, on the generator's device.

    The crop's area is a share ~ U[min_area, 1] of the image, its sides whole pixels, its place
    uniform; a flip has probability 1/2; the colour factors are ~ U[1 - jitter, 1 + jitter], the hue
    shift ~ U[-jitter, jitter].
    """
    u = torch.rand(8, batch_size, generator=generator, device=generator.device)
    side = (image_size * (min_area + (1 - min_area) * u[0]).sqrt()).round()
    top, left = (u[1:3] * (image_size - side + 1)).floor()
    colour = jitter * (2 * u[4:] - 1)
    return Augmentation(top, left, side, u[3] < 0.5, *(1 + colour[:3]), colour[3])


def augment(images, params):
    """Crop, resize back, flip and jitter the colours of each image by its own parameters.

    images: uint8 (b, 3, s, s) -> float32 (b, 3, s, s) in [-1, 1].
    Equal to torchvision's resized_crop (bilinear), hflip and adjust_brightness, _contrast,
    _saturation, _hue, in this order.
    """
    size = images.shape[-1]
    rows = _resize_matrix(params.top, params.size, size)
    columns = _resize_matrix(params.left, params.size, size)
    columns = torch.where(params.flip[:, None, None], columns.flip(1), columns)
    x = images.float().div_(255)
    x = (rows[:, None] @ x @ columns.mT[:, None]).clamp_(0, 1)
    x = _jitter_colours(x, *(p.view(-1, 1, 1, 1) for p in params[4:]))
    return x.mul_(2).sub_(1)


def _resize_matrix(offset, crop, size):
    """Bilinear resampling along one axis as a matrix: (b,), (b,) -> (b, size out, size in)."""
    out = torch.arange(size, device=offset.device, dtype=torch.float32)
    source = (out + 0.5) * (crop / size)[:, None] - 0.5
    source = source.clamp(min=0).minimum(crop[:, None] - 1) + offset[:, None]  # edge pixels repeat
    return (1 - (source[:, :, None] - out).abs()).clamp_(min=0)  # weight of each input pixel


def _jitter_colours(x, brightness, contrast, saturation, hue):
    """x: (b, 3, h, w) in [0, 1], changed in place; the rest (b, 1, 1, 1)."""
    luma = torch.tensor((0.2989, 0.587, 0.114), device=x.device).view(1, 3, 1, 1)
    x.mul_(brightness).clamp_(0, 1)
    mean_grey = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x.mul_(contrast).add_((1 - contrast) * mean_grey).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True)
    x.mul_(saturation).add_((1 - saturation) * grey).clamp_(0, 1)
    return _shift_hue(x, hue)


def _shift_hue(x, shift):
    """Turn the hue in HSV by `shift` (b, 1, 1, 1) turns; (b, 3, h, w) in [0, 1]."""
    value, chroma = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    red, green, blue = x.split(1, dim=1)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    # The hue in sixths of a turn, from the channel that is largest.
    hue = torch.where(
        red == value,
        (green - blue) / safe,
        torch.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Back to RGB: channel n is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6.
    n = torch.tensor((5.0, 3.0, 1.0), device=x.device).view(1, 3, 1, 1)
    k = torch.remainder(hue + 6 * shift + n, 6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
