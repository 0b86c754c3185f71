"""Folders of pictures, as a user has them."""

import struct
import zlib

from PIL import Image

from inside_cnn.data.shapes import CLASS_NAMES, generate_shapes

# With spaces, dots, other alphabets, a sign that matplotlib parses, and more letters than fit.
SEVEN = (
    "disc",
    "a ring",
    "no. 3 (square)",
    "треугольник",
    "$star^2$",
    "a cross of many words",
    "心",
)
SIZES = ((96, 96), (300, 200), (32, 32), (20, 300), (47, 640), (2000, 1500))  # width, height
FORMATS = (
    ("png", "RGB", {}),
    ("jpg", "RGB", {"quality": 95}),
    ("webp", "RGB", {"quality": 95}),
    ("gif", "P", {}),
    ("tif", "RGB", {}),
)


def huge_png(width, height):
    """The bytes of a small PNG file that claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, pixels)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_pictures(folder, images, labels, names):
    """folder/NAME/000017.png for each image, uint8 (n, 3, h, w), numbered in their order."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(folder / names[label] / f"{number:06d}.png")


def write_set(folder, train, test, names):
    """folder/train and folder/test of two Datasets, with these class names."""
    for part, dataset in (("train", train), ("test", test)):
        write_pictures(folder / part, dataset.images, dataset.labels, names)


def write_seven_classes(folder, of_each=60, seed=0):
    """Shapes in five formats and six sizes; one an animation, one CMYK, and one corrupt."""
    images, labels = generate_shapes(len(CLASS_NAMES) * of_each, seed)
    for label, name in enumerate(SEVEN):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images[labels == label]):
            suffix, mode, options = FORMATS[number % len(FORMATS)]
            width, height = SIZES[number // 2 % len(SIZES)] if number < 12 else SIZES[number % 2]
            side = max(width, height)
            picture = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side))
            if (label, number) == (1, 1):
                picture = picture.convert("CMYK")
            elif mode == "P":
                picture = picture.quantize()
            if width != height:  # the center is what is cropped again
                picture = padded(picture, width, height)
            if (label, number) == (2, 3):
                options = {"save_all": True, "append_images": [picture.rotate(90)]}
            path = folder / name / f"no. {number}.{suffix}"
            picture.save(path, **options)
            if (label, number) == (3, 2):
                path.write_bytes(path.read_bytes()[:-40])


def padded(picture, width, height):
    """A picture of that size with a square one at its center."""
    short = min(width, height)
    square = picture.resize((short, short))
    wide = Image.new(picture.mode, (width, height))
    if picture.mode == "P":
        wide.putpalette(picture.getpalette())
    wide.paste(square, ((width - short) // 2, (height - short) // 2))
    return wide
