import pytest
from PIL import Image


@pytest.fixture
def mine(tmp_path):
    """The folder, with methods that add gray pictures of a given level."""

    class PictureFolder:
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

    return PictureFolder()
