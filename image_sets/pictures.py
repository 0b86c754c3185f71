"""A picture file of any kind and size as an image of the networks' size."""

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from image_sets.dataset import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_BYTES = 10_000_000
MAX_PIXELS = 40_000_000


def read_picture(data, size=32, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS):
    """The bytes of a picture file -> uint8 (3, size, size).

    Turned upright by its EXIF, transparency onto white; grey, palettes, 16 bits and CMYK made RGB;
    of an animation the first frame. The short side is scaled to `size`, with antialiasing, and the
    middle cut out; a large JPEG is decoded at a fraction of its size, at least four times `size`.
    Raises DataError for what is no picture of FORMATS, damaged, or larger than max_bytes or
    max_pixels.
    """
    megapixels = f"{max_pixels // 1_000_000} megapixels"
    if len(data) > max_bytes:
        raise DataError(f"the file is larger than {max_bytes // 1_000_000} MB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise DataError(f"{image.width} x {image.height} pixels are more than {megapixels}")
            image.draft(None, (4 * size, 4 * size))
            image = as_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise DataError(f"the file is no picture (of {', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"more than {megapixels}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"the picture is damaged: {error}") from None
    square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def as_rgb(image):
    """A Pillow image of any mode as RGB, what is transparent white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16 bits, mostly
        levels = np.asarray(image, dtype=np.float32)
        scale = 1 if levels.max(initial=0) <= 255 and image.mode == "F" else 256
        return Image.fromarray((levels / scale).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
