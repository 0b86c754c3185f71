"""A set of labelled images in memory, and what can be wrong with it."""

import base64
from dataclasses import dataclass, replace

import torch


class DataError(Exception):
    """The data cannot be used; the message says why and what to do."""


class DataMissing(DataError):
    """The data are not there, and were not to be had."""


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

    def facts(self):
        """What exported weights tell of the set that they were made with, as plain values.

        mean_image: of the first 128 images, where maximisations start; see `mean_image`.
        """
        mean = self.images[:128].float().mean(0).round().to(torch.uint8)
        text = base64.b64encode(mean.cpu().numpy().tobytes()).decode()
        return {"dataset": self.name, "class_names": list(self.class_names), "mean_image": text}
