import io

import numpy as np
import pytest
import torch
from PIL import Image

from inside_cnn.core.errors import UserError
from inside_cnn.data.decoding import read_levels, to_8_bits
from own_images import huge_png


def read_picture(data):
    pixels, highest = read_levels(data)
    pixels = pixels if highest is None else to_8_bits(pixels, highest)
    return torch.tensor(pixels).expand(3, -1, -1)


def written(image, kind="PNG", **options):
    """The bytes of a Pillow image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def plain(mode, color, size=(40, 40)):
    return Image.new(mode, size, color)


def test_32x32_picture_is_unchanged():
    pixels = noise(32, 32, 3)
    image = read_picture(written(Image.fromarray(pixels)))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (plain("L", 100), (100, 100, 100)),
        (plain("P", 0), (0, 0, 0)),
        (plain("1", 1), (255, 255, 255)),
        (plain("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        (plain("RGBA", (255, 0, 0, 0)), (255, 255, 255)),  # transparent: white
        (plain("RGBA", (0, 0, 0, 51)), (204, 204, 204)),
        (plain("LA", (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((40, 40), 100 * 256, np.uint16)), (100, 100, 100)),
        (Image.fromarray(np.full((40, 40), 100 * 16, np.uint16)), (100, 100, 100)),  # 12 bits
        (Image.fromarray(np.full((40, 40), 100, np.uint16)), (100, 100, 100)),
        (Image.fromarray(np.full((40, 40), 0.5, np.float32)), (128, 128, 128)),
        (Image.fromarray(np.full((40, 40), 100, np.float32)), (100, 100, 100)),
        (plain("RGB", (10, 20, 30), (1, 1)), (10, 20, 30)),
        (plain("RGB", (10, 20, 30), (300, 20)), (10, 20, 30)),
    ],
)
def test_every_mode_and_size_becomes_32x32_rgb(image, color):
    kind = "TIFF" if image.mode in ("CMYK", "F") else "PNG"
    read = read_picture(written(image, kind))
    assert read.shape == (3, 32, 32)
    assert read.flatten(1).unique(dim=1).flatten().tolist() == list(color)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_large_pictures_of_every_format(kind):
    """A JPEG is decoded at reduced size."""
    read = read_picture(written(plain("RGB", (200, 100, 50), (2000, 1500)), kind))
    assert read.shape == (3, 32, 32)
    error = read.permute(1, 2, 0).float() - torch.tensor([200.0, 100, 50])
    assert error.abs().max() < 4


def test_center_crop():
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 200
    assert read_picture(written(Image.fromarray(pixels))).unique().tolist() == [200]


def test_exif_rotation_is_applied():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    read = read_picture(written(Image.fromarray(pixels), exif=exif))
    assert read[:, :16].max() == 0
    assert read[:, 16:].min() == 255


def test_first_frame_of_an_animation():
    frames = [plain("RGB", color) for color in ("red", "lime", "blue")]
    data = written(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(data).flatten(1)[:, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a picture"),
        (b"plain text", "not a picture"),
        (written(Image.fromarray(noise(64, 64, 3)))[:3000], "cannot be decoded"),
        (written(Image.fromarray(noise(64, 64, 3)), "JPEG")[:3000], "cannot be decoded"),
        (huge_png(20_000, 20_000), "exceeds limit"),
        (written(Image.fromarray(np.full((9, 9), np.inf, np.float32)), "TIFF"), "finite"),
    ],
    ids=["empty", "text", "truncated PNG", "truncated JPEG", "bomb", "infinite"],
)
def test_invalid_pictures(data, message):
    with pytest.raises(UserError, match=message):
        read_picture(data)


def test_pictures_of_a_set_are_scaled_alike():
    """12 bits: the dark picture is not as bright as the other one."""
    levels = {1000: None, 4000: None}
    for level in levels:
        picture = written(Image.fromarray(np.full((40, 40), level, np.uint16)))
        levels[level], highest = read_levels(picture)
        assert highest == level
    dark, bright = (np.unique(to_8_bits(pixels, highest=4000)) for pixels in levels.values())
    assert (dark, bright) == (62, 249)
