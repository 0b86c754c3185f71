"""A picture file of any kind and size as an image of the networks' size."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from inside_cnn.core.errors import UserError

SIZE = 32
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_BYTES = 200_000_000  # of a file
MAX_PIXELS = Image.MAX_IMAGE_PIXELS


def read_levels(data, size=SIZE):
    """The bytes of a picture file -> (uint8 (3, size, size), None).

    A grayscale picture of more than 8 bits -> (its levels, float32 (size, size), the highest level
    of the whole picture), for to_8_bits.

    EXIF rotation is applied, transparency becomes white; gray, palettes and CMYK become RGB; an
    animation gives its first frame. The short side is scaled with antialiasing and the center is
    cropped. A large JPEG is decoded at reduced size, at least four times the result.
    Raises UserError for anything but a valid picture of FORMATS with at most MAX_PIXELS.
    """
    highest = None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"more than {MAX_PIXELS // 1_000_000} megapixels")
        image.draft(None, (4 * size, 4 * size))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            levels = np.asarray(image, dtype=np.float32)
            if not np.isfinite(levels).all():
                raise ValueError("a pixel is not a finite number")
            image, highest = Image.fromarray(levels), float(levels.max())
        else:
            image = as_rgb(image)
    except UnidentifiedImageError:
        raise UserError(f"the file is not a picture (of {', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow raises almost anything for a crafted file
        raise UserError(f"the picture cannot be decoded: {error or type(error).__name__}") from None
    square = np.array(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    if highest is not None:
        return torch.from_numpy(square), highest
    return torch.from_numpy(square).permute(2, 0, 1).contiguous(), None


def to_8_bits(levels, highest):
    """float32 (h, h) -> uint8 (3, h, h). highest: the highest level of all pictures of a set.

    The levels are floats in [0, 1], which may exceed 1 slightly, or integers of 8, 12 or 16 bits.
    """
    limits = {1: 1.5, 255: 255, 4095: 4095}
    top = next((top for top, limit in limits.items() if highest <= limit), 65535)
    return (levels * (255 / top)).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)


def as_rgb(image):
    """A Pillow image of 8 bits as RGB. Transparent pixels become white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
