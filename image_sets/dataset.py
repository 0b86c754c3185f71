"""A set of labelled images in memory, and what can be wrong with it."""

from dataclasses import dataclass, replace

import torch

from engine.errors import UserError
from image_sets.pixels import encode_mean_image


class DataMissing(UserError):
    """The data set is not on the disk, and could not be downloaded."""


MOST_COLUMNS = 10  # of a picture with a column for each class


def shown_classes(count):
    """The classes that a picture with columns shows: all, or ten of more, evenly chosen: a list."""
    if count <= MOST_COLUMNS:
        return list(range(count))
    return [round(i * (count - 1) / (MOST_COLUMNS - 1)) for i in range(MOST_COLUMNS)]


def words_of_shown(count, shown=MOST_COLUMNS):
    """What the title of a picture adds where it does not show all classes."""
    return f" ({shown} of {count} classes)" if shown < count else ""


def are_names(value):
    """Whether a value out of weights, which may be anything, is a list of printable names."""
    return isinstance(value, list) and all(isinstance(n, str) and n.isprintable() for n in value)


@dataclass
class Dataset:
    """Images and their labels.

    images: uint8 (n, 3, 32, 32); labels: int64 (n,); source: where they came from, in words;
    digest: by which one's own images are known again, empty for sets that never change.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    source: str
    digest: str = ""

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def first(self, count):
        """The first `count` images; None or a count past the end takes all."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def hold_out(self, count):
        """(the other images, the last `count` / classes images of each class), in their order.

        Raises UserError if count is no multiple of the number of classes, or a class has no more
        images than that.
        """
        per_class, remainder = divmod(count, len(self.class_names))
        if remainder:
            classes = len(self.class_names)
            raise UserError(f"--hold_out {count} is not a multiple of the {classes} classes")
        held_out = torch.zeros(len(self), dtype=torch.bool)
        for k, name in enumerate(self.class_names):
            own = torch.nonzero(self.labels == k)[:, 0]
            if len(own) <= per_class:
                raise UserError(f"--hold_out {count} takes all images of the class {name}")
            held_out[own[len(own) - per_class :]] = True
        masks = ~held_out, held_out
        return tuple(replace(self, images=self.images[m], labels=self.labels[m]) for m in masks)

    def columns(self, rows=10):
        """The first `rows` images of each class shown, a class in each column.

        Of the classes that have an image, the shown_classes; as many rows as every one can fill.
        Returns indices (rows * columns,), row by row, the columns' names, and what a title adds
        where they are not all: " (10 of 64 classes)".
        """
        present = self.labels.unique().tolist()
        shown = [present[k] for k in shown_classes(len(present))]
        first = [torch.nonzero(self.labels == k)[:rows, 0] for k in shown]
        rows = min(map(len, first))
        indices = torch.stack([column[:rows] for column in first], 1).flatten()
        names = [self.class_names[k] for k in shown]
        return indices, names, words_of_shown(len(self.class_names), len(shown))

    def uneven_classes(self, times=3):
        """In words, by how much the classes differ in size, where one is over `times` another."""
        sizes = self.labels.bincount(minlength=len(self.class_names)).tolist()
        pairs = list(zip(sizes, self.class_names, strict=True))
        (least, rare), (most, common) = min(pairs), max(pairs)
        if most <= times * least:
            return ""
        return f"classes differ in size, from {least} images ({rare}) to {most} ({common})"

    def facts(self):
        """What exported weights tell of the set that they were made with, as plain values.

        mean_image: of the first 128 images, where maximizations start; for `pixels.mean_image`.
        """
        names = list(self.class_names)
        return {
            "dataset": self.name,
            "class_names": names,
            "num_classes": len(names),
            "mean_image": encode_mean_image(self.images[:128]),
        }
