"""A picture file of any kind and size as an image of the networks' size."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from inside_cnn.core.errors import UserError

SIZE = 32
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_BYTES, MAX_UPLOAD_BYTES = 200_000_000, 10_000_000  # of a file
MAX_PIXELS = Image.MAX_IMAGE_PIXELS


def read_picture(data):
    """The bytes of a picture file -> uint8 (3, 32, 32).

    EXIF rotation is applied, transparency becomes white; gray, palettes, 12 and 16 bits, floats and
    CMYK become RGB; an animation gives its first frame. The short side is scaled with antialiasing
    and the center is cropped. A large JPEG is decoded at reduced size, at least four times the
    result.
    Raises UserError for anything but a valid picture of FORMATS with at most MAX_PIXELS.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"more than {MAX_PIXELS // 1_000_000} megapixels")
        image.draft(None, (4 * SIZE, 4 * SIZE))
        image = as_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UserError(f"the file is not a picture (of {', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow raises almost anything for a crafted file
        raise UserError(f"the picture cannot be decoded: {error or type(error).__name__}") from None
    square = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def as_rgb(image):
    """A Pillow image of any mode as RGB. Transparent pixels become white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # mostly 16 bits
        levels = np.asarray(image, dtype=np.float32)
        # Of floats in [0, 1], of 8, 12 or 16 bits.
        top = next((top for top in (1, 256, 4096) if levels.max(initial=0) <= top), 65536)
        return Image.fromarray((levels * (256 / top)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
