import torch
from matplotlib.image import imread

import figures


def test_image_grid_shows_every_pixel(tmp_path):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[0, 0] = 255  # red, then green, blue and black
    images[1, 1] = 255
    images[2, 2] = 255
    path = tmp_path / "grid.png"
    figures.save_image_grid(images, path, columns=2, scale=2, gap=4)
    picture = imread(path)[:, :, :3]
    assert picture.shape == (8 + 2 * 68 + 4, 4 + 2 * 68, 3)
    for index, (row, column) in enumerate([(8, 4), (8, 72), (76, 4), (76, 72)]):
        block = picture[row : row + 64, column : column + 64]
        expected = [float(channel == index) for channel in range(3)]
        assert (block == torch.tensor(expected).numpy()).all()


def test_image_grid_with_all_its_texts(tmp_path):
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    figures.save_image_grid(images, plain)
    names, captions = [f"class {i}" for i in range(10)], ["one\ntwo"] * 20
    figures.save_image_grid(images, full, names, "title", captions)
    assert imread(full).shape[0] == imread(plain).shape[0] + 38 + 2 * 26


def test_curves(tmp_path):
    records = [{"epochs_done": e, "loss": 1 / e} | ({"acc": e} if e > 1 else {}) for e in (1, 2, 3)]
    path = tmp_path / "curves.png"
    figures.save_curves(records, path, {"loss": {"loss": "train"}, "acc": {"acc": "a", "no": "b"}})
    assert imread(path).std() > 0
    path.unlink()
    figures.save_curves([], path, {"loss": {"loss": "train"}})
    assert not path.exists()
