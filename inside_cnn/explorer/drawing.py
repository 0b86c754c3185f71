"""What the generator draws between two latents. What the second tab computes."""

from dataclasses import dataclass, field, replace

import torch

from inside_cnn.metrics import sampling

GRID = 16
LAST_NUMBER = 99  # of a class's images


@dataclass(frozen=True)
class Drawing:
    """Image `number` of class `label`, or one on the way from it to another.

    With shares, one for each class in percent, the code is that mixture in place of the class;
    way: 0 to 1 toward image `other_number` of class `other_label`, under the same seed.
    """

    seed: int = 0
    label: int = 0
    number: int = 0
    shares: tuple = field(default=())
    other_label: int = 0
    other_number: int = 1
    way: float = 0.0

    def to_text(self):
        """Every value in a line, which `from_text` reads."""
        ends = (self.seed, self.label, self.number, self.other_label, self.other_number, self.way)
        return " ".join(map(str, (*ends, *self.shares)))

    @staticmethod
    def from_text(text, classes):
        """The Drawing of a line, or None for what is none. classes: how many there are."""
        try:
            *whole, way = (float(word) for word in text.split()[:6])
            shares = tuple(float(word) for word in text.split()[6:])
            seed, label, number, other_label, other_number = map(int, whole)
        except (ValueError, OverflowError):
            return None
        fits = (
            0 <= seed < 2**31
            and max(label, other_label) < classes
            and min(label, other_label, number, other_number) >= 0
            and max(number, other_number) <= LAST_NUMBER
            and 0 <= way <= 1
            and len(shares) in (0, classes)
            and all(0 <= share <= 100 for share in shares)
        )
        return (
            Drawing(seed, label, number, shares, other_label, other_number, way) if fits else None
        )

    def latent(self, generator, classes):
        """(1, latent_dim)."""
        dim = generator.latent_dim
        latent = sampling.latent_of(self.label, self.number, dim, self.seed, classes)
        if sum(self.shares) > 0:
            latent[0, :classes] = torch.tensor(self.shares) / sum(self.shares)
        if self.way == 0:
            return latent
        other = sampling.latent_of(self.other_label, self.other_number, dim, self.seed, classes)
        return sampling.interpolate(latent, other, self.way, classes)

    def sixteen(self, along_the_way):
        """The drawings of a grid: the numbers from this one on, or the way in equal steps.

        Near the last number it is the last sixteen.
        """
        if along_the_way:
            return [replace(self, way=step / (GRID - 1)) for step in range(GRID)]
        first = min(self.number, LAST_NUMBER + 1 - GRID)
        return [replace(self, number=first + step) for step in range(GRID)]


def draw(session, drawings):
    """uint8 (n, 3, 32, 32) on the CPU."""
    classes = len(session.class_names)
    latents = [drawing.latent(session.generator, classes) for drawing in drawings]
    return sampling.generate(session.generator, torch.cat(latents))
