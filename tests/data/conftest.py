"""A folder of one's own images, and what is told of it."""

import pytest
from PIL import Image


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """put(path, level): a grey picture below the folder of one's own images; the folder itself.

    The current folder is an empty one: the cache goes below it.
    """
    monkeypatch.chdir(tmp_path)

    class Mine:
        folder = tmp_path / "mine"

        def put(self, path, level=0):
            path = self.folder / path
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (level, level, level)).save(path)
            return path

        def fill(self, *classes, count=40, part=""):
            for label, name in enumerate(classes):
                for number in range(count):
                    self.put(f"{part}{name}/{number}.png", 100 * label + number)

    return Mine()
