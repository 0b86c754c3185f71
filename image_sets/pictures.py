"""A picture file of any kind and size as an image of the networks' size."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_BYTES = 10_000_000
MAX_PIXELS = 40_000_000


def read_picture(data, size=32, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS):
    """The bytes of a picture file -> uint8 (3, size, size).

    EXIF rotation is applied, transparency becomes white; gray, palettes, 16 bits and CMYK become
    RGB; of an animation the first frame. The short side is scaled to `size`, with antialiasing, and
    the center is cropped. A large JPEG is decoded at a fraction of its size, at least four times
    `size`. Raises UserError for what is not a valid picture of FORMATS, or larger than max_bytes or
    max_pixels.
    """
    if len(data) > max_bytes:
        raise UserError(f"the file is larger than {max_bytes // 1_000_000} MB")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError
        image.draft(None, (4 * size, 4 * size))
        image = as_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UserError(f"the file is not a picture (of {', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"more than {max_pixels // 1_000_000} megapixels") from None
    except Exception as error:  # Pillow raises almost anything for a crafted file
        raise UserError(f"the picture is corrupt: {error or type(error).__name__}") from None
    square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def as_rgb(image):
    """A Pillow image of any mode as RGB. What is transparent becomes white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16 bits, mostly
        levels = np.asarray(image, dtype=np.float32)
        scale = 1 if levels.max(initial=0) <= 255 and image.mode == "F" else 256
        return Image.fromarray((levels / scale).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
