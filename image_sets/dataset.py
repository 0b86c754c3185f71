"""A set of labelled images in memory, and what can be wrong with it."""

from dataclasses import dataclass, replace

import torch

from image_sets.pixels import encode_mean_image


class DataError(Exception):
    """The data cannot be used; the message says why and what to do."""


class DataMissing(DataError):
    """The data are not there, and were not to be had."""


def are_names(value):
    """Whether a value out of weights, which may be anything, is a list of printable names."""
    return isinstance(value, list) and all(isinstance(n, str) and n.isprintable() for n in value)


@dataclass
class Dataset:
    """images: uint8 (n, 3, 32, 32); labels: int64 (n,); source: where they came from, in words."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    source: str

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def first(self, count):
        """The first `count` images; None or a count past the end takes all."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def one_of_each_class(self, rows=10):
        """Indices of `rows` times one image of each class, the first ones: (rows * classes,)."""
        columns = [torch.nonzero(self.labels == k)[:rows, 0] for k in range(len(self.class_names))]
        return torch.stack(columns, 1).flatten()

    def facts(self):
        """What exported weights tell of the set that they were made with, as plain values.

        mean_image: of the first 128 images, where maximizations start; for `pixels.mean_image`.
        """
        text = encode_mean_image(self.images[:128])
        return {"dataset": self.name, "class_names": list(self.class_names), "mean_image": text}
