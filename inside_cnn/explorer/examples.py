"""The images that excite a class or a feature most, as pictures with what the unit sees framed."""

from pathlib import Path

from inside_cnn.explorer import pieces
from inside_cnn.interpretability.receptive_field import box
from inside_cnn.interpretability.top_images import cached, digest_of, top_images

BATCH = 500  # images at once


class Examples:
    """Of a Session's images. What is found in a pass over them is kept in the folder `cache`."""

    def __init__(self, session, cache):
        self.session, self.cache, self._found = session, Path(cache), {}

    def top(self, network, tell):
        """The TopImages of a network. tell: called with (done, total) on the way."""
        if network.name not in self._found:
            images, precision = self.session.images.images, self.session.precision
            name = f"{network.digest[:16]}_{digest_of(images)[:16]}_{precision}.safetensors"
            batches = reporting(images.split(BATCH), tell)
            self._found[network.name] = cached(
                self.cache / name, lambda: top_images(network.at(precision), batches)
            )
        return self._found[network.name]

    def figures(self, network, goal, tell):
        """HTML: the images that excite a goal most."""
        top, images, items = self.top(network, tell), self.session.images, []
        if goal.layer is None:
            chosen = top.of_classes[:, goal.number]
            frames = [None] * len(chosen)
        else:
            of_feature = (goal.layer - 1, slice(None), goal.number)
            chosen = top.images[of_feature]
            units = zip(
                top.rows[of_feature].tolist(), top.columns[of_feature].tolist(), strict=True
            )
            frames = [box(goal.layer, *unit) for unit in units]
        for index, frame in zip(chosen.tolist(), frames, strict=True):
            label = images.class_names[int(images.labels[index])]
            items.append((images.images[index].cpu(), label, "image.png", frame))
        return pieces.figures(items, small=True)


def reporting(batches, tell):
    """The batches; calls tell((done, total)) after each."""
    for done, batch in enumerate(batches, start=1):
        yield batch
        tell((done, len(batches)))
