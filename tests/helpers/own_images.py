"""Pictures in folders, as a user has them."""

from PIL import Image


def write_pictures(folder, images, labels, names, start=0):
    """folder/NAME/000017.png for each image, uint8 (n, 3, h, w), numbered in their order."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), start):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(folder / names[label] / f"{number:06d}.png")


def write_set(folder, train, test, names):
    """folder/train and folder/test of two Datasets, their classes named anew."""
    for part, dataset in (("train", train), ("test", test)):
        write_pictures(folder / part, dataset.images, dataset.labels, names)
