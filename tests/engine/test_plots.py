import pytest
import torch
from matplotlib.image import imread

from engine import plots
from engine.plots import BOX_COLOUR, save_charts, save_curves, save_image_grid


def test_image_grid_shows_every_pixel(tmp_path):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[0, 0] = 255  # red, then green, blue and black
    images[1, 1] = 255
    images[2, 2] = 255
    path = tmp_path / "grid.png"
    save_image_grid(images, path, columns=2, scale=2, gap=4)
    picture = imread(path)[:, :, :3]
    assert picture.shape == (8 + 2 * 68 + 4, 4 + 2 * 68, 3)
    for index, (row, column) in enumerate([(8, 4), (8, 72), (76, 4), (76, 72)]):
        block = picture[row : row + 64, column : column + 64]
        expected = [float(channel == index) for channel in range(3)]
        assert (block == torch.tensor(expected).numpy()).all()


def test_image_grid_with_all_its_texts(tmp_path):
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    save_image_grid(images, plain)
    names, captions = [f"class {i}" for i in range(10)], ["one\ntwo"] * 20
    save_image_grid(images, full, names, "title", captions)
    assert imread(full).shape[0] == imread(plain).shape[0] + 38 + 2 * 26


def test_boxes_frame_what_they_name(tmp_path):
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    path = tmp_path / "grid.png"
    save_image_grid(images, path, columns=2, scale=4, gap=4, boxes=[(2, 3, 10, 32), None])
    picture = (imread(path)[:, :, :3] * 255).round().astype(int)
    first, second = picture[8:136, 4:132], picture[8:136, 136:264]
    assert (second == 0).all()
    framed = (first == BOX_COLOUR).all(-1)
    rows, columns = framed.nonzero()
    assert (rows.min(), rows.max() + 1) == (8, 40)
    assert (columns.min(), columns.max() + 1) == (12, 128)
    assert not framed[10:38, 14:126].any()
    assert framed[8:10, 12:128].all()


def test_charts(tmp_path):
    line = ([1, 2, 3], [4.0, 5.0, 6.0], {"marker": "o"})
    chart = {"x": "layer", "y": "%", "lines": {"one": line, "two": line}}
    save_charts({"a": chart, "b": chart, "c": chart}, tmp_path / "charts.png")
    assert imread(tmp_path / "charts.png").std() > 0


def test_a_chart_with_a_height_begins_at_0(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure.axes))
    for ys in ([0.0, 0.0], [40.0, 60.0]):
        chart = {"x": "layer", "y": "%", "height": 10, "lines": {"one": ([1, 2], ys, {})}}
        save_charts({"a": chart}, tmp_path / "charts.png")
    (flat,), (high,) = drawn
    assert flat.get_ylim() == (0, 10)
    assert high.get_ylim()[0] == 0
    assert high.get_ylim()[1] > 60


def test_the_same_names_are_told_by_one_legend(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.extend(figure.axes))
    charts = {
        title: {"x": "x", "y": "y", "lines": {name: ([0, 1], [0, 1], {}) for name in names}}
        for title, names in (("1", "ab"), ("2", "ab"), ("3", "ac"), ("4", "ab"))
    }
    save_charts(charts, tmp_path / "charts.png")
    legends = [axes.get_legend() for axes in drawn]
    assert [legend is not None for legend in legends] == [True, False, True, False]
    assert [text.get_text() for text in legends[2].get_texts()] == ["a", "c"]


def test_curves(tmp_path):
    records = [{"epochs_done": e, "loss": 1 / e} | ({"acc": e} if e > 1 else {}) for e in (1, 2, 3)]
    path = tmp_path / "curves.png"
    save_curves(records, path, {"loss": {"loss": "train"}, "acc": {"acc": "a", "no": "b"}})
    assert imread(path).std() > 0
    path.unlink()
    save_curves([], path, {"loss": {"loss": "train"}})
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("automobile", "automobile"),
        ("twelve lette", "twelve lette"),
        ("golden retriever", "golden retr…"),
        ("a very long name", "a very long…"),
        ("猫猫猫猫猫猫", "猫猫猫猫猫猫"),
        ("猫猫猫猫猫猫猫", "猫猫猫猫猫…"),
    ],
)
def test_names_of_classes_are_cut_to_what_fits(name, shown):
    assert plots.shortened(name) == shown
