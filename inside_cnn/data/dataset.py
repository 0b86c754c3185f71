"""A labeled image dataset in memory."""

import base64
import os
from dataclasses import dataclass, replace

import numpy as np
import torch

from inside_cnn.core.errors import UserError

DATASETS = ("auto", "cifar10", "shapes", "folder")
DEFAULT_DATA_DIR = os.path.expanduser(os.environ.get("CIFAR10_DIR") or "data")
MAX_COLUMNS = 10  # of a figure with one column per class


class DataMissing(UserError):
    """The dataset is not on the disk and could not be downloaded."""


def displayed_classes(count):
    """Classes that a figure with one column per class displays: all, or ten evenly spaced ones."""
    return np.linspace(0, count - 1, min(count, MAX_COLUMNS)).round().astype(int).tolist()


def displayed_note(count, displayed=MAX_COLUMNS):
    """Addition to the title of a figure that omits classes: " (10 of 64 classes)", or ""."""
    return f" ({displayed} of {count} classes)" if displayed < count else ""


@dataclass
class Dataset:
    """Images and their labels.

    images: uint8 (n, 3, 32, 32); labels: int64 (n,); source: description of their origin; digest:
    SHA-256 of a user's own images, empty for a dataset that never changes.
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

    def select(self, rows):
        """The images of an index: a slice, a mask or indices."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def first(self, count):
        """The first `count` images; all of them for None or a larger count."""
        return self.select(slice(count))

    def hold_out(self, count):
        """(remaining images, the last `count` / classes images of each class), in their order.

        Raises UserError if count is not a multiple of the number of classes, or if it would take
        all images of a class.
        """
        num_classes = len(self.class_names)
        per_class, remainder = divmod(count, num_classes)
        if remainder:
            raise UserError(f"--hold_out {count} is not a multiple of the {num_classes} classes")
        held_out = torch.zeros(len(self), dtype=torch.bool)
        for label, name in enumerate(self.class_names):
            indices = torch.nonzero(self.labels == label)[:, 0]
            if len(indices) <= per_class:
                raise UserError(f"--hold_out {count} takes all images of the class {name}")
            held_out[indices[len(indices) - per_class :]] = True
        return self.select(~held_out), self.select(held_out)

    def columns(self, rows=10):
        """The first `rows` images of each displayed class, one column per class.

        Classes without images are omitted; the number of rows falls to what every class can fill.
        Returns the indices (rows * columns,), row by row, the names of the columns, and the
        displayed_note for the title.
        """
        present = self.labels.unique().tolist()
        displayed = [present[k] for k in displayed_classes(len(present))]
        first = [torch.nonzero(self.labels == k)[:rows, 0] for k in displayed]
        rows = min(map(len, first))
        indices = torch.stack([column[:rows] for column in first], 1).flatten()
        names = [self.class_names[k] for k in displayed]
        return indices, names, displayed_note(len(self.class_names), len(displayed))

    def metadata(self):
        """Metadata for exported weights, with the mean of the first 128 images as text.

        The mean is the start of activation maximization; `pixels.mean_image` decodes it.
        """
        mean = self.images[:128].float().mean(0).round().to(torch.uint8).cpu().numpy()
        return {
            "dataset": self.name,
            "class_names": list(self.class_names),
            "num_classes": len(self.class_names),
            "mean_image": base64.b64encode(mean.tobytes()).decode(),
        }
